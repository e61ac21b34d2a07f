// PFSserver is one server of a cell.
//
//	PFSserver ID [ROOT] [start | restart | autonomic [SOURCE] | found]
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/urfave/cli/v2"

	"github.com/paxos-iscsi/paxos-iscsi/pss/agreement"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/daemon"
	"github.com/paxos-iscsi/paxos-iscsi/pss/metrics"
	"github.com/paxos-iscsi/paxos-iscsi/pss/release"
	"github.com/paxos-iscsi/paxos-iscsi/pss/replica"
)

// Exit statuses.
const (
	exitFailed = 1
	exitUsage  = 2
)

func main() { os.Exit(run(os.Args, os.Stderr)) }

func run(args []string, stderr io.Writer) int {
	status := 0
	app := &cli.App{
		Name:            "PFSserver",
		Usage:           "one server of a Paxos Storage Service cell",
		UsageText:       usage,
		Version:         release.Version,
		HideHelpCommand: true,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "conf", Usage: "read the cell's servers from `FILE` (else $PSS_CONF, else " + cell.DefaultFile + ")"},
			&cli.BoolFlag{Name: "foreground", Usage: "stay in the foreground and log to standard error"},
			&cli.BoolFlag{Name: "debug", Usage: "log every detail, and inject the faults that PSSAdmin --debug asks for"},
			&cli.StringFlag{Name: "pid-file", Usage: "write the process's number to `FILE` while the server is up"},
			&cli.StringFlag{Name: "metrics", Usage: "show metrics at `ADDRESS`, or off (default: 127.0.0.1:4020+ID)"},
			&cli.BoolFlag{Name: "local", Usage: "print id and root of the servers on this machine, and end"},
			&cli.BoolFlag{Name: "root", Usage: "print the root of server ID, and end"},
			&cli.BoolFlag{Name: "yes", Usage: "found: don't ask"},
			&cli.DurationFlag{Name: "heartbeat", Value: lanHeartbeat, Usage: "time between the master's heartbeats; the same on all servers"},
			&cli.Int64Flag{Name: "catch-up-rate", Value: replica.DefaultCatchUpRate >> 20, Usage: "`MIB` a second that this server takes from another at the most when it lags"},
			&cli.Int64Flag{Name: "catch-up-floor", Value: replica.DefaultCatchUpFloor >> 20, Usage: "`MIB` a second that it gives to one that lags at least, however busy clients keep it"},
			&cli.DurationFlag{Name: "election", Value: lanElection, Usage: "silence of the master before another is elected; the same on all servers"},
		},
		Writer:       os.Stdout,
		ErrWriter:    stderr,
		OnUsageError: func(_ *cli.Context, err error, _ bool) error { return usageError{err} },
		Action:       serve,
		// The exit status is ours to choose.
		ExitErrHandler: func(*cli.Context, error) {},
	}
	if err := app.Run(args); err != nil {
		fmt.Fprintln(stderr, "PFSserver:", err)
		status = exitFailed
		var usage usageError
		if errors.As(err, &usage) {
			status = exitUsage
		}
	}
	return status
}

// usageError is a mistake on the command line.
type usageError struct{ error }

// settings is what the command line asks for.
type settings struct {
	conf       *cell.Config
	server     cell.Server
	root       string
	mode       mode
	source     *cell.ID // of autonomic, if it was named
	timing     agreement.Timing
	rate       int64 // of catching up, bytes a second
	floor      int64 // the same
	yes        bool
	pidFile    string // absolute; empty for none
	metrics    string // address, or metrics.Off
	foreground bool
	level      slog.Level
}

func parse(c *cli.Context) (settings, error) {
	var s settings
	if c.NArg() < 1 {
		return s, usageError{errors.New("no ID: want " + usage)}
	}
	id, err := cell.ParseID(c.Args().Get(0))
	if err != nil {
		return s, usageError{err}
	}
	if s.conf, err = cell.Load(cell.File(c.String("conf"))); err != nil {
		return s, err
	}
	var ok bool
	if s.server, ok = s.conf.Server(id); !ok {
		return s, fmt.Errorf("%s has no record of server %d", s.conf.File, id)
	}
	s.root = s.server.Root()
	if err := s.parseMode(c.Args().Slice()[1:]); err != nil {
		return s, err
	}
	if s.timing, err = timingOf(c.Duration("heartbeat"), c.Duration("election")); err != nil {
		return s, usageError{err}
	}
	if s.rate, err = mebibytes(c, "catch-up-rate"); err != nil {
		return s, err
	}
	if s.floor, err = mebibytes(c, "catch-up-floor"); err != nil {
		return s, err
	}
	s.yes = c.Bool("yes")
	if s.pidFile = c.String("pid-file"); s.pidFile != "" {
		if s.pidFile, err = filepath.Abs(s.pidFile); err != nil {
			return s, err
		}
	}
	s.metrics = cmp.Or(c.String("metrics"), metricsAddress(id))
	if err := metrics.CheckAddress(s.metrics); err != nil {
		return s, usageError{err}
	}
	s.foreground = c.Bool("foreground")
	if c.Bool("debug") {
		s.level = slog.LevelDebug
	}
	return s, nil
}

// maxMebibytes is the highest rate that can be asked for, in MiB a second.
const maxMebibytes = 1 << 20

// mebibytes reads a rate in MiB a second, and returns bytes a second.
func mebibytes(c *cli.Context, name string) (int64, error) {
	n := c.Int64(name)
	if n < 1 || n > maxMebibytes {
		return 0, usageError{fmt.Errorf("--%s %d: 1 to %d MiB a second", name, n, maxMebibytes)}
	}
	return n << 20, nil
}

func serve(c *cli.Context) error {
	if c.Bool("local") || c.Bool("root") {
		return tell(c)
	}
	news := daemon.TakeNews()
	s, err := parse(c)
	if err != nil {
		news.Fail(err)
		return err
	}
	if s.mode == modeFound {
		return found(s, os.Stdin, c.App.ErrWriter)
	}
	if !s.foreground && news == nil {
		return daemon.Start(os.Args, "") // in this folder: names of files in the arguments may be relative to it
	}
	logs := newLogs(s.server.ID, s.foreground, s.level)
	defer logs.close()
	if err = operate(s, logs.logger, news); errors.Is(err, errStopped) {
		err = nil
	}
	if news != nil && err != nil {
		logs.logger.Error("server ended", "error", err) // nobody reads this process's standard error
		news.Fail(err)                                  // if it isn't up yet, the foreground half tells
	}
	return err
}

// tell answers a script.
func tell(c *cli.Context) error {
	conf, err := cell.Load(cell.File(c.String("conf")))
	if err != nil {
		return err
	}
	if c.Bool("local") {
		return printLocal(conf, c.App.Writer, c.App.ErrWriter)
	}
	if c.NArg() != 1 {
		return usageError{errors.New("--root wants an ID")}
	}
	return printRoot(conf, c.Args().First(), c.App.Writer)
}

// operate runs the server until a signal or a failure ends it.
func operate(s settings, logger *slog.Logger, news *daemon.News) error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(signals)
	// Only the last folder is made: that the path is there shows that its file system is mounted (M15).
	if err := os.Mkdir(s.root, 0o750); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := prepare(s, logger); err != nil {
		return err
	}
	life := startLife(logger)
	defer life.end()
	said := ""
	for {
		again, err := live(s, logger, life, news, signals)
		if !again {
			return err
		}
		if said != err.Error() {
			said = err.Error()
			logger.Error("the server ended, and waits to come back", "because", err)
		}
		if err := comeBack(s, logger, life, news, signals, err); err != nil {
			return err
		}
		news = nil // who started it knows that it is there
	}
}

// errStopped ends a server that waits.
var errStopped = errors.New("stopped")

// comeBack waits until the server can be run again after it ended with because. Either its disk had no room, and has some;
// or its place is given up: the cell is better off with a new member, fed with the difference, as soon as it can spare
// the root.
func comeBack(s settings, logger *slog.Logger, life *life, news *daemon.News, signals <-chan os.Signal, because error) error {
	wait := func(ctx context.Context) error { return replica.Heal(ctx, s.options(logger), because) }
	if replica.NoRoom(because) {
		life.waits("waits for room on its disk")
		wait = func(ctx context.Context) error { return replica.AwaitRoom(ctx, s.options(logger)) }
	} else {
		life.waits("waits until the cell can spare it, to take its state from the others")
	}
	// The others may be started after this one, by somebody who waits for it.
	if err := news.Ready(); err != nil {
		logger.Warn("who started the server does not hear of it", "error", err)
	}
	daemon.Notify(logger, sd.SdNotifyReady)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- wait(ctx) }()
	select {
	case err := <-done:
		return err
	case sig := <-signals:
		logger.Info("server stops", "signal", sig.String())
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
		return errStopped
	}
}

// options is what the server is opened with.
func (s *settings) options(logger *slog.Logger) replica.Options {
	return replica.Options{Cell: s.conf, ID: s.server.ID, Root: s.root, Source: s.source, Timing: s.timing, Logger: logger,
		CatchUpRate: s.rate, CatchUpFloor: s.floor, Inject: s.level == slog.LevelDebug}
}

// live runs the server once. Again says that it can come back from what it ended with.
func live(s settings, logger *slog.Logger, life *life, news *daemon.News, signals <-chan os.Signal) (again bool, err error) {
	r, err := replica.Open(s.options(logger))
	if err != nil {
		return canComeBack(err), err
	}
	companions, err := accompany(s, r, logger)
	if err != nil {
		return false, errors.Join(err, r.Close())
	}
	defer companions.close()
	logger.Info("server runs", "id", s.server.ID, "root", s.root, "version", release.Version)
	if err := news.Ready(); err != nil {
		logger.Warn("who started the server does not hear of it", "error", err)
	}
	daemon.Notify(logger, sd.SdNotifyReady)
	life.serves(r)
	defer life.waits("ends")
	select {
	case sig := <-signals:
		logger.Info("server stops", "signal", sig.String())
		daemon.Notify(logger, sd.SdNotifyStopping)
		return false, r.Shutdown()
	case <-r.Done():
		err := r.Close()
		return canComeBack(err), err
	}
}

// canComeBack says whether there is something to be waited for after the server ended with err: see comeBack.
func canComeBack(err error) bool { return replica.Heals(err) || replica.NoRoom(err) }

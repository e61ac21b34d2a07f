// PFSserver is one server of a cell.
//
//	PFSserver ID [ROOT]
package main

import (
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
		UsageText:       "PFSserver [--conf FILE] [--foreground] ID [ROOT]",
		Version:         release.Version,
		HideHelpCommand: true,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "conf", Usage: "read the cell's servers from `FILE` (else $PSS_CONF, else " + cell.DefaultFile + ")"},
			&cli.BoolFlag{Name: "foreground", Usage: "stay in the foreground and log to standard error"},
			&cli.BoolFlag{Name: "debug", Usage: "log every detail"},
		},
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
	foreground bool
	level      slog.Level
}

func parse(c *cli.Context) (settings, error) {
	var s settings
	if n := c.NArg(); n < 1 || n > 2 {
		return s, usageError{fmt.Errorf("%d arguments: want ID [ROOT]", n)}
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
	if c.NArg() == 2 {
		if s.root, err = filepath.Abs(c.Args().Get(1)); err != nil {
			return s, err
		}
	}
	s.foreground = c.Bool("foreground")
	if c.Bool("debug") {
		s.level = slog.LevelDebug
	}
	return s, nil
}

func serve(c *cli.Context) error {
	news := daemon.TakeNews()
	s, err := parse(c)
	if err != nil {
		news.Fail(err)
		return err
	}
	if !s.foreground && news == nil {
		return daemon.Start(os.Args, "") // in this folder: names of files in the arguments may be relative to it
	}
	logs := newLogs(s.server.ID, s.foreground, s.level)
	defer logs.close()
	err = operate(s, logs.logger, news)
	if news != nil && err != nil {
		logs.logger.Error("server ended", "error", err) // nobody reads this process's standard error
		news.Fail(err)                                  // if it isn't up yet, the foreground half tells
	}
	return err
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
	r, err := replica.Open(replica.Options{Cell: s.conf, ID: s.server.ID, Root: s.root,
		Timing: agreement.LAN, Logger: logger})
	if err != nil {
		return err
	}
	logger.Info("server runs", "id", s.server.ID, "root", s.root, "version", release.Version)
	if err := news.Ready(); err != nil {
		logger.Warn("who started the server does not hear of it", "error", err)
	}
	if _, err := sd.SdNotify(false, sd.SdNotifyReady); err != nil {
		logger.Warn("systemd", "error", err)
	}
	select {
	case sig := <-signals:
		logger.Info("server stops", "signal", sig.String())
		_, _ = sd.SdNotify(false, sd.SdNotifyStopping)
		return r.Shutdown()
	case <-r.Done():
		return r.Close()
	}
}

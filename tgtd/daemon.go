package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"

	"github.com/coreos/go-systemd/v22/activation"
	sd "github.com/coreos/go-systemd/v22/daemon"

	"github.com/paxos-iscsi/paxos-iscsi/pss/daemon"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/mgmt"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/mgmt/admin"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/target"
)

// maxThreads bounds what -t asks for: a store has no use for more.
const maxThreads = 1024

// run is the daemon from its start to its end; it returns the exit status. Complaints from before the log is
// there go to early. news is where a process waits that put the daemon into the background.
func run(o options, early io.Writer, news *daemon.News) int {
	path, err := mgmt.SocketPath(os.LookupEnv, o.controlPort)
	if err != nil {
		return refuse(early, "managment path too long: "+path)
	}
	log := newLogger(logSink(o, early), o.debug)
	defer log.close()
	defer ignoreSignals(log.Logger)()
	d := &program{options: o, log: log, model: newModel(o, log, inherited(log.Logger))}
	defer d.closeModel()
	return d.serve(path, early, news)
}

// refuse writes why the daemon can't start, in the form that tgt's users know: before its log is there, the program
// has no name and the function is the one that opens the management socket.
func refuse(early io.Writer, why string) int {
	fmt.Fprintf(early, "(null): ipc_init(0) %s\n", why)
	return 1
}

// ignoreSignals takes SIGTERM and SIGPIPE in and pays no attention to them; the returned function ends that. SIGINT
// and SIGHUP keep their default effect.
func ignoreSignals(log *slog.Logger) (stop func()) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM, syscall.SIGPIPE)
	var wg sync.WaitGroup
	wg.Go(func() {
		for s := range c {
			log.Debug("signal ignored; `tgtadm --op delete --mode sys` ends the daemon", "signal", s)
		}
	})
	return func() {
		signal.Stop(c)
		close(c)
		wg.Wait()
	}
}

// inherited are the listening sockets that systemd hands over.
func inherited(log *slog.Logger) []net.Listener {
	all, err := activation.Listeners()
	if err != nil {
		log.Error("sockets of systemd can't be used", "err", err)
	}
	var listeners []net.Listener
	for i, l := range all {
		if l == nil {
			log.Error("a socket of systemd does not listen and is not used", "number", i)
			continue
		}
		listeners = append(listeners, l)
	}
	return listeners
}

// newModel makes the model with its transport and its stores. Nothing is opened yet.
func newModel(o options, log *logger, listeners []net.Listener) *target.Model {
	if o.threads > maxThreads {
		log.Warn("fewer I/O threads than asked for", "threads", maxThreads)
	}
	for _, word := range o.iscsi.unknown {
		log.Warn("--iscsi does not know this and pays no attention to it", "found", word)
	}
	transport := o.iscsi.Options
	transport.Logger = log.Logger
	return target.New(target.Options{
		Log: log.Logger, SetDebug: log.setDebug, Debug: o.debug,
		Stores: stores(log.Logger), Threads: min(o.threads, maxThreads),
		NopInterval: o.iscsi.nopInterval, NopCount: o.iscsi.nopCount,
		Portals: o.iscsi.portals, Inherited: listeners,
		Transport: target.ISCSI(transport),
	})
}

// program is the running daemon.
type program struct {
	options
	log    *logger
	model  *target.Model
	closed bool
}

// closeModel closes portals, sessions and stores, once.
func (d *program) closeModel() {
	if d.closed {
		return
	}
	d.closed = true
	if err := d.model.Close(); err != nil {
		d.log.Error("closing the logical units failed", "err", err)
	}
}

// serve opens the management socket and serves until the model is told to stop.
func (d *program) serve(path string, early io.Writer, news *daemon.News) int {
	server, err := d.listen(path)
	switch {
	case errors.Is(err, mgmt.ErrLocked):
		return refuse(early, "another tgtd is using "+path+".lock")
	case errors.Is(err, mgmt.ErrLockFile):
		return refuse(early, mgmt.ErrLockFile.Error())
	case err != nil:
		return refuse(early, err.Error())
	}
	raiseLimits(early)
	d.model.StartDriver()
	server.Serve()
	if news != nil && d.pidFile != "" {
		if err := os.WriteFile(d.pidFile, []byte(strconv.Itoa(os.Getpid())), 0o644); err != nil {
			d.log.Error("the pid file can't be written", "err", err)
		}
	}
	if err := news.Ready(); err != nil {
		d.log.Error("who started the daemon does not hear of it", "err", err)
	}
	stopBeside := d.beside()
	daemon.Notify(d.log.Logger, sd.SdNotifyReady)

	<-d.model.Stopped()
	daemon.Notify(d.log.Logger, sd.SdNotifyStopping)
	stopBeside()
	if news != nil && d.pidFile != "" {
		if err := os.Remove(d.pidFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
			d.log.Error("the pid file can't be removed", "err", err)
		}
	}
	// tgtadm waits until the management socket refuses it: by then all else must be gone.
	d.closeModel()
	if err := server.Close(); err != nil {
		d.log.Error("closing the management socket failed", "err", err)
	}
	return 0
}

// listen opens the management socket, in a folder of its own where that is the usual one.
func (d *program) listen(path string) (*mgmt.Server, error) {
	if _, own := os.LookupEnv(mgmt.BaseEnv); !own {
		if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("making the folder of the management socket: %w", err)
		}
	}
	return mgmt.Listen(path, mgmt.Options{Handler: admin.Handler(d.model, d.log.Logger), Log: d.log.Logger})
}

// beside starts what runs beside the serving: metrics, and signs of life for systemd. What it returns ends them.
func (d *program) beside() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var watchdog sync.WaitGroup
	watchdog.Go(func() { daemon.Watchdog(ctx, d.log.Logger, d.alive) })
	stopMetrics := serveMetrics(d.metrics, d.model, d.log)
	return func() {
		stopMetrics()
		cancel()
		watchdog.Wait()
	}
}

// alive says what the daemon is doing. A daemon one of whose locks is never let go does not come back from here; one
// whose stores wait for a cell lives, and it would be no help to start it again.
func (d *program) alive() (doing string, ok bool) {
	f := d.model.Figures()
	sessions, units := 0, 0
	for _, t := range f.Targets {
		sessions += t.Sessions
		units += len(t.Units)
	}
	return fmt.Sprintf("%d targets, %d logical units, %d sessions", len(f.Targets), units, sessions), true
}

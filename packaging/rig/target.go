package rig

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
)

// maxSocketBase is how long the base name of a management socket may be, so that with ".0" it fits a
// socket's address.
const maxSocketBase = 100

// TargetOptions say what a Target runs.
type TargetOptions struct {
	Dir      string // where the log goes, and the socket if the path is short enough
	Programs Programs
	// Conf is the server.conf for units of type pss; it may be empty.
	Conf string
	// Port is the TCP port of the portal that is wanted; if it is taken, or 0, there will be another.
	Port   int
	Driver string   // further words of --iscsi, each with a comma before it
	Args   []string // further arguments of tgtd
	// Host is the address of the portal, and Namespace the network namespace that tgtd runs in; empty: this machine's
	// loopback, in the rig's own.
	Host, Namespace string
}

// Target is a tgtd process with its portal and its management socket. The daemon may be that of tgt: set
// Programs.Tgtd, Tgtadm, TgtAdmin and Original.
type Target struct {
	*Process
	Portal   string // host:port
	Socket   string // what TGT_IPC_SOCKET says; the socket itself is Socket.0
	programs Programs
	env      []string
	own      string // folder made for the socket alone
}

// lowestPortal is where a portal is looked for when the caller does not care.
const lowestPortal = 10240

// NewTarget returns a target that is not started yet.
func NewTarget(o TargetOptions) (*Target, error) {
	want := o.Port
	if want == 0 {
		want = lowestPortal
	}
	port, err := FreePort(want)
	if err != nil {
		return nil, err
	}
	t := &Target{Portal: net.JoinHostPort(cmp.Or(o.Host, Host), strconv.Itoa(port)), Socket: filepath.Join(o.Dir, "tgtd.socket"), programs: o.Programs}
	if len(t.Socket) > maxSocketBase {
		if t.own, err = os.MkdirTemp("", "tgtd"); err != nil {
			return nil, fmt.Errorf("make a target: %w", err)
		}
		t.Socket = filepath.Join(t.own, "socket")
	}
	t.env = []string{"TGT_IPC_SOCKET=" + t.Socket}
	if o.Conf != "" {
		t.env = append(t.env, cell.EnvFile+"="+o.Conf)
	}
	args := []string{"-f"}
	if !o.Programs.Original {
		args = append(args, "--metrics", "off")
	}
	args = append(append(args, "--iscsi", "portal="+t.Portal+o.Driver), o.Args...)
	t.Process = NewProcess(Command{
		Name: "tgtd", Program: o.Programs.Tgtd, Args: args, Env: t.env,
		Log:       filepath.Join(o.Dir, "tgtd.log"),
		Namespace: o.Namespace,
	})
	return t, nil
}

// Env is the environment in which tools talk to this daemon.
func (t *Target) Env() []string { return t.env }

// Start starts the daemon and waits until it answers tgtadm.
func (t *Target) Start(ctx context.Context) error {
	if err := t.Process.Start(); err != nil {
		return err
	}
	for {
		_, err := t.Admin(ctx, "--op", "show", "--mode", "system")
		if err == nil {
			return nil
		}
		if over := t.Failed(); over != nil {
			return fmt.Errorf("start tgtd: %w", over)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("start tgtd: %w: %w; %s", ctx.Err(), err, t.Tail(10))
		case <-time.After(askEvery):
		}
	}
}

// Admin runs `tgtadm --lld iscsi` with these arguments and returns what it prints.
func (t *Target) Admin(ctx context.Context, args ...string) (string, error) {
	return Run(ctx, t.env, t.programs.Tgtadm, append([]string{"--lld", "iscsi"}, args...)...)
}

// Load runs `tgt-admin -e` on a configuration file.
func (t *Target) Load(ctx context.Context, conf string) error {
	_, err := Run(ctx, t.env, t.programs.TgtAdmin, "-e", "-c", conf)
	return err
}

// AddUnit adds a unit to a target, which is made if need be, and lets every initiator in. params are for
// the unit, as --params takes them; they may be empty.
func (t *Target) AddUnit(ctx context.Context, tid int, name string, lun int, kind, store, params string) error {
	id, n := strconv.Itoa(tid), strconv.Itoa(lun)
	if _, err := t.Admin(ctx, "--op", "show", "--mode", "target", "--tid", id); err != nil {
		if _, err := t.Admin(ctx, "--op", "new", "--mode", "target", "--tid", id, "-T", name); err != nil {
			return err
		}
		if _, err := t.Admin(ctx, "--op", "bind", "--mode", "target", "--tid", id, "-I", "ALL"); err != nil {
			return err
		}
	}
	if _, err := t.Admin(ctx, "--op", "new", "--mode", "logicalunit", "--tid", id, "--lun", n, "-b", store, "-E", kind); err != nil {
		return err
	}
	if params == "" {
		return nil
	}
	_, err := t.Admin(ctx, "--op", "update", "--mode", "logicalunit", "--tid", id, "--lun", n, "--params", params)
	return err
}

// targetLine begins each target in what tgtadm shows.
var targetLine = regexp.MustCompile(`(?m)^Target (\d+):`)

// Stop ends the daemon in order: it deletes all targets and then the system, and waits until the process is
// gone.
func (t *Target) Stop(ctx context.Context) error {
	text, err := t.Admin(ctx, "--op", "show", "--mode", "target")
	if err != nil {
		return err
	}
	for _, m := range targetLine.FindAllStringSubmatch(text, -1) {
		if _, err := t.Admin(ctx, "--op", "delete", "--mode", "target", "--tid", m[1], "--force"); err != nil {
			return err
		}
	}
	if _, err := t.Admin(ctx, "--op", "delete", "--mode", "system"); err != nil {
		return err
	}
	select {
	case <-t.Exited():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop tgtd: %w; %s", ctx.Err(), t.Tail(10))
	}
}

// Close kills the daemon if it runs, and removes its socket.
func (t *Target) Close() {
	t.Process.Close()
	if t.own != "" {
		os.RemoveAll(t.own)
	}
}

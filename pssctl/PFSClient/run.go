package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/paxos-iscsi/paxos-iscsi/pss"
	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
	"github.com/paxos-iscsi/paxos-iscsi/pssctl/console"
)

const (
	lease          = 10 * time.Second // of the session: what it holds is free so long after the command was killed
	defaultHold    = 50 * time.Second // as long as the original sleeps
	defaultAborted = 30 * time.Second // before abort breaks off, the same
)

// client is one invocation.
type client struct {
	*pss.Cell
	ctx     context.Context // ends when the command is interrupted
	out     io.Writer
	args    []string
	timeout time.Duration // for what does not wait for other clients
	hold    time.Duration // negative: what the sub-command does by itself
	open    func() (*pss.Cell, error)
}

// subcommand is a row of the table of sub-commands.
type subcommand struct {
	name     string
	args     string
	min, max int // arguments
	usage    string
	run      func(*client) error
}

// subcommands is the table of all sub-commands.
func subcommands() []subcommand {
	return []subcommand{
		{"session", "", 0, 0, "open and close a session", session},
		{"mkdir", "NAME", 1, 1, "make a folder and its parents", mkdir},
		{"rmdir", "NAME", 1, 1, "remove an empty folder", rmdir},
		{"readdir", "NAME", 1, 1, "list a folder", readdir},
		{"stat", "NAME", 1, 1, "show kind, size and time of change", stat},
		{"write", "LOCAL [REMOTE]", 1, 2, "copy a local file in; so do write2, writeinband[2] and writeoutofband[2]", write},
		{"write2", "", 1, 2, "", write},
		{"writeinband", "", 1, 2, "", write},
		{"writeinband2", "", 1, 2, "", write},
		{"writeoutofband", "", 1, 2, "", write},
		{"writeoutofband2", "", 1, 2, "", write},
		{"read", "REMOTE [LOCAL]", 1, 2, "copy a file out; LOCAL appears when all of it is there", read},
		{"delete", "NAME", 1, 1, "delete a file", remove},
		{"truncate", "NAME BYTES", 2, 2, "set a file's size", truncate},
		{"lockW", "NAME", 1, 1, "take a lock for writing and hold it", lock(pss.WriteLock, false)},
		{"lockR", "NAME", 1, 1, "take a lock for reading and hold it", lock(pss.ReadLock, false)},
		{"lockW2", "NAME SECONDS", 2, 2, "hold it for so long", lock(pss.WriteLock, true)},
		{"lockR2", "NAME SECONDS", 2, 2, "hold it for so long", lock(pss.ReadLock, true)},
		{"lockwrite", "LOCAL [REMOTE]", 1, 2, "write under the lock LCK and the remote name", under(pss.WriteLock, write)},
		{"lockread", "REMOTE [LOCAL]", 1, 2, "read under the same lock", under(pss.ReadLock, read)},
		{"lockwriteloop", "LOCAL PREFIX N", 3, 3, "lockwrite to PREFIX-0001 and so on, a session each", loop(true, false)},
		{"lockwriteloop2", "LOCAL PREFIX N", 3, 3, "the same in one session", loop(true, true)},
		{"lockreadloop", "REMOTE PREFIX N", 3, 3, "lockread to PREFIX-0001 and so on, a session each", loop(false, false)},
		{"lockreadloop2", "REMOTE PREFIX N", 3, 3, "the same in one session", loop(false, true)},
		{"ephemeral", "LOCAL [FOLDER]", 1, 2, "write a file that ends with the session, named by our process id, and hold it", ephemeral(defaultHold)},
		{"ephemeral2", "LOCAL [FOLDER]", 1, 2, "hold it for 1 s", ephemeral(time.Second)},
		{"ephemeral3", "LOCAL [FOLDER]", 1, 2, "end at once", ephemeral(0)},
		{"eventdir", "FOLDER VERSION COUNT", 3, 3, "watch a folder for COUNT deliveries; VERSION has no meaning", eventdir},
		{"eventdir2", "", 3, 3, "", eventdir},
		{"eventlockW", "NAME COUNT", 2, 2, "take a lock for writing, give it back when somebody waits, COUNT times", eventlock(pss.WriteLock)},
		{"eventlockR", "NAME COUNT", 2, 2, "the same for reading", eventlock(pss.ReadLock)},
		{"post", "QUEUE TEXT", 2, 2, "append a message", post},
		{"wait", "QUEUE", 1, 1, "take a message, waiting for one if there is none", wait},
		{"eventQueue", "QUEUE COUNT", 2, 2, "watch a queue for COUNT deliveries", eventqueue},
		{"abort", "", 0, 0, "open a session, hold it for 30 s, and end without closing it, as if killed; a test aid", abort},
	}
}

func newApp(stdout, stderr io.Writer) *cli.App {
	app := console.NewApp("PFSClient", "work on the files, locks, queues and events of a cell", stdout, stderr)
	app.UsageText = "PFSClient [--conf FILE] [--timeout SECONDS] [--hold SECONDS] SUBCOMMAND [ARGUMENT]..."
	var list strings.Builder
	for _, s := range subcommands() {
		if s.usage != "" {
			fmt.Fprintf(&list, "%-31s %s\n", s.name+" "+s.args, s.usage)
		}
	}
	app.Description = list.String() +
		"\nWhat the original holds for 50 s is held for as long as --hold says, 50 s by default, or until the\n" +
		"command is interrupted. Paths begin at the root, with a slash, ./ or nothing before them.\n" + console.ExitText
	app.Flags = append(console.Flags(), &cli.StringFlag{Name: "hold", Usage: "`SECONDS` to hold locks and ephemeral files, also 500ms"})
	app.Action = invoke
	return app
}

// invoke runs the sub-command that the first argument names.
func invoke(c *cli.Context) error {
	if c.NArg() == 0 {
		return console.Usagef("a sub-command is wanted")
	}
	all := subcommands()
	i := slices.IndexFunc(all, func(s subcommand) bool { return s.name == c.Args().First() })
	if i < 0 {
		return console.Usagef("there is no sub-command %q", c.Args().First())
	}
	s := &all[i]
	k := &client{ctx: c.Context, out: c.App.Writer, args: c.Args().Tail(), timeout: console.Timeout(c), hold: -1}
	if len(k.args) < s.min || len(k.args) > s.max {
		return console.Usagef("%s %s: %d arguments", s.name, s.args, len(k.args))
	}
	if c.IsSet("hold") {
		var err error
		if k.hold, err = console.Seconds(c.String("hold")); err != nil {
			return console.Usagef("--hold %w", err)
		}
	}
	conf, err := console.Conf(c)
	if err != nil {
		return err
	}
	k.open = func() (*pss.Cell, error) {
		return pss.Open(conf, pss.Options{Software: "PFSClient", SessionLease: lease})
	}
	if k.Cell, err = k.open(); err != nil {
		return err
	}
	// Whether the session could be closed in time does not change what became of the rest.
	defer func() { k.Close() }() // some have opened another meanwhile
	return s.run(k)
}

// limited is the context of what does not wait for other clients.
func (k *client) limited() (context.Context, context.CancelFunc) {
	return context.WithTimeout(k.ctx, k.timeout)
}

// do does something that does not wait for other clients.
func (k *client) do(what func(ctx context.Context) error) error {
	ctx, cancel := k.limited()
	defer cancel()
	return what(ctx)
}

func (k *client) printf(format string, args ...any) { fmt.Fprintf(k.out, format, args...) }

// argument is the i-th argument, or nothing.
func (k *client) argument(i int) string {
	if i < len(k.args) {
		return k.args[i]
	}
	return ""
}

// master prints who is master.
func (k *client) master() string {
	if id, ok := k.Master(); ok {
		return fmt.Sprintf("Master is %d", id)
	}
	return "Master is -1"
}

// sleep holds what is held.
func (k *client) sleep(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-k.ctx.Done():
	}
}

// ret is what the original's functions return.
func ret(err error) int {
	if err != nil {
		return -1
	}
	return 0
}

// errnos are the errno values of what the cell answers.
func errnos(e op.Errno) syscall.Errno {
	switch e {
	case op.OK:
		return 0
	case op.NotFound:
		return syscall.ENOENT
	case op.Exists:
		return syscall.EEXIST
	case op.NotDir:
		return syscall.ENOTDIR
	case op.IsDir, op.Kind:
		return syscall.EISDIR // a volume shows as a folder
	case op.NotEmpty:
		return syscall.ENOTEMPTY
	case op.Invalid, op.OutOfRange:
		return syscall.EINVAL
	case op.Fenced:
		return syscall.ESTALE
	case op.TooMany:
		return syscall.EPIPE // of a queue; what the original answers
	case op.Busy:
		return syscall.EBUSY
	case op.NoSpace:
		return syscall.ENOSPC
	}
	return syscall.EIO
}

// errno is the number that is printed for an error.
func errno(err error) int {
	var e op.Errno
	var local syscall.Errno
	switch {
	case err == nil:
		return 0
	case errors.As(err, &e):
		return int(errnos(e))
	case errors.As(err, &local):
		return int(local)
	case errors.Is(err, os.ErrNotExist):
		return int(syscall.ENOENT)
	case errors.Is(err, context.Canceled):
		return int(syscall.EINTR)
	}
	return int(syscall.EIO)
}

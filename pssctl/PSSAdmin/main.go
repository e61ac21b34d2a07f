// Command PSSAdmin shows how a server stands in the agreement of its cell, and tells it what to do (M24).
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pssctl/console"
)

func main() { os.Exit(console.Main(newApp(os.Stdout, os.Stderr), os.Args)) }

func newApp(stdout, stderr io.Writer) *cli.App {
	app := console.NewApp("PSSAdmin", "agreement of one server: look at it, steer it", stdout, stderr)
	app.UsageText = "PSSAdmin [--conf FILE] [--timeout TIME] [--debug] ID {control|paxos [PAGE]|is_active|is_leader|log|down|birth|stop TO|restart TO}"
	app.Description = "control     connections between the servers, as this one sees them\n" +
		"paxos       the newest instances of the agreement, or an older page of ten\n" +
		"is_active   exit status 0 if the server answers, else 255\n" +
		"is_leader   exit status 0 if the server is master, else 1\n" +
		"log         the last lines of its log\n" +
		"down        stop it at once, as a crash would; nothing is lost\n" +
		"birth       have it hand the mastership over\n" +
		"stop        with --debug: its messages to server TO are lost from now on, for tests of a cell\n" +
		"restart     with --debug: they are not any more\n" +
		console.ExitText
	app.Flags = append(console.Flags(), &cli.BoolFlag{Name: "debug", Usage: "allow sub-commands that inject faults"})
	app.Action = act
	return app
}

// isActiveTimeout is how long is_active waits.
const isActiveTimeout = 500 * time.Millisecond

// session is what a sub-command works with.
type session struct {
	ctx  context.Context
	w    io.Writer
	conf *cell.Config
	conn *admin.Conn
	args []string // behind the sub-command
}

// verbs are the sub-commands.
func verbs() map[string]verb {
	return map[string]verb{
		"control":   {arguments: 0, do: control},
		"paxos":     {arguments: 1, do: paxos},
		"is_active": {arguments: 0, do: func(*session) error { return nil }}, // it is connected
		"is_leader": {arguments: 0, do: isLeader},
		"log":       {arguments: 0, do: showLog},
		"down":      {arguments: 0, do: down},
		"birth":     {arguments: 0, do: birth},
		"stop":      {arguments: 1, do: cut(true), injects: true},
		"restart":   {arguments: 1, do: cut(false), injects: true},
	}
}

// verb is one sub-command.
type verb struct {
	arguments int // at most
	do        func(s *session) error
	injects   bool // a fault: for tests of a cell only
}

// absent are sub-commands of the original that test a protocol which is not there, and what to use instead.
func absent() map[string]string {
	return map[string]string{
		"recvstop":    "a server takes no order to be deaf: cut the others' way to it with stop",
		"suppress":    "votes can't be held back: stop a server with down, or cut it off with stop",
		"catchupstop": "catching up can't be turned off; PFSserver --catch-up-rate slows it down",
		"removepage":  "entries of the log leave it with a checkpoint: pssctl checkpoint",
		"ras":         "servers watch each other and need no notice of a death",
		"command":     "nothing can be put into the log by hand: use PFSClient",
		"newround":    "the master is changed with birth, or with pssctl master ID",
		"begin":       "a round is begun by the servers alone",
	}
}

func act(c *cli.Context) error {
	if c.NArg() < 2 {
		return console.Usagef("the id of a server and a sub-command are wanted")
	}
	name := c.Args().Get(1)
	if instead, ok := absent()[name]; ok {
		return console.Status{Code: console.ExitFailed, Text: fmt.Sprintf("%s is refused: %s", name, instead)}
	}
	v, ok := verbs()[name]
	s := &session{w: c.App.Writer, args: c.Args().Slice()[2:]}
	switch {
	case !ok:
		return console.Usagef("No command %q", name)
	case v.injects && !c.Bool("debug"):
		return console.Usagef("%s injects a fault, for tests of a cell: it needs --debug, and a server that was started with --debug", name)
	case len(s.args) > v.arguments:
		return console.Usagef("%s takes %d arguments at most", name, v.arguments)
	}
	if name == "is_active" {
		ctx, cancel := context.WithTimeout(c.Context, isActiveTimeout)
		defer cancel()
		c.Context = ctx
	}
	var err error
	if s.conf, _, err = console.Server(c); err != nil {
		return err
	}
	return console.OnServer(c, func(ctx context.Context, conn *admin.Conn) error {
		s.ctx, s.conn = ctx, conn
		return v.do(s)
	})
}

func (s *session) status() (st admin.Status, err error) {
	return st, s.conn.Call(s.ctx, admin.MethodStatus, nil, &st)
}

func isLeader(s *session) error {
	st, err := s.status()
	if err == nil && !st.IsMaster {
		err = console.Status{Code: console.ExitFailed}
	}
	return err
}

func down(s *session) error {
	return s.conn.Call(s.ctx, admin.MethodShutdown, admin.ShutdownArgs{Abort: true, Comment: "PSSAdmin down"}, nil)
}

// birth made the original's servers step down in favour of the next oldest: here, of the one most up to date.
func birth(s *session) error {
	var reply admin.HandOverReply
	if err := s.conn.Call(s.ctx, admin.MethodHandOver, admin.HandOverArgs{}, &reply); err != nil {
		return err
	}
	_, err := fmt.Fprintf(s.w, "Master is %d.\n", reply.Master)
	return err
}

// cut is stop and restart: the server's messages of the agreement to another are lost, or are not any more. A server
// that was not started with --debug refuses.
func cut(cut bool) func(*session) error {
	return func(s *session) error {
		if len(s.args) == 0 {
			return console.Usagef("the id of the server that the messages are for is wanted")
		}
		to, err := console.ID(s.conf, s.args[0])
		if err != nil {
			return err
		}
		return s.conn.Call(s.ctx, admin.MethodInject, admin.InjectArgs{To: to.ID, Cut: cut}, nil)
	}
}

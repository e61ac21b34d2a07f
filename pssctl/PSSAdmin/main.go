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
	app.UsageText = "PSSAdmin [--conf FILE] [--timeout TIME] ID {control|paxos [PAGE]|is_active|is_leader|log|down|birth}"
	app.Description = "control     connections between the servers, as this one sees them\n" +
		"paxos       the newest instances of the agreement, or an older page of ten\n" +
		"is_active   exit status 0 if the server answers, else 255\n" +
		"is_leader   exit status 0 if the server is master, else 1\n" +
		"log         the last lines of its log\n" +
		"down        stop it at once, as a crash would; nothing is lost\n" +
		"birth       have it hand the mastership over\n" +
		console.ExitText
	app.Flags = console.Flags()
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

// verbs are the sub-commands, with the most arguments they take.
func verbs() map[string]struct {
	arguments int
	do        func(s *session) error
} {
	type verb = struct {
		arguments int
		do        func(s *session) error
	}
	return map[string]verb{
		"control":   {0, control},
		"paxos":     {1, paxos},
		"is_active": {0, func(*session) error { return nil }}, // it is connected
		"is_leader": {0, isLeader},
		"log":       {0, showLog},
		"down":      {0, down},
		"birth":     {0, birth},
	}
}

func act(c *cli.Context) error {
	if c.NArg() < 2 {
		return console.Usagef("the id of a server and a sub-command are wanted")
	}
	conf, err := console.Conf(c)
	if err != nil {
		return err
	}
	server, err := console.ID(conf, c.Args().First())
	if err != nil {
		return err
	}
	name := c.Args().Get(1)
	v, ok := verbs()[name]
	if !ok {
		return console.Usagef("No command %q", name)
	}
	s := &session{w: c.App.Writer, conf: conf, args: c.Args().Slice()[2:]}
	if len(s.args) > v.arguments {
		return console.Usagef("%s takes %d arguments at most", name, v.arguments)
	}
	ctx, cancel := console.Bound(c)
	defer cancel()
	if name == "is_active" {
		ctx, cancel = context.WithTimeout(ctx, isActiveTimeout)
		defer cancel()
	}
	s.ctx = ctx
	if s.conn, err = admin.Dial(ctx, conf, server.ID); err != nil {
		return err
	}
	defer s.conn.Close()
	return v.do(s)
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

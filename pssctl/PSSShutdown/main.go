// Command PSSShutdown stops one server of a cell (M22). A master hands the mastership over first. It is
// quiet when it succeeds.
package main

import (
	"context"
	"io"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pssctl/console"
)

func main() { os.Exit(console.Main(newApp(os.Stdout, os.Stderr), os.Args)) }

// abort is the comment that means: at once. The original's tool knew it.
const abort = "ABORT"

func newApp(stdout, stderr io.Writer) *cli.App {
	app := console.NewApp("PSSShutdown", "stop a server of a cell", stdout, stderr)
	app.UsageText = "PSSShutdown [--conf FILE] [--timeout TIME] ID [COMMENT...]"
	app.Description = "COMMENT goes to the server's log. The comment " + abort + " stops the server at once, as a crash would, which loses\n" +
		"nothing. " + console.ExitText
	app.Flags = console.Flags()
	app.Action = stop
	return app
}

func stop(c *cli.Context) error {
	return console.OnServer(c, func(ctx context.Context, conn *admin.Conn) error {
		comment := strings.Join(c.Args().Tail(), " ")
		return conn.Call(ctx, admin.MethodShutdown, admin.ShutdownArgs{Abort: comment == abort, Comment: comment}, nil)
	})
}

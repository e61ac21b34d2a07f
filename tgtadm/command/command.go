// Package command is tgtadm, the administration command, as a function: Run takes an argument vector,
// checks it as the original does, asks the daemon over the management socket and returns the exit
// status. tgt-admin calls it for each of its requests, so both speak with one voice. Texts, order of
// checks and statuses are those of tgt 1.0.85.
package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/paxos-iscsi/paxos-iscsi/tgtadm/getopt"
	"github.com/paxos-iscsi/paxos-iscsi/tgtadm/running"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/mgmt"
)

// Name is what the command calls itself in its messages, whatever file it was started from.
const Name = "tgtadm"

// Version is the version of tgt whose interface this is.
const Version = "1.0.85"

// The exit statuses besides 0.
const (
	statusUnknownWord = 1   // an operation or a mode that does not exist
	StatusUsage       = 22  // any other bad command line; every error the daemon answers
	statusReset       = 104 // the exchange broke off
	StatusNoDaemon    = 107 // nobody listens on the management socket
)

// Env is what a run of the command sees of the world.
type Env struct {
	Stdout, Stderr io.Writer
	LookupEnv      func(string) (string, bool) // TGT_IPC_SOCKET, POSIXLY_CORRECT
	Sysfs          string                      // where sysfs is mounted, for --bus
	// Call exchanges a request with the daemon at a socket; nil means mgmt.Call.
	Call func(ctx context.Context, socketPath string, r mgmt.Request) (mgmt.Response, error)
}

// System is the environment of this process.
func System() Env {
	return Env{Stdout: os.Stdout, Stderr: os.Stderr, LookupEnv: os.LookupEnv, Sysfs: "/sys"}
}

// refusal ends a run before anything was sent: a command line that cannot be used.
type refusal struct {
	text   string
	status int
	bare   bool // the text goes without the program's name
	try    bool // followed by the line that points to --help
}

func (r *refusal) Error() string { return r.text }

func refuse(format string, values ...any) error {
	return &refusal{text: fmt.Sprintf(format, values...), status: StatusUsage}
}

// Run runs the command with argv, the name of the program and its arguments, and returns the exit
// status. Everything it has to say it writes to env's outputs. ctx ends a wait for the daemon.
func Run(ctx context.Context, argv []string, env Env) int {
	o := newOptions(env.Sysfs)
	app := newApp(o, env)
	_, posix := env.LookupEnv("POSIXLY_CORRECT")
	flags, words, err := getopt.GNU(optionTable(app.Flags), argv[1:], posix)
	if err == nil && len(words) > 0 {
		err = &refusal{text: fmt.Sprintf("unrecognized option '%s'", words[0]), status: StatusUsage, try: true}
	}
	var bad getopt.Error
	if errors.As(err, &bad) {
		// getopt puts the name the program was started by in front, whatever that was
		err = &refusal{text: argv[0] + ": " + err.Error(), status: StatusUsage, bare: true, try: true}
	}
	o.left = len(flags)
	// Values are checked as they are read, so those in front of what is wrong with the line come first.
	app.Action = func(*cli.Context) error {
		if err != nil && !o.help && !o.version {
			return err
		}
		return o.run(ctx, app, env)
	}
	return status(app.RunContext(ctx, append([]string{Name}, flags...)), o, env)
}

// status reports how a run ended and returns the exit status.
func status(err error, o *options, env Env) int {
	if o.bad != nil {
		err = o.bad // package flag only keeps the text of an error
	}
	if err == nil {
		return 0
	}
	var r *refusal
	if errors.As(err, &r) {
		if !r.bare {
			fmt.Fprintf(env.Stderr, "%s: ", Name)
		}
		fmt.Fprintln(env.Stderr, r.text)
		if r.try {
			fmt.Fprintf(env.Stderr, "Try `%s --help' for more information.\n", Name)
		}
		return r.status
	}
	text, number := failure(err)
	fmt.Fprintf(env.Stderr, "%s: %s\n", Name, text)
	return number
}

// run does what the command line asks for.
func (o *options) run(ctx context.Context, app *cli.App, env Env) error {
	switch {
	case o.help:
		return printHelp(app, env.Stdout)
	case o.version:
		_, err := fmt.Fprintln(env.Stdout, Version)
		return err
	}
	if err := o.check(); err != nil {
		return err
	}
	path, err := mgmt.SocketPath(env.LookupEnv, int(o.port))
	if err != nil {
		// said before the failure that it leads to
		fmt.Fprintf(env.Stderr, "%s: management path too long: %s\n", Name, path)
		return errNoDaemon
	}
	call := env.Call
	if call == nil {
		call = mgmt.Call
	}
	if o.tree {
		return showTree(ctx, env.Stdout, func(ctx context.Context, r mgmt.Request) (mgmt.Response, error) {
			return call(ctx, path, r)
		})
	}
	request := o.request()
	response, err := call(ctx, path, request)
	if o.debug && wasSent(err) {
		bytes, _ := request.Append(nil) // it was encoded before, so it can be
		fmt.Fprintf(env.Stderr, "ipc_mgmt_req 348: sent to tgtd %d\n", len(bytes))
	}
	if err != nil {
		return err
	}
	if response.Err != mgmt.Success {
		return response.Err
	}
	if o.mode == mgmt.ModeSystem && o.op == mgmt.OpDelete {
		if err := awaitEnd(ctx, path); err != nil {
			return err
		}
	}
	_, err = io.WriteString(env.Stdout, response.Text)
	return err
}

// showTree asks the daemon for all it has and draws it.
func showTree(ctx context.Context, w io.Writer, call running.Call) error {
	c, err := running.Read(ctx, call)
	if err != nil {
		return err
	}
	return c.Tree().Print(w)
}

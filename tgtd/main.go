package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/paxos-iscsi/paxos-iscsi/pss/daemon"
)

// version is the version of tgt whose interface this daemon has; scripts compare it.
const version = "1.0.85"

func main() {
	os.Exit(start(os.Args, os.Stdout, os.Stderr))
}

// start reads the command line, goes to the background if that is wanted, and runs the daemon. It returns the
// exit status.
func start(args []string, stdout, stderr io.Writer) int {
	o, err := parseOptions(args, stdout)
	if err != nil {
		fmt.Fprint(stderr, err.Error())
		return err.status
	}
	if o.done {
		return 0
	}
	news, early := daemon.TakeNews(), stderr
	switch {
	case news != nil:
		early = news
	case !o.foreground && !o.noDaemonize:
		return background(args, stderr)
	}
	return run(o, early, news)
}

// background starts the daemon in the background and in folder /. It returns once that daemon serves, with status
// 0, or has ended, with status 1 and its complaints on stderr. (The original returns 0 at once, and a daemon that
// can't start dies unheard.)
func background(args []string, stderr io.Writer) int {
	err := daemon.Start(args, "/")
	var refusal *daemon.Refusal
	switch {
	case err == nil:
		return 0
	case errors.As(err, &refusal):
		io.WriteString(stderr, refusal.Words)
	default:
		fmt.Fprintf(stderr, "tgtd: can't go to the background: %v\n", err)
	}
	return 1
}

package main

import (
	"fmt"
	"io"
	"os"
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
	ready, early := takeReadyPipe(stderr)
	if !o.foreground && !o.noDaemonize && ready == nil {
		return background(args, stderr)
	}
	return run(o, early, ready)
}

// Command quickstart shows the whole product on one machine, without root and without installing anything: a
// cell of eight PFSserver processes, a volume, tgtd with etc/tgt/targets.conf, and an initiator that logs in
// with CHAP, writes and verifies while the cell's master is killed. It is run by `make run`, from the
// top folder of the project, which has built the programs before.
//
// Environment:
//
//	DIR=FOLDER  keep everything in this folder, and find it there the next time; else a temporary one
//	ONCE=1      end after the check, with exit status 0 if all went well
//	BIN=FOLDER  the folder of the programs, bin by default
//
// It stays up until Ctrl-C and cleans up after itself.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	status := run(ctx, os.Getenv, os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// run is the program with its surroundings as arguments. It returns the exit status.
func run(ctx context.Context, getenv func(string) string, stdout, stderr io.Writer) int {
	s := settings{dir: getenv("DIR"), bin: getenv("BIN"), once: getenv("ONCE") != "" && getenv("ONCE") != "0"}
	if s.bin == "" {
		s.bin = "bin"
	}
	d, err := newDemo(s, stdout)
	if err != nil {
		fmt.Fprintln(stderr, "quickstart:", err)
		return 1
	}
	err = d.run(ctx)
	interrupted := ctx.Err() != nil
	if cleanup := d.close(); err == nil {
		err = cleanup
	}
	switch {
	case err == nil:
		return 0
	case interrupted:
		fmt.Fprintln(stdout, "\nInterrupted; everything is stopped.")
		return 130
	}
	fmt.Fprintf(stderr, "\nquickstart: %v\n", err)
	return 1
}

// Command tgt-setup-lun makes one logical unit available: it makes a target, or takes one that is there, gives it the
// unit and lets initiators in. It takes the command lines of tgt's tgt-setup-lun and asks the daemon as tgtadm
// does. No shell sees what it is given.
package main

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/paxos-iscsi/paxos-iscsi/tgtadm/command"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	s := &setup{
		env: command.System(), in: bufio.NewReader(os.Stdin), program: os.Args[0], hostname: os.Hostname,
	}
	if path, err := exec.LookPath(s.program); err == nil {
		s.program = path // what a script would call itself
	}
	_, err := unix.IoctlGetTermios(int(os.Stdin.Fd()), unix.TCGETS)
	s.asks = err == nil
	os.Exit(s.run(ctx, os.Args[1:]))
}

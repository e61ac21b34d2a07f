// Command deleteISCSIVol removes a volume of the Paxos Storage Service and all that is on it. It asks first
// unless -y is given, and removes nothing if the answer is not yes. Its exit status is 0 for success; 1 when
// the cell refuses or the answer was not yes; 2 for a mistake in the command; 255 when the cell can't be
// reached or has no majority.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args, os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

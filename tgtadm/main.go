// Command tgtadm administers tgtd: it sends one request to the daemon's management socket and prints
// the answer. It takes the command lines of tgt's tgtadm and gives its answers.
package main

import (
	"context"
	"os"

	"github.com/paxos-iscsi/paxos-iscsi/tgtadm/command"
)

func main() {
	os.Exit(command.Run(context.Background(), os.Args, command.System()))
}

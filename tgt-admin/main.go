// Command tgt-admin makes the targets of tgtd those of a configuration file, /etc/tgt/targets.conf. It
// takes the command lines and the files of tgt's tgt-admin.
package main

import (
	"context"
	"os"

	"github.com/paxos-iscsi/paxos-iscsi/tgt-admin/admin"
)

func main() {
	os.Exit(admin.Run(context.Background(), os.Args, admin.System()))
}

// Command tgt-admin makes the targets of tgtd those of a configuration file, /etc/tgt/targets.conf. It
// takes the command lines and the files of tgt's tgt-admin.
package main

import (
	"context"
	"os"

	"github.com/paxos-iscsi/paxos-iscsi/tgt-admin/admin"
)

func main() {
	ctx, env := context.Background(), admin.System()
	if len(os.Args) > 1 && os.Args[1] == "shell" {
		os.Exit(admin.Shell(ctx, os.Args[2:], os.Stdin, env))
	}
	os.Exit(admin.Run(ctx, os.Args, env))
}

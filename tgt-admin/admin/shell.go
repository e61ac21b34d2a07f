package admin

import (
	"context"
	"fmt"
	"os"

	"github.com/paxos-iscsi/paxos-iscsi/tgt-admin/shell"
	"github.com/paxos-iscsi/paxos-iscsi/tgt-admin/volumes"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/mgmt"
)

// Shell runs the shell (package shell) with its arguments, after -C PORT for another control port, and
// returns the exit status.
func Shell(ctx context.Context, args []string, stdin *os.File, env Env) int {
	port := "0"
	if len(args) >= 2 && args[0] == "-C" {
		port, args = args[1], args[2:]
	}
	a := &admin{ctx: ctx, env: env, port: port}
	if _, err := controlPort(port); err != nil {
		fmt.Fprintf(env.Stderr, "%s: %v\n", Name, err)
		return statusError
	}
	if _, own := env.LookupEnv(mgmt.BaseEnv); env.UID() != 0 && !own {
		fmt.Fprintln(env.Stderr, "You must be root to run this program.")
		return statusRefused
	}
	o := shell.Options{
		Out: env.Stdout, Err: env.Stderr, Call: a.call,
		Save: func(ctx context.Context, file string, force bool) (string, error) {
			if file == "" {
				file = DefaultFile
			}
			return Save(ctx, a.call, SaveOptions{File: file, Force: force, Now: env.Now, Files: env.Files})
		},
	}
	cell, err := volumes.Open()
	if err != nil {
		fmt.Fprintf(env.Stderr, "%s: without volumes: %v\n", Name, err)
	} else if cell != nil {
		o.Volumes = cell
	}
	return shell.Main(ctx, args, stdin, o)
}

package main

import (
	"os"

	"github.com/urfave/cli/v2"

	tgtadmin "github.com/paxos-iscsi/paxos-iscsi/tgt-admin/admin"

	"github.com/paxos-iscsi/paxos-iscsi/pssctl/console"
)

// shellCommand is the interactive shell over targets, units, accounts, access rules, portals and volumes.
func shellCommand() *cli.Command {
	return &cli.Command{Name: "shell", Usage: "an interactive shell over targets, units, accounts, portals and volumes; help tells its commands",
		ArgsUsage: "[-C PORT] [-c COMMANDS]", HideHelpCommand: true, SkipFlagParsing: true,
		Action: func(c *cli.Context) error {
			env := tgtadmin.System()
			env.Stdout, env.Stderr = c.App.Writer, c.App.ErrWriter
			if status := tgtadmin.Shell(c.Context, c.Args().Slice(), os.Stdin, env); status != 0 {
				return console.Status{Code: status}
			}
			return nil
		}}
}

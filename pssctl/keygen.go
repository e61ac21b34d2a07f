package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/paxos-iscsi/paxos-iscsi/pss/auth"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pssctl/console"
)

func keygenCommand() *cli.Command {
	return command("keygen", "make the cell's key, or do one step of replacing it", "[FILE]", keygen,
		&cli.StringFlag{Name: "roll", Usage: "`STEP` of replacing the key without an outage: add, use, drop; copy the file to all machines after each"})
}

// keygen makes or rolls the key beside server.conf, or in a file that is named.
func keygen(c *cli.Context) error {
	if err := arguments(c, 0, 1); err != nil {
		return err
	}
	file := c.Args().First()
	if file == "" {
		file = auth.File(cell.File(c.String("conf")))
	}
	var key auth.Key
	var err error
	next := "copy it to every server, target and control machine of the cell, readable by those who run there alone, and start the servers"
	switch step := c.String("roll"); step {
	case "":
		key, err = auth.Generate(file)
	case "add":
		key, err = auth.Roll(file, auth.RollAdd)
		next = "copy it to all machines; when every server shows the new key in pssctl status --json, go on with --roll use"
	case "use":
		key, err = auth.Roll(file, auth.RollUse)
		next = "copy it to all machines; when all have it, go on with --roll drop"
	case "drop":
		key, err = auth.Roll(file, auth.RollDrop)
		next = "copy it to all machines: whoever has only the old key is shut out"
	default:
		return console.Usagef("--roll %q: the steps are add, use and drop", step)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.App.Writer, "%s: %v\nNext: %s.\n", file, key, next)
	return err
}

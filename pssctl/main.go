// pssctl is the one command for everything an operator does with a cell of the Paxos Storage Service.
package main

import (
	"io"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/paxos-iscsi/paxos-iscsi/pssctl/console"
	"github.com/paxos-iscsi/paxos-iscsi/pssctl/web"
)

func main() { os.Exit(console.Main(newApp(os.Stdout, os.Stderr), os.Args)) }

func newApp(stdout, stderr io.Writer) *cli.App {
	app := console.NewApp("pssctl", "look after a cell of the Paxos Storage Service", stdout, stderr)
	app.Description = console.ExitText
	app.EnableBashCompletion = true
	app.Action = unknown
	app.Commands = []*cli.Command{
		statusCommand(), explainCommand(), topCommand(),
		volumeCommand(), treeCommand(),
		membersCommand(), masterCommand(), shutdownCommand(), checkpointCommand(),

		keygenCommand(), checkCommand(), scrubCommand(), shellCommand(),
		logCommand(), processesCommand(), socketsCommand(),
		web.Command(), completionCommand(),
	}
	return app
}

// unknown is the action of a command that is nothing without a sub-command.
func unknown(c *cli.Context) error {
	if c.NArg() == 0 {
		return console.Usagef("a command is wanted")
	}
	return console.Usagef("there is no command %q", c.Args().First())
}

// command is a sub-command with the options that all have.
func command(name, usage, arguments string, action cli.ActionFunc, flags ...cli.Flag) *cli.Command {
	return &cli.Command{
		Name: name, Usage: usage, ArgsUsage: arguments, Action: action,
		Flags: append(console.Flags(), flags...), HideHelpCommand: true,
	}
}

// arguments fails unless there are from least to most.
func arguments(c *cli.Context, least, most int) error {
	if n := c.NArg(); n < least || n > most {
		return console.Usagef("%s takes %s", c.Command.FullName(), c.Command.ArgsUsage)
	}
	return nil
}

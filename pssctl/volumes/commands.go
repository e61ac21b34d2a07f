package volumes

import (
	"io"

	"github.com/urfave/cli/v2"

	"github.com/paxos-iscsi/paxos-iscsi/pssctl/console"
)

// command is what tells the commands with the old names apart.
type command struct {
	usage, options, arguments, description string

	flags  []cli.Flag // besides those of all
	action cli.ActionFunc
}

const sizeText = "SIZE is a number and one of the letters K, M, G and T, up to 64T, as in\n"

func commands() map[string]command {
	return map[string]command{
		"createISCSIVol": {usage: "make a volume for a logical unit", arguments: "VOLUME SIZE", action: Create,
			description: sizeText + "createISCSIVol vol001 1T\n" +
				"The volume takes space as it is written to. VOLUME is what targets.conf names as backing-store.\n"},
		"extendISCSIVol": {usage: "make a volume larger", arguments: "VOLUME SIZE", action: Extend,
			description: sizeText + "extendISCSIVol vol001 1T\n" +
				"SIZE is what the volume shall have in all. What is added reads as zeros and takes no space.\n"},
		"deleteISCSIVol": {usage: "remove a volume and all that is on it", options: "[-y] ", arguments: "VOLUME", action: Delete,
			flags:       []cli.Flag{YesFlag()},
			description: "Asks first, unless -y is given. A target that offers the volume gets errors from then on.\n"},
	}
}

// App is the command with one of the old names: createISCSIVol, extendISCSIVol or deleteISCSIVol.
func App(name string, stdout, stderr io.Writer) *cli.App {
	c, ok := commands()[name]
	if !ok {
		panic("no command has the name " + name)
	}
	app := console.NewApp(name, c.usage, stdout, stderr)
	app.ArgsUsage = c.arguments
	app.UsageText = name + " [--conf FILE] [--timeout SECONDS] " + c.options + c.arguments
	app.Description = c.description + console.ExitText
	app.Flags = append(console.Flags(), c.flags...)
	app.Action = c.action
	return app
}

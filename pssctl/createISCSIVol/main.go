// Command createISCSIVol makes a volume in a cell of the Paxos Storage Service, for a target to offer as a
// logical unit (M31). It is quiet when it succeeds. Its exit status is 0 for success, also when the volume is
// there with this size; 1 when the cell refuses; 2 for a mistake in the command; 255 when the cell can't be
// reached or has no majority.
package main

import (
	"io"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/paxos-iscsi/paxos-iscsi/pssctl/console"
	"github.com/paxos-iscsi/paxos-iscsi/pssctl/volumes"
)

func main() { os.Exit(console.Main(newApp(os.Stdout, os.Stderr), os.Args)) }

func newApp(stdout, stderr io.Writer) *cli.App {
	app := console.NewApp("createISCSIVol", "make a volume for a logical unit", stdout, stderr)
	app.ArgsUsage = "VOLUME SIZE"
	app.UsageText = "createISCSIVol [--conf FILE] [--timeout SECONDS] VOLUME SIZE"
	app.Description = "SIZE is a number and one of the letters K, M, G and T, up to 64T, as in\n" +
		"createISCSIVol vol001 1T\n" +
		"The volume takes space as it is written to. VOLUME is what targets.conf names as backing-store.\n" +
		console.ExitText
	app.Flags = console.Flags()
	app.Action = volumes.Create
	return app
}

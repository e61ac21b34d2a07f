// Command deleteISCSIVol removes a volume of the Paxos Storage Service and all data on it, after a question. Its
// exit status is 0 for success; 1 when the cell refuses or the answer was not yes; 2 for a mistake in the
// command; 255 when the cell can't be reached or has no majority.
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
	app := console.NewApp("deleteISCSIVol", "remove a volume and all that is on it", stdout, stderr)
	app.ArgsUsage = "VOLUME"
	app.UsageText = "deleteISCSIVol [--conf FILE] [--timeout SECONDS] [-y] VOLUME"
	app.Description = "Asks first, unless -y is given. A target that offers the volume gets errors from then on.\n" +
		console.ExitText
	app.Flags = append(console.Flags(), volumes.YesFlag())
	app.Action = volumes.Delete
	return app
}

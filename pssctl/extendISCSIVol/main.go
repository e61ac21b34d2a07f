// Command extendISCSIVol makes a volume of the Paxos Storage Service larger; a target that offers it notices by
// itself. It is quiet when it succeeds. Its exit status is 0 for success, also when the volume has this size;
// 1 when the cell refuses, as it does to make a volume smaller; 2 for a mistake in the command; 255 when the
// cell can't be reached or has no majority.
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
	app := console.NewApp("extendISCSIVol", "make a volume larger", stdout, stderr)
	app.ArgsUsage = "VOLUME SIZE"
	app.UsageText = "extendISCSIVol [--conf FILE] [--timeout SECONDS] VOLUME SIZE"
	app.Description = "SIZE is a number and one of the letters K, M, G and T, up to 64T, as in\n" +
		"extendISCSIVol vol001 1T\n" +
		"SIZE is what the volume shall have in all. What is added reads as zeros and takes no space.\n" +
		console.ExitText
	app.Flags = console.Flags()
	app.Action = volumes.Extend
	return app
}

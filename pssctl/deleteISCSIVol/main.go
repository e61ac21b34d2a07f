// Command deleteISCSIVol removes a volume of the Paxos Storage Service and all data on it, after a question. Its
// exit status is 0 for success; 1 when the cell refuses or the answer was not yes; 2 for a mistake in the
// command; 255 when the cell can't be reached or has no majority.
package main

import (
	"os"

	"github.com/paxos-iscsi/paxos-iscsi/pssctl/console"
	"github.com/paxos-iscsi/paxos-iscsi/pssctl/volumes"
)

func main() { os.Exit(console.Main(volumes.App("deleteISCSIVol", os.Stdout, os.Stderr), os.Args)) }

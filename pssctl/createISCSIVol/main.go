// Command createISCSIVol makes a volume in a cell of the Paxos Storage Service, for a target to offer as a
// logical unit (M31). It is quiet when it succeeds. Its exit status is 0 for success, also when the volume is
// there with this size; 1 when the cell refuses; 2 for a mistake in the command; 255 when the cell can't be
// reached or has no majority.
package main

import (
	"os"

	"github.com/paxos-iscsi/paxos-iscsi/pssctl/console"
	"github.com/paxos-iscsi/paxos-iscsi/pssctl/volumes"
)

func main() { os.Exit(console.Main(volumes.App("createISCSIVol", os.Stdout, os.Stderr), os.Args)) }

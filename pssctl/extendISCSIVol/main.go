// Command extendISCSIVol makes a volume of the Paxos Storage Service larger; a target that offers it notices by
// itself. It is quiet when it succeeds. Its exit status is 0 for success, also when the volume has this size;
// 1 when the cell refuses, as it does to make a volume smaller; 2 for a mistake in the command; 255 when the
// cell can't be reached or has no majority.
package main

import (
	"os"

	"github.com/paxos-iscsi/paxos-iscsi/pssctl/console"
	"github.com/paxos-iscsi/paxos-iscsi/pssctl/volumes"
)

func main() { os.Exit(console.Main(volumes.App("extendISCSIVol", os.Stdout, os.Stderr), os.Args)) }

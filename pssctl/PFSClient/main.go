// Command PFSClient works on the files, locks, queues and events of a cell of the Paxos Storage Service, one
// sub-command an invocation. What it prints has the layout of the product it replaces; the numbers in it are
// errno values. Its exit status is 0 for success, 1 when the cell or the local system refuses, 2 for a mistake
// in the command, and 255 when the cell can't be reached or has no majority.
package main

import (
	"os"

	"github.com/paxos-iscsi/paxos-iscsi/pssctl/console"
)

func main() { os.Exit(console.Main(newApp(os.Stdout, os.Stderr), os.Args)) }

// Command tgtimg makes image files for the units of tgtd, and lists tapes: blank disks, blank recordable DVDs and
// tape cartridges. It takes the command lines of tgt's tgtimg, gives its answers, and its tapes are tgt's.
package main

import (
	"os"
	"time"
)

func main() {
	c := &command{out: os.Stdout, err: os.Stderr, now: time.Now}
	os.Exit(c.run(os.Args[1:]))
}

// Package waiting has tests that wait more than they compute run side by side. Package testing runs as many parallel
// tests at a time as there are processors, which is right for those that compute; one that waits for an election, for a
// sync or for a second to pass leaves its processor to others.
package waiting

import (
	"flag"
	"strconv"
)

// tests is how many run at a time. A cell of three servers in a test takes about a tenth of a processor, and twice as
// much with the race detector: more of them at a time would wait for processors, and their elections with them.
const tests = 8

// SideBySide lets so many of a package's parallel tests run at a time, unless the command line says how many. It is to be
// called by TestMain, before m.Run.
func SideBySide() {
	flag.Parse()
	if given("test.parallel") || given("test.fuzz") { // when fuzzing it is the number of processes
		return
	}
	if err := flag.Set("test.parallel", strconv.Itoa(tests)); err != nil {
		panic(err) // there is no such flag outside of tests
	}
}

// given says whether a flag is on the command line.
func given(name string) (found bool) {
	flag.Visit(func(f *flag.Flag) { found = found || f.Name == name })
	return found
}

package waiting

import (
	"flag"
	"os"
	"strconv"
	"testing"
)

func TestMain(m *testing.M) {
	SideBySide()
	os.Exit(m.Run())
}

// TestSideBySide: tests wait for each other, and so can only all end if they run at the same time.
func TestSideBySide(t *testing.T) {
	if flag.Lookup("test.parallel").Value.String() != strconv.Itoa(tests) {
		t.Skip("the command line says how many run at a time")
	}
	here, all := make(chan struct{}, tests), make(chan struct{})
	go func() {
		for range tests {
			<-here
		}
		close(all)
	}()
	for n := range tests {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			t.Parallel()
			here <- struct{}{}
			<-all
		})
	}
}

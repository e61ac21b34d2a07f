package machine

import (
	"os"
	"testing"
)

func TestParseStat(t *testing.T) {
	p, err := parseStat("77 (a (b) c) S 1 9 9 0 -1 4194560 100 0 0 0 250 130 0 0 20 5 12 0 100 2000000 300 18446744073709551615 0")
	if err != nil || p.State != "SNl" || p.TTY != "?" || p.CPUSecs != 3 || p.RSS != 300*4096 || p.PID != os.Getpid() {
		t.Errorf("%+v, %v", p, err)
	}
	for _, line := range []string{"", "77 (a", "77 (a) S 1 2"} {
		if p, err := parseStat(line); err == nil {
			t.Errorf("%q: %+v", line, p)
		}
	}
	if p, err := Self(); err != nil || p.RSS == 0 || p.State == "" {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestSinceBoot(t *testing.T) {
	a := SinceBoot()
	if b := SinceBoot(); a <= 0 || b < a {
		t.Errorf("%v, then %v", a, b)
	}
}

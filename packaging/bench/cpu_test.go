package main

import (
	"os"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	const good = "cpu  100 20 30 9999 888 4 5 6 77 8\ncpu0 1 2 3\n"
	have, err := parseStat(good)
	if want := 1650 * time.Millisecond; err != nil || have != want {
		t.Errorf("%v, %v; want %v", have, err, want)
	}
	for _, bad := range []string{"", "cpu 1 2 3", "cpu0 1 2 3 4 5 6 7 8", "cpu 1 2 3 4 5 x 7 8"} {
		if _, err := parseStat(bad); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

// The clocks advance with the work that is done, and the machine's covers that of a process.
func TestClocksAdvance(t *testing.T) {
	before, err := usageNow(nil)
	if err != nil {
		t.Fatal(err)
	}
	own, err := processClock(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for {
		now, err := usageNow(nil)
		if err != nil {
			t.Fatal(err)
		}
		if now.load < before.load || now.machine < before.machine {
			t.Fatalf("a clock runs backwards: %+v, then %+v", before, now)
		}
		if now.load > own && now.machine > before.machine {
			break
		}
	}
}

func TestProcessClockOfNobody(t *testing.T) {
	if d, err := processClock(1 << 28); err == nil {
		t.Errorf("a process that can't be has used %v", d)
	}
}

func TestUsageSince(t *testing.T) {
	at := time.Unix(1000, 0)
	before := usage{at, 10, 100, 1000}
	elapsed, servers, load, others := (usage{at.Add(5), 17, 103, 1050}).since(before)
	if elapsed != 5 || servers != 7 || load != 3 || others != 40 {
		t.Errorf("%d %d %d %d", elapsed, servers, load, others)
	}
	// The machine's clock is coarse: it must not make others negative.
	if _, _, _, others := (usage{at.Add(5), 17, 103, 1000}).since(before); others != 0 {
		t.Errorf("others used %d", others)
	}
}

package sim

import (
	"flag"
	"fmt"
	"hash/fnv"
	"runtime/debug"
	"testing"
	"testing/cryptotest"
	"time"
)

var (
	firstSeed = flag.Uint64("first", 1, "first seed of TestSeeds")
	seedCount = flag.Int("seeds", 300, "number of seeds of TestSeeds")
	stepCount = flag.Int("steps", 3000, "events in the first phase of a run")
	traced    = flag.Bool("traced", false, "print every event of TestSeeds: for one seed")
)

// enough seeds have everything.
const enough = 100

// garbage is how much memory a run may leave behind, in percent of what is in use (which is little), before it is
// collected. Collecting as soon as usual takes much of the time.
const garbage = 300

func TestMain(m *testing.M) {
	debug.SetGCPercent(garbage)
	m.Run()
}

// simulate runs one seed. Agreement draws its election time-outs from crypto/rand, which the test
// makes repeat as well.
func simulate(t *testing.T, o Options) (st Stats, err error) {
	t.Run(fmt.Sprintf("seed-%d", o.Seed), func(t *testing.T) {
		cryptotest.SetGlobalRandom(t, o.Seed)
		st, err = Run(o)
	})
	return st, err
}

// TestSeeds runs many seeds. To look at one that fails:
//
//	go test ./pss/sim -run TestSeeds -first SEED -seeds 1 -traced
func TestSeeds(t *testing.T) {
	var total Stats
	began := time.Now()
	for i := range *seedCount {
		o := Shape(*firstSeed+uint64(i), *stepCount)
		if *traced {
			o.Trace = func(format string, args ...any) { fmt.Printf(format+"\n", args...) }
		}
		st, err := simulate(t, o)
		if err != nil {
			t.Fatalf("%v\nrepeat with: go test ./pss/sim -run TestSeeds -first %d -seeds 1 -steps %d -traced",
				err, o.Seed, *stepCount)
		}
		total.Add(st)
	}
	if total.Answers == 0 || total.Crashes == 0 || *seedCount >= enough && (total.Turns == 0 || total.Grants == 0) ||
		*seedCount >= 20*enough && total.Adopted == 0 {
		t.Fatal("nothing was answered or nothing crashed: the runs prove nothing")
	}
	t.Logf("%d seeds, %d events, %d sector operations checked, %d on shared volumes, %d locks, %d chunks adopted, %d crashes, %d catch-ups, %v simulated in %v",
		*seedCount, total.Events, total.Answers, total.Turns, total.Grants, total.Adopted, total.Crashes, total.CatchUps, total.Simulated.Round(time.Second),
		time.Since(began).Round(time.Second))
	t.Logf("injected: %s", total.Faults())
}

// TestRepeats proves that a seed repeats to the last event: two runs leave the same trace.
func TestRepeats(t *testing.T) {
	for seed := range uint64(20) {
		var sums [2]uint64
		for i := range sums {
			h := fnv.New64a()
			o := Shape(seed, 3000)
			o.Trace = func(format string, args ...any) { fmt.Fprintf(h, format+"\n", args...) }
			if _, err := simulate(t, o); err != nil {
				t.Fatal(err)
			}
			sums[i] = h.Sum64()
		}
		if sums[0] != sums[1] {
			t.Fatalf("seed %d ran differently the second time", seed)
		}
	}
}

// TestFlawsAreFound proves that the oracles can fail: each broken rule is found within some seeds.
func TestFlawsAreFound(t *testing.T) {
	for _, f := range []struct {
		name  string
		flaw  Flaw
		seeds uint64
		with  Faults // that the runs have
	}{
		{"appends count as durable before they are synced", AckUnsynced, 500, 0},
		{"votes are forgotten", ForgetVote, 4000, 0},
		{"a master that was deposed answers reads", DeposedReads, 1000, 0},
		{"a repeated request takes effect twice", ApplyTwice, 1000, 0},
		{"a majority loses its disks", LoseMajority, 500, Members},
		{"fencing tokens are not looked at", IgnoreTokens, 100, 0},
		{"who waits for a lock is told that it is his", GrantWaiting, 100, 0},
		{"a lease counts from the answer", LeaseFromAnswer, 2000, Drift},
		{"a lease is relied upon beyond the bound of clocks' drift", IgnoreDrift, 2000, Clock},
		{"a member is taken out without a look at who is up", RemoveBlindly, 2000, Members | Resize},
		{"damage is not repaired", NoRepair, 500, Members | Rot},
		{"what was refused for want of space is done", RefuseAndDo, 1000, Full},
		{"a failed sync counts as done", AckFailedSync, 2000, Errors},
		{"a server with a damaged root never joins anew", NeverHeal, 500, Members | Rot},
		{"a master whose disk hangs stays master", StayMaster, 500, Hang},
		{"an older state of a root takes part", TrustRoot, 500, Members | Rollback},
		{"what is shown after a failed sync counts as on the disk", TrustCache, 2000, Errors},
	} {
		t.Run(f.name, func(t *testing.T) {
			for seed := uint64(1); seed <= f.seeds; seed++ {
				o := Shape(seed, 3000)
				o.Flaw = f.flaw
				o.Faults = f.with
				switch f.flaw {
				case RemoveBlindly:
					o.Core = 5 // of fewer none can be taken out at first
				case LeaseFromAnswer, IgnoreDrift:
					o.Clients, o.Pace = 3, quietPace
				case IgnoreTokens, GrantWaiting:
					o.Sharers = sharerCount
				}
				if _, err := simulate(t, o); err != nil {
					t.Logf("found after %d seeds: %v", seed, err)
					return
				}
			}
			t.Fatalf("not found within %d seeds", f.seeds)
		})
	}
}

package log

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"testing"
)

// TestSuperseded damages and removes each segment but the newest of a log, and opens it with every index as that of
// a checkpoint. It opens exactly if no entry beyond the checkpoint was in what is lost, with everything that
// is behind it.
func TestSuperseded(t *testing.T) {
	files := damagedLog(t)
	l := open(t, install(t, files), small())
	last, hard := l.Last(), l.HardState()
	firsts := map[string]uint64{} // of the segments in use
	for _, s := range l.index.segments {
		firsts[segmentName(s.number)] = s.first
	}
	var newest uint64 // of those with frames, before this Open began another one
	for name, b := range files {
		var h header
		if number, _ := parseName(name); h.decode(b) && h.segment == number {
			newest = max(newest, number)
		}
	}
	oldest := l.index.segments[0].number
	want := must(l.Entries(l.First(), last+1, 1<<60))(t)
	ok(t, l.Close())
	healed := 0
	for name := range firsts {
		number, _ := parseName(name)
		if number > newest {
			continue
		}
		for _, lost := range []bool{false, true} {
			if lost && number == oldest {
				continue // it may have been recycled: only the caller can tell what is missing
			}
			for superseded := range last + 1 {
				m := install(t, files)
				if lost {
					ok(t, m.Remove(path.Join("log", name)))
				} else {
					put(t, m, name, []byte{files[name][40] ^ 1}, 40)
				}
				o := small()
				o.Superseded = superseded
				what := fmt.Sprintf("%s, lost %t, superseded up to %d", name, lost, superseded)
				possible := number != newest && superseded > 0 && firsts[segmentName(number+1)] <= superseded+1
				l, err := Open(m, "log", o)
				if _, found := errors.AsType[*DamageError](err); !possible {
					if !found && !(lost && number == newest) {
						t.Fatalf("%s: %v", what, err)
					}
					if err == nil {
						ok(t, l.Close())
					}
					continue
				}
				ok(t, err)
				healed++
				hard := HardState{hard.Term, hard.Vote, max(hard.Commit, l.First()-1)}
				if l.Healed() == nil || l.First() != firsts[segmentName(number+1)] || l.Last() != last || l.HardState() != hard {
					t.Fatalf("%s: healed %v, entries %d to %d, %+v", what, l.Healed(), l.First(), l.Last(), l.HardState())
				}
				got := must(l.Entries(l.First(), last+1, 1<<60))(t)
				if !slices.EqualFunc(got, want[len(want)-len(got):], func(a, b Entry) bool { return describe(a) == describe(b) }) {
					t.Fatalf("%s: the entries differ", what)
				}
				ok(t, l.Close())
				l = open(t, m, small()) // for good
				ok(t, l.Close())
			}
		}
	}
	if healed == 0 {
		t.Fatal("nothing was healed")
	}
}

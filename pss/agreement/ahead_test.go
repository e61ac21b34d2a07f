package agreement

import (
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
	"github.com/paxos-iscsi/paxos-iscsi/pss/log"
)

// oldLog is a log of entries of 1 MiB in term 1.
func oldLog(t *testing.T, entries int) *log.Log {
	t.Helper()
	l, err := log.Open(disk.NewMem(), "log", log.Options{SegmentBytes: 8 << 20})
	check(t, err)
	t.Cleanup(func() { check(t, l.Close()) })
	data := make([]byte, 1<<20)
	for i := range entries {
		check(t, l.Append(&log.HardState{Term: 1}, []log.Entry{{Index: uint64(i) + 1, Term: 1, Data: data}}))
	}
	check(t, l.Sync())
	return l
}

// carry carries out what is wanted, and returns what that was.
func carry(t *testing.T, a *ahead, l *log.Log) (from []uint64) {
	t.Helper()
	wanted := a.wanted
	a.wanted = nil
	for _, r := range wanted {
		from = append(from, r.From)
		_, err := a.came(r, r.Carry(l))
		check(t, err)
	}
	return from
}

// TestReadAhead: whoever reads on is always one stretch ahead, and what is used is forgotten.
func TestReadAhead(t *testing.T) {
	l, a := oldLog(t, 40), &ahead{}
	for lo, reads := uint64(1), 0; lo <= 40; {
		got := a.take(lo, 41, 1<<20)
		if len(got) == 0 {
			if reads++; reads > 1 {
				t.Fatalf("entry %d was not read ahead", lo)
			}
		}
		for _, e := range got {
			if e.Index != lo || len(e.Data) != 1<<20 {
				t.Fatalf("entry %d has index %d and %d bytes", lo, e.Index, len(e.Data))
			}
			lo++
		}
		carry(t, a, l)
		if len(a.stretches) > 2 {
			t.Fatalf("%d stretches are kept", len(a.stretches))
		}
	}
	if len(a.stretches) != 0 || a.reading() {
		t.Fatalf("%d stretches are left", len(a.stretches))
	}
}

// TestReadAheadForSeveral: who lags at different places waits for nobody else, and there is a limit.
func TestReadAheadForSeveral(t *testing.T) {
	l, a := oldLog(t, 40), &ahead{}
	a.take(1, 41, 1<<20)
	a.take(20, 41, 1<<20)
	a.take(20, 41, 1<<20)
	if from := carry(t, a, l); len(from) != 2 || from[0] != 1 || from[1] != 20 {
		t.Fatalf("read from %v", from)
	}
	for lo := uint64(1); lo <= 40; lo++ {
		a.take(lo, 41, 1<<20)
	}
	if len(a.wanted) > MaxReads || a.outstanding > MaxReads || len(a.stretches) > MaxReads {
		t.Fatalf("%d reads, %d stretches", a.outstanding, len(a.stretches))
	}
	carry(t, a, l)
	for range idleReads + 1 {
		a.tick()
	}
	if len(a.stretches) != 0 {
		t.Fatalf("%d stretches are kept for nobody", len(a.stretches))
	}
}

// TestReadOfReplacedEntries: what was read before entries of the log were replaced is not used, and counts until it
// is back.
func TestReadOfReplacedEntries(t *testing.T) {
	l, a := oldLog(t, 4), &ahead{}
	a.take(1, 5, 1<<20)
	old := a.wanted[0]
	a.wanted = nil
	a.void()
	if got := a.take(1, 5, 1<<20); got != nil || a.outstanding != 2 {
		t.Fatalf("%d entries, %d reads", len(got), a.outstanding)
	}
	if some, err := a.came(old, old.Carry(l)); some || err != nil {
		t.Fatal(some, err)
	}
	if got := a.take(1, 5, 1<<20); got != nil {
		t.Fatalf("%d entries that were replaced", len(got))
	}
	carry(t, a, l)
	if got := a.take(1, 5, 1<<20); len(got) != 1 {
		t.Fatalf("%d entries", len(got))
	}
	// Entries that were given up are no error: raft sees it by itself. Others are.
	check(t, l.Reset(10, 1))
	a.void()
	a.take(1, 5, 1<<20)
	carry(t, a, l)
	a.take(12, 13, 1<<20)
	if _, err := a.came(a.wanted[0], a.wanted[0].Carry(l)); err == nil {
		t.Fatal("entries that never were there are missing without an error")
	}
}

package scsi

import (
	"sync/atomic"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/metrics"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/sam"
)

// Traffic counts commands, or requests to a store, of one kind.
type Traffic struct {
	Bytes    atomic.Uint64     // that were to be moved
	Duration metrics.Histogram // and how many there were
}

func (k *Traffic) add(bytes int64, took time.Duration) {
	k.Bytes.Add(uint64(bytes))
	k.Duration.Add(took)
}

// Load is what a unit has done since it was made, for all sessions together and whether they are still there or
// not. It may be read at any time.
type Load struct {
	// Commands from their arrival to their status, by what they move: data-in, data-out or nothing.
	Reads, Writes, Others Traffic
	// Requests to the store from their submission to their completion. The difference to the commands is the
	// waiting for each other, for reservations and for memory.
	StoreReads, StoreWrites Traffic

	Errors  atomic.Uint64 // commands that ended with another status than GOOD
	Aborted atomic.Uint64 // commands that a task management function ended; nowhere else
}

// since is a moment in the unit's own time, which no clock can set back; never 0.
func (u *Unit) since() int64 { return int64(time.Since(u.born)) + 1 }

// count counts a command that ends.
func (l *Load) count(t *task, aborted bool) {
	if t.absent {
		return
	}
	if aborted {
		l.Aborted.Add(1)
		return
	}
	c, took := t.command, time.Duration(t.unit.since()-t.arrived)
	switch {
	case c.OutBytes > 0:
		l.Writes.add(int64(c.OutBytes), took)
	case c.InBytes > 0:
		l.Reads.add(int64(c.InBytes), took)
	default:
		l.Others.add(0, took)
	}
	if t.status != sam.Good {
		l.Errors.Add(1)
	}
}

// answered counts a request of t that the store has completed. What asks for no data is counted with the writes: a
// flush and a deallocation wait for the same.
func (l *Load) answered(t *task, took time.Duration) {
	read, bytes := t.io.Op == backstore.Read, t.io.Length
	if c := t.command; t.work != nil { // for a worker, whose requests say nothing
		read, bytes = c.InBytes > 0, int64(max(c.InBytes, c.OutBytes))
	}
	if read {
		l.StoreReads.add(bytes, took)
	} else {
		l.StoreWrites.add(bytes, took)
	}
}

// Waiting is what is under way on a unit.
type Waiting struct {
	Commands int           // that have arrived and not ended
	Requests int           // of them, those that wait for the store
	Longest  time.Duration // of these, how long the one that has waited longest
	NotReady bool          // the medium can't be used yet
}

// StoreName is the type of the unit's store.
func (u *Unit) StoreName() string { return u.storeName }

// Load is the unit's account, to be read only.
func (u *Unit) Load() *Load { return &u.load }

// Waiting looks at the task set.
func (u *Unit) Waiting() Waiting {
	u.mu.Lock()
	defer u.mu.Unlock()
	now := u.since()
	w := Waiting{Commands: u.taskCount, NotReady: u.medium != nil && u.medium.waiting.Load()}
	for t := u.first; t != nil; t = t.next {
		if at := t.asked.Load(); at != 0 {
			w.Requests++
			w.Longest = max(w.Longest, time.Duration(now-at))
		}
	}
	return w
}

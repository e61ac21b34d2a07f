package replica

import (
	"slices"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pss/agreement"
	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
)

// A disk that hangs. A follower whose disk does not answer acknowledges nothing, and the others go on without it. A
// master in that state would stop everybody: the entries are agreed upon without its disk, but reads wait for it.
// So a master hands over when an append, a client's read, or a read of the log for agreement is not finished within
// diskPatience. What its clients wait for they ask the new master. When the disk answers again the server goes on as a follower.
//
// To hand over, a master brings its successor up to its own state, and that may be what the disk keeps it from: what it
// was elected with can be on its disk and in nobody's memory. Then the offer ends without effect, and the next time it
// abdicates: the others are a majority, and have everything that was agreed on.

// diskPatience is how long an append or a read may take on a master's disk.
const diskPatience = 1500 * time.Millisecond

// hangs says that the disk has not answered for too long.
func (c *Core) hangs() bool {
	return len(c.appending) > 0 && c.now-c.appending[0] > diskPatience ||
		len(c.loads) > 0 && c.now-c.loads[0].at > diskPatience ||
		c.reading != 0 && c.now-c.reading > diskPatience
}

// load is a read of the log that agreement waits for.
type load struct {
	read *agreement.Read
	at   time.Duration // when it was handed out
}

// loaded notes that a read of the log was carried out.
func (c *Core) loaded(r *agreement.Read) {
	c.loads = slices.DeleteFunc(c.loads, func(l load) bool { return l.read == r })
}

// abdicates says that this master's disk hangs, and that it offered the mastership because of that in this term and
// still has it.
func (c *Core) abdicates() bool {
	offer := c.cfg.Timing.Tick * time.Duration(c.cfg.Timing.Election)
	return c.hangs() && c.hungIn == c.view.Term && !c.node.HandingOver() && c.now-c.hungAt > 2*offer
}

// Reading tells since when the oldest read of the disk is under way, or 0.
func (c *Core) Reading(since time.Duration) { c.reading = since }

// wait waits for d. It reports false when the server ends.
func (r *Replica) wait(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-r.ctx.Done():
		return false
	}
}

// watchSpace looks at the room on the disk until the server ends.
func (r *Replica) watchSpace() {
	spacer, ok := r.fs.(disk.Spacer)
	if !ok {
		return
	}
	for again := true; again; again = r.wait(spaceEvery) {
		free, total, err := spacer.Space()
		if err != nil {
			r.logger.Warn("the room on the disk is not known", "error", err)
			continue
		}
		reserved := reserve(&r.opts, total)
		r.drive(func(time.Duration) error {
			r.core.Space(free, reserved)
			r.room = admin.Space{Free: free, Total: total, Reserved: reserved, Level: r.core.space.String()}
			return nil
		})
	}
}

// watchReads tells the Core of reads that take long, until the server ends.
func (r *Replica) watchReads() {
	for r.wait(diskPatience / 4) {
		oldest := time.Duration(0)
		r.clients.Lock()
		for c := range r.clients.all {
			if at := time.Duration(c.readSince.Load()); at != 0 && (oldest == 0 || at < oldest) {
				oldest = at
			}
		}
		r.clients.Unlock()
		r.drive(func(time.Duration) error { r.core.Reading(oldest); return nil })
	}
}

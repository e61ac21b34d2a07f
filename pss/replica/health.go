package replica

import (
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
)

// A disk that hangs. A follower whose disk does not answer acknowledges nothing, and the others go on without it. A
// master in that state would stop everybody: the entries are agreed upon without its disk, but reads wait for it.
// So a master hands over when an append or a read is not finished within diskPatience. What its clients wait for
// they ask the new master. When the disk answers again the server goes on as a follower.

// diskPatience is how long an append or a read may take on a master's disk.
const diskPatience = 1500 * time.Millisecond

// hangs says that the disk has not answered for too long.
func (c *Core) hangs() bool {
	return len(c.appending) > 0 && c.now-c.appending[0] > diskPatience ||
		c.reading != 0 && c.now-c.reading > diskPatience
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

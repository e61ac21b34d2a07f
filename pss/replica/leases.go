package replica

import (
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
	"github.com/paxos-iscsi/paxos-iscsi/pss/state"
)

// leaseCheck is how often the master looks for sessions whose lease is over, and asks its connections who
// has shown a sign of life. A lease ends up to twice as much later than it says.
const leaseCheck = 250 * time.Millisecond

// sleptFor is by how much a look that comes late shows that this server itself stood still.
const sleptFor = 500 * time.Millisecond

// leases is what the master knows of the clients behind the sessions. None of it is agreed on: a client that
// lives costs no entry in the log. Only that a session has expired is agreed on, see state.SessionExpire.
type leases struct {
	since time.Duration            // since when this server has been able to hear clients as master
	seen  map[uint64]time.Duration // when the client of a session was last heard of
	next  time.Duration            // when to look again
	list  []state.Lease
}

// restart gives every session a fresh lease.
func (l *leases) restart(now time.Duration) {
	l.since, l.next = now, now+leaseCheck
	l.seen = make(map[uint64]time.Duration)
}

// Alive tells that the client of a session was heard of. It counts on the master only.
func (c *Core) Alive(now time.Duration, session uint64) {
	if c.leases.seen != nil {
		c.leases.seen[session] = now
	}
}

// LeasesDue says whether the next Tick looks for sessions whose lease is over: what the surroundings know of
// living clients is to be told with Alive before.
func (c *Core) LeasesDue(now time.Duration) bool {
	return c.cfg.ExpireSessions && c.ready && c.view.Self && now >= c.leases.next
}

// expire proposes the end of the sessions whose lease is over.
func (c *Core) expire() {
	l := &c.leases
	if !c.LeasesDue(c.now) {
		return
	}
	if c.now-l.next > sleptFor {
		// This server slept: whatever its clients sent meanwhile is still to be read.
		l.restart(c.now)
		return
	}
	l.next = c.now + leaseCheck
	l.list = c.machine.Leases(l.list[:0])
	var args []byte
	ended := 0
	seen := make(map[uint64]time.Duration, len(l.list)) // no longer than there are sessions
	for _, s := range l.list {
		last := max(l.since, l.seen[s.Session])
		if seen[s.Session] = last; c.now-last > s.For && ended < op.MaxExpiries {
			args = op.AppendExpiry(args, op.Expiry{Session: s.Session, Epoch: s.Epoch})
			ended++
			c.logger.Info("a session expires", "session", s.Session, "silent", c.now-last)
		}
	}
	l.seen = seen
	if ended > 0 {
		c.Propose(Proposal{Op: op.Head(nil, &op.Header{Code: op.SessionExpire}, args, 0)})
	}
}

// reportAlive tells the Core which clients were heard of since the last time. Its caller holds mu.
func (r *Replica) reportAlive(now time.Duration) {
	if !r.core.LeasesDue(now) {
		return
	}
	r.clients.Lock()
	defer r.clients.Unlock()
	for c := range r.clients.all {
		if c.heard.Swap(false) {
			r.core.Alive(now, c.session)
		}
	}
}

// wake tells the client of a session that something it waits for is there.
func (r *Replica) wake(session uint64, touched *[]*outlet) {
	r.clients.Lock()
	defer r.clients.Unlock()
	for c := range r.clients.all {
		if c.session == session {
			c.out.end(c.out.begin().Wake(session))
			touch(touched, c.out)
		}
	}
}

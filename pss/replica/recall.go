package replica

import (
	"fmt"
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/paxos-iscsi/paxos-iscsi/pss/agreement"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
)

// # Roots that were put back
//
// A vote and an acknowledgement are promises, and only the root of who gave them keeps them. If an older state of it is
// put back (a backup, a snapshot of the machine, a disk that lost what it had said was written) the server does not
// know what it promised. So the others remember it (agreement.Promise, Memory), and a server that starts asks them
// before it takes any part: until then its Node is held, which neither votes, nor acknowledges, nor echoes a heartbeat,
// nor stands for election.
//
// A server is refuted by anybody who knows of a start of it that its root has not seen, or of a term or an
// acknowledgement beyond what its log holds. It then ends with agreement.ErrLostLog, as one whose disk was wiped, and
// comes back as a new member (Heal). It is let in
//
//  1. by the word of a master that has its lease. That master has on its disk all that was agreed on, by the votes of
//     servers that have kept their promises, and knows whatever was acknowledged to it;
//  2. else when it is a majority together with those that answered. If none of those has known a master since it
//     started the whole cell starts, and nobody is waited for. If one has, the server waits for recallPatience: if the
//     others are a majority without it they elect a master by then, which is case 1. It is a majority of the newest
//     members that anybody who answered knows of: a server that lags may know of members only that left the cell since,
//     and who is no member does not answer.
//
// So a server waits only when the cell can do without its vote, or when its vote is needed by servers that have lost
// their master a moment ago. After it is let in it goes on to ask who has not answered yet: no vote is given before an
// election time-out has passed, and until then each answer counts.
//
// Everybody's answer says what it has applied, too, and the server gives no vote to who lacks any of that, itself
// included (agreement.Node.SetFloor). That harms nobody who could be elected rightly.
//
// Why an older root of a minority does not count, then. What was agreed on with the promise of a server is lost only if
// that server and others that lack it elect somebody. In case 1 the master has it, and so has, by the floor, whoever the
// server votes for. In case 2 the server is refuted if anybody who answers knows what it has forgotten: the master to
// whom it was given; everybody who has heard a heartbeat of that master since; and, of those that were stopped
// meanwhile, whose root has it: each start, and what was acknowledged before the last checkpoint. What is left is a root
// that lost only what came after the last heartbeat that anybody heard who is still there, while the master is gone at
// the same time: to exclude that too, a cell would have to wait for each master that is gone.
//
// Nothing of this is synced on the path of a write: one block with each start, with each checkpoint, and with each new
// start of another server.

// Named limits of asking.
const (
	recallPatience = 2 // election time-outs, in which others that have known a master elect one if they can
	recallEnds     = 8 // election time-outs after which the others are not asked any more
)

// recall is how far a server that starts is with asking the others what it has promised.
type recall struct {
	asking  bool
	since   time.Duration
	askedAt time.Duration
	word    bool             // of a master, to be let in
	heard   map[cell.ID]bool // who has answered, and whether it has known a master
	newest  Announce         // the answer of who has applied most, if that is more than this server has
}

// beginRecall has a server that was engaged ask the others.
func (c *Core) beginRecall() {
	if c.cfg.Memory == nil || c.mem.entrance != nil {
		return
	}
	c.recall = recall{asking: true, since: c.now, askedAt: c.now - c.cfg.Timing.Tick, heard: make(map[cell.ID]bool)}
	c.letIn()
}

// elections is a number of election time-outs.
func (c *Core) elections(count int) time.Duration {
	return time.Duration(count*c.cfg.Timing.Election) * c.cfg.Timing.Tick
}

// ask asks who has not answered yet: each tick while that is waited for, then with heartbeats.
func (c *Core) ask() {
	rc := &c.recall
	every := c.cfg.Timing.Tick
	if !c.node.Held() {
		every *= time.Duration(c.cfg.Timing.Heartbeat)
	}
	if !rc.asking || c.now-rc.askedAt < every {
		return
	}
	if !c.node.Held() && c.now-rc.since > c.elections(recallEnds) {
		rc.asking = false
		return
	}
	rc.askedAt = c.now
	for id := range cell.ID(cell.MaxServers) {
		if _, heard := rc.heard[id]; id != c.cfg.ID && c.placed(id) && (!heard || c.node.Held()) {
			c.tell(id, Announce{Asks: c.cfg.Memory.life()})
		}
	}
	c.letIn()
}

// placed says that there is a server with this id, or may be.
func (c *Core) placed(id cell.ID) bool {
	return c.mem.table.Find(id).Last != 0 || slices.ContainsFunc(c.cfg.Servers, func(s cell.Server) bool { return s.ID == id })
}

// remind answers a server that asks what it has promised.
func (c *Core) remind(to cell.ID, a Announce) {
	p, members := c.node.Promised(a.Number), c.node.Members()
	c.tell(to, Announce{For: a.Root, Answers: a.Asks, Promise: &p, Led: c.led,
		Leased: c.view.Self && c.ready && c.now < c.node.Lease(), Applied: c.applied, AppliedTerm: c.appTerm,
		Voters: members.Voters, Outgoing: members.VotersOutgoing})
}

// reminded takes an answer. The error says that this server has lost what it promised.
func (c *Core) reminded(from cell.ID, a Announce) error {
	rc := &c.recall
	if !rc.asking || a.Answers != c.cfg.Memory.life() || a.For != c.mem.identity.Root {
		return nil
	}
	if a.Promise != nil && a.Promise.Member == c.mem.identity.Number {
		if err := c.forgotten(a.Promise); err != nil {
			return fmt.Errorf("%w: server %d %w", agreement.ErrLostLog, from, err)
		}
	}
	c.node.SetFloor(a.AppliedTerm, a.Applied)
	rc.heard[from] = a.Led
	rc.word = rc.word || a.Leased
	if len(a.Voters) > 0 && a.Applied > max(c.applied, rc.newest.Applied) {
		rc.newest = a
	}
	c.letIn()
	return nil
}

// forgotten says what another server knows that this one has promised and does not know of, or nothing.
func (c *Core) forgotten(p *agreement.Promise) error {
	m := c.cfg.Memory
	if p.Start == m.start && p.Life == m.life() {
		return nil // it speaks of this very start
	}
	at := c.node.Position()
	switch {
	case !m.knows(p.Start, p.Life):
		return fmt.Errorf("knows of its start %d, of which its root, which has seen %d, knows nothing", p.Start, m.start)
	case p.Beyond(at.Term, at.Last):
		return fmt.Errorf("knows that it held entry %d in term %d, and its log ends at %d in term %d",
			p.Index, p.Term, at.Last, at.Term)
	}
	return nil
}

// letIn has the server take part, if it may.
func (c *Core) letIn() {
	rc := &c.recall
	if !rc.asking || !c.node.Held() {
		return
	}
	led := false
	for _, l := range rc.heard {
		led = led || l
	}
	members := c.node.Members()
	if n := &rc.newest; n.Applied > c.applied {
		members = raftpb.ConfState{Voters: n.Voters, VotersOutgoing: n.Outgoing}
	}
	majority := c.node.Quorum(members, func(id cell.ID) bool { _, ok := rc.heard[id]; return ok })
	if !rc.word && (!majority || led && c.now-rc.since < c.elections(recallPatience)) {
		return
	}
	c.node.Release()
	c.logger.Info("what this server has promised is known: it takes part", "asked", len(rc.heard), "master's word", rc.word,
		"after", c.now-rc.since)
}

// recalls says, for an operator, that the server asks still.
func (c *Core) recalls() string {
	if c.cfg.Memory == nil || c.mem.entrance != nil || !c.node.Held() {
		return ""
	}
	return "the other servers to say what this one has promised: the master, or so many that they are a majority with it"
}

// rememberNow has what is known of the others kept, when it should be.
func (c *Core) rememberNow(out *Output) {
	news := c.node.NewStarts()
	if c.cfg.Memory == nil || c.mem.entrance != nil || !news && !c.remember {
		return
	}
	c.remember = false
	out.Remember = c.Promised()
}

// Promised is what is to be kept of the others (Memory.Keep).
func (c *Core) Promised() []agreement.Promise {
	return slices.DeleteFunc(c.node.Promises(), func(p agreement.Promise) bool { return p.Member == c.mem.identity.Number })
}

package sim

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/paxos-iscsi/paxos-iscsi/pss/agreement"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/store"
)

// Flaw is a rule broken on purpose, to prove that the oracles notice.
type Flaw int

// The flaws.
const (
	NoFlaw          Flaw = iota
	AckUnsynced          // appends count as durable before they are synced
	ForgetVote           // votes are not written to the log
	DeposedReads         // whoever was master once goes on answering reads
	LoseMajority         // disks of more than a minority are wiped at the same time
	NoRepair             // damaged blocks are not fetched from other servers
	RefuseAndDo          // an operation is refused for want of space, and agreed on all the same
	AckFailedSync        // a sync that failed counts as one that did not
	TrustCache           // what is shown after a failed sync counts as being on the disk
	NeverHeal            // a server that can't start from its damaged root does not join anew
	StayMaster           // a master never hands over, and does not look at how long reads take
	IgnoreTokens         // under which token a change of a volume comes does not matter
	GrantWaiting         // who waits for a lock is told that it is his
	LeaseFromAnswer      // the lease counts from when a heartbeat's answer came, not from when the heartbeat was sent
	IgnoreDrift          // leases are relied upon while clocks differ by more than agreement.MaxDrift
	RemoveBlindly        // who is up is not looked at before a member is taken out
	TrustRoot            // who starts with an older state of its root takes part at once
	ApplyTwice           // the same request may take effect twice: duplicates are not recognised
)

// Options shapes a run.
type Options struct {
	Seed     uint64
	Core     int // servers that vote
	Replicas int // servers that learn
	Clients  int
	Sharers  int  // clients that share a volume and a lock
	Streams  bool // clients also write a whole chunk in order
	Steps    int  // events of the first phase; with Resize twice as many
	Pace     int  // 1: something goes wrong so often that there is a master half of the time at best; more: so much less often
	Faults   Faults
	Flaw     Flaw
	Trace    func(format string, args ...any) // called for every event; nil for none
}

// quietPace is the Pace of runs in which the cell serves most of the time.
const quietPace = 5

// Shape chooses a cell's size and load from a seed: small cells most of the time, the full 5+3 sometimes.
func Shape(seed uint64, steps int) Options {
	rng := rand.New(rand.NewPCG(seed, 0x5eed))
	o := Options{Seed: seed, Core: 3, Clients: 2 + rng.IntN(2), Steps: steps}
	if rng.IntN(4) == 0 {
		o.Core = 5
	}
	if rng.IntN(4) == 0 {
		o.Replicas = 1 + rng.IntN(2)
	}
	o.Faults = chooseFaults(rng)
	if o.Faults.Has(Drift) {
		o.Clients = 3 // so that one only reads
	}
	if rng.IntN(3) == 0 {
		o.Sharers = sharerCount
	}
	o.Streams = rng.IntN(streamsOneIn) == 0
	o.Pace = 1
	if rng.IntN(2) == 0 {
		o.Pace = quietPace
	}
	if rng.IntN(rollbackOneIn) == 0 {
		o.Faults |= Members | Rollback
	}
	return o
}

// event is something that happens at a time.
type event struct {
	at    time.Duration
	order uint64 // breaks ties, in order of scheduling
	do    func()
}

type events []event

func (q events) Len() int { return len(q) }
func (q events) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].order < q[j].order
}
func (q events) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *events) Push(e any)   { *q = append(*q, e.(event)) }
func (q *events) Pop() any {
	old := *q
	e := old[len(old)-1]
	old[len(old)-1] = event{}
	*q = old[:len(old)-1]
	return e
}

// world is a cell, its clients, and everything between them.
type world struct {
	o       Options
	rng     *rand.Rand
	now     time.Duration
	queue   events
	ordered uint64
	steps   int

	servers []*server
	clients []*client
	cut     [cell.MaxServers][cell.MaxServers]bool // messages from, to are lost
	founded bool                                   // with Resize: there is a cell
	calm    bool                                   // second phase: no more faults

	history history
	holder  *client // who has the lock; nil: perhaps nobody
	granted uint64  // version of the lock when it was got last
	grants  int
	newest  uint64 // token of the volume that was heard of
	digests map[uint64]digest
	failure error

	catchUps int
	adopted  uint64          // chunks that became of bodies
	injected [faultKinds]int // how often each fault was injected
	buffer   [store.BlockSize * 8]byte
	readsAt  time.Duration // with Clock: from when on clients read again
}

// digest is what a server held at an index, and which server said so first.
type digest struct {
	sum    uint64
	server cell.ID
}

func newWorld(o Options) *world {
	return &world{o: o, rng: rand.New(rand.NewPCG(o.Seed, 0xce11)), digests: make(map[uint64]digest)}
}

func (w *world) tracef(format string, args ...any) {
	if w.o.Trace != nil {
		w.o.Trace("%12v "+format, append([]any{w.now}, args...)...)
	}
}

// fail ends the run: an oracle is not content.
func (w *world) fail(format string, args ...any) {
	if w.failure == nil {
		w.failure = fmt.Errorf("seed %d at %v: %w", w.o.Seed, w.now, fmt.Errorf(format, args...))
		w.tracef("FAILURE %v", w.failure)
		w.describe()
	}
}

// describe traces how every server stands.
func (w *world) describe() {
	for _, s := range w.all() {
		if !s.up {
			w.tracef("server %d is down", s.id)
			continue
		}
		n, t := s.core.Node(), s.core.Table()
		ms := n.Members()
		w.tracef("server %d, member %d, %+v: applied %d, %+v, %+v, members %v, table %+v, progress %+v", s.id, n.Self(),
			s.wound, s.core.Applied(), s.core.View(), n.Position(), ms.String(), t, n.Progress(nil))
	}
}

// after schedules do.
func (w *world) after(d time.Duration, do func()) {
	w.ordered++
	heap.Push(&w.queue, event{w.now + d, w.ordered, do})
}

// step lets the next event happen. It reports false when the run has ended.
func (w *world) step() bool {
	if len(w.queue) == 0 || w.failure != nil {
		return false
	}
	e := heap.Pop(&w.queue).(event)
	w.now = e.at
	w.steps++
	w.guarded(e.do)
	return w.failure == nil
}

// guarded turns a panic into a failure: the engine panics when an invariant is broken, and a server
// ends by that. No invariant may be broken here.
func (w *world) guarded(do func()) {
	defer func() {
		if p := recover(); p != nil {
			w.fail("broken invariant: %v", p)
		}
	}()
	do()
}

// between is a random time in [lo, hi).
func (w *world) between(lo, hi time.Duration) time.Duration {
	return lo + time.Duration(w.rng.Int64N(int64(hi-lo)))
}

// mayRead says whether leases can be relied upon, so that what clients read is right.
func (w *world) mayRead() bool {
	return !w.o.Faults.Has(Clock) || w.calm && w.now >= w.readsAt || w.o.Flaw == IgnoreDrift
}

func (w *world) chance(oneIn int) bool { return w.rng.IntN(oneIn) == 0 }

// Timing of the simulated network and disks.
const (
	netFast = 100 * time.Microsecond
	netSlow = 2 * time.Millisecond
	netLate = 400 * time.Millisecond // a message that arrives when nobody expects it any more
	netLost = time.Second            // one that was long given up
)

// transit is how long a message takes, or false when it is lost.
func (w *world) transit() (time.Duration, bool) {
	if w.calm {
		return w.between(netFast, netSlow), true
	}
	switch w.rng.IntN(64) {
	case 0:
		return 0, false
	case 1:
		return w.between(netSlow, netLate), true
	}
	return w.between(netFast, netSlow), true
}

// send carries a message between servers: perhaps late, perhaps twice, perhaps never. A server that
// votes is likely to die of it.
func (w *world) send(from cell.ID, out agreement.Outgoing) {
	if !w.calm && out.Message.Type == raftpb.MsgVoteResp && !out.Message.Reject && w.chance(8) {
		w.after(w.between(1, netSlow), func() { w.kill(w.servers[from], w.chance(2)) })
	}
	if w.o.Flaw == StayMaster && out.Message.Type == raftpb.MsgTimeoutNow {
		return
	}
	if s := w.servers[from]; s.stops != 0 && !w.calm && out.Message.Type == raftpb.MsgHeartbeat {
		w.strand(s, s.stops)
	}
	copies := 1
	if !w.calm && w.chance(50) {
		copies = 2
	}
	for range copies {
		d, ok := w.transit()
		if !ok || w.cut[from][out.To] {
			continue
		}
		if !w.calm && out.Message.Type == raftpb.MsgVote && w.chance(6) {
			d = w.between(netSlow, netLost) // elections are rare: what may go wrong in them shall
		}
		w.after(d, func() {
			if w.cut[from][out.To] && !w.calm {
				return
			}
			w.servers[out.To].take(clone(out.Message), out.Stamp, out.Echo)
		})
	}
}

// clone copies what agreement may change in a message; entries' data never changes.
func clone(m raftpb.Message) raftpb.Message {
	m.Entries = append([]raftpb.Entry(nil), m.Entries...)
	return m
}

package replica

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/paxos-iscsi/paxos-iscsi/pss/agreement"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/log"
	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
	"github.com/paxos-iscsi/paxos-iscsi/pss/state"
	"github.com/paxos-iscsi/paxos-iscsi/pss/store"
)

// Named limits of a replica.
const (
	maxBatchEntries = 1024    // proposals given to agreement at once
	maxBatchBytes   = 4 << 20 // bytes of proposals given to agreement at once
	// MaxQueuedProposals and MaxQueuedBytes are how much may wait for agreement. The caller keeps each
	// client within a window; what all windows together bring beyond these is refused as NotMaster would be.
	MaxQueuedProposals = 64 << 10
	MaxQueuedBytes     = 1 << 30
	// MaxQueuedReads is how many reads may wait for the lease; more are refused in the same way.
	MaxQueuedReads = 64 << 10
	// keptCheckpoints is how many checkpoints back the log is kept for servers that lag.
	keptCheckpoints = 3
)

// Config sets up a Core.
type Config struct {
	ID      cell.ID
	Members raftpb.ConfState // for a Core without an Identity: of a new cell; a checkpoint's members win
	Timing  agreement.Timing
	Logger  *slog.Logger

	// Identity is whose root it is. While it is of no member (Number is 0) the Core founds or joins a cell.
	// Without one (its Root is zero) members are fixed.
	Identity Identity
	Servers  []cell.Server // of server.conf, for founding and joining
	Life     uint64        // of this process: random, for founding
	Memory   *Memory       // of the root, for an Identity: the others are asked before this server takes part; nil: they are not
	Source   *cell.ID      // whom to catch up from at first; nil: the master

	// CheckpointBytes of changed blocks in memory begin a checkpoint.
	CheckpointBytes int64
	// OverlayBytes of changed blocks in memory make applying wait for the checkpoint under way.
	OverlayBytes int64
	// DigestEvery is how many entries are summed up to be compared with the other servers; 0 is DefaultDigestEvery.
	DigestEvery uint64
	// CheckpointEvery makes a checkpoint when there is anything new and the last one is so old.
	CheckpointEvery time.Duration
	// ExpireSessions has the master end the sessions of clients that Alive does not tell of.
	ExpireSessions bool
}

// Origin tells who asked and under which tag, for the reply. All of it belongs to the caller.
type Origin struct {
	Client any
	Tag    uint64
	Object uint64        // that the operation is for, to be counted; 0 for none
	Since  time.Duration // when it came
}

// Proposal is an operation that a client asks for. Op is the whole operation, parsed and checked by
// the caller; the Core keeps it, and it must not change any more.
type Proposal struct {
	Origin
	Op []byte
}

// Read is a question that the master may answer when it is sure to be master. Query is nil for a
// read of blocks, which the caller carries out itself.
type Read struct {
	Origin
	Query *op.Query
	at    time.Duration
}

// Reply answers an Origin.
type Reply struct {
	Origin
	NotMaster bool // this server can't answer: ask the master
	Bytes     int  // of the operation this answers, 0 for a read
	Result    op.Result
	Answer    *op.Answer // of a query
	Granted   bool       // a read of blocks may be carried out now
}

// Output is what a Core wants done. Appends are carried out in order; the rest in any order.
type Output struct {
	Messages []agreement.Outgoing
	Appends  []agreement.Append
	Replies  []Reply
	Reads    []*agreement.Read // of the log, to be carried out beside everything else, then given to ReadDone
	Flush    *store.Flush      // to be run beside everything else, then given to FlushDone
	CatchUp  *CatchUp          // to be carried out beside everything else, then given to CaughtUp
	Repair   *Repair           // damage that applying met: to be repaired beside everything else, then Repaired
	Recycle  uint64            // the log up to here is not needed any more; 0: nothing new
	Master   *agreement.View
	Notices  []Notice            // to be sent, each as a datagram
	Identity *Identity           // to be written to the root, then Core.IdentityKept is to be called
	Remember []agreement.Promise // to be kept, with Memory.Keep; nil: nothing new
	Table    *Table              // the cell's members, when they changed
	Wakes    []uint64            // sessions whose clients are to be told that something they wait for is there
}

// Reset empties o and keeps its memory.
func (o *Output) Reset() {
	clear(o.Messages)
	clear(o.Appends)
	clear(o.Replies)
	clear(o.Notices)
	clear(o.Reads)
	*o = Output{Messages: o.Messages[:0], Appends: o.Appends[:0], Replies: o.Replies[:0], Notices: o.Notices[:0],
		Reads: o.Reads[:0], Wakes: o.Wakes[:0]}
}

// waiter is a client that waits for the entry at an index.
type waiter struct {
	Origin
	bytes int
}

// Core is a replica without its surroundings: bytes that arrived go in, and messages to send,
// entries to append and replies come out. It has no goroutine, clock, file or socket of its own (the
// store it applies to reads old blocks for partial writes), so the simulator runs it as it is. It is
// not safe for concurrent use, but for Lease.
type Core struct {
	cfg     Config
	node    *agreement.Node
	machine *state.Machine
	store   *store.Store
	log     *log.Log // read by agreement
	logger  *slog.Logger

	mem       membership
	notices   []Notice
	tableNews bool          // since the last Pump
	heardAt   time.Duration // when the master's last message came
	recall    recall
	led       bool // a master was known, since this server started
	remember  bool // what the others have promised is to be kept

	now     time.Duration
	agreed  agreement.Output
	commits []agreement.Commit // handed out by agreement, waiting to be applied
	applied uint64
	appTerm uint64 // term of the entry at applied
	view    agreement.View
	ready   bool // master, and an entry of its own term is applied
	lease   atomic.Int64
	leases  leases

	queue    []Proposal // not yet proposed
	waiting  []waiter   // clients of the entries from waitFrom on
	waitFrom uint64
	waitTerm uint64
	reads    []Read

	flushing    bool
	flushIndex  uint64
	flushAt     time.Duration
	checkpoints []uint64 // newest last
	wanted      uint64   // a checkpoint at this index or later is to be made at once

	base    base // what a server that lags too far is brought to
	held    time.Duration
	behind  *CatchUp // this server lags too far: under way
	retryAt time.Duration
	holdLog bool // a server that lags is there: the log is kept for it

	digest digester

	hurt   hurt          // damage that applying waits for
	unread time.Duration // when a client's read last met damage that could not be repaired; 0: not since this server is master
	mended bool          // blocks were repaired that are damaged on disk until the next checkpoint

	space      spaceLevel
	cellFull   bool // of a master: too few disks have room
	another    bool // of a master: others vote, so that another server could be it, now or soon
	surveyAt   time.Duration
	handOverAt time.Duration
	progress   [cell.MaxServers]agreement.Progress // for survey

	underWay     *store.Flush // handed out
	flush        *store.Flush // to be run again at flushAgainAt, since the disk was full; nil: none
	flushAgainAt time.Duration

	appending []time.Duration // when the appends that are not carried out yet were handed out
	loads     []load          // reads of the log that are not carried out yet; agreement.MaxReads at most
	hungIn    uint64          // term in which the mastership was offered because the disk hangs, and hungAt when
	hungAt    time.Duration
	reading   time.Duration // since when the oldest read of the disk is under way; 0: none
}

// NewCore starts a replica from its log and its store, which stands at ckpt.
func NewCore(cfg Config, l *log.Log, st *store.Store, ckpt store.Position, now time.Duration) (*Core, error) {
	c := &Core{cfg: cfg, store: st, log: l, logger: cfg.Logger, now: now, flushAt: now, mem: newMembership(cfg, now),
		tableNews: true, machine: state.New(st), applied: ckpt.Index, appTerm: ckpt.Term, checkpoints: []uint64{ckpt.Index}}
	members := c.mem.founders(&cfg)
	if ckpt.Index > 0 {
		m, table, meta, err := decodeMeta(ckpt.Meta)
		if err != nil {
			return nil, fmt.Errorf("checkpoint at %d: %w", ckpt.Index, err)
		}
		if err := c.machine.Restore(meta); err != nil {
			return nil, fmt.Errorf("checkpoint at %d: %w", ckpt.Index, err)
		}
		members, c.mem.table = m, table
		c.base = base{index: ckpt.Index, term: ckpt.Term, members: m, meta: ckpt.Meta, objects: st.Objects(store.Checkpoint)}
	}
	if err := c.engage(members); err != nil {
		return nil, err
	}
	c.digest.every = cmp.Or(cfg.DigestEvery, DefaultDigestEvery)
	c.digest.begin(c.applied)
	return c, nil
}

// Tick lets time pass; it is called once for each tick of the timing.
func (c *Core) Tick(now time.Duration) error {
	c.now = now
	c.node.Tick(now)
	c.ask()
	c.expire()
	c.retrySnapshots()
	c.survey()
	return c.meet()
}

// Step takes a message from another server; see agreement.Node.Step for stamp and echo.
func (c *Core) Step(now time.Duration, m raftpb.Message, stamp, echo time.Duration) error {
	c.now = max(c.now, now)
	if c.foreign(&m) {
		return nil
	}
	if m.From == c.node.Master() {
		c.heardAt = c.now
	}
	if c.space == spaceNone && !c.takes(&m) {
		return nil // as if it were lost
	}
	if m.Type == raftpb.MsgSnap && m.Snapshot != nil && m.Snapshot.Metadata.Index > c.applied {
		c.lag(m)
		return nil
	}
	return c.node.Step(now, m, stamp, echo)
}

// Propose takes operations from a client. Each is answered once, in a Reply, perhaps with NotMaster.
func (c *Core) Propose(ps ...Proposal) { c.queue = append(c.queue, ps...) }

// Ask takes a read. It is answered once, in a Reply, as soon as the lease allows.
func (c *Core) Ask(now time.Duration, r Read) {
	c.now = max(c.now, now)
	r.at = now
	c.reads = append(c.reads, r)
}

// Appended tells that an Append was carried out.
func (c *Core) Appended(now time.Duration, a *agreement.Append) error {
	c.now = max(c.now, now)
	c.appending = c.appending[:copy(c.appending, c.appending[1:])]
	if a.Snapshot != nil {
		if err := c.installed(); err != nil {
			return err
		}
	}
	return c.node.Appended(now, a, &c.agreed)
}

// ReadDone tells that a Read was carried out, with the error of that.
func (c *Core) ReadDone(r *agreement.Read, err error) error {
	c.loaded(r)
	return c.node.ReadDone(r, err)
}

// FlushDone tells how the checkpoint under way ended. If the disk was full it is handed out again later.
func (c *Core) FlushDone(err error) error {
	if noRoom(err) {
		c.flush, c.flushAgainAt = c.underWay, c.now+spaceRetry
		return nil
	}
	c.flushing, c.underWay, c.remember = false, nil, true
	if err != nil {
		return fmt.Errorf("checkpoint at %d: %w", c.flushIndex, err)
	}
	if c.checkpoints[len(c.checkpoints)-1] != c.flushIndex { // else it was made for repaired blocks only
		c.checkpoints = append(c.checkpoints, c.flushIndex)
	}
	return nil
}

// Lease is the time until which blocks may be read from the store in answer to a client, without
// asking the Core; 0 when this server is not master. Any goroutine may call it.
func (c *Core) Lease() time.Duration { return time.Duration(c.lease.Load()) }

// Pump does everything that the inputs since the last call have made possible. An error means that
// this server can't go on: its disk failed or an invariant is broken.
func (c *Core) Pump(out *Output) error {
	for {
		busy := c.node.Ready(&c.agreed)
		c.observe(out)
		proposed, err := c.propose(out)
		if err != nil {
			return err
		}
		applied, err := c.apply(out)
		if err != nil {
			return err
		}
		c.hand(out)
		if !busy && !proposed && !applied {
			break
		}
	}
	if err := c.digest.check(c.node.AgreedDigest()); err != nil {
		return err
	}
	if err := c.catchUp(out); err != nil {
		return err
	}
	c.handMembers(out)
	c.rememberNow(out)
	c.publishLease()
	if err := c.answerReads(out); err != nil {
		return err
	}
	return c.checkpoint(out)
}

// hand moves what agreement wants done to out. Commits stay here until they are applied.
func (c *Core) hand(out *Output) {
	for i := range c.agreed.Appends {
		if a := &c.agreed.Appends[i]; a.Snapshot != nil {
			a.Install = c.behind.install
		}
	}
	out.Messages = append(out.Messages, c.agreed.Messages...)
	out.Appends = append(out.Appends, c.agreed.Appends...)
	for range c.agreed.Appends {
		c.appending = append(c.appending, c.now)
	}
	out.Reads = append(out.Reads, c.agreed.Reads...)
	for _, r := range c.agreed.Reads {
		c.loads = append(c.loads, load{r, c.now})
	}
	c.commits = append(c.commits, c.agreed.Commits...)
	c.agreed.Reset()
}

// observe notices changes of the mastership: clients of a master that lost it are sent on.
func (c *Core) observe(out *Output) {
	v := c.node.View()
	if v == c.view {
		return
	}
	if c.view.Self && (!v.Self || v.Term != c.view.Term) {
		c.ready = false
		c.lease.Store(0)
		for _, w := range c.waiting {
			out.Replies = append(out.Replies, Reply{Origin: w.Origin, NotMaster: true, Bytes: w.bytes})
		}
		clear(c.waiting)
		c.waiting = c.waiting[:0]
		// A client's later operations must not overtake those just refused, should this server be
		// master again at once.
		c.refuseQueue(out)
	}
	c.view, c.led = v, c.led || v.Known
	// Whether another server could be master, and whether disks are full, the next survey knows.
	c.unread, c.another, c.cellFull = 0, v.Self, false
	c.leases.restart(c.now)
	out.Master = &v
}

// refuseQueue sends the clients of all operations that were not proposed yet to the master.
func (c *Core) refuseQueue(out *Output) { c.refuseFrom(0, out) }

// refuseFrom refuses the queue from one place on: what a client sent later must not be taken either.
func (c *Core) refuseFrom(at int, out *Output) {
	for _, p := range c.queue[at:] {
		out.Replies = append(out.Replies, Reply{Origin: p.Origin, NotMaster: true, Bytes: len(p.Op)})
	}
	clear(c.queue[at:])
	c.queue = c.queue[:at]
}

// limitQueue refuses what is beyond the limits of the queue.
func (c *Core) limitQueue(out *Output) {
	bytes := 0
	for i := range c.queue {
		if bytes += len(c.queue[i].Op); i >= MaxQueuedProposals || bytes > MaxQueuedBytes {
			c.refuseFrom(i, out)
			return
		}
	}
}

// propose gives waiting operations to agreement, as many at once as there are.
func (c *Core) propose(out *Output) (bool, error) {
	if len(c.queue) == 0 {
		return false, nil
	}
	if !c.view.Self {
		c.refuseQueue(out)
		return false, nil
	}
	if !c.refuseSpace(out) {
		c.limitQueue(out)
		return false, nil
	}
	if len(c.queue) == 0 {
		return false, nil
	}
	n, bytes := 0, 0
	for n < len(c.queue) && n < maxBatchEntries && (n == 0 || bytes+len(c.queue[n].Op) <= maxBatchBytes) {
		bytes += len(c.queue[n].Op)
		n++
	}
	entries := make([]raftpb.Entry, n) // kept by agreement
	for i := range entries {
		entries[i].Data = c.queue[i].Op
	}
	first, term, err := c.node.Propose(entries, &c.agreed)
	if errors.Is(err, agreement.ErrRefused) {
		c.limitQueue(out)
		return false, nil // too much under way, or a hand-over: they wait
	}
	if err != nil {
		return false, err
	}
	if len(c.waiting) == 0 || term != c.waitTerm {
		c.waitFrom, c.waitTerm = first, term
	}
	if first != c.waitFrom+uint64(len(c.waiting)) {
		// An entry of agreement's own came between; nobody waits for it.
		for c.waitFrom+uint64(len(c.waiting)) < first {
			c.waiting = append(c.waiting, waiter{})
		}
	}
	for i := range n {
		c.waiting = append(c.waiting, waiter{c.queue[i].Origin, len(c.queue[i].Op)})
	}
	rest := copy(c.queue, c.queue[n:])
	clear(c.queue[rest:])
	c.queue = c.queue[:rest]
	return true, nil
}

// apply applies agreed entries, and answers those who wait for them: an answered write is applied,
// so a read under the lease sees it. When too much is in memory it waits for the flush under way.
func (c *Core) apply(out *Output) (bool, error) {
	any := false
	for len(c.commits) > 0 {
		if c.full() && (c.flushing || c.fetching()) || c.isHurt(out) {
			break
		}
		commit := &c.commits[0]
		for i := range commit.Entries {
			e := &commit.Entries[i]
			if e.Index < c.hurt.entry { // applied before damage stopped the rest
				continue
			}
			if err := c.applyEntry(e, out); err != nil {
				if c.noteDamage(e.Index, err, out) {
					return any, nil
				}
				return any, fmt.Errorf("applying entry %d: %w", e.Index, err)
			}
		}
		c.hurt.entry = 0
		if err := c.node.Applied(commit); err != nil {
			return any, err
		}
		n := copy(c.commits, c.commits[1:])
		c.commits[n] = agreement.Commit{}
		c.commits = c.commits[:n]
		any = true
	}
	return any, nil
}

// full says that there is as much in memory as there may be.
func (c *Core) full() bool {
	active, _ := c.store.OverlayBytes()
	return active >= c.cfg.OverlayBytes
}

// fetching says that a catch-up is under way, so that no checkpoint can begin.
func (c *Core) fetching() bool { return c.behind != nil && c.behind.Staging != nil && !c.behind.sent }

func (c *Core) applyEntry(e *raftpb.Entry, out *Output) error {
	if e.Index != c.applied+1 {
		return fmt.Errorf("the state stands at %d", c.applied)
	}
	var res op.Result
	var err error
	switch {
	case e.Type == raftpb.EntryConfChangeV2:
		if err := c.applyMembers(e); err != nil {
			return err
		}
	case len(e.Data) > 0:
		if res, err = c.machine.Apply(e.Index, e.Data); err != nil {
			return err
		}
		if c.view.Self {
			out.Wakes = append(out.Wakes, c.machine.Woken()...)
		}
	}
	c.applied, c.appTerm = e.Index, e.Term
	if c.digest.add(e, &res) {
		c.node.SetDigest(c.digest.kept[0])
	}
	if c.view.Self && e.Term == c.view.Term {
		c.ready = true
	}
	c.answer(e, res, out)
	return nil
}

// answer replies to the client of an entry, if it is one of ours and of this term.
func (c *Core) answer(e *raftpb.Entry, res op.Result, out *Output) {
	if len(c.waiting) == 0 || e.Term != c.waitTerm || e.Index < c.waitFrom {
		return
	}
	at := e.Index - c.waitFrom
	if at >= uint64(len(c.waiting)) {
		return
	}
	if w := c.waiting[at]; w.Client != nil {
		out.Replies = append(out.Replies, Reply{Origin: w.Origin, Result: res, Bytes: w.bytes})
	}
	// Entries are applied in order: everything up to here is answered.
	clear(c.waiting[:at+1])
	c.waiting, c.waitFrom = c.waiting[at+1:], e.Index+1
}

func (c *Core) publishLease() {
	if !c.ready || !c.view.Self {
		c.lease.Store(0)
		return
	}
	c.lease.Store(int64(c.node.Lease()))
}

// answerReads answers the reads that waited for the lease, or for a majority to confirm the
// mastership since they came.
func (c *Core) answerReads(out *Output) error {
	if len(c.reads) == 0 {
		return nil
	}
	if !c.view.Self {
		for _, r := range c.reads {
			out.Replies = append(out.Replies, Reply{Origin: r.Origin, NotMaster: true})
		}
		clear(c.reads)
		c.reads = c.reads[:0]
		return nil
	}
	lease, proven := c.node.Lease(), c.node.Proven()
	if !c.ready {
		lease, proven = 0, 0
	}
	keep := c.reads[:0]
	for _, r := range c.reads {
		if c.now >= lease && r.at > proven {
			if len(keep) < MaxQueuedReads {
				keep = append(keep, r)
			} else {
				out.Replies = append(out.Replies, Reply{Origin: r.Origin, NotMaster: true})
			}
			continue
		}
		reply := Reply{Origin: r.Origin, Granted: true}
		if r.Query != nil {
			a, err := c.machine.Query(*r.Query)
			if err != nil {
				return fmt.Errorf("query of %q: %w", r.Query.Path, err)
			}
			reply.Answer = &a
		}
		out.Replies = append(out.Replies, reply)
	}
	clear(c.reads[len(keep):])
	c.reads = keep
	return nil
}

// checkpoint begins a checkpoint when one is due.
func (c *Core) checkpoint(out *Output) error {
	c.recycle(out)
	if c.flush != nil && c.now >= c.flushAgainAt {
		out.Flush, c.flush = c.flush, nil
	}
	if c.hurt.wait && c.hurt.entry != 0 {
		return nil // an entry is applied in part: there is no state to be kept
	}
	mending := c.mended && c.now-c.flushAt >= mendPause
	if c.flushing || c.behind != nil || c.applied == c.checkpoints[len(c.checkpoints)-1] && !mending {
		return nil
	}
	if c.hurt.entry != 0 {
		return nil // the store has begun an entry that waits for a repair: there is no state to freeze
	}
	active, _ := c.store.OverlayBytes()
	if c.now < c.held && active < c.cfg.OverlayBytes/holdShare && !mending {
		return nil // another server is catching up from the checkpoint there is
	}
	newest := c.checkpoints[len(c.checkpoints)-1]
	if active < c.cfg.CheckpointBytes && c.now-c.flushAt < c.cfg.CheckpointEvery && newest >= c.wanted && !mending {
		return nil
	}
	c.mended = false
	members := c.node.Members()
	meta := appendMeta(nil, members, &c.mem.table, c.machine)
	f, err := c.store.Freeze(c.applied, c.appTerm, meta)
	if err != nil {
		return fmt.Errorf("checkpoint at %d: %w", c.applied, err)
	}
	c.base = base{index: c.applied, term: c.appTerm, members: members, meta: meta, objects: c.store.Objects(store.Checkpoint)}
	c.flushing, c.flushIndex, c.flushAt = true, c.applied, c.now
	c.underWay, out.Flush = f, f
	return nil
}

// recycle gives up the log that no checkpoint within keptCheckpoints needs, and no server that is catching up.
func (c *Core) recycle(out *Output) {
	if c.holdLog && c.view.Self && c.space == spaceGood && len(c.checkpoints) < maxHeldCheckpoints &&
		c.log.Stats().Bytes < maxHeldLog {
		return
	}
	if len(c.checkpoints) > keptCheckpoints {
		out.Recycle = c.checkpoints[len(c.checkpoints)-keptCheckpoints]
		c.checkpoints = append(c.checkpoints[:0], c.checkpoints[len(c.checkpoints)-keptCheckpoints:]...)
	}
}

// WantCheckpoint has a checkpoint made as soon as can be, and returns the index that it will stand at or after.
func (c *Core) WantCheckpoint() uint64 {
	c.wanted = c.applied
	return c.wanted
}

// Checkpoint is the index that the newest checkpoint stands at.
func (c *Core) Checkpoint() uint64 { return c.checkpoints[len(c.checkpoints)-1] }

// View tells who is master.
func (c *Core) View() agreement.View { return c.view }

// Applied is the index that the state stands at.
func (c *Core) Applied() uint64 { return c.applied }

// Node gives the agreement for status and tests.
func (c *Core) Node() *agreement.Node { return c.node }

// Machine gives the state machine for status and tests.
func (c *Core) Machine() *state.Machine { return c.machine }

// HandOver offers the mastership to another server.
func (c *Core) HandOver(to cell.ID) {
	c.node.HandOver(to)
	c.lease.Store(0)
}

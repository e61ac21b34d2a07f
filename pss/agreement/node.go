package agreement

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/quorum"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"

	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/log"
)

// Named limits of agreement. They bound memory; where one is reached the sender waits.
const (
	MaxMessageBytes     = 1 << 20  // entries in one append message, unless a single entry is larger
	MaxInflightMessages = 4096     // append messages under way to one server: with MaxInflightBytes, for small writes at a round trip of 100 ms
	MaxInflightBytes    = 16 << 20 // bytes of entries under way to one server: 1 Gbit/s at a round trip of 100 ms is 12.5 MB
	MaxUncommittedBytes = 64 << 20 // entries proposed and not yet committed
	MaxApplyingBytes    = 8 << 20  // entries handed out to be applied and not yet applied
	TailBytes           = 32 << 20 // newest stable entries kept in memory for slower servers
)

// MaxDrift is how much faster than ours another server's clock is assumed to run at most, as a
// fraction: a lease is shortened by it.
const MaxDrift = 0.01

// Timing sets the pace of heartbeats and elections.
type Timing struct {
	Tick      time.Duration // length of a tick
	Heartbeat int           // ticks between heartbeats
	Election  int           // ticks without a heartbeat until an election; the actual time is random in [1,2) of it
}

// LAN is the timing for servers in one building: heartbeats each 50 ms, elections after 300 to 600 ms.
var LAN = Timing{Tick: 25 * time.Millisecond, Heartbeat: 2, Election: 12}

// electionTimeout is the shortest time after which a follower may vote against a silent master.
func (t Timing) electionTimeout() time.Duration { return t.Tick * time.Duration(t.Election) }

// promise is how long a server that took a heartbeat refuses votes, and does not stand for election
// itself. A server counts ticks towards its own candidacy, and the first of them may come at once.
func (t Timing) promise() time.Duration { return t.electionTimeout() - t.Tick }

// lease is how long a master may trust a heartbeat that a majority took: what they promised, less a
// tick to spare and what their clocks may run faster.
func (t Timing) lease() time.Duration {
	d := t.promise() - t.Tick
	return d - time.Duration(float64(d)*MaxDrift)
}

// Config sets up a Node.
type Config struct {
	ID      cell.ID
	Self    uint64           // this server's number as a member; 0: ID.Raft()
	Members raftpb.ConfState // as of Applied: from the checkpoint, or of a new cell
	Applied uint64           // index that the state machine stands at
	Log     *log.Log         // read by the Node; whoever runs it writes it as Ready says
	Timing  Timing
	Logger  *slog.Logger
	// Start and Life say which start of this server it is, for the others to remember; 0: they are not told. Promises
	// is what this server remembers of them.
	Start, Life uint64
	Promises    []Promise
	// Held: the Node takes no message and does not stand for election until Release.
	Held bool
	// Snapshot returns what a server that lags behind the log has to start from.
	// raft.ErrSnapshotTemporarilyUnavailable makes agreement ask again later.
	Snapshot func() (raftpb.Snapshot, error)
}

// Outgoing is a message for another server.
type Outgoing struct {
	To      cell.ID
	Message raftpb.Message
	// Stamp goes along with a heartbeat, and Echo, the heartbeat's stamp, with the response: see Step.
	Stamp, Echo time.Duration
}

// Urgent says whether the message travels as a datagram, so that bulk data can't delay it.
func (o *Outgoing) Urgent() bool {
	switch o.Message.Type {
	case raftpb.MsgHeartbeat, raftpb.MsgHeartbeatResp, raftpb.MsgVote, raftpb.MsgVoteResp,
		raftpb.MsgPreVote, raftpb.MsgPreVoteResp, raftpb.MsgTimeoutNow:
		return true
	}
	return false
}

// Append is work for the durable log. Appends are carried out in the order they were handed out:
// written, then synced if Durable says so, then given back through Node.Appended.
type Append struct {
	State    *log.HardState // nil when it did not change
	Entries  []log.Entry
	Snapshot *raftpb.Snapshot // the log restarts behind it, once Install is done
	Install  func() error     // brings the state of Snapshot to disk; set by the replica
	// Durable: something waits for this and everything before it to be on stable storage.
	Durable   bool
	responses []raftpb.Message
}

// Commit is a run of agreed entries for the state machine, to be given back through Node.Applied.
type Commit struct {
	Entries  []raftpb.Entry
	response raftpb.Message
}

// Output is what a Node wants done. Its slices are reused by the next Ready that gets it.
type Output struct {
	Messages []Outgoing
	Appends  []Append
	Commits  []Commit
	Reads    []*Read // to be carried out beside everything else, then given to ReadDone
}

// Reset empties o and keeps its memory.
func (o *Output) Reset() {
	clear(o.Messages)
	clear(o.Appends)
	clear(o.Commits)
	clear(o.Reads)
	o.Messages, o.Appends, o.Commits, o.Reads = o.Messages[:0], o.Appends[:0], o.Commits[:0], o.Reads[:0]
}

// View is who is master, as this server sees it.
type View struct {
	Term   uint64
	Master cell.ID // valid when Known
	Known  bool
	Self   bool // this server is master
}

// Condition is what a server tells the master of itself with every heartbeat it takes, in bits.
type Condition uint64

// The conditions.
const (
	Full Condition = 1 << iota // its disk is full, or nearly
)

// Digest is a sum over what applying entries up to an index led to. Servers exchange them with their heartbeats.
type Digest struct{ Index, Sum uint64 }

// Node is one server's part in the agreement. It is not safe for concurrent use.
type Node struct {
	self   uint64 // own number as a member
	raft   *raft.RawNode
	store  *storage
	timing Timing
	logger *slog.Logger

	now      time.Duration // newest time any input carried
	lastTick time.Duration
	votesAt  time.Duration // votes are refused until then: a promise to the master, see the package comment

	term     uint64
	stamps   map[uint64]time.Duration // stamp of the newest heartbeat taken from each member
	echoes   map[uint64]time.Duration // newest own clock reading each member echoed in this term
	seen     map[uint64]time.Duration // when each member's newest heartbeat response of this term came
	proven   time.Duration            // newest clock reading that a majority has echoed, or 0
	handover bool                     // mastership was offered to another server in this term

	silence silence          // of the others, towards this master
	offers  []raftpb.Message // of the mastership, to be sent: see abdicate

	requests []raftpb.Message // for votes, until they are handed out: see askForVotes

	condition  Condition            // of this server
	conditions map[uint64]Condition // of each member, as it told in this term
	digest     Digest               // of this server
	digests    map[uint64]Digest    // of each member, as it told in this term
	agreed     Digest               // what a majority has, as this master found or a master told

	start     Promise // of this server, with its start alone
	promises  promises
	held      bool
	heldTicks int // that passed of the election clock meanwhile

	floorTerm, floorIndex uint64 // see SetFloor
}

// NewNode starts from what the log and the checkpoint hold. now is the present time on the clock
// that all later inputs use.
func NewNode(c Config, now time.Duration) (n *Node, err error) {
	n = &Node{
		self: cmp.Or(c.Self, c.ID.Raft()), timing: c.Timing, logger: c.Logger, now: now, lastTick: now,
		votesAt: now + c.Timing.electionTimeout() + c.Timing.Tick,
		store:   newStorage(c.Log, c.Members, c.Applied, c.Snapshot),
		stamps:  make(map[uint64]time.Duration), echoes: make(map[uint64]time.Duration),
		conditions: make(map[uint64]Condition), digests: make(map[uint64]Digest),
		seen: make(map[uint64]time.Duration), held: c.Held, promises: promises{of: make(map[uint64]Promise)},
	}
	n.start = Promise{Member: n.self, Start: c.Start, Life: c.Life}
	n.remember(c)
	if first := c.Log.First(); first > c.Applied+1 {
		return nil, fmt.Errorf("the log begins at %d but the checkpoint ends at %d", first, c.Applied)
	}
	// The engine panics when log and checkpoint can't belong together.
	defer func() {
		if p := recover(); p != nil {
			n, err = nil, fmt.Errorf("starting agreement: %v", p)
		}
	}()
	rn, err := raft.NewRawNode(&raft.Config{
		ID:            n.self,
		ElectionTick:  c.Timing.Election,
		HeartbeatTick: c.Timing.Heartbeat,
		Storage:       n.store,
		Applied:       c.Applied,

		AsyncStorageWrites: true,
		CheckQuorum:        true,
		PreVote:            true,

		MaxSizePerMsg:             MaxMessageBytes,
		MaxCommittedSizePerReady:  MaxApplyingBytes,
		MaxUncommittedEntriesSize: MaxUncommittedBytes,
		MaxInflightMsgs:           MaxInflightMessages,
		MaxInflightBytes:          MaxInflightBytes,

		DisableProposalForwarding: true,
		StepDownOnRemoval:         true,
		Logger:                    raftLogger{c.Logger},
	})
	if err != nil {
		return nil, fmt.Errorf("starting agreement: %w", err)
	}
	n.raft = rn
	n.term = rn.BasicStatus().Term
	return n, nil
}

// Tick lets time pass. However much has passed, one call is at most one tick of the election clock,
// so that a server that was stopped for a while hears its peers before it judges them.
func (n *Node) Tick(now time.Duration) {
	n.now = now
	if now-n.lastTick < n.timing.Tick {
		return
	}
	n.lastTick = now
	n.store.ahead.tick()
	if n.held && !n.wait() {
		return
	}
	n.lookingForChanges(n.raft.Tick)
	n.listen()
}

// lookingForChanges is for inputs that may have this server stand for election: raft then looks at all entries that
// are agreed on and not applied yet for changes of members, and has no use for their data.
func (n *Node) lookingForChanges(input func()) {
	n.store.kindsOnly = true
	defer func() { n.store.kindsOnly = false }()
	input()
}

// handOverVote marks, in raft, a request for a vote that follows a hand-over of the mastership.
const handOverVote = "CampaignTransfer"

// ErrLostLog reports that this server does not hold what it acknowledged: its disk was emptied, or an older
// state was put back. It must not go on, for it may have voted and acknowledged what it does not know of.
var ErrLostLog = errors.New("this server has lost part of its log")

// Step takes a message from another server. stamp and echo are what came along with it (Outgoing): a
// heartbeat carries its sender's clock, and a response echoes that of the heartbeat that was taken.
// Messages that no server of a cell sends are passed over.
func (n *Node) Step(now time.Duration, m raftpb.Message, stamp, echo time.Duration) error {
	n.now = max(n.now, now)
	if m.Term == 0 || n.held || n.barred(&m) {
		return nil // raft would take the first for its own
	}
	switch m.Type {
	case raftpb.MsgVote, raftpb.MsgPreVote:
		// raft refuses votes while it knows a master, but forgets the master with the first message of a
		// higher term. The promise to the master was about time, whatever else was heard since. A master
		// that handed over has no lease any more, and nobody owes it anything.
		if n.now < n.votesAt && string(m.Context) != handOverVote {
			return nil
		}
	case raftpb.MsgHeartbeat:
		if m.Commit > n.store.lastIssued {
			return fmt.Errorf("%w: the master knows that this server held entry %d, and its log ends at %d",
				ErrLostLog, m.Commit, n.store.lastIssued)
		}
		if m.Term >= n.raft.BasicStatus().Term { // an older one will not be taken
			n.stamps[m.From] = stamp
			if m.Index > n.agreed.Index {
				n.agreed = Digest{m.Index, m.LogTerm}
			}
			n.votesAt = max(n.votesAt, n.now+n.timing.promise())
		}
		n.told(&m)
		m.Index, m.LogTerm, m.Context = 0, 0, nil
	case raftpb.MsgHeartbeatResp:
		n.told(&m)
		n.observeTerm()
		if m.Term == n.term {
			n.seen[m.From] = n.now
		}
		if m.Term == n.term && echo > n.echoes[m.From] && echo <= n.now {
			n.echoes[m.From] = echo
			n.prove()
		}
		if m.Term == n.term {
			n.conditions[m.From] = Condition(m.RejectHint)
			n.digests[m.From] = Digest{m.Index, m.LogTerm}
		}
		m.RejectHint, m.Index, m.LogTerm, m.Context = 0, 0, 0, nil // raft has no such fields in this message
	case raftpb.MsgAppResp, raftpb.MsgVoteResp:
		n.answered(&m)
	case raftpb.MsgApp, raftpb.MsgSnap, raftpb.MsgPreVoteResp, raftpb.MsgTimeoutNow:
	default:
		// Proposals, questions and wishes for a hand-over enter at the master only: a hand-over that it did
		// not begin itself would not end its lease.
		return nil
	}
	var err error
	if m.Type == raftpb.MsgTimeoutNow {
		n.lookingForChanges(func() { err = n.raft.Step(m) })
	} else {
		err = n.raft.Step(m)
	}
	if err != nil && !errors.Is(err, raft.ErrStepPeerNotFound) {
		return fmt.Errorf("message %v from %d: %w", m.Type, m.From, err)
	}
	return nil
}

// observeTerm forgets what was proven in an older term.
func (n *Node) observeTerm() {
	if t := n.raft.BasicStatus().Term; t != n.term {
		n.term, n.proven, n.handover = t, 0, false
		clear(n.echoes)
		clear(n.conditions)
		clear(n.digests)
		clear(n.seen)
	}
}

// AckedIndex makes a Node a quorum.AckedIndexer over clock readings: it answers what a voter has
// echoed, so that raft's own quorum arithmetic, joint configurations included, finds the reading
// that a majority has echoed.
func (n *Node) AckedIndex(voter uint64) (quorum.Index, bool) {
	if voter == n.self {
		return quorum.Index(n.now), true
	}
	e, ok := n.echoes[voter]
	return quorum.Index(e), ok
}

// echoed is the newest clock reading that a majority has echoed by now.
func (n *Node) echoed() time.Duration {
	return time.Duration(n.raft.Status().Config.Voters.CommittedIndex(n))
}

func (n *Node) prove() { n.proven = max(n.proven, n.echoed()) }

// Lease is the time until which this server may answer reads from its state machine by itself,
// provided that everything committed when it became master is applied. It is 0 when it may not.
func (n *Node) Lease() time.Duration {
	n.observeTerm()
	if n.handover || n.proven == 0 || n.raft.BasicStatus().RaftState != raft.StateLeader {
		return 0
	}
	return n.proven + n.timing.lease()
}

// Proven is the newest time at which this server is known to have been master, in this term. A
// read that came no later may be answered whatever the lease says. It is 0 when there is none.
func (n *Node) Proven() time.Duration {
	n.observeTerm()
	if n.raft.BasicStatus().RaftState != raft.StateLeader {
		return 0
	}
	return n.proven
}

// ErrRefused reports that a proposal was not taken: this server is not master, is handing its
// mastership over, or has as much under way as it may.
var ErrRefused = errors.New("the proposal was not taken")

// Propose asks for entries to be appended to the agreed log, all or none of them. It returns the
// index and the term they got; they are agreed upon only when they come back in a Commit with that
// term. The Node keeps entries. What else became ready is added to out.
func (n *Node) Propose(entries []raftpb.Entry, out *Output) (first, term uint64, err error) {
	// The index is the one behind the newest entry, and that is known once all entries are handed out.
	n.Ready(out)
	st := n.raft.BasicStatus()
	if st.RaftState != raft.StateLeader {
		return 0, 0, ErrRefused
	}
	first = n.store.lastIssued + 1
	err = n.raft.Step(raftpb.Message{Type: raftpb.MsgProp, From: n.self, Entries: entries})
	if errors.Is(err, raft.ErrProposalDropped) {
		return 0, 0, ErrRefused
	}
	if err != nil {
		return 0, 0, fmt.Errorf("proposing %d entries: %w", len(entries), err)
	}
	return first, st.Term, nil
}

// Ready adds everything that is to be done to out and reports whether there was anything.
func (n *Node) Ready(out *Output) bool {
	any := false
	for n.raft.HasReady() {
		rd := n.raft.Ready()
		if len(rd.Messages) == 0 && n.store.ahead.reading() {
			break // there are entries to be applied, which are being read
		}
		any = true
		for i := range rd.Messages {
			n.sort(out, &rd.Messages[i])
		}
		n.askForVotes(out)
	}
	for _, m := range n.offers {
		any = true
		n.sort(out, &m)
	}
	n.offers = n.offers[:0]
	out.Reads = append(out.Reads, n.store.ahead.wanted...)
	n.store.ahead.wanted = n.store.ahead.wanted[:0]
	return any
}

// askForVotes hands out the requests for votes behind the append that has their term. raft would have them sent beside
// it, since a candidate counts its own vote only when that is durable. But where its disk is slow the votes of the others
// are a majority without its own, and a master whose disk has never heard of its term comes back from a crash as if there
// had been none: who voted for it does so again, and it is master in the same term for a second time.
func (n *Node) askForVotes(out *Output) {
	if len(n.requests) == 0 {
		return
	}
	out.Appends = append(out.Appends, Append{Durable: true, responses: n.requests})
	n.requests = nil
}

func (n *Node) sort(out *Output, m *raftpb.Message) {
	switch {
	case m.To == raft.LocalAppendThread:
		out.Appends = append(out.Appends, n.toAppend(m))
	case m.To == raft.LocalApplyThread:
		out.Commits = append(out.Commits, Commit{Entries: m.Entries, response: m.Responses[0]})
	case n.barred(m):
	case m.Type == raftpb.MsgVote:
		n.requests = append(n.requests, *m)
	default:
		o := Outgoing{To: memberID(m.To), Message: *m}
		switch m.Type {
		case raftpb.MsgHeartbeat:
			o.Stamp = n.now
			o.Message.Index, o.Message.LogTerm = n.agreed.Index, n.agreed.Sum
			o.Message.Context = n.tell(m.Type)
		case raftpb.MsgHeartbeatResp:
			o.Echo = n.stamps[m.To]
			o.Message.RejectHint = uint64(n.condition)
			o.Message.Index, o.Message.LogTerm = n.digest.Index, n.digest.Sum
			o.Message.Context = n.tell(m.Type)
		}
		out.Messages = append(out.Messages, o)
	}
}

func (n *Node) toAppend(m *raftpb.Message) Append {
	a := Append{Durable: len(m.Responses) > 0, responses: m.Responses}
	if m.Term != 0 {
		hs := log.HardState{Term: m.Term, Vote: m.Vote, Commit: m.Commit}
		// A higher commit index alone is not worth a write: it is found again from the master.
		if hs.Term != n.store.hard.Term || hs.Vote != n.store.hard.Vote {
			a.State = &hs
		}
		n.store.hard = hs
	}
	if hs := n.store.hard; len(m.Entries) > 0 && hs.Commit != n.store.kept {
		a.State = &hs // with entries it costs nothing, whenever it was that the commit index rose
	}
	if a.State != nil {
		n.store.kept = a.State.Commit
	}
	if m.Snapshot != nil && !raft.IsEmptySnap(*m.Snapshot) {
		a.Snapshot = m.Snapshot
		n.store.restart(m.Snapshot)
	}
	if len(m.Entries) > 0 {
		n.store.issued(m.Entries)
		a.Entries = make([]log.Entry, len(m.Entries))
		for i, e := range m.Entries {
			a.Entries[i] = log.Entry{Index: e.Index, Term: e.Term, Kind: uint8(e.Type), Data: e.Data}
		}
	}
	return a
}

// Appended tells that an Append was carried out: it is durable if that was asked for. It adds the
// messages that waited for it to out.
func (n *Node) Appended(now time.Duration, a *Append, out *Output) error {
	n.now = max(n.now, now)
	for _, m := range a.responses {
		if m.To == n.self {
			n.answered(&m)
			if err := n.raft.Step(m); err != nil {
				return fmt.Errorf("finished append: %w", err)
			}
			continue
		}
		out.Messages = append(out.Messages, Outgoing{To: memberID(m.To), Message: m})
	}
	return nil
}

// Applied tells that a Commit was applied to the state machine.
func (n *Node) Applied(c *Commit) error {
	last := c.Entries[len(c.Entries)-1].Index
	if err := n.raft.Step(c.response); err != nil {
		return fmt.Errorf("finished apply: %w", err)
	}
	n.store.applied = last
	return nil
}

// memberID is the server behind a member's number. Only servers become members.
func memberID(raftID uint64) cell.ID {
	id, ok := cell.FromRaft(raftID)
	if !ok {
		panic(fmt.Sprintf("agreement: member %d is no server", raftID))
	}
	return id
}

// View tells who is master.
func (n *Node) View() View {
	st := n.raft.BasicStatus()
	v := View{Term: st.Term, Self: st.RaftState == raft.StateLeader}
	if st.Lead != raft.None {
		v.Master, v.Known = cell.FromRaft(st.Lead)
	}
	return v
}

// HandOver offers the mastership to another server. Reads by lease end at once. It does nothing on a
// server that is not master: raft would pass the wish on to the master, whose lease it would not end.
func (n *Node) HandOver(to cell.ID) {
	if n.raft.BasicStatus().RaftState != raft.StateLeader {
		return
	}
	for _, m := range n.membersOf(to) {
		if p := n.raft.Status().Progress[m]; !p.IsLearner {
			n.observeTerm()
			n.handover = true
			n.raft.TransferLeader(m)
			return
		}
	}
}

// membersOf lists the members that a master replicates to and that are a server's: one, or two while one
// replaces the other.
func (n *Node) membersOf(id cell.ID) []uint64 {
	var ms []uint64
	for m := range n.raft.Status().Progress {
		if memberID(m) == id {
			ms = append(ms, m)
		}
	}
	slices.Sort(ms)
	return ms
}

// HandingOver says that this server is master and has offered the mastership to another, which has not
// taken it yet. The offer ends after an election time-out.
func (n *Node) HandingOver() bool {
	st := n.raft.BasicStatus()
	return st.RaftState == raft.StateLeader && st.LeadTransferee != raft.None
}

// SetCondition sets what this server tells the master of itself.
func (n *Node) SetCondition(c Condition) { n.condition = c }

// SetDigest sets what this server has found.
func (n *Node) SetDigest(d Digest) { n.digest = d }

// AgreedDigest is the newest one that a majority is known to have.
func (n *Node) AgreedDigest() Digest { return n.agreed }

// SetAgreedDigest has a master tell what a majority has.
func (n *Node) SetAgreedDigest(d Digest) { n.agreed = d }

// Unreachable tells that messages to a server were lost.
func (n *Node) Unreachable(id cell.ID) {
	for _, m := range n.membersOf(id) {
		n.raft.ReportUnreachable(m)
	}
}

// SnapshotDone tells how sending a snapshot to a server ended.
func (n *Node) SnapshotDone(id cell.ID, ok bool) {
	status := raft.SnapshotFinish
	if !ok {
		status = raft.SnapshotFailure
	}
	for _, m := range n.membersOf(id) {
		n.raft.ReportSnapshot(m, status)
	}
}

// ApplyMembers applies an agreed change of members and returns the members from here on. What a majority of the
// members before has proven does not count for those after: the lease begins anew.
func (n *Node) ApplyMembers(c raftpb.ConfChangeI) raftpb.ConfState {
	n.store.members = *n.raft.ApplyConfChange(c)
	n.promises.keep(n.store.members)
	n.proven = 0
	clear(n.echoes)
	return n.store.members
}

// Heard is the newest clock reading of this master's that a member has echoed in this term and since the last change
// of members: the member was up then. 0: none.
func (n *Node) Heard(member uint64) time.Duration {
	n.observeTerm()
	if member == n.self {
		return n.now
	}
	return n.echoes[member]
}

// Seen is when a member answered a heartbeat of this master's last, in this term; 0: never.
func (n *Node) Seen(member uint64) time.Duration {
	n.observeTerm()
	return n.seen[member]
}

// Master is the number of the member that is master, 0 while none is known.
func (n *Node) Master() uint64 { return n.raft.BasicStatus().Lead }

// Self is this server's number as a member.
func (n *Node) Self() uint64 { return n.self }

// Members is who belongs to the cell, as of the applied index.
func (n *Node) Members() raftpb.ConfState { return n.store.members }

// Progress is how far another server is, as the master knows it.
type Progress struct {
	ID      cell.ID
	Member  uint64 // its number in the agreement
	Voter   bool
	Match   uint64 // it has the log up to here
	Active  bool   // it answered within the last election time-out
	Lagging bool   // it needs more than the log holds
	Sending string // raft's state of replication to it

	Condition Condition // what it told last
	Digest    Digest    `json:"-"`
}

// Progress lists the members a master replicates to, itself included, in the order of their numbers; on other servers it
// is empty.
func (n *Node) Progress(dst []Progress) []Progress {
	if n.raft.BasicStatus().RaftState != raft.StateLeader {
		return dst
	}
	for id, pr := range n.raft.Status().Progress {
		condition, digest := n.conditions[id], n.digests[id]
		if id == n.self {
			condition, digest = n.condition, n.digest
		}
		dst = append(dst, Progress{ID: memberID(id), Member: id, Voter: !pr.IsLearner, Match: pr.Match, Condition: condition, Digest: digest,
			Active: pr.RecentActive || id == n.self, Lagging: pr.State == tracker.StateSnapshot,
			Sending: pr.State.String()})
	}
	slices.SortFunc(dst, func(a, b Progress) int { return cmp.Compare(a.Member, b.Member) })
	return dst
}

// Position is where a Node stands in the log.
type Position struct{ Term, Commit, Applied, Last uint64 }

// Position returns the present term, commit index, applied index and newest index.
func (n *Node) Position() Position {
	st := n.raft.BasicStatus()
	return Position{Term: st.Term, Commit: st.Commit, Applied: st.Applied, Last: n.store.lastIssued}
}

package agreement

import (
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"testing/cryptotest"
	"time"

	"github.com/cockroachdb/datadriven"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
	"github.com/paxos-iscsi/paxos-iscsi/pss/log"
)

// scenario is the state of a file in testdata: a cell whose messages move only when told to.
//
//	cell n= [quiet]                  boot servers 0 to n-1, and let the time pass in which they refuse votes
//	tick id= n=                      a tick passes n times; these servers notice it
//	elect id=                        only this server's clock runs, until it stands for election
//	deliver [from= to= type=]        messages that match arrive, and those they cause, until there are none
//	drop [from= to= type=]           messages that match are lost
//	cut id= on=                      whether all messages from and to the server are lost
//	disk id= on=                     whether the server's appends are carried out
//	propose id= [n= size=]           propose n entries; prints where they went
//	handover id= to=
//	lease id=                        for how long, from now
//	proven id=                       how long ago the server was surely master
//	view, log, tail id=              what servers think
//	compact id=                      make a checkpoint and give up the log before it
//	restart id=                      the server dies and comes back
//	wipe id=                         it comes back without its disk, as its next incarnation
//	change id= [remove= learn= vote=] propose a change of members: numbers of the agreement
//	members id=
type scenario struct {
	nodes []*member
	now   time.Duration
	queue []Outgoing
	lines strings.Builder
}

type member struct {
	id      cell.ID
	self    uint64 // its number
	mem     *disk.Mem
	log     *log.Log
	node    *Node
	out     Output
	off     bool
	cut     bool
	pending []Append
	applied uint64
	term    uint64 // of the entry at applied
	members raftpb.ConfState
}

var testTiming = LAN

func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata/scenarios", func(t *testing.T, file string) {
		cryptotest.SetGlobalRandom(t, 1) // raft draws its election time-outs from it
		s := &scenario{}
		datadriven.RunTest(t, file, func(t *testing.T, d *datadriven.TestData) string {
			s.lines.Reset()
			s.run(t, d)
			return s.lines.String()
		})
		for _, m := range s.nodes {
			check(t, m.log.Close())
		}
	})
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (s *scenario) printf(format string, args ...any) { fmt.Fprintf(&s.lines, format+"\n", args...) }

func (s *scenario) run(t *testing.T, d *datadriven.TestData) {
	id, n := 0, 1
	if d.Cmd != "tick" { // which takes several
		d.MaybeScanArgs(t, "id", &id)
	}
	d.MaybeScanArgs(t, "n", &n)
	switch d.Cmd {
	case "cell":
		s.boot(t, n)
		if !d.HasArg("quiet") {
			s.now = s.nodes[0].node.votesAt
		}
	case "tick":
		for range n {
			s.now += testTiming.Tick
			for _, a := range d.CmdArgs[0].Vals {
				i, err := strconv.Atoi(a)
				check(t, err)
				s.nodes[i].node.Tick(s.now)
				s.handle(t, s.nodes[i])
			}
		}
	case "elect":
		s.elect(t, s.nodes[id])
	case "deliver", "drop":
		s.move(t, d)
	case "cut":
		d.ScanArgs(t, "on", &s.nodes[id].cut)
	case "disk":
		on := true
		d.ScanArgs(t, "on", &on)
		s.nodes[id].off = !on
		s.write(t, s.nodes[id])
	case "propose":
		size := 0
		d.MaybeScanArgs(t, "size", &size)
		s.propose(t, s.nodes[id], n, size)
	case "handover":
		to := 0
		d.ScanArgs(t, "to", &to)
		s.nodes[id].node.HandOver(cell.ID(to))
		s.handle(t, s.nodes[id])
	case "lease":
		if l := s.nodes[id].node.Lease(); l > s.now {
			s.printf("%v", l-s.now)
		} else {
			s.printf("none")
		}
	case "proven":
		if p := s.nodes[id].node.Proven(); p > 0 {
			s.printf("%v ago", s.now-p)
		} else {
			s.printf("never")
		}
	case "view":
		for _, m := range s.nodes {
			v, p := m.node.View(), m.node.Position()
			master := "none"
			if v.Known {
				master = fmt.Sprint(v.Master)
			}
			s.printf("%d: term %d master %s last %d commit %d applied %d", m.id, v.Term, master, p.Last, p.Commit, m.applied)
		}
	case "log":
		s.printf("first %d last %d", s.nodes[id].log.First(), s.nodes[id].log.Last())
		es, err := s.nodes[id].log.Entries(s.nodes[id].log.First(), s.nodes[id].log.Last()+1, 1<<30)
		if s.nodes[id].log.Last() >= s.nodes[id].log.First() {
			check(t, err)
		}
		for _, e := range es {
			s.printf("%d term %d, %d bytes", e.Index, e.Term, len(e.Data))
		}
	case "tail":
		for _, e := range s.nodes[id].node.store.tail {
			s.printf("%d term %d", e.Index, e.Term)
		}
	case "compact":
		m := s.nodes[id]
		m.members = m.node.Members()
		check(t, m.log.Recycle(m.applied))
		s.printf("first %d", m.log.First())
	case "restart":
		s.restart(t, s.nodes[id])
	case "wipe":
		s.wipe(t, s.nodes[id])
	case "change":
		s.change(t, d, s.nodes[id])
	case "members":
		now := s.nodes[id].node.Members()
		s.printf("%s", now.String())
	default:
		t.Fatalf("%s: unknown command %q", d.Pos, d.Cmd)
	}
}

func (s *scenario) boot(t *testing.T, n int) {
	var members raftpb.ConfState
	for i := range n {
		members.Voters = append(members.Voters, cell.ID(i).Raft())
	}
	s.now = time.Second
	for i := range n {
		m := &member{id: cell.ID(i), self: cell.ID(i).Raft(), mem: disk.NewMem(), members: members}
		s.nodes = append(s.nodes, m)
		s.open(t, m)
	}
}

func (s *scenario) open(t *testing.T, m *member) {
	t.Helper()
	var err error
	m.log, err = log.Open(m.mem, "log", log.Options{SegmentBytes: 16 << 10})
	check(t, err)
	m.node, err = NewNode(Config{ID: m.id, Self: m.self, Members: m.members, Applied: m.applied, Log: m.log, Timing: testTiming,
		Logger: slog.New(slog.DiscardHandler), Snapshot: m.snapshot}, s.now)
	check(t, err)
}

// snapshot stands for the checkpoint of everything applied.
func (m *member) snapshot() (raftpb.Snapshot, error) {
	if m.applied == 0 {
		return raftpb.Snapshot{}, raft.ErrSnapshotTemporarilyUnavailable
	}
	return raftpb.Snapshot{Metadata: raftpb.SnapshotMetadata{Index: m.applied, Term: m.term, ConfState: m.members}}, nil
}

func (s *scenario) restart(t *testing.T, m *member) {
	m.mem.KillProcess()
	if m.log.First() == 1 {
		m.applied = 0 // without a checkpoint the state begins anew
	}
	m.pending, m.off, m.out = nil, false, Output{}
	s.open(t, m)
}

// wipe boots the server's next incarnation from an empty disk: it knows who the members were at first.
func (s *scenario) wipe(t *testing.T, m *member) {
	check(t, m.log.Close())
	*m = member{id: m.id, self: m.id.Member(cell.Incarnation(m.self) + 1), mem: disk.NewMem(), members: m.members}
	s.open(t, m)
	s.printf("%d is member %d now", m.id, m.self)
}

func (s *scenario) change(t *testing.T, d *datadriven.TestData, m *member) {
	var cc raftpb.ConfChangeV2
	for _, arg := range d.CmdArgs {
		kind, ok := map[string]raftpb.ConfChangeType{"remove": raftpb.ConfChangeRemoveNode,
			"learn": raftpb.ConfChangeAddLearnerNode, "vote": raftpb.ConfChangeAddNode}[arg.Key]
		if !ok {
			continue
		}
		var number uint64
		d.ScanArgs(t, arg.Key, &number)
		cc.Changes = append(cc.Changes, raftpb.ConfChangeSingle{Type: kind, NodeID: number})
	}
	data, err := cc.Marshal()
	check(t, err)
	index, term, err := m.node.Propose([]raftpb.Entry{{Type: raftpb.EntryConfChangeV2, Data: data}}, &m.out)
	if err != nil {
		s.printf("%v", err)
	} else {
		s.printf("at %d in term %d", index, term)
	}
	s.handle(t, m)
}

func (s *scenario) elect(t *testing.T, m *member) {
	for range 4 * testTiming.Election {
		s.now += testTiming.Tick
		m.node.Tick(s.now)
		before := len(s.queue)
		s.handle(t, m)
		for _, o := range s.queue[before:] {
			if o.Message.Type == raftpb.MsgPreVote {
				return
			}
		}
	}
	t.Fatal("it does not stand for election")
}

// handle sees to what a member wants done.
func (s *scenario) handle(t *testing.T, m *member) {
	for m.node.Ready(&m.out) || len(m.out.Messages)+len(m.out.Appends)+len(m.out.Commits)+len(m.out.Reads) > 0 {
		out := m.out
		m.out = Output{}
		s.queue = append(s.queue, out.Messages...)
		m.pending = append(m.pending, out.Appends...)
		for _, r := range out.Reads {
			check(t, m.node.ReadDone(r, r.Carry(m.log)))
		}
		for i := range out.Commits {
			last := out.Commits[i].Entries[len(out.Commits[i].Entries)-1]
			for _, e := range out.Commits[i].Entries {
				if e.Type == raftpb.EntryConfChangeV2 {
					var cc raftpb.ConfChangeV2
					check(t, cc.Unmarshal(e.Data))
					m.node.ApplyMembers(cc)
				}
			}
			check(t, m.node.Applied(&out.Commits[i]))
			m.applied, m.term = last.Index, last.Term
		}
		s.write(t, m)
	}
}

// write carries out appends unless the disk is off.
func (s *scenario) write(t *testing.T, m *member) {
	if m.off || len(m.pending) == 0 {
		return
	}
	batch := m.pending
	m.pending = nil
	for i := range batch {
		a := &batch[i]
		if a.Snapshot != nil {
			meta := a.Snapshot.Metadata
			check(t, m.log.Reset(meta.Index, meta.Term))
			m.applied, m.term, m.members = meta.Index, meta.Term, meta.ConfState
			s.printf("%d begins anew behind %d", m.id, meta.Index)
		}
		if a.State != nil || len(a.Entries) > 0 {
			check(t, m.log.Append(a.State, a.Entries))
		}
		if a.Durable {
			check(t, m.log.Sync())
		}
		check(t, m.node.Appended(s.now, a, &m.out))
	}
	s.handle(t, m)
}

func (s *scenario) propose(t *testing.T, m *member, n, size int) {
	entries := make([]raftpb.Entry, n)
	for i := range entries {
		entries[i].Data = make([]byte, max(1, size))
	}
	first, term, err := m.node.Propose(entries, &m.out)
	if err != nil {
		s.printf("%v", err)
	} else {
		s.printf("from %d in term %d", first, term)
	}
	s.handle(t, m)
}

// move delivers or drops messages.
func (s *scenario) move(t *testing.T, d *datadriven.TestData) {
	from, to, kind := -1, -1, ""
	d.MaybeScanArgs(t, "from", &from)
	d.MaybeScanArgs(t, "to", &to)
	d.MaybeScanArgs(t, "type", &kind)
	for {
		at := -1
		for i, o := range s.queue {
			name := strings.TrimPrefix(o.Message.Type.String(), "Msg")
			sender, _ := cell.FromRaft(o.Message.From)
			if (from < 0 || int(sender) == from) && (to < 0 || int(o.To) == to) && (kind == "" || name == kind) {
				at = i
				break
			}
		}
		if at < 0 {
			return
		}
		o := s.queue[at]
		s.queue = append(s.queue[:at:at], s.queue[at+1:]...)
		sender, _ := cell.FromRaft(o.Message.From)
		if d.Cmd == "drop" || s.nodes[sender].cut || s.nodes[o.To].cut {
			continue
		}
		m := s.nodes[o.To]
		if o.Message.To != m.self {
			continue // what is for a former member is dropped before agreement sees it
		}
		s.print(&o)
		check(t, m.node.Step(s.now, o.Message, o.Stamp, o.Echo))
		s.handle(t, m)
	}
}

func (s *scenario) print(o *Outgoing) {
	m := &o.Message
	from, _ := cell.FromRaft(m.From)
	line := fmt.Sprintf("%d>%d %s term %d", from, o.To, strings.TrimPrefix(m.Type.String(), "Msg"), m.Term)
	switch m.Type {
	case raftpb.MsgApp:
		line += fmt.Sprintf(" after %d: %d entries, commit %d", m.Index, len(m.Entries), m.Commit)
	case raftpb.MsgAppResp:
		line += fmt.Sprintf(" up to %d", m.Index)
	case raftpb.MsgSnap:
		line += fmt.Sprintf(" at %d", m.Snapshot.Metadata.Index)
	}
	if m.Reject {
		line += " rejected"
	}
	s.printf("%s", line)
}

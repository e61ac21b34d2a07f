package agreement

import (
	"log/slog"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
	"github.com/paxos-iscsi/paxos-iscsi/pss/log"
)

// held is a Node of three that is held, with entries 1 to last of term 1 in its log.
func held(t *testing.T, last uint64) *Node {
	t.Helper()
	l, err := log.Open(disk.NewMem(), "log", log.Options{SegmentBytes: 16 << 10})
	check(t, err)
	t.Cleanup(func() { check(t, l.Close()) })
	for i := uint64(1); i <= last; i++ {
		check(t, l.Append(&log.HardState{Term: 1}, []log.Entry{{Index: i, Term: 1}}))
	}
	check(t, l.Sync())
	n, err := NewNode(Config{ID: 0, Members: raftpb.ConfState{Voters: []uint64{1, 2, 3}}, Log: l, Timing: LAN, Held: true,
		Start: 4, Life: 44, Logger: slog.New(slog.DiscardHandler)}, time.Second)
	check(t, err)
	return n
}

// answers steps a message and returns what is sent for it, after the disk did what it has to do.
func (n *Node) answers(t *testing.T, m raftpb.Message) []Outgoing {
	t.Helper()
	var out Output
	m.To = n.self
	check(t, n.Step(n.now+time.Minute, m, 5, 0))
	n.Ready(&out)
	for i := range out.Appends {
		check(t, n.Appended(n.now, &out.Appends[i], &out))
		n.Ready(&out)
	}
	return out.Messages
}

// TestHeldNode: who may have forgotten a promise makes none, and does not stand for election; once it is released it
// does so as soon as if it had not been held.
func TestHeldNode(t *testing.T) {
	n := held(t, 3)
	for _, m := range []raftpb.Message{
		{Type: raftpb.MsgVote, From: 2, Term: 7, Index: 9, LogTerm: 6},
		{Type: raftpb.MsgPreVote, From: 2, Term: 7, Index: 9, LogTerm: 6},
		{Type: raftpb.MsgHeartbeat, From: 2, Term: 7},
		{Type: raftpb.MsgApp, From: 2, Term: 7, Index: 3, LogTerm: 1, Entries: []raftpb.Entry{{Index: 4, Term: 7}}},
		{Type: raftpb.MsgTimeoutNow, From: 2, Term: 7},
	} {
		if sent := n.answers(t, m); len(sent) > 0 || n.Position().Term != 1 || n.Position().Last != 3 {
			t.Fatalf("%v has an effect: %v, %+v", m.Type, sent, n.Position())
		}
	}
	var out Output
	ticks := func(count int) bool {
		for range count {
			n.Tick(n.now + LAN.Tick)
			n.Ready(&out)
		}
		return len(out.Messages) > 0
	}
	if ticks(10 * LAN.Election) {
		t.Fatalf("it stands for election: %v", out.Messages)
	}
	n.Release()
	if !ticks(LAN.Election + 2) {
		t.Fatal("it does not stand for election")
	}
}

// TestFloor: who lacks anything that is agreed on gets no vote, and does not stand for election itself.
func TestFloor(t *testing.T) {
	for _, c := range []struct {
		index, term uint64
		votes       bool
	}{{5, 1, false}, {3, 2, false}, {4, 2, true}, {3, 3, true}} {
		n := held(t, 3)
		n.Release()
		n.SetFloor(2, 4)
		n.SetFloor(1, 9) // older
		sent := n.answers(t, raftpb.Message{Type: raftpb.MsgVote, From: 2, Term: 7, Index: c.index, LogTerm: c.term})
		if voted := len(sent) == 1 && !sent[0].Message.Reject; voted != c.votes {
			t.Errorf("a candidate whose log ends at %d in term %d: %v", c.index, c.term, sent)
		}
	}
	for _, c := range []struct{ index, term uint64 }{{3, 1}, {4, 1}} {
		n := held(t, 3)
		n.Release()
		n.SetFloor(c.term, c.index)
		var out Output
		for range 2 * LAN.Election {
			n.Tick(n.now + LAN.Tick)
			n.Ready(&out)
		}
		if stands := len(out.Messages) > 0; stands != (c.index == 3) {
			t.Errorf("with entry %d agreed on, of which it has 3: %v", c.index, out.Messages)
		}
	}
}

// TestPromisesAreRemembered: what a server acknowledged to the master, all others know with the next heartbeat.
func TestPromisesAreRemembered(t *testing.T) {
	master, other := held(t, 0), held(t, 0)
	master.Release()
	other.Release()
	master.answers(t, raftpb.Message{Type: raftpb.MsgTimeoutNow, From: 2, Term: 1})
	if master.answers(t, raftpb.Message{Type: raftpb.MsgVoteResp, From: 2, Term: 2}); !master.View().Self {
		t.Fatal("not master")
	}
	master.answers(t, raftpb.Message{Type: raftpb.MsgAppResp, From: 2, Term: 2, Index: 1})
	master.answers(t, raftpb.Message{Type: raftpb.MsgHeartbeatResp, From: 2, Term: 2,
		Context: AppendPromises(nil, []Promise{{Member: 2, Start: 8, Life: 88}, {Member: 3, Start: 9}})})
	if !master.NewStarts() || master.NewStarts() {
		t.Error("the start of another server is no news, or stays it")
	}
	var out Output
	for len(out.Messages) == 0 {
		master.Tick(master.now + LAN.Tick)
		master.Ready(&out)
	}
	other.self, other.start.Member = 3, 3
	delete(other.promises.of, 1)
	m := out.Messages[len(out.Messages)-1].Message
	if m.Type != raftpb.MsgHeartbeat {
		t.Fatal(m)
	}
	other.told(&m)
	for _, want := range []Promise{{Member: 1, Start: 4, Life: 44, Term: 2, Index: 1}, {Member: 2, Start: 8, Life: 88, Term: 2, Index: 1}} {
		if got := other.Promised(want.Member); got != want {
			t.Errorf("of member %d is known %+v, not %+v", want.Member, got, want)
		}
	}
	if p := other.Promised(3); p.Start == 9 {
		t.Errorf("a server believes what others say of it: %+v", p)
	}
}

// TestPromiseBeyond: which logs keep a promise.
func TestPromiseBeyond(t *testing.T) {
	p := Promise{Term: 3, Index: 10}
	for _, c := range []struct {
		term, last uint64
		broken     bool
	}{{3, 10, false}, {3, 11, false}, {3, 9, true}, {2, 20, true}, {4, 5, false}} {
		if p.Beyond(c.term, c.last) != c.broken {
			t.Errorf("a log that ends at %d in term %d: not %v", c.last, c.term, c.broken)
		}
	}
}

// FuzzPromises: what ParsePromises takes comes back from AppendPromises.
func FuzzPromises(f *testing.F) {
	f.Add(AppendPromises(nil, []Promise{{1, 2, 3, 4, 5}, {Member: 6}}))
	f.Add(make([]byte, MaxPromises*promiseBytes+promiseBytes))
	f.Fuzz(func(t *testing.T, b []byte) {
		if ps, ok := ParsePromises(b); ok && string(AppendPromises(nil, ps)) != string(b) {
			t.Fatalf("%x became %+v", b, ps)
		}
	})
}

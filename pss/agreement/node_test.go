package agreement

import (
	"log/slog"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"pgregory.net/rapid"

	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
	"github.com/paxos-iscsi/paxos-iscsi/pss/log"
)

// TestLeaseEndsBeforePromise holds the arithmetic of the package comment against any timing: on the
// clock of a follower that runs MaxDrift faster, the promise lasts longer than the lease on the master's.
func TestLeaseEndsBeforePromise(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tm := Timing{Tick: time.Duration(rapid.IntRange(1, 1e9).Draw(t, "tick")), Heartbeat: 1,
			Election: rapid.IntRange(3, 100).Draw(t, "election")}
		lease := float64(tm.lease()) * (1 + MaxDrift)
		if lease > float64(tm.promise()) {
			t.Fatalf("%+v: a lease of %v, but votes may be given after %v", tm, tm.lease(), tm.promise())
		}
		// A follower stands for election itself after that many ticks, of which the first may come at once.
		if own := tm.Tick * time.Duration(tm.Election-1); float64(own) < lease {
			t.Fatalf("%+v: a lease of %v, but a follower stands for election after %v", tm, tm.lease(), own)
		}
	})
}

func single(t *testing.T) *Node {
	t.Helper()
	l, err := log.Open(disk.NewMem(), "log", log.Options{SegmentBytes: 16 << 10})
	check(t, err)
	t.Cleanup(func() { check(t, l.Close()) })
	n, err := NewNode(Config{ID: 0, Members: raftpb.ConfState{Voters: []uint64{1, 2, 3}}, Log: l, Timing: LAN,
		Logger: slog.New(slog.DiscardHandler)}, time.Second)
	check(t, err)
	return n
}

// TestWhatNoServerSends gives a Node every type of message there is, from another server: what does not
// belong there has no effect, and above all does not end this server.
func TestWhatNoServerSends(t *testing.T) {
	belongs := map[raftpb.MessageType]bool{}
	for _, m := range []raftpb.MessageType{raftpb.MsgApp, raftpb.MsgAppResp, raftpb.MsgSnap, raftpb.MsgHeartbeat,
		raftpb.MsgHeartbeatResp, raftpb.MsgVote, raftpb.MsgVoteResp, raftpb.MsgPreVote, raftpb.MsgPreVoteResp,
		raftpb.MsgTimeoutNow} {
		belongs[m] = true
	}
	for kind := range raftpb.MessageType_name {
		for term := range uint64(2) { // 0 is what raft gives messages of its own
			n := single(t)
			m := raftpb.Message{Type: raftpb.MessageType(kind), From: 2, To: 1, Term: term}
			if m.Type == raftpb.MsgProp {
				m.Entries = []raftpb.Entry{{Data: []byte("x")}}
			}
			if err := n.Step(2*time.Second, m, 0, 0); err != nil {
				t.Errorf("%v in term %d: %v", m.Type, term, err)
			}
			if p := n.Position(); p.Last != 0 || p.Term != 0 && (term == 0 || !belongs[m.Type]) {
				t.Errorf("%v in term %d had an effect: %+v", m.Type, term, p)
			}
		}
	}
}

// TestStoppedClockElectsNobody proves that a server that was stopped for long hears its peers before it
// judges them: however much time a call of Tick brings, it is one tick.
func TestStoppedClockElectsNobody(t *testing.T) {
	n := single(t)
	var out Output
	n.Tick(time.Hour)
	n.Tick(time.Hour + 1)
	if n.Ready(&out); len(out.Messages) > 0 {
		t.Fatalf("it stands for election after one tick: %v", out.Messages)
	}
}

// TestLogBehindCheckpointIsRefused: a log that begins after the checkpoint has a gap no one can fill here.
func TestLogBehindCheckpointIsRefused(t *testing.T) {
	l, err := log.Open(disk.NewMem(), "log", log.Options{SegmentBytes: 16 << 10})
	check(t, err)
	t.Cleanup(func() { check(t, l.Close()) })
	check(t, l.Reset(10, 1))
	_, err = NewNode(Config{Members: raftpb.ConfState{Voters: []uint64{1}}, Applied: 5, Log: l, Timing: LAN,
		Logger: slog.New(slog.DiscardHandler)}, 0)
	if err == nil || err.Error() != "the log begins at 11 but the checkpoint ends at 5" {
		t.Fatal(err)
	}
}

// TestEntriesCarryTheCommitIndex: a commit index that rose by itself is not written, but goes to the log with the next
// entries, so that who acknowledges an entry knows after a restart what its sender knew to be agreed on.
func TestEntriesCarryTheCommitIndex(t *testing.T) {
	n := single(t)
	var out Output
	step := func(m raftpb.Message) *log.HardState {
		m.Type, m.From, m.To, m.Term = raftpb.MsgApp, 2, 1, 1
		check(t, n.Step(2*time.Second, m, 0, 0))
		n.Ready(&out)
		var state *log.HardState
		for i := range out.Appends {
			if out.Appends[i].State != nil {
				state = out.Appends[i].State
			}
			check(t, n.Appended(2*time.Second, &out.Appends[i], &out))
		}
		out.Reset()
		return state
	}
	step(raftpb.Message{Entries: []raftpb.Entry{{Index: 1, Term: 1}}})
	if hs := step(raftpb.Message{Index: 1, LogTerm: 1, Commit: 1}); hs != nil {
		t.Fatalf("%+v is written for a commit index alone", *hs)
	}
	hs := step(raftpb.Message{Index: 1, LogTerm: 1, Commit: 1, Entries: []raftpb.Entry{{Index: 2, Term: 1}}})
	if hs == nil || hs.Commit != 1 {
		t.Fatalf("entry 2 came with commit index 1, and %+v went to the log", hs)
	}
}

// TestTermIsNotBehindTheLog: a server loses power between the installation of a state from another server and the term
// that came with it, or joins anew with a state that it kept. It is then in the term of its newest entry at least: in none
// at all it could not even refuse a vote.
func TestTermIsNotBehindTheLog(t *testing.T) {
	for _, c := range []struct{ state, log, want, vote uint64 }{{0, 3, 3, 0}, {2, 3, 3, 0}, {3, 3, 3, 2}, {4, 3, 4, 2}} {
		l, err := log.Open(disk.NewMem(), "log", log.Options{SegmentBytes: 16 << 10})
		check(t, err)
		check(t, l.Reset(10, c.log))
		if c.state > 0 {
			check(t, l.Append(&log.HardState{Term: c.state, Vote: 2, Commit: 10}, nil))
		}
		n, err := NewNode(Config{ID: 0, Members: raftpb.ConfState{Voters: []uint64{1, 2, 3}}, Applied: 10, Log: l, Timing: LAN,
			Logger: slog.New(slog.DiscardHandler)}, time.Second)
		check(t, err)
		if hs := n.raft.BasicStatus().HardState; hs.Term != c.want || hs.Vote != c.vote || n.Position().Term != c.want {
			t.Errorf("%+v: %+v", c, hs)
		}
		var out Output
		check(t, n.Step(n.votesAt, raftpb.Message{Type: raftpb.MsgPreVote, From: 3, To: 1, Term: c.want + 1}, 0, 0))
		for n.Ready(&out) {
		}
		for i := range out.Appends {
			check(t, n.Appended(n.votesAt, &out.Appends[i], &out))
		}
		if len(out.Messages) != 1 || !out.Messages[0].Message.Reject || out.Messages[0].Message.Term != c.want {
			t.Errorf("%+v: a candidate without a log is answered %+v", c, out.Messages)
		}
		check(t, l.Close())
	}
}

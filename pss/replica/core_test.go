package replica

import (
	"bytes"
	"log/slog"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/paxos-iscsi/paxos-iscsi/pss/agreement"
	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
	"github.com/paxos-iscsi/paxos-iscsi/pss/log"
	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
	"github.com/paxos-iscsi/paxos-iscsi/pss/state"
	"github.com/paxos-iscsi/paxos-iscsi/pss/store"
)

// coreRig is a Core with its log and store in memory. It is the only voter, so that it elects itself.
type coreRig struct {
	t       *testing.T
	log     *log.Log
	store   *store.Store
	core    *Core
	out     Output
	writer  LogWriter
	now     time.Duration
	stalled bool // appends are not carried out
	flush   *store.Flush
	catchUp *CatchUp
	replies []Reply
	seq     uint64
	object  uint64
}

func newCoreRig(t *testing.T) *coreRig {
	t.Helper()
	r := &coreRig{t: t, now: time.Second}
	mem := disk.NewMem()
	var err error
	r.log, err = log.Open(mem, "log", log.Options{SegmentBytes: 64 << 10})
	check(t, err)
	var ckpt store.Position
	r.store, ckpt, err = OpenStore(mem, r.log, 1<<20)
	check(t, err)
	r.core, err = NewCore(Config{ID: 0, Members: raftpb.ConfState{Voters: []uint64{1}}, Timing: agreement.LAN,
		Logger: slog.New(slog.DiscardHandler), CheckpointBytes: 32 << 10, OverlayBytes: 64 << 10,
		CheckpointEvery: time.Hour}, r.log, r.store, ckpt, r.now)
	check(t, err)
	t.Cleanup(func() {
		check(t, r.store.Close())
		check(t, r.log.Close())
	})
	for !r.core.View().Self || !r.core.ready {
		r.now += agreement.LAN.Tick
		check(r.t, r.core.Tick(r.now))
		r.pump()
	}
	return r
}

// pump carries out what the Core wants done; flushes and catch-ups are left to the test.
func (r *coreRig) pump() {
	r.t.Helper()
	for again := true; again; {
		check(r.t, r.core.Pump(&r.out))
		again = len(r.out.Appends) > 0 && !r.stalled
		for _, read := range r.out.Reads {
			check(r.t, r.core.ReadDone(read, read.Carry(r.log)))
			again = true
		}
		r.replies = append(r.replies, r.out.Replies...)
		if r.out.Flush != nil {
			r.flush = r.out.Flush
		}
		if r.out.CatchUp != nil {
			r.catchUp = r.out.CatchUp
		}
		if !r.stalled {
			check(r.t, r.writer.Write(r.log, r.out.Appends))
			check(r.t, r.writer.Finish(r.log, r.out.Appends))
			for i := range r.out.Appends {
				check(r.t, r.core.Appended(r.now, &r.out.Appends[i]))
			}
		}
		r.out.Reset()
	}
}

// propose proposes an operation and returns its result.
func (r *coreRig) propose(h op.Header, args, payload []byte) op.Result {
	r.t.Helper()
	h.Session, h.Epoch = 1, 1
	if h.Code != op.SessionOpen {
		r.seq++
		h.Seq, h.Acked = r.seq, r.seq
	}
	b := op.Head(nil, &h, args, len(payload))
	if payload != nil {
		b = op.HeadSums(nil, &h, op.AppendSums(nil, h.Offset, payload), len(payload))
	}
	r.replies = nil
	r.core.Propose(Proposal{Origin: Origin{Client: r, Tag: r.seq}, Op: append(b, payload...)})
	r.pump()
	if len(r.replies) == 0 {
		return op.Result{Errno: op.TooMany} // not yet
	}
	return r.replies[0].Result
}

// file makes a file of 1 MiB.
func (r *coreRig) file() {
	r.t.Helper()
	r.propose(op.Header{Code: op.SessionOpen}, nil, nil)
	res := r.propose(op.Header{Code: op.CreateFile}, op.AppendString(nil, "/f"), nil)
	if r.object = res.Object; res.Errno != op.OK {
		r.t.Fatal(res.Errno)
	}
	if res = r.propose(op.Header{Code: op.Truncate, Object: r.object, Length: 1 << 20}, nil, nil); res.Errno != op.OK {
		r.t.Fatal(res.Errno)
	}
}

func (r *coreRig) write() (answered bool) {
	r.t.Helper()
	p := bytes.Repeat([]byte{byte(r.seq)}, op.BlockSize)
	r.propose(op.Header{Code: op.Write, Object: r.object, Length: op.BlockSize}, nil, p)
	return len(r.replies) > 0
}

// lag makes the Core believe that it needs a snapshot.
func (r *coreRig) lag() {
	r.t.Helper()
	check(r.t, r.core.Step(r.now, raftpb.Message{Type: raftpb.MsgSnap, From: 2, To: 1, Term: 1,
		Snapshot: &raftpb.Snapshot{Metadata: raftpb.SnapshotMetadata{Index: 1 << 30, Term: 1}}}, 0, 0))
	r.pump()
	if r.catchUp == nil {
		r.t.Fatal("no catch-up began")
	}
}

func TestQueueIsLimited(t *testing.T) {
	r := newCoreRig(t)
	r.stalled = true
	big := make([]byte, 1<<20)
	for range agreement.MaxUncommittedBytes/len(big) + 1 {
		r.core.Propose(Proposal{Origin: Origin{Client: r}, Op: big})
	}
	r.pump()
	held := len(r.core.queue)
	const extra = 10
	for i := range MaxQueuedProposals - held + extra {
		r.core.Propose(Proposal{Origin: Origin{Client: r, Tag: uint64(i + 1)}, Op: []byte("x")})
	}
	r.pump()
	if len(r.core.queue) != MaxQueuedProposals || len(r.replies) != extra {
		t.Fatalf("%d wait and %d were refused", len(r.core.queue), len(r.replies))
	}
	for i, reply := range r.replies {
		if want := uint64(MaxQueuedProposals - held + i + 1); !reply.NotMaster || reply.Tag != want {
			t.Fatalf("refusal %d is %+v, want that of %d", i, reply, want)
		}
	}
}

func TestQueuedReadsAreLimited(t *testing.T) {
	r := newCoreRig(t)
	r.core.ready = false // as before the first entry of a term is applied
	for i := range MaxQueuedReads + 2 {
		r.core.Ask(r.now, Read{Origin: Origin{Client: r, Tag: uint64(i)}})
	}
	r.pump()
	if len(r.core.reads) != MaxQueuedReads || len(r.replies) != 2 || !r.replies[0].NotMaster {
		t.Fatalf("%d wait and %d were refused", len(r.core.reads), len(r.replies))
	}
}

// TestMasterEndsItsCatchUp: a server that lagged becomes master, with all of the log. Its catch-up is
// pointless then, and must not keep it from making checkpoints for ever.
func TestMasterEndsItsCatchUp(t *testing.T) {
	r := newCoreRig(t)
	r.file()
	r.lag()
	check(t, r.core.CaughtUp(&Manifest{Index: r.core.Applied() + 3}, nil))
	for range 3 {
		if r.core.behind == nil {
			t.Fatal("the catch-up ended too early")
		}
		r.write()
	}
	if r.core.behind != nil {
		t.Fatal("the catch-up is kept")
	}
	for r.flush == nil {
		if !r.write() {
			t.Fatal("no checkpoint begins")
		}
	}
	check(t, r.flush.Run())
	check(t, r.core.FlushDone(nil))
}

// TestMemoryDuringCatchUp: entries that come from the log while a catch-up is under way can't be
// checkpointed; when they fill the memory the catch-up ends, and applying waits until it has.
func TestMemoryDuringCatchUp(t *testing.T) {
	r := newCoreRig(t)
	r.file()
	r.lag()
	n := 0
	for r.write() {
		if n++; n > 1000 {
			t.Fatal("memory fills without a limit")
		}
	}
	if !r.catchUp.void.Load() {
		t.Fatal("the catch-up goes on")
	}
	if _, err := r.catchUp.Pull(LocalSource(r.core, 0)); err != ErrNotNeeded {
		t.Fatal(err)
	}
	r.replies = nil
	check(t, r.core.CaughtUp(&Manifest{Index: 1 << 30}, nil)) // it was complete at the same moment
	r.pump()
	if r.core.behind != nil || r.flush == nil {
		t.Fatal("no checkpoint begins")
	}
	check(t, r.flush.Run())
	check(t, r.core.FlushDone(nil))
	r.pump()
	if len(r.replies) == 0 {
		t.Fatal("what waited is not applied")
	}
}

func TestLogWriterKeepsOrder(t *testing.T) {
	l, err := log.Open(disk.NewMem(), "log", log.Options{SegmentBytes: 64 << 10})
	check(t, err)
	entries := func(first, last, term uint64) (es []log.Entry) {
		for i := first; i <= last; i++ {
			es = append(es, log.Entry{Index: i, Term: term, Data: []byte{byte(i)}})
		}
		return es
	}
	var order []string
	batch := []agreement.Append{
		{State: &log.HardState{Term: 1, Vote: 1}, Entries: entries(1, 5, 1)},
		{Entries: entries(6, 8, 1)},
		{State: &log.HardState{Term: 2, Vote: 2, Commit: 3}, Entries: entries(4, 6, 2)}, // replaces 4 to 8
		{Entries: entries(7, 7, 2)},
		{Snapshot: &raftpb.Snapshot{Metadata: raftpb.SnapshotMetadata{Index: 20, Term: 2}},
			Install: func() error {
				if l.Last() != 7 || l.HardState().Term != 2 {
					t.Errorf("the log stands at %d when the snapshot is installed", l.Last())
				}
				order = append(order, "install")
				return nil
			}},
		{State: &log.HardState{Term: 3, Commit: 20}, Entries: entries(21, 22, 3), Durable: true},
	}
	var w LogWriter
	check(t, w.Write(l, batch))
	check(t, w.Finish(l, batch))
	if len(order) != 1 || l.First() != 21 || l.Last() != 22 || l.HardState() != (log.HardState{Term: 3, Commit: 20}) {
		t.Fatalf("installed %d times, log %d to %d, %+v", len(order), l.First(), l.Last(), l.HardState())
	}
	check(t, l.Close())
}

// FuzzManifest: any bytes are a manifest or an error; a manifest comes back as it was.
func FuzzManifest(f *testing.F) {
	f.Add([]byte{})
	f.Add(appendManifest(nil, &Manifest{Index: 7, Term: 2, Meta: []byte("meta"),
		Objects: []store.Object{{Number: 1, Label: "vol", Born: 3}}, Chunks: []ChangedChunk{{ChunkRef{1, 2}, 3}, {ChunkRef{1, 9}, 4}}}))
	f.Add(appendManifest(nil, &Manifest{})[:20])
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseManifest(b)
		if err != nil {
			return
		}
		if got := appendManifest(nil, m); !bytes.Equal(got, b) {
			t.Fatalf("%x becomes %x", b, got)
		}
	})
}

// FuzzMeta: any bytes are the state of a checkpoint or an error, on which nothing panics.
func FuzzMeta(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{255, 255, 255, 255, 0})
	f.Add(appendMeta(nil, raftpb.ConfState{Voters: []uint64{1, 2, 3}, Learners: []uint64{6}}, &Table{Records: []Record{{ID: 5, Number: 6, Last: 6}}}, state.New(nil)))
	f.Fuzz(func(t *testing.T, b []byte) {
		members, table, rest, err := decodeMeta(b)
		if err != nil {
			return
		}
		m := state.New(nil)
		if m.Restore(rest) != nil {
			return
		}
		again, _, _, err := decodeMeta(appendMeta(nil, members, &table, m))
		if err != nil || len(again.Voters) != len(members.Voters) {
			t.Fatalf("%v becomes %v: %v", members, again, err)
		}
	})
}

// TestWritesAreNotRefusedByAMasterThatWasDeposed: a master that ceases to be one in the very tick in which it looks at
// the others' disks knows of none. When it is master again at once it must not take that for a cell without room.
func TestWritesAreNotRefusedByAMasterThatWasDeposed(t *testing.T) {
	t.Parallel()
	r := newCoreRig(t)
	r.file()
	term := r.core.View().Term + 1
	check(t, r.core.Step(r.now, raftpb.Message{Type: raftpb.MsgHeartbeat, From: 2, To: 1, Term: term}, 0, 0))
	r.now += surveyEvery
	check(t, r.core.Tick(r.now))
	r.pump()
	if r.core.View().Self {
		t.Fatal("it is master still")
	}
	check(t, r.core.Step(r.now, raftpb.Message{Type: raftpb.MsgTimeoutNow, From: 2, To: 1, Term: term}, 0, 0))
	r.pump()
	if !r.core.View().Self {
		t.Fatal("it is not master again")
	}
	p := make([]byte, op.BlockSize)
	res := r.propose(op.Header{Code: op.Write, Object: r.object, Length: op.BlockSize}, nil, p)
	if len(r.replies) != 1 || r.replies[0].NotMaster || res.Errno != op.OK {
		t.Fatalf("the write is answered with %v: %+v", res.Errno, r.replies)
	}
}

// TestRoomIsForgottenWithTheTerm: how full the others' disks were in an earlier term says nothing about a later one.
func TestRoomIsForgottenWithTheTerm(t *testing.T) {
	t.Parallel()
	r := newCoreRig(t)
	r.core.Space(0, 1<<20)
	r.now += surveyEvery
	check(t, r.core.Tick(r.now))
	if !r.core.cellFull {
		t.Fatal("its only disk is full, and so is the cell")
	}
	term := r.core.View().Term + 1
	check(t, r.core.Step(r.now, raftpb.Message{Type: raftpb.MsgHeartbeat, From: 2, To: 1, Term: term}, 0, 0))
	if r.pump(); r.core.cellFull {
		t.Fatal("the cell is full for one who is not its master")
	}
}

// TestLogReadThatHangs: what agreement wants to have read of the log counts as an answer that the disk owes, as appends
// and clients' reads do. A server that was just started may need it to apply anything.
func TestLogReadThatHangs(t *testing.T) {
	r := newCoreRig(t)
	r.propose(op.Header{Code: op.SessionOpen, Flags: op.FlagFirst}, nil, nil)
	r.propose(op.Header{Code: op.CreateFile}, op.AppendString(nil, "/f"), nil)
	core, err := NewCore(r.core.cfg, r.log, r.store, store.Position{}, r.now) // as after a start, with nothing applied
	check(t, err)
	var out Output
	var writer LogWriter
	var read *agreement.Read
	for read == nil {
		r.now += agreement.LAN.Tick
		check(t, core.Tick(r.now))
		check(t, core.Pump(&out))
		check(t, writer.Write(r.log, out.Appends))
		check(t, writer.Finish(r.log, out.Appends))
		for i := range out.Appends {
			check(t, core.Appended(r.now, &out.Appends[i]))
		}
		if len(out.Reads) > 0 {
			read = out.Reads[0]
		}
		out.Reset()
	}
	check(t, core.Tick(r.now+diskPatience))
	if core.hangs() {
		t.Error("a read hangs that may still come")
	}
	check(t, core.Tick(r.now+diskPatience+agreement.LAN.Tick))
	if !core.hangs() {
		t.Error("a read that is not answered does not count")
	}
	check(t, core.ReadDone(read, read.Carry(r.log)))
	if core.hangs() {
		t.Error("a read that was answered counts")
	}
}

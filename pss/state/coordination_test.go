package state

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
)

// line is the client's side of a lock or a queue in TestCoordination: who was told what.
type line struct {
	held map[owner]bool // locks: true for writers
	had  map[uint64]int // queues: how often each message was handed out
	gone map[uint64]bool
}

// TestCoordination has sessions take and release locks, post and take messages, and end. Nobody ever holds a
// lock beside a writer; every message that was posted is in the queue or was acknowledged once, by one who had
// it; and nothing is left of sessions that ended. Each step is compared with a machine made anew from its
// snapshot, the room that is counted included.
func TestCoordination(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newTwins()
		l := line{map[owner]bool{}, map[uint64]int{}, map[uint64]bool{}}
		seq, alive := map[uint64]uint64{}, map[uint64]bool{}
		posted := 0
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			h := op.Header{Session: rapid.Uint64Range(1, 40).Draw(t, "session"), Epoch: 1}
			if rapid.IntRange(0, 3).Draw(t, "few") > 0 {
				h.Session = h.Session%3 + 1
			}
			if !alive[h.Session] {
				if r := w.apply(t, encode(op.Header{Code: op.SessionOpen, Session: h.Session, Epoch: 1})); r.Errno != op.OK {
					continue // it ended before
				}
				alive[h.Session] = true
			}
			seq[h.Session]++
			h.Seq = seq[h.Session]
			by := owner{h.Session, rapid.Uint64Range(1, 2).Draw(t, "handle")}
			h.Object = by.handle
			h.Code = rapid.SampledFrom([]op.Code{op.LockTake, op.LockTake, op.LockRelease, op.QueuePost, op.QueueTake,
				op.QueueTake, op.QueueAck, op.Watch, op.EventAck, op.SessionClose}).Draw(t, "code")
			switch h.Code {
			case op.LockTake:
				h.Flags = rapid.Uint16Range(0, 3).Draw(t, "flags")
				if write, ok := l.held[by]; ok && write != (h.Flags&op.FlagWrite != 0) {
					h.Flags ^= op.FlagWrite
				}
				if r := w.apply(t, encode(h, "L")); r.Errno == op.OK {
					l.held[by] = h.Flags&op.FlagWrite != 0
				}
			case op.LockRelease:
				w.apply(t, encode(h, "L"))
				delete(l.held, by)
			case op.QueuePost:
				data := []byte(fmt.Sprint(posted))
				h.Length = uint64(len(data))
				if r := w.apply(t, append(op.Head(nil, &h, op.PostArgs("Q", data), len(data)), data...)); r.Errno == op.OK {
					posted++
				}
			case op.QueueTake:
				if r := w.apply(t, encode(h, "Q")); r.Errno == op.OK {
					if l.gone[r.Value] {
						t.Fatalf("message %d was acknowledged and is handed out again", r.Value)
					}
					l.had[r.Value]++
				}
			case op.QueueAck:
				mine := uint64(0)
				if q := w.a.coord.queues["Q"]; q != nil {
					if i := q.taken(by); i >= 0 {
						mine = q.messages[i].number
					}
				}
				if r := w.apply(t, encode(h, "Q")); r.Errno == op.OK && mine != 0 {
					l.gone[mine] = true
				}
			case op.Watch:
				h.Flags = rapid.Uint16Range(1, 3).Draw(t, "kind")
				w.apply(t, encode(h, map[uint16]string{1: "/", 2: "L", 3: "Q"}[h.Flags]))
			case op.EventAck:
				w.apply(t, encode(h))
			case op.SessionClose:
				end := encode(op.Header{Code: op.SessionClose, Session: h.Session, Epoch: 1})
				if rapid.Bool().Draw(t, "expires") {
					end = op.Head(nil, &op.Header{Code: op.SessionExpire}, op.AppendExpiry(nil, op.Expiry{Session: h.Session, Epoch: 1}), 0)
				}
				w.apply(t, end)
				delete(alive, h.Session)
				for o := range l.held {
					if o.session == h.Session {
						delete(l.held, o)
					}
				}
			}
			checkCoordination(t, w, &l, alive, posted)
		}
	})
}

func checkCoordination(t *rapid.T, w *twins, l *line, alive map[uint64]bool, posted int) {
	t.Helper()
	r := New(w.sb)
	if err := r.Restore(w.a.Snapshot(nil)); err != nil {
		t.Fatal(err)
	}
	c := w.a.coord
	if r.coord.bytes != c.bytes {
		t.Fatalf("%d bytes are counted, and there are %d", c.bytes, r.coord.bytes)
	}
	writers := 0
	for by, write := range l.held {
		if write {
			writers++
		}
		if lk := c.locks["L"]; lk == nil || lk.find(lk.holders, by) < 0 {
			t.Fatalf("%v was given the lock and has it no more", by)
		}
	}
	if writers > 1 || writers == 1 && len(l.held) > 1 {
		t.Fatalf("%d writers among %d holders", writers, len(l.held))
	}
	if lk := c.locks["L"]; lk != nil {
		for _, h := range append(append([]holder{}, lk.holders...), lk.waiters...) {
			if !alive[h.session] {
				t.Fatalf("session %d ended and is still in line", h.session)
			}
		}
		if len(lk.waiters) > 0 && lk.compatible(lk.waiters[0]) {
			t.Fatal("the first in line could have the lock")
		}
	}
	left := 0
	if q := c.queues["Q"]; q != nil {
		left = len(q.messages)
		for _, g := range q.messages {
			if l.gone[g.number] || g.taken.session != 0 && !alive[g.taken.session] {
				t.Fatalf("message %d, taken by session %d, should not be there so", g.number, g.taken.session)
			}
		}
		if len(q.waiters) > 0 && q.taken(owner{}) >= 0 {
			t.Fatal("somebody waits, and a message is free")
		}
	}
	if left+len(l.gone) != posted {
		t.Fatalf("%d messages were posted, %d acknowledged, %d are left", posted, len(l.gone), left)
	}
}

// Each limit is a refusal, or a count of what was left out.
func TestLimitsOfCoordination(t *testing.T) {
	w := newTwins()
	seq := uint64(0)
	do := func(code op.Code, object uint64, flags uint16, name string) op.Result {
		seq++
		return w.apply(t, encode(op.Header{Code: code, Session: 1, Epoch: 1, Seq: seq, Acked: seq, Object: object, Flags: flags}, name))
	}
	w.apply(t, encode(op.Header{Code: op.SessionOpen, Session: 1, Epoch: 1}))
	for i := range MaxMessages {
		if r := do(op.QueuePost, 0, 0, "Q"); r.Errno != op.OK {
			t.Fatalf("message %d: %v", i, r.Errno)
		}
	}
	if r := do(op.QueuePost, 0, 0, "Q"); r.Errno != op.TooMany {
		t.Errorf("a message more: %v", r.Errno)
	}
	for i := range MaxWatches {
		if r := do(op.Watch, 0, uint16(op.EventDir), fmt.Sprintf("/d%d", i)); r.Errno != op.OK {
			t.Fatalf("watch %d: %v", i, r.Errno)
		}
	}
	if r := do(op.Watch, 0, uint16(op.EventDir), "/more"); r.Errno != op.TooMany {
		t.Errorf("a watch more: %v", r.Errno)
	}
	do(op.Mkdir, 0, 0, "/d1")
	for i := range MaxEvents + 7 {
		if r := do(op.CreateFile, 0, op.FlagEphemeral, fmt.Sprintf("/d1/%d", i)); r.Errno != op.OK {
			t.Fatalf("file %d: %v", i, r.Errno)
		}
	}
	a, err := w.a.Query(op.Query{Code: op.EventGet, Object: 1})
	list, perr := op.ParseEvents(a.Value)
	if err != nil || perr != nil || len(list) != MaxEvents || a.Version-1 != 7 || list[0].Entry != "0" {
		t.Errorf("%d events, %d omitted, %v, %v", len(list), a.Version-1, err, perr)
	}
	for i := range MaxWaiters {
		if r := do(op.LockTake, uint64(i), 0, "L"); r.Errno != op.OK {
			t.Fatalf("reader %d: %v", i, r.Errno)
		}
	}
	if r := do(op.LockTake, MaxWaiters, 0, "L"); r.Errno != op.TooMany {
		t.Errorf("a reader more: %v", r.Errno)
	}
	w.apply(t, encode(op.Header{Code: op.SessionClose, Session: 1, Epoch: 1}))
	if w.a.tree.count != 1 || len(w.a.coord.locks) != 0 {
		t.Errorf("%d names and %d locks are left", w.a.tree.count, len(w.a.coord.locks))
	}
}

// A store that fails in the middle of a session's end does not keep the session from ending when the entry is
// applied again.
func TestEndAfterStoreError(t *testing.T) {
	store := newMemStore()
	m := New(store)
	mustApply(t, m, 1, encode(op.Header{Code: op.SessionOpen, Session: 1, Epoch: 1}))
	for i := range uint64(3) {
		mustApply(t, m, 2+i, encode(op.Header{Code: op.CreateFile, Session: 1, Epoch: 1, Seq: 1 + i, Flags: op.FlagEphemeral}, fmt.Sprint(i)))
	}
	end := encode(op.Header{Code: op.SessionClose, Session: 1, Epoch: 1})
	broken := fmt.Errorf("broken disk")
	store.fail["delete"] = broken
	if _, err := m.Apply(5, end); err == nil {
		t.Fatal("no error")
	}
	delete(store.fail, "delete")
	mustApply(t, m, 5, end)
	if m.tree.count != 0 || len(store.objects) != 0 || len(m.sessions.byID) != 0 {
		t.Errorf("%d names, %d objects, %d sessions are left", m.tree.count, len(store.objects), len(m.sessions.byID))
	}
}

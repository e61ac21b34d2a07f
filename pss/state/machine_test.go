package state

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sample is a machine with something of everything: a closed session, two open ones with results,
// folders, files and volumes, one of them shared and with attributes. It is what the golden snapshot shows.
func sample(t testing.TB) (*Machine, *memStore, uint64) {
	t.Helper()
	type H = op.Header
	h := H{Code: op.AttrSet, Session: 0x1112131415161718, Epoch: 0x21222324, Seq: 3, Acked: 1, Object: 2, Token: 2}
	bump := h
	bump.Seq, bump.Flags = 4, op.FlagBump
	return sampleOf(t, append(sampleEntries(),
		encode(H{Code: op.VolumeOpen, Session: h.Session, Epoch: h.Epoch, Seq: 2, Acked: 1, Flags: op.FlagShared}, "/vol001"),
		encodeAttr(h, "empty", 0, nil),
		encodeAttr(bump, "reservations", 0, []byte("one holder")),
	))
}

// sampleOf is a machine that the entries were applied to.
func sampleOf(t testing.TB, entries [][]byte) (*Machine, *memStore, uint64) {
	t.Helper()
	store := newMemStore()
	m := New(store)
	for i, e := range entries {
		mustApply(t, m, uint64(i+1), e)
	}
	return m, store, uint64(len(entries) + 1)
}

// sampleEntries is what the golden snapshot of version 1 shows.
func sampleEntries() [][]byte {
	type H = op.Header
	return [][]byte{
		encode(H{Code: op.Nop}),
		encode(H{Code: op.SessionOpen, Session: 7, Epoch: 1}),
		encode(H{Code: op.SessionClose, Session: 7, Epoch: 1}),
		encode(H{Code: op.SessionOpen, Session: 0x1112131415161718, Epoch: 0x21222324}),
		encode(H{Code: op.SessionOpen, Session: 3, Epoch: 5}),
		encode(H{Code: op.Mkdir, Session: 3, Epoch: 5, Seq: 1, Stamp: 1000}, "/dir/sub"),
		encode(H{Code: op.CreateFile, Session: 3, Epoch: 5, Seq: 2, Stamp: 2000}, "/dir/file"),
		encode(H{Code: op.VolumeCreate, Session: 3, Epoch: 5, Seq: 3, Stamp: 3000, Length: 1 << 40}, "/vol001"),
		encode(H{Code: op.VolumeOpen, Session: 3, Epoch: 5, Seq: 4, Acked: 2}, "/vol001"),
		encodeData(H{Code: op.Write, Session: 3, Epoch: 5, Seq: 5, Acked: 2, Object: 2, Token: 1, Offset: 8 << 20, Stamp: 4000}, []byte("data")),
		encodeData(H{Code: op.Write, Session: 3, Epoch: 5, Seq: 6, Acked: 2, Object: 1, Offset: 10, Stamp: 5000}, []byte("more")),
	}
}

func TestEntriesComeInOrder(t *testing.T) {
	m, _, index := sample(t)
	before := m.Digest()
	for _, i := range []uint64{0, 1, index - 1} {
		if _, err := m.Apply(i, encode(op.Header{Code: op.Nop})); !errors.Is(err, ErrOrder) {
			t.Errorf("entry %d: %v", i, err)
		}
	}
	if m.Digest() != before {
		t.Error("the state changed")
	}
	mustApply(t, m, index+10, encode(op.Header{Code: op.Nop}))
	if m.Digest() == before {
		t.Error("the state does not tell its index")
	}
}

// An operation that the store fails has not happened: it can be applied again.
func TestStoreErrorsLeaveNothingHalfDone(t *testing.T) {
	type H = op.Header
	at := func(code op.Code) H {
		return H{Code: code, Session: 3, Epoch: 5, Seq: 7, Acked: 5, Object: 1, Offset: 12, Length: 2, Stamp: 9}
	}
	cases := []struct {
		call  string
		entry []byte
	}{
		{"create", encode(at(op.CreateFile), "/new")},
		{"create", encode(H{Code: op.VolumeCreate, Session: 3, Epoch: 5, Seq: 7, Acked: 5, Length: 512}, "/new")},
		{"delete", encode(at(op.Delete), "/dir/file")},
		{"delete", encode(at(op.VolumeDelete), "/vol001")},
		{"delete", encode(at(op.Rename), "/other", "/dir/file")},
		{"truncate", encode(at(op.Truncate))},
		{"write", encodeData(at(op.Write), []byte("written"))},
		{"zero", encode(at(op.Unmap))},
		{"zero", encode(at(op.WriteZeroes))},
		{"read", encodeData(at(op.CompareAndWrite), []byte("reRE"))},
		{"write", encodeData(at(op.CompareAndWrite), []byte("reRE"))},
	}
	broken := errors.New("broken disk")
	for _, c := range cases {
		o, err := op.Parse(c.entry)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(fmt.Sprintf("%v fails to %s", o.Code, c.call), func(t *testing.T) {
			m, store, index := sample(t)
			twin, _, _ := sample(t)
			other := encode(H{Code: op.CreateFile, Session: 0x1112131415161718, Epoch: 0x21222324, Seq: 1}, "/other")
			mustApply(t, m, index, other)
			mustApply(t, twin, index, other)
			before := m.Digest()
			store.fail[c.call] = broken
			_, err := m.Apply(index+1, c.entry)
			if !errors.Is(err, broken) || !strings.Contains(err.Error(), o.Code.String()) {
				t.Fatalf("error %v", err)
			}
			if m.Digest() != before {
				t.Fatal("the state changed")
			}
			store.fail[c.call] = nil
			want := mustApply(t, twin, index+1, c.entry)
			if got := mustApply(t, m, index+1, c.entry); got != want || m.Digest() != twin.Digest() {
				t.Fatalf("applied again it answers %+v, not %+v", got, want)
			}
		})
	}
	t.Run("query", func(t *testing.T) {
		m, store, _ := sample(t)
		store.fail["chunks"] = broken
		for _, q := range []op.Query{{Code: op.ReadDir, Path: "/vol001"}, {Code: op.Stat, Path: "/vol001/00"}} {
			if a, err := m.Query(q); !errors.Is(err, broken) || a.Nodes != nil {
				t.Errorf("%+v: %+v, %v", q, a, err)
			}
		}
	})
}

func TestLimits(t *testing.T) {
	type H = op.Header
	t.Run("sessions", func(t *testing.T) {
		m := New(newMemStore())
		index := uint64(1)
		apply := func(h H) op.Errno {
			r, err := m.Apply(index, encode(h))
			if err != nil {
				t.Fatal(err)
			}
			index++
			return r.Errno
		}
		for id := uint64(1); id <= MaxSessions; id++ {
			if e := apply(H{Code: op.SessionOpen, Session: id}); e != op.OK {
				t.Fatalf("session %d: %v", id, e)
			}
		}
		if e := apply(H{Code: op.SessionOpen, Session: MaxSessions + 1}); e != op.TooMany {
			t.Errorf("one more: %v", e)
		}
		if e := apply(H{Code: op.SessionOpen, Session: 1, Epoch: 1}); e != op.OK {
			t.Errorf("reopened: %v", e)
		}
		if e := apply(H{Code: op.SessionClose, Session: 2}); e != op.OK {
			t.Errorf("closed: %v", e)
		}
		if e := apply(H{Code: op.SessionOpen, Session: MaxSessions + 1}); e != op.OK {
			t.Errorf("in its place: %v", e)
		}
		checkRestores(t, m)
	})
	t.Run("closed sessions", func(t *testing.T) {
		m := New(newMemStore())
		index := uint64(0)
		apply := func(code op.Code, id uint64) op.Errno {
			index++
			r, err := m.Apply(index, encode(H{Code: code, Session: id}))
			if err != nil {
				t.Fatal(err)
			}
			return r.Errno
		}
		for id := uint64(1); id <= MaxClosed+1; id++ {
			if a, b := apply(op.SessionOpen, id), apply(op.SessionClose, id); a != op.OK || b != op.OK {
				t.Fatalf("session %d: %v, %v", id, a, b)
			}
		}
		for id, want := range map[uint64]op.Errno{1: op.OK, 2: op.NoSession, MaxClosed + 1: op.NoSession} {
			if e := apply(op.SessionOpen, id); e != want {
				t.Errorf("session %d again: %v", id, e)
			}
		}
		checkRestores(t, m)
	})
	t.Run("objects", func(t *testing.T) {
		m, _, index := sample(t)
		m.tree.count += MaxObjects - 1 - m.tree.count
		apply := func(h H, paths ...string) op.Errno {
			h.Session, h.Epoch, h.Seq = 3, 5, index
			r, err := m.Apply(index, encode(h, paths...))
			if err != nil {
				t.Fatal(err)
			}
			index++
			return r.Errno
		}
		if e := apply(H{Code: op.Mkdir}, "/x/y"); e != op.TooMany {
			t.Errorf("two folders where one fits: %v", e)
		}
		if e := apply(H{Code: op.Mkdir}, "/x"); e != op.OK {
			t.Errorf("the last one: %v", e)
		}
		for _, code := range []op.Code{op.Mkdir, op.CreateFile, op.VolumeCreate} {
			if e := apply(H{Code: code, Length: 512}, "/y"); e != op.TooMany {
				t.Errorf("%v: %v", code, e)
			}
		}
		if e := apply(H{Code: op.Mkdir}, "/x"); e != op.OK {
			t.Errorf("one that is there: %v", e)
		}
		if e := apply(H{Code: op.Rmdir}, "/x"); e != op.OK {
			t.Errorf("removed: %v", e)
		}
		if e := apply(H{Code: op.CreateFile}, "/y"); e != op.OK {
			t.Errorf("in its place: %v", e)
		}
	})
}

// The results of a burst of failures don't hold memory once they are acknowledged.
func TestResultsAreForgotten(t *testing.T) {
	m := New(nullStore{})
	mustApply(t, m, 1, encode(op.Header{Code: op.SessionOpen, Session: 1}))
	index := uint64(1)
	apply := func(seq, acked uint64) {
		index++
		r, err := m.Apply(index, encode(op.Header{Code: op.Rmdir, Session: 1, Seq: seq, Acked: acked}, "/none"))
		if err != nil || r.Errno != op.NotFound {
			t.Fatalf("number %d: %v, %v", seq, r.Errno, err)
		}
	}
	for seq := uint64(op.Window); seq > 0; seq-- {
		apply(seq, 1)
	}
	s := m.sessions.byID[1]
	if len(s.kept) != op.Window {
		t.Fatalf("%d results are kept", len(s.kept))
	}
	checkRestores(t, m)
	apply(op.Window+1, op.Window)
	if len(s.kept) != 2 || s.acked != op.Window {
		t.Errorf("%d results are kept from number %d on", len(s.kept), s.acked)
	}
	apply(3*op.Window, 3*op.Window)
	if len(s.kept) != 1 || cap(s.kept) > keptCap {
		t.Errorf("%d results are kept, with room for %d", len(s.kept), cap(s.kept))
	}
	checkRestores(t, m)
}

// A folder with more entries than an answer holds is listed in several.
func TestReadDirPages(t *testing.T) {
	m := New(newMemStore())
	mustApply(t, m, 1, encode(op.Header{Code: op.SessionOpen, Session: 1}))
	const count = 2*op.MaxNodes + 1
	for i := range uint64(count) {
		name := fmt.Sprintf("/d/%04d", i*7919%count)
		mustApply(t, m, i+2, encode(op.Header{Code: op.Mkdir, Session: 1, Seq: i + 1, Acked: i + 1}, name))
	}
	var names []string
	cursor, more := "", true
	for more {
		a, err := m.Query(op.Query{Code: op.ReadDir, Path: "/d", Cursor: cursor})
		if err != nil || a.Errno != op.OK || len(a.Nodes) == 0 || len(a.Nodes) > op.MaxNodes {
			t.Fatalf("%d nodes, %v, %v", len(a.Nodes), a.Errno, err)
		}
		for _, n := range a.Nodes {
			names = append(names, n.Name)
		}
		cursor, more = a.Nodes[len(a.Nodes)-1].Name, a.More
	}
	for i, n := range names {
		if n != fmt.Sprintf("%04d", i) {
			t.Fatalf("name %d is %s", i, n)
		}
	}
	if len(names) != count {
		t.Errorf("%d names", len(names))
	}
}

func TestQueryRefuses(t *testing.T) {
	m, _, _ := sample(t)
	for _, q := range []op.Query{{Path: "/"}, {Code: 99, Path: "/"}, {Code: 99, Path: "/vol001"}, {Code: op.Stat, Path: "//"}} {
		if a, err := m.Query(q); err != nil || a.Errno != op.Invalid {
			t.Errorf("%+v: %+v, %v", q, a, err)
		}
	}
}

// nullStore takes everything and keeps nothing.
type nullStore struct{}

func (nullStore) Create(uint64, string, uint64) error                         { return nil }
func (nullStore) Delete(uint64, uint64) error                                 { return nil }
func (nullStore) Write(uint64, int64, []byte, []byte, int, uint64) error      { return nil }
func (nullStore) Zero(uint64, int64, int64, uint64, bool) error               { return nil }
func (nullStore) Truncate(uint64, int64, uint64) error                        { return nil }
func (nullStore) ReadAt(_ uint64, _ int64, p []byte) error                    { clear(p); return nil }
func (nullStore) Chunks(_ uint64, _ uint32, fn func(chunk uint32) bool) error { fn(0); return nil }

func TestNoAllocationPerOperation(t *testing.T) {
	m := New(nullStore{})
	index := uint64(3)
	mustApply(t, m, 1, encode(op.Header{Code: op.SessionOpen, Session: 1}))
	mustApply(t, m, 2, encode(op.Header{Code: op.VolumeCreate, Session: 1, Seq: 1, Length: 1 << 30}, "/v"))
	mustApply(t, m, 3, encode(op.Header{Code: op.VolumeOpen, Session: 1, Seq: 2}, "/v"))
	for _, code := range []op.Code{op.Write, op.CompareAndWrite, op.Unmap, op.WriteZeroes, op.Flush} {
		h := op.Header{Code: code, Session: 1, Object: 1, Token: 1, Length: 4096}
		var entries [][]byte
		for range 200 {
			index++
			h.Seq = index
			h.Acked = h.Seq - min(10, h.Seq-1)
			if code == op.Write || code == op.CompareAndWrite {
				entries = append(entries, encodeData(h, make([]byte, 8192)))
			} else {
				entries = append(entries, encode(h))
			}
		}
		next := index - 199
		if n := testing.AllocsPerRun(150, func() {
			mustApply(t, m, next, entries[0])
			next, entries = next+1, entries[1:]
		}); n != 0 {
			t.Errorf("%v: %v allocations", code, n)
		}
	}
}

// Readers in other goroutines see the tree at some entry while entries are applied.
func TestConcurrentReaders(t *testing.T) {
	m := New(nullStore{})
	index := uint64(0)
	seq := uint64(0)
	apply := func(h op.Header, paths ...string) {
		index++
		if h.Session = 1; h.Code != op.SessionOpen {
			seq++
			h.Seq, h.Acked = seq, seq
		}
		entry := encode(h, paths...)
		if h.Code == op.Write {
			entry = encodeData(h, bytes.Repeat([]byte{1}, 512))
		}
		mustApply(t, m, index, entry)
	}
	apply(op.Header{Code: op.SessionOpen})
	apply(op.Header{Code: op.Mkdir}, "/a")
	apply(op.Header{Code: op.VolumeCreate, Length: 512}, "/vol")
	apply(op.Header{Code: op.VolumeOpen}, "/vol")
	apply(op.Header{Code: op.CreateFile}, "/file")

	var readers sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		readers.Go(func() {
			last := uint64(0)
			for {
				select {
				case <-stop:
					return
				default:
				}
				if size, kind, ok := m.Object(1); !ok || kind != op.KindVolume || size < last {
					t.Errorf("object 1: %d bytes after %d, %v, %v", size, last, kind, ok)
					return
				} else {
					last = size
				}
				m.Object(2)
				m.Object(1 << 20)
				for _, q := range []op.Query{{Code: op.ReadDir, Path: "/"}, {Code: op.ReadDir, Path: "/a"}, {Code: op.Stat, Path: "/file"},
					{Code: op.Stat, Path: "/vol/00/00"}} {
					if a, err := m.Query(q); err != nil || a.Errno != op.OK && a.Errno != op.NotFound {
						t.Errorf("%+v: %v, %v", q, a.Errno, err)
						return
					}
				}
				runtime.Gosched()
			}
		})
	}
	for i := range uint64(300) {
		apply(op.Header{Code: op.VolumeGrow, Length: 512 * (i + 1)}, "/vol")
		apply(op.Header{Code: op.Write, Object: 1, Token: 1, Stamp: i})
		apply(op.Header{Code: op.Write, Object: 2, Offset: 512 * i})
		apply(op.Header{Code: op.Truncate, Object: 2, Length: i})
		apply(op.Header{Code: op.CreateFile}, "/a/x")
		apply(op.Header{Code: op.Rename}, "/file", "/a/f")
		apply(op.Header{Code: op.Rename}, "/a", "/b")
		apply(op.Header{Code: op.Rename}, "/b/f", "/file")
		apply(op.Header{Code: op.Delete}, "/b/x")
		apply(op.Header{Code: op.Rename}, "/b", "/a")
		if i%100 == 50 {
			if err := m.Restore(m.Snapshot(nil)); err != nil {
				t.Error(err)
			}
		}
	}
	close(stop)
	readers.Wait()
}

// structured turns fuzz bytes into an operation that gets past the checks of its form.
func structured(b []byte) (entry, rest []byte) {
	take := func() uint64 {
		if len(b) == 0 {
			return 0
		}
		v := b[0]
		b = b[1:]
		return uint64(v)
	}
	h := op.Header{Code: op.Code(take() % 24), Session: take() % 4, Epoch: uint32(take() % 3), Seq: take()}
	h.Acked, h.Object, h.Token = take(), take()%8, take()%4
	h.Offset, h.Length = take()<<(take()%40), take()<<(take()%40)
	h.Stamp = take()
	size := min(int(take()), len(b))
	data := b[:size]
	b = b[size:]
	switch {
	case h.Code == op.Write && size > 0:
		return encodeData(h, data), b
	case h.Code == op.CompareAndWrite && size > 1:
		return encodeData(h, data[:size&^1]), b
	case h.Seq%5 == 0:
		return op.Head(nil, &h, data, 0), b
	}
	names := strings.SplitN(string(data), "\x00", 3)
	return encode(h, names...), b
}

// Nothing that comes can make the machine fail, and its snapshot is always one.
func FuzzApply(f *testing.F) {
	f.Add([]byte{byte(op.Mkdir), 3, 2, 7, 0, 0, 0, 0, 0, 0, 0, 0, 2, '/', 'a'})
	f.Add([]byte{byte(op.Write), 3, 2, 7, 0, 2, 1, 1, 0, 4, 0, 9, 4, 'a', 'b', 'c', 'd', byte(op.Unmap), 3, 2, 8, 0, 2, 1, 1, 0, 1, 9, 0, 0})
	f.Add([]byte{byte(op.Rename), 3, 2, 7, 0, 0, 0, 0, 0, 0, 0, 0, 9, '/', 'd', 'i', 'r', 0, '/', 'd', 'i', 'x'})
	f.Add(encode(op.Header{Code: op.SessionOpen, Session: 1}))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, _, index := sample(t)
		mustApply(t, m, index, encode(op.Header{Code: op.SessionOpen, Session: 3, Epoch: 6}))
		mustApply(t, m, index+1, encode(op.Header{Code: op.SessionOpen, Session: 1}))
		mustApply(t, m, index+2, encode(op.Header{Code: op.SessionOpen, Session: 2}))
		index += 3
		if _, err := m.Apply(index, b); err != nil {
			t.Fatal(err)
		}
		for n := 0; len(b) > 0 && n < 100; n++ {
			var entry []byte
			entry, b = structured(b)
			index++
			r, err := m.Apply(index, entry)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := op.ParseResult(op.AppendResult(nil, r)); err != nil {
				t.Fatalf("%+v: %v", r, err)
			}
		}
		checkRestores(t, m)
	})
}

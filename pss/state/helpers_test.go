package state

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
)

// memStore is a Store that keeps blocks in a map, and holds its caller to the contract: objects exist
// when they are used and are made once, indexes don't fall, sums are those of the data, and the data is
// where the caller says it is in the entry.
type memStore struct {
	objects map[uint64]map[int64][]byte // object, block: BlockSize bytes
	used    map[uint64]bool             // every number there ever was
	last    uint64
	entry   []byte // the one being applied; nil when the sums are not to be looked at
	fail    map[string]error
}

func newMemStore() *memStore {
	return &memStore{objects: map[uint64]map[int64][]byte{}, used: map[uint64]bool{}, fail: map[string]error{}}
}

var errContract = errors.New("the machine broke the store's contract")

// begin is what every call starts with: a failure ordered by the test, or a look at the contract.
func (s *memStore) begin(call string, object, index uint64) error {
	if err := s.fail[call]; err != nil {
		return err
	}
	if index < s.last {
		return fmt.Errorf("%w: %s at entry %d after %d", errContract, call, index, s.last)
	}
	s.last = index
	if call != "create" && s.objects[object] == nil {
		return fmt.Errorf("%w: %s of object %d, which is not there", errContract, call, object)
	}
	return nil
}

func (s *memStore) Create(object uint64, label string, index uint64) error {
	if err := s.begin("create", object, index); err != nil {
		return err
	}
	if s.used[object] || object == 0 || label == "" {
		return fmt.Errorf("%w: create of object %d %q", errContract, object, label)
	}
	s.used[object], s.objects[object] = true, map[int64][]byte{}
	return nil
}

func (s *memStore) Delete(object, index uint64) error {
	if err := s.begin("delete", object, index); err != nil {
		return err
	}
	delete(s.objects, object)
	return nil
}

func (s *memStore) Write(object uint64, off int64, data, sums []byte, entryOffset int, index uint64) error {
	if err := s.begin("write", object, index); err != nil {
		return err
	}
	if s.entry != nil {
		if !bytes.Equal(s.entry[entryOffset:entryOffset+len(data)], data) {
			return fmt.Errorf("%w: the data is not at %d of entry %d", errContract, entryOffset, index)
		}
		o := op.Op{Args: sums}
		for i, sum := range op.AppendSums(nil, uint64(off), data) {
			if len(sums) != 4*op.Pieces(uint64(off), len(data)) || sum != o.SumAt(i) {
				return fmt.Errorf("%w: sum %d of entry %d", errContract, i, index)
			}
		}
	}
	return s.put(object, off, data)
}

func (s *memStore) put(object uint64, off int64, data []byte) error {
	if off < 0 || off+int64(len(data)) > op.MaxVolume {
		return fmt.Errorf("%w: %d bytes at %d", errContract, len(data), off)
	}
	for len(data) > 0 {
		block, at := off/op.BlockSize, int(off%op.BlockSize)
		b := s.objects[object][block]
		if b == nil {
			b = make([]byte, op.BlockSize)
			s.objects[object][block] = b
		}
		n := copy(b[at:], data)
		data, off = data[n:], off+int64(n)
	}
	return nil
}

func (s *memStore) Zero(object uint64, off, n int64, index uint64, free bool) error {
	if err := s.begin("zero", object, index); err != nil {
		return err
	}
	if n <= 0 || n > op.MaxZeroes || off < 0 || off+n > op.MaxVolume {
		return fmt.Errorf("%w: zero %d bytes at %d", errContract, n, off)
	}
	s.clear(object, off, off+n, free)
	return nil
}

// clear zeroes [from, to). Whole blocks go away if that is wanted.
func (s *memStore) clear(object uint64, from, to int64, free bool) {
	for block, b := range s.objects[object] {
		lo, hi := max(from, block*op.BlockSize), min(to, (block+1)*op.BlockSize)
		if lo >= hi {
			continue
		}
		if hi-lo == op.BlockSize && free {
			delete(s.objects[object], block)
			continue
		}
		clear(b[lo-block*op.BlockSize : hi-block*op.BlockSize])
	}
}

func (s *memStore) Truncate(object uint64, size int64, index uint64) error {
	if err := s.begin("truncate", object, index); err != nil {
		return err
	}
	s.clear(object, size, 1<<62, true)
	return nil
}

func (s *memStore) ReadAt(object uint64, off int64, p []byte) error {
	if err := s.begin("read", object, s.last); err != nil {
		return err
	}
	clear(p)
	for block := off / op.BlockSize; block*op.BlockSize < off+int64(len(p)); block++ {
		b := s.objects[object][block]
		if b == nil {
			continue
		}
		if at := block*op.BlockSize - off; at >= 0 {
			copy(p[at:], b)
		} else {
			copy(p, b[-at:])
		}
	}
	return nil
}

func (s *memStore) Chunks(object uint64, from uint32, fn func(chunk uint32) bool) error {
	if err := s.begin("chunks", object, s.last); err != nil {
		return err
	}
	var chunks []uint32
	for block := range s.objects[object] {
		if c := uint32(block / (op.ChunkSize / op.BlockSize)); c >= from {
			chunks = append(chunks, c)
		}
	}
	slices.Sort(chunks)
	for _, c := range slices.Compact(chunks) {
		if !fn(c) {
			break
		}
	}
	return nil
}

// clone is a store with the same content.
func (s *memStore) clone() *memStore {
	c := newMemStore()
	c.last, c.used = s.last, maps.Clone(s.used)
	for object, blocks := range s.objects {
		c.objects[object] = map[int64][]byte{}
		for i, b := range blocks {
			c.objects[object][i] = bytes.Clone(b)
		}
	}
	return c
}

// encode makes an entry of an operation with paths.
func encode(h op.Header, paths ...string) []byte {
	var args []byte
	for _, p := range paths {
		args = op.AppendString(args, p)
	}
	return op.Head(nil, &h, args, 0)
}

// encodeData makes an entry of a Write or CompareAndWrite; Length is set.
func encodeData(h op.Header, payload []byte) []byte {
	var sums []uint32
	h.Length = uint64(len(payload))
	if h.Code == op.CompareAndWrite {
		h.Length /= 2
		sums = op.AppendSums(sums, h.Offset, payload[:h.Length])
		sums = op.AppendSums(sums, h.Offset, payload[h.Length:])
	} else {
		sums = op.AppendSums(sums, h.Offset, payload)
	}
	return append(op.HeadSums(nil, &h, sums, len(payload)), payload...)
}

// encodeAttr makes an entry of an AttrSet; Length is set.
func encodeAttr(h op.Header, name string, version uint64, value []byte) []byte {
	h.Length = uint64(len(value))
	return append(op.Head(nil, &h, op.AttrArgs(name, version, value), len(value)), value...)
}

// twins are two servers of a cell that get the same entries, one of which is made anew from its
// snapshot before each. They must never differ.
type twins struct {
	index uint64
	a, b  *Machine
	sa    *memStore
	sb    *memStore
}

func newTwins() *twins {
	w := &twins{sa: newMemStore(), sb: newMemStore()}
	w.a, w.b = New(w.sa), New(w.sb)
	return w
}

type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

func (w *twins) apply(t fataler, entry []byte) op.Result {
	t.Helper()
	if o, err := op.Parse(entry); err == nil && o.Check() == nil {
		w.sa.entry, w.sb.entry = entry, entry
	} else {
		w.sa.entry, w.sb.entry = nil, nil
	}
	w.index++
	ra, err := w.a.Apply(w.index, entry)
	if err != nil {
		t.Fatalf("entry %d: %v", w.index, err)
	}
	restored := New(w.sb)
	if err := restored.Restore(w.b.Snapshot(nil)); err != nil {
		t.Fatalf("before entry %d: %v", w.index, err)
	}
	w.b = restored
	rb, err := w.b.Apply(w.index, entry)
	if err != nil {
		t.Fatalf("entry %d: %v", w.index, err)
	}
	if ra != rb || w.a.Digest() != w.b.Digest() {
		t.Fatalf("entry %d: the twins answer %+v and %+v, with snapshots\n%x\n%x", w.index, ra, rb,
			w.a.Snapshot(nil), w.b.Snapshot(nil))
	}
	return ra
}

// checkStores compares the data of the twins, and that the stores have the objects of the tree.
func (w *twins) checkStores(t fataler) {
	t.Helper()
	if len(w.sa.objects) != len(w.a.tree.objects) || len(w.sb.objects) != len(w.sa.objects) {
		t.Fatalf("%d and %d objects in the stores, %d in the tree", len(w.sa.objects), len(w.sb.objects), len(w.a.tree.objects))
	}
	for object, blocks := range w.sa.objects {
		if w.a.tree.objects[object] == nil || !maps.EqualFunc(blocks, w.sb.objects[object], bytes.Equal) {
			t.Fatalf("the stores differ in object %d", object)
		}
	}
}

// mustApply applies an entry that has to succeed.
func mustApply(t testing.TB, m *Machine, index uint64, entry []byte) op.Result {
	t.Helper()
	r, err := m.Apply(index, entry)
	if err != nil || r.Errno != op.OK {
		t.Fatalf("entry %d: %v, %v", index, r.Errno, err)
	}
	return r
}

package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
)

// entry is an entry of the log in tests.
type entry struct {
	what    string // create, delete, write, add, zero, keep, truncate
	object  uint64
	off, n  int64
	payload []byte // of a write
	raw     []byte // the whole entry, as the log has it; payload is a part of it
}

// entryHead is how many bytes precede the payload in an entry.
const entryHead = 88

// model is what a store should hold: the bytes of every block that is not zero.
type model map[uint64]map[int64][BlockSize]byte

func (m model) block(object uint64, b int64) []byte {
	x := m[object][b]
	return x[:]
}

func (m model) put(object uint64, off int64, p []byte) {
	for len(p) > 0 {
		b, at := off/BlockSize, off%BlockSize
		x := m[object][b]
		n := copy(x[at:], p)
		if x == [BlockSize]byte{} {
			delete(m[object], b)
		} else {
			m[object][b] = x
		}
		off, p = off+int64(n), p[n:]
	}
}

func (m model) clone() model {
	c := model{}
	for o, blocks := range m {
		c[o] = maps.Clone(blocks)
	}
	return c
}

// apply is what an entry does to the model.
func (m model) apply(e *entry) {
	switch e.what {
	case "create":
		m[e.object] = map[int64][BlockSize]byte{}
	case "delete":
		delete(m, e.object)
	case "write":
		m.put(e.object, e.off, e.payload)
	case "add":
		b := bytes.Clone(m.block(e.object, e.off/BlockSize)[e.off%BlockSize:][:e.n])
		for i := range b {
			b[i]++
		}
		m.put(e.object, e.off, b)
	case "zero", "keep", "truncate":
		end := e.off + e.n
		if e.what == "truncate" {
			end = op.MaxVolume
		}
		for b := range m[e.object] {
			if lo, hi := max(e.off, b*BlockSize), min(end, (b+1)*BlockSize); lo < hi {
				m.put(e.object, lo, make([]byte, hi-lo))
			}
		}
	}
}

// rig is a store on a disk in memory with the log that feeds it.
type rig struct {
	t    testing.TB
	mem  *disk.Mem
	fs   disk.FS // mem, or another one
	o    Options
	s    *Store
	log  []*entry // entry i has index i+1
	now  model
	old  map[uint64]model // by index, of every freeze
	pos  Position
	last *Flush
}

// tiny is the options that tests use, so that caches have to let go all the time.
func tiny() Options {
	return Options{Dir: "replica/store", MaxOverlayBytes: 1 << 20, SumsBytes: 2 * pageSize, OpenFiles: 2}
}

func newRig(t testing.TB) *rig {
	r := &rig{t: t, mem: disk.NewMem(), o: tiny(), now: model{}, old: map[uint64]model{0: {}}}
	r.fs = r.mem
	r.open()
	return r
}

// caches opens an empty store again, with caches that hold everything if large.
func (r *rig) caches(large bool) {
	r.t.Helper()
	if large {
		r.o.SumsBytes, r.o.OpenFiles = 0, 0
		r.open()
	}
}

// open opens the store; the log is replayed by the caller.
func (r *rig) open() {
	r.t.Helper()
	if err := r.tryOpen(); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) tryOpen() (err error) {
	r.o.EntryData = func(index uint64) ([]byte, error) {
		if index == 0 || index > uint64(len(r.log)) {
			return nil, fmt.Errorf("no entry %d", index)
		}
		return r.log[index-1].raw, nil
	}
	r.s, r.pos, err = Open(r.fs, r.o)
	return err
}

// reopen replays the log onto a store that was opened anew.
func (r *rig) reopen() {
	r.t.Helper()
	r.open()
	r.replay()
}

func (r *rig) replay() {
	r.t.Helper()
	if _, ok := r.old[r.pos.Index]; !ok {
		r.t.Fatalf("the store came back at %d, where no freeze was", r.pos.Index)
	}
	if want := fmt.Sprint("meta ", r.pos.Index); r.pos.Index > 0 && string(r.pos.Meta) != want {
		r.t.Fatalf("meta %q, want %q", r.pos.Meta, want)
	}
	r.equal(r.old[r.pos.Index])
	for i := r.pos.Index; i < uint64(len(r.log)); i++ {
		if err := r.feed(r.log[i], i+1); err != nil {
			r.t.Fatalf("replaying entry %d: %v", i+1, err)
		}
	}
	r.equal(r.now)
}

// feed applies an entry to the store.
func (r *rig) feed(e *entry, index uint64) error {
	s := r.s
	switch e.what {
	case "create":
		return s.Create(e.object, fmt.Sprint("vol/", e.object), index)
	case "delete":
		return s.Delete(e.object, index)
	case "write":
		return s.Write(e.object, e.off, e.payload, sumBytes(e.off, e.payload), entryHead, index)
	case "add": // not to be repeated: it finds what replaying the log has to bring back exactly
		b := make([]byte, e.n)
		if err := s.ReadAt(e.object, e.off, b); err != nil {
			return err
		}
		for i := range b {
			b[i]++
		}
		return s.Write(e.object, e.off, b, sumBytes(e.off, b), entryHead, index)
	case "zero":
		return s.Zero(e.object, e.off, e.n, index, true)
	case "keep":
		return s.Zero(e.object, e.off, e.n, index, false)
	case "truncate":
		return s.Truncate(e.object, e.off, index)
	}
	return fmt.Errorf("what is %q?", e.what)
}

func sumBytes(off int64, p []byte) []byte {
	var b []byte
	for _, s := range op.AppendSums(nil, uint64(off), p) {
		b = binary.LittleEndian.AppendUint32(b, s)
	}
	return b
}

// do appends an entry to the log and applies it.
func (r *rig) do(what string, object uint64, off, n int64) {
	r.t.Helper()
	e := &entry{what: what, object: object, off: off, n: n}
	index := uint64(len(r.log) + 1)
	if what == "write" {
		e.raw = make([]byte, entryHead+n)
		e.payload = e.raw[entryHead:]
		fill(e.payload, index)
	}
	r.log = append(r.log, e)
	r.now.apply(e)
	if err := r.feed(e, index); err != nil {
		r.t.Fatalf("%s %d %d %d: %v", what, object, off, n, err)
	}
}

// fill makes bytes that tell who wrote them and where.
func fill(p []byte, seed uint64) {
	for i := range p {
		p[i] = byte(seed*37) + byte(i/BlockSize*11) + byte(i%251) | 1
	}
}

// freeze freezes at the last entry.
func (r *rig) freeze() *Flush {
	r.t.Helper()
	index := uint64(len(r.log))
	f, err := r.s.Freeze(index, 7, fmt.Append(nil, "meta ", index))
	if err != nil {
		r.t.Fatal(err)
	}
	r.old[index] = r.now.clone()
	r.last = f
	return f
}

func (r *rig) flush() {
	r.t.Helper()
	if err := r.freeze().Run(); err != nil {
		r.t.Fatal(err)
	}
}

// crash cuts the power and opens the store again.
func (r *rig) crash(rng *rand.Rand) {
	r.t.Helper()
	r.mem.Crash(rng)
	r.reopen()
}

// probes are the blocks that are compared in every chunk that the tests touch.
var probes = func() (list []int64) {
	for _, w := range [][2]int64{{0, 8}, {252, 260}, {510, 514}, {1018, 1024}} {
		for b := w[0]; b < w[1]; b++ {
			list = append(list, b)
		}
	}
	return list
}()

// chunkNumbers are the chunks that the tests touch.
var chunkNumbers = []int64{0, 1, 255, 256, 70000}

// equal compares the store with a model.
func (r *rig) equal(m model) {
	r.t.Helper()
	if err := compare(r.s, m); err != nil {
		r.t.Fatal(err)
	}
}

func compare(s *Store, m model) error {
	var numbers []uint64
	for _, o := range s.Objects(Newest) {
		numbers = append(numbers, o.Number)
	}
	if want := slices.Sorted(maps.Keys(m)); !slices.Equal(numbers, want) {
		return fmt.Errorf("the store has the objects %v, want %v", numbers, want)
	}
	for object, blocks := range m {
		var got [BlockSize]byte
		var sum [1]uint32
		check := func(b int64) error {
			if err := s.ReadSums(object, b*BlockSize, got[:], sum[:]); err != nil {
				return err
			}
			if !bytes.Equal(got[:], m.block(object, b)) {
				return fmt.Errorf("object %d block %d is wrong: %x…, want %x…", object, b, got[:4], m.block(object, b)[:4])
			}
			if sum[0] != op.Sum(got[:]) {
				return fmt.Errorf("object %d block %d: sum %08x for bytes with %08x", object, b, sum[0], op.Sum(got[:]))
			}
			return nil
		}
		for b := range blocks {
			if err := check(b); err != nil {
				return err
			}
		}
		for _, c := range chunkNumbers {
			for _, b := range probes {
				if err := check(c*BlocksPerChunk + b); err != nil {
					return err
				}
			}
		}
		if got, err := s.Digest(object); err != nil || got != m.digest(object) {
			return fmt.Errorf("digest of object %d: %x, want %x (%v)", object, got, m.digest(object), err)
		}
	}
	return nil
}

// digest is what Store.Digest should be.
func (m model) digest(object uint64) (sum uint64) {
	for b, p := range m[object] {
		sum += mix(uint64(b)<<20 ^ mix(uint64(op.Sum(p[:]))))
	}
	return sum
}

// randomOp does something at random to one of a few objects.
func (r *rig) randomOp(rng func(n int) int) {
	objects := slices.Sorted(maps.Keys(r.now))
	k := rng(20)
	if len(objects) == 0 || k == 0 && len(objects) < 3 {
		r.do("create", uint64(len(r.log)+1), 0, 0)
		return
	}
	object := objects[rng(len(objects))]
	off := chunkNumbers[rng(len(chunkNumbers))]*ChunkSize + probes[rng(len(probes))]*BlockSize
	switch {
	case k == 1:
		r.do("delete", object, 0, 0)
	case k < 9:
		n := int64(1+rng(6)) * BlockSize
		if rng(3) == 0 {
			off, n = off+int64(rng(8))*512, int64(1+rng(20))*512
		}
		r.do("write", object, off, n)
	case k < 13:
		r.do("add", object, off+int64(rng(7))*512, 512)
	case k < 18:
		what := []string{"zero", "keep"}[rng(2)]
		switch rng(4) {
		case 0:
			r.do(what, object, off/ChunkSize*ChunkSize, int64(1+rng(2))*ChunkSize)
		case 1:
			r.do(what, object, off+int64(rng(8))*512, int64(1+rng(int(ChunkSize)*3)))
		case 2:
			r.do(what, object, off, int64(1+rng(3))*BlockSize)
		case 3:
			r.do(what, object, off&^(1<<30-1), 1<<30)
		}
	default:
		r.do("truncate", object, off+int64(rng(3))*100, 0)
	}
}

func isFull(err error) bool { return errors.Is(err, disk.ErrNoSpace) }

package store

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
)

// TestModel does anything at any time, with crashes, full disks and restarts in between, and
// compares the store with a map of bytes.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		draw := func(n int) int { return rapid.IntRange(0, n-1).Draw(rt, "n") }
		r := newRig(t)
		r.caches(draw(2) == 0)
		rng := rand.New(rand.NewPCG(uint64(draw(1<<30)), 1))
		var f *Flush
		for range 20 + draw(80) {
			switch k := draw(16); {
			case k < 10:
				r.randomOp(draw)
			case k == 10 && f == nil:
				f = r.freeze()
			case k == 11 && f != nil:
				if err := f.Run(); err != nil {
					t.Fatal(err)
				}
				f = nil
			case k == 12 && f != nil: // power is lost somewhere in the flush, or just after it
				r.mem.FailAfter(draw(60), disk.ErrCrashed)
				err := f.Run()
				if err != nil && !errors.Is(err, disk.ErrCrashed) {
					t.Fatal(err)
				}
				r.crash(rng)
				f = nil
			case k == 13 && f != nil: // the disk fills up somewhere in the flush
				r.mem.SetCapacity(max(1, r.mem.Used()+int64(draw(20))*4096))
				err := f.Run()
				if err != nil && !isFull(err) {
					t.Fatal(err)
				}
				r.mem.SetCapacity(0)
				r.equal(r.now)
				if err == nil {
					f = nil
				}
			case k == 14:
				r.crash(rng)
				f = nil
			case k == 15:
				if err := r.s.Close(); err != nil {
					t.Fatal(err)
				}
				r.mem.KillProcess()
				r.reopen()
				f = nil
			}
		}
		r.equal(r.now)
		checkView(t, r)
	})
}

// checkView compares the Checkpoint view, by way of images, with the model of the last freeze.
func checkView(t *testing.T, r *rig) {
	t.Helper()
	m := r.old[r.s.Index()]
	var img Image
	for object := range m {
		for _, c := range chunkNumbers {
			if err := r.s.Export(Checkpoint, object, uint32(c), nil, &img); err != nil {
				t.Fatal(err)
			}
			p := img.Data
			for i := range BlocksPerChunk {
				got := make([]byte, BlockSize)
				if img.Has.Has(i) {
					p = p[copy(got, p):]
				}
				if !bytes.Equal(got, m.block(object, c*BlocksPerChunk+int64(i))) {
					t.Fatalf("checkpoint view: object %d chunk %d block %d is wrong", object, c, i)
				}
			}
		}
	}
	for object := range r.now {
		if _, ok := m[object]; !ok {
			if err := r.s.Export(Checkpoint, object, 0, nil, &img); !errors.Is(err, ErrNoObject) {
				t.Fatalf("object %d was made after the freeze, and the view says %v", object, err)
			}
		}
	}
}

// TestRealDisk goes through the script in a folder of the real file system.
func TestRealDisk(t *testing.T) {
	fs, err := disk.Dir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t)
	r.fs = fs
	r.open()
	script(r)
	r.flush()
	r.do("keep", 1, 3*BlockSize, BlockSize)
	r.do("zero", 1, 0, BlockSize)
	r.flush()
	r.equal(r.now)
	r.do("add", 1, BlockSize, 512)
	if err := r.s.Close(); err != nil {
		t.Fatal(err)
	}
	r.reopen()
	if err := r.s.Close(); err != nil {
		t.Fatal(err)
	}
}

// script is a fixed sequence with something of everything, up to a freeze with content below it.
func script(r *rig) {
	r.do("create", 1, 0, 0)
	r.do("create", 2, 0, 0)
	r.do("create", 3, 0, 0)
	r.do("write", 1, 0, 5*BlockSize)
	r.do("write", 1, ChunkSize-2*BlockSize, 4*BlockSize)
	r.do("write", 2, 255*ChunkSize, 3*BlockSize)
	r.do("write", 2, 256*ChunkSize+252*BlockSize, 6*BlockSize)
	r.do("write", 3, 70000*ChunkSize, BlockSize)
	r.flush()
	r.do("add", 1, BlockSize+512, 512)
	r.do("add", 1, BlockSize+512, 512)
	r.do("write", 1, 2*BlockSize+100, 2*BlockSize)
	r.do("zero", 1, ChunkSize, ChunkSize)
	r.do("write", 1, ChunkSize+7*BlockSize, BlockSize)
	r.do("keep", 2, 256*ChunkSize, ChunkSize)
	r.do("zero", 2, 255*ChunkSize+BlockSize, BlockSize)
	r.do("truncate", 3, 0, 0)
	r.do("create", 17, 0, 0)
	r.do("write", 17, 70000*ChunkSize, 2*BlockSize)
	r.do("delete", 2, 0, 0)
}

// TestPowerCut loses power at every change that a flush makes to the disk, with several outcomes
// for what was not durable, and once more while the interrupted flush is being finished.
func TestPowerCut(t *testing.T) {
	for cut := 0; ; cut++ {
		var done bool
		for seed := range uint64(2) {
			r := newRig(t)
			script(r)
			f := r.freeze()
			r.do("add", 1, BlockSize+512, 512)
			r.mem.FailAfter(cut, disk.ErrCrashed)
			err := f.Run()
			if done = err == nil; !done && !errors.Is(err, disk.ErrCrashed) {
				t.Fatal(err)
			}
			rng := rand.New(rand.NewPCG(seed, uint64(cut)))
			r.mem.Crash(rng)
			for again := cut % 7; ; again += 5 {
				r.mem.FailAfter(again, disk.ErrCrashed)
				if err := r.tryOpen(); err == nil {
					break
				} else if !errors.Is(err, disk.ErrCrashed) {
					t.Fatalf("cut %d seed %d: %v", cut, seed, err)
				}
				r.mem.Crash(rng)
			}
			r.mem.FailAfter(0, nil)
			r.replay()
			r.flush() // and life goes on
			r.crash(nil)
			if r.pos.Index != uint64(len(r.log)) {
				t.Fatalf("a flush that ended was lost: %d of %d", r.pos.Index, len(r.log))
			}
		}
		if done {
			if cut < 30 {
				t.Fatalf("a flush in %d steps?", cut)
			}
			return
		}
	}
}

// failEach runs flushes that start with, and fails every change they make to the disk, one at a time, but for those that
// own says the test makes itself. With a full disk everything goes on and the flush can be repeated, after what between
// does; after any other error the store is broken. then brings it back.
func failEach(t *testing.T, start func() (*rig, *Flush), own func() bool, between func(r *rig), then func(r *rig, at int)) {
	t.Helper()
	eio := errors.New("input/output error")
	for _, fault := range []error{eio, disk.ErrNoSpace} {
		for at := 0; ; at++ {
			r, f := start()
			n, hit := 0, ""
			r.mem.SetHook(func(op, name string) error {
				if op == disk.OpRead || op == disk.OpReadDir || op == disk.OpSize || own() {
					return nil
				}
				if n++; n == at+1 {
					hit = op + " " + name
					return fault
				}
				return nil
			})
			err := f.Run()
			r.mem.SetHook(nil)
			if hit == "" {
				if err != nil {
					t.Fatal(err)
				}
				break
			}
			if !errors.Is(err, fault) {
				t.Fatalf("%s failed with %v, and Run says %v", hit, fault, err)
			}
			if r.s.check() == nil {
				if !isFull(err) {
					t.Fatalf("%s failed, and the store goes on", hit)
				}
				r.equal(r.now)
				between(r)
				if err := f.Run(); err != nil {
					t.Fatalf("again after a full disk at %s: %v", hit, err)
				}
				r.equal(r.now)
			} else if err := r.s.ReadAt(1, 0, make([]byte, 1)); !errors.Is(err, fault) {
				t.Fatalf("a broken store answers %v", err)
			}
			then(r, at)
		}
	}
}

// TestFailure fails every change that a flush makes to the disk; opening a broken store again finds it right.
func TestFailure(t *testing.T) {
	failEach(t, func() (*rig, *Flush) {
		r := newRig(t)
		script(r)
		return r, r.freeze()
	}, func() bool { return false }, func(r *rig) { r.do("add", 1, BlockSize+512, 512) },
		func(r *rig, at int) { r.crash(rand.New(rand.NewPCG(uint64(at), 3))) })
}

// TestFullDisk fills the disk in earnest.
func TestFullDisk(t *testing.T) {
	r := newRig(t)
	script(r)
	used := r.mem.Used()
	f := r.freeze()
	failures := 0
	for room := int64(0); ; room += 4096 {
		r.mem.SetCapacity(used + room)
		err := f.Run()
		r.equal(r.now)
		if err == nil {
			break
		}
		if !isFull(err) {
			t.Fatal(err)
		}
		failures++
	}
	if failures < 5 {
		t.Fatalf("the disk was full %d times", failures)
	}
	r.do("add", 1, 0, 512)
	r.crash(nil)
}

func TestCallsOutOfPlace(t *testing.T) {
	r := newRig(t)
	r.do("create", 1, 0, 0)
	r.do("write", 1, 0, BlockSize)
	b := make([]byte, BlockSize)
	sums := sumBytes(0, b)
	s := r.s
	for _, c := range []struct {
		name string
		err  error
		want error
	}{
		{"write to nothing", s.Write(9, 0, b, sums, 0, 3), ErrNoObject},
		{"write in the past", s.Write(1, 0, b, sums, 0, 2), ErrOrder},
		{"write before the start", s.Write(1, -1, b, sums, 0, 3), ErrRange},
		{"write behind the end", s.Write(1, op.MaxVolume, b, sums, 0, 3), ErrRange},
		{"write with few sums", s.Write(1, 0, b, nil, 0, 3), ErrRange},
		{"write from before the entry", s.Write(1, 0, b, sums, -1, 3), ErrRange},
		{"read nothing", s.ReadAt(9, 0, b), ErrNoObject},
		{"read behind the end", s.ReadAt(1, op.MaxVolume-1, b), ErrRange},
		{"read with few sums", s.ReadSums(1, 0, b, make([]uint32, 2)), ErrRange},
		{"zero too much", s.Zero(1, 0, op.MaxZeroes+1, 3, true), ErrRange},
		{"zero less than nothing", s.Zero(1, 0, -1, 3, true), ErrRange},
		{"truncate to less than nothing", s.Truncate(1, -1, 3), ErrRange},
		{"delete nothing", s.Delete(9, 3), ErrNoObject},
		{"create again", s.Create(1, "", 3), ErrOrder},
		{"index too large", s.Create(4, "", hasFile), ErrOrder},
		{"export too far", s.Export(Newest, 1, MaxChunks, nil, new(Image)), ErrRange},
	} {
		if !errors.Is(c.err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, c.err, c.want)
		}
	}
	if _, err := s.Freeze(1, 1, nil); !errors.Is(err, ErrOrder) {
		t.Errorf("freeze in the past: %v", err)
	}
	if _, err := s.Freeze(3, 1, make([]byte, MaxMeta+1)); !errors.Is(err, ErrRange) {
		t.Errorf("freeze with too much meta: %v", err)
	}
	f, err := s.Freeze(3, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Freeze(3, 1, nil); !errors.Is(err, ErrBusy) {
		t.Errorf("freeze twice: %v", err)
	}
	if _, err := s.Stage(); !errors.Is(err, ErrBusy) {
		t.Errorf("stage in a flush: %v", err)
	}
	if err := s.Write(1, 0, b, sums, 0, 3); !errors.Is(err, ErrOrder) {
		t.Errorf("write at the index of a freeze: %v", err)
	}
	if err := f.Run(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.ReadAt(1, 0, b); !errors.Is(err, ErrClosed) {
		t.Errorf("read after close: %v", err)
	}
}

// TestZeroCost shows that unmapping a gibibyte costs what exists there.
func TestZeroCost(t *testing.T) {
	r := newRig(t)
	r.do("create", 1, 0, 0)
	for _, c := range []int64{3, 100, 255} {
		r.do("write", 1, c*ChunkSize, BlockSize)
	}
	r.flush()
	r.do("zero", 1, 0, 1<<30)
	if active, _ := r.s.OverlayBytes(); active != 3*noteBytes {
		t.Errorf("unmapping 1 GiB with 3 chunks in it takes %d bytes, want %d", active, 3*noteBytes)
	}
	r.do("truncate", 1, 0, 0)
	if active, _ := r.s.OverlayBytes(); active != 3*noteBytes {
		t.Errorf("truncating an empty object takes %d bytes more", active-3*noteBytes)
	}
	used := r.mem.Used()
	r.flush()
	if r.mem.Used() >= used {
		t.Errorf("unmapping gave no space back: %d bytes before, %d after", used, r.mem.Used())
	}
	r.equal(r.now)
}

// TestChunkComesBack drops a chunk and writes it again, with caches that forget nothing by
// themselves: what they hold of the first chunk must not be taken for the second.
func TestChunkComesBack(t *testing.T) {
	r := newRig(t)
	r.caches(true)
	r.do("create", 1, 0, 0)
	for range 2 {
		r.do("write", 1, 3*BlockSize, 4*BlockSize)
		r.flush()
		r.equal(r.now)
		r.do("zero", 1, 0, ChunkSize)
		r.flush()
		r.equal(r.now)
		r.do("write", 1, 0, 4*BlockSize)
		r.flush()
		r.equal(r.now)
		r.crash(nil)
	}
}

func TestPressure(t *testing.T) {
	r := newRig(t)
	r.o.MaxOverlayBytes = 1 << 20
	r.do("create", 1, 0, 0)
	if r.s.Dirty() || r.s.WantsFlush() || r.s.Full() {
		t.Error("an empty store is dirty")
	}
	r.do("write", 1, 0, 512<<10)
	if !r.s.Dirty() || !r.s.WantsFlush() || r.s.Full() {
		t.Error("half an overlay does not ask to be flushed")
	}
	f := r.freeze()
	if r.s.WantsFlush() {
		t.Error("a frozen overlay asks to be frozen")
	}
	r.do("write", 1, 0, 512<<10) // over the same blocks: it counts all the same
	if !r.s.Full() {
		t.Error("two halves are not full")
	}
	if err := f.Run(); err != nil {
		t.Fatal(err)
	}
	if r.s.Full() || !r.s.Dirty() {
		t.Error("a flush does not make room")
	}
	r.do("delete", 1, 0, 0)
	if r.s.Dirty() {
		a, f := r.s.OverlayBytes()
		t.Errorf("a deleted object leaves %d and %d bytes", a, f)
	}
	r.flush()
	if list, err := r.s.objectFolders(); err != nil || len(list) > 0 {
		t.Errorf("a deleted object leaves %v, %v", list, err)
	}
}

// TestNoAllocation shows that reading and writing allocate nothing in steady state.
func TestNoAllocation(t *testing.T) {
	r := newRig(t)
	r.o.SumsBytes, r.o.OpenFiles = 0, 0
	if err := r.s.Close(); err != nil {
		t.Fatal(err)
	}
	r.open()
	r.do("create", 1, 0, 0)
	r.do("write", 1, 0, 1<<20)
	r.flush()
	r.do("write", 1, 512<<10, 1<<20)
	p, sums := make([]byte, 1<<20), make([]uint32, 256)
	one := p[:BlockSize]
	data := make([]byte, 64<<10)
	dataSums := sumBytes(0, data)
	index := uint64(len(r.log))
	for name, f := range map[string]func() error{
		"read a block from disk":        func() error { return r.s.ReadAt(1, 8*BlockSize, one) },
		"read a part of one":            func() error { return r.s.ReadAt(1, 8*BlockSize+100, one[:700]) },
		"read a block from the overlay": func() error { return r.s.ReadAt(1, 600<<10, one) },
		"read both with sums":           func() error { return r.s.ReadSums(1, 0, p, sums) },
		"read what is not there":        func() error { return r.s.ReadAt(1, 70000*ChunkSize, p) },
		"write": func() error {
			index++
			return r.s.Write(1, 1<<20, data, dataSums, 0, index)
		},
	} {
		for range 3 {
			if err := f(); err != nil {
				t.Fatal(err)
			}
		}
		if n := testing.AllocsPerRun(50, func() {
			if err := f(); err != nil {
				t.Fatal(err)
			}
		}); n > 0.2 && !raceEnabled {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// TestSameEntriesSameStore shows that two stores fed the same entries are equal in everything that
// other servers ask for, whenever they flushed.
func TestSameEntriesSameStore(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		draw := func(n int) int { return rapid.IntRange(0, n-1).Draw(rt, "n") }
		a, b := newRig(t), newRig(t)
		for range 40 {
			a.randomOp(draw)
			if draw(6) == 0 {
				a.flush()
			}
		}
		for i, e := range a.log {
			b.log = append(b.log, e)
			if err := b.feed(e, uint64(i+1)); err != nil {
				t.Fatal(err)
			}
		}
		for object := range a.now {
			var x, y Image
			for _, c := range chunkNumbers {
				if err := errors.Join(a.s.Export(Newest, object, uint32(c), nil, &x),
					b.s.Export(Newest, object, uint32(c), nil, &y)); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(x.Append(nil), y.Append(nil)) {
					t.Fatalf("object %d chunk %d differs", object, c)
				}
			}
			if x, y := changes(t, a.s, object), changes(t, b.s, object); x != y {
				t.Fatalf("object %d: changed chunks %s and %s", object, x, y)
			}
		}
	})
}

func changes(t *testing.T, s *Store, object uint64) string {
	t.Helper()
	var list string
	if err := s.ChangedSince(Newest, object, 0, func(chunk uint32, index uint64) bool {
		list += fmt.Sprintf(" %d@%d", chunk, index)
		return true
	}); err != nil {
		t.Fatal(err)
	}
	return list
}

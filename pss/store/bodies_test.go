package store

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
)

// bodyRig is a rig whose log keeps streams in bodies. Like a log it writes to a spare at once, and to nothing else that
// it does not own.
type bodyRig struct {
	*rig
	bodies     map[uint64]Body // by index
	made       int
	spares     []string
	offered    int
	superseded uint64
	noLinks    bool // the file system has none
	lazy       bool // spares stay where they are
	own        bool // what the disk sees is done for the log
}

func newBodyRig(t testing.TB) *bodyRig {
	r := &bodyRig{rig: &rig{t: t, mem: disk.NewMem(), o: tiny(), now: model{}, old: map[uint64]model{0: {}}}, bodies: map[uint64]Body{}}
	r.fs = bodyFS{r.mem, r}
	r.o.Bodies = r
	if err := disk.MakeFolder(r.mem, "log"); err != nil {
		t.Fatal(err)
	}
	r.open()
	return r
}

type bodyFS struct {
	disk.FS
	r *bodyRig
}

// Link implements disk.FS.
func (f bodyFS) Link(from, to string) error {
	if f.r.noLinks {
		return disk.ErrNoLink
	}
	return f.FS.Link(from, to)
}

// Body implements Bodies.
func (r *bodyRig) Body(index uint64) (Body, bool) {
	b, there := r.bodies[index]
	return b, there
}

// Superseded implements Bodies.
func (r *bodyRig) Superseded(index uint64) { r.superseded = index }

// Spare implements Bodies: the file is overwritten, durably, before the call returns.
func (r *bodyRig) Spare(name string) bool {
	if r.offered++; r.offered%3 == 0 {
		return false // enough of them
	}
	if r.lazy {
		r.spares = append(r.spares, name)
		return true
	}
	r.own = true
	defer func() { r.own = false }()
	if err := r.reuse(name); err != nil && !errors.Is(err, disk.ErrCrashed) {
		r.t.Fatal(err)
	}
	return true
}

func (r *bodyRig) reuse(name string) error {
	r.made++
	body := fmt.Sprintf("log/%d.body", r.made)
	if err := r.mem.Rename(name, body); err != nil {
		return err
	}
	f, err := r.mem.Open(body, 0)
	if err != nil {
		return err
	}
	p := make([]byte, 64*BlockSize)
	fill(p, 99)
	for off := int64(0); off < ChunkSize; off += int64(len(p)) {
		if _, err := f.WriteAt(p, off); err != nil {
			return err
		}
	}
	if err := errors.Join(f.Sync(), f.Close(), r.mem.SyncDir("log"), r.mem.SyncDir(r.o.Dir)); err != nil {
		return err
	}
	r.spares = append(r.spares, body)
	return nil
}

// stream writes chunks of an object in pieces, each of them into a body.
func (r *bodyRig) stream(object uint64, chunk int64, pieces ...int64) {
	r.t.Helper()
	const piece = 64 * BlockSize
	if len(pieces) == 0 {
		for i := range int64(ChunkSize / piece) {
			pieces = append(pieces, i)
		}
	}
	r.made++
	name := fmt.Sprintf("log/%d.body", r.made)
	if n := len(r.spares); n > 0 {
		name, r.spares = r.spares[n-1], r.spares[:n-1]
	}
	f, err := r.mem.Open(name, disk.Create)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, i := range pieces {
		r.do("write", object, chunk*ChunkSize+i*piece, piece)
		index := uint64(len(r.log))
		if _, err := f.WriteAt(r.log[index-1].payload, i*piece); err != nil {
			r.t.Fatal(err)
		}
		r.bodies[index] = Body{File: name, Block: int(i * 64), At: entryHead}
	}
	if err := errors.Join(f.Allocate(0, ChunkSize), f.Sync(), f.Close(), r.mem.SyncDir("log")); err != nil {
		r.t.Fatal(err)
	}
}

// writes runs f and returns the names of chunk files that were written to.
func (r *bodyRig) writes(f func()) (names []string) {
	r.mem.SetHook(func(op, name string) error {
		if op == disk.OpWrite && strings.Contains(name, "/data/") && len(name) > 9 && name[len(name)-3] == '/' {
			names = append(names, name)
		}
		return nil
	})
	f()
	r.mem.SetHook(nil)
	return slices.Compact(names)
}

// TestAdopt: a chunk that a body has all of is not written, one of which something is missing is; and what comes later
// goes where it belongs.
func TestAdopt(t *testing.T) {
	r := newBodyRig(t)
	r.do("create", 1, 0, 0)
	r.stream(1, 0)
	r.stream(1, 1, 0, 1, 2)
	if got := r.writes(r.flush); len(got) != 1 || !strings.HasSuffix(got[0], "/00/00/01") {
		t.Errorf("written: %v", got)
	}
	r.equal(r.now)
	if r.superseded != uint64(len(r.log)) || r.offered != 0 {
		t.Errorf("superseded up to %d of %d, %d spares", r.superseded, len(r.log), r.offered)
	}

	r.do("write", 1, 5*BlockSize, BlockSize)
	if got := r.writes(r.flush); len(got) != 1 || !strings.HasSuffix(got[0], "/00/00/00") {
		t.Errorf("written: %v", got)
	}
	r.equal(r.now)

	r.stream(1, 0) // again: the file from before is free, and is overwritten at once
	r.stream(1, 255)
	r.do("write", 1, 255*ChunkSize+9, 100) // a part of it is somewhere else
	if got := r.writes(r.flush); len(got) != 1 || !strings.HasSuffix(got[0], "/00/00/ff") {
		t.Errorf("written: %v", got)
	}
	if r.offered != 1 {
		t.Errorf("%d spares", r.offered)
	}
	r.equal(r.now)
	r.crash(nil)
	r.do("zero", 1, 0, 10*BlockSize)
	r.do("truncate", 1, ChunkSize+BlockSize, 0)
	r.flush()
	r.crash(nil)
}

// TestAdoptWithoutLinks: where a file can't have two names chunks are written.
func TestAdoptWithoutLinks(t *testing.T) {
	r := newBodyRig(t)
	r.noLinks = true
	r.do("create", 1, 0, 0)
	r.stream(1, 0)
	r.stream(1, 1)
	if got := r.writes(r.flush); len(got) != 2 {
		t.Errorf("written: %v", got)
	}
	r.crash(nil)
}

// TestSpareOutlivesAnInstallation: a file that the log has taken over is the log's, whatever the store does meanwhile.
func TestSpareOutlivesAnInstallation(t *testing.T) {
	from, to := newRig(t), newBodyRig(t)
	to.lazy = true
	to.do("create", 1, 0, 0)
	to.stream(1, 0)
	to.flush()
	to.stream(1, 0)
	to.flush()
	if len(to.spares) != 1 {
		t.Fatalf("%d spares", len(to.spares))
	}
	script(from)
	for len(from.log) <= len(to.log) {
		from.do("write", 1, 0, BlockSize)
	}
	from.flush()
	to.old = from.old
	if _, err := catchUp(from, to.rig); err != nil {
		t.Fatal(err)
	}
	if _, err := to.mem.Open(to.spares[0], 0); err != nil {
		t.Error(err)
	}
	if to.open(); to.t.Failed() {
		return
	}
	if _, err := to.mem.Open(to.spares[0], 0); err == nil {
		t.Error("after a restart a spare is still there, and nobody knows of it")
	}
}

// adoptScript fills a store with chunks, and then has one replaced by a body, and one changed.
func adoptScript(r *bodyRig) {
	r.do("create", 1, 0, 0)
	r.stream(1, 0)
	r.do("write", 1, ChunkSize, 3*BlockSize)
	r.flush()
	r.stream(1, 0)
	r.do("write", 1, ChunkSize+BlockSize, BlockSize)
}

// TestAdoptPowerCut is TestPowerCut for chunks that become of bodies.
func TestAdoptPowerCut(t *testing.T) {
	t.Parallel()
	for cut := 0; ; cut++ {
		r := newBodyRig(t)
		adoptScript(r)
		f := r.freeze()
		r.mem.FailAfter(cut, disk.ErrCrashed)
		err := f.Run()
		if err != nil && !errors.Is(err, disk.ErrCrashed) {
			t.Fatal(err)
		}
		rng := rand.New(rand.NewPCG(1, uint64(cut)))
		r.mem.Crash(rng)
		for again := cut % 7; ; again += 5 {
			r.mem.FailAfter(again, disk.ErrCrashed)
			if err := r.tryOpen(); err == nil {
				break
			} else if !errors.Is(err, disk.ErrCrashed) {
				t.Fatalf("cut %d: %v", cut, err)
			}
			r.mem.Crash(rng)
		}
		r.mem.FailAfter(0, nil)
		r.replay()
		if cut%3 == 0 { // and life goes on
			r.flush()
			r.crash(rng)
		}
		if err == nil {
			if cut < 30 {
				t.Fatalf("a flush in %d steps?", cut)
			}
			return
		}
	}
}

// TestAdoptFailure is TestFailure for such a flush.
func TestAdoptFailure(t *testing.T) {
	t.Parallel()
	var b *bodyRig
	failEach(t, func() (*rig, *Flush) {
		b = newBodyRig(t)
		adoptScript(b)
		return b.rig, b.freeze()
	}, func() bool { return b.own }, func(*rig) {},
		func(r *rig, _ int) {
			r.mem.KillProcess()
			r.reopen()
		})
}

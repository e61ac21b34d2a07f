package store

import (
	"errors"
	"maps"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
)

// pull stages what from has changed since to's checkpoint, chunk by chunk, until stop says so. It returns how many chunks
// were fetched.
func pull(from, to *rig, st *Staging, stop func() bool) (fetched int, err error) {
	var img Image
	for _, o := range from.s.Objects(Checkpoint) {
		type ref struct {
			chunk uint32
			index uint64
		}
		var refs []ref
		if err := from.s.ChangedSince(Checkpoint, o.Number, to.s.Index(), func(chunk uint32, changed uint64) bool {
			refs = append(refs, ref{chunk, changed})
			return true
		}); err != nil {
			return fetched, err
		}
		for _, r := range refs {
			if stop() {
				return fetched, errStopped
			}
			if has, err := st.Has(o.Number, r.chunk, r.index); err != nil || has {
				if err != nil {
					return fetched, err
				}
				continue
			}
			if err := from.s.Export(Checkpoint, o.Number, r.chunk, nil, &img); err != nil {
				return fetched, err
			}
			if err := st.PutChunk(&img); err != nil {
				return fetched, err
			}
			fetched++
		}
	}
	return fetched, nil
}

var errStopped = errors.New("stopped")

func toTheEnd() bool { return false }

// TestResume: what was staged before a break, a restart or a power cut is used again where it is still what the source
// has, and what comes of it is the source's state, whatever was damaged in between.
func TestResume(t *testing.T) {
	reused := 0
	rapid.Check(t, func(rt *rapid.T) {
		draw := func(n int) int { return rapid.IntRange(0, n-1).Draw(rt, "n") }
		rng := rand.New(rand.NewPCG(uint64(draw(1<<30)), 2))
		from, to := newRig(t), newRig(t)
		script(from)
		from.flush()
		for range 1 + draw(4) {
			st, err := to.s.Stage()
			if err != nil {
				t.Fatal(err)
			}
			for range 1 + draw(2) {
				left := draw(12)
				if _, err := pull(from, to, st, func() bool { left--; return left < 0 }); err != nil && !errors.Is(err, errStopped) {
					t.Fatal(err)
				}
				for range draw(6) { // another source may have gone on
					from.randomOp(draw)
				}
				from.flush()
				st.Restart()
			}
			st.Suspend()
			switch draw(3) {
			case 0:
				to.crash(rng)
			case 1:
				to.reopen()
			}
		}
		st, err := to.s.Stage()
		if err != nil {
			t.Fatal(err)
		}
		fetched, err := pull(from, to, st, toTheEnd)
		if err != nil {
			t.Fatal(err)
		}
		reused += len(st.chunks) - fetched
		objects := from.s.Objects(Checkpoint)
		if err := st.Install(from.s.Index(), 7, []byte("meta "+itoa(from.s.Index())), objects); err != nil {
			t.Fatal(err)
		}
		to.equal(from.now)
	})
	if reused == 0 {
		t.Error("nothing was ever used again")
	}
}

// TestResumeDamaged: a staged chunk whose bytes or records changed since is fetched again.
func TestResumeDamaged(t *testing.T) {
	from, to := newRig(t), newRig(t)
	script(from)
	from.flush()
	st, err := to.s.Stage()
	if err != nil {
		t.Fatal(err)
	}
	all, err := pull(from, to, st, toTheEnd)
	if err != nil || all < 3 {
		t.Fatal(all, err)
	}
	var key stagedKey
	for k := range maps.Keys(st.chunks) {
		if st.chunks[k]&hasFile != 0 && (key.object == 0 || k.object*MaxChunks+uint64(k.chunk) < key.object*MaxChunks+uint64(key.chunk)) {
			key = k
		}
	}
	st.Suspend()
	folder := to.s.stagingFolder(key.object)
	for _, name := range []string{chunkFile(folder, key.chunk), chunkFolder(folder, uint16(key.chunk/chunksPerDir)) + "/" + sumsName} {
		f, err := to.mem.Open(name, 0)
		if err != nil {
			t.Fatal(err)
		}
		size, err := f.Size()
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, size)
		if err := readFull(f, b, 0); err != nil {
			t.Fatal(err)
		}
		for i := range b {
			b[i] ^= 1
		}
		if _, err := f.WriteAt(b, 0); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			t.Fatal(err)
		}
		if st, err = to.s.Stage(); err != nil {
			t.Fatal(err)
		}
		got, err := pull(from, to, st, toTheEnd)
		if err != nil || got == 0 || got == all && name == chunkFile(folder, key.chunk) {
			t.Fatalf("%s: %d of %d chunks were fetched again, %v", name, got, all, err)
		}
		st.Suspend()
	}
}

// TestLeftoverGoes: what is staged is dropped when the store makes a checkpoint of its own.
func TestLeftoverGoes(t *testing.T) {
	from, to := newRig(t), newRig(t)
	script(from)
	from.flush()
	st, err := to.s.Stage()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pull(from, to, st, toTheEnd); err != nil {
		t.Fatal(err)
	}
	st.Suspend()
	to.do("create", 77, 0, 0)
	to.flush()
	if err := to.s.Sweep(); err != nil {
		t.Fatal(err)
	}
	list, err := to.mem.ReadDir(to.s.o.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if e.Name == stagingName || len(e.Name) > len(discardedName) && e.Name[:len(discardedName)] == discardedName {
			t.Errorf("%s is there still", e.Name)
		}
	}
	if _, err := to.mem.Open(st.listFile(), 0); err == nil || errors.Is(err, disk.ErrCrashed) {
		t.Error(err)
	}
}

// FuzzList: a list is read without harm whatever is in it, and what was written is found.
func FuzzList(f *testing.F) {
	f.Add(appendListRecord(appendListRecord(nil, stagedKey{1, 2}, 3|hasFile, 4), stagedKey{1, 2}, 5, 0))
	f.Add([]byte("PSt1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		found := parseList(b)
		if len(found) > len(b)/listRecord {
			t.Fatalf("%d chunks in %d bytes", len(found), len(b))
		}
		for key, c := range found {
			again := parseList(appendListRecord(nil, key, c.entry, c.sums.all))
			if again[key] != c {
				t.Fatalf("%+v became %+v", c, again[key])
			}
		}
	})
}

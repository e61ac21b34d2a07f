package store

import (
	"errors"
	"strings"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
)

// verify finds the damaged blocks of a chunk.
func (r *rig) verify(object uint64, chunk uint32) (Blocks, *DamageError) {
	r.t.Helper()
	bad, _, first, err := r.s.Verify(Newest, object, chunk, make([]byte, 3*BlockSize))
	if err != nil {
		r.t.Fatal(err)
	}
	return bad, first
}

// mend takes what it can of the damaged blocks of a chunk from another server's store, and returns how many
// stay damaged.
func (r *rig) mend(from *rig, v View, object uint64, chunk uint32) int {
	r.t.Helper()
	bad, _ := r.verify(object, chunk)
	var img, sent Image
	if err := from.s.Export(v, object, chunk, &bad, &img); err != nil {
		r.t.Fatal(err)
	}
	if err := sent.Parse(img.Append(nil)); err != nil {
		r.t.Fatal(err)
	}
	done, err := r.s.Mend(&sent, &bad)
	if err != nil {
		r.t.Fatal(err)
	}
	return bad.Len() - done.Len()
}

// errSector is what a disk answers for a sector that it can't read.
var errSector = errors.New("input/output error")

// unreadableFile makes all reads of files whose names end so fail.
func unreadableFile(m *disk.Mem, end string) {
	m.SetHook(func(op, name string) error {
		if op == disk.OpRead && strings.HasSuffix(name, end) {
			return errSector
		}
		return nil
	})
}

// TestMend damages a chunk in every way, has it mended from another server's image, and sees that the disk is
// whole again after the next checkpoint.
func TestMend(t *testing.T) {
	for _, c := range []struct {
		name string
		what string
		harm func(r *rig, dir string)
		bad  int
	}{
		{"data", "data", func(r *rig, dir string) { flip(t, r.mem, dir+"/00/00/00", 3, 1) }, 1},
		{"data of two blocks", "data", func(r *rig, dir string) {
			flip(t, r.mem, dir+"/00/00/00", 3, 1)
			flip(t, r.mem, dir+"/00/00/00", BlockSize, 1)
		}, 2},
		{"file lost", "data", func(r *rig, dir string) { flip(t, r.mem, dir+"/00/00/00", 0, 0) }, 2},
		{"files exchanged", "data", func(r *rig, dir string) {
			for _, p := range [][2]string{{"00", "x"}, {"01", "00"}, {"x", "01"}} {
				if err := r.mem.Rename(dir+"/00/00/"+p[0], dir+"/00/00/"+p[1]); err != nil {
					t.Fatal(err)
				}
			}
			if err := r.mem.SyncDir(dir + "/00/00"); err != nil {
				t.Fatal(err)
			}
		}, 2},
		{"file unreadable", "data", func(r *rig, dir string) { unreadableFile(r.mem, "/00/00/00") }, 2},
		{"records", "record", func(r *rig, dir string) { flip(t, r.mem, dir+"/00/00/sums", 0, 5*recordSize) }, 5},
		{"records lost", "record", func(r *rig, dir string) { flip(t, r.mem, dir+"/00/00/sums", 0, 0) }, BlocksPerChunk},
		{"records unreadable", "records", func(r *rig, dir string) { unreadableFile(r.mem, "/sums") }, BlocksPerChunk},
		{"both", "record", func(r *rig, dir string) {
			flip(t, r.mem, dir+"/00/00/sums", 0, 1)
			flip(t, r.mem, dir+"/00/00/00", 0, 1)
		}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			other, _ := damaged(t)
			other.open()
			r, dir := damaged(t)
			c.harm(r, dir)
			r.open()
			bad, first := r.verify(1, 0)
			if bad.Len() != c.bad || first == nil || first.What != c.what || first.Object != 1 {
				t.Fatalf("%d blocks are damaged, first %+v", bad.Len(), first)
			}
			var p [BlockSize]byte
			var damage *DamageError
			if err := r.s.ReadAt(1, 0, p[:]); !errors.As(err, &damage) {
				t.Fatalf("reading: %v", err)
			}
			if left := r.mend(other, Newest, 1, 0); left != 0 {
				t.Fatalf("%d blocks stay damaged", left)
			}
			if bad, _ := r.verify(1, 0); bad.Len() != 0 && !strings.HasSuffix(c.name, "unreadable") {
				t.Fatalf("%d blocks are damaged after mending", bad.Len())
			}
			if err := r.s.ReadAt(1, 0, p[:]); err != nil {
				t.Fatal(err)
			}
			r.flush()
			r.mem.SetHook(nil)             // a disk gives a sector another place when it is written
			for chunk := range uint32(2) { // what is wrong in the other chunk is mended in its turn
				if left := r.mend(other, Newest, 1, chunk); left != 0 {
					t.Fatalf("chunk %d: %d blocks stay damaged", chunk, left)
				}
			}
			r.mend(other, Newest, 2, 0)
			r.flush()
			r.crash(nil)
			r.equal(r.now)
			for chunk := range uint32(2) {
				if bad, first := r.verify(1, chunk); bad.Len() != 0 {
					t.Fatalf("chunk %d: %d blocks are damaged on disk: %v", chunk, bad.Len(), first)
				}
			}
		})
	}
}

// TestMendOnlyTheSame: a block of another state than the lost one is never taken.
func TestMendOnlyTheSame(t *testing.T) {
	for _, c := range []struct {
		name   string
		record bool // it is the record that is damaged
		ahead  func(other *rig)
		view   View
		left   int
	}{
		{"same", false, func(*rig) {}, Newest, 0},
		{"same, record", true, func(*rig) {}, Newest, 0},
		{"block rewritten there", false, func(o *rig) { o.do("write", 1, 0, BlockSize) }, Newest, 1},
		{"block rewritten there, record", true, func(o *rig) { o.do("write", 1, 0, BlockSize) }, Newest, 1},
		{"block rewritten there, at the checkpoint", false, func(o *rig) { o.do("write", 1, 0, BlockSize) }, Checkpoint, 0},
		{"block rewritten there, record, at the checkpoint", true,
			func(o *rig) { o.do("write", 1, 0, BlockSize) }, Checkpoint, 0},
		{"neighbour rewritten there, record", true, func(o *rig) { o.do("write", 1, BlockSize, BlockSize) }, Newest, 0},
		{"chunk dropped there", false, func(o *rig) { o.do("zero", 1, 0, ChunkSize) }, Newest, 1},
		{"chunk dropped and written there, record", true, func(o *rig) {
			o.do("zero", 1, 0, ChunkSize)
			o.do("write", 1, BlockSize, BlockSize)
		}, Newest, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			other, _ := damaged(t)
			other.open()
			c.ahead(other)
			r, dir := damaged(t)
			if c.record {
				flip(t, r.mem, dir+"/00/00/sums", 0, 1)
			} else {
				flip(t, r.mem, dir+"/00/00/00", 0, 1)
			}
			r.open()
			if left := r.mend(other, c.view, 1, 0); left != c.left {
				t.Fatalf("%d blocks stay damaged, want %d", left, c.left)
			}
			if c.left == 0 {
				r.equal(r.now)
			}
		})
	}
	t.Run("behind", func(t *testing.T) { // the other server has not applied the write yet
		other := newRig(t)
		other.do("create", 1, 0, 0)
		other.do("create", 2, 0, 0)
		other.do("write", 2, 0, 2*BlockSize)
		r, dir := damaged(t)
		flip(t, r.mem, dir+"/00/00/sums", 0, 1)
		r.open()
		if left := r.mend(other, Newest, 1, 0); left != 1 {
			t.Fatal("a block of an older state was taken")
		}
	})
}

// putBack makes old the content of a file again, as if the disk had lost what was written since.
func putBack(t *testing.T, fs disk.FS, name string, old []byte) {
	t.Helper()
	f, err := fs.Open(name, 0)
	if err != nil {
		t.Fatal(err)
	}
	write(t, f, old, 0)
}

// TestStaleRecordWaitsForEver: the disk lost the write of a block's record, so that the one before is there, which
// is whole by itself. The others' copies differ from it in index and checksum, and were never taken.
func TestStaleRecordWaitsForEver(t *testing.T) {
	rewritten := func() (r *rig, dir string, before, after []byte) {
		r, dir = damaged(t)
		before = contents(t, r.mem, dir+"/00/00/sums")
		r.open()
		r.do("write", 1, 0, BlockSize)
		r.flush()
		after = contents(t, r.mem, dir+"/00/00/sums")
		if err := r.s.Close(); err != nil {
			t.Fatal(err)
		}
		return r, dir, before, after
	}
	t.Run("here", func(t *testing.T) {
		other, _, _, _ := rewritten()
		other.open()
		r, dir, before, _ := rewritten()
		putBack(t, r.mem, dir+"/00/00/sums", before)
		r.open()
		if bad, _ := r.verify(1, 0); !bad.Has(0) {
			t.Fatal("the lost write is not noticed")
		}
		if left := r.mend(other, Newest, 1, 0); left != 0 {
			t.Fatalf("%d blocks stay damaged", left)
		}
		r.equal(r.now)
		r.flush()
		r.crash(nil)
		r.equal(r.now)
	})
	t.Run("there", func(t *testing.T) { // what another server's disk lost is not taken for newer
		other, dir, before, _ := rewritten()
		data := contents(t, other.mem, dir+"/00/00/00")
		old, _ := damaged(t)
		copy(data, contents(t, old.mem, dir+"/00/00/00")[:BlockSize])
		putBack(t, other.mem, dir+"/00/00/sums", before)
		putBack(t, other.mem, dir+"/00/00/00", data)
		other.version1()
		other.open()
		r, dir, _, _ := rewritten()
		flip(t, r.mem, dir+"/00/00/00", 0, 1)
		r.open()
		bad, _ := r.verify(1, 0)
		var img Image
		if err := other.s.Export(Newest, 1, 0, &bad, &img); err != nil {
			t.Fatal(err)
		}
		if done, err := r.s.Mend(&img, &bad); err != nil || done.Len() != 0 {
			t.Fatalf("%d older blocks were taken: %v", done.Len(), err)
		}
	})
}

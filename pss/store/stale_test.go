package store

import (
	"bytes"
	"errors"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
)

// version1 makes the root of a closed store one of a version of the program that kept no sums of records.
func (r *rig) version1() {
	r.t.Helper()
	s := &Store{fs: r.mem, o: r.o}
	c, err := s.readCheckpoint(s.inDir(checkpointName), nil)
	if err != nil {
		r.t.Fatal(err)
	}
	for i := range c.objects {
		x := &c.objects[i]
		o := s.newObject(x.Object)
		if err := s.loadPages(o); err != nil {
			r.t.Fatal(err)
		}
		x.indexSum = 0
		for folder, page := range o.base {
			clear(page.sums[:])
			x.indexSum ^= page.sumOf(o.number, folder)
		}
		if err := removeFile(r.mem, o.folder+"/"+pagesName); err != nil {
			r.t.Fatal(err)
		}
		if err := r.mem.SyncDir(o.folder); err != nil {
			r.t.Fatal(err)
		}
	}
	f, err := r.mem.Open(s.inDir(checkpointName), disk.Create)
	if err == nil {
		err = f.Truncate(0)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	w := newSectionWriter(f, nil)
	w.head(c)
	if err := errors.Join(w.finish(), f.Sync(), f.Close()); err != nil {
		r.t.Fatal(err)
	}
}

// staleRig is a store that wrote a block over another and one where there was none, and whose disk lost what was
// written to the files given. known says that the sums of the records are known.
func staleRig(t *testing.T, known bool, lost ...string) *rig {
	r, dir := damaged(t)
	r.open()
	old := map[string][]byte{}
	for _, name := range lost {
		old[name] = contents(t, r.mem, dir+name)
	}
	r.do("write", 1, 0, BlockSize)
	r.do("write", 1, 5*BlockSize, BlockSize)
	r.flush()
	if err := r.s.Close(); err != nil {
		t.Fatal(err)
	}
	for name, b := range old {
		f, err := r.mem.Open(dir+name, 0)
		if err == nil {
			err = f.Truncate(int64(len(b)))
		}
		if err != nil {
			t.Fatal(err)
		}
		write(t, f, b, 0)
	}
	if !known {
		r.version1()
	}
	r.open()
	return r
}

// TestLostWriteReadsAsZeros: the disk lost a write of records. A block that was not there before read as zeros then, and
// with its data lost, too, as what it was before: each is whole by itself. The sum of the records tells.
func TestLostWriteReadsAsZeros(t *testing.T) {
	for _, lost := range [][]string{{"/00/00/sums"}, {"/00/00/sums", "/00/00/00"}} {
		other := staleRig(t, true)
		r := staleRig(t, true, lost...)
		var b [BlockSize]byte
		for _, at := range []int64{0, 5 * BlockSize} {
			var damage *DamageError
			if err := r.s.ReadAt(1, at, b[:]); !errors.As(err, &damage) || !errors.Is(err, errStale) {
				t.Fatalf("lost %v: reading at %d: %v", lost, at, err)
			}
		}
		if err := r.s.ReadAt(1, ChunkSize, b[:]); err != nil {
			t.Fatalf("lost %v: another chunk: %v", lost, err)
		}
		if bad, _ := r.verify(1, 0); bad.Len() != blocksPerPage {
			t.Fatalf("lost %v: %d blocks are damaged", lost, bad.Len())
		}
		var img Image
		if err := r.s.Export(Newest, 1, 0, nil, &img); err == nil {
			t.Fatalf("lost %v: it is given to others", lost)
		}
		if left := r.mend(other, Newest, 1, 0); left != 0 {
			t.Fatalf("lost %v: %d blocks stay damaged", lost, left)
		}
		r.equal(r.now)
		r.flush()
		r.crash(nil)
		r.equal(r.now)
	}
}

// TestStaleWhileFlushing: a page of records that the disk lost is noticed by a flush that changes it, and is not made
// whole by that.
func TestStaleWhileFlushing(t *testing.T) {
	r := staleRig(t, true, "/00/00/sums")
	r.do("write", 1, 7*BlockSize, BlockSize)
	r.flush()
	r.mem.Crash(nil)
	r.open()
	bad, _ := r.verify(1, 0)
	if bad.Len() != blocksPerPage-1 || bad.Has(7) {
		t.Fatalf("%d blocks are damaged", bad.Len())
	}
	var b [BlockSize]byte
	if err := r.s.ReadAt(1, 7*BlockSize, b[:]); err != nil || !bytes.Equal(b[:], r.now.block(1, 7)) {
		t.Fatalf("the block that was written: %v", err)
	}
}

// TestSumsOfVersion1: a root of a version without sums of records is taken as it is, and gets them where it changes.
func TestSumsOfVersion1(t *testing.T) {
	r := staleRig(t, false)
	r.equal(r.now)
	dir := r.s.inDir(dataName) + "/0000000000000001-vol_1"
	old := contents(t, r.mem, dir+"/00/00/sums")
	r.do("write", 1, 6*BlockSize, BlockSize)
	r.flush()
	r.crash(nil)
	r.equal(r.now)
	putBack(t, r.mem, dir+"/00/00/sums", old)
	r.open()
	if bad, _ := r.verify(1, 0); bad.Len() != blocksPerPage {
		t.Fatalf("%d blocks are damaged", bad.Len())
	}
}

// TestSumsLost: the file of the sums is guarded by the checkpoint.
func TestSumsLost(t *testing.T) {
	for _, n := range []int{0, 1} {
		r, dir := damaged(t)
		flip(t, r.mem, dir+"/"+pagesName, 0, n)
		var damage *DamageError
		if err := r.tryOpen(); !errors.As(err, &damage) {
			t.Fatalf("opening: %v", err)
		}
	}
}

package store

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
)

// flip turns bits of a file over; n 0 means it is removed.
func flip(t *testing.T, fs disk.FS, name string, off int64, n int) {
	t.Helper()
	if n == 0 {
		if err := fs.Remove(name); err != nil {
			t.Fatal(err)
		}
		return
	}
	f, err := fs.Open(name, 0)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, n)
	if err := readFull(f, b, off); err != nil {
		t.Fatal(err)
	}
	for i := range b {
		b[i] ^= 0x10
	}
	write(t, f, b, off)
}

func write(t *testing.T, f disk.File, b []byte, off int64) {
	t.Helper()
	if _, err := f.WriteAt(b, off); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// copyBytes copies a part of a file to another place, as a disk does that misdirects a write.
func copyBytes(t *testing.T, fs disk.FS, from string, at int64, to string, off int64, n int) {
	t.Helper()
	f, err := fs.Open(from, 0)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, n)
	if err := errors.Join(readFull(f, b, at), f.Close()); err != nil {
		t.Fatal(err)
	}
	if f, err = fs.Open(to, 0); err != nil {
		t.Fatal(err)
	}
	write(t, f, b, off)
}

// damaged has an object of two chunks of two blocks each on disk, and nothing in memory.
func damaged(t *testing.T) (*rig, string) {
	r := newRig(t)
	r.do("create", 1, 0, 0)
	r.do("create", 2, 0, 0)
	r.do("write", 1, 0, 2*BlockSize)
	r.do("write", 1, ChunkSize, 2*BlockSize)
	r.do("write", 2, 0, 2*BlockSize)
	r.flush()
	if err := r.s.Close(); err != nil {
		t.Fatal(err)
	}
	return r, r.s.inDir(dataName) + "/0000000000000001-vol_1"
}

// TestDamagedBlock damages a block, its record, or the files they are in, in every way, and sees
// that it is noticed, that other blocks can be read, and that the block can be repaired for good.
func TestDamagedBlock(t *testing.T) {
	for _, c := range []struct {
		name   string
		what   string
		harm   func(r *rig, dir string)
		blocks int // that are lost
	}{
		{"data", "data", func(r *rig, dir string) { flip(t, r.mem, dir+"/00/00/00", 3, 1) }, 1},
		{"data lost", "data", func(r *rig, dir string) { flip(t, r.mem, dir+"/00/00/00", 0, 0) }, 2},
		{"data of another block", "data", func(r *rig, dir string) {
			copyBytes(t, r.mem, dir+"/00/00/00", BlockSize, dir+"/00/00/00", 0, BlockSize)
		}, 1},
		{"sum", "record", func(r *rig, dir string) { flip(t, r.mem, dir+"/00/00/sums", 0, 1) }, 1},
		{"kind", "record", func(r *rig, dir string) { flip(t, r.mem, dir+"/00/00/sums", 4, 1) }, 1},
		{"check", "record", func(r *rig, dir string) { flip(t, r.mem, dir+"/00/00/sums", 6, 1) }, 1},
		{"index", "record", func(r *rig, dir string) { flip(t, r.mem, dir+"/00/00/sums", 8, 1) }, 1},
		{"records lost", "record", func(r *rig, dir string) { flip(t, r.mem, dir+"/00/00/sums", 0, 0) }, 2048},
		{"record and data of another block", "record", func(r *rig, dir string) {
			copyBytes(t, r.mem, dir+"/00/00/01", BlockSize, dir+"/00/00/00", 0, BlockSize)
			copyBytes(t, r.mem, dir+"/00/00/sums", 1024*recordSize+recordSize, dir+"/00/00/sums", 0, recordSize)
		}, 1},
		{"record and data of another chunk", "record", func(r *rig, dir string) {
			copyBytes(t, r.mem, dir+"/00/00/01", 0, dir+"/00/00/00", 0, BlockSize)
			copyBytes(t, r.mem, dir+"/00/00/sums", 1024*recordSize, dir+"/00/00/sums", 0, recordSize)
		}, 1},
		{"record and data of another object", "record", func(r *rig, dir string) {
			other := strings.ReplaceAll(strings.ReplaceAll(dir, "01-", "02-"), "_1", "_2")
			copyBytes(t, r.mem, other+"/00/00/00", 0, dir+"/00/00/00", 0, BlockSize)
			copyBytes(t, r.mem, other+"/00/00/sums", 0, dir+"/00/00/sums", 0, recordSize)
		}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, dir := damaged(t)
			c.harm(r, dir)
			r.open()
			var p [BlockSize]byte
			var damage *DamageError
			if err := r.s.ReadAt(1, 0, p[:]); !errors.As(err, &damage) {
				t.Fatalf("reading: %v", err)
			}
			if damage.Object != 1 || damage.Block != 0 || damage.What != c.what || damage.Want == damage.Got {
				t.Errorf("the damage is described as %+v", damage)
			}
			if err := r.s.ReadAt(1, ChunkSize, p[:]); err != nil && c.blocks <= BlocksPerChunk {
				t.Errorf("another chunk can't be read: %v", err)
			}
			// A partial write needs the old block: it fails without a trace, and succeeds after the repair.
			e := &entry{what: "add", object: 1, off: 512, n: 512}
			r.log = append(r.log, e)
			if err := r.feed(e, uint64(len(r.log))); !errors.As(err, &damage) {
				t.Fatalf("a partial write: %v", err)
			}
			other, _ := damaged(t)
			other.open()
			for chunk := range uint32((c.blocks + BlocksPerChunk - 1) / BlocksPerChunk) {
				if left := r.mend(other, Newest, 1, chunk); left != 0 {
					t.Fatalf("chunk %d: %d blocks stay damaged", chunk, left)
				}
			}
			r.now.apply(e)
			if err := r.feed(e, uint64(len(r.log))); err != nil {
				t.Fatal(err)
			}
			r.equal(r.now)
			r.flush()
			r.crash(nil)
		})
	}
}

// TestDamageAtOpen damages what Open reads: it refuses, and says which file.
func TestDamageAtOpen(t *testing.T) {
	for _, c := range []struct {
		file string
		offs []int64 // -1: the file is lost
	}{
		{checkpointName, []int64{-1, 0, 9, 13, 16, 20, 25, 30, 70, 100, 150}},
		{"data/0000000000000001-vol_1/index", []int64{-1, 0, 4, 5, 8, 16, 24, 4000}},
	} {
		for _, off := range c.offs {
			t.Run(fmt.Sprint(c.file, off), func(t *testing.T) {
				r, _ := damaged(t)
				flip(t, r.mem, r.s.inDir(c.file), max(off, 0), int(min(off+1, 1)))
				err := r.tryOpen()
				var damage *DamageError
				if !errors.As(err, &damage) || !strings.HasSuffix(damage.File, c.file) {
					t.Fatalf("opened with %v", err)
				}
			})
		}
	}
}

// TestOldIndex puts back the index of a flush before, of which every record is good.
func TestOldIndex(t *testing.T) {
	r, dir := damaged(t)
	keep, err := r.mem.Open("copy", disk.Create)
	if err != nil {
		t.Fatal(err)
	}
	write(t, keep, make([]byte, pageSize), 0)
	copyBytes(t, r.mem, dir+"/index", 0, "copy", 0, pageSize)
	r.open()
	r.do("write", 1, 5*ChunkSize, BlockSize)
	r.flush()
	copyBytes(t, r.mem, "copy", 0, dir+"/index", 0, pageSize)
	var damage *DamageError
	if err := r.tryOpen(); !errors.As(err, &damage) {
		t.Fatalf("opened with %v", err)
	}
}

// interrupted is a store whose flush stopped when `prepared` was there.
func interrupted(t *testing.T) *rig {
	r := newRig(t)
	script(r)
	f := r.freeze()
	r.mem.SetHook(func(op, name string) error {
		if op == disk.OpPunch || op == disk.OpTruncate && !strings.Contains(name, preparedName) {
			return disk.ErrCrashed
		}
		return nil
	})
	if err := f.Run(); !errors.Is(err, disk.ErrCrashed) {
		t.Fatal(err)
	}
	r.mem.SetHook(nil)
	r.mem.KillProcess()
	return r
}

// TestDamageOfPrepared damages the list of what an interrupted flush has to do: it was durable, so
// this is never the trace of a crash.
func TestDamageOfPrepared(t *testing.T) {
	r := interrupted(t)
	name := r.s.inDir(preparedName)
	f, err := r.mem.Open(name, 0)
	if err != nil {
		t.Fatal(err)
	}
	size, err := f.Size()
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for off := int64(0); off < size; off += 37 {
		flip(t, r.mem, name, off, 1)
		var damage *DamageError
		if err := r.tryOpen(); !errors.As(err, &damage) || !strings.HasSuffix(damage.File, preparedName) {
			t.Fatalf("byte %d is damaged, opened with %v", off, err)
		}
		flip(t, r.mem, name, off, 1)
	}
	r.reopen()
}

// TestLogDoesNotMatch finishes a flush with a log that is not the one it was made with.
func TestLogDoesNotMatch(t *testing.T) {
	for name, harm := range map[string]func(r *rig){
		"another byte": func(r *rig) {
			for _, e := range r.log {
				if e.raw != nil {
					e.raw[entryHead] ^= 1
				}
			}
		},
		"too short": func(r *rig) {
			for _, e := range r.log {
				if e.raw != nil {
					e.raw = e.raw[:entryHead]
				}
			}
		},
		"not there": func(r *rig) { r.log = nil },
	} {
		t.Run(name, func(t *testing.T) {
			r := interrupted(t)
			log := r.log
			raw := make([][]byte, len(log))
			for i, e := range log {
				raw[i] = e.raw
			}
			harm(r)
			if err := r.tryOpen(); err == nil {
				t.Fatal("opened")
			} else {
				t.Log(err)
			}
			r.log = log
			for i, e := range log {
				e.raw = raw[i]
				if name == "another byte" && e.raw != nil {
					e.raw[entryHead] ^= 1
				}
			}
			r.reopen()
		})
	}
}

// TestRecoveryTable shows that exactly one rule matches each state.
func TestRecoveryTable(t *testing.T) {
	for i := range 2 * 2 * 2 {
		st := recoveryState{checkpoint: i&1 != 0, prepared: i&2 != 0, data: i&4 != 0}
		nexts := []int{0}
		if st.prepared {
			nexts = []int{-1, 1, 2}
		}
		for _, st.next = range nexts {
			var matches []string
			for _, rule := range recoveryTable() {
				if rule.match(st) {
					matches = append(matches, rule.name)
				}
			}
			if len(matches) != 1 {
				t.Errorf("%+v: %d rules: %v", st, len(matches), matches)
			}
		}
	}
}

package store

import (
	"errors"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
)

// inMemory is a store that has the records of all its blocks in memory.
func inMemory(t *testing.T) (*rig, string) {
	t.Helper()
	r, dir := damaged(t)
	r.o.SumsBytes = 64 * pageSize
	r.open()
	r.equal(r.now)
	return r, dir
}

// TestVerifyRecords damages records that are in memory on disk, in every way, and sees that it is noticed, that the disk
// gets them again, and that only one place counts as damaged.
func TestVerifyRecords(t *testing.T) {
	for _, c := range []struct {
		name  string
		block uint64 // that the damage is of
		harm  func(r *rig, sums string)
	}{
		{"a bit", 1, func(r *rig, sums string) { flip(t, r.mem, sums, recordSize, 1) }},
		{"records of other blocks", 0, func(r *rig, sums string) { copyBytes(t, r.mem, sums, recordSize, sums, 0, recordSize) }},
		{"zeros", 0, func(r *rig, sums string) {
			f, err := r.mem.Open(sums, 0)
			if err != nil {
				t.Fatal(err)
			}
			write(t, f, make([]byte, pageSize), 0)
		}},
		{"an unreadable page", 0, func(r *rig, sums string) { unreadableFile(r.mem, "/sums") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, dir := inMemory(t)
			sums := dir + "/00/00/sums"
			if d, err := r.s.VerifyRecords(1, 0); d != nil || err != nil {
				t.Fatalf("before: %v, %v", d, err)
			}
			c.harm(r, sums)
			d, err := r.s.VerifyRecords(1, 0)
			if err != nil || d == nil || d.Object != 1 || d.Block != c.block {
				t.Fatalf("found %+v, %v", d, err)
			}
			if d.Err != nil && !errors.Is(d.Err, errSector) {
				t.Fatal(d.Err)
			}
			r.mem.SetHook(nil)
			if d, err := r.s.VerifyRecords(1, 0); d != nil || err != nil {
				t.Fatalf("it was not mended: %v, %v", d, err)
			}
			r.crash(nil)
			for chunk := range uint32(2) {
				if bad, first := r.verify(1, chunk); bad.Len() != 0 {
					t.Fatalf("chunk %d: %d blocks are damaged on disk: %v", chunk, bad.Len(), first)
				}
			}
			r.equal(r.now)
		})
	}
}

// TestVerifyRecordsTakesTheDisks: where the memory is damaged, the disk is right.
func TestVerifyRecordsTakesTheDisks(t *testing.T) {
	r, _ := inMemory(t)
	sl := r.s.sums.pin(pageKey{1, 0})
	sl.value.b[0] ^= 1
	r.s.sums.unpin(sl)
	if d, err := r.s.VerifyRecords(1, 0); d == nil || err != nil {
		t.Fatalf("found %v, %v", d, err)
	}
	r.equal(r.now)
}

// TestVerifyRecordsFails: a disk that takes no bytes is told of; a failed sync breaks the store, as everywhere.
func TestVerifyRecordsFails(t *testing.T) {
	for _, op := range []string{disk.OpWrite, disk.OpSync} {
		r, dir := inMemory(t)
		flip(t, r.mem, dir+"/00/00/sums", 0, 1)
		r.mem.SetHook(func(o, _ string) error {
			if o == op {
				return errSector
			}
			return nil
		})
		if _, err := r.s.VerifyRecords(1, 0); !errors.Is(err, errSector) {
			t.Fatalf("%s: %v", op, err)
		}
		if _, err := r.s.VerifyRecords(1, 0); (err != nil) != (op == disk.OpSync) {
			t.Fatalf("after %s failed: %v", op, err)
		}
	}
}

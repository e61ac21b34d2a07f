package replica

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
	"github.com/paxos-iscsi/paxos-iscsi/pss/store"
)

// rareCheckpoints leaves it to onDisk when blocks leave the memory.
func rareCheckpoints(o *Options) { o.CheckpointEvery = time.Hour }

// onDisk has all servers make a checkpoint, and waits until they hold everything in their chunk files alone.
func (h *house) onDisk() {
	h.t.Helper()
	h.level()
	eventually(h.t, "everything on disk", func() bool {
		for _, r := range h.servers {
			if r == nil {
				continue
			}
			r.mu.Lock()
			busy := r.core.flushing || r.core.mended // another checkpoint later would surprise a test
			r.mu.Unlock()
			if !busy && !r.store.Dirty() && r.store.Index() == r.report().Applied {
				continue
			}
			if !busy {
				r.drive(func(time.Duration) error { r.core.Mended(); return nil })
			}
			return false
		}
		return true
	})
}

// files lists the files of a server's store with a name.
func (h *house) files(i int, name string) (list []string) {
	h.t.Helper()
	root := filepath.Join(h.conf.Servers[i].Root(), "data")
	check(h.t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && d.Name() == name {
			list = append(list, path)
		}
		return err
	}))
	if len(list) == 0 {
		h.t.Fatalf("server %d has no file %s", i, name)
	}
	return list
}

// rot turns a bit over in a byte of a file.
func rot(t *testing.T, name string, at int64) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	check(t, err)
	var b [1]byte
	_, err = f.ReadAt(b[:], at)
	check(t, err)
	b[0] ^= 4
	_, err = f.WriteAt(b[:], at)
	check(t, err)
	check(t, f.Close())
}

// TestReadRepairs: the master's disk is damaged in several blocks. Reads are answered with what was written, and
// the disk is mended.
func TestReadRepairs(t *testing.T) {
	t.Parallel()
	h := newHouse(t, rareCheckpoints)
	v := h.volume(h.client(), 2<<20)
	v.write(60)
	h.onDisk()
	m := h.master()
	name := h.files(m, "00")[0]
	for b := range int64(40) {
		rot(t, name, b*3*op.BlockSize+b)
	}
	v.verify()
	r := h.servers[m]
	stats := r.report().Repairs
	if stats.Found == 0 || stats.Repaired != stats.Found || stats.Failed+stats.FailedReads != 0 {
		t.Fatalf("%+v", stats)
	}
	eventually(t, "mended on disk", func() bool {
		bad, _, _, err := r.store.Verify(store.Checkpoint, v.object, 0, make([]byte, store.VerifyBuffer))
		check(t, err)
		return bad.Len() == 0 && !r.store.Dirty()
	})
	v.verify()
	v.write(10)
	h.level(v.object)
}

// TestApplyRepairs: followers meet damage, of data and of records, in blocks that a write changes in part.
// They go on, with the same content as the others.
func TestApplyRepairs(t *testing.T) {
	t.Parallel()
	h := newHouse(t, rareCheckpoints)
	v := h.volume(h.client(), 1<<20)
	v.write(60)
	h.onDisk()
	m := h.master()
	for k := 1; k < 3; k++ {
		i := (m + k) % 3
		h.stop(i)
		if k == 1 {
			for b := range int64(256) {
				rot(t, h.files(i, "00")[0], b*op.BlockSize)
			}
		} else {
			for b := range int64(256) {
				rot(t, h.files(i, "sums")[0], b*16)
			}
		}
		h.start(i)
		for range 60 { // one at a time: of a block that changed twice meanwhile the others have the later state only
			v.write(1)
			eventually(t, "level", func() bool { return h.servers[i].report().Applied >= h.servers[m].report().Applied })
		}
		if stats := h.servers[i].report().Repairs; stats.Repaired == 0 || stats.Failed != 0 {
			t.Fatalf("server %d: %+v", i, stats)
		}
	}
	h.onDisk()
	h.level(v.object)
	v.verify()
}

// TestNoCopyLeft: a block that is damaged everywhere can't be read, and all others can.
func TestNoCopyLeft(t *testing.T) {
	t.Parallel()
	h := newHouse(t, rareCheckpoints)
	v := h.volume(h.client(), 1<<20)
	v.write(100)
	h.onDisk()
	const bad = 7
	for i := range h.servers {
		rot(t, h.files(i, "00")[0], bad*op.BlockSize)
	}
	got := make([]byte, op.BlockSize)
	if err := v.readAt(got, bad*op.BlockSize); !errors.Is(err, op.ReadDamaged) {
		t.Fatalf("reading what is damaged everywhere: %v", err)
	}
	var failed, failedReads uint64
	for _, r := range h.servers { // each that was master meanwhile
		stats := r.report().Repairs
		failed, failedReads = failed+uint64(stats.Failed), failedReads+uint64(stats.FailedReads)
	}
	if failed == 0 || failedReads == 0 {
		t.Fatalf("%d repairs failed, and %d reads", failed, failedReads)
	}
	for b := range len(v.want) / op.BlockSize {
		if b == bad {
			continue
		}
		if err := v.readAt(got, int64(b)*op.BlockSize); err != nil {
			t.Fatalf("block %d: %v", b, err)
		}
	}
	whole := make([]byte, op.BlockSize) // and it can be written
	copy(v.want[bad*op.BlockSize:], whole)
	check(t, v.writeAt(whole, bad*op.BlockSize))
	v.verify()
}

// TestNoCheckpointInsideAnEntry: the store has begun an entry that meets damage. A checkpoint that is due, for blocks
// that were repaired, waits until the entry is applied.
func TestNoCheckpointInsideAnEntry(t *testing.T) {
	r := newCoreRig(t)
	r.file()
	damage := &store.DamageError{Object: r.object, Err: errors.New("no bytes")}
	if !r.core.noteDamage(r.core.applied+1, damage, &r.out) || r.out.Repair == nil {
		t.Fatal("no repair is asked for")
	}
	r.core.Mended()
	r.now += 2 * mendPause
	r.core.Tick(r.now)
	r.pump()
	if r.flush != nil {
		t.Fatal("a checkpoint began inside of an entry")
	}
	check(t, r.core.Repaired(r.core.hurt.at, nil))
	r.write()
	r.pump()
	if r.flush == nil {
		t.Fatal("no checkpoint begins after the repair")
	}
	check(t, r.flush.Run())
	check(t, r.core.FlushDone(nil))
}

// TestUnreadableMasterHandsOver: no server can give a copy of what is damaged at the master. It hands over, and the
// read is answered when another server's disk can be read again, not with an error.
func TestUnreadableMasterHandsOver(t *testing.T) {
	t.Parallel()
	h, disks := newMemHouse(t)
	v := h.volume(h.client(), 1<<20)
	v.write(20)
	h.onDisk()
	m := h.master()
	old := h.servers[m]
	for i, d := range disks {
		d.SetHook(func(what, name string) error {
			if what == disk.OpRead && strings.HasPrefix(name, "data/") && (i == m || old.view().Self) {
				return errors.New("input/output error")
			}
			return nil
		})
	}
	done := make(chan error, 1)
	got := make([]byte, len(v.want))
	go func() {
		_, err := v.v.ReadAt(got, 0)
		done <- err
	}()
	eventually(t, "another master", func() bool { return h.master() != m })
	check(t, within(t, "the answer", done))
	if !bytes.Equal(got, v.want) {
		t.Fatal("the read gave other bytes than were written")
	}
}

// TestNobodyWaitsForADamagedCopy: a server that lags misses a block. One other has it in a later state, and another one
// had it in a later state and has damage there itself, which nobody repairs. Neither is waited for, except by a core
// server that the cell could not spare besides the one that is damaged.
func TestNobodyWaitsForADamagedCopy(t *testing.T) {
	t.Parallel()
	h := newHouse(t, rareCheckpoints)
	v := h.volume(h.client(), 1<<20)
	const block = 7
	check(t, v.writeAt(bytes.Repeat([]byte{1}, op.BlockSize), block*op.BlockSize))
	h.onDisk()
	m := h.master()
	late, other := (m+1)%3, (m+2)%3
	h.stop(late)
	rot(t, h.files(late, "00")[0], block*op.BlockSize)
	check(t, v.writeAt(bytes.Repeat([]byte{2}, 512), block*op.BlockSize+512))
	eventually(t, "the other server level", func() bool {
		return h.servers[other].report().Applied >= h.servers[m].report().Applied
	})
	for _, i := range []int{m, other} { // no checkpoint before is left to take the block from
		r := h.servers[i]
		r.drive(func(time.Duration) error { r.core.Mended(); return nil })
		eventually(t, "on disk", func() bool { return r.store.Index() == r.report().Applied && !r.store.Dirty() })
	}
	rot(t, h.files(other, "00")[0], block*op.BlockSize)
	busy := h.servers[other].repairs
	busy.mu.Lock()
	for n := range uint32(maxRepairs) { // so that it repairs nothing
		busy.jobs[ChunkRef{Object: 1 << 40, Chunk: n}] = nil
	}
	busy.mu.Unlock()
	h.start(late)
	r := h.servers[late]
	eventually(t, "the entry that meets the damage", func() bool {
		hurt := false
		r.drive(func(time.Duration) error { hurt = r.core.hurt.wait; return nil })
		return hurt
	})
	var bad store.Blocks
	bad.Add(block)
	ref := ChunkRef{Object: v.object}
	ahead, damaged, err := r.repairs.ask(cell.ID(other), ref, &bad)
	if check(t, err); !ahead || !damaged {
		t.Fatalf("of the damaged one: ahead %v, damaged %v", ahead, damaged)
	}
	ahead, damaged, err = r.repairs.ask(cell.ID(m), ref, &bad)
	if check(t, err); !ahead || damaged {
		t.Fatalf("of the whole one: ahead %v, damaged %v", ahead, damaged)
	}
	if err := r.repairs.askAll(ref, &bad); !errors.Is(err, ErrNoCopy) || bad.Len() != 1 {
		t.Fatalf("one of three, while another has damage: %v", err)
	}
	if !NoHelp(5, false, true) || NoHelp(4, false, true) || !NoHelp(4, true, false) || NoHelp(5, false, false) {
		t.Error("only a replica has nothing to expect of a damaged copy of its own state")
	}
	for _, c := range []struct {
		id      cell.ID
		voters  int
		damaged int
		can     bool
	}{
		{0, 3, 0, true}, {0, 3, 1, false}, {0, 4, 1, false}, {0, 5, 1, true}, {0, 5, 2, false}, {5, 3, 1, true}, {5, 3, 2, true},
	} {
		if got := canEnd(c.id, c.voters, c.damaged); got != c.can {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

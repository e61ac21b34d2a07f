package replica

import (
	"bytes"
	"os"
	"testing"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
	"github.com/paxos-iscsi/paxos-iscsi/pss/store"
)

// scrubbed has a server scrub, and returns what it reports at the end.
func (h *house) scrubbed(i int) admin.Scrub {
	h.t.Helper()
	r := h.servers[i]
	before := r.report().Scrub.Finished
	r.StartScrub()
	eventually(h.t, "scrubbed", func() bool {
		rep := r.report().Scrub
		return !rep.Running && rep.Finished.After(before)
	})
	return r.report().Scrub
}

func scrubOptions(o *Options) {
	rareCheckpoints(o)
	o.ScrubEvery, o.ScrubRate = -1, 1<<30
}

// scrubHouse is a house with a volume that is on all disks, and a server to be scrubbed that is not master.
func scrubHouse(t *testing.T) (h *house, v *volume, f int) {
	t.Helper()
	h = newHouse(t, scrubOptions)
	v = h.volume(h.client(), 1<<20)
	v.write(60)
	h.onDisk()
	return h, v, (h.master() + 1) % 3
}

// TestScrubRepairs: a scrub finds all damage that nobody reads, and repairs it.
func TestScrubRepairs(t *testing.T) {
	t.Parallel()
	h := newHouse(t, scrubOptions)
	v := h.volume(h.client(), 6<<20)
	for chunk := range 2 {
		check(t, v.writeAt(bytes.Repeat([]byte{5}, 128<<10), int64(chunk)<<22))
	}
	h.onDisk()
	f := (h.master() + 1) % 3
	for _, name := range []string{"00", "01"} {
		for b := range int64(20) {
			rot(t, h.files(f, name)[0], b*op.BlockSize)
		}
	}
	rep := h.scrubbed(f)
	if rep.Damaged != 2 || rep.Unrepaired != 0 || rep.Different != 0 || rep.CheckedBytes == 0 {
		t.Fatalf("%+v", rep)
	}
	h.onDisk()
	if rep = h.scrubbed(f); rep.Damaged != 2 {
		t.Fatalf("the second scrub found something again: %+v", rep)
	}
	h.level(v.object)
}

// TestScrubRereadsRecords: records that are damaged on disk, and whole in memory, are found before a restart needs
// them, and mended.
func TestScrubRereadsRecords(t *testing.T) {
	t.Parallel()
	h, v, f := scrubHouse(t)
	name := h.files(f, "sums")[0]
	was, err := os.ReadFile(name)
	check(t, err)
	for block := range int64(20) {
		rot(t, name, block*16)
	}
	if rep := h.scrubbed(f); rep.Damaged != 1 || rep.Unrepaired != 0 || rep.Different != 0 {
		t.Fatalf("%+v", rep)
	}
	now, err := os.ReadFile(name)
	check(t, err)
	if !bytes.Equal(now, was) {
		t.Fatal("the records are not on disk as they were")
	}
	h.stop(f)
	h.start(f)
	if rep := h.scrubbed(f); rep.Damaged != 1 || rep.Different != 0 {
		t.Fatalf("the second scrub found something again: %+v", rep)
	}
	h.level(v.object)
}

// TestScrubFindsLostWrites: blocks that have an old content, together with their old records, are whole by
// themselves. The sums of the records know better.
func TestScrubFindsLostWrites(t *testing.T) {
	t.Parallel()
	h, v, f := scrubHouse(t)
	old := map[string][]byte{}
	for _, name := range []string{h.files(f, "00")[0], h.files(f, "sums")[0]} {
		b, err := os.ReadFile(name)
		check(t, err)
		old[name] = b
	}
	v.write(10)
	h.onDisk()
	h.stop(f)
	for name, b := range old {
		check(t, os.WriteFile(name, b, 0o600))
	}
	h.start(f)
	rep := h.scrubbed(f)
	if rep.Damaged == 0 || rep.Unrepaired != 0 || rep.Different != 0 {
		t.Fatalf("%+v", rep)
	}
	h.onDisk()
	if again := h.scrubbed(f); again.Damaged != rep.Damaged {
		t.Fatalf("the second scrub found something again: %+v", again)
	}
	h.level(v.object)
}

// TestScrubFindsWhatIsWrongWithRightSums: a block that a server's memory spoilt before its checksum was computed is
// whole by all checksums. The other servers know better.
func TestScrubFindsWhatIsWrongWithRightSums(t *testing.T) {
	t.Parallel()
	h, v, f := scrubHouse(t)
	r := h.servers[f]
	var img store.Image
	check(t, r.store.Export(store.Newest, v.object, 0, nil, &img))
	want := img.Has
	for i, at := 0, 0; i < store.BlocksPerChunk; i++ {
		if !img.Has.Has(i) {
			continue
		}
		b := img.Data[at : at+op.BlockSize]
		b[i%op.BlockSize] ^= 1
		img.Records[i].Sum = op.Sum(b)
		at += op.BlockSize
	}
	r.drive(func(time.Duration) error {
		_, err := r.core.Replace(&img, &want)
		return err
	})
	h.onDisk()
	rep := h.scrubbed(f)
	if rep.Different == 0 || rep.Different != uint64(want.Len()) || rep.Replaced != rep.Different || rep.Damaged != 0 {
		t.Fatalf("%+v", rep)
	}
	h.onDisk()
	if again := h.scrubbed(f); again.Different != rep.Different {
		t.Fatalf("the second scrub found something again: %+v", again)
	}
	h.level(v.object)
}

// TestScrubRaisesNoFalseAlarm: scrubs on all servers while they write and make checkpoints find nothing.
func TestScrubRaisesNoFalseAlarm(t *testing.T) {
	t.Parallel()
	h := newHouse(t, func(o *Options) {
		scrubOptions(o)
		o.CheckpointEvery = 20 * time.Millisecond
	})
	v := h.volume(h.client(), 6<<20)
	for range 12 {
		v.write(40)
		for _, r := range h.servers {
			r.StartScrub()
		}
	}
	h.onDisk() // all servers have something to check, also one that was late
	for i := range h.servers {
		if rep := h.scrubbed(i); rep.Damaged+rep.Different != 0 || rep.CheckedBytes == 0 {
			t.Fatalf("server %d: %+v", i, rep)
		}
	}
	h.level(v.object)
}

// TestScrubGoesOn: a scrub that a restart interrupts goes on where it was.
func TestScrubGoesOn(t *testing.T) {
	t.Parallel()
	h := newHouse(t, func(o *Options) {
		scrubOptions(o)
		o.ScrubEvery, o.ScrubRate = time.Hour, 1 // a chunk takes for ever
	})
	v := h.volume(h.client(), 6<<20)
	v.write(100)
	h.onDisk()
	h.servers[0].StartScrub()
	eventually(t, "at its first chunk", func() bool { return h.servers[0].report().Scrub.CheckedBytes > 0 })
	started := h.servers[0].report().Scrub.Started
	h.stop(0)
	h.options = func(o *Options) { scrubOptions(o); o.ScrubEvery = time.Hour }
	h.start(0)
	eventually(t, "at the end", func() bool { return !h.servers[0].report().Scrub.Finished.IsZero() })
	if rep := h.servers[0].report().Scrub; !rep.Started.Equal(started) {
		t.Fatalf("it began anew: %+v, before at %v", rep, started)
	}
}

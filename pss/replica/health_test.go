package replica

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/paxos-iscsi/paxos-iscsi/pss"
	"github.com/paxos-iscsi/paxos-iscsi/pss/agreement"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
	"github.com/paxos-iscsi/paxos-iscsi/pss/log"
)

// newMemHouse is a house whose servers have disks in memory.
func newMemHouse(t *testing.T) (*house, [3]*disk.Mem) {
	disks := [3]*disk.Mem{disk.NewMem(), disk.NewMem(), disk.NewMem()}
	return newHouse(t, func(o *Options) {
		rareCheckpoints(o)
		o.Disk = disks[o.ID]
	}), disks
}

// narrow leaves a disk with so much room that it is at a level, and waits until the server has noticed.
func (h *house) narrow(i int, m *disk.Mem, level spaceLevel) {
	h.t.Helper()
	switch used := m.Used(); level {
	case spaceGood:
		m.SetCapacity(0)
	case spaceLow:
		m.SetCapacity(used * 100 / 96) // 4 % are free: less than one in reservedPart
	case spaceNone:
		m.SetCapacity(used * 100 / 99)
	}
	eventually(h.t, "level "+level.String(), func() bool { return h.servers[i].report().Space.Level == level.String() })
}

// full says whether a master believes that the cell is full.
func (h *house) full() bool {
	for _, r := range h.servers {
		r.mu.Lock()
		full := r.core.cellFull
		r.mu.Unlock()
		if full {
			return true
		}
	}
	return false
}

// TestFullMinority: a server without room stops taking entries, and the others go on. When there is room it
// comes level.
func TestFullMinority(t *testing.T) {
	t.Parallel()
	h, disks := newMemHouse(t)
	v := h.volume(h.client(), 1<<20)
	v.write(20)
	h.level(v.object)
	f := (h.master() + 1) % 3
	h.narrow(f, disks[f], spaceNone)
	at := h.servers[f].report().Last
	v.write(40)
	v.verify()
	if last := h.servers[f].report().Last; last != at {
		t.Fatalf("the full server took entries %d to %d", at+1, last)
	}
	h.narrow(f, disks[f], spaceGood)
	h.level(v.object)
}

// TestNoRoomAtStart: a server stops with a checkpoint that its disk has no room for. It does not start, which is no damage,
// and does when there is room.
func TestNoRoomAtStart(t *testing.T) {
	h, disks := newMemHouse(t)
	v := h.volume(h.client(), 4<<20)
	v.write(60)
	h.level(v.object)
	i := (h.master() + 1) % 3
	m, r := disks[i], h.servers[i]
	var full atomic.Bool
	m.SetHook(func(op, name string) error {
		if full.Load() && op == disk.OpWrite && strings.HasPrefix(name, "data/") {
			return disk.ErrNoSpace
		}
		return nil
	})
	full.Store(true)
	r.drive(func(time.Duration) error { r.core.WantCheckpoint(); return nil })
	eventually(t, "a checkpoint without room", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.core.flush != nil
	})
	h.stop(i)
	m.SetCapacity(m.Used() + 1<<20)
	o := h.optionsOf(i)
	_, err := Open(o)
	if !NoRoom(err) || Heals(err) {
		t.Fatalf("started without room: %v", err)
	}
	ctx, cancel := context.WithCancel(h.context())
	cancel()
	if err := AwaitRoom(ctx, o); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- AwaitRoom(h.context(), o) }()
	full.Store(false)
	m.SetCapacity(2 * m.Used())
	check(t, <-done)
	h.start(i)
	h.level(v.object)
	v.verify()
}

// TestFullMaster: a master without room hands over to a server that has some.
func TestFullMaster(t *testing.T) {
	t.Parallel()
	h, disks := newMemHouse(t)
	v := h.volume(h.client(), 1<<20)
	v.write(20)
	m := h.master()
	h.narrow(m, disks[m], spaceLow)
	eventually(t, "another master", func() bool { return h.master() != m })
	v.write(20)
	v.verify()
	h.narrow(m, disks[m], spaceGood)
	h.level(v.object)
}

// TestFullMajority: a cell without room refuses what takes space, goes on with all else, and takes writes again
// when there is room.
func TestFullMajority(t *testing.T) {
	t.Parallel()
	h, disks := newMemHouse(t)
	v := h.volume(h.client(), 1<<20)
	v.write(20)
	m := h.master()
	for k := range 2 {
		i := (m + k) % 3
		h.narrow(i, disks[i], spaceLow)
	}
	// The master may have handed over while it was the only one that is full; whoever it is has heard of both soon.
	b := make([]byte, 4096)
	eventually(t, "refused", func() bool {
		err := v.writeAt(b, 0)
		if err == nil {
			copy(v.want, b)
		} else if !errors.Is(err, pss.ErrNoSpace) {
			t.Fatal(err)
		}
		return err != nil
	})
	v.verify()
	check(t, v.do(&pss.Request{Op: pss.Unmap, Offset: 8192, Length: 4096})[0].Err)
	clear(v.want[8192:][:4096])
	v.verify()
	for i := range disks {
		h.narrow(i, disks[i], spaceGood)
	}
	eventually(t, "taken", func() bool {
		err := v.writeAt(b, 0)
		copy(v.want, b)
		return err == nil
	})
	v.write(20)
	v.verify()
	h.level(v.object)
}

// TestNoRoomAtAll: every disk refuses to grow from one moment on: checkpoints and segments of the log wait. What was
// acknowledged is there, the servers live, and everything goes on when there is room. Without any, the cell still
// changes its master and is told to forget data.
func TestNoRoomAtAll(t *testing.T) {
	t.Parallel()
	h, disks := newMemHouse(t)
	v := h.volume(h.client(), 1<<20)
	v.write(20)
	h.level(v.object)
	for i := range disks {
		disks[i].SetCapacity(disks[i].Used())
		r := h.servers[i]
		r.drive(func(time.Duration) error { r.core.Mended(); return nil }) // a checkpoint fails
	}
	for i := range disks {
		eventually(t, "a checkpoint that waits", func() bool {
			r := h.servers[i]
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.core.flush != nil
		})
	}
	v.verify()
	for i := range disks {
		h.narrow(i, disks[i], spaceNone)
	}
	m := h.master()
	h.servers[m].drive(func(time.Duration) error { h.servers[m].core.HandOver(cell.ID((m + 1) % 3)); return nil })
	eventually(t, "another master", func() bool { return h.master() != m })
	v.verify()
	check(t, v.do(&pss.Request{Op: pss.Unmap, Offset: 8192, Length: 4096})[0].Err) // a full cell is told to forget data
	clear(v.want[8192:][:4096])
	v.verify()
	for i := range disks {
		h.narrow(i, disks[i], spaceGood)
	}
	eventually(t, "room that the master has heard of", func() bool { return !h.full() })
	h.onDisk()
	v.write(20)
	v.verify()
	h.level(v.object)
}

// hang makes operations on files whose names contain part wait until the returned function is called.
func hang(m *disk.Mem, part string, ops ...string) (release func(), waiting *atomic.Int32) {
	gate := make(chan struct{})
	waiting = new(atomic.Int32)
	m.SetHook(func(op, name string) error {
		for _, o := range ops {
			if o == op && strings.Contains(name, part) {
				waiting.Add(1)
				<-gate
				return nil
			}
		}
		return nil
	})
	return func() { m.SetHook(nil); close(gate) }, waiting
}

// TestHangingFollower: nobody waits for a follower's disk.
func TestHangingFollower(t *testing.T) {
	t.Parallel()
	h, disks := newMemHouse(t)
	v := h.volume(h.client(), 1<<20)
	v.write(20)
	f := (h.master() + 1) % 3
	release, _ := hang(disks[f], "", disk.OpWrite, disk.OpSync, disk.OpRead)
	defer release()
	v.write(40)
	v.verify()
}

// TestHangingMaster: a master whose disk does not answer hands over, and goes on as a follower when it does.
func TestHangingMaster(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, file string
		ops        []string
	}{
		{"writes", "log/", []string{disk.OpWrite}},
		{"syncs", "log/", []string{disk.OpSync}},
		{"reads", "data/", []string{disk.OpRead}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h, disks := newMemHouse(t)
			v := h.volume(h.client(), 1<<20)
			v.write(20)
			h.onDisk()
			m := h.master()
			release, waiting := hang(disks[m], c.file, c.ops...)
			if c.name == "reads" {
				v.verify() // what the old master can't read the new one does
			} else {
				v.write(20)
			}
			eventually(t, "another master", func() bool { return h.master() != m })
			if waiting.Load() == 0 {
				t.Fatal("the disk was never asked")
			}
			v.write(20)
			v.verify()
			release()
			h.level(v.object)
		})
	}
}

// TestLogWriterGoesOn: a batch for which there was no room is written when there is, wherever it stopped.
func TestLogWriterGoesOn(t *testing.T) {
	mem := disk.NewMem()
	l, err := log.Open(mem, "log", log.Options{SegmentBytes: 64 << 10})
	check(t, err)
	entries := func(first, last, term uint64) (es []log.Entry) {
		for i := first; i <= last; i++ {
			es = append(es, log.Entry{Index: i, Term: term, Data: bytes.Repeat([]byte{byte(i)}, 20<<10)})
		}
		return es
	}
	installed := 0
	batch := []agreement.Append{
		{State: &log.HardState{Term: 1, Vote: 1}, Entries: entries(1, 8, 1)},
		{State: &log.HardState{Term: 2, Vote: 2, Commit: 3}, Entries: entries(4, 12, 2)}, // replaces 4 to 8
		{Snapshot: &raftpb.Snapshot{Metadata: raftpb.SnapshotMetadata{Index: 20, Term: 2}},
			Install: func() error { installed++; return nil }},
		{State: &log.HardState{Term: 3, Commit: 20}, Entries: entries(21, 30, 3), Durable: true},
	}
	var w LogWriter
	refused := 0
	for room := mem.Used(); ; room += 20 << 10 {
		mem.SetCapacity(room)
		err := w.Write(l, batch)
		if err == nil {
			break
		}
		if !errors.Is(err, disk.ErrNoSpace) {
			t.Fatal(err)
		}
		refused++
	}
	check(t, w.Finish(l, batch))
	if refused < 5 || installed != 1 || l.First() != 21 || l.Last() != 30 || l.HardState() != (log.HardState{Term: 3, Commit: 20}) {
		t.Fatalf("refused %d times, installed %d times, log %d to %d, %+v", refused, installed, l.First(), l.Last(), l.HardState())
	}
	got, err := l.Entries(21, 31, 1<<30)
	check(t, err)
	for i, want := range entries(21, 30, 3) {
		if !bytes.Equal(got[i].Data, want.Data) {
			t.Fatalf("entry %d is another one", got[i].Index)
		}
	}
	check(t, l.Close())
}

package replica

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/pss/log"
	"github.com/paxos-iscsi/paxos-iscsi/pss/store"
)

// TestDamagedRoot damages the files that a server starts from. It does not start, and so neither votes nor
// acknowledges anything, and the error says that its state has to be given up, and what is damaged.
func TestDamagedRoot(t *testing.T) {
	h := newHouse(t, rareCheckpoints)
	v := h.volume(h.client(), 1<<20)
	v.write(20)
	h.onDisk()
	v.write(20)
	f := (h.master() + 1) % 3
	h.stop(f)
	root := h.conf.Servers[f].Root()
	segments, err := filepath.Glob(filepath.Join(root, "log", "*.log"))
	check(t, err)
	slices.Sort(segments)
	index := h.files(f, "index")[0]
	for _, c := range []struct {
		name string
		at   int64
		log  bool
	}{
		{segments[0], 20, true},
		{filepath.Join(root, "checkpoint"), 60, false},
		{index, 8, false},
	} {
		rot(t, c.name, c.at)
		r, err := Open(h.optionsOf(f))
		var heal *HealError
		var inLog *log.DamageError
		var inStore *store.DamageError
		if !errors.As(err, &heal) || errors.As(err, &inLog) != c.log || errors.As(err, &inStore) == c.log {
			t.Fatalf("%s: %v, %v", c.name, r, err)
		}
		rot(t, c.name, c.at) // back
	}
	h.start(f)
	h.level(v.object)
}

// TestSupersededLogHeals: damage to a part of the log that the checkpoint makes superfluous does not keep a server from
// starting.
func TestSupersededLogHeals(t *testing.T) {
	h := newHouse(t, func(o *Options) { rareCheckpoints(o); o.SegmentBytes = 256 << 10 })
	v := h.volume(h.client(), 1<<20)
	v.write(60)
	h.onDisk()
	f := (h.master() + 1) % 3
	if h.servers[f].log.Stats().Segments < 3 {
		t.Fatal("the log has too few segments for this")
	}
	h.stop(f)
	segments, err := filepath.Glob(filepath.Join(h.conf.Servers[f].Root(), "log", "*.log"))
	check(t, err)
	slices.Sort(segments)
	rot(t, segments[0], 20)
	h.start(f)
	if h.servers[f].log.Healed() == nil {
		t.Fatal("nothing was healed")
	}
	if _, err := os.Stat(segments[0]); !errors.Is(err, os.ErrNotExist) {
		t.Fatal("the damaged segment is there still")
	}
	v.write(20)
	v.verify()
	h.level(v.object)
}

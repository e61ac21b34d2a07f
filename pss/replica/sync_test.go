package replica

import (
	"errors"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
)

// TestFailedSyncs: wherever a sync fails, on a follower or the master, the server stops; after a power cut it starts again
// from what is left, and nothing that was acknowledged is lost.
func TestFailedSyncs(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, prefix, part string }{
		{"log", "log/", ".log"},
		{"chunk", "data/", "/00/00/00"},
		{"records", "data/", "sums"},
		{"index", "data/", "index"},
		{"prepared", "prepared", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h, disks := newMemHouse(t)
			v := h.volume(h.client(), 1<<20)
			v.write(20)
			for round, master := range []bool{false, true} {
				h.level(v.object)
				i := h.master()
				if !master {
					i = (i + 1) % 3
				}
				var failed atomic.Bool
				disks[i].SetHook(func(op, name string) error {
					if op == disk.OpSync && strings.HasPrefix(name, c.prefix) && strings.HasSuffix(strings.TrimSuffix(name, ".tmp"), c.part) &&
						failed.CompareAndSwap(false, true) {
						return syscall.EIO
					}
					return nil
				})
				r := h.servers[i]
				v.write(20)
				r.drive(func(time.Duration) error { r.core.WantCheckpoint(); return nil })
				h.ends(i, &failed)
				disks[i].SetHook(nil)
				disks[i].Crash(newRand(uint64(round)))
				v.write(20)
				h.start(i)
				v.verify()
			}
			h.level(v.object)
			v.verify()
		})
	}
}

// TestFailedSyncsOfCatchUp: a server that catches up stops where a sync of what it stages fails, comes back from what a
// power cut leaves, and catches up.
func TestFailedSyncsOfCatchUp(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, op, part string }{
		{"chunk", disk.OpSync, "/00"},
		{"records", disk.OpSync, "/sums"},
		{"folder", disk.OpSyncDir, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			disks := [3]*disk.Mem{disk.NewMem(), disk.NewMem(), disk.NewMem()}
			h, late, object := behind(t, func(o *Options) { o.Disk, o.CatchUpRate = disks[o.ID], DefaultCatchUpRate })
			var failed atomic.Bool
			disks[late].SetHook(func(op, name string) error {
				if op == c.op && strings.HasPrefix(name, "staging") && strings.HasSuffix(name, c.part) && failed.CompareAndSwap(false, true) {
					return syscall.EIO
				}
				return nil
			})
			h.start(late)
			h.ends(late, &failed)
			disks[late].SetHook(nil)
			disks[late].Crash(newRand(1))
			h.start(late)
			h.level(object)
		})
	}
}

// ends waits until a server has ended because of a sync that failed.
func (h *house) ends(i int, failed *atomic.Bool) {
	h.t.Helper()
	r := h.servers[i]
	eventually(h.t, "the end of the server", func() bool { return r.Err() != nil })
	h.servers[i] = nil
	if err := r.Close(); !failed.Load() || !errors.Is(err, syscall.EIO) {
		h.t.Fatal(failed.Load(), err)
	}
}

// TestFailedSyncsOfIdentity: a server without its disk is given an identity, and is taken in as a new member; whichever
// sync of its identity file or of the folder around it fails, it stops, and becomes a member at the next start.
func TestFailedSyncsOfIdentity(t *testing.T) {
	t.Parallel()
	h, disks := newMemHouse(t)
	v := h.volume(h.client(), 1<<20)
	v.write(20)
	h.level(v.object)
	i := (h.master() + 1) % 3
	const mostSyncs = 20 // of identities, in one life: to end the test if there is no end of them
	for nth := int32(1); ; nth++ {
		if nth > mostSyncs {
			t.Fatalf("there are more than %d syncs", mostSyncs)
		}
		was := h.voters()[cell.ID(i)]
		h.stop(i)
		emptyDisk(t, disks[i])
		var failed, renamed atomic.Bool
		var seen atomic.Int32
		disks[i].SetHook(func(op, name string) error {
			file := op == disk.OpSync && strings.HasPrefix(name, identityName)
			folder := op == disk.OpSyncDir && renamed.CompareAndSwap(true, false)
			if op == disk.OpRename && strings.HasPrefix(name, identityName) {
				renamed.Store(true)
			}
			if (file || folder) && seen.Add(1) == nth {
				failed.Store(true)
				return syscall.EIO
			}
			return nil
		})
		r, err := Open(h.optionsOf(i))
		if err == nil { // the others are asked meanwhile
			eventually(t, "a member, or stopped", func() bool { return r.Err() != nil || h.voters()[cell.ID(i)] > was })
		} else if !failed.Load() || !errors.Is(err, syscall.EIO) {
			t.Fatal(failed.Load(), err)
		}
		h.servers[i] = r
		if !failed.Load() {
			t.Logf("%d syncs failed, one after the other", nth-1)
			break
		}
		if err == nil {
			h.ends(i, &failed)
		}
		disks[i].SetHook(nil)
		disks[i].Crash(newRand(uint64(nth)))
		h.start(i)
		eventually(t, "a new member with a vote", func() bool { return h.voters()[cell.ID(i)] > was })
	}
	v.write(5)
	h.level(v.object)
	v.verify()
}

// emptyDisk takes everything from a disk.
func emptyDisk(t *testing.T, m *disk.Mem) {
	t.Helper()
	all, err := m.ReadDir(".")
	check(t, err)
	for _, e := range all {
		check(t, m.RemoveAll(e.Name))
	}
	check(t, m.SyncDir("."))
}

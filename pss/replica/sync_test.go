package replica

import (
	"errors"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
)

// TestFailedSyncs: wherever a sync fails, on a follower or the master, the server stops; after a power cut it starts again
// from what is left, and nothing that was acknowledged is lost.
func TestFailedSyncs(t *testing.T) {
	for _, c := range []struct{ name, prefix, part string }{
		{"log", "log/", ".log"},
		{"chunk", "data/", "/00/00/00"},
		{"records", "data/", "sums"},
		{"index", "data/", "index"},
		{"prepared", "prepared", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
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
				eventually(t, "the end of the server", func() bool { return r.Err() != nil })
				h.servers[i] = nil
				if err := r.Close(); !failed.Load() || !errors.Is(err, syscall.EIO) {
					t.Fatal(failed.Load(), err)
				}
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

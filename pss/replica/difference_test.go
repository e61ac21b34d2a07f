package replica

import (
	"math/rand/v2"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/pss"
)

// TestCatchUpCostsWhatChanged: a server that missed more than the log holds takes what changed meanwhile, and not
// the 64 GiB of the volume, nor all that is written in it. It tells how far it is.
func TestCatchUpCostsWhatChanged(t *testing.T) {
	t.Parallel()
	const (
		size    = 64 << 30
		spread  = size / 48 // 48 pieces of data, all over the volume
		piece   = 512 << 10
		changed = 64 << 10 // of every fourth piece
	)
	h := newHouse(t, func(o *Options) {
		o.CheckpointBytes, o.OverlayBytes, o.SegmentBytes = 1<<20, 4<<20, 1<<20
		o.CatchUpRate = 1 << 20
	})
	c := h.client()
	check(t, c.CreateVolume(h.context(), "/vol", size))
	n, err := c.Stat(h.context(), "/vol")
	check(t, err)
	v, err := c.OpenVolume(h.context(), "/vol")
	check(t, err)
	rng := rand.New(rand.NewPCG(3, 4))
	write := func(v *pss.Volume, off int64, size int) {
		b := make([]byte, size)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		_, err := v.WriteAt(b, off)
		check(t, err)
	}
	for i := range int64(48) {
		write(v, i*spread, piece)
	}
	h.level(n.Object)
	late := (h.master() + 1) % 3
	had := h.servers[late].log.Last()
	h.stop(late)
	total := 0
	for i := int64(0); i < 48; i += 4 {
		write(v, i*spread+changed, changed)
		total += changed
	}
	eventually(t, "log given up", func() bool { // the same block again and again
		write(v, 0, 256<<10)
		for i, r := range h.servers {
			if i != late && r.log.First() <= had+1 {
				return false
			}
		}
		return true
	})
	total += 256 << 10
	h.start(late)
	seen := false
	eventually(t, "level", func() bool {
		rep := h.servers[late].report()
		seen = seen || rep.CatchUp != nil && rep.CatchUp.Chunks > 0
		return rep.Applied >= h.servers[h.master()].report().Applied
	})
	h.level(n.Object)
	fetched := h.servers[late].report().Fetched
	t.Logf("64 GiB thin volume, 24 MiB written, %d KiB changed: %d KiB received", total>>10, fetched>>10)
	// For each chunk that changed the checksums of all of its blocks are received.
	if chunks := uint64(13 * 2); fetched < uint64(total)/2 || fetched > 2*uint64(total)+chunks*32<<10 {
		t.Fatalf("%d bytes changed, %d were received", total, fetched)
	}
	if !seen {
		t.Fatal("the report never told of it")
	}
}

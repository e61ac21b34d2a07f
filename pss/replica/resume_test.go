package replica

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss"
	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
)

// Of the volume that a server which lags has to fetch.
const (
	behindPieces = 24
	behindPiece  = 512 << 10
	behindBytes  = behindPieces * behindPiece
)

// behind is a house with a server that was stopped while pieces of a volume were written, which the log does not hold
// any more.
func behind(t *testing.T, more ...func(*Options)) (h *house, late int, object uint64) {
	t.Helper()
	h = newHouse(t, func(o *Options) {
		o.CheckpointBytes, o.OverlayBytes, o.SegmentBytes = 1<<20, 4<<20, 1<<20
		o.CatchUpRate = 4 << 20
		for _, set := range more {
			set(o)
		}
	})
	c := h.client()
	check(t, c.CreateVolume(h.context(), "/vol", 1<<30))
	n, err := c.Stat(h.context(), "/vol")
	check(t, err)
	v, err := c.OpenVolume(h.context(), "/vol")
	check(t, err)
	late = (h.master() + 1) % 3
	had := h.servers[late].log.Last()
	h.stop(late)
	rng := rand.New(rand.NewPCG(5, 6))
	write := func(v *pss.Volume, off int64, size int) {
		b := make([]byte, size)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		_, err := v.WriteAt(b, off)
		check(t, err)
	}
	for i := range int64(behindPieces) {
		write(v, i*(1<<30)/behindPieces, behindPiece)
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
	return h, late, n.Object
}

// halfway waits until a server has fetched a part of what it lacks, and tells from whom and how much.
func (h *house) halfway(i int) (rep admin.CatchUp, fetched uint64) {
	h.t.Helper()
	eventually(h.t, "halfway", func() bool {
		st := h.servers[i].report()
		if st.CatchUp != nil {
			rep, fetched = *st.CatchUp, st.Fetched
		}
		return st.CatchUp != nil && st.CatchUp.ChunksDone >= behindPieces/2
	})
	return rep, fetched
}

// slack is what may be fetched twice or besides the blocks: the chunk that was under way, and the records of each.
const slack = 3*behindPiece + 2*behindPieces*(32<<10)

// TestCatchUpResumesAfterRestart: what a server fetched before it was stopped it does not fetch again. It takes it from a
// server that is not the master.
func TestCatchUpResumesAfterRestart(t *testing.T) {
	t.Parallel()
	h, late, object := behind(t)
	master := h.master()
	h.start(late)
	rep, fetched := h.halfway(late)
	if int(rep.From) == master || int(rep.From) == late {
		t.Errorf("%+v with master %d", rep, master)
	}
	h.stop(late)
	h.start(late)
	h.level(object)
	again := h.servers[late].report().Fetched
	t.Logf("%d KiB before the restart, %d KiB after it, of %d KiB", fetched>>10, again>>10, behindBytes>>10)
	if again > behindBytes-fetched+slack {
		t.Errorf("%d bytes were fetched before the restart and %d after it", fetched, again)
	}
}

// TestCatchUpResumesElsewhere: the source dies, and the server goes on from another one.
func TestCatchUpResumesElsewhere(t *testing.T) {
	t.Parallel()
	h, late, object := behind(t)
	master := h.master()
	h.start(late)
	rep, _ := h.halfway(late)
	source := int(rep.From)
	if source == master || source == late {
		t.Fatalf("%+v with master %d", rep, master)
	}
	h.stop(source)
	var from cell.ID
	eventually(t, "level with the master", func() bool {
		st := h.servers[late].report()
		if st.CatchUp != nil {
			from = st.CatchUp.From
		}
		return st.Applied > 0 && st.Applied >= h.servers[h.master()].report().Applied
	})
	fetched := h.servers[late].report().Fetched
	t.Logf("%d KiB in all, of %d KiB, at last from server %d", fetched>>10, behindBytes>>10, from)
	if int(from) != master || fetched > behindBytes+slack {
		t.Errorf("%d bytes were fetched, at last from server %d", fetched, from)
	}
	h.start(source)
	h.level(object)
}

// TestYielding: a server with the time for it answers at once; a busy one when it has a moment, or when the floor
// demands it.
func TestYielding(t *testing.T) {
	work, looks, busy := uint64(0), 0, 0
	y := yielding{work: func() uint64 {
		if busy > 0 {
			busy--
			work++
		}
		return work
	}}
	look := func(d time.Duration) bool {
		if d <= 0 || d > yieldLook {
			t.Errorf("a wait of %v", d)
		}
		looks++
		return true
	}
	y.wait(look)
	y.gave(1<<30, 1) // the floor allows to wait for ages
	if y.wait(look); looks != 0 {
		t.Errorf("%d looks without anything to do", looks)
	}
	busy = 10
	if y.wait(look); looks != 10 {
		t.Errorf("%d looks while there were 10 things to do", looks)
	}
	busy = 1 << 30
	y.gave(1, 1<<20)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	y.wait(func(d time.Duration) bool { return sleep(ctx, d) }) // it ends
	y.gave(1<<30, 1)
	cancel()
	y.wait(func(d time.Duration) bool { return sleep(ctx, d) }) // so does this
}

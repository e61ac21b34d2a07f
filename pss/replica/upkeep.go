package replica

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/log"
	"github.com/paxos-iscsi/paxos-iscsi/pss/store"
)

// upkeep does what the data path never waits for: checkpoints and giving up old log, and beside these preparing log
// segments ahead of need.
type upkeep struct {
	r    *Replica
	wake chan struct{} // one token: there is something to do

	noRoomUntil atomic.Int64  // no segment is prepared before: there was no room for it
	segment     chan struct{} // one token: a log segment is to be prepared; that goes on beside the rest

	mu      sync.Mutex
	flush   *store.Flush // at most one, as the Core makes one at a time
	recycle uint64
	closed  bool
}

func newUpkeep(r *Replica) *upkeep {
	return &upkeep{r: r, wake: make(chan struct{}, 1), segment: make(chan struct{}, 1)}
}

func (u *upkeep) add(f *store.Flush, recycle uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if f != nil {
		u.flush = f
	}
	u.recycle = max(u.recycle, recycle)
	u.signal()
}

// prepare has the next log segment and bodies made ready if they aren't.
func (u *upkeep) prepare() {
	if u.r.log.Prepared() || u.r.now() < time.Duration(u.noRoomUntil.Load()) {
		return
	}
	if !u.r.log.BodiesPrepared() {
		u.mu.Lock()
		u.signal()
		u.mu.Unlock()
	}
	select {
	case u.segment <- struct{}{}:
	default:
	}
}

func (u *upkeep) signal() {
	if u.closed {
		return
	}
	select {
	case u.wake <- struct{}{}:
	default:
	}
}

func (u *upkeep) close() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.closed {
		u.closed = true
		close(u.wake)
	}
}

func (u *upkeep) run() {
	for range u.wake {
		u.mu.Lock()
		f, recycle := u.flush, u.recycle
		u.flush, u.recycle = nil, 0
		u.mu.Unlock()
		if recycle != 0 {
			if err := u.r.log.Recycle(recycle); err != nil {
				u.r.failed(err)
				return
			}
		}
		if f != nil {
			err := f.Run()
			u.r.drive(func(time.Duration) error { return u.r.core.FlushDone(err) })
			u.r.sweep() // what was staged and is not needed, since there is a checkpoint of the server's own
		}
		// A checkpoint may have given the log files for bodies. They don't wait for the segment that is being prepared.
		if err := u.r.log.PrepareBodies(); noRoom(err) {
			u.noRoomUntil.Store(int64(u.r.now() + spaceRetry))
		} else if err != nil {
			u.r.failed(err)
			return
		}
	}
}

// A log segment is written before it is needed, and a server has most of the time that its predecessor lasts for it.
// All servers of a cell need one at the same time, as they log the same: where they share a disk, writing it at once keeps
// each sync waiting for as long as that takes.
const (
	prepareRate = 16 << 20 // bytes a second that are written to a segment, while there is time
	prepareLead = 2        // times as fast as the segment in use fills it is prepared at least
)

// errNotNeeded ends the work on a segment: another one has become free, or the server ends.
var errNotNeeded = errors.New("no segment is needed any more")

// prepareSegments prepares log segments until the server ends.
func (u *upkeep) prepareSegments() {
	for {
		select {
		case <-u.r.ctx.Done():
			return
		case <-u.segment:
		}
		switch err := u.r.log.Prepare(u.pacer()); {
		case err == nil || errors.Is(err, errNotNeeded):
		case noRoom(err):
			u.noRoomUntil.Store(int64(u.r.now() + spaceRetry)) // an append makes its segment itself, if it can
		default:
			u.r.failed(err)
			return
		}
	}
}

// pacer returns what waits between the pieces of a segment.
func (u *upkeep) pacer() log.Between {
	appended, done := u.r.log.Stats().Written, int64(0)
	return func(written, size int64) error {
		piece := written - done
		done = written
		st := u.r.log.Stats()
		filled := int64(st.Written - appended)
		late := prepareLead*filled > written || u.r.log.Room() < size/4
		if st.Ready > 0 {
			return errNotNeeded
		}
		if !late && !u.r.wait(time.Duration(piece)*time.Second/prepareRate) || u.r.ctx.Err() != nil {
			return errNotNeeded
		}
		return nil
	}
}

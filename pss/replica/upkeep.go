package replica

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/store"
)

// upkeep does what the data path never waits for: checkpoints, giving up old log, and preparing log
// segments ahead of need.
type upkeep struct {
	r    *Replica
	wake chan struct{} // one token: there is something to do

	noRoomUntil atomic.Int64 // no segment is prepared before: there was no room for it

	mu      sync.Mutex
	flush   *store.Flush // at most one, as the Core makes one at a time
	recycle uint64
	closed  bool
}

func newUpkeep(r *Replica) *upkeep { return &upkeep{r: r, wake: make(chan struct{}, 1)} }

func (u *upkeep) add(f *store.Flush, recycle uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if f != nil {
		u.flush = f
	}
	u.recycle = max(u.recycle, recycle)
	u.signal()
}

// prepare has the next log segment made ready if it isn't.
func (u *upkeep) prepare() {
	if u.r.log.Prepared() || u.r.now() < time.Duration(u.noRoomUntil.Load()) {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.signal()
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
		if err := u.r.log.Prepare(); noRoom(err) {
			u.noRoomUntil.Store(int64(u.r.now() + spaceRetry)) // an append makes its segment itself, if it can
		} else if err != nil {
			u.r.failed(err)
			return
		}
		if f != nil {
			err := f.Run()
			u.r.drive(func(time.Duration) error { return u.r.core.FlushDone(err) })
			u.r.sweep() // what was staged and is not needed, since there is a checkpoint of the server's own
		}
	}
}

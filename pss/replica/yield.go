package replica

import "time"

// A server that another catches up from serves its clients first. While it answers reads or takes entries it waits
// before each answer to the other server, but no longer than the floor demands: so many bytes a second the other
// one gets whatever happens, or it would never be level.

// DefaultCatchUpFloor is how many bytes a second another server gets at least that catches up from this one.
const DefaultCatchUpFloor = 8 << 20

// yieldLook is the time in which nothing must have come from clients for a server to have the time for others.
const yieldLook = 2 * time.Millisecond

// yielding is the pace of answers to one server that catches up.
type yielding struct {
	work  func() uint64 // changes with everything that is done for clients
	seen  uint64        // the work at the last look
	until time.Time     // the floor allows to wait so long
}

// work is a figure that changes with everything this server does for clients.
func (r *Replica) work() uint64 {
	reads, _, _ := r.loads.reads.Read()
	return reads + r.log.Last()
}

// wait waits while clients have work for this server, and the floor allows it.
func (y *yielding) wait(sleep func(time.Duration) bool) {
	for {
		now := y.work()
		left := time.Until(y.until)
		if now == y.seen || left <= 0 {
			return
		}
		y.seen = now
		if !sleep(min(left, yieldLook)) {
			return
		}
	}
}

// gave notes an answer of some bytes.
func (y *yielding) gave(bytes int, floor int64) {
	y.seen = y.work()
	y.until = time.Now().Add(time.Duration(float64(bytes) / float64(floor) * float64(time.Second)))
}

// keepBase puts the next checkpoint off, as another server is catching up from the one there is.
func (r *Replica) keepBase() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.core.hold()
}

package pss

import (
	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
	"github.com/paxos-iscsi/paxos-iscsi/pss/wire"
)

const (
	slotBits = 11
	slotMask = 1<<slotBits - 1
	// maxCalls is how many calls there are at most: op.Window operations, and about as many reads and
	// queries.
	maxCalls = slotMask
	openSlot = maxCalls // the slot of SessionOpen, which is no call
)

// call is one operation, read or query on its way.
type call struct {
	slot       uint16
	lost       bool     // the session was lost after it was sent
	tag        uint64   // under which it was sent on the active connection; 0 if it was not
	seq        uint64   // of an operation, as the queue counts; 0 for reads and queries
	attempts   int      // connections it was sent on
	req        *Request // nil when its caller has gone
	at         int64    // bytes into the request
	size       int      // bytes of the request
	cost       int      // bytes counted as under way
	prev, next *call
	hdr        op.Header
	sums       []uint32 // of the payload; computed when it is first sent
	head       []byte   // everything of the operation but its payload
}

// queue holds the requests of a Cell: first the backlog of those that wait for the limits, then the
// calls, in the order of submission, of which those from unsent on wait to be written.
type queue struct {
	backlog, backlogEnd *Request
	queued              int      // requests in the backlog
	deadlines           int      // requests with one
	flushes, flushesEnd *Request // wait for all operations below their barrier

	first, last *call
	unsent      *call
	calls       int // in the list
	slots       []*call
	free        []*call
	inflight    int    // cost of all calls
	sends       uint64 // calls sent, for tags

	ring    []*call // operations by sequence number modulo op.Window
	nextSeq uint64  // the next operation's
	acked   uint64  // all operations below are settled
	base    uint64  // sequence numbers count from here in the session
	rebase  bool    // the session is new: set base when nothing of the old one is left
}

func (q *queue) init() {
	q.ring = make([]*call, op.Window)
	q.nextSeq, q.acked = 1, 1
}

// admit cuts requests into calls as far as the limits allow.
func (c *Cell) admit() {
	for r := c.backlog; r != nil; r = c.backlog {
		for r.issued < r.total {
			size, cost := r.piece()
			if c.calls == maxCalls || r.mutates() && c.nextSeq-c.acked >= op.Window ||
				c.inflight > 0 && c.inflight+cost > c.opts.MaxInflightBytes {
				return
			}
			c.issue(r, size, cost)
		}
		c.unlinkBacklog(nil, r)
		switch {
		case r.Op == Flush:
			c.await(r)
		case r.total == 0:
			c.finish(r, nil)
		}
	}
}

// await finishes a Flush when everything that was issued before it is settled.
func (c *Cell) await(r *Request) {
	if r.barrier = c.nextSeq; c.acked >= r.barrier {
		c.finish(r, nil)
		return
	}
	if c.flushes == nil {
		c.flushes = r
	} else {
		c.flushesEnd.next = r
	}
	c.flushesEnd = r
}

// issue makes the call for the next size bytes of r.
func (c *Cell) issue(r *Request, size, cost int) {
	var q *call
	if n := len(c.free); n > 0 {
		q = c.free[n-1]
		c.free = c.free[:n-1]
	} else {
		q = &call{slot: uint16(len(c.slots))}
		c.slots = append(c.slots, q)
	}
	q.req, q.at, q.size, q.cost = r, r.issued, size, cost
	q.sums = q.sums[:0]
	r.issued += int64(size)
	r.pieces++
	if r.pieces == 1 {
		r.call = q
	}
	if r.mutates() {
		q.seq = c.nextSeq
		c.ring[q.seq%op.Window] = q
		c.nextSeq++
		q.hdr = r.header
		if r.Op != opPropose {
			q.hdr.Offset += uint64(q.at)
			q.hdr.Length = uint64(size)
			if r.Op == CompareAndWrite {
				q.hdr.Length /= 2
			}
		}
	}
	r.whole = r.issued == r.total
	q.prev = c.last
	if c.last == nil {
		c.first = q
	} else {
		c.last.next = q
	}
	c.last = q
	if c.unsent == nil {
		c.unsent = q
	}
	c.calls++
	c.inflight += cost
}

// release takes a call out of the queue.
func (c *Cell) release(q *call) {
	if q.prev == nil {
		c.first = q.next
	} else {
		q.prev.next = q.next
	}
	if q.next == nil {
		c.last = q.prev
	} else {
		q.next.prev = q.prev
	}
	if c.unsent == q {
		c.unsent = q.next
	}
	c.calls--
	c.inflight -= q.cost
	seq := q.seq
	*q = call{slot: q.slot, sums: q.sums[:0], head: q.head[:0]}
	c.free = append(c.free, q)
	if seq == 0 {
		return
	}
	c.ring[seq%op.Window] = nil
	for c.acked < c.nextSeq && c.ring[c.acked%op.Window] == nil {
		c.acked++
	}
	for r := c.flushes; r != nil && c.acked >= r.barrier; r = c.flushes {
		if c.flushes = r.next; c.flushes == nil {
			c.flushesEnd = nil
		}
		r.next = nil
		c.finish(r, nil)
	}
}

// settle ends a call, and its request with its last call.
func (c *Cell) settle(q *call, res op.Result, err error) {
	r := q.req
	c.release(q)
	if r == nil {
		return
	}
	if err == nil && res.Errno != op.OK {
		err = res.Errno
		r.Miscompare = int64(res.Value)
	}
	if err != nil && r.Err == nil {
		r.Err = err
	}
	r.call, r.result = nil, res
	if r.pieces--; r.pieces == 0 && r.whole {
		c.finish(r, nil)
	}
}

// finish hands a request to unlock, which completes it. An error that it has already stays.
func (c *Cell) finish(r *Request, err error) {
	if r.Err == nil {
		r.Err = err
	}
	if r.deadline != 0 {
		c.deadlines--
	}
	r.state = idle
	if v := r.volume; v != nil {
		if v.pending--; v.pending == 0 {
			c.cond.Broadcast()
		}
	}
	if c.finished == nil {
		c.finished = r
	} else {
		c.finishedEnd.next = r
	}
	c.finishedEnd = r
}

// enqueue takes a request from its caller.
func (c *Cell) enqueue(r *Request) {
	r.state = queued
	r.issued, r.pieces, r.whole, r.call, r.next = 0, 0, false, nil, nil
	r.Err, r.Miscompare = nil, 0
	if c.queued >= c.opts.MaxQueued {
		c.finish(r, ErrQueueFull)
		return
	}
	if c.backlog == nil {
		c.backlog = r
	} else {
		c.backlogEnd.next = r
	}
	c.backlogEnd = r
	c.queued++
	c.admit()
}

// push sends what can be sent, in the caller's goroutine if that is the quickest.
func (c *Cell) push() {
	k := c.active
	if k == nil || k.writing || !k.hasWork() {
		return
	}
	if c.calls == 1 && c.first == c.unsent {
		c.transmit(k) // nothing else is under way: save the change of goroutines
		if !k.hasWork() {
			return
		}
	}
	k.poke()
}

// sent is the call that was sent on k with this tag, or nil.
func (c *Cell) sent(k *conn, tag uint64) *call {
	slot := tag & slotMask
	if k != c.active || tag == 0 || slot >= uint64(len(c.slots)) || c.slots[slot].tag != tag {
		return nil
	}
	return c.slots[slot]
}

// stamp gives a call about to be sent its tag, and its operation what depends on the moment.
func (c *Cell) stamp(q *call) {
	c.sends++
	q.tag = c.sends<<slotBits | uint64(q.slot)
	q.attempts++
	if q.seq != 0 {
		q.hdr.Session, q.hdr.Epoch = c.session, c.epoch
		q.hdr.Seq, q.hdr.Acked = q.seq-c.base, c.acked-c.base
	}
}

// write adds the frame of q, which was stamped, to w. It runs outside the Cell's mutex: until the
// connection's goroutines have ended, or the call is settled by what they read, nobody else touches q.
func (q *call) write(w *wire.Writer, tag uint64, r *Request) error {
	switch r.Op {
	case Read:
		offset := r.header.Offset + uint64(q.at)
		return w.Read(tag, wire.Read{Object: r.header.Object, Offset: offset, Length: uint32(q.size)})
	case opQuery:
		return w.Query(tag, r.query)
	case opPropose:
		q.head = op.Head(q.head[:0], &q.hdr, r.args, len(r.Data))
		return w.Propose(tag, q.head, r.Data)
	case Write, CompareAndWrite:
		data := r.Data[q.at : q.at+int64(q.size)]
		if len(q.sums) == 0 {
			half := data[:q.hdr.Length]
			q.sums = op.AppendSums(q.sums, q.hdr.Offset, half)
			q.sums = op.AppendSums(q.sums, q.hdr.Offset, data[len(half):])
		}
		q.head = op.HeadSums(q.head[:0], &q.hdr, q.sums, len(data))
		return w.Propose(tag, q.head, data)
	}
	q.head = op.HeadSums(q.head[:0], &q.hdr, nil, 0)
	return w.Propose(tag, q.head)
}

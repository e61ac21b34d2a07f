package pss

import "github.com/paxos-iscsi/paxos-iscsi/pss/op"

// This file has the ways in which requests leave the queue without an answer, or go back to be sent again.

// rewind makes everything unanswered wait to be sent again, but what nobody waits for any more.
func (c *Cell) rewind() {
	for q := c.first; q != nil; {
		next := q.next
		q.tag = 0
		switch {
		case q.req == nil && q.attempts > 0:
			c.release(q)
		case q.lost:
			c.settle(q, op.Result{}, ErrSessionLost)
		}
		q = next
	}
	c.unsent = c.first
	if c.rebase {
		c.base, c.rebase = c.acked-1, false
	}
}

// expire gives up the requests whose time is over. Those that were sent on the active connection are
// given up with it: what is sent after the next SessionOpen can't be overtaken by them.
func (c *Cell) expire() {
	if c.deadlines == 0 {
		return
	}
	over := func(r *Request) bool { return r != nil && r.deadline != 0 && c.tick >= r.deadline }
	var rest *Request // the new backlog's end
	for r := c.backlog; r != nil; {
		next := r.next
		if !over(r) {
			rest, r = r, next
			continue
		}
		c.unlinkBacklog(rest, r)
		r.whole = true // no more than was issued
		if r.Err == nil {
			r.Err = ErrTimeout
		}
		if r.pieces == 0 {
			c.finish(r, nil)
		}
		r = next
	}
	c.expireFlushes(over, ErrTimeout) // before the writes they wait for, whose end would be theirs
	sent := false
	for q := c.first; q != nil; {
		next := q.next
		switch {
		case !over(q.req):
		case q.tag == 0:
			c.settle(q, op.Result{}, ErrTimeout)
		default:
			sent = true
		}
		q = next
	}
	if sent && c.active != nil {
		c.deactivate(ErrTimeout)
	}
	c.admit()
}

// expireFlushes finishes those flushes that are over.
func (c *Cell) expireFlushes(over func(*Request) bool, err error) {
	var rest *Request
	for r := c.flushes; r != nil; {
		next := r.next
		if !over(r) {
			rest, r = r, next
			continue
		}
		if rest == nil {
			c.flushes = next
		} else {
			rest.next = next
		}
		if c.flushesEnd == r {
			c.flushesEnd = rest
		}
		r.next = nil
		c.finish(r, err)
		r = next
	}
}

// unlinkBacklog takes r, which follows before, out of the backlog.
func (c *Cell) unlinkBacklog(before, r *Request) {
	if before == nil {
		c.backlog = r.next
	} else {
		before.next = r.next
	}
	if c.backlogEnd == r {
		c.backlogEnd = before
	}
	r.next = nil
	c.queued--
}

// abandon takes a request of one call back from the Cell because its caller has gone, and says whether
// it was not sent, so that it has no effect. A request that is finished is left as it is.
func (c *Cell) abandon(r *Request) (unsent bool) {
	if r.state == idle {
		return false
	}
	r.state = idle
	q := r.call
	if q == nil {
		var before *Request
		for b := c.backlog; b != r; b = b.next {
			before = b
		}
		c.unlinkBacklog(before, r)
		return true
	}
	q.req, r.call = nil, nil
	unsent = q.attempts == 0
	if q.tag == 0 { // else it is released when it is answered, or by rewind
		c.release(q)
		c.admit()
	}
	return unsent
}

// failAll finishes everything with err. No connection is left.
func (c *Cell) failAll(err error) {
	for c.backlog != nil {
		r := c.backlog
		c.unlinkBacklog(nil, r)
		r.whole = true
		if r.Err == nil {
			r.Err = err
		}
		if r.pieces == 0 {
			c.finish(r, nil)
		}
	}
	c.expireFlushes(func(*Request) bool { return true }, err)
	for c.first != nil {
		c.settle(c.first, op.Result{}, err)
	}
}

package state

import (
	"bytes"
	"slices"

	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
)

// queue has messages, each of which one reader takes: it is reserved for him, and leaves the queue when he
// acknowledges it. The message of a reader whose session ends is left to others, so each is delivered at
// least once. A queue that has neither messages nor readers that wait is not there.
type queue struct {
	name     string
	messages []message // in the order they were posted
	waiters  []owner   // in the order they came; only while no message is free
}

// message is numbered by the entry of the log that posted it.
type message struct {
	number uint64
	taken  owner // who reserved it; session 0 for nobody
	data   []byte
}

func (g *message) bytes() int { return messageBytes + len(g.data) }

// queue finds or makes the queue, if n more bytes fit.
func (c *coordination) queue(name string, n int) *queue {
	q := c.queues[name]
	switch {
	case q != nil && !c.room(n), q == nil && !c.room(n+queueBytes+len(name)):
		return nil
	case q == nil:
		q = &queue{name: name}
		c.queues[name] = q
		c.bytes += queueBytes + len(name)
	}
	return q
}

func (c *coordination) queuePost(index uint64, name string, data []byte) (op.Result, error) {
	g := message{number: index, data: bytes.Clone(data)} // the entry is not to stay in memory
	q := c.queue(name, g.bytes())
	if q == nil || len(q.messages) >= MaxMessages {
		return answer(op.TooMany)
	}
	c.bytes += g.bytes()
	q.messages = append(q.messages, g)
	c.queueEvent(index, name, op.EventPosted)
	q.advance(c)
	return op.Result{Value: index}, nil
}

// queueTake reserves the first message that nobody has, or has the reader wait. Who asks again is told which
// message is his.
func (c *coordination) queueTake(index uint64, name string, by owner) (op.Result, error) {
	q := c.queue(name, ownerBytes)
	if q == nil {
		return answer(op.TooMany)
	}
	if i := q.taken(by); i >= 0 {
		return op.Result{Value: q.messages[i].number}, nil
	}
	if slices.Contains(q.waiters, by) {
		return answer(op.Waiting)
	}
	if i := q.taken(owner{}); i >= 0 {
		q.messages[i].taken = by
		return op.Result{Value: q.messages[i].number}, nil
	}
	if len(q.waiters) >= MaxWaiters {
		return answer(op.TooMany)
	}
	c.bytes += ownerBytes
	q.waiters = append(q.waiters, by)
	c.queueEvent(index, name, op.EventWanted)
	return answer(op.Waiting)
}

// taken is the index of the first message that is reserved for by; of a free one for nobody.
func (q *queue) taken(by owner) int {
	return slices.IndexFunc(q.messages, func(g message) bool { return g.taken == by })
}

// queueAck removes the message that is reserved, or leaves it to others, or takes the reader out of the line.
func (c *coordination) queueAck(name string, by owner, leave bool) op.Errno {
	q := c.queues[name]
	if q == nil {
		return op.NotFound
	}
	i, j := q.taken(by), slices.Index(q.waiters, by)
	switch {
	case i >= 0 && leave:
		q.messages[i].taken = owner{}
	case i >= 0:
		c.bytes -= q.messages[i].bytes()
		q.messages = slices.Delete(q.messages, i, i+1)
	case j >= 0:
		c.bytes -= ownerBytes
		q.waiters = slices.Delete(q.waiters, j, j+1)
	default:
		return op.NotFound
	}
	q.advance(c)
	return op.OK
}

// advance gives free messages to those who wait, and wakes them. A queue of nothing ends.
func (q *queue) advance(c *coordination) {
	for len(q.waiters) > 0 {
		i := q.taken(owner{})
		if i < 0 {
			break
		}
		q.messages[i].taken = q.waiters[0]
		c.wake(q.waiters[0].session)
		c.bytes -= ownerBytes
		q.waiters = slices.Delete(q.waiters, 0, 1)
	}
	if len(q.messages) == 0 && len(q.waiters) == 0 {
		delete(c.queues, q.name)
		c.bytes -= queueBytes + len(q.name)
	}
}

// leave takes a session's readers away; what they reserved is left to others.
func (q *queue) leave(c *coordination, session uint64) {
	before := len(q.waiters)
	q.waiters = slices.DeleteFunc(q.waiters, func(by owner) bool { return by.session == session })
	c.bytes -= (before - len(q.waiters)) * ownerBytes
	for i := range q.messages {
		if q.messages[i].taken.session == session {
			q.messages[i].taken = owner{}
		}
	}
	q.advance(c)
}

// queryMessage answers a QueueGet.
func (m *Machine) queryMessage(q op.Query) op.Answer {
	defer m.lockCoordination()()
	if queue := m.coord.queues[q.Path]; queue != nil {
		for _, g := range queue.messages {
			if g.number == q.Object {
				return op.Answer{Version: g.number, Value: g.data} // never changed
			}
		}
	}
	return op.Answer{Errno: op.NotFound}
}

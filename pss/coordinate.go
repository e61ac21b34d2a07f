package pss

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
)

// Locks, queues, events and ephemeral files belong to the Cell's session: the cell ends them when the Cell is
// closed, or when it has not heard of it for Options.SessionLease. Names of locks and queues are names of
// their own, no paths of files.

// wakeAll makes those who wait for something in the cell ask again. c.mu is held.
func (c *Cell) wakeAll() {
	close(c.woken)
	c.woken = make(chan struct{})
}

// waitFor asks until the answer is another than to wait. The cell tells us when to ask again; what it said on a
// connection that broke, the next connection makes up for.
func (c *Cell) waitFor(ctx context.Context, ask func() error) error {
	for {
		c.mu.Lock()
		woken := c.woken // before asking, so that nothing is missed
		c.mu.Unlock()
		if err := ask(); !errors.Is(err, op.Waiting) {
			return err
		}
		select {
		case <-woken:
		case <-ctx.Done():
			return ctx.Err()
		case <-c.ctx.Done():
			return ErrClosed
		}
	}
}

// handle draws a number that no other lock or reader of the Cell has.
func (c *Cell) handle() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.handles++
	return c.handles
}

// tagged is a request about a name, in the given session; 0 for any.
func tagged(h op.Header, bound uint64, name string) *Request {
	return &Request{Op: opPropose, header: h, bound: bound, args: op.AppendString(nil, name), total: 1}
}

// giveUp takes back what was asked for, without waiting for the answer: a place in a line, or what the line
// gave meanwhile.
func (c *Cell) giveUp(h op.Header, name string) {
	c.start(tagged(h, 0, name))
}

// LockMode says how a lock is held.
type LockMode uint8

// The modes of locks.
const (
	ReadLock  LockMode = iota // together with other readers
	WriteLock                 // alone
)

// Lock is a lock that is held.
type Lock struct {
	cell    *Cell
	name    string
	handle  uint64
	session uint64
	version uint64
}

// Version grows whenever the lock passes to a writer, or from a writer to readers.
func (l *Lock) Version() uint64 { return l.version }

// Lock takes a lock, waiting in line behind those who came before. Each call counts for itself: two calls of one
// Cell exclude each other like those of two.
func (c *Cell) Lock(ctx context.Context, name string, mode LockMode) (*Lock, error) {
	return c.lock(ctx, name, mode, 0)
}

// TryLock takes a lock if that is possible at once, and fails with ErrBusy if not.
func (c *Cell) TryLock(ctx context.Context, name string, mode LockMode) (*Lock, error) {
	return c.lock(ctx, name, mode, op.FlagTry)
}

func (c *Cell) lock(ctx context.Context, name string, mode LockMode, flags uint16) (*Lock, error) {
	h := op.Header{Code: op.LockTake, Object: c.handle(), Flags: flags}
	if mode == WriteLock {
		h.Flags |= op.FlagWrite
	}
	var r *Request
	err := c.waitFor(ctx, func() error {
		r = tagged(h, 0, name)
		return c.do(ctx, r)
	})
	if err != nil {
		if !errors.Is(err, ErrBusy) {
			c.giveUp(op.Header{Code: op.LockRelease, Object: h.Object}, name)
		}
		return nil, fmt.Errorf("lock %q: %w", name, err)
	}
	return &Lock{c, name, h.Object, r.session, r.result.Value}, nil
}

// Unlock gives the lock back. ErrSessionLost says that it was lost before: somebody else may have it.
func (l *Lock) Unlock(ctx context.Context) error {
	r := tagged(op.Header{Code: op.LockRelease, Object: l.handle}, l.session, l.name)
	if err := l.cell.do(ctx, r); err != nil {
		return fmt.Errorf("unlock %q: %w", l.name, err)
	}
	return nil
}

// Post appends a message of up to op.MaxAttr bytes to a queue and returns its number, which is higher than those
// of all messages before. It fails with ErrTooMany while 100 messages are waiting.
func (c *Cell) Post(ctx context.Context, queue string, data []byte) (number uint64, err error) {
	if len(data) > op.MaxAttr {
		return 0, fmt.Errorf("post %d bytes to queue %q: %w", len(data), queue, op.Invalid)
	}
	data = bytes.Clone(data) // a request that is abandoned may still be sent
	r := &Request{Op: opPropose, header: op.Header{Code: op.QueuePost, Length: uint64(len(data))},
		args: op.PostArgs(queue, data), Data: data, total: 1}
	if err := c.do(ctx, r); err != nil {
		return 0, fmt.Errorf("post to queue %q: %w", queue, err)
	}
	return r.result.Value, nil
}

// Message is a message that was taken from a queue, and is reserved for who took it.
type Message struct {
	Number uint64
	Data   []byte

	cell    *Cell
	queue   string
	handle  uint64
	session uint64
}

// Take reserves the first message of a queue that nobody has, waiting for one if need be. A message that is not
// acknowledged when the session ends comes to another reader: it is delivered at least once.
func (c *Cell) Take(ctx context.Context, queue string) (*Message, error) {
	h := op.Header{Code: op.QueueTake, Object: c.handle()}
	var r *Request
	var a op.Answer
	err := c.waitFor(ctx, func() (err error) {
		r = tagged(h, 0, queue)
		if err = c.do(ctx, r); err != nil {
			return err
		}
		if a, err = c.ask(ctx, op.Query{Code: op.QueueGet, Path: queue, Object: r.result.Value}); errors.Is(err, op.NotFound) {
			return ErrSessionLost // somebody else took it off meanwhile
		}
		return err
	})
	if err != nil {
		c.giveUp(op.Header{Code: op.QueueAck, Object: h.Object, Flags: op.FlagReturn}, queue)
		return nil, fmt.Errorf("take from queue %q: %w", queue, err)
	}
	return &Message{r.result.Value, a.Value, c, queue, h.Object, r.session}, nil
}

// Ack removes the message from its queue. ErrSessionLost says that it may come, or have come, to another reader.
func (g *Message) Ack(ctx context.Context) error { return g.settle(ctx, 0) }

// Return leaves the message to other readers.
func (g *Message) Return(ctx context.Context) error { return g.settle(ctx, op.FlagReturn) }

func (g *Message) settle(ctx context.Context, flags uint16) error {
	r := tagged(op.Header{Code: op.QueueAck, Object: g.handle, Flags: flags}, g.session, g.queue)
	if err := g.cell.do(ctx, r); err != nil {
		return fmt.Errorf("message %d of queue %q: %w", g.Number, g.queue, err)
	}
	return nil
}

// CreateEphemeral makes an empty file that ends with the session, and returns its object.
func (c *Cell) CreateEphemeral(ctx context.Context, path string) (object uint64, err error) {
	res, err := c.proposePath(ctx, op.Header{Code: op.CreateFile, Flags: op.FlagEphemeral}, path)
	return res.Object, pathError("create", path, err)
}

// Watch has the cell keep events of a folder, lock or queue for Events. What is watched need not be there yet.
func (c *Cell) Watch(ctx context.Context, kind op.EventKind, name string) error {
	r := tagged(op.Header{Code: op.Watch, Flags: uint16(kind)}, 0, name)
	if err := c.do(ctx, r); err != nil {
		return fmt.Errorf("watch %q: %w", name, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.watching != r.session {
		c.watching, c.delivered = r.session, 0
	}
	return nil
}

// Unwatch ends a Watch. Events that are kept already are delivered.
func (c *Cell) Unwatch(ctx context.Context, kind op.EventKind, name string) error {
	if err := c.do(ctx, tagged(op.Header{Code: op.Unwatch, Flags: uint16(kind)}, 0, name)); err != nil {
		return fmt.Errorf("unwatch %q: %w", name, err)
	}
	return nil
}

// Events waits for events of what is watched and returns them in order, with the number of those that the
// session had no room for since it began: a session keeps 200 that were not returned. Events that one call
// returned are forgotten by the next. ErrSessionLost says that all watches are gone: call Watch again, and
// look at what is watched, which may have changed meanwhile. Events is for one goroutine at a time.
func (c *Cell) Events(ctx context.Context) (events []op.Event, omitted uint64, err error) {
	c.mu.Lock()
	session, delivered := c.watching, c.delivered
	c.mu.Unlock()
	if delivered > 0 {
		r := &Request{Op: opPropose, header: op.Header{Code: op.EventAck, Object: delivered}, bound: session, total: 1}
		if err := c.do(ctx, r); err != nil {
			return nil, 0, fmt.Errorf("acknowledge events: %w", err)
		}
	}
	err = c.waitFor(ctx, func() error {
		a, err := c.ask(ctx, op.Query{Code: op.EventGet, Object: session})
		switch {
		case errors.Is(err, op.NoSession):
			return ErrSessionLost
		case err != nil:
			return err
		}
		omitted = a.Version - 1
		if events, err = op.ParseEvents(a.Value); err == nil && len(events) == 0 {
			return op.Waiting
		}
		return err
	})
	if err != nil {
		return nil, 0, fmt.Errorf("wait for events: %w", err)
	}
	c.mu.Lock()
	c.delivered = events[len(events)-1].Number
	c.mu.Unlock()
	return events, omitted, nil
}

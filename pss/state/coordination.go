package state

import (
	"slices"
	"strings"
	"sync"

	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
)

// Locks, queues and events let clients coordinate. All of it is replicated state like any other, changed by
// entries of the log alone, and all of it ends with the session it belongs to.
//
// Who has to wait is answered with op.Waiting and stands in line from then on. The entry that ends the wait
// changes the line and wakes the session (Machine.Woken): the master tells the client, which asks again, with
// the same operation under a new number. Asking again changes nothing, so that a wake that is lost with a
// connection or a master costs the client no more than asking once too often.

// Limits of what clients coordinate with. What would exceed one is answered with op.TooMany.
const (
	MaxCoordination = 32 << 20 // bytes in a snapshot of all locks, queues, watches and events together
	MaxWaiters      = 1024     // holders and those who wait, of one lock or queue
	MaxMessages     = 100      // messages in a queue
	MaxWatches      = 64       // of a session
	MaxEvents       = 200      // of a session, which it has not acknowledged; more are counted and dropped
	MaxEphemeral    = 1024     // files that end with a session
)

// owner is who holds or waits: one of the handles of a session.
type owner struct{ session, handle uint64 }

const (
	lockBytes    = 2 + 8 + 1 + 2 + 2 // of a lock in a snapshot, without its name, holders and waiters
	holderBytes  = 8 + 8 + 1         // of a holder or waiter of a lock
	queueBytes   = 2 + 2 + 2         // of a queue in a snapshot, without its name, messages and waiters
	messageBytes = 8 + 8 + 8 + 4     // of a message without its content
	ownerBytes   = 8 + 8             // of a waiter of a queue
	watchBytes   = 1 + 2             // of a watch without its name
	sessionExtra = 4 + 8 + 8 + 2 + 2 // of a session in a snapshot, since version 2
	maxCoordName = op.MaxPath        // bytes
)

// watch is what a session watches.
type watch struct {
	kind op.EventKind
	name string
}

// coordination is the state of all of it. Its mutex guards it, and what the sessions have of it, against
// queries in other goroutines; only the applying goroutine changes anything.
type coordination struct {
	sync.Mutex
	locks    map[string]*lock
	queues   map[string]*queue
	watchers map[watch][]*session // in order of their ids
	bytes    int                  // MaxCoordination at most
	woken    []uint64             // sessions that the entry at work wakes; no part of the state
}

func newCoordination() *coordination {
	return &coordination{locks: map[string]*lock{}, queues: map[string]*queue{}, watchers: map[watch][]*session{}}
}

// room says whether n more bytes fit.
func (c *coordination) room(n int) bool { return c.bytes+n <= MaxCoordination }

func (c *coordination) wake(session uint64) {
	if !slices.Contains(c.woken, session) {
		c.woken = append(c.woken, session)
	}
}

// Woken is the sessions that the entry applied last gave something they wait for. It is valid until the next.
func (m *Machine) Woken() []uint64 { return m.coord.woken }

// coordinate carries out an operation on a lock, queue or watch.
func (m *Machine) coordinate(index uint64, o *op.Op) (op.Result, error) {
	c, s := m.coord, m.sessions.byID[o.Session]
	c.Lock()
	defer c.Unlock()
	if o.Code == op.EventAck {
		c.acknowledge(s, o.Object)
		return answer(op.OK)
	}
	name, rest, err := op.String(o.More())
	if err != nil || len(rest) != 0 || name == "" || strings.IndexByte(name, 0) >= 0 {
		return answer(op.Invalid)
	}
	by := owner{o.Session, o.Object}
	switch o.Code {
	case op.LockTake:
		return c.lockTake(index, name, by, o.Flags)
	case op.LockRelease:
		return answer(c.lockRelease(index, name, by))
	case op.QueuePost:
		return c.queuePost(index, name, o.Payload)
	case op.QueueTake:
		return c.queueTake(index, name, by)
	case op.QueueAck:
		return answer(c.queueAck(name, by, o.Flags&op.FlagReturn != 0))
	case op.Watch, op.Unwatch:
		return answer(c.watch(s, watch{op.EventKind(o.Flags), name}, o.Code == op.Watch, o.Flags))
	}
	return answer(op.Invalid)
}

// leave ends everything a session has: its locks, messages, waits, watches and events.
func (c *coordination) leave(index uint64, s *session) {
	c.Lock()
	defer c.Unlock()
	for len(s.watches) > 0 {
		c.unwatch(s, s.watches[0])
	}
	c.acknowledge(s, s.lastEvent)
	for _, name := range sortedKeys(c.locks) {
		c.locks[name].leave(c, index, s.id)
	}
	for _, name := range sortedKeys(c.queues) {
		c.queues[name].leave(c, s.id)
	}
	c.woken = slices.DeleteFunc(c.woken, func(id uint64) bool { return id == s.id })
}

func sortedKeys[T any](m map[string]T) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// lockCoordination is for queries, which come from any goroutine, also while a snapshot is being restored.
func (m *Machine) lockCoordination() (unlock func()) {
	m.mu.RLock()
	c := m.coord
	c.Lock()
	return func() { c.Unlock(); m.mu.RUnlock() }
}

package state

import (
	"cmp"
	"math/bits"
	"slices"

	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
)

// SessionInfo is what the cell knows of a client's session.
type SessionInfo struct {
	ID    uint64
	Epoch uint32 // how often it was opened
	Acked uint64 // every number below it is answered and forgotten
	Last  uint64 // the highest number that was executed; Acked-1 if none from there on was
}

// Sessions lists the sessions in the order of their numbers. It belongs to the goroutine that applies.
func (m *Machine) Sessions() []SessionInfo {
	list := make([]SessionInfo, 0, len(m.sessions.byID))
	for _, s := range m.sessions.byID {
		list = append(list, SessionInfo{ID: s.id, Epoch: s.epoch, Acked: s.acked, Last: s.last()})
	}
	slices.SortFunc(list, func(a, b SessionInfo) int { return cmp.Compare(a.ID, b.ID) })
	return list
}

// last is the highest number executed.
func (s *session) last() uint64 {
	window := uint64(len(s.done) * 64)
	last := s.acked - 1
	for word, done := range s.done {
		for ; done != 0; done &= done - 1 {
			// The number in the window whose place this bit is.
			place := uint64(word*64 + bits.TrailingZeros64(done))
			last = max(last, s.acked+(place-s.acked%window+window)%window)
		}
	}
	return last
}

// Party is who holds, waits for or reserves something: one of the handles of a session.
type Party struct {
	Session, Handle uint64
	Write           bool // of a lock
}

// LockInfo is a lock that is held, or watched by somebody.
type LockInfo struct {
	Name             string
	Version          uint64 // 0: nobody holds it
	Holders, Waiters []Party
	Watchers         []uint64 // sessions
}

// MessageInfo is a message in a queue.
type MessageInfo struct {
	Number uint64 // of the entry that posted it
	Bytes  int
	Taken  Party // who has reserved it; session 0: nobody
}

// QueueInfo is a queue that has messages or readers, or is watched by somebody.
type QueueInfo struct {
	Name     string
	Messages []MessageInfo
	Waiters  []Party
	Watchers []uint64 // sessions
}

// PathInfo is a folder that is watched, or a file that ends with a session.
type PathInfo struct {
	Path     string
	Owner    uint64   // session; 0 for what is only watched
	Watchers []uint64 // sessions
}

// Locks lists the locks in order of their names.
func (m *Machine) Locks() []LockInfo {
	defer m.lockCoordination()()
	var list []LockInfo
	for _, name := range m.coord.names(op.EventLock, sortedKeys(m.coord.locks)) {
		i := LockInfo{Name: name, Watchers: m.coord.watching(op.EventLock, name)}
		if l := m.coord.locks[name]; l != nil {
			i.Version, i.Holders, i.Waiters = l.version, parties(l.holders), parties(l.waiters)
		}
		list = append(list, i)
	}
	return list
}

func parties(holders []holder) []Party {
	list := make([]Party, len(holders))
	for i, h := range holders {
		list[i] = Party{h.session, h.handle, h.write}
	}
	return list
}

// Queues lists the queues in order of their names.
func (m *Machine) Queues() []QueueInfo {
	defer m.lockCoordination()()
	var list []QueueInfo
	for _, name := range m.coord.names(op.EventQueue, sortedKeys(m.coord.queues)) {
		i := QueueInfo{Name: name, Watchers: m.coord.watching(op.EventQueue, name)}
		if q := m.coord.queues[name]; q != nil {
			for _, g := range q.messages {
				i.Messages = append(i.Messages, MessageInfo{g.number, len(g.data), Party{g.taken.session, g.taken.handle, false}})
			}
			for _, by := range q.waiters {
				i.Waiters = append(i.Waiters, Party{by.session, by.handle, false})
			}
		}
		list = append(list, i)
	}
	return list
}

// Paths lists watched folders and the files that end with a session, in order of their paths.
func (m *Machine) Paths() []PathInfo {
	defer m.lockCoordination()()
	owners := map[string]uint64{}
	for _, n := range m.tree.objects {
		if n.owner != 0 {
			owners[n.path()] = n.owner
		}
	}
	var list []PathInfo
	for _, path := range m.coord.names(op.EventDir, sortedKeys(owners)) {
		list = append(list, PathInfo{path, owners[path], m.coord.watching(op.EventDir, path)})
	}
	return list
}

// names adds what is watched to names, which are in order, as the result is.
func (c *coordination) names(kind op.EventKind, names []string) []string {
	for w := range c.watchers {
		if w.kind == kind {
			names = append(names, w.name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// watching is the sessions that watch something.
func (c *coordination) watching(kind op.EventKind, name string) []uint64 {
	var ids []uint64
	for _, s := range c.watchers[watch{kind, name}] {
		ids = append(ids, s.id)
	}
	return ids
}

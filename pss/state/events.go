package state

import (
	"cmp"
	"slices"
	"strings"

	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
)

// canonical is the name that events of a folder carry: its path with a slash before each name.
func canonical(w watch) (watch, bool) {
	if w.kind != op.EventDir {
		return w, true
	}
	names, ok := split(w.name)
	w.name = "/" + strings.Join(names, "/")
	return w, ok
}

// watch begins or ends a watch. Beginning one that is there already is success, as is ending one that is not.
// What is watched need not be there yet.
func (c *coordination) watch(s *session, w watch, begin bool, flags uint16) op.Errno {
	w, ok := canonical(w)
	if !ok || flags < uint16(op.EventDir) || flags > uint16(op.EventQueue) {
		return op.Invalid
	}
	at := slices.Index(s.watches, w)
	switch {
	case begin && at >= 0 || !begin && at < 0:
		return op.OK
	case !begin:
		c.unwatch(s, w)
		return op.OK
	case len(s.watches) >= MaxWatches || !c.room(watchBytes+len(w.name)):
		return op.TooMany
	}
	c.bytes += watchBytes + len(w.name)
	s.watches = append(s.watches, w)
	c.watches(s, w)
	return op.OK
}

// watches enters a session among those who watch.
func (c *coordination) watches(s *session, w watch) {
	list := c.watchers[w]
	i, _ := slices.BinarySearchFunc(list, s.id, func(a *session, id uint64) int { return cmp.Compare(a.id, id) })
	c.watchers[w] = slices.Insert(list, i, s)
}

func (c *coordination) unwatch(s *session, w watch) {
	s.watches = slices.DeleteFunc(s.watches, func(x watch) bool { return x == w })
	c.bytes -= watchBytes + len(w.name)
	list := slices.DeleteFunc(c.watchers[w], func(x *session) bool { return x == s })
	if c.watchers[w] = list; len(list) == 0 {
		delete(c.watchers, w)
	}
}

// emit puts an event into the buffer of a session that watches, or counts it as omitted.
func (c *coordination) emit(s *session, e op.Event) {
	s.lastEvent++
	e.Number = s.lastEvent
	if len(s.events) >= MaxEvents || !c.room(e.Size()) {
		s.omitted++
		return
	}
	c.bytes += e.Size()
	s.events = append(s.events, e)
	c.wake(s.id)
}

// acknowledge forgets the events up to a number.
func (c *coordination) acknowledge(s *session, number uint64) {
	n := 0
	for n < len(s.events) && s.events[n].Number <= number {
		c.bytes -= s.events[n].Size()
		n++
	}
	if s.events = slices.Delete(s.events, 0, n); len(s.events) == 0 {
		s.events = nil
	}
}

// dirEvent tells those who watch a folder that an entry of it has changed.
func (m *Machine) dirEvent(index uint64, dir *node, mode uint8, entry string) {
	if c := m.coord; len(c.watchers) > 0 {
		c.Lock()
		defer c.Unlock()
		w := watch{op.EventDir, dir.path()}
		for _, s := range c.watchers[w] {
			c.emit(s, op.Event{Source: index, Kind: w.kind, Mode: mode, Name: w.name, Entry: entry})
		}
	}
}

// updated tells those who watch the folder of a file that its data has changed. The data of volumes has no
// events: it is written all the time.
func (m *Machine) updated(index uint64, n *node) {
	if n.kind == op.KindFile {
		m.dirEvent(index, n.parent, op.EventUpdated, n.name)
	}
}

// lockEvent tells those who watch a lock that somebody waits for it; those who hold it, to give it back.
func (c *coordination) lockEvent(index uint64, l *lock) {
	for _, s := range c.watchers[watch{op.EventLock, l.name}] {
		e := op.Event{Source: index, Kind: op.EventLock, Mode: op.EventWaits, Name: l.name}
		if slices.ContainsFunc(l.holders, func(h holder) bool { return h.session == s.id }) {
			e.Mode = op.EventRecall
		}
		c.emit(s, e)
	}
}

func (c *coordination) queueEvent(index uint64, name string, mode uint8) {
	for _, s := range c.watchers[watch{op.EventQueue, name}] {
		c.emit(s, op.Event{Source: index, Kind: op.EventQueue, Mode: mode, Name: name})
	}
}

// queryEvents answers an EventGet: as many of the session's oldest events as an answer has room for.
func (m *Machine) queryEvents(q op.Query) op.Answer {
	defer m.lockCoordination()()
	s := m.sessions.byID[q.Object]
	if s == nil {
		return op.Answer{Errno: op.NoSession}
	}
	a := op.Answer{Version: s.omitted + 1}
	for i := range s.events {
		if len(a.Value)+s.events[i].Size() > op.MaxAttr {
			a.More = true
			break
		}
		a.Value = op.AppendEvent(a.Value, &s.events[i])
	}
	return a
}

// path is the path of a node, with a slash before each name; "/" for the root.
func (n *node) path() string {
	if n.parent == nil {
		return "/"
	}
	var names []string
	for ; n.parent != nil; n = n.parent {
		names = append(names, n.name)
	}
	slices.Reverse(names)
	return "/" + strings.Join(names, "/")
}

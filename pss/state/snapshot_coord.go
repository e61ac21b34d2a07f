package state

import (
	"encoding/binary"
	"math"
	"slices"

	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
)

// appendEvents appends what a session has beside its results.
func (s *session) appendEvents(b []byte) []byte {
	le := binary.LittleEndian
	b = le.AppendUint32(b, s.lease)
	b = le.AppendUint64(b, s.lastEvent)
	b = le.AppendUint64(b, s.omitted)
	b = le.AppendUint16(b, uint16(len(s.watches)))
	b = le.AppendUint16(b, uint16(len(s.events)))
	for _, w := range s.watches {
		b = op.AppendString(append(b, byte(w.kind)), w.name)
	}
	for i := range s.events {
		b = op.AppendEvent(b, &s.events[i])
	}
	return b
}

// decodeEvents reads what appendEvents wrote. Sessions of version 1 get the default lease.
func (s *session) decodeEvents(d *decoder, c *coordination) error {
	if s.lease = DefaultLease; d.version == oldVersion {
		return nil
	}
	s.lease, s.lastEvent, s.omitted = d.u32(), d.u64(), d.u64()
	watches, events := int(d.u16()), int(d.u16())
	if d.failed || s.lease < MinLease || s.lease > MaxLease || watches > MaxWatches || events > MaxEvents || s.omitted == math.MaxUint64 {
		return d.refuse("session %d with a lease of %d ms, %d watches, %d events", s.id, s.lease, watches, events)
	}
	for range watches {
		w := watch{op.EventKind(d.u8()), d.name()}
		same, ok := canonical(w)
		if d.failed || w.kind < op.EventDir || w.kind > op.EventQueue || !ok || same != w || slices.Contains(s.watches, w) {
			return d.refuse("session %d watches %q, kind %d", s.id, w.name, w.kind)
		}
		s.watches = append(s.watches, w)
		c.bytes += watchBytes + len(w.name)
		c.watches(s, w)
	}
	last := uint64(0)
	for range events {
		e, rest, err := op.ParseEvent(d.b)
		if err != nil {
			return d.refuse("session %d: %w", s.id, err)
		}
		if e.Number <= last || e.Number > s.lastEvent {
			return d.refuse("session %d has event %d after %d, and %d were the last", s.id, e.Number, last, s.lastEvent)
		}
		d.b, last = rest, e.Number
		c.bytes += e.Size()
		s.events = append(s.events, e)
	}
	return nil
}

// adopt gives ephemeral files to their sessions.
func (m *Machine) adopt(d *decoder) error {
	for object, n := range m.tree.objects {
		if n.owner == 0 {
			continue
		}
		s := m.sessions.byID[n.owner]
		if s == nil || len(s.owned) >= MaxEphemeral {
			return d.refuse("file %q ends with session %d, which is not there or has too many", n.name, n.owner)
		}
		s.owned = append(s.owned, object)
	}
	for _, s := range m.sessions.byID {
		slices.Sort(s.owned)
	}
	return nil
}

func (c *coordination) append(b []byte) []byte {
	le := binary.LittleEndian
	b = le.AppendUint32(b, uint32(len(c.locks)))
	for _, name := range sortedKeys(c.locks) {
		l := c.locks[name]
		b = op.AppendString(b, name)
		b = append(le.AppendUint64(b, l.version), 0)
		b = le.AppendUint16(b, uint16(len(l.holders)))
		b = le.AppendUint16(b, uint16(len(l.waiters)))
		for _, list := range [][]holder{l.holders, l.waiters} {
			for _, h := range list {
				b = append(appendOwner(b, h.owner), 0)
				if h.write {
					b[len(b)-1] = 1
				}
			}
		}
	}
	b = le.AppendUint32(b, uint32(len(c.queues)))
	for _, name := range sortedKeys(c.queues) {
		q := c.queues[name]
		b = op.AppendString(b, name)
		b = le.AppendUint16(b, uint16(len(q.messages)))
		b = le.AppendUint16(b, uint16(len(q.waiters)))
		for _, g := range q.messages {
			b = appendOwner(le.AppendUint64(b, g.number), g.taken)
			b = append(le.AppendUint32(b, uint32(len(g.data))), g.data...)
		}
		for _, by := range q.waiters {
			b = appendOwner(b, by)
		}
	}
	return b
}

func appendOwner(b []byte, by owner) []byte {
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(b, by.session), by.handle)
}

func (d *decoder) owner() owner { return owner{d.u64(), d.u64()} }

// name takes a name with its size off.
func (d *decoder) name() string { return string(d.take(int(d.u16()))) }

// validTag says whether a lock or queue may have the name.
func validTag(name string) bool {
	return name != "" && len(name) <= op.MaxPath && !slices.Contains([]byte(name), 0)
}

func (c *coordination) decode(d *decoder, t *sessions) error {
	last := ""
	for range d.u32() {
		l := &lock{name: d.name(), version: d.u64()}
		zero, holders, waiters := d.u8(), int(d.u16()), int(d.u16())
		if d.failed || zero != 0 || !validTag(l.name) || l.name <= last || holders == 0 || holders+waiters > MaxWaiters {
			return d.refuse("lock %q after %q with %d holders, %d waiters", l.name, last, holders, waiters)
		}
		for i := range holders + waiters {
			h := holder{owner: d.owner()}
			kind := d.u8()
			h.write = kind == 1
			if d.failed || kind > 1 || t.byID[h.session] == nil || l.find(l.holders, h.owner) >= 0 || l.find(l.waiters, h.owner) >= 0 {
				return d.refuse("lock %q: session %d, kind %d", l.name, h.session, kind)
			}
			switch {
			case i < holders && !l.compatible(h), i == holders && l.compatible(h):
				return d.refuse("lock %q: session %d has no place in it", l.name, h.session)
			case i < holders:
				l.holders = append(l.holders, h)
			default:
				l.waiters = append(l.waiters, h)
			}
		}
		c.locks[l.name], last = l, l.name
		c.bytes += lockBytes + len(l.name) + (holders+waiters)*holderBytes
	}
	if err := c.decodeQueues(d, t); err != nil {
		return err
	}
	if c.bytes > MaxCoordination {
		return d.refuse("%d bytes of locks, queues, watches and events", c.bytes)
	}
	return nil
}

func (c *coordination) decodeQueues(d *decoder, t *sessions) error {
	last := ""
	for range d.u32() {
		q := &queue{name: d.name()}
		messages, waiters := int(d.u16()), int(d.u16())
		if d.failed || !validTag(q.name) || q.name <= last || messages > MaxMessages || waiters > MaxWaiters || messages+waiters == 0 {
			return d.refuse("queue %q after %q with %d messages, %d waiters", q.name, last, messages, waiters)
		}
		number := uint64(0)
		for range messages {
			g := message{number: d.u64(), taken: d.owner()}
			size := d.u32()
			if size > op.MaxAttr || int(size) > len(d.b) {
				return d.refuse("queue %q: a message of %d bytes", q.name, size)
			}
			g.data = slices.Clone(d.take(int(size)))
			free := g.taken == owner{}
			switch {
			case d.failed || g.number <= number || free && waiters > 0, !free && (t.byID[g.taken.session] == nil || q.taken(g.taken) >= 0):
				return d.refuse("queue %q: message %d after %d, taken by session %d", q.name, g.number, number, g.taken.session)
			}
			q.messages, number = append(q.messages, g), g.number
			c.bytes += g.bytes()
		}
		for range waiters {
			by := d.owner()
			if d.failed || t.byID[by.session] == nil || q.taken(by) >= 0 || slices.Contains(q.waiters, by) {
				return d.refuse("queue %q: session %d waits", q.name, by.session)
			}
			q.waiters = append(q.waiters, by)
		}
		c.queues[q.name], last = q, q.name
		c.bytes += queueBytes + len(q.name) + waiters*ownerBytes
	}
	return nil
}

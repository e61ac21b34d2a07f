package state

import (
	"fmt"
	"slices"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
)

// A session ends when its client closes it, or when the master has not heard of the client for the session's
// lease. Time is the master's alone: it proposes a SessionExpire, and by that entry all servers agree. The
// entry names the session's epoch, so that one whose client came back before it was agreed on lives on. With a
// session go its ephemeral files, locks, messages it has reserved, watches and events; its number is
// remembered among the closed ones.

// Lease is how long a session may show no sign of life.
type Lease struct {
	Session uint64
	Epoch   uint32
	For     time.Duration
}

// Leases appends those of all sessions to dst, in no order. It belongs to the goroutine that applies.
func (m *Machine) Leases(dst []Lease) []Lease {
	for _, s := range m.sessions.byID {
		dst = append(dst, Lease{s.id, s.epoch, time.Duration(s.lease) * time.Millisecond})
	}
	return dst
}

// sessionOpen makes a session or raises its epoch.
func (m *Machine) sessionOpen(o *op.Op) op.Errno {
	m.coord.Lock()
	defer m.coord.Unlock()
	return m.sessions.open(o)
}

// sessionClose ends a session for its client.
func (m *Machine) sessionClose(index uint64, o *op.Op) (op.Result, error) {
	s := m.sessions.byID[o.Session]
	switch {
	case s == nil:
		return answer(op.NoSession)
	case o.Epoch != s.epoch:
		return answer(op.StaleEpoch)
	}
	if err := m.end(index, s, o.Stamp); err != nil {
		return op.Result{}, err
	}
	return answer(op.OK)
}

// sessionExpire ends sessions whose leases are over; Value is how many.
func (m *Machine) sessionExpire(index uint64, o *op.Op) (op.Result, error) {
	list, err := o.Expiries()
	if err != nil {
		return answer(op.Invalid)
	}
	r := op.Result{}
	for _, e := range list {
		s := m.sessions.byID[e.Session]
		if s == nil || s.epoch != e.Epoch {
			continue
		}
		if err := m.end(index, s, o.Stamp); err != nil {
			return op.Result{}, err
		}
		r.Value++
	}
	return r, nil
}

// end ends a session. It is the one change that takes the store several steps: after an error the files that
// are gone are gone from the tree and from the session too, and applying the entry again does the rest.
func (m *Machine) end(index uint64, s *session, stamp uint64) error {
	for len(s.owned) > 0 {
		n := m.tree.objects[s.owned[0]]
		if _, err := m.remove(index, n, stamp); err != nil {
			return fmt.Errorf("ephemeral file %q: %w", n.name, err)
		}
	}
	m.coord.leave(index, s)
	m.coord.Lock()
	defer m.coord.Unlock()
	m.sessions.end(s.id)
	return nil
}

// disown takes an object that is going to be deleted from the session it would have ended with.
func (m *Machine) disown(n *node) {
	s := m.sessions.byID[n.owner]
	if s == nil {
		return
	}
	if i := slices.Index(s.owned, n.object); i >= 0 {
		s.owned = slices.Delete(s.owned, i, i+1)
	}
}

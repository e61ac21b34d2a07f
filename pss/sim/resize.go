package sim

import (
	"errors"
	"slices"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
)

// Limits of Resize.
const (
	mostReplicas = 2           // that there may be
	pressFor     = time.Second // the operator waits for an answer at most
	operatorLo   = 50 * time.Millisecond
	operatorHi   = 600 * time.Millisecond // the operator looks again after so long
)

// spares makes the servers that the cell may grow by. They are off, and in nobody's server.conf.
func (w *world) spares() {
	if !w.o.Faults.Has(Resize) {
		return
	}
	for len(w.servers) < cell.CoreIDs+mostReplicas {
		w.servers = append(w.servers, nil)
	}
	for i, s := range w.servers {
		if s == nil {
			w.servers[i] = newServer(w, cell.ID(i))
			w.servers[i].spare = true
		}
	}
}

// anyCore is one of the core servers that there are.
func (w *world) anyCore() *server {
	var cores []*server
	for _, s := range w.all() {
		if s.id.Core() {
			cores = append(cores, s)
		}
	}
	return cores[w.rng.IntN(len(cores))]
}

// resizeTrouble has the operator take a server in that has no place, take one out for good, or take a server's vote for a
// while.
func (w *world) resizeTrouble() {
	if w.master() == nil {
		return // the cell is not founded, or nobody is there to be asked
	}
	w.founded = true
	s := w.servers[w.rng.IntN(len(w.servers))]
	switch {
	case s.spare:
		w.takeIn(s)
	case s.wound.open:
	case s.id.Core() && w.chance(3):
		w.takeVote(s)
	case !s.id.Core() || w.mayLose(s):
		w.takeOut(s)
	}
}

// mayLose says whether the cell has a core server to spare. That it goes on without this one is for the master to see
// to. What it can't see is that a disk rots.
func (w *world) mayLose(s *server) bool {
	base := 0
	for _, t := range w.all() {
		if !t.id.Core() || t.wound.apart {
			continue
		}
		base++
		if t != s && t.wound.open && t.wound.rot {
			return false
		}
	}
	return base > cell.MinCore || w.o.Flaw == RemoveBlindly
}

// takeIn has a server come that had no place: with an empty disk, or with what it had when it was taken out.
func (w *world) takeIn(s *server) {
	w.count(serverAdded, s)
	if w.chance(2) {
		s.renew()
	}
	s.spare, s.leaves = false, false
	s.wound = wound{open: true, apart: true}
	s.boot()
	w.arrange(s)
}

// takeOut has the operator take a server out for good.
func (w *world) takeOut(s *server) {
	s.leaves = true // so the wound stays open until it is off, or stays
	s.wound = wound{open: true, apart: true}
	w.tracef("server %d is to leave", s.id)
	w.arrange(s)
}

// takeVote has a core server's vote taken, if the master does it, and given back later.
func (w *world) takeVote(s *server) {
	m := w.master()
	if w.now < m.resumes || !w.mayLose(s) {
		return
	}
	s.wound = wound{open: true, apart: true} // while it is decided, too
	w.press(m, s, admin.MethodDemote, func(err error) {
		if err == nil {
			w.count(voteTaken, s)
		}
	})
	w.arrange(s)
}

// arrange has the operator see to it, again and again, that a server has the place that it is to have.
func (w *world) arrange(s *server) {
	w.after(w.between(operatorLo, operatorHi), func() {
		if s.spare || !s.wound.apart {
			return
		}
		if m := w.master(); m != nil && w.now >= m.resumes {
			w.place(m, s)
		}
		w.arrange(s)
	})
}

// place has the master do the next step on the way of a server in or out, and no step if there is nothing left but to
// wait.
func (w *world) place(m, s *server) {
	t := m.core.Table()
	switch r := t.Find(s.id); {
	case s.leaves && r.Removed:
		if m.core.Changing() == "" {
			s.switchOff()
		}
	case s.leaves && m == s:
		m.core.HandOver(w.anyCore().id)
		m.later(0, func() { m.pump(nil) })
	case s.leaves:
		w.press(m, s, admin.MethodRemove, func(err error) {
			if isRefused(err) && !s.spare {
				s.leaves = false // the cell needs it; if an earlier master took it out all the same, it comes back
			}
		})
	case r.Removed || r.Number == 0 && r.Host == "":
		w.press(m, s, admin.MethodAdd, later)
	case s.id.Core() && r.Number != 0 && !r.Vote:
		w.press(m, s, admin.MethodPromote, later)
	}
}

// edition is a change of members that the operator asks a master for.
type edition struct {
	m, s         *server
	method       string
	since, until time.Duration // when it was asked for, by the master's clock, and when the operator gives up
	then         func(error)
}

// press has the operator ask a master for a change, as replica's beginEdit does: a refusal counts when the others had the
// time of an election to answer what was sent after the request came. then is told what came of it, if the master lives.
func (w *world) press(m, s *server, method string, then func(error)) {
	if w.now < s.pressed {
		return // the operator waits for an answer about this server
	}
	s.pressed = w.now + pressFor
	e := &edition{m: m, s: s, method: method, since: m.clock(), until: s.pressed, then: then}
	if w.o.Flaw == RemoveBlindly {
		e.since = 0
	}
	w.try(e, simTiming.Election)
}

func (w *world) try(e *edition, left int) {
	m, s := e.m, e.s
	m.later(0, func() {
		if w.now >= e.until {
			return // the operator has given up
		}
		_, err := m.core.EditMembers(e.method, s.id, admin.AddArgs{Host: "host"}, e.since)
		if isRefused(err) && left > 1 && m.core.View().Self {
			m.later(simTiming.Tick, func() { w.try(e, left-1) })
			return
		}
		w.tracef("server %d: %s of %d: %v", m.id, e.method, s.id, err)
		s.pressed, s.wound.target = 0, 0 // whole again it is after what was accepted now
		e.then(err)
		m.pump(nil)
	})
}

// isRefused says that a master does not do what the operator wants, for the cell's good.
func isRefused(err error) bool {
	var refused *admin.Error
	return errors.As(err, &refused) && refused.Code == admin.Refused
}

// later is nothing: the operator looks again.
func later(error) {}

// switchOff ends a server that is no member any more.
func (s *server) switchOff() {
	s.w.count(serverRemoved, s)
	s.crash(s.w.chance(2))
	s.spare, s.wound, s.full, s.hangs, s.mute = true, wound{}, false, 0, 0
	s.disk.SetCapacity(0)
}

// shaped says whether the members are those that the operator wants.
func (w *world) shaped() bool {
	m := w.master()
	if !w.o.Faults.Has(Resize) || m == nil {
		return m != nil
	}
	cores, others := 0, 0
	ms := m.core.Node().Members()
	for _, s := range w.all() {
		number, has := s.core.Node().Self(), ms.Learners
		if s.id.Core() {
			has = ms.Voters
			cores++
		} else {
			others++
		}
		if !slices.Contains(has, number) {
			return false
		}
	}
	return len(ms.VotersOutgoing) == 0 && len(ms.Voters) == cores && len(ms.Learners) == others
}

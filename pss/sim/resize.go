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
	mostReplicas = 2 // that there may be
	operatorLo   = 50 * time.Millisecond
	operatorHi   = 600 * time.Millisecond // the operator looks again after so long
	pressWithin  = 300 * time.Millisecond // who was heard of since counts as up, as replica's beginEdit comes to it
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
	if w.now < m.resumes || !w.mayLose(s) || w.press(m, s, admin.MethodDemote) != nil {
		return
	}
	w.count(voteTaken, s)
	s.wound = wound{open: true, apart: true}
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
		var refused *admin.Error
		if err := w.press(m, s, admin.MethodRemove); errors.As(err, &refused) && refused.Code == admin.Refused {
			// The cell needs it. An earlier master may have taken it out all the same: then it comes back.
			s.leaves = false
		}
	case r.Removed || r.Number == 0 && r.Host == "":
		_ = w.press(m, s, admin.MethodAdd) // traced; the next look tries again
	case s.id.Core() && r.Number != 0 && !r.Vote:
		_ = w.press(m, s, admin.MethodPromote) // the same
	}
}

// press has the operator ask a master for a change.
func (w *world) press(m, s *server, method string) error {
	since := m.clock() - pressWithin
	if w.o.Flaw == RemoveBlindly {
		since = 0
	}
	at := admin.AddArgs{Host: "host"}
	_, err := m.core.EditMembers(method, s.id, at, since)
	w.tracef("server %d: %s of %d: %v", m.id, method, s.id, err)
	m.later(0, func() { m.pump(nil) })
	return err
}

// switchOff ends a server that is no member any more.
func (s *server) switchOff() {
	s.w.count(serverRemoved, s)
	s.crash(s.w.chance(2))
	s.spare, s.wound, s.full, s.hangs = true, wound{}, false, 0
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

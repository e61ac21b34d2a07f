package sim

import (
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pss/agreement"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
	"github.com/paxos-iscsi/paxos-iscsi/pss/replica"
	"github.com/paxos-iscsi/paxos-iscsi/pss/wire"
)

// wound is that a server's disk does not have, or may not have, what the server promised.
//
// The cell bears a minority of wounds. A wound is open until the server is a member that votes (a replica: that
// learns) with the state that the master had at some time after the wound: then nothing that was ever agreed on hangs
// on it any more, and another server may be wounded.
type wound struct {
	open   bool
	rot    bool   // nothing but the bytes on its disk is in doubt: it is and remains a member
	dirty  bool   // its disk was not found clean yet
	back   bool   // an older state of its root was put back, and nobody has told it yet
	apart  bool   // its disk is whole: the operator gives it a place or takes it, and nobody counts on its vote meanwhile
	target uint64 // entries the server has to have applied; 0 until it is a member again
}

// mayWound says whether the cell promises to bear it if a server's disk is lost now.
func (w *world) mayWound(s *server) bool {
	if s.wound.apart {
		return false
	}
	if s.wound.open || !s.id.Core() {
		return true
	}
	n, base := 0, 0
	for _, t := range w.all() {
		if !t.id.Core() || t.wound.apart {
			continue
		}
		base++
		if t.wound.open {
			n++
		}
	}
	return n < (base-1)/2 || w.o.Flaw == LoseMajority
}

func (s *server) hurt() {
	s.wound = wound{open: true, dirty: s.wound.dirty, back: s.wound.back, apart: s.wound.apart}
}

// tend closes wounds.
func (w *world) tend() {
	w.after(50*time.Millisecond, func() {
		if m := w.master(); m != nil {
			for _, s := range w.all() {
				if s.wound.open && s.up {
					s.heal(m)
				}
			}
		}
		w.tend()
	})
}

// master is the server that takes itself for the master in the highest term, or nil.
func (w *world) master() (m *server) {
	for _, s := range w.all() {
		if s.up && s.core.View().Self && (m == nil || s.core.View().Term > m.core.View().Term) {
			m = s
		}
	}
	return m
}

func (s *server) heal(m *server) {
	ms, number := m.core.Node().Members(), s.core.Node().Self()
	has := ms.Voters
	if !s.id.Core() {
		has = ms.Learners
	}
	switch {
	case s.wound.rot || s.wound.dirty || s.leaves:
	case s.wound.back:
		s.unnoticed()
	case s.w.now < s.pressed: // a master may be about to take its vote: then it has to be given back
	case !s.core.Belongs() || len(ms.VotersOutgoing) > 0 || !slices.Contains(has, number):
	case s.wound.target == 0:
		// Who acknowledges a later entry has on its disk that the change before it was agreed on.
		s.wound.target = m.core.Node().Position().Last + 1
		if s.w.calm {
			s.wound.target--
		}
	case min(s.core.Applied(), m.core.Applied()) >= s.wound.target:
		s.w.tracef("server %d is whole again", s.id)
		s.wound = wound{}
	}
}

// memberTrouble has something happen to a server's place in the cell.
func (w *world) memberTrouble() {
	all := w.all()
	s := all[w.rng.IntN(len(all))]
	switch w.rng.IntN(6) {
	case 0, 1, 2:
		if w.mayWound(s) {
			s.wipe()
		}
	case 3, 4:
		w.edit(s)
	case 5:
		if w.mayWound(s) && !s.lost {
			w.replace(s)
		}
	}
}

// replace has a server be lost for good, disk and all, and the operator free its place for the new one that comes.
func (w *world) replace(s *server) {
	s.hurt()
	s.crash(true)
	s.renew()
	s.wound.dirty, s.lost = false, true
	w.tracef("server %d is lost for good", s.id)
	w.succeed(s)
}

// succeed has the operator free the place of a server that is lost, again and again, and then start the new one. In the
// second phase it is started at once: the master sees to the rest.
func (w *world) succeed(s *server) {
	w.after(w.between(operatorLo, operatorHi), func() {
		m := w.master()
		switch {
		case w.calm || m != nil && m.vacant(s.id):
			s.lost = false
			s.boot()
			return
		case m != nil && w.now >= m.resumes:
			w.press(m, s, admin.MethodReplace, func(err error) {
				if err == nil {
					w.count(serverReplaced, s)
				}
			})
		}
		w.succeed(s)
	})
}

// wipe has a server come back without its disk.
func (s *server) wipe() {
	w := s.w
	w.count(diskWiped, s)
	s.hurt()
	if s.up {
		w.kill(s, true)
	}
	s.renew()
	s.wound.dirty = false
}

// renew gives a server an empty disk.
func (s *server) renew() {
	s.insert(disk.NewMem())
	s.copied, s.kept, s.wound.back = nil, nil, false
}

// insert gives a server another disk.
func (s *server) insert(d *disk.Mem) {
	s.disk, s.old, s.full = d, nil, false
	if s.w.o.Faults.Has(Hang) {
		s.disk.SetHook(s.watchReads)
	}
}

// edit has the operator change a server's place. What the master refuses, because the cell could lose its majority or
// because it has another change under way, is not done.
func (w *world) edit(s *server) {
	m := w.master()
	if m == nil || w.now < m.resumes {
		return
	}
	at := admin.AddArgs{Host: "elsewhere", UDPPort: 1 + w.rng.IntN(60000), TCPPort: 1 + w.rng.IntN(60000)}
	methods := []string{admin.MethodMove, admin.MethodAdd, admin.MethodPromote}
	if w.mayWound(s) {
		methods = append(methods, admin.MethodReplace, admin.MethodRemove)
	}
	method := methods[w.rng.IntN(len(methods))]
	_, err := m.core.EditMembers(method, s.id, at, m.clock()-300*time.Millisecond)
	w.tracef("server %d: %s of %d: %v", m.id, method, s.id, err)
	if err == nil && (method == admin.MethodReplace || method == admin.MethodRemove) {
		w.count(serverReplaced, s)
		s.hurt()
		if method == admin.MethodRemove {
			w.readd(s)
		}
	}
	m.later(0, func() { m.pump(nil) })
}

// readd has the operator let a removed server in again, some time later and until it works.
func (w *world) readd(s *server) {
	w.after(w.between(50*time.Millisecond, time.Second), func() {
		m := w.master()
		if m == nil || w.now < m.resumes {
			w.readd(s)
			return
		}
		t := m.core.Table()
		r := t.Find(s.id)
		if !r.Removed {
			if s.wound.open { // the removal is not through yet, even if there is nobody to be removed, or was lost
				w.readd(s)
			}
			return
		}
		at := admin.AddArgs{Host: "here", UDPPort: 1, TCPPort: 1}
		_, err := m.core.EditMembers(admin.MethodAdd, s.id, at, m.clock())
		w.tracef("server %d: adds %d again: %v", m.id, s.id, err)
		m.later(0, func() { m.pump(nil) })
		w.readd(s)
	})
}

// ended is a server that an error ended: it is an oracle's, or one that the cell's rules foresee.
func (s *server) ended(err error) {
	var heal *replica.HealError
	switch {
	case !s.up || errors.Is(err, disk.ErrCrashed):
	case errors.Is(err, errMedium), s.w.o.Faults.Has(Errors) && !s.wound.open && errors.Is(err, replica.ErrGoneEverywhere):
		s.failed(err) // a block that can't be read counts as damaged, until the disk works again
	case s.damaged(err) && !errors.As(err, &heal):
		s.w.tracef("server %d ends: %v", s.id, err)
		s.w.kill(s, s.w.chance(2))
	case !s.w.o.Faults.Has(Members) || !s.wound.open:
		s.w.fail("server %d: %w", s.id, err)
	case errors.Is(err, replica.ErrRetired) && s.leaves:
		s.w.tracef("server %d ends: %v", s.id, err)
		s.w.kill(s, s.w.chance(2))
	case s.wound.apart && !errors.Is(err, replica.ErrRetired):
		s.w.fail("server %d: %w", s.id, err)
	case errors.Is(err, replica.ErrRetired) || replica.LostLog(err) || errors.As(err, &heal):
		s.w.tracef("server %d ends: %v", s.id, err)
		s.w.kill(s, s.w.chance(2))
		s.giveUp()
	default:
		s.w.fail("server %d: %w", s.id, err)
	}
}

// giveUp makes the server's root one that belongs to no member: it joins anew with what it has.
func (s *server) giveUp() {
	s.w.count(placeGivenUp, s)
	s.hurt()
	s.wound.back = false
	s.disk.SetCapacity(0)
	if err := replica.GiveUpRoot(s.disk, s.id, wire.CellID{}, s.w.bits()); err != nil {
		s.w.fail("server %d gives its place up: %w", s.id, err)
	}
}

// conf is a server's server.conf. Until the cell is founded it lists the founders.
func (w *world) conf(self *server) []cell.Server {
	if len(self.listed) > 0 && !w.founded {
		return self.listed
	}
	var all []cell.Server
	for _, s := range w.all() {
		all = append(all, cell.Server{ID: s.id, Host: "host", UDPPort: 4000 + int(s.id), TCPPort: 4010 + int(s.id)})
	}
	self.listed = all
	return all
}

// keep writes the identity that the server found, now and then with a power cut in the middle.
func (s *server) keep(id replica.Identity) {
	s.cutPower(6)
	err := replica.KeepIdentity(s.disk, &id)
	s.endPowerCut()
	if errors.Is(err, disk.ErrCrashed) {
		s.w.kill(s, true)
		return
	}
	if errors.Is(err, disk.ErrNoSpace) {
		s.later(retryNoSpace, func() { s.keep(id) })
		return
	}
	if err != nil {
		s.ended(err)
		return
	}
	s.w.tracef("server %d is member %d of cell %v", s.id, id.Number, id.Cell)
	s.pump(s.core.IdentityKept(s.clock()))
}

// memorise keeps what other servers have promised.
func (s *server) memorise(ps []agreement.Promise) {
	s.cutPower(6)
	err := s.memory.Keep(s.core.Identity().Cell, ps)
	s.endPowerCut()
	if errors.Is(err, disk.ErrCrashed) {
		s.w.kill(s, true)
		return
	}
	if err != nil && !errors.Is(err, disk.ErrNoSpace) {
		s.ended(err)
	}
	if err == nil {
		s.kept = append(s.kept[:0], ps...)
	}
}

// notify carries an announcement to another server: perhaps late, perhaps twice, perhaps never.
func (w *world) notify(from cell.ID, n replica.Notice) {
	to := w.servers[n.To]
	copies := 1
	if !w.calm && w.chance(20) {
		copies = 2
	}
	for range copies {
		d, ok := w.transit()
		if !ok || w.cut[from][n.To] {
			continue
		}
		w.after(d, func() {
			if !to.up {
				return
			}
			to.later(0, func() { to.pump(to.core.Hear(to.clock(), from, n.Announce, n.Stamp, n.Echo)) })
		})
	}
}

// bits are the run's source of random bytes.
func (w *world) bits() io.Reader { return bits{w.rng} }

type bits struct{ rng *rand.Rand }

// Read implements io.Reader.
func (b bits) Read(p []byte) (int, error) {
	var word [8]byte
	for i := range p {
		if i%8 == 0 {
			binary.LittleEndian.PutUint64(word[:], b.rng.Uint64())
		}
		p[i] = word[i%8]
	}
	return len(p), nil
}

// vacant says that no member has the place of a server, as far as this one knows.
func (s *server) vacant(id cell.ID) bool {
	t := s.core.Table()
	return t.Find(id).Number == 0
}

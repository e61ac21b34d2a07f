package sim

import (
	"fmt"
	"strings"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/check"
)

// Bounds of the second phase, in simulated time.
const (
	answerTime = 30 * time.Second // every client is answered
	levelTime  = 30 * time.Second // every server has applied everything
	checkEvery = 50 * time.Millisecond
	leaseGone  = 5 * time.Second // no lease from before the clocks were right lasts so long
)

// Stats says how much a run did.
type Stats struct {
	Events    int
	Answers   int // operations on sectors that were answered
	Turns     int // operations on shared volumes that were answered
	Grants    int // of locks
	Adopted   int // chunks that became of what a log wrote
	Crashes   int
	CatchUps  int // servers brought up to date past the log
	Masters   int // terms seen at the end
	Simulated time.Duration
	Injected  [faultKinds]int
}

// Add adds another run's.
func (st *Stats) Add(o Stats) {
	st.Events += o.Events
	st.Answers += o.Answers
	st.Turns += o.Turns
	st.Grants += o.Grants
	st.Adopted += o.Adopted
	st.Crashes += o.Crashes
	st.CatchUps += o.CatchUps
	st.Masters = max(st.Masters, o.Masters)
	st.Simulated += o.Simulated
	for i, n := range o.Injected {
		st.Injected[i] += n
	}
}

// Faults lists how often each kind of fault was injected.
func (st *Stats) Faults() string {
	var all []string
	for i, n := range st.Injected {
		all = append(all, fmt.Sprintf("%d %s", n, faultKindNames[i]))
	}
	return strings.Join(all, ", ")
}

// Run simulates a cell. The error says which seed failed, when, and what was wrong.
func Run(o Options) (Stats, error) {
	w := build(o)
	w.trouble()
	w.faults()
	steps := o.Steps
	if o.Faults.Has(Resize) {
		steps *= 2 // founding comes first, and each change takes its time
	}
	for w.steps < steps && w.step() {
	}
	if w.failure == nil {
		w.settle()
	}
	return w.end()
}

// build makes the servers and clients of a run, and starts them.
func build(o Options) *world {
	w := newWorld(o)
	for i := range o.Core {
		w.servers = append(w.servers, newServer(w, cell.ID(i)))
	}
	for i := range o.Replicas {
		// Replicas have ids from 5 on; a smaller cell leaves ids out, and the slice has holes.
		for len(w.servers) < cell.CoreIDs+i {
			w.servers = append(w.servers, nil)
		}
		w.servers = append(w.servers, newServer(w, cell.ID(cell.CoreIDs+i)))
	}
	w.spares()
	for _, s := range w.all() {
		s.boot()
	}
	for i := range o.Clients {
		w.clients = append(w.clients, newClient(w, i))
	}
	w.sharers()
	w.clients[0].think()
	return w
}

// all lists the servers that are in the cell, or are to be.
func (w *world) all() []*server {
	var all []*server
	for _, s := range w.servers {
		if s != nil && !s.spare {
			all = append(all, s)
		}
	}
	return all
}

func (w *world) members() raftpb.ConfState {
	var m raftpb.ConfState
	for _, s := range w.all() {
		if s.id.Core() {
			m.Voters = append(m.Voters, s.id.Raft())
		} else {
			m.Learners = append(m.Learners, s.id.Raft())
		}
	}
	return m
}

// trouble makes something go wrong, again and again.
func (w *world) trouble() {
	w.after(time.Duration(w.o.Pace)*w.between(20*time.Millisecond, 600*time.Millisecond), func() {
		if w.calm {
			return
		}
		all := w.all()
		s := all[w.rng.IntN(len(all))]
		switch w.rng.IntN(7) {
		case 0, 1:
			w.kill(s, w.rng.IntN(3) > 0)
		case 2:
			if w.chance(4) { // the whole cell loses power
				for _, s := range all {
					w.kill(s, true)
				}
			}
		case 3:
			if s.up {
				s.resumes = w.now + w.between(10*time.Millisecond, 2*time.Second)
				w.tracef("server %d stops until %v", s.id, s.resumes)
			}
		case 4, 5:
			w.partition(s, all)
		case 6:
			if s.up && s.core.View().Self {
				to := all[w.rng.IntN(len(all))]
				if to.id.Core() && to != s {
					w.tracef("server %d hands over to %d", s.id, to.id)
					s.core.HandOver(to.id)
					s.later(0, func() { s.pump(nil) })
				}
			}
		}
		w.trouble()
	})
}

// kill ends a server's process, or its machine's power, and starts it again some time later.
func (w *world) kill(s *server, power bool) {
	if !s.up {
		return
	}
	w.tracef("server %d dies, power cut: %v", s.id, power)
	s.crash(power)
	back := w.between(time.Millisecond, 1500*time.Millisecond)
	if w.chance(3) {
		back = w.between(time.Millisecond, 20*time.Millisecond)
	}
	w.after(back, func() {
		if !s.up {
			s.boot()
		}
	})
}

// partition cuts a server off, in one direction or in both, from some of the others or from all.
func (w *world) partition(s *server, all []*server) {
	out, in := w.chance(2), w.chance(2)
	if !out && !in {
		out, in = true, true
	}
	for _, t := range all {
		if t == s || w.chance(3) {
			continue
		}
		w.cut[s.id][t.id] = w.cut[s.id][t.id] || out
		w.cut[t.id][s.id] = w.cut[t.id][s.id] || in
	}
	w.tracef("server %d cut off: out %v, in %v", s.id, out, in)
	w.after(w.between(50*time.Millisecond, 2*time.Second), func() { w.mend(s) })
}

// mend makes all links of a server whole.
func (w *world) mend(s *server) {
	for i := range w.cut {
		w.cut[s.id][i], w.cut[i][s.id] = false, false
	}
}

// settle is the second phase: all faults end, and the cell has to serve.
func (w *world) settle() {
	w.tracef("calm")
	w.calm = true
	clear(w.cut[:])
	for _, s := range w.all() {
		s.resumes, s.full, s.hangs, s.mute = 0, false, 0, 0
		s.disk.FailAfter(-1, nil)
		s.disk.SetCapacity(0)
		s.setClock(0, 1)
		if !s.up {
			s.boot()
		}
	}
	w.readsAt = w.now + leaseGone
	w.hangOne()
	w.answer()
}

// hangOne has the disk of one core server, the master's if there is one, not answer while the clients wait. It is the
// only trouble that there is: no disk may have lost anything, and the cell is founded, for which all are needed.
func (w *world) hangOne() {
	if !w.o.Faults.Has(Hang) {
		return
	}
	founded := false
	for _, s := range w.all() {
		if s.wound.open {
			return
		}
		founded = founded || s.up && len(s.core.Node().Members().Voters) > 0
	}
	if !founded {
		return
	}
	s := w.master()
	if s == nil || !s.id.Core() {
		s = w.anyCore()
	}
	s.hang(answerTime)
}

// answer has the cell answer every client, and come to one state.
func (w *world) answer() {
	if !w.wait(answerTime, w.answered) {
		w.fail("the cell is whole again, but after %v not every client is answered", answerTime)
		return
	}
	for _, s := range w.all() {
		s.hangs, s.mute = 0, 0
	}
	if !w.wait(levelTime, w.level) {
		w.fail("the cell is whole again, but after %v the servers stand at different indexes", levelTime)
	}
}

// wait lets things happen until cond holds, and reports false when that takes longer than limit.
func (w *world) wait(limit time.Duration, cond func() bool) bool {
	end, next := w.now+limit, w.now
	for w.now < end {
		if w.now >= next {
			if cond() {
				return true
			}
			next = w.now + checkEvery
		}
		if !w.step() {
			return w.failure != nil // another error tells more
		}
	}
	return cond()
}

func (w *world) answered() bool {
	for _, c := range w.clients {
		if len(c.window) > 0 || c.left > 0 {
			return false
		}
	}
	return true
}

func (w *world) level() bool {
	all := w.all()
	for _, s := range all {
		if !s.up && !s.starts {
			s.boot()
		}
		if !s.up || s.core.Applied() != all[0].core.Applied() || s.wound.open {
			return false
		}
	}
	return w.shaped()
}

// end asks the oracles.
func (w *world) end() (Stats, error) {
	st := Stats{Events: w.steps, CatchUps: w.catchUps, Simulated: w.now, Injected: w.injected,
		Turns: len(w.history.volume), Grants: w.grants, Adopted: int(w.adopted)}
	for _, ops := range w.history.sectors {
		st.Answers += len(ops)
	}
	for _, s := range w.all() {
		st.Crashes += s.life - 1
		if s.up {
			st.Masters = max(st.Masters, int(s.core.View().Term))
		}
	}
	if w.failure == nil {
		for _, c := range w.clients {
			c.unfinished()
		}
		if err := w.history.check(); err != nil {
			w.fail("%w", err)
		}
	}
	if w.failure == nil {
		w.sameBytes()
	}
	if w.failure == nil {
		w.checkRoots()
	}
	return st, w.failure
}

// checkRoots has every server's root checked as an operator would, after its process was killed.
func (w *world) checkRoots() {
	for _, s := range w.all() {
		s.crash(false)
		res, err := check.Root(s.disk, check.Options{Buffer: w.buffer[:]})
		switch {
		case err != nil:
			w.fail("server %d's root can't be checked: %w", s.id, err)
		case !res.OK():
			w.fail("server %d's root: %d findings, the first %v", s.id, res.Harmful, res.Findings[0])
		}
	}
}

// sameBytes compares what all servers hold at the end.
func (w *world) sameBytes() {
	all := w.all()
	for _, s := range all[1:] {
		a, wholeA := all[0].digest()
		b, wholeB := s.digest()
		if a != b || !wholeA || !wholeB {
			w.fail("servers %d and %d differ at index %d: %x, %x", all[0].id, s.id, s.core.Applied(), a, b)
			return
		}
	}
}

package sim

import (
	"math/rand/v2"
	"strings"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/agreement"
)

// Faults are the classes of faults that a run has besides those that every run has: messages that are lost, late or
// doubled, broken links, stopped and dying servers, power cuts.
type Faults uint

// The classes of faults. Each has the limit that keeps it within what the cell promises to bear.
const (
	// Members has the cell found itself, and its servers come and go as members: disks are wiped, servers replaced.
	// At most a minority of the core servers has lost its disk and is not a voter with a whole one again.
	Members Faults = 1 << iota
	// Rot has disks return what was not written there: flipped bits, also in the log, the checkpoint and the identity,
	// misdirected, lost and torn writes. With the
	// wounds of Members a minority of the core servers has it at the same time, and damage that can't be repaired
	// ends a server's membership; so it comes with Members.
	Rot
	// Resize has an operator let the cell grow and shrink: core servers and replicas are added and taken out for good, and
	// votes are taken and given back, by what the requests of the operator's tools call. It comes with Members. At
	// most a minority of the core servers that nothing is done to is wounded.
	Resize
	// Full has disks fill up, any number of them, until the second phase.
	Full
	// Errors has disks fail reads, writes and syncs from some call on; the process ends and starts again.
	Errors
	// Hang has disks that do not answer for seconds, or answer no read, and in the second phase one of a core server that never does while
	// clients wait, if no disk is wounded then.
	Hang
	// Clock has clocks run at rates that differ by far more than agreement.MaxDrift, and leap forward. No lease can
	// be relied upon then, so clients do not read before the clocks are right again; all they wrote has to be there.
	Clock
	// Drift has clocks run now faster and now slower, with rates that differ by agreement.MaxDrift at the most. Leases
	// are to bear that, so clients read.
	Drift
	// Rollback has an older state of a core server's root come back, or of all of it but its memory of promises: a backup, a
	// snapshot of the machine, a controller that lost its cache. With the wounds of Members a minority of the core servers
	// has it at the same time, one after the other, and so many others have on their disks what the server promised since
	// that no majority is without one of them. It comes with Members.
	Rollback
)

var faultNames = []string{"members", "rot", "resize", "full", "errors", "hang", "clock", "drift", "rollback"}

// Has says whether f has a class.
func (f Faults) Has(class Faults) bool { return f&class != 0 }

// String lists the classes.
func (f Faults) String() string {
	var names []string
	for i, n := range faultNames {
		if f.Has(1 << i) {
			names = append(names, n)
		}
	}
	return strings.Join(names, "+")
}

// chooseFaults mixes the classes over the seeds: each is in every third run, or fifth. Rollback is not among them: Shape
// chooses it last, so that the seeds without it are what they were before there was such a class.
func chooseFaults(rng *rand.Rand) (f Faults) {
	for class := Faults(1); class < Rollback; class <<= 1 {
		oneIn := 3
		if class == Resize {
			oneIn = 5 // these runs are long, and their cells large
		}
		if rng.IntN(oneIn) == 0 {
			f |= class
		}
	}
	if f.Has(Rot) || f.Has(Resize) {
		f |= Members
	}
	return f
}

// fault is one kind of fault, to be counted.
type fault int

const (
	diskWiped fault = iota
	serverReplaced
	placeGivenUp
	bitsFlipped
	writeMisdirected
	writeLost
	writeTorn
	blocksRepaired
	diskFull
	refusal
	diskFails
	diskHangs
	readsHang
	controlRotten
	clockLeaps
	clockDrifts
	masterStranded
	serverAdded
	serverRemoved
	voteTaken
	rootPutBack
	logPutBack
	faultKinds
)

var faultKindNames = [faultKinds]string{"disks wiped", "servers replaced or removed",
	"places given up", "blocks rotten", "writes misdirected", "writes lost",
	"writes torn", "chunks repaired", "disks full", "writes refused for want of space", "disks failing", "disks hanging", "reads of disks hanging",
	"files of log, checkpoint or identity rotten", "clock leaps", "clocks faster or slower", "masters stranded",
	"servers added", "servers taken out", "votes taken", "older roots put back", "older logs put back"}

// faults injects what the classes of the run ask for, again and again.
func (w *world) faults() {
	if w.o.Faults.Has(Members) {
		rarer := time.Duration(1)
		if w.o.Faults.Has(Rollback) {
			rarer = wipesRarer
		}
		w.often(rarer*100*time.Millisecond, rarer*3*time.Second, w.memberTrouble)
		w.tend()
	}
	if w.o.Faults.Has(Resize) {
		w.often(30*time.Millisecond, 500*time.Millisecond, w.resizeTrouble)
	}
	if w.o.Faults.Has(Rollback) {
		w.often(30*time.Millisecond, 500*time.Millisecond, w.rollTrouble)
	}
	if w.o.Faults&(Rot|Full|Errors|Hang) != 0 {
		w.often(50*time.Millisecond, 800*time.Millisecond, w.diskTrouble)
	}
	if w.o.Faults.Has(Clock) {
		w.often(50*time.Millisecond, 800*time.Millisecond, w.clockTrouble)
	} else if w.o.Faults.Has(Drift) {
		w.often(50*time.Millisecond, 800*time.Millisecond, w.driftTrouble)
	}
}

// clockTrouble has one clock leap, or run at another rate.
func (w *world) clockTrouble() {
	all := w.all()
	if m := w.master(); m != nil && w.chance(3) {
		for _, s := range all {
			if s != m {
				s.setClock(w.between(1, electionLeap), 1+w.rng.Float64()/2)
			}
		}
		m.setClock(0, 0.2+w.rng.Float64()/2)
		w.count(clockLeaps, m)
		w.strand(m, 0)
		return
	}
	s := all[w.rng.IntN(len(all))]
	w.count(clockLeaps, s)
	leap := time.Duration(0)
	if w.chance(2) {
		leap = w.between(1, 2*time.Second)
	}
	s.setClock(leap, 0.5+w.rng.Float64())
}

// driftTrouble has one clock run at another rate, at the ends of what is allowed most of the time.
func (w *world) driftTrouble() {
	if m := w.master(); m != nil && w.chance(2) {
		m.stops = w.between(200*time.Millisecond, 1200*time.Millisecond)
		return
	}
	all := w.all()
	s := all[w.rng.IntN(len(all))]
	w.count(clockDrifts, s)
	s.setClock(0, 1+agreement.MaxDrift/2*[]float64{-1, 1, w.rng.Float64()}[w.rng.IntN(3)])
}

// electionLeap is how far a clock leaps that makes an election due.
const electionLeap = 600 * time.Millisecond

// strand has the master stop for a time, and the others not be heard by it nor hear it for longer than that, while its
// clients do: if another one is elected, nothing but its lease tells it that it is master no more.
func (w *world) strand(m *server, stop time.Duration) {
	w.count(masterStranded, m)
	m.resumes = max(m.resumes, w.now+stop)
	m.stops = 0
	w.after(w.between(netSlow, 2*netSlow), func() {
		if w.calm {
			return
		}
		for i := range w.cut {
			w.cut[m.id][i], w.cut[i][m.id] = true, true
		}
	})
	w.after(stop+w.between(300*time.Millisecond, 1500*time.Millisecond), func() { w.mend(m) })
}

// often does something at random intervals, as long as the first phase lasts.
func (w *world) often(lo, hi time.Duration, do func()) {
	w.after(w.between(lo, hi), func() {
		if w.calm {
			return
		}
		do()
		w.often(lo, hi, do)
	})
}

// count notes that a fault was injected.
func (w *world) count(k fault, s *server) {
	w.injected[k]++
	w.tracef("server %d: %s", s.id, faultKindNames[k])
}

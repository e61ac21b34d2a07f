package main

import (
	"math/rand/v2"
	"time"
)

// Limits of a round.
const (
	shortestFault = time.Second
	longestFault  = 6 * time.Second
	lengthOfEach  = 2500 * time.Millisecond // in the first pass, where each class comes alone
	maxTogether   = 3
	core          = 5
)

// round is what happens at the same time.
type round struct {
	faults []fault
	gaps   []time.Duration // before each but the first
	hold   time.Duration   // after the last
}

// plan hands out rounds: at first each class alone, so that the pause has one reason, then mixes without end.
type plan struct {
	random  *rand.Rand
	classes []fault
	next    int // of the first pass
}

func newPlan(seed uint64, classes []fault) *plan {
	return &plan{random: rand.New(rand.NewPCG(seed, 1)), classes: classes}
}

// round is the next one.
func (p *plan) round() round {
	if p.next < len(p.classes) {
		p.next++
		return round{faults: p.classes[p.next-1 : p.next], hold: lengthOfEach}
	}
	r := round{hold: shortestFault + time.Duration(p.random.Int64N(int64(longestFault-shortestFault)))}
	want := 1 + p.random.IntN(maxTogether)
	for _, i := range p.random.Perm(len(p.classes)) {
		if f := p.classes[i]; len(r.faults) < want && goesWith(r.faults, f) {
			if len(r.faults) > 0 {
				r.gaps = append(r.gaps, time.Duration(p.random.Int64N(int64(shortestFault))))
			}
			r.faults = append(r.faults, f)
		}
	}
	return r
}

// goesWith says whether a fault may come with others: together they leave a majority of the core servers alone.
func goesWith(others []fault, f fault) bool {
	taken := f.core
	for _, o := range others {
		if o.alone || f.alone || o.wire && f.wire {
			return false
		}
		taken += o.core
	}
	return len(others) == 0 || taken <= (core-1)/2
}

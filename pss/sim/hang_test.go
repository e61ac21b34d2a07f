package sim

import (
	"testing"
	"testing/cryptotest"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
)

// TestMasterThatCannotFeedItsSuccessor: a master was elected for entries that only its disk has, and the disk answers no
// read. It can't bring anybody up to date, so it can't hand over; it gives the mastership up, and the others go on.
func TestMasterThatCannotFeedItsSuccessor(t *testing.T) {
	cryptotest.SetGlobalRandom(t, 1)
	w := build(Options{Seed: 1, Core: 3, Clients: 2, Pace: 1, Faults: Hang})
	w.calm = true
	await := func(what string, cond func() bool) {
		t.Helper()
		if !w.wait(answerTime, cond) || w.failure != nil {
			t.Fatalf("at %v: not %s: %v", w.now, what, w.failure)
		}
	}
	await("answered and level", func() bool { return w.answered() && w.level() })

	m, c := w.master(), w.clients[0]
	last := m.core.Node().Position().Last
	c.connect(m.id)
	for _, s := range w.all() {
		w.cut[m.id][s.id] = true
	}
	c.begin(&request{code: op.Write, count: 1, value: 1})
	await("written by the master alone", func() bool {
		return m.core.View().Self && m.core.Node().Position().Last > last && !m.writing
	})

	for _, s := range w.all() {
		s.crash(false)
		w.mend(s)
	}
	others := []*server{w.servers[(m.id+1)%3], w.servers[(m.id+2)%3]}
	m.boot()
	m.mute = w.now + time.Hour
	others[0].boot()
	await("master again", func() bool { return w.master() == m })
	others[1].boot()
	await("another master, that serves", func() bool { return w.master() != m && w.answered() })
}

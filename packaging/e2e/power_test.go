package e2e

import (
	"flag"
	"math/rand/v2"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/packaging/rig"
)

var powerCuts = flag.Int("powercuts", 20, "how often TestPowerCut kills all servers; with -short a fifth of it")

// TestPowerCut kills all eight servers in one instant, under the load, at moments of chance, and starts them
// again in an order of chance. In every other round tgtd goes with them.
func TestPowerCut(t *testing.T) {
	s := newSystem(t, rig.AllServers())
	l := s.load()
	var measured table
	defer func() { t.Log(measured.String()) }()
	rounds := *powerCuts
	if testing.Short() {
		rounds = max(1, rounds/5)
	}
	for round := range rounds {
		l.Start()
		s.acks(l, 1+rand.Uint64N(500))
		l.Mark()
		victims := s.cell.Processes()
		withTarget := round%2 == 1
		what := "all servers"
		if withTarget {
			victims = append(victims, s.target.Process)
			what = "all servers and tgtd"
		}
		rand.Shuffle(len(victims), func(i, j int) { victims[i], victims[j] = victims[j], victims[i] })
		must(t, rig.KillAll(victims...))
		ids := s.cell.IDs()
		shuffle(ids)
		must(t, s.cell.Start(limit(t), ids...))
		if withTarget {
			s.master()
			s.serve()
		}
		s.acks(l, 100)
		w := l.Mark()
		measured.add(what, w)
		if w.Errors > 0 {
			t.Errorf("round %d: %d commands failed", round, w.Errors)
		}
		s.judge(l)
	}
	acked, _ := l.Acked()
	t.Logf("%d power cuts, %d commands acknowledged, %d blocks written and right", rounds, l.Acks(), acked)
}

package e2e

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/packaging/rig"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
)

// TestNoMajority stops three of five core servers: I/O waits, without an error, and goes on by itself when one
// of them is back.
func TestNoMajority(t *testing.T) {
	for _, c := range []struct {
		name       string
		stop, back func(s *system, ps []*rig.Process, ids []cell.ID)
	}{
		{"killed",
			func(s *system, ps []*rig.Process, _ []cell.ID) { must(s.t, rig.KillAll(ps...)) },
			func(s *system, _ []*rig.Process, ids []cell.ID) { must(s.t, s.cell.Start(limit(s.t), ids...)) }},
		{"frozen",
			func(s *system, ps []*rig.Process, _ []cell.ID) { must(s.t, freeze(ps)) },
			func(s *system, ps []*rig.Process, _ []cell.ID) { must(s.t, thaw(ps)) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSystem(t, rig.AllServers())
			l := s.load()
			l.Start()
			s.acks(l, 500)
			l.Mark()
			ids := append([]cell.ID{s.master()}, s.followers()[:2]...)
			c.stop(s, s.all(ids...), ids)
			// Core servers know of none, either: a client believes what they say. Replicas don't campaign, and are not asked.
			must(t, s.cell.Await(limit(t), "nobody is master", func(all []rig.Status) bool {
				return len(all) == 5 && !slices.ContainsFunc(all, func(st rig.Status) bool { return st.ID.Core() && st.Master != nil })
			}))
			waiting := l.Acks()
			// This one gives up waiting after its time, and says why.
			_, err := rig.Run(limit(t), s.target.Env(), suite.programs.CreateISCSIVol, "--timeout", "1", "vol002", "1G")
			var exit *rig.ExitError
			if !errors.As(err, &exit) || exit.Status != 255 || !strings.Contains(exit.Output, "majority") {
				t.Errorf("createISCSIVol without a majority: %v", err)
			}
			if n := l.Acks(); n != waiting {
				t.Errorf("%d commands were acknowledged without a majority", n-waiting)
			}
			c.back(s, s.all(ids[1]), ids[1:2])
			s.acks(l, 500)
			w := l.Mark()
			t.Logf("I/O waited %s and went on by itself; %d errors", ms(w.Longest), w.Errors)
			c.back(s, s.all(ids[0], ids[2]), []cell.ID{ids[0], ids[2]})
			must(t, s.cell.Level(limit(t)))
			s.acks(l, 300)
			s.judge(l)
		})
	}
}

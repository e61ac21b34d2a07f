package e2e

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/packaging/rig"
	"github.com/paxos-iscsi/paxos-iscsi/packaging/verify"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
)

func shuffle(ids []cell.ID) {
	rand.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
}

// table collects what was measured, for people.
type table struct{ rows []string }

func (t *table) add(what string, w verify.Window) {
	t.rows = append(t.rows, fmt.Sprintf("%s\t%v\t%v\t%v\t%d\t%d\t%d", what, ms(w.Longest), ms(w.Latency.Quantile(0.5)),
		ms(w.Latency.Quantile(0.99)), w.Reads+w.Writes, w.Retries, w.Errors))
}

func (t *table) String() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nevent\tlongest pause\tp50\tp99\tcommands\trepeated\terrors")
	for _, r := range t.rows {
		fmt.Fprintln(w, r)
	}
	w.Flush()
	return b.String()
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d)/1e6) }

// freeze and kill do that to several processes in one instant.
func freeze(ps []*rig.Process) error { return each(ps, (*rig.Process).Freeze) }
func thaw(ps []*rig.Process) error   { return each(ps, (*rig.Process).Thaw) }

func each(ps []*rig.Process, do func(*rig.Process) error) error {
	for _, p := range ps {
		if err := do(p); err != nil {
			return err
		}
	}
	return nil
}

// TestFaults has servers and the target die and hang, one event after the other, under the load. After
// each one the load is stopped and every block read back.
func TestFaults(t *testing.T) {
	s := newSystem(t, rig.AllServers())
	followers := func(n int) func() []cell.ID {
		return func() []cell.ID { return s.followers()[:n] }
	}
	master := func() []cell.ID { return []cell.ID{s.master()} }
	masterAndOne := func() []cell.ID { return append([]cell.ID{s.master()}, s.followers()[0]) }
	replica := func() []cell.ID { return []cell.ID{cell.CoreIDs + cell.ID(rand.IntN(3))} }
	killed := func(who func() []cell.ID) func() (func(), error) {
		return func() (func(), error) {
			ids := who()
			return func() { s.start(ids...) }, rig.KillAll(s.all(ids...)...)
		}
	}
	frozen := func(who func() []cell.ID) func() (func(), error) {
		return func() (func(), error) {
			ps := s.all(who()...)
			return func() {
				must(t, thaw(ps))
				must(t, s.cell.Level(limit(t)))
			}, freeze(ps)
		}
	}
	events := []struct {
		name string
		do   func() (undo func(), err error)
	}{
		{"nothing", func() (func(), error) { return func() {}, nil }},
		{"kill -9 of a follower", killed(followers(1))},
		{"kill -9 of the master", killed(master)},
		{"kill -9 of a replica", killed(replica)},
		{"kill -9 of two followers", killed(followers(2))},
		{"kill -9 of the master and a follower", killed(masterAndOne)},
		{"SIGSTOP of a follower", frozen(followers(1))},
		{"SIGSTOP of the master", frozen(master)},
		{"SIGSTOP of a replica", frozen(replica)},
		{"SIGSTOP of the master and a follower", frozen(masterAndOne)},
		{"kill -9 of tgtd, started again", func() (func(), error) {
			if err := s.target.Kill(); err != nil {
				return nil, err
			}
			s.serve()
			return func() {}, nil
		}},
	}
	l := s.load()
	var measured table
	defer func() { t.Log(measured.String()) }()
	for _, e := range events {
		ok := t.Run(e.name, func(t *testing.T) {
			outer := s.t
			s.t = t
			defer func() { s.t = outer }()
			l.Start()
			s.acks(l, 300)
			l.Mark()
			undo, err := e.do()
			must(t, err)
			s.acks(l, 1000)
			w := l.Mark()
			measured.add(e.name, w)
			undo()
			s.acks(l, 300)
			s.judge(l)
			if after := l.Mark(); w.Errors+after.Errors > 0 {
				t.Errorf("%d commands failed", w.Errors+after.Errors)
			}
		})
		if !ok {
			t.Fatal("the other events are not tried after this one")
		}
	}
	acked, _ := l.Acked()
	t.Logf("%d commands acknowledged, %d blocks written and right", l.Acks(), acked)
}

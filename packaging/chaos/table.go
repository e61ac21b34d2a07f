package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/packaging/verify"
)

// table is what was measured in rounds of each name.
type table struct{ rows map[string]*row }

type row struct {
	order   int
	rounds  int
	longest time.Duration
	acks    uint64
	errors  uint64
}

// add counts a round. What failed in it counts as an error even if the load retried in the end.
func (t *table) add(name string, w verify.Window) {
	if t.rows == nil {
		t.rows = make(map[string]*row)
	}
	r := t.rows[name]
	if r == nil {
		r = &row{order: len(t.rows)}
		t.rows[name] = r
	}
	r.rounds++
	r.longest = max(r.longest, w.Longest)
	r.acks += w.Reads + w.Writes
	r.errors += w.Errors
}

// print writes the table in the order in which names first came.
func (t *table) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "fault\trounds\tlongest pause\tcommands\terrors")
	names := slices.SortedFunc(maps.Keys(t.rows), func(a, b string) int { return cmp.Compare(t.rows[a].order, t.rows[b].order) })
	for _, n := range names {
		r := t.rows[n]
		fmt.Fprintf(w, "%s\t%d\t%.0f ms\t%d\t%d\n", n, r.rounds, float64(r.longest)/1e6, r.acks, r.errors)
	}
	return w.Flush()
}

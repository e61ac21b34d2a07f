package main

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
)

// test is a row of the table: one pattern of I/O.
type test struct {
	name        string
	title       string
	bytes       int // of one I/O, a multiple of pageBytes
	depth       int // I/Os under way
	readPercent int // of the I/Os; the others write
	sequential  bool
}

func (t test) String() string { return t.name }
func (t test) writes() bool   { return t.readPercent < 100 }

// tests are all rows, in order. The last ones rewrite the file in large pieces, which changes how the page cache
// keeps it; so they come last.
func tests() []test {
	const small, large = 4 << 10, 1 << 20
	return []test{
		{name: "read-d1", title: "4 KiB random read, depth 1", bytes: small, depth: 1, readPercent: 100},
		{name: "read-d32", title: "4 KiB random read, depth 32", bytes: small, depth: 32, readPercent: 100},
		{name: "write-d1", title: "4 KiB random write, depth 1", bytes: small, depth: 1},
		{name: "write-d32", title: "4 KiB random write, depth 32", bytes: small, depth: 32},
		{name: "mix-d32", title: "4 KiB random, 70 % read, 30 % write, depth 32", bytes: small, depth: 32, readPercent: 70},
		{name: "seqwrite-d4", title: "1 MiB sequential write, depth 4", bytes: large, depth: 4, sequential: true},
		{name: "seqread-d4", title: "1 MiB sequential read, depth 4", bytes: large, depth: 4, readPercent: 100,
			sequential: true},
	}
}

// house is a set of processes that serves one column or several.
type house struct {
	name           string
	tgt            bool // the real tgt
	core, replicas int  // servers of the cell; none: the stores are local
}

// servers are the servers of the house's cell.
func (h house) servers() int { return h.core + h.replicas }

// column is a column of the table: a unit of some store.
type column struct {
	name  string
	title string
	house house
	store string // its type, as tgtadm takes it
	// durable: the write cache is off, or there is none; a write that is acknowledged is on stable storage.
	durable bool
	// keeps: what is written can be read.
	keeps bool
	// What it is compared with: a column of the real tgt for tests that only read, and one for the others.
	readsOf, writesOf string
}

func (c column) String() string { return c.name }

// against names the column that this one is compared with in a test, or is empty.
func (c column) against(t test) string {
	if t.writes() {
		return c.writesOf
	}
	return c.readsOf
}

const storePSS = "pss"

// columns are all columns, in order; what is compared stands side by side.
func columns() []column {
	tgt := house{name: "tgt", tgt: true}
	ours := house{name: "local"}
	pss3 := house{name: "pss-3", core: 3}
	pss8 := house{name: "pss-5+3", core: cell.CoreIDs, replicas: cell.MaxServers - cell.CoreIDs}
	return []column{
		{name: "tgt-null", title: "tgt null", house: tgt, store: "null"},
		{name: "our-null", title: "our null", house: ours, store: "null", readsOf: "tgt-null", writesOf: "tgt-null"},
		{name: "tgt-rdwr", title: "tgt rdwr", house: tgt, store: "rdwr", keeps: true},
		{name: "our-rdwr", title: "our rdwr", house: ours, store: "rdwr", keeps: true,
			readsOf: "tgt-rdwr", writesOf: "tgt-rdwr"},
		{name: "tgt-durable", title: "tgt rdwr durable", house: tgt, store: "rdwr", durable: true, keeps: true},
		{name: "our-durable", title: "our rdwr durable", house: ours, store: "rdwr", durable: true, keeps: true,
			readsOf: "tgt-durable", writesOf: "tgt-durable"},
		{name: "pss-3", title: "pss 3", house: pss3, store: storePSS, durable: true, keeps: true,
			readsOf: "tgt-rdwr", writesOf: "tgt-durable"},
		{name: "pss-5+3", title: "pss 5+3", house: pss8, store: storePSS, durable: true, keeps: true,
			readsOf: "tgt-rdwr", writesOf: "tgt-durable"},
	}
}

// pair is a cell of the table.
type pair struct {
	column column
	test   test
}

// choose returns the cells that the patterns pick, all if there are none, row by row. A pattern is matched
// against the name of the column, that of the test, or if it has a slash column/test. A pattern that picks
// nothing is an error.
func choose(patterns []string, columns []column, tests []test) ([]pair, error) {
	picks := func(pattern string, c column, t test) (bool, error) {
		if strings.Contains(pattern, "/") {
			return path.Match(pattern, c.name+"/"+t.name)
		}
		ofColumn, err := path.Match(pattern, c.name)
		if err != nil {
			return false, err
		}
		ofTest, err := path.Match(pattern, t.name)
		return ofColumn || ofTest, err
	}
	used := make([]bool, len(patterns))
	var chosen []pair
	for _, t := range tests {
		for _, c := range columns {
			wanted := len(patterns) == 0
			for i, p := range patterns {
				ok, err := picks(p, c, t)
				if err != nil {
					return nil, fmt.Errorf("--only %q: %w", p, err)
				}
				if ok {
					wanted, used[i] = true, true
				}
			}
			if wanted {
				chosen = append(chosen, pair{c, t})
			}
		}
	}
	if i := slices.Index(used, false); i >= 0 {
		return nil, fmt.Errorf("--only %q picks nothing; targets: %s; tests: %s", patterns[i], names(columns), names(tests))
	}
	return chosen, nil
}

// schedule is the order in which cells are measured: row by row, and in a row the columns by turns. Every
// second round goes backwards, so that a machine that becomes slower and slower treats all alike.
func schedule(chosen []pair, rounds int) []pair {
	var order []pair
	for len(chosen) > 0 {
		n := 1
		for n < len(chosen) && chosen[n].test == chosen[0].test {
			n++
		}
		row := slices.Clone(chosen[:n])
		for range rounds {
			order = append(order, row...)
			slices.Reverse(row)
		}
		chosen = chosen[n:]
	}
	return order
}

// names lists what has names.
func names[T fmt.Stringer](all []T) string {
	list := make([]string, len(all))
	for i, one := range all {
		list[i] = one.String()
	}
	return strings.Join(list, " ")
}

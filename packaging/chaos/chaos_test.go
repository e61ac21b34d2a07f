package main

import (
	"bytes"
	"context"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/paxos-iscsi/paxos-iscsi/packaging/rig"
	"github.com/paxos-iscsi/paxos-iscsi/packaging/verify"
)

// TestPlan: every class comes alone first, no mix takes a majority, and a seed gives the same plan again.
func TestPlan(t *testing.T) {
	classes := faults()
	for seed := range uint64(50) {
		p, again := newPlan(seed, classes), newPlan(seed, classes)
		for i := range 200 {
			r := p.round()
			if got, want := names(again.round()), names(r); got != want {
				t.Fatalf("seed %d: round %d is %q and then %q", seed, i, want, got)
			}
			if i < len(classes) {
				if len(r.faults) != 1 || r.faults[0].name != classes[i].name {
					t.Fatalf("seed %d: round %d is %q", seed, i, names(r))
				}
				continue
			}
			taken, wires := 0, 0
			for _, f := range r.faults {
				taken += f.core
				if f.wire {
					wires++
				}
				if f.alone && len(r.faults) > 1 {
					t.Errorf("seed %d: %s is not alone in %q", seed, f.name, names(r))
				}
			}
			if len(r.faults) > 1 && taken > 2 || wires > 1 || len(r.faults) == 0 || len(r.gaps) != len(r.faults)-1 {
				t.Errorf("seed %d: %q takes %d core servers", seed, names(r), taken)
			}
			if r.hold < shortestFault || r.hold > longestFault {
				t.Errorf("seed %d: %q lasts %v", seed, names(r), r.hold)
			}
		}
	}
}

func names(r round) string { return strings.Join(namesOf(r.faults), "+") }

func TestMatch(t *testing.T) {
	all := faults()
	some, err := match(all, []string{"kill-m", "delay"})
	if err != nil || strings.Join(namesOf(some), " ") != "kill-master delay" {
		t.Errorf("%v, %v", namesOf(some), err)
	}
	if _, err := match(all, []string{"kill-m", "earthquake"}); err == nil || !strings.Contains(err.Error(), "earthquake") {
		t.Errorf("a class that nobody has: %v", err)
	}
	if some, err := match(all, nil); err != nil || len(some) != len(all) {
		t.Errorf("without a pattern: %d classes, %v", len(some), err)
	}
}

// TestHistoryIsJudged: the model takes what a register can do, and nothing else.
func TestHistoryIsJudged(t *testing.T) {
	op := func(call, ret int64, in input, out output) porcupine.Operation {
		return porcupine.Operation{Input: in, Output: out, Call: call, Return: ret}
	}
	read := func(call, ret int64, v uint64) porcupine.Operation {
		return op(call, ret, input{kind: reads}, output{value: v})
	}
	write := func(call, ret int64, v uint64) porcupine.Operation {
		return op(call, ret, input{kind: writes, new: v}, output{matched: true})
	}
	compare := func(call, ret int64, old, v uint64, matched bool) porcupine.Operation {
		return op(call, ret, input{kind: compares, old: old, new: v}, output{matched: matched})
	}
	lost := op(1, math.MaxInt64, input{kind: writes, new: 7}, output{unknown: true})
	lostCompare := op(1, math.MaxInt64, input{kind: compares, old: 0, new: 7}, output{unknown: true})
	for _, test := range []struct {
		name  string
		ops   []porcupine.Operation
		legal bool
	}{
		{"a read of what was written", []porcupine.Operation{write(1, 2, 5), read(3, 4, 5)}, true},
		{"a stale read", []porcupine.Operation{write(1, 2, 5), write(3, 4, 6), read(5, 6, 5)}, false},
		{"a read beside a write", []porcupine.Operation{write(1, 9, 5), read(2, 3, 0), read(4, 5, 5)}, true},
		{"a value that comes and goes", []porcupine.Operation{write(1, 9, 5), read(2, 3, 5), read(4, 5, 0)}, false},
		{"a lost write that never comes", []porcupine.Operation{lost, read(5, 6, 0)}, true},
		{"a lost write that comes late", []porcupine.Operation{lost, read(5, 6, 0), read(7, 8, 7)}, true},
		{"a lost write that comes twice", []porcupine.Operation{lost, read(5, 6, 7), write(7, 8, 9), read(9, 10, 7)}, false},
		{"a compare that matches", []porcupine.Operation{compare(1, 2, 0, 3, true), read(3, 4, 3)}, true},
		{"a compare that should not match", []porcupine.Operation{write(1, 2, 5), compare(3, 4, 0, 3, true)}, false},
		{"a compare that should match", []porcupine.Operation{compare(3, 4, 0, 3, false)}, false},
		{"a compare that fails leaves all as it is", []porcupine.Operation{write(1, 2, 5), compare(3, 4, 0, 3, false), read(5, 6, 5)}, true},
		{"a lost compare that took effect", []porcupine.Operation{lostCompare, read(5, 6, 7)}, true},
		{"two compares that both won", []porcupine.Operation{compare(1, 4, 0, 3, true), compare(2, 5, 0, 4, true)}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHistory()
			h.registers[3] = test.ops
			if err := h.check(); (err == nil) != test.legal {
				t.Errorf("judged %v", err)
			}
		})
	}
}

// TestHistoryNotes: registers change when they are full, lost reads say nothing, lost writes stay open.
func TestHistoryNotes(t *testing.T) {
	h := newHistory()
	for range registersAtOnce*maxOperations + 1000 {
		h.choose()
	}
	if got := len(h.registers); got <= registersAtOnce {
		t.Errorf("there are still %d registers", got)
	}
	for r, n := range h.open {
		if n > maxOperations {
			t.Errorf("register %d has %d commands", r, n)
		}
	}
	h.note(1, 0, 5, input{kind: reads}, output{unknown: true})
	h.note(1, 0, 6, input{kind: writes, new: 3}, output{unknown: true})
	h.note(1, 0, 7, input{kind: reads}, output{value: 3})
	if n, unknown := h.size(); n != 2 || unknown != 2 || h.registers[0][0].Return != math.MaxInt64 {
		t.Errorf("%d commands, %d unknown: %+v", n, unknown, h.registers[0])
	}
	var b bytes.Buffer
	if err := h.print(&b); err != nil || !strings.Contains(b.String(), "to never: write 3 -> unknown") {
		t.Errorf("%v: %s", err, b.String())
	}
	block := make([]byte, 512)
	paint(block, 77)
	if v, err := unpaint(block); v != 77 || err != nil {
		t.Errorf("painted 77, read %d, %v", v, err)
	}
	block[511]++
	if _, err := unpaint(block); err == nil {
		t.Error("a torn block was taken")
	}
	h.fail(err(unpaint(block)))
	if h.check() == nil {
		t.Error("a torn block was forgotten")
	}
}

func err(_ uint64, err error) error { return err }

// TestDiffer: a byte, a file or a length makes two servers differ; zeros at the end, and empty files, do not.
func TestDiffer(t *testing.T) {
	base := map[string]string{"data/1/00/00/00": "abc\x00d", "data/1/00/00/01": "x"}
	tree := func(files map[string]string) map[string]digest {
		dir := t.TempDir()
		for name, content := range files {
			path := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		all, err := digests(dir)
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	for _, test := range []struct {
		name  string
		with  map[string]string
		equal bool
	}{
		{"the same", nil, true},
		{"longer by zeros", map[string]string{"data/1/00/00/01": "x\x00\x00"}, true},
		{"an empty file more", map[string]string{"data/1/00/00/02": "\x00"}, true},
		{"other records", map[string]string{"data/1/00/00/sums": "z", "data/1/index": "y"}, true},
		{"another byte", map[string]string{"data/1/00/00/00": "abd\x00d"}, false},
		{"a file more", map[string]string{"data/1/00/00/02": "y"}, false},
		{"shorter", map[string]string{"data/1/00/00/00": "abc"}, false},
	} {
		other := make(map[string]string)
		for _, m := range []map[string]string{base, test.with} {
			for name, content := range m {
				other[name] = content
			}
		}
		a, b := tree(base), tree(other)
		if one, two := differ(a, b), differ(b, a); (one == nil) != test.equal || (two == nil) != test.equal {
			t.Errorf("%s: %v, %v", test.name, one, two)
		}
	}
}

func TestTable(t *testing.T) {
	var tab table
	tab.add("none", verify.Window{Reads: 1, Writes: 2, Longest: time.Second})
	tab.add("kill-master", verify.Window{Longest: 2 * time.Second, Errors: 1})
	tab.add("none", verify.Window{Longest: 3 * time.Second})
	var b bytes.Buffer
	if err := tab.print(&b); err != nil {
		t.Fatal(err)
	}
	want := "fault        rounds  longest pause  commands  errors\n" +
		"none         2       3000 ms        3         0\n" +
		"kill-master  1       2000 ms        0         1\n"
	if b.String() != want {
		t.Errorf("the table is\n%swant\n%s", b.String(), want)
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{"--time", "0s"}, {"--only", "earthquake"}, {"--seed", "x"}, {"more"}, {"--nothing"},
		{"--time", "1s", "wan"}, {"rolling", "--congestion", "bbr"}, {"wan", "more"}} {
		var stderr bytes.Buffer
		if status := run(context.Background(), append([]string{"chaos"}, args...), &stderr, &stderr); status != exitUsage {
			t.Errorf("%v: status %d: %s", args, status, stderr.String())
		}
	}
}

// TestLabThatCanNotBegin: what fails at the beginning is an error that says what, and nothing is there to be closed.
func TestLabThatCanNotBegin(t *testing.T) {
	l, err := newLab(context.Background(), labOptions{dir: "/dev/null", ids: rig.AllServers()})
	if l != nil || err == nil || !strings.Contains(err.Error(), "folder for server 0") {
		t.Errorf("%v, %v", l, err)
	}
}

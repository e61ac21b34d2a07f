package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/packaging/rig"
)

// Without the real tgt everything else is still measured, and nothing without anything else.
func TestLeaveOut(t *testing.T) {
	chosen, err := choose([]string{"*-null/read-d*", "pss-3/read-d1"}, columns(), tests())
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{chosen: chosen}
	for _, h := range housesOf(chosen) {
		l.houses = append(l.houses, &home{house: h})
	}
	l.leaveOut(columns()[0].house, errors.New("it is gone"))
	if have := written(l.chosen); have != "our-null/read-d1 pss-3/read-d1 our-null/read-d32" {
		t.Errorf("left to measure: %s", have)
	}
	if len(l.houses) != 2 || len(l.leftOut) != 1 || l.leftOut[0] != "tgt is left out: it is gone" {
		t.Errorf("%d houses, %q", len(l.houses), l.leftOut)
	}
	for _, p := range l.chosen {
		if h := l.home(p.column); h.house != p.column.house {
			t.Errorf("%s is looked for in %s", p.column.name, h.name)
		}
	}
}

// Our own tgtd, installed in tgt's place, is not taken for tgt.
func testNotTgt(t *testing.T, bin string) {
	p, err := rig.Find(bin)
	if err != nil {
		t.Fatal(err)
	}
	target, err := rig.NewTarget(rig.TargetOptions{Dir: t.TempDir(), Programs: p})
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	if err := target.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := realTgt(t.Context(), target); err == nil || !strings.Contains(err.Error(), "own") {
		t.Errorf("our own: %v", err)
	}
	// A server that has ended is an error, with its log, and not one that used no time.
	if err := target.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := processorTime([]*rig.Process{target.Process}); err == nil || !strings.Contains(err.Error(), "tgtd has ended") {
		t.Errorf("the processor time of a dead tgtd: %v", err)
	}
	if err := (&lab{}).explain(&home{target: target}, os.ErrClosed); !errors.Is(err, os.ErrClosed) ||
		!strings.Contains(err.Error(), filepath.Base(target.Log())) {
		t.Errorf("an error is not explained by the log: %v", err)
	}
}

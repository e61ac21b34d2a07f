package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/agreement"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
)

func TestModesOnTheCommandLine(t *testing.T) {
	two := cell.ID(2)
	for _, c := range []struct {
		args   string
		root   string
		mode   mode
		source *cell.ID
		words  string // of the error
	}{
		{"", "/default", modeAny, nil, ""},
		{"/r", "/r", modeAny, nil, ""},
		{"start", "/default", modeStart, nil, ""},
		{"/r restart", "/r", modeRestart, nil, ""},
		{"restart autonomic", "/default", modeAutonomic, nil, ""},
		{"/r restart autonomic 2", "/r", modeAutonomic, &two, ""},
		{"/r autonomic 2", "/r", modeAutonomic, &two, ""},
		{"/r found", "/r", modeFound, nil, ""},
		{"/r start 2", "", "", nil, "1 arguments too many"},
		{"/r autonomic 0", "", "", nil, "its own source"},
		{"/r autonomic 9", "", "", nil, `id "9"`},
		{"/r /s", "", "", nil, `"/s" is no way`},
	} {
		s := settings{root: "/default"}
		err := s.parseMode(strings.Fields(c.args))
		if c.words != "" {
			if err == nil || !strings.Contains(err.Error(), c.words) {
				t.Errorf("%q: %v", c.args, err)
			}
			continue
		}
		if err != nil || s.root != c.root || s.mode != c.mode || (s.source == nil) != (c.source == nil) ||
			s.source != nil && *s.source != *c.source {
			t.Errorf("%q: %+v, %v", c.args, s, err)
		}
	}
}

func TestTiming(t *testing.T) {
	if got, err := timingOf(lanHeartbeat, lanElection); err != nil || got != agreement.LAN {
		t.Errorf("%+v, %v", got, err)
	}
	got, err := timingOf(200*time.Millisecond, 1500*time.Millisecond)
	if err != nil || got.Tick != 100*time.Millisecond || got.Election != 15 {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range [][2]time.Duration{{time.Millisecond, time.Second}, {time.Second, 2 * time.Second}, {time.Second, time.Hour}} {
		if got, err := timingOf(bad[0], bad[1]); err == nil {
			t.Errorf("%v: %+v", bad, got)
		}
	}
}

// TestModesOnRoots: start wants an empty root, restart one with data, autonomic somebody to take the state from, and
// found something to found a cell on.
func TestModesOnRoots(t *testing.T) {
	s := newSite(t)
	refused := func(words string, args ...string) {
		t.Helper()
		if status, said := s.run(args...); status != exitFailed || !strings.Contains(said, words) {
			t.Errorf("%q: status %d, %q", args, status, said)
		}
	}
	refused("use start", "--foreground", "0", s.root, "restart")
	refused("no server knows a master", "--foreground", "0", s.root, "restart", "autonomic")
	refused("the source can't be asked", "--foreground", "0", s.root, "restart", "autonomic", "1")
	check(t, os.MkdirAll(filepath.Join(s.root, "data"), 0o750))
	refused("use restart", "--foreground", "0", s.root, "start")
	check(t, os.RemoveAll(s.root))
	check(t, os.Mkdir(s.root, 0o750))
	refused("identity", "0", s.root, "found")
	if left, err := os.ReadDir(s.root); err != nil || len(left) > 0 {
		t.Errorf("found left %v behind in an empty root, %v", left, err)
	}
}

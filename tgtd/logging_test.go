package main

import (
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/target"
)

// memorySink keeps lines.
type memorySink struct {
	mu    sync.Mutex
	lines []string
}

func (s *memorySink) Log(level slog.Level, line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, fmt.Sprintf("%v %s", level, line))
}

func (s *memorySink) Close() {}

func TestLineFormat(t *testing.T) {
	s := &memorySink{}
	log := newLogger(s, false)
	defer log.close()
	log.Debug("not shown")
	log.Info("plain")
	log.Warn("values", "n", 1, "text", "two words", "empty", "", "err", errors.New("bad \"thing\""))
	log.With("a", 1).WithGroup("g").Info("nested", "b", 2, slog.Group("h", "c", 3))
	log.Error("named", target.OriginKey, "iscsi_add_portal")
	func() { log.Info("closure") }()
	log.Info("a name\nwith tgtd: a forged line\x1b[2J")
	log.setDebug(true)
	log.Debug("shown")
	want := []string{
		"INFO TestLineFormat(N) plain",
		`WARN TestLineFormat(N) values n=1 text="two words" empty="" err="bad \"thing\""`,
		"INFO TestLineFormat(N) nested a=1 g.b=2 g.h.c=3",
		"ERROR iscsi_add_portal(N) named",
		"INFO TestLineFormat(N) closure",
		`INFO TestLineFormat(N) a name\nwith tgtd: a forged line\x1b[2J`,
		"DEBUG TestLineFormat(N) shown",
	}
	number := regexp.MustCompile(`\(\d+\)`)
	for i, line := range s.lines {
		s.lines[i] = number.ReplaceAllString(line, "(N)")
	}
	if got := strings.Join(s.lines, "\n"); got != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
}

func TestStamp(t *testing.T) {
	for want, dropped := range map[string]uint64{"f(1) text seq=7": 0, "f(1) text seq=7 dropped=3": 3} {
		if got := stamp("f(1) text", 7, dropped); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TestFloods: a kind of line that comes without end is cut off and counted; the last word comes at the end.
func TestFloods(t *testing.T) {
	s := &memorySink{}
	log := newLogger(s, false)
	for n := range 1000 {
		log.Error("flood", "n", n)
	}
	log.Error("another")
	log.close()
	if len(s.lines) >= 1000 || !strings.Contains(s.lines[len(s.lines)-1], ") flood n=999 suppressed=") ||
		!strings.Contains(s.lines[len(s.lines)-2], ") another") {
		t.Errorf("%d lines: %q", len(s.lines), s.lines[max(0, len(s.lines)-3):])
	}
}

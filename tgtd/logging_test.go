package main

import (
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"testing"

	gsyslog "github.com/hashicorp/go-syslog"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/target"
)

// memorySink keeps lines.
type memorySink struct {
	mu    sync.Mutex
	lines []string
}

func (s *memorySink) write(level slog.Level, line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, fmt.Sprintf("%v %s", level, line))
}

func (s *memorySink) close() {}

func TestLineFormat(t *testing.T) {
	s := &memorySink{}
	log := newLogger(s, false)
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

// fakeSyslog is a syslogd that the test can stall and break.
type fakeSyslog struct {
	mu     sync.Mutex
	lines  []string
	err    error
	stall  chan struct{} // when not nil, lines wait for a token
	closed int
}

func (f *fakeSyslog) WriteLevel(p gsyslog.Priority, b []byte) error {
	if f.stall != nil {
		<-f.stall
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return f.err
	}
	f.lines = append(f.lines, fmt.Sprintf("%d %s", p, b))
	return nil
}

func (f *fakeSyslog) Write(b []byte) (int, error) { return len(b), f.WriteLevel(gsyslog.LOG_INFO, b) }

func (f *fakeSyslog) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed++
	return nil
}

func TestSyslogNumbersLines(t *testing.T) {
	f, fallback := &fakeSyslog{}, &memorySink{}
	s := newSyslogSink(func() (gsyslog.Syslogger, error) { return f, nil }, fallback)
	s.write(slog.LevelError, "one")
	s.write(slog.LevelWarn, "two")
	s.write(slog.LevelInfo, "three")
	s.write(slog.LevelDebug, "four")
	s.close()
	want := "3 one seq=1\n4 two seq=2\n6 three seq=3\n7 four seq=4"
	if got := strings.Join(f.lines, "\n"); got != want || f.closed != 1 || len(fallback.lines) != 0 {
		t.Errorf("got\n%s\nclosed %d times, fallback %q", got, f.closed, fallback.lines)
	}
}

func TestSyslogThatStallsStallsNobody(t *testing.T) {
	f := &fakeSyslog{stall: make(chan struct{})}
	s := newSyslogSink(func() (gsyslog.Syslogger, error) { return f, nil }, &memorySink{})
	const more = 10
	for range syslogQueue + more { // returns although nothing is taken
		s.write(slog.LevelInfo, "line")
	}
	dropped := s.dropped.Load()
	if dropped < more-1 || dropped > more { // one may be on its way
		t.Errorf("%d lines dropped of %d above the limit", dropped, more)
	}
	close(f.stall)
	s.close()
	if all := strings.Join(f.lines, "\n"); !strings.Contains(all, fmt.Sprintf(" dropped=%d", dropped)) {
		t.Error("nobody is told that lines were dropped")
	}
}

func TestSyslogOutOfReach(t *testing.T) {
	fallback := &memorySink{}
	dials := 0
	s := newSyslogSink(func() (gsyslog.Syslogger, error) {
		dials++
		return nil, errors.New("no syslogd")
	}, fallback)
	s.write(slog.LevelError, "one")
	s.write(slog.LevelError, "two")
	s.close()
	want := []string{"ERROR syslog can't be reached: no syslogd", "ERROR one seq=1", "ERROR two seq=2"}
	if strings.Join(fallback.lines, "\n") != strings.Join(want, "\n") || dials != 1 {
		t.Errorf("%q after %d dials", fallback.lines, dials)
	}
}

func TestSyslogThatBreaks(t *testing.T) {
	f, fallback := &fakeSyslog{err: errors.New("broken")}, &memorySink{}
	s := newSyslogSink(func() (gsyslog.Syslogger, error) { return f, nil }, fallback)
	s.write(slog.LevelError, "one")
	s.close()
	if len(fallback.lines) != 2 || fallback.lines[1] != "ERROR one seq=1" || f.closed != 1 {
		t.Errorf("fallback %q, closed %d times", fallback.lines, f.closed)
	}
}

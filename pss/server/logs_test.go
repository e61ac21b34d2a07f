package main

import (
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/pss/daemon"
)

// memorySink keeps lines.
type memorySink struct {
	mu    sync.Mutex
	lines []string
}

func (s *memorySink) Log(level slog.Level, line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, fmt.Sprintf("%v|%s", level, line))
}

func (s *memorySink) Close() {}

func TestLineFormat(t *testing.T) {
	s := &memorySink{}
	log := slog.New(newLineHandler(s, slog.LevelInfo, false))
	log.Debug("not shown")
	log.Info("server runs", "id", 3, "root", "/a b")
	log.With("a", 1).WithGroup("g").Warn("nested", "time", "stays")
	log.Error("two\nlines")
	want := []string{
		`INFO|level=INFO msg="server runs" id=3 root="/a b"`,
		`WARN|level=WARN msg=nested a=1 g.time=stays`,
		`ERROR|level=ERROR msg="two\nlines"`,
	}
	if got := strings.Join(s.lines, "\n"); got != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
}

// TestLinesKeepTheirLevel: handlers that share a sink log at once.
func TestLinesKeepTheirLevel(t *testing.T) {
	const each = 200
	s := &memorySink{}
	log := slog.New(newLineHandler(s, slog.LevelInfo, false))
	var wg sync.WaitGroup
	for _, level := range []slog.Level{slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
		wg.Go(func() {
			own := log.With("own", level)
			for range each {
				own.Log(t.Context(), level, "x")
			}
		})
	}
	wg.Wait()
	if len(s.lines) != 3*each {
		t.Errorf("%d lines", len(s.lines))
	}
	for _, line := range s.lines {
		level, text, _ := strings.Cut(line, "|")
		if want := "level=" + level + " msg=x own=" + level; text != want {
			t.Fatalf("%q came with level %s", text, level)
		}
	}
}

func TestStamp(t *testing.T) {
	for want, dropped := range map[string]uint64{
		"7 level=INFO": 0,
		"7 level=INFO (3 lines before this one were dropped)": 3,
	} {
		if got := stamp("level=INFO", 7, dropped); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestSyslogOptions(t *testing.T) {
	o := syslogOptions(7)
	if o.Tag != "pssd_7" || o.Facility != daemon.FacilityUser || !o.Notice {
		t.Errorf("%s as %s, notice %v", o.Tag, o.Facility, o.Notice)
	}
}

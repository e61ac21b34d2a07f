package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	gsyslog "github.com/hashicorp/go-syslog"
)

// memorySink keeps lines.
type memorySink struct {
	mu     sync.Mutex
	lines  []string
	closed int
}

func (s *memorySink) Log(level slog.Level, line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, fmt.Sprintf("%v %s", level, line))
}

func (s *memorySink) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed++
}

// fakeSyslog is a syslogd that the test can stall, slow and break.
type fakeSyslog struct {
	mu     sync.Mutex
	lines  []string
	err    error
	stall  chan struct{} // when not nil, lines wait until it is closed
	delay  time.Duration // of each line
	closed int
}

func (f *fakeSyslog) WriteLevel(p gsyslog.Priority, b []byte) error {
	if f.stall != nil {
		<-f.stall
	}
	time.Sleep(f.delay)
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

// start makes a sink for f; a nil f can't be reached.
func start(f *fakeSyslog, fallback Sink, notice bool) (s *Syslog, dials *int) {
	dials = new(int)
	o := SyslogOptions{Tag: "x", Facility: FacilityUser, Notice: notice, Fallback: fallback, Stamp: stamp}
	return newSyslog(o, func() (gsyslog.Syslogger, error) {
		*dials++
		if f == nil {
			return nil, errors.New("no syslogd")
		}
		return f, nil
	}), dials
}

func stamp(line string, number, dropped uint64) string {
	line = fmt.Sprintf("%s seq=%d", line, number)
	if dropped > 0 {
		line += fmt.Sprintf(" dropped=%d", dropped)
	}
	return line
}

func TestSyslogNumbersLines(t *testing.T) {
	for notice, want := range map[bool]string{
		false: "3 one seq=1\n4 two seq=2\n6 three seq=3\n7 four seq=4",
		true:  "3 one seq=1\n4 two seq=2\n5 three seq=3\n7 four seq=4",
	} {
		f, fallback := &fakeSyslog{}, &memorySink{}
		s, _ := start(f, fallback, notice)
		s.Log(slog.LevelError, "one")
		s.Log(slog.LevelWarn, "two")
		s.Log(slog.LevelInfo, "three")
		s.Log(slog.LevelDebug, "four")
		s.Close()
		if got := strings.Join(f.lines, "\n"); got != want || f.closed != 1 || len(fallback.lines) != 0 {
			t.Errorf("got\n%s\nclosed %d times, fallback %q", got, f.closed, fallback.lines)
		}
		if fallback.closed != 1 {
			t.Errorf("fallback closed %d times", fallback.closed)
		}
	}
}

// TestSyslogThatStallsStallsNobody fills the queue: Log returns although nothing is taken, and what was dropped
// is told where it is missing.
func TestSyslogThatStallsStallsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeSyslog{stall: make(chan struct{})}
		s, _ := start(f, &memorySink{}, false)
		s.Log(slog.LevelInfo, "first")
		synctest.Wait() // it is on its way
		const more = 10
		for range maxQueuedLines + more {
			s.Log(slog.LevelInfo, "line")
		}
		dropped := s.dropped.Load()
		if dropped != more {
			t.Errorf("%d lines dropped of %d above the limit", dropped, more)
		}
		close(f.stall)
		synctest.Wait()
		s.Log(slog.LevelInfo, "next")
		s.Close()
		if len(f.lines) != 1+maxQueuedLines+1 {
			t.Fatalf("%d lines", len(f.lines))
		}
		next := f.lines[len(f.lines)-1]
		if want := fmt.Sprintf("6 next seq=%d dropped=%d", maxQueuedLines+2, dropped); next != want {
			t.Errorf("%q, want %q", next, want)
		}
		if all := strings.Join(f.lines, "\n"); strings.Count(all, " dropped=") != 1 {
			t.Error("lines were dropped once, and that is told more than once")
		}
	})
}

// TestSyslogTellsOfDropsAtTheEnd: no line follows those that were dropped.
func TestSyslogTellsOfDropsAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeSyslog{stall: make(chan struct{})}
		s, _ := start(f, &memorySink{}, false)
		s.Log(slog.LevelInfo, "first")
		synctest.Wait()
		for range maxQueuedLines + 3 {
			s.Log(slog.LevelInfo, "line")
		}
		close(f.stall)
		s.Close()
		last := f.lines[len(f.lines)-1]
		if want := fmt.Sprintf("4 the log ends seq=%d dropped=3", maxQueuedLines+2); last != want {
			t.Errorf("%q, want %q", last, want)
		}
	})
}

// TestSyslogThatIsSlowAtTheEnd takes its time with each line, as a stalled one does: Close gives up.
func TestSyslogThatIsSlowAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeSyslog{delay: 40 * time.Millisecond}
		s, _ := start(f, &memorySink{}, false)
		const lines = 1000
		for range lines {
			s.Log(slog.LevelInfo, "line")
		}
		began := time.Now()
		s.Close()
		if took := time.Since(began); took > flushLimit+3*f.delay { // the bubble's clock: exact
			t.Errorf("closing took %v", took)
		}
		written := len(f.lines) - 1
		if want := fmt.Sprintf("4 the log ends seq=%d dropped=%d", written+1, lines-written); f.lines[written] != want {
			t.Errorf("%q, want %q", f.lines[written], want)
		}
	})
}

func TestSyslogOutOfReach(t *testing.T) {
	fallback := &memorySink{}
	s, dials := start(nil, fallback, false)
	s.Log(slog.LevelError, "one")
	s.Log(slog.LevelError, "two")
	s.Close()
	want := []string{"ERROR syslog can't be reached: no syslogd", "ERROR one seq=1", "ERROR two seq=2"}
	if strings.Join(fallback.lines, "\n") != strings.Join(want, "\n") || *dials != 1 {
		t.Errorf("%q after %d dials", fallback.lines, *dials)
	}
}

func TestSyslogThatBreaks(t *testing.T) {
	f, fallback := &fakeSyslog{err: errors.New("broken")}, &memorySink{}
	s, _ := start(f, fallback, false)
	s.Log(slog.LevelError, "one")
	s.Close()
	if len(fallback.lines) != 2 || fallback.lines[1] != "ERROR one seq=1" || f.closed != 1 {
		t.Errorf("fallback %q, closed %d times", fallback.lines, f.closed)
	}
	if fallback.lines[0] != "ERROR syslog takes no more: broken" {
		t.Errorf("fallback %q", fallback.lines)
	}
}

// TestSyslogIsTriedAgain: a syslogd that comes late is left alone for retryInterval and no longer; so is one that
// broke.
func TestSyslogIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, fallback := &fakeSyslog{}, &memorySink{}
		there, dials := false, 0
		o := SyslogOptions{Tag: "x", Facility: FacilityUser, Fallback: fallback, Stamp: stamp}
		s := newSyslog(o, func() (gsyslog.Syslogger, error) {
			dials++
			if !there {
				return nil, errors.New("no syslogd")
			}
			return f, nil
		})
		step := func(line string, wait time.Duration) {
			s.Log(slog.LevelInfo, line)
			synctest.Wait()
			time.Sleep(wait)
		}
		step("a", 0)
		there = true
		step("b", retryInterval-time.Nanosecond)
		step("c", time.Nanosecond)
		step("d", 0)
		f.err = errors.New("broken")
		step("e", 0)
		f.err = nil
		step("f", retryInterval)
		step("g", 0)
		s.Close()
		want := "6 d seq=4\n6 g seq=7"
		if got := strings.Join(f.lines, "\n"); got != want || dials != 3 || f.closed != 2 {
			t.Errorf("got\n%s\nafter %d dials, closed %d times", got, dials, f.closed)
		}
		want = "ERROR syslog can't be reached: no syslogd\nINFO a seq=1\nINFO b seq=2\nINFO c seq=3\n" +
			"ERROR syslog takes no more: broken\nINFO e seq=5\nINFO f seq=6"
		if got := strings.Join(fallback.lines, "\n"); got != want {
			t.Errorf("fallback:\n%s\nwant\n%s", got, want)
		}
	})
}

func TestStderr(t *testing.T) {
	var b strings.Builder
	s := NewStderr(&b, "x")
	s.Log(slog.LevelDebug, "one")
	s.Log(slog.LevelError, "two")
	s.Close()
	if want := "x: one\nx: two\n"; b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
}

// TestSyslogOnTheWire reads what a syslogd gets: the priority of facility and level, and the tag.
func TestSyslogOnTheWire(t *testing.T) {
	for _, c := range []struct {
		options SyslogOptions
		want    string
	}{
		{SyslogOptions{Tag: "pssd_7", Facility: FacilityUser, Notice: true}, `^<13>.* pssd_7\[\d+\]: text seq=1\n$`},
		{SyslogOptions{Tag: "tgtd", Facility: FacilityDaemon}, `^<30>.* tgtd\[\d+\]: text seq=1\n$`},
	} {
		path := filepath.Join(t.TempDir(), "log")
		syslogd, err := net.ListenPacket("unixgram", path)
		if err != nil {
			t.Fatal(err)
		}
		fallback := &memorySink{}
		c.options.Fallback, c.options.Stamp = fallback, stamp
		s := newSyslog(c.options, dialer(c.options, "unixgram", path))
		s.Log(slog.LevelInfo, "text")
		s.Close()
		if len(fallback.lines) != 0 {
			t.Fatalf("fallback %q", fallback.lines)
		}
		b := make([]byte, 1024)
		n, _, err := syslogd.ReadFrom(b)
		if err != nil {
			t.Fatal(err)
		}
		if !regexp.MustCompile(c.want).Match(b[:n]) {
			t.Errorf("%q does not match %s", b[:n], c.want)
		}
		syslogd.Close()
	}
}

package daemon

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// stalledSink takes nothing until it is told to.
type stalledSink struct {
	memorySink
	stall chan struct{}
}

func (s *stalledSink) Log(level slog.Level, line string) {
	<-s.stall
	s.memorySink.Log(level, line)
}

// TestQueueStallsNobody: lines wait while nobody reads the log, more than fit are counted, and the order stays.
func TestQueueStallsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stalledSink{stall: make(chan struct{})}
		q := NewQueue(s)
		q.Log(slog.LevelInfo, "first")
		synctest.Wait() // it is on its way
		for n := range maxQueuedLines + 7 {
			q.Log(slog.LevelInfo, fmt.Sprint(n))
		}
		close(s.stall)
		synctest.Wait()
		q.Log(slog.LevelError, "next")
		q.Close()
		if len(s.lines) != 1+maxQueuedLines+1 || s.closed != 1 {
			t.Fatalf("%d lines, closed %d times", len(s.lines), s.closed)
		}
		for n, line := range s.lines[1 : 1+maxQueuedLines] {
			if want := fmt.Sprint("INFO ", n); line != want {
				t.Fatalf("line %d is %q", n, line)
			}
		}
		if last := s.lines[len(s.lines)-1]; last != "ERROR next dropped=7" {
			t.Errorf("%q", last)
		}
	})
}

// TestQueueThatIsNeverRead: the end does not wait for a log that takes nothing at all.
func TestQueueThatIsNeverRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stalledSink{stall: make(chan struct{})}
		q := NewQueue(s)
		q.Log(slog.LevelInfo, "lost")
		began := time.Now()
		q.Close()
		if took := time.Since(began); took != 2*flushLimit {
			t.Errorf("closing took %v", took)
		}
		close(s.stall) // the bubble's goroutines have to end
		synctest.Wait()
		if strings.Join(s.lines, "") != "INFO lost" {
			t.Errorf("%q", s.lines)
		}
	})
}

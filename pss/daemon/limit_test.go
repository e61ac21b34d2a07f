package daemon

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// limited returns a logger behind a Limit, and what it writes.
func limited() (*slog.Logger, *Limit, *strings.Builder) {
	var out strings.Builder
	l := NewLimit(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
	return slog.New(l), l, &out
}

// logFlood is one place in the program, which it would not be where it is called if it were compiled into that.
//
//go:noinline
func logFlood(log *slog.Logger, n int) { log.With("who", "a").Warn("flood", "n", n) }

// TestLimit: a place in the program that logs without end is written a hundred times and then once a second, with the
// number of lines that were not; other places are not touched by it, nor is debugging.
func TestLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, l, out := limited()
		flood := func(n int) { logFlood(log, n) }
		for n := range maxBurst + 5 {
			flood(n)
		}
		log.Info("calm")
		for range 3 * maxBurst {
			log.Debug("detail")
		}
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if len(lines) != maxBurst+1+3*maxBurst || lines[maxBurst] != "level=INFO msg=calm" ||
			lines[maxBurst-1] != fmt.Sprintf("level=WARN msg=flood who=a n=%d", maxBurst-1) {
			t.Fatalf("%d lines, %q", len(lines), lines[max(0, len(lines)-3):])
		}
		out.Reset()
		time.Sleep(lineInterval)
		flood(1000)
		flood(1001)
		if want := "level=WARN msg=flood who=a n=1000 suppressed=5\n"; out.String() != want {
			t.Errorf("%q, want %q", out.String(), want)
		}
		out.Reset()
		flood(1002)
		time.Sleep(sweepInterval) // nothing follows
		synctest.Wait()
		if want := "level=WARN msg=flood who=a n=1002 suppressed=1\n"; out.String() != want {
			t.Errorf("%q, want %q", out.String(), want)
		}
		out.Reset()
		time.Sleep(maxBurst * lineInterval)
		for n := range maxBurst + 1 { // it was quiet for so long that all may be written again
			flood(n)
		}
		if n := strings.Count(out.String(), "\n"); n != maxBurst {
			t.Errorf("%d lines after a pause", n)
		}
		out.Reset()
		l.Close()
		if want := fmt.Sprintf("level=WARN msg=flood who=a n=%d suppressed=0\n", maxBurst); out.String() != want {
			t.Errorf("at the end %q, want %q", out.String(), want)
		}
	})
}

// TestLimitOfKinds: places beyond the limit share an account, which is bounded itself.
func TestLimitOfKinds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, l, out := limited()
		for pc := range uintptr(maxKinds + 3*maxBurst) {
			r := slog.NewRecord(time.Time{}, slog.LevelWarn, "x", pc+1)
			if err := l.Handle(t.Context(), r); err != nil {
				t.Error(err)
			}
		}
		if n := strings.Count(out.String(), "\n"); n != maxKinds+maxBurst || len(l.kinds) != maxKinds+1 {
			t.Errorf("%d lines, %d kinds", n, len(l.kinds))
		}
		l.Close()
	})
}

// TestLimitFromEverywhere: handlers that share a Limit log at once; each line is written or counted.
func TestLimitFromEverywhere(t *testing.T) {
	var mu sync.Mutex
	counts := map[string]int{}
	w := writerFunc(func(b []byte) {
		mu.Lock()
		defer mu.Unlock()
		line, n := string(b), 0
		if _, after, ok := strings.Cut(line, SuppressedKey+"="); ok {
			fmt.Sscan(after, &n)
		}
		counts["lines"] += 1 + n
	})
	l := NewLimit(slog.NewTextHandler(w, nil))
	log := slog.New(l)
	const goroutines, each = 8, 500
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			own := log.With("g", g)
			for range each {
				own.Error("x")
			}
		})
	}
	wg.Wait()
	l.Close()
	if counts["lines"] != goroutines*each {
		t.Errorf("%d of %d lines are accounted for", counts["lines"], goroutines*each)
	}
}

type writerFunc func([]byte)

func (f writerFunc) Write(b []byte) (int, error) { f(b); return len(b), nil }

var _ io.Writer = writerFunc(nil)

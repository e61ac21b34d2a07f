package daemon

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// systemd stands in for the real one: it returns the messages that reach NOTIFY_SOCKET.
func systemd(t *testing.T) <-chan string {
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("NOTIFY_SOCKET", path)
	said, done := make(chan string, 1024), make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 4096)
		for {
			n, err := l.Read(b)
			if err != nil {
				return
			}
			said <- string(b[:n])
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return said
}

// TestWatchdog: the watchdog hears of a daemon that lives, nothing of one that does not, and again when it does.
func TestWatchdog(t *testing.T) {
	said := systemd(t)
	t.Setenv("WATCHDOG_USEC", "3000")
	t.Setenv("WATCHDOG_PID", "")
	var asked atomic.Int32
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		Watchdog(ctx, slog.New(slog.DiscardHandler), func() (string, bool) {
			n := asked.Add(1)
			if n <= 2 {
				return "well", true
			}
			return "well again", n > 5
		})
	}()
	for i, want := range []string{"WATCHDOG=1\nSTATUS=well", "WATCHDOG=1\nSTATUS=well", "WATCHDOG=1\nSTATUS=well again"} {
		if got := <-said; got != want {
			t.Errorf("message %d: %q, want %q", i, got, want)
		}
	}
	if n := asked.Load(); n < 6 {
		t.Errorf("pinged after %d looks, of which three found it dead", n)
	}
	cancel()
	<-ended
}

// TestNoWatchdog: without WatchdogSec nobody is asked and nothing runs; a value that is none is told.
func TestNoWatchdog(t *testing.T) {
	never := func() (string, bool) { t.Error("asked"); return "", false }
	t.Setenv("WATCHDOG_USEC", "")
	Watchdog(t.Context(), slog.New(slog.DiscardHandler), never)
	t.Setenv("WATCHDOG_USEC", "soon")
	var out strings.Builder
	Watchdog(t.Context(), slog.New(slog.NewTextHandler(&out, nil)), never)
	if !strings.Contains(out.String(), "can't be fed") {
		t.Errorf("log %q", out.String())
	}
}

// TestNotifyNobody: a socket that is gone is told, one that was never named isn't missed.
func TestNotifyNobody(t *testing.T) {
	var out strings.Builder
	log := slog.New(slog.NewTextHandler(&out, nil))
	t.Setenv("NOTIFY_SOCKET", "")
	Notify(log, "READY=1")
	if out.Len() != 0 {
		t.Errorf("log %q", out.String())
	}
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "none"))
	Notify(log, "READY=1")
	if !strings.Contains(out.String(), "can't be told") {
		t.Errorf("log %q", out.String())
	}
}

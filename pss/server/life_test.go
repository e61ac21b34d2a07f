package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// messages are those that a service sends to systemd.
type messages <-chan string

// systemd stands in for the real one: services that are started from now on have a watchdog.
func systemd(t *testing.T) messages {
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	check(t, err)
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "30000")
	said, done := make(chan string, 1024), make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 4096)
		for {
			n, err := l.Read(b)
			if err != nil {
				return
			}
			select {
			case said <- string(b[:n]):
			default: // nobody wants to know any more; who sends must not wait for that
			}
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return said
}

// await waits for so many messages that begin so.
func (m messages) await(t *testing.T, prefix string, count int) {
	t.Helper()
	last, end := "", time.After(patience)
	for count > 0 {
		select {
		case last = <-m:
		case <-end:
			t.Fatalf("no message %q; the last was %q", prefix, last)
		}
		if strings.HasPrefix(last, prefix) {
			count--
		}
	}
}

// TestNotify: what systemd hears of a server from its start to its end.
func TestNotify(t *testing.T) {
	said := systemd(t)
	s := newSite(t)
	cmd := s.command("--foreground", "--metrics", "off", "0", s.root)
	check(t, cmd.Start())
	said.await(t, "READY=1", 1)
	said.await(t, "WATCHDOG=1\nSTATUS=fresh, entry 0 of 0", 3)
	check(t, cmd.Process.Signal(os.Interrupt))
	said.await(t, "STOPPING=1", 1)
	check(t, cmd.Wait())
}

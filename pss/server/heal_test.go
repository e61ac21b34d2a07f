package main

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/replica"
)

// status waits until a server says of itself what is wanted.
func (s *site) status(id cell.ID, what string, wanted func(st *admin.Status) bool) admin.Status {
	s.t.Helper()
	conf, err := cell.Load(s.conf)
	check(s.t, err)
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		st, err := replica.StatusOf(context.Background(), conf, id)
		if err == nil && wanted(&st) {
			return st
		}
		if time.Now().After(end) {
			s.t.Fatalf("server %d: not %s: %+v, %v", id, what, st, err)
		}
	}
}

// TestHealsByItself: a server whose log is damaged waits while the cell can't spare it, and comes back as a new
// member when the cell can.
func TestHealsByItself(t *testing.T) {
	s := newSite(t)
	folder := filepath.Dir(s.root)
	running := make(map[int]int)
	defer func() {
		for _, pid := range running {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}()
	start := func(id int) {
		t.Helper()
		if status, words := s.run(strconv.Itoa(id)); status != 0 {
			t.Fatalf("server %d: status %d, %q", id, status, words)
		}
		s.root = filepath.Join(folder, "PFS-"+strconv.Itoa(id))
		running[id] = s.pid()
	}
	stop := func(id int) {
		t.Helper()
		s.root = filepath.Join(folder, "PFS-"+strconv.Itoa(id))
		check(t, syscall.Kill(running[id], syscall.SIGTERM))
		delete(running, id)
		s.ended()
	}
	up := func(st *admin.Status) bool { return st.Master != nil && st.Member != 0 }
	for id := range 3 {
		start(id)
	}
	before := s.status(0, "in the cell", up).Member
	for id := range 3 {
		stop(id)
	}
	segments, err := filepath.Glob(filepath.Join(folder, "PFS-0", "log", "*.log"))
	check(t, err)
	slices.Sort(segments)
	f, err := os.OpenFile(segments[0], os.O_RDWR, 0)
	check(t, err)
	_, err = f.WriteAt([]byte("rot"), 20)
	check(t, err)
	check(t, f.Close())

	said := systemd(t) // the server that waits is a service that lives
	if status, words := s.run("0"); status != 0 {
		t.Fatalf("status %d, %q", status, words)
	}
	said.await(t, "READY=1", 1)
	said.await(t, "WATCHDOG=1\nSTATUS=waits until the cell can spare it", 3)
	t.Setenv("NOTIFY_SOCKET", "")
	running[0] = s.pid() // the command has come back, and the server waits
	start(1)
	start(2)
	st := s.status(0, "a new member", func(st *admin.Status) bool { return up(st) && st.Member > before })
	s.root = filepath.Join(folder, "PFS-0")
	running[0] = s.pid()
	if cell.Incarnation(st.Member) != 1 {
		t.Errorf("%+v", st)
	}
	for id := range 3 {
		stop(id)
	}
}

package psstest

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/agreement"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/psstest/port"
	"github.com/paxos-iscsi/paxos-iscsi/pss/replica"
)

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

// RealCell is a cell of servers as they are, in this process, on loopback and in folders of the test.
type RealCell struct {
	t       testing.TB
	File    string // server.conf
	Conf    *cell.Config
	servers map[cell.ID]*replica.Replica
}

// timing has quick elections, for tests.
func timing() agreement.Timing {
	return agreement.Timing{Tick: 5 * time.Millisecond, Heartbeat: 2, Election: 20}
}

// StartReal runs servers with these ids, and stops them when the test ends. It returns when there is a master.
func StartReal(t testing.TB, ids ...int) *RealCell {
	t.Helper()
	c := DescribeReal(t, ids...)
	for _, s := range c.Conf.Servers {
		c.Run(s.ID)
	}
	c.Master()
	return c
}

// DescribeReal is a cell whose servers don't run.
func DescribeReal(t testing.TB, ids ...int) *RealCell {
	t.Helper()
	dir := t.TempDir()
	ports, err := port.Free(2 * len(ids))
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for i, id := range ids {
		path := filepath.Join(dir, fmt.Sprint(id))
		if err := os.Mkdir(path, 0o750); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&text, "%d %s %d %d %s\n", id, port.Host, ports[2*i], ports[2*i+1], path)
	}
	c := &RealCell{t: t, File: filepath.Join(dir, "server.conf"), servers: map[cell.ID]*replica.Replica{}}
	if err := os.WriteFile(c.File, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if c.Conf, err = cell.Load(c.File); err != nil {
		t.Fatal(err)
	}
	return c
}

// Run starts a server.
func (c *RealCell) Run(id cell.ID) {
	c.t.Helper()
	s, _ := c.Conf.Server(id)
	if err := os.MkdirAll(s.Root(), 0o750); err != nil {
		c.t.Fatal(err)
	}
	r, err := replica.Open(replica.Options{Cell: c.Conf, ID: id, Root: s.Root(), Timing: timing(),
		Logger: slog.New(slog.DiscardHandler), SegmentBytes: 1 << 20})
	if err != nil {
		c.t.Fatal(err)
	}
	c.servers[id] = r
	c.t.Cleanup(func() { c.Stop(id) })
}

// Stop stops a server, as a crash would. One that had ended by itself, as it was told to, is no error.
func (c *RealCell) Stop(id cell.ID) {
	c.t.Helper()
	r := c.servers[id]
	if r == nil {
		return
	}
	delete(c.servers, id)
	select {
	case <-r.Done():
		_ = r.Close() // it says again why it ended
	default:
		if err := r.Close(); err != nil {
			c.t.Errorf("server %d: %v", id, err)
		}
	}
}

// Ended waits until a server has stopped by itself.
func (c *RealCell) Ended(id cell.ID) {
	c.t.Helper()
	select {
	case <-c.servers[id].Done():
	case <-time.After(patience):
		c.t.Fatalf("server %d runs still", id)
	}
}

// Master waits until there is one that everybody knows, and that has heard of everybody.
func (c *RealCell) Master() cell.ID {
	c.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		var master *cell.ID
		agreed := 0
		for _, r := range c.servers {
			if st := r.Status(); st.Master != nil && (master == nil || *master == *st.Master) {
				master = st.Master
				agreed++
			}
		}
		if master != nil && !c.heard(*master) {
			continue
		}
		if agreed == len(c.servers) && agreed > 0 {
			return *master
		}
	}
	c.t.Fatal("no master")
	return 0
}

// heard says whether the master knows of all servers that run that they answer.
func (c *RealCell) heard(master cell.ID) bool {
	r := c.servers[master]
	if r == nil {
		return false
	}
	active := 0
	for _, m := range r.Status().Members {
		if m.Active && c.servers[m.ID] != nil {
			active++
		}
	}
	return active == len(c.servers)
}

// Package testcell runs small cells in the tests of commands: real servers on loopback, in this process.
package testcell

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/agreement"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/replica"
)

// Cell is a cell of servers in this process.
type Cell struct {
	t       *testing.T
	File    string // server.conf
	Conf    *cell.Config
	servers map[cell.ID]*replica.Replica
}

// timing has quick elections, for tests.
func timing() agreement.Timing {
	return agreement.Timing{Tick: 5 * time.Millisecond, Heartbeat: 2, Election: 20}
}

// Start runs servers with these ids, and stops them when the test ends. It returns when there is a master.
func Start(t *testing.T, ids ...int) *Cell {
	t.Helper()
	c := Describe(t, ids...)
	for _, s := range c.Conf.Servers {
		c.Run(s.ID)
	}
	c.Master()
	return c
}

// Describe is a cell whose servers don't run.
func Describe(t *testing.T, ids ...int) *Cell {
	t.Helper()
	dir := t.TempDir()
	var text strings.Builder
	for _, id := range ids {
		path := filepath.Join(dir, fmt.Sprint(id))
		if err := os.Mkdir(path, 0o750); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&text, "%d 127.0.0.1 %d %d %s\n", id, freePort(t, "udp"), freePort(t, "tcp"), path)
	}
	file := filepath.Join(dir, "server.conf")
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	conf, err := cell.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	return &Cell{t: t, File: file, Conf: conf, servers: map[cell.ID]*replica.Replica{}}
}

// freePort finds a port that nobody has at this moment.
func freePort(t *testing.T, network string) int {
	t.Helper()
	if network == "udp" {
		l, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return l.LocalAddr().(*net.UDPAddr).Port
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// Run starts a server.
func (c *Cell) Run(id cell.ID) {
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

// Stop stops a server, as a crash would.
func (c *Cell) Stop(id cell.ID) {
	if r := c.servers[id]; r != nil {
		delete(c.servers, id)
		_ = r.Close() // how it ended is not what the tests of commands look at
	}
}

// Ended waits until a server has stopped by itself.
func (c *Cell) Ended(id cell.ID) {
	c.t.Helper()
	select {
	case <-c.servers[id].Done():
	case <-time.After(patience):
		c.t.Fatalf("server %d runs still", id)
	}
}

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

// Master waits until there is one that everybody knows, and that has heard of everybody.
func (c *Cell) Master() cell.ID {
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
func (c *Cell) heard(master cell.ID) bool {
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

package pss

import (
	"fmt"
	"strings"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/psstest"
	"github.com/paxos-iscsi/paxos-iscsi/pss/wire"
)

// TestTablesOfServers: the newest table counts, and server.conf as long as the cell has agreed on nothing else.
func TestTablesOfServers(t *testing.T) {
	c := open(t, psstest.New(t, 3), quick())
	ports := func() string {
		c.mu.Lock()
		defer c.mu.Unlock()
		var all [8]string
		for _, p := range c.peers {
			all[p.server.ID] += fmt.Sprintf("%d:%d ", p.server.ID, p.server.TCPPort)
		}
		return strings.TrimSpace(strings.Join(all[:], ""))
	}
	seed := ports()
	rest := seed[strings.Index(seed, " 1:"):]
	at := func(id cell.ID, port int, agreed bool) wire.Server {
		return wire.Server{ID: id, Agreed: agreed, Host: "127.0.0.1", TCPPort: port, UDPPort: port}
	}
	for _, step := range []struct {
		what    string
		index   uint64
		servers []wire.Server
		want    string
	}{
		{"another server.conf moves nobody", 0, []wire.Server{at(0, 1, false)}, seed},
		{"but it tells of who is not known, core servers only", 0, []wire.Server{at(3, 2, false), at(5, 3, false)}, seed + " 3:2"},
		{"the cell moves a server", 7, []wire.Server{at(0, 4, true)}, "0:4" + rest + " 3:2"},
		{"an older table is passed over", 6, []wire.Server{at(0, 5, true), {ID: 3, Removed: true}}, "0:4" + rest + " 3:2"},
		{"the same again changes nothing", 7, []wire.Server{at(0, 4, true)}, "0:4" + rest + " 3:2"},
		{"a server is removed", 8, []wire.Server{at(0, 4, true), {ID: 3, Removed: true}}, "0:4" + rest},
		{"and stays out for whoever has not heard of it", 7, []wire.Server{at(3, 2, false)}, "0:4" + rest},
		{"until it is back", 9, []wire.Server{at(3, 6, true)}, "0:4" + rest + " 3:6"},
	} {
		c.learn(&wire.Servers{Index: step.index, Servers: step.servers})
		if got := ports(); got != step.want {
			t.Errorf("%s: servers at %s, want %s", step.what, got, step.want)
		}
	}
}

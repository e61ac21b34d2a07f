package e2e

import (
	"os"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/packaging/rig"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
)

// TestLostDisk: a server that comes back with an empty disk is taken in again by itself, under load: a follower, a
// replica, and the master.
func TestLostDisk(t *testing.T) {
	s := newSystem(t, rig.AllServers())
	l := s.load()
	l.Start()
	s.acks(l, 2000)
	for _, id := range []cell.ID{s.followers()[0], 6, s.master()} {
		server, _ := s.cell.Config.Server(id)
		must(t, s.cell.Server(id).Kill())
		must(t, os.RemoveAll(server.Root()))
		s.acks(l, 500)
		s.start(id)
		t.Logf("server %d is level with an empty disk", id)
	}
	s.acks(l, 500)
	s.judge(l)
}

package auth_test

import (
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/pss/auth"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/wire"
)

// TestSameNumbers: what this package can't import from above it is the same there.
func TestSameNumbers(t *testing.T) {
	if auth.Servers != cell.MaxServers || auth.Tool != wire.None {
		t.Errorf("%d servers and tool %d, and cell has %d, wire %d", auth.Servers, auth.Tool, cell.MaxServers, wire.None)
	}
	if size := wire.MaxDatagram + auth.Overhead; size > 1500-48 {
		t.Errorf("the largest sealed datagram has %d bytes: too many for an Ethernet frame with IPv6 and UDP", size)
	}
}

package main

import (
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/tgtadm/transcript"
)

// TestGolden: recorded sessions with tgt's tgtadm.
func TestGolden(t *testing.T) {
	transcript.Golden(t, map[string]string{"tgtadm": "github.com/paxos-iscsi/paxos-iscsi/tgtadm"}, nil)
}

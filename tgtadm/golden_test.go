package main

import (
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/tgtadm/transcript"
)

// TestGolden: recorded sessions with tgt's tgtadm.
func TestGolden(t *testing.T) {
	transcript.Golden(t, map[string]string{"tgtadm": "github.com/paxos-iscsi/paxos-iscsi/tgtadm"}, nil)
}

// TestGoldenTheirs: the same sessions with tgt's own tgtadm on this project's daemon.
func TestGoldenTheirs(t *testing.T) {
	transcript.GoldenTheirs(t, []string{"tgtadm"}, nil)
}

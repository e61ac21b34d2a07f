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
	const lives = "tgt's daemon dies of the request, this one answers it"
	transcript.GoldenTheirs(t, []string{"tgtadm"}, map[string]string{
		"013-account-delete-without-user:6": lives,
		"013-account-delete-without-user:9": lives,
		"043-daemon-deaths:18":              lives,
		"043-daemon-deaths:26":              lives,
	})
}

package main

import (
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/tgtadm/transcript"
)

// TestGolden: recorded sessions with tgt's tgt-setup-lun, on a host of another name.
func TestGolden(t *testing.T) {
	transcript.Golden(t, map[string]string{
		"tgtadm":        "github.com/paxos-iscsi/paxos-iscsi/tgtadm",
		"tgt-setup-lun": "github.com/paxos-iscsi/paxos-iscsi/tgt-admin/tgt-setup-lun",
	}, nil)
}

package main

import (
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/tgtadm/transcript"
)

// TestGolden: recorded sessions with tgt's tgtimg.
func TestGolden(t *testing.T) {
	const alive = "the original dies of a barcode that is too long"
	transcript.Golden(t, map[string]string{"tgtimg": "github.com/paxos-iscsi/paxos-iscsi/tgtadm/tgtimg"},
		map[string]string{"120-tgtimg:163": alive})
}

package main

import (
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/tgtadm/transcript"
)

// TestGolden: recorded sessions with tgt's tgt-admin of two versions; the later one is this program
// under another name.
func TestGolden(t *testing.T) {
	const (
		newer  = "stores without a medium and ${tid} are for everybody, not for 1.0.96 and later alone"
		shell  = "no shell takes the values apart"
		once   = "the directives outside of targets are carried out once a run, and what is done stays done"
		noName = "the original's text is an error of its own making"
		own    = "the test's TGT_IPC_SOCKET names a daemon of the user's own, which needs no root"
	)
	transcript.Golden(t, map[string]string{
		"tgtadm":           "github.com/paxos-iscsi/paxos-iscsi/tgtadm",
		"tgt-admin":        "github.com/paxos-iscsi/paxos-iscsi/tgt-admin",
		"tgt-admin-1.0.97": "github.com/paxos-iscsi/paxos-iscsi/tgt-admin",
	}, map[string]string{
		"218-conf-errors:135":         noName,
		"220-conf-none-store:22":      newer,
		"220-conf-none-store:54":      shell,
		"220-conf-none-store:60":      shell,
		"301-admin-usage:80":          own,
		"301-admin-usage:83":          own,
		"312-admin-globals-again:19":  once,
		"312-admin-globals-again:25":  once,
		"312-admin-globals-again:35":  once,
		"312-admin-globals-again:38":  once,
		"312-admin-globals-again:70":  once,
		"312-admin-globals-again:79":  once,
		"312-admin-globals-again:127": once,
		"312-admin-globals-again:157": once,
	})
}

// TestGoldenTheirs: the same sessions with tgt's own tgt-admin and tgtadm on this project's daemon.
func TestGoldenTheirs(t *testing.T) {
	const cd = transcript.Until + "the daemon has the device type cd"
	transcript.GoldenTheirs(t, []string{"tgtadm", "tgt-admin"}, map[string]string{
		"220-conf-none-store:60": "shows what the tgt-admin of 1.0.97 did before, which is not installed",
		"309-admin-dump:21":      cd,
		"309-admin-dump:23":      cd,
		"309-admin-dump:35":      cd,
		"309-admin-dump:53":      cd,
		"309-admin-dump:68":      cd,
		"309-admin-dump:83":      cd,
	})
}

package e2e

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/packaging/rig"
	"github.com/paxos-iscsi/paxos-iscsi/packaging/verify"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/initiator"
)

// TestInitiator has our initiator talk to the real tgtd of Debian, and to ours in the same words: what it
// relies on must not be an agreement between the two halves of this project alone.
func TestInitiator(t *testing.T) {
	t.Run("tgt", func(t *testing.T) {
		p := rig.Programs{Original: true, Tgtd: tool(t, "tgtd", "tgt"), Tgtadm: tool(t, "tgtadm", "tgt")}
		if os.Geteuid() != 0 {
			leaveOut(t, "the real tgtd needs root")
		}
		tryInitiator(t, p)
	})
	t.Run("ours", func(t *testing.T) { tryInitiator(t, suite.programs) })
	t.Run("several connections", trySeveralConnections)
}

// trySeveralConnections has a session of four connections under load, of which an administrator closes one after the
// other: the session goes on, and everything that was acknowledged is there.
func trySeveralConnections(t *testing.T) {
	const name, connections = "iqn.2001-03.jp.tritech:several", 4
	dir := tempDir(t)
	store := filepath.Join(dir, "disk")
	must(t, os.WriteFile(store, nil, 0o600))
	must(t, os.Truncate(store, unitBytes))
	target, err := rig.NewTarget(rig.TargetOptions{Dir: dir, Programs: suite.programs})
	must(t, err)
	t.Cleanup(target.Close)
	must(t, target.Start(limit(t)))
	must(t, target.AddUnit(limit(t), 1, name, 1, "rdwr", store, ""))
	admin := func(args string) string {
		t.Helper()
		out, err := target.Admin(limit(t), strings.Fields(args)...)
		must(t, err)
		return out
	}
	admin("--op update --mode target --tid 1 -n MaxConnections -v 4")
	s, err := initiator.Login(limit(t), initiator.Options{Portal: target.Portal, Target: name, Initiator: initiatorName,
		Connections: connections, Reconnect: stepTimeout})
	must(t, err)
	defer s.Close()
	must(t, s.Ready(1))
	if n := strings.Count(admin("--op show --mode conn --tid 1"), "Connection: "); n != connections || s.Connections() != n {
		t.Errorf("%d connections, %d at the target", s.Connections(), n)
	}
	l, err := verify.New(verify.Options{Device: s, LUN: 1, BlockBytes: 512, First: 2048, Blocks: 4096, Depth: 32, IOBlocks: 16, ReadPart: 40, Fresh: true})
	must(t, err)
	l.Start()
	defer l.Stop()
	const closed = 8
	for n := range closed {
		must(t, l.WaitAcks(limit(t), uint64(n+1)*500))
		admin(fmt.Sprintf("--op delete --mode conn --tid 1 --sid 1 --cid %d", n%connections))
		for s.Rejoins() != n+1 && t.Context().Err() == nil && s.Relogins() == 0 && l.Err() == nil {
			time.Sleep(time.Millisecond)
		}
	}
	must(t, l.WaitAcks(limit(t), (closed+1)*500))
	l.Stop()
	must(t, errors.Join(l.ReadBack(limit(t)), l.Err()))
	if s.Rejoins() != closed || s.Relogins() != 0 || s.Connections() != connections {
		t.Errorf("%d connections were closed: %d taken up again, %d new sessions, %d connections", closed, s.Rejoins(), s.Relogins(), s.Connections())
	}
	must(t, errors.Join(s.Close(), target.Stop(limit(t))))
}

func tryInitiator(t *testing.T, p rig.Programs) {
	const name = "iqn.2001-03.jp.tritech:disk"
	dir := tempDir(t)
	store := filepath.Join(dir, "disk")
	must(t, os.WriteFile(store, nil, 0o600))
	must(t, os.Truncate(store, 64<<20))
	target, err := rig.NewTarget(rig.TargetOptions{Dir: dir, Programs: p})
	must(t, err)
	t.Cleanup(target.Close)
	ctx := limit(t)
	must(t, target.Start(ctx))
	must(t, target.AddUnit(ctx, 1, name, 1, "rdwr", store, ""))
	admin := func(args string) {
		t.Helper()
		_, err := target.Admin(limit(t), strings.Fields(args)...)
		must(t, err)
	}
	o := initiator.Options{Portal: target.Portal, Target: name, Initiator: initiatorName}

	t.Run("discovery", func(t *testing.T) {
		found, err := initiator.Discover(limit(t), initiator.Options{Portal: target.Portal, Initiator: initiatorName})
		if err != nil || len(found) != 1 || found[0].Name != name || len(found[0].Addresses) != 1 || found[0].Addresses[0] != target.Portal+",1" {
			t.Errorf("%v, %v", found, err)
		}
	})
	for _, c := range []struct{ name, params string }{
		{"as it is", ""},
		{"only solicited", "InitialR2T=Yes ImmediateData=No"},
		{"unsolicited", "InitialR2T=No ImmediateData=No"},
		{"small pieces", "InitialR2T=No ImmediateData=Yes MaxRecvDataSegmentLength=1024 FirstBurstLength=4096 MaxBurstLength=8192"},
		{"digests", "HeaderDigest=CRC32C DataDigest=CRC32C"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for kv := range strings.FieldsSeq(c.params) {
				key, value, _ := strings.Cut(kv, "=")
				admin(fmt.Sprintf("--op update --mode target --tid 1 -n %s -v %s", key, value))
			}
			o := o
			o.HeaderDigest, o.DataDigest = c.name == "digests", c.name == "digests"
			moveData(t, o)
		})
	}
	t.Run("depth", func(t *testing.T) {
		o := o
		o.Depth = 64
		s, err := initiator.Login(limit(t), o)
		must(t, err)
		defer s.Close()
		must(t, s.Ready(1))
		l, err := verify.New(verify.Options{Device: s, LUN: 1, BlockBytes: 512, First: 2048, Blocks: 4096, Depth: 64, IOBlocks: 16, ReadPart: 40, Fresh: true})
		must(t, err)
		l.Start()
		defer l.Stop()
		must(t, l.WaitAcks(limit(t), 5000))
		l.Stop()
		must(t, errors.Join(l.ReadBack(limit(t)), l.Err()))
	})
	t.Run("CHAP", func(t *testing.T) {
		admin("--op new --mode account --user in --password in-secret-000")
		admin("--op new --mode account --user out --password out-secret-00")
		admin("--op bind --mode account --tid 1 --user in")
		admin("--op bind --mode account --tid 1 --user out --outgoing")
		for _, c := range []struct {
			user, secret, mutual, mutualSecret string
			works                              bool
		}{
			{"in", "in-secret-000", "", "", true},
			{"in", "in-secret-001", "", "", false},
			{"", "", "", "", false},
			{"in", "in-secret-000", "out", "out-secret-00", true},
			{"in", "in-secret-000", "out", "out-secret-01", false},
		} {
			o := o
			o.User, o.Secret, o.MutualUser, o.MutualSecret = c.user, c.secret, c.mutual, c.mutualSecret
			s, err := initiator.Login(limit(t), o)
			if err == nil {
				err = s.Ready(1)
				s.Close()
			}
			if (err == nil) != c.works {
				t.Errorf("%+v: %v", c, err)
			}
		}
	})
	must(t, target.Stop(limit(t)))
}

// moveData writes and reads commands of several sizes.
func moveData(t *testing.T, o initiator.Options) {
	t.Helper()
	s, err := initiator.Login(limit(t), o)
	must(t, err)
	defer s.Close()
	must(t, s.Ready(1))
	if blocks, size, err := s.Capacity(1); err != nil || blocks*uint64(size) != 64<<20 {
		t.Fatalf("%d blocks of %d bytes, %v", blocks, size, err)
	}
	for _, size := range []int{512, 4096, 7 * 512, 300 << 10, 3 << 20} {
		out, in := make([]byte, size), make([]byte, size)
		rand.Read(out)
		var task initiator.Task
		task.LUN = 1
		task.SetWrite(8, uint32(size/512), out)
		must(t, s.Do(&task))
		task.SetFlush()
		must(t, s.Do(&task))
		task.SetRead(8, uint32(size/512), in)
		must(t, s.Do(&task))
		if task.Moved != size || !bytes.Equal(in, out) {
			t.Fatalf("%d bytes came back different", size)
		}
	}
}

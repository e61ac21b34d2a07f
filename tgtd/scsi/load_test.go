package scsi

import (
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/sam"
)

// counted is how many commands or requests a Traffic has, and their bytes.
func counted(k *Traffic) [2]uint64 {
	n, _, _ := k.Duration.Read()
	return [2]uint64{n, k.Bytes.Load()}
}

// TestLoad: commands and requests to the store are counted by what they move, for all sessions, and those of sessions
// that have gone stay counted.
func TestLoad(t *testing.T) {
	m := newMemory(1 << 20)
	tg, u, i := disk(t, m)
	l := u.Load()
	before := counted(&l.Others)
	i.good(1, cdb10(0x2a, 0, 0, 2), 0, make([]byte, 1024))
	i.good(1, cdb10(0x28, 0, 0, 4), 2048, nil)
	i.good(1, make([]byte, 6), 0, nil)
	other := attach(t, tg, 9, "iqn.x:other")
	other.clear(1)
	other.good(1, cdb10(0x28, 0, 0, 1), 512, nil)
	other.detach()
	cleared := counted(&l.Others)
	i.good(1, cdb10(0x35, 0, 0, 0), 0, nil) // a flush moves nothing, and waits for the store
	for name, c := range map[string]struct{ got, want [2]uint64 }{
		"reads":        {counted(&l.Reads), [2]uint64{2, 2560}},
		"writes":       {counted(&l.Writes), [2]uint64{1, 1024}},
		"others":       {counted(&l.Others), [2]uint64{cleared[0] + 1, 0}},
		"store reads":  {counted(&l.StoreReads), [2]uint64{2, 2560}},
		"store writes": {counted(&l.StoreWrites), [2]uint64{2, 1024}},
	} {
		if c.got != c.want {
			t.Errorf("%s: %v, want %v", name, c.got, c.want)
		}
	}
	if cleared[0] <= before[0] {
		t.Error("commands without data are not counted")
	}
	errors := l.Errors.Load()
	m.fail = func(*backstore.IO) error { return backstore.ErrInternal }
	i.expect(1, cdb10(0x28, 0, 0, 1), 512, nil, sam.CheckCondition, internalTargetFailure)
	i.detach()
	if n := l.Errors.Load() - errors; n != 1 {
		t.Errorf("%d errors", n)
	}
}

// TestWaiting: a request that the store does not answer shows, and for how long; an aborted command is counted apart.
func TestWaiting(t *testing.T) {
	m := newMemory(1 << 20)
	_, u, i := disk(t, m)
	if w := u.Waiting(); w != (Waiting{}) {
		t.Errorf("idle: %+v", w)
	}
	m.hold()
	first := i.start(sam.Command{LUN: 1, Attribute: sam.Simple}, cdb10(0x28, 0, 0, 1), 512, nil)
	second := i.start(sam.Command{LUN: 1, Attribute: sam.Ordered}, cdb10(0x28, 0, 0, 1), 512, nil)
	earlier := u.Waiting()
	later := u.Waiting()
	if earlier.Commands != 2 || earlier.Requests != 1 || earlier.Longest <= 0 || later.Longest <= earlier.Longest {
		t.Errorf("%+v, then %+v", earlier, later)
	}
	aborted := manage(i, sam.AbortTaskSet, 1, 0)
	m.release()
	<-first
	<-second
	<-aborted
	l := u.Load()
	if w := u.Waiting(); w != (Waiting{}) || l.Aborted.Load() != 2 {
		t.Errorf("%+v, %d aborted", w, l.Aborted.Load())
	}
	i.detach()
}

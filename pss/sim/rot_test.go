package sim

import (
	"maps"
	"testing"
	"testing/cryptotest"

	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
)

// TestRotOnAFailingDiskIsRot: a disk takes the damage and fails right after it. The run knows of the damage all the same,
// and lets the server come back the way one with a damaged root does.
func TestRotOnAFailingDiskIsRot(t *testing.T) {
	cryptotest.SetGlobalRandom(t, 1)
	w := build(Options{Seed: 1, Core: 3, Clients: 1, Pace: 1, Faults: Members | Rot | Errors})
	w.calm = true
	w.tend()
	level := func() bool { return w.answered() && w.level() }
	if !w.wait(answerTime, level) || w.failure != nil {
		t.Fatalf("not level: %v", w.failure)
	}

	s := w.servers[1]
	before := s.contents(t)
	for range 100 { // some choose a file that is not there
		s.disk.FailAfter(2, errMedium) // it is opened and written, and not synced
		s.rotControl()
		s.disk.FailAfter(0, nil)
		if !maps.Equal(before, s.contents(t)) {
			break
		}
	}
	if maps.Equal(before, s.contents(t)) {
		t.Fatal("nothing was damaged")
	}
	if !s.wound.open || s.up {
		t.Fatalf("a damaged server has the wound %+v; up: %v", s.wound, s.up)
	}
	if !w.wait(answerTime, func() bool { return s.up && level() }) || w.failure != nil {
		t.Fatalf("the server is not back: %v", w.failure)
	}
}

// contents is what the files of the server's disk hold.
func (s *server) contents(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, name := range s.files(".") {
		b, err := readAll(s.disk, name)
		if err != nil {
			t.Fatal(err)
		}
		all[name] = string(b)
	}
	return all
}

func readAll(d disk.FS, name string) ([]byte, error) {
	f, err := d.Open(name, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close() // a disk in memory
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	b := make([]byte, size)
	_, err = f.ReadAt(b, 0)
	return b, err
}

package state

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
	"github.com/paxos-iscsi/paxos-iscsi/pss/store"
)

// What a replica uses is what the machine asks for.
var _ Store = (*store.Store)(nil)

// The store has room for every object and every snapshot there may be: these are negative, and no
// constants of their type, otherwise.
const (
	_ uint = store.MaxObjects - MaxObjects
	_ uint = store.MaxMeta - MaxSnapshot
)

// server is a machine on a real store, and the log that feeds it.
type server struct {
	fs      *disk.Mem
	store   *store.Store
	machine *Machine
	log     [][]byte    // entry i is of index i+1
	results []op.Result // of each entry
}

// open starts the server from what is on its disk and applies the rest of the log again, which must
// come to the same results.
func (s *server) open(t *rapid.T) {
	t.Helper()
	st, position, err := store.Open(s.fs, store.Options{EntryData: func(index uint64) ([]byte, error) { return s.log[index-1], nil }})
	if err != nil {
		t.Fatal(err)
	}
	s.store, s.machine = st, New(st)
	if err := s.machine.Restore(position.Meta); err != nil {
		t.Fatal(err)
	}
	for i := position.Index; i < uint64(len(s.log)); i++ {
		if r, err := s.machine.Apply(i+1, s.log[i]); err != nil || r != s.results[i] {
			t.Fatalf("entry %d applied again: %+v, not %+v, %v", i+1, r, s.results[i], err)
		}
	}
}

func (s *server) apply(t *rapid.T, entry []byte) op.Result {
	t.Helper()
	s.log = append(s.log, entry)
	r, err := s.machine.Apply(uint64(len(s.log)), entry)
	if err != nil {
		t.Fatal(err)
	}
	s.results = append(s.results, r)
	return r
}

// checkpoint moves the store's checkpoint to the newest entry.
func (s *server) checkpoint(t *rapid.T) {
	t.Helper()
	flush, err := s.store.Freeze(uint64(len(s.log)), 1, s.machine.Snapshot(nil))
	if err != nil {
		t.Fatal(err)
	}
	if err := flush.Run(); err != nil {
		t.Fatal(err)
	}
}

// TestOnTheRealStore applies random operations to a machine on the store that replicas use, with
// checkpoints and kills between, and compares it with the model.
func TestOnTheRealStore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, m := &server{fs: disk.NewMem()}, newModel()
		s.open(t)
		s.apply(t, encode(op.Header{Code: op.SessionOpen, Session: 1}))
		for i := range rapid.Uint64Range(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "event") {
			case 0:
				s.checkpoint(t)
			case 1:
				s.fs.KillProcess()
				s.open(t)
			}
			entry, want := m.operation(t, i+1)
			if got := s.apply(t, entry); got != want {
				t.Fatalf("operation %d: %+v, not %+v", i+1, got, want)
			}
		}
		m.check(t, s.machine)
		digest := s.machine.Digest()
		s.fs.KillProcess()
		s.open(t)
		m.check(t, s.machine)
		if s.machine.Digest() != digest {
			t.Fatalf("the state is another one after a restart")
		}
		if err := s.store.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

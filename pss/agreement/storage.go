package agreement

import (
	"errors"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/paxos-iscsi/paxos-iscsi/pss/log"
)

// storage is raft's view of the durable log. In front of the log stands a tail: the newest entries,
// kept in memory from the moment they are handed out to be appended, because they are needed twice
// soon after, to be applied and to be sent to slower servers. raft itself holds entries that are
// not yet stable and never asks for them here.
type storage struct {
	log      *log.Log
	members  raftpb.ConfState
	snapshot func() (raftpb.Snapshot, error)

	hard       log.HardState // newest handed out
	kept       uint64        // commit index of the newest HardState that went to the log
	applied    uint64
	lastIssued uint64 // index of the newest entry handed out to be appended

	tail      []raftpb.Entry // consecutive; tail[len-1] is lastIssued
	tailBytes int
	base      uint64 // the log restarted behind this index (a snapshot), not yet carried out on disk
	baseTerm  uint64

	ahead     ahead // of what is older than the tail
	kindsOnly bool  // nobody looks at the data of the entries that are asked for
}

func newStorage(l *log.Log, members raftpb.ConfState, applied uint64,
	snapshot func() (raftpb.Snapshot, error)) *storage {
	s := &storage{log: l, members: members, snapshot: snapshot, hard: l.HardState(),
		applied: applied, lastIssued: max(l.Last(), applied)}
	// A checkpoint holds committed entries only, but the commit index on disk may be older.
	s.hard.Commit = max(s.hard.Commit, applied)
	// The state from another server may be on disk without the term that came with it, or be one that was kept when this
	// server joined anew. It has promised nothing in the term of that, but is in it: each start finds that again.
	if term, err := s.Term(s.lastIssued); err == nil && term > s.hard.Term {
		s.hard.Term, s.hard.Vote = term, raft.None
	}
	return s
}

// issued notes entries that are handed out to be appended, replacing what they overwrite.
func (s *storage) issued(entries []raftpb.Entry) {
	first := entries[0].Index
	if first <= s.lastIssued {
		s.ahead.void()
	}
	if n := len(s.tail); n > 0 && s.tail[n-1].Index+1 != first {
		s.cut(first)
	}
	for _, e := range entries {
		s.tailBytes += len(e.Data)
	}
	s.tail = append(s.tail, entries...)
	s.lastIssued = entries[len(entries)-1].Index
	s.trim()
}

// cut drops the tail from first on. Messages on their way refer to the memory behind the tail, so
// what is overwritten gets new memory.
func (s *storage) cut(first uint64) {
	keep := s.tail[:0:0]
	s.tailBytes = 0
	for _, e := range s.tail {
		if e.Index < first {
			keep = append(keep, e)
			s.tailBytes += len(e.Data)
		}
	}
	if n := len(keep); n > 0 && keep[n-1].Index+1 != first {
		keep, s.tailBytes = nil, 0
	}
	s.tail = keep
}

// trim drops the oldest entries beyond TailBytes. Their memory is freed when append outgrows the
// slice and moves it.
func (s *storage) trim() {
	drop := 0
	for s.tailBytes > TailBytes && drop < len(s.tail)-1 {
		s.tailBytes -= len(s.tail[drop].Data)
		drop++
	}
	s.tail = s.tail[drop:]
}

// restart notes that the log is to begin anew behind a snapshot.
func (s *storage) restart(snap *raftpb.Snapshot) {
	s.base, s.baseTerm = snap.Metadata.Index, snap.Metadata.Term
	s.members = snap.Metadata.ConfState
	s.tail, s.tailBytes = nil, 0
	s.ahead.void()
	s.lastIssued = s.base
}

// InitialState implements raft.Storage.
func (s *storage) InitialState() (raftpb.HardState, raftpb.ConfState, error) {
	return raftpb.HardState{Term: s.hard.Term, Vote: s.hard.Vote, Commit: s.hard.Commit}, s.members, nil
}

// kindsBatch is how many entries without their data are returned at once.
const kindsBatch = 4096

// Entries implements raft.Storage, but that it returns no entries and no error when they have to be read first: raft
// then has nothing to send or to apply, and asks again. That they are missing is no reason for it to give up.
func (s *storage) Entries(lo, hi, maxBytes uint64) ([]raftpb.Entry, error) {
	if len(s.tail) > 0 && lo >= s.tail[0].Index {
		at := lo - s.tail[0].Index
		if hi > s.lastIssued+1 || at >= uint64(len(s.tail)) {
			return nil, raft.ErrUnavailable
		}
		return upTo(s.tail[at:at+hi-lo], hi-lo, maxBytes), nil
	}
	if s.kindsOnly {
		return s.kinds(lo, hi)
	}
	return s.ahead.take(lo, hi, maxBytes), nil
}

// kinds returns entries without their data, which the log has in memory.
func (s *storage) kinds(lo, hi uint64) ([]raftpb.Entry, error) {
	found, err := s.log.Kinds(lo, min(hi, lo+kindsBatch))
	if err != nil {
		return nil, raftError(err)
	}
	entries := make([]raftpb.Entry, len(found))
	for i, e := range found {
		entries[i] = raftpb.Entry{Index: e.Index, Term: e.Term, Type: raftpb.EntryType(e.Kind)}
	}
	return entries, nil
}

// Term implements raft.Storage.
func (s *storage) Term(i uint64) (uint64, error) {
	if s.base != 0 && i == s.base {
		return s.baseTerm, nil
	}
	if len(s.tail) > 0 && i >= s.tail[0].Index && i <= s.lastIssued {
		return s.tail[i-s.tail[0].Index].Term, nil
	}
	if i < s.base {
		return 0, raft.ErrCompacted
	}
	t, err := s.log.Term(i)
	return t, raftError(err)
}

// LastIndex implements raft.Storage.
func (s *storage) LastIndex() (uint64, error) { return s.lastIssued, nil }

// FirstIndex implements raft.Storage.
func (s *storage) FirstIndex() (uint64, error) { return max(s.log.First(), s.base+1), nil }

// Snapshot implements raft.Storage.
func (s *storage) Snapshot() (raftpb.Snapshot, error) { return s.snapshot() }

func raftError(err error) error {
	switch {
	case errors.Is(err, log.ErrCompacted):
		return raft.ErrCompacted
	case errors.Is(err, log.ErrUnavailable):
		return raft.ErrUnavailable
	}
	return err
}

// Tail tells how many of the newest entries are kept in memory for servers that are behind, and how many bytes
// of data they have.
func (n *Node) Tail() (entries, bytes int) { return len(n.store.tail), n.store.tailBytes }

package state

import (
	"slices"

	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
)

// A session makes each operation of a client take effect exactly once, however often it comes.
//
// The client numbers its operations (Seq, from 1) and says in each below which number it has all
// answers (Acked). The session remembers what it executed of the op.Window numbers from Acked on, and
// with which result. What becomes of an operation is the first line that fits:
//
//	numbered 0, or below its own Acked             Invalid
//	executed before                                the result it had
//	of another epoch                               StaleEpoch
//	below the Acked of one executed before         TooOld
//	op.Window or more above Acked                  TooMany
//	any other                                      executed, in whatever order the log has
//
// A client that connects anew opens its session with a higher epoch: what an older connection still
// has under way then was executed before, or never will be. Only what is executed moves Acked.

// keptCap is how many results a session without results to remember keeps room for.
const keptCap = 64

// session is what the cell knows of one client.
type session struct {
	id    uint64
	epoch uint32
	acked uint64 // every number below is answered and forgotten; from 1
	// done has a bit for each number in [acked, acked+Window), at the number modulo Window.
	done [op.Window / 64]uint64
	// kept has the results of those done that are not plain success, in order of their numbers. Writes
	// succeed plainly, so that a session needs no memory for each of them.
	kept []kept

	lease     uint32     // ms without a sign of life after which the master has the session expire
	owned     []uint64   // objects of its ephemeral files, in order of their numbers
	watches   []watch    // in the order they began
	events    []op.Event // not acknowledged, in order
	lastEvent uint64     // number of the last event, omitted ones included
	omitted   uint64     // events that there was no room for
}

// Limits of a session's lease in ms. One that asks for 0 gets DefaultLease; what is outside is brought inside.
const (
	DefaultLease = 30_000
	MinLease     = 1_000
	MaxLease     = 24 * 3600 * 1000
)

// leaseOf is the lease that a session gets that asks for so many ms.
func leaseOf(ms uint64) uint32 {
	if ms == 0 {
		return DefaultLease
	}
	return uint32(min(max(ms, MinLease), MaxLease))
}

type kept struct {
	seq    uint64
	result op.Result
}

// sessions are the sessions of all clients.
type sessions struct {
	byID   map[uint64]*session // MaxSessions at most; Machine.coord guards it against queries
	closed []uint64            // those closed last, MaxClosed at most, the latest at the end
}

func newSessions() sessions { return sessions{byID: make(map[uint64]*session)} }

// open makes a session or raises its epoch. One that was closed or has expired stays so: what its client has
// under way may have been executed, and would be executed again otherwise. The cell remembers the last
// MaxClosed of those, and beyond them believes nobody who says by epoch or flag that he was here before.
func (t *sessions) open(o *op.Op) op.Errno {
	s := t.byID[o.Session]
	switch {
	case o.Flags&^op.FlagFirst != 0:
		return op.Invalid
	case s != nil && o.Epoch < s.epoch:
		return op.StaleEpoch
	case s != nil:
		s.epoch, s.lease = o.Epoch, leaseOf(o.Length)
		return op.OK
	case slices.Contains(t.closed, o.Session), o.Epoch > 1 && o.Flags&op.FlagFirst == 0:
		return op.NoSession
	case len(t.byID) >= MaxSessions:
		return op.TooMany
	}
	t.byID[o.Session] = &session{id: o.Session, epoch: o.Epoch, acked: 1, lease: leaseOf(o.Length)}
	return op.OK
}

// end forgets a session, and remembers that it ended.
func (t *sessions) end(id uint64) {
	delete(t.byID, id)
	if len(t.closed) == MaxClosed {
		t.closed = t.closed[:copy(t.closed, t.closed[1:])]
	}
	t.closed = append(t.closed, id)
}

// admit decides what becomes of an operation: it is settled with a result, or to be executed. It
// changes nothing.
func (s *session) admit(o *op.Op) (r op.Result, settled bool) {
	acked := max(s.acked, o.Acked)
	switch {
	case o.Seq == 0 || o.Seq < o.Acked:
		r.Errno = op.Invalid
	case s.executed(o.Seq):
		r = s.result(o.Seq)
	case o.Epoch != s.epoch:
		r.Errno = op.StaleEpoch
	case o.Seq < acked:
		r.Errno = op.TooOld
	case o.Seq-acked >= op.Window:
		r.Errno = op.TooMany
	default:
		return r, false
	}
	return r, true
}

func bit(seq uint64) (word int, mask uint64) {
	return int(seq % op.Window / 64), 1 << (seq % 64)
}

func (s *session) executed(seq uint64) bool {
	word, mask := bit(seq)
	return seq >= s.acked && seq-s.acked < op.Window && s.done[word]&mask != 0
}

func (s *session) find(seq uint64) (int, bool) {
	return slices.BinarySearchFunc(s.kept, seq, func(k kept, seq uint64) int {
		switch {
		case k.seq < seq:
			return -1
		case k.seq > seq:
			return 1
		}
		return 0
	})
}

func (s *session) result(seq uint64) op.Result {
	if i, ok := s.find(seq); ok {
		return s.kept[i].result
	}
	return op.Result{}
}

// record remembers the result of an operation that was admitted and executed.
func (s *session) record(o *op.Op, r op.Result) {
	s.forget(o.Acked)
	word, mask := bit(o.Seq)
	s.done[word] |= mask
	if r != (op.Result{}) {
		i, _ := s.find(o.Seq)
		s.kept = slices.Insert(s.kept, i, kept{o.Seq, r})
	}
}

// forget drops what is known of the numbers below acked.
func (s *session) forget(acked uint64) {
	if acked <= s.acked {
		return
	}
	if acked-s.acked >= op.Window {
		clear(s.done[:])
	} else {
		for seq := s.acked; seq < acked; seq++ {
			word, mask := bit(seq)
			s.done[word] &^= mask
		}
	}
	s.acked = acked
	i, _ := s.find(acked)
	s.kept = slices.Delete(s.kept, 0, i)
	if len(s.kept) == 0 && cap(s.kept) > keptCap {
		s.kept = nil
	}
}

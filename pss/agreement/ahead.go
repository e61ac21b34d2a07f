package agreement

import (
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"

	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/log"
)

// Entries that are older than the tail are on disk only, and whoever runs a Node must not wait for the disk: clients
// wait for the Node. So what agreement wants of them, to feed a server that is behind or to apply after a start, is
// handed out as a Read, carried out beside everything else, and given back. Until then raft is told that there is
// nothing to send or to apply at present, and goes on with the rest.
const (
	// ReadBytes is how many bytes of entries a Read brings, unless a single one is longer.
	ReadBytes = 4 << 20
	// MaxReads is how many stretches of the log are read or kept at the same time: the one in use and the next one,
	// for each other server and for applying. Who comes when there are so many has to ask again.
	MaxReads = 2 * cell.MaxServers
	// idleReads is after how many ticks a stretch that nobody asks for is forgotten.
	idleReads = 40
)

// Read is a stretch of the durable log that is needed and not in memory. Its holder calls Carry, on any goroutine,
// and then gives it back through Node.ReadDone. There are at most MaxReads at a time.
type Read struct {
	From, To   uint64 // entries [From, To)
	generation uint64
	entries    []raftpb.Entry
}

// Carry reads the entries from the log.
func (r *Read) Carry(l *log.Log) error {
	found, err := l.Entries(r.From, r.To, ReadBytes)
	if err != nil {
		return err
	}
	r.entries = make([]raftpb.Entry, len(found))
	for i, e := range found {
		r.entries[i] = raftpb.Entry{Index: e.Index, Term: e.Term, Type: raftpb.EntryType(e.Kind), Data: e.Data}
	}
	return nil
}

// stretch is a run of old entries in memory, or on its way there.
type stretch struct {
	from, to uint64 // entries [from, to) when they have come; how many will is not known before
	entries  []raftpb.Entry
	used     uint64 // tick of the last use
}

// ahead is what was read of the log for those who will ask for it.
type ahead struct {
	// generation counts how often entries that were in the log were replaced: what was read of an older one is void.
	generation  uint64
	stretches   []stretch
	wanted      []*Read // not handed out yet
	outstanding int     // wanted, or handed out and not given back; those of older generations, too
	ticks       uint64
}

// tick forgets what nobody has asked for in a while.
func (a *ahead) tick() {
	a.ticks++
	a.stretches = slices.DeleteFunc(a.stretches, func(s stretch) bool {
		return s.entries != nil && a.ticks-s.used > idleReads
	})
}

// void forgets everything: entries of the log are being replaced.
func (a *ahead) void() {
	a.generation++
	a.stretches = nil
}

// take returns the entries [lo, hi) as far as they are in memory and have up to maxBytes of data, and at least one if
// there is one. What is missing, and what comes after a stretch of which half is used, it wants. All before hi is on disk.
func (a *ahead) take(lo, hi, maxBytes uint64) []raftpb.Entry {
	at := a.find(lo)
	if at < 0 {
		a.want(lo, hi)
		return nil
	}
	s := &a.stretches[at]
	s.used = a.ticks
	if s.entries == nil {
		return nil
	}
	run := upTo(s.entries[lo-s.from:], hi-lo, maxBytes)
	next, end := lo+uint64(len(run)), s.to
	if next == end { // it is of no more use, but to who lags by just as much
		a.stretches = slices.Delete(a.stretches, at, at+1)
	}
	if end < hi && next-s.from >= (end-s.from)/2 && a.find(end) < 0 {
		a.want(end, hi)
	}
	return run
}

// find returns the place of the stretch that has an entry, or will begin with it, or -1.
func (a *ahead) find(index uint64) int {
	return slices.IndexFunc(a.stretches, func(s stretch) bool { return s.from == index || s.from < index && index < s.to })
}

// want has entries read, if not too many are.
func (a *ahead) want(lo, hi uint64) {
	if a.outstanding >= MaxReads || len(a.stretches) >= MaxReads && !a.evict() {
		return
	}
	a.stretches = append(a.stretches, stretch{from: lo, used: a.ticks})
	a.wanted = append(a.wanted, &Read{From: lo, To: hi, generation: a.generation})
	a.outstanding++
}

// evict forgets the stretch that was not used for the longest time.
func (a *ahead) evict() bool {
	oldest := -1
	for i, s := range a.stretches {
		if s.entries != nil && (oldest < 0 || s.used < a.stretches[oldest].used) {
			oldest = i
		}
	}
	if oldest < 0 {
		return false
	}
	a.stretches = slices.Delete(a.stretches, oldest, oldest+1)
	return true
}

// reading says that something is on its way.
func (a *ahead) reading() bool { return a.outstanding > 0 }

// came takes a Read back, with the error of carrying it out. It reports whether there are new entries.
func (a *ahead) came(r *Read, err error) (bool, error) {
	a.outstanding--
	current := r.generation == a.generation
	at := -1
	if current {
		at = slices.IndexFunc(a.stretches, func(s stretch) bool { return s.from == r.From && s.entries == nil })
	}
	switch {
	case errors.Is(err, log.ErrCompacted) || !current && errors.Is(err, log.ErrUnavailable):
		if at >= 0 { // raft sees by itself that they are gone, when it asks again
			a.stretches = slices.Delete(a.stretches, at, at+1)
		}
		return false, nil
	case err != nil:
		return false, fmt.Errorf("old entries: %w", err)
	case at < 0:
		return false, nil
	}
	s := &a.stretches[at]
	s.entries, s.used = r.entries, a.ticks
	s.to = s.from + uint64(len(r.entries))
	return true, nil
}

// upTo returns the first entries, at most count and as many as have up to maxBytes of data together, but at least one.
func upTo(entries []raftpb.Entry, count, maxBytes uint64) []raftpb.Entry {
	n, bytes := 0, uint64(0)
	for n < len(entries) && uint64(n) < count && (n == 0 || bytes+uint64(len(entries[n].Data)) <= maxBytes) {
		bytes += uint64(len(entries[n].Data))
		n++
	}
	return entries[:n:n]
}

// ReadDone takes a Read back, with the error of Carry. An error that it returns is one that this server can't go on
// from: its log is damaged.
func (n *Node) ReadDone(r *Read, err error) error {
	some, err := n.store.ahead.came(r, err)
	if err != nil || !some {
		return err
	}
	return n.feed(r.From, r.From+uint64(len(r.entries)))
}

// feed has raft send entries [from, to) to the servers that they were read for, as much at once as may be under way:
// a message to each of them, again and again. The answer to a heartbeat is what makes raft look after a server; none is
// made up for one that may be down.
func (n *Node) feed(from, to uint64) error {
	sent := make(map[uint64]uint64) // the next entry of each server at its last turn
	for n.raft.BasicStatus().RaftState == raft.StateLeader {
		hungry := n.hungry(from, to, sent)
		if len(hungry) == 0 {
			return nil
		}
		for _, member := range hungry {
			poke := raftpb.Message{Type: raftpb.MsgHeartbeatResp, From: member, To: n.self, Term: n.raft.BasicStatus().Term}
			if err := n.raft.Step(poke); err != nil {
				return fmt.Errorf("feeding member %d: %w", member, err)
			}
		}
	}
	return nil
}

// hungry lists the members that have a use for one of the entries [from, to) and may be sent to, but not those whose
// last turn changed nothing. They come in the order of their numbers: a simulation repeats.
func (n *Node) hungry(from, to uint64, sent map[uint64]uint64) (members []uint64) {
	n.raft.WithProgress(func(member uint64, _ raft.ProgressType, p tracker.Progress) {
		wants := member != n.self && from <= p.Next && p.Next < to && sent[member] != p.Next
		if wants && p.RecentActive && !p.IsPaused() {
			sent[member] = p.Next
			members = append(members, member)
		}
	})
	return members
}

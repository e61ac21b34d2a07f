package agreement

import (
	"cmp"
	"encoding/binary"
	"maps"
	"slices"

	"go.etcd.io/raft/v3/quorum"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
)

// A vote or an acknowledgement is a promise that only the disk of its server keeps. Should an older state of that disk
// be put back, the server does not know what it has promised; so the others remember it. What a server has
// acknowledged the master knows, and tells everybody with its heartbeats, together with which start of the server it
// was. Whoever runs a Node asks the others for that memory when it starts, and holds the Node until it is sure
// (Config.Held, Release).

// MaxPromises is how many members' promises a Node remembers: two of each server, as one may be replacing the other.
const MaxPromises = 2 * cell.MaxServers

// promiseBytes is the size of a Promise's byte form.
const promiseBytes = 5 * 8

// Promise is the newest that is known of what a member has on its disk, because it said so: all that was promised
// before is in a log of that term, or of a later one, which reaches up to Index if it is of that term.
type Promise struct {
	Member uint64 `json:"n"`
	Start  uint64 `json:"s,omitempty"` // how often its server had started; 0: not known
	Life   uint64 `json:"l,omitempty"` // of that start: random
	Term   uint64 `json:"t,omitempty"`
	Index  uint64 `json:"i,omitempty"` // acknowledged in Term
}

// Beyond says that a log which ends at last, of a server whose term is term, does not keep the promise. A term never
// goes down, and in one term a log never loses what was acknowledged; in a later one it may lose what was not agreed on.
func (p *Promise) Beyond(term, last uint64) bool {
	return p.Term > term || p.Term == term && p.Index > last
}

// AppendPromises appends the byte form of promises: the five numbers of each, little-endian.
func AppendPromises(b []byte, ps []Promise) []byte {
	for _, p := range ps {
		for _, n := range [...]uint64{p.Member, p.Start, p.Life, p.Term, p.Index} {
			b = binary.LittleEndian.AppendUint64(b, n)
		}
	}
	return b
}

// ParsePromises reads what AppendPromises wrote. It reports false for anything else.
func ParsePromises(b []byte) ([]Promise, bool) {
	if len(b)%promiseBytes != 0 || len(b) > MaxPromises*promiseBytes {
		return nil, false
	}
	var ps []Promise
	for ; len(b) > 0; b = b[promiseBytes:] {
		at := func(i int) uint64 { return binary.LittleEndian.Uint64(b[8*i:]) }
		if _, ok := cell.FromRaft(at(0)); !ok {
			return nil, false
		}
		ps = append(ps, Promise{at(0), at(1), at(2), at(3), at(4)})
	}
	return ps, true
}

// promises is a Node's memory of what members promised, itself included.
type promises struct {
	of     map[uint64]Promise // at most MaxPromises
	starts bool               // another server's start became known since NewStarts was asked
}

// add notes a promise. What is known already, or superseded, changes nothing.
func (ps *promises) add(p Promise) {
	old, known := ps.of[p.Member]
	if !known && len(ps.of) >= MaxPromises {
		return
	}
	old.Member = p.Member
	if p.Start > old.Start {
		old.Start, old.Life, ps.starts = p.Start, p.Life, true
	}
	if p.Beyond(old.Term, old.Index) {
		old.Term, old.Index = p.Term, p.Index
	}
	ps.of[p.Member] = old
}

// keep forgets members that another one of the same server has replaced: their numbers are never used again. Who is
// not among the members otherwise may be a later one than these, which come from the log.
func (ps *promises) keep(members raftpb.ConfState) {
	now := slices.Concat(members.Voters, members.VotersOutgoing, members.Learners, members.LearnersNext)
	maps.DeleteFunc(ps.of, func(m uint64, _ Promise) bool {
		return !slices.Contains(now, m) && slices.ContainsFunc(now, func(other uint64) bool {
			return other > m && memberID(other) == memberID(m)
		})
	})
}

// remember takes over what this server knew before it started.
func (n *Node) remember(c Config) {
	for _, p := range c.Promises {
		if p.Member != n.self {
			n.promises.add(p)
		}
	}
	n.promises.keep(c.Members)
	n.promises.starts = false
	if n.start.Start != 0 {
		n.promises.of[n.self] = n.start
	}
}

// answered notes what a response says of its sender's disk. raft sends these only once all that they rest on is synced;
// others, of heartbeats and pre-votes, it sends before.
func (n *Node) answered(m *raftpb.Message) {
	switch m.Type {
	case raftpb.MsgAppResp:
		p := Promise{Member: m.From, Term: m.Term}
		if !m.Reject {
			p.Index = m.Index
		}
		n.promises.add(p)
	case raftpb.MsgVoteResp:
		n.promises.add(Promise{Member: m.From, Term: m.Term})
	}
}

// told takes what came along with a heartbeat, or with its response: of a master, what it knows of all members; of the
// others, which start of theirs it is.
func (n *Node) told(m *raftpb.Message) {
	ps, ok := ParsePromises(m.Context)
	if !ok {
		return
	}
	for _, p := range ps {
		if p.Member != n.self && (m.Type == raftpb.MsgHeartbeat || p.Member == m.From) {
			n.promises.add(p)
		}
	}
}

// tell is what goes along with a heartbeat, or with its response.
func (n *Node) tell(of raftpb.MessageType) []byte {
	switch {
	case n.start.Start == 0:
		return nil
	case of == raftpb.MsgHeartbeatResp:
		return AppendPromises(nil, []Promise{n.start})
	}
	return AppendPromises(nil, n.Promises())
}

// Promises is what the members are known to have promised, this one included, in the order of their numbers.
func (n *Node) Promises() []Promise {
	return slices.SortedFunc(maps.Values(n.promises.of), func(a, b Promise) int { return cmp.Compare(a.Member, b.Member) })
}

// Promised is what a member is known to have promised.
func (n *Node) Promised(member uint64) Promise {
	p := n.promises.of[member]
	p.Member = member
	return p
}

// NewStarts reports whether another server is known to have started anew since the last call.
func (n *Node) NewStarts() bool {
	news := n.promises.starts
	n.promises.starts = false
	return news
}

// Quorum says whether this server is a majority of members together with those of which with says so: before and after
// a change of members, while there is one.
func (n *Node) Quorum(members raftpb.ConfState, with func(id cell.ID) bool) bool {
	votes := make(map[uint64]bool)
	var joint quorum.JointConfig
	for i, voters := range [...][]uint64{members.Voters, members.VotersOutgoing} {
		joint[i] = make(quorum.MajorityConfig)
		for _, m := range voters {
			joint[i][m] = struct{}{}
			if m == n.self || with(memberID(m)) {
				votes[m] = true
			}
		}
	}
	return joint.VoteResult(votes) == quorum.VoteWon
}

// Held says that the Node takes no part yet.
func (n *Node) Held() bool { return n.held }

// Release lets a held Node take part.
func (n *Node) Release() { n.held = false }

// SetFloor says up to where the log is known to be agreed upon, from servers that were asked. Nobody who lacks any of
// that gets this server's vote, itself included, whatever it may have forgotten.
func (n *Node) SetFloor(term, index uint64) {
	if !reaches(n.floorTerm, n.floorIndex, term, index) {
		n.floorTerm, n.floorIndex = term, index
	}
}

// reaches says whether a log that ends with the entry (term, index) is as good as one that ends at floor.
func reaches(term, index, floorTerm, floorIndex uint64) bool {
	return term > floorTerm || term == floorTerm && index >= floorIndex
}

// below says that this server's own log does not reach the floor.
func (n *Node) below() bool {
	if n.floorTerm == 0 {
		return false
	}
	last := n.store.lastIssued
	term, err := n.store.Term(last)
	return err != nil || !reaches(term, last, n.floorTerm, n.floorIndex)
}

// barred says that a message must not be acted upon, or not be sent, because of the floor.
func (n *Node) barred(m *raftpb.Message) bool {
	switch m.Type {
	case raftpb.MsgVote, raftpb.MsgPreVote:
		if m.From == n.self {
			return n.below()
		}
		return !reaches(m.LogTerm, m.Index, n.floorTerm, n.floorIndex)
	case raftpb.MsgTimeoutNow:
		return m.To == n.self && n.below()
	}
	return false
}

// wait lets a tick of a held Node pass. Its time-out goes on, but for what would end it.
func (n *Node) wait() bool {
	if n.heldTicks >= n.timing.Election-2 {
		return false
	}
	n.heldTicks++
	return true
}

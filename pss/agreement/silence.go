package agreement

import (
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
)

// A master that hears nobody may still be heard: its heartbeats then keep the others from electing another, for as
// long as it goes on. raft looks whether a majority is there once in an election time-out, so it takes up to two, and
// only then do the others begin to wait. So the master watches its own silence: when no majority has answered a
// heartbeat for an election time-out it stops at once, and tells a server that it may be elected without waiting.
// By then its lease is over, too.

// silence is what a master knows of how long no majority has answered.
type silence struct {
	term  uint64
	heard time.Duration // what Node.echoed was
	ticks int           // since that changed
}

// listen counts a tick of a master.
func (n *Node) listen() {
	st := n.raft.BasicStatus()
	if st.RaftState != raft.StateLeader {
		n.silence = silence{}
		return
	}
	n.observeTerm()
	heard := n.echoed()
	if s := &n.silence; s.term != st.Term || s.heard != heard {
		*s = silence{term: st.Term, heard: heard}
		return
	}
	if n.silence.ticks++; n.silence.ticks >= n.timing.Election {
		n.abdicate("no majority answers this master any more")
	}
}

// Abdicate ends this server's mastership at once, though no other server has all that this one has: what it alone has
// is lost if the others can go on without it. It is for a master that can't give it to them. why is for the log.
func (n *Node) Abdicate(why string) {
	if n.raft.BasicStatus().RaftState != raft.StateLeader {
		return
	}
	n.observeTerm()
	n.abdicate(why)
}

// abdicate ends this server's mastership, and offers it to whoever can be hoped to hear of it. Whether anybody does,
// this server won't learn.
func (n *Node) abdicate(why string) {
	term := n.raft.BasicStatus().Term
	heir := n.heir()
	n.handover = true
	for range 2 { // the first forgets who was heard of since raft looked last
		if err := n.raft.Step(raftpb.Message{Type: raftpb.MsgCheckQuorum, From: raft.LocalAppendThread}); err != nil {
			panic(err) // raft has no reason to refuse it
		}
	}
	n.silence = silence{}
	n.logger.Warn(why+": it gives the mastership up", "term", term, "to", memberName(heir))
	if heir != 0 {
		n.offers = append(n.offers, raftpb.Message{Type: raftpb.MsgTimeoutNow, From: n.self, To: heir, Term: term})
	}
}

// heir is the voter that has most of the log among those that were heard of last, 0 if none was.
func (n *Node) heir() (best uint64) {
	voters := n.raft.Status().Progress
	newest := time.Duration(0)
	for member, p := range voters {
		if member == n.self || p.IsLearner {
			delete(voters, member) // it is a copy
			continue
		}
		newest = max(newest, n.seen[member])
	}
	oldest := newest - n.timing.Tick*time.Duration(n.timing.Heartbeat)
	for member, p := range voters {
		if seen := n.seen[member]; seen == 0 || seen < oldest {
			continue
		}
		if b := voters[best]; best == 0 || p.Match > b.Match || p.Match == b.Match && member < best {
			best = member
		}
	}
	return best
}

// memberName is a member's server for the log.
func memberName(member uint64) any {
	if id, ok := cell.FromRaft(member); ok {
		return id
	}
	return "nobody"
}

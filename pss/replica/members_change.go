package replica

import (
	"cmp"
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
)

// An edit turns a server's record into what an operator wants, with the change of raft's members that goes with it.
// An error says why not, and what would be needed.
// Servers that were not heard of after since count as down.
type edit func(c *Core, r *Record, since time.Duration) ([]raftpb.ConfChangeSingle, error)

// edit proposes a change of one server's record. The change is through when it is applied at the index returned,
// in the same term, and changing is "".
func (c *Core) edit(what string, id cell.ID, do edit, since time.Duration) (index uint64, err error) {
	m := &c.mem
	switch {
	case m.identity.Root == RootID{}:
		return 0, admin.Errorf(admin.Refused, "the members of this cell are fixed")
	case !c.ready:
		return 0, admin.Errorf(admin.Busy, "the master has just begun; try again")
	case c.Changing() != "":
		return 0, admin.Errorf(admin.Busy, "another change of members is under way: %s", c.Changing())
	case c.node.HandingOver():
		return 0, admin.Errorf(admin.Busy, "the mastership is being handed over")
	}
	r := m.table.Find(id)
	changes, err := do(c, &r, since)
	if err != nil {
		return 0, err
	}
	ok, err := c.change(what, m.table.with(r), changes)
	if err == nil && !ok {
		err = admin.Errorf(admin.Busy, "too much is under way; try again")
	}
	return m.proposed, err
}

// editAdd lets a server in that is to come: it joins when it is started.
func editAdd(a admin.AddArgs) edit {
	return func(_ *Core, r *Record, _ time.Duration) ([]raftpb.ConfChangeSingle, error) {
		if r.Number != 0 {
			return nil, admin.Errorf(admin.Refused, "server %d is a member already; \"members.move\" says where it is now", r.ID)
		}
		r.Removed, r.Vote = false, r.ID.Core()
		return nil, r.locate(a)
	}
}

// editMove says where a server is now.
func editMove(a admin.AddArgs) edit {
	return func(_ *Core, r *Record, _ time.Duration) ([]raftpb.ConfChangeSingle, error) {
		if r.Number == 0 {
			return nil, admin.Errorf(admin.Refused, "server %d is not a member; \"members.add\" lets it in", r.ID)
		}
		return nil, r.locate(a)
	}
}

func (r *Record) locate(a admin.AddArgs) error {
	if a.Host == "" || len(a.Host) > maxHost || a.UDPPort < 0 || a.UDPPort > 65535 || a.TCPPort < 0 || a.TCPPort > 65535 {
		return admin.Errorf(admin.BadArguments, "%q, %d, %d is not where a server can be", a.Host, a.UDPPort, a.TCPPort)
	}
	r.Host = a.Host
	r.UDP, r.TCP = cmp.Or(a.UDPPort, cell.FirstUDP+int(r.ID)), cmp.Or(a.TCPPort, cell.FirstTCP+int(r.ID))
	return nil
}

// editRemove takes a server out of the cell, for good: it is not let in again before editAdd.
func editRemove(c *Core, r *Record, since time.Duration) ([]raftpb.ConfChangeSingle, error) {
	r.Removed = true
	if r.Number == 0 {
		return nil, nil
	}
	if err := c.mayLeave(r, true, since); err != nil {
		return nil, err
	}
	return r.leave(), nil
}

// editReplace frees the place of a server that will not come back, so that its successor takes it at once.
func editReplace(c *Core, r *Record, since time.Duration) ([]raftpb.ConfChangeSingle, error) {
	if r.Number == 0 {
		return nil, admin.Errorf(admin.Refused, "server %d has no member to be replaced: start the new one", r.ID)
	}
	if !c.silent(r.Number) {
		return nil, admin.Errorf(admin.Refused, "server %d is up, or was until now: stop it first", r.ID)
	}
	if err := c.mayLeave(r, false, since); err != nil {
		return nil, err
	}
	return r.leave(), nil
}

func (r *Record) leave() []raftpb.ConfChangeSingle {
	n := r.Number
	r.Number, r.Root = 0, RootID{}
	return []raftpb.ConfChangeSingle{{Type: raftpb.ConfChangeRemoveNode, NodeID: n}}
}

// mayLeave says why a member can't lose its vote or its place, or nothing. For good: nobody is going to take
// its vote over.
func (c *Core) mayLeave(r *Record, forGood bool, since time.Duration) error {
	voters := c.node.Members().Voters
	at := slices.Index(voters, r.Number)
	switch {
	case r.Number == c.mem.identity.Number:
		return admin.Errorf(admin.Refused, "server %d is master: hand the mastership over first", r.ID)
	case at < 0:
		return nil
	case forGood && len(voters) <= cell.MinCore:
		return admin.Errorf(admin.Refused, "the cell would be left with %d core servers that vote, and needs %d to bear the "+
			"loss of one: add another first, or \"members.replace\" this one", len(voters)-1, cell.MinCore)
	}
	if err := c.survives(slices.Delete(slices.Clone(voters), at, at+1), len(voters), since); err != nil {
		return admin.Errorf(admin.Refused, "the cell would lose its majority: %v", err)
	}
	return nil
}

// editPromote gives a core server a vote as soon as it is level.
func editPromote(_ *Core, r *Record, _ time.Duration) ([]raftpb.ConfChangeSingle, error) {
	switch {
	case !r.ID.Core():
		return nil, admin.Errorf(admin.Refused, "server %d is a replica: only ids 0 to %d vote", r.ID, cell.CoreIDs-1)
	case r.Number == 0:
		return nil, admin.Errorf(admin.Refused, "server %d is not a member: start it first", r.ID)
	}
	r.Vote = true
	return nil, nil
}

// editDemote takes a core server's vote.
func editDemote(c *Core, r *Record, since time.Duration) ([]raftpb.ConfChangeSingle, error) {
	if r.Number == 0 || !r.Vote {
		return nil, admin.Errorf(admin.Refused, "server %d has no vote", r.ID)
	}
	r.Vote = false
	if !slices.Contains(c.node.Members().Voters, r.Number) {
		return nil, nil
	}
	if err := c.mayLeave(r, true, since); err != nil {
		return nil, err
	}
	return []raftpb.ConfChangeSingle{{Type: raftpb.ConfChangeAddLearnerNode, NodeID: r.Number}}, nil
}

// EditMembers proposes what one of the admin package's members methods asks for, about one server. at is for the methods
// that say where the server is; servers that were not heard of after since count as down. It is through when it is
// applied at the index returned. An *admin.Error says why not.
func (c *Core) EditMembers(method string, id cell.ID, at admin.AddArgs, since time.Duration) (index uint64, err error) {
	do, ok := map[string]edit{
		admin.MethodAdd: editAdd(at), admin.MethodMove: editMove(at), admin.MethodRemove: editRemove,
		admin.MethodReplace: editReplace, admin.MethodPromote: editPromote, admin.MethodDemote: editDemote,
	}[method]
	if !ok {
		return 0, admin.Errorf(admin.BadArguments, "%q does not change members", method)
	}
	return c.edit(method, id, do, since)
}

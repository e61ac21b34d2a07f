package replica

import (
	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pss/state"
)

// probeCoordination sends locks, queues or watched paths, an item each: all together are more than a frame holds.
func (r *Replica) probeCoordination(kind string, send func(any) error) error {
	m := r.core.Machine()
	var items []admin.Probe
	switch kind {
	case admin.ProbePath:
		for _, p := range m.Paths() {
			items = append(items, admin.Probe{Paths: []admin.PathInfo{{Path: p.Path, Owner: p.Owner, Watchers: p.Watchers}}})
		}
	case admin.ProbeLock:
		for _, l := range m.Locks() {
			items = append(items, admin.Probe{Locks: []admin.LockInfo{{Name: l.Name, Version: l.Version,
				Holders: partiesOf(l.Holders), Waiters: partiesOf(l.Waiters), Watchers: l.Watchers}}})
		}
	case admin.ProbeQueue:
		for _, q := range m.Queues() {
			items = append(items, admin.Probe{Queues: []admin.QueueInfo{{Name: q.Name, Messages: messagesOf(q.Messages),
				Waiters: partiesOf(q.Waiters), Watchers: q.Watchers}}})
		}
	}
	for i := range items {
		if err := send(&items[i]); err != nil {
			return err
		}
	}
	return nil
}

func partiesOf(list []state.Party) []admin.Party {
	var to []admin.Party
	for _, p := range list {
		to = append(to, admin.Party(p))
	}
	return to
}

func messagesOf(list []state.MessageInfo) []admin.MessageInfo {
	var to []admin.MessageInfo
	for _, g := range list {
		i := admin.MessageInfo{Number: g.Number, Bytes: g.Bytes}
		if g.Taken.Session != 0 {
			by := admin.Party(g.Taken)
			i.Taken = &by
		}
		to = append(to, i)
	}
	return to
}

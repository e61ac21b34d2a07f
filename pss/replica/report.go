package replica

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/release"
)

// roleOf is the product's word for what a server may be.
func roleOf(id cell.ID) string {
	if id.Core() {
		return "core"
	}
	return "replica"
}

// report is what the server tells of itself.
func (r *Replica) report() admin.Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	v, pos := r.core.View(), r.core.Node().Position()
	active, frozen := r.store.OverlayBytes()
	timing := r.opts.Timing
	rep := admin.Status{ID: r.opts.ID, Version: release.Version, UptimeSecs: r.now().Seconds(),
		Role: roleOf(r.opts.ID), Term: v.Term, IsMaster: v.Self, Commit: pos.Commit, Applied: pos.Applied, Last: pos.Last,
		LogFirst: r.log.First(), LogBytes: r.log.Stats().Bytes, Checkpoint: r.core.Checkpoint(),
		OverlaySize: active + frozen, WrittenOnce: r.store.Adopted(), Root: r.opts.Root, Auth: r.opts.Cell.Auth.Status(), Refused: r.refused.report(),
		Space: r.room, Scrub: r.scrub.report(), Repairs: r.repairs.stats(), Fetched: r.fetchedBytes.Load(),
		HeartbeatMS: (timing.Tick * time.Duration(timing.Heartbeat)).Milliseconds(),
		ElectionMS:  (timing.Tick * time.Duration(timing.Election)).Milliseconds()}
	if v.Known {
		rep.Master = &v.Master
	} else {
		rep.Health = append(rep.Health, "no master is known: a majority of the core servers must be up and connected")
	}
	if b := r.core.behind; b != nil {
		if rep.CatchUp = r.fetch.Load().report(); rep.CatchUp == nil {
			rep.CatchUp = &admin.CatchUp{From: b.From, Since: b.Since}
		}
		rep.Health = append(rep.Health, "it lags behind the log, and takes over what changed from another server")
	}
	r.clients.Lock()
	rep.Clients = len(r.clients.all)
	r.clients.Unlock()
	r.core.describe(&rep)
	rep.Strangers += r.place.strangers.Load()
	for _, w := range rep.WaitsFor {
		rep.Health = append(rep.Health, "it waits for "+w)
	}
	for _, p := range r.core.Node().Progress(nil) {
		m := admin.Member{ID: p.ID, Member: p.Member, Voter: p.Voter, Match: p.Match, Active: p.Active,
			Lag: pos.Last - min(p.Match, pos.Last), Lagging: p.Lagging, Sending: p.Sending}
		rep.Members = append(rep.Members, m)
		if !m.Active {
			rep.Health = append(rep.Health, fmt.Sprintf("server %d does not answer", m.ID))
		}
	}
	slices.SortFunc(rep.Members, func(a, b admin.Member) int { return int(a.ID) - int(b.ID) })
	return rep
}

// Status is what the server tells of itself.
func (r *Replica) Status() admin.Status { return r.report() }

// Ticked says whether the server's own clock has gone on within a time span: if not, it hangs.
func (r *Replica) Ticked(within time.Duration) bool {
	return r.now()-time.Duration(r.ticked.Load()) < within
}

// Report is the answer to a status request, an admin.Status in JSON.
func (r *Replica) Report() []byte {
	b, err := json.Marshal(r.report())
	if err != nil {
		panic(fmt.Sprintf("replica: a report can't be encoded: %v", err)) // it has no type that could fail
	}
	return b
}

// Summary is a Report that fits a datagram: without the members and all that has no small limit.
func (r *Replica) Summary() []byte {
	rep := r.report()
	rep.Members, rep.Health, rep.WaitsFor, rep.Root, rep.Changing, rep.LastFail = nil, nil, nil, "", "", ""
	b, err := json.Marshal(rep)
	if err != nil {
		panic(fmt.Sprintf("replica: a summary can't be encoded: %v", err))
	}
	return b
}

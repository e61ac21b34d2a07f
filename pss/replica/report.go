package replica

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/agreement"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/release"
)

// Report is what a server tells of itself in answer to a status request, as JSON.
type Report struct {
	ID          cell.ID              `json:"id"`
	Version     string               `json:"version"`
	UptimeSecs  float64              `json:"uptime_seconds"`
	Term        uint64               `json:"term"`
	Master      *cell.ID             `json:"master"` // null while none is known
	IsMaster    bool                 `json:"is_master"`
	Commit      uint64               `json:"commit_index"`
	Applied     uint64               `json:"applied_index"`
	Last        uint64               `json:"last_index"`
	OverlaySize int64                `json:"overlay_bytes"`
	Space       SpaceReport          `json:"space"`
	Fetched     uint64               `json:"catch_up_bytes"`     // received by all catch-ups since the start
	CatchUp     *CatchUpReport       `json:"catch_up,omitempty"` // while one is under way
	Scrub       ScrubReport          `json:"scrub"`
	Repairs     RepairStats          `json:"repairs"`
	Members     []agreement.Progress `json:"members,omitempty"` // as the master knows them
}

func (r *Replica) report() Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	v, pos := r.core.View(), r.core.Node().Position()
	active, frozen := r.store.OverlayBytes()
	rep := Report{ID: r.opts.ID, Version: release.Version, UptimeSecs: time.Since(r.start).Seconds(),
		Term: v.Term, IsMaster: v.Self, Commit: pos.Commit, Applied: pos.Applied, Last: pos.Last,
		OverlaySize: active + frozen, Space: r.room, Fetched: r.fetchedBytes.Load(), CatchUp: r.fetch.Load().report(),
		Scrub: r.scrub.report(), Repairs: r.repairs.stats(), Members: r.core.Node().Progress(nil)}
	if v.Known {
		rep.Master = &v.Master
	}
	slices.SortFunc(rep.Members, func(a, b agreement.Progress) int { return int(a.ID) - int(b.ID) })
	return rep
}

// Report is the answer to a status request, JSON.
func (r *Replica) Report() []byte {
	b, err := json.Marshal(r.report())
	if err != nil {
		panic(fmt.Sprintf("replica: a report can't be encoded: %v", err)) // it has no type that could fail
	}
	return b
}

// Summary is a Report that fits a datagram: without the members.
func (r *Replica) Summary() []byte {
	rep := r.report()
	rep.Members = nil
	b, err := json.Marshal(rep)
	if err != nil {
		panic(fmt.Sprintf("replica: a summary can't be encoded: %v", err))
	}
	return b
}

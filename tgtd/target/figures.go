package target

import (
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/scsi"
)

// Figures are what the daemon shows of its work.
type Figures struct {
	Transport iscsi.Figures
	Portals   int
	Serving   bool // the driver is ready and the system is not offline
	Targets   []TargetFigures
}

// TargetFigures are those of one target.
type TargetFigures struct {
	TID                   int
	Name                  string
	Sessions, Connections int
	Units                 []UnitFigures
}

// UnitFigures are those of one logical unit. Load goes on counting.
type UnitFigures struct {
	LUN     uint64
	Store   string // type of the backing store
	Load    *scsi.Load
	Waiting scsi.Waiting
}

// Figures takes every lock of the daemon once, each for a moment, and asks no store for anything: a daemon that hangs
// does not come back from here, and one whose stores hang does.
func (m *Model) Figures() Figures {
	f := Figures{Transport: m.transport.Figures()}
	m.mu.RLock()
	f.Portals = len(m.portals)
	f.Serving = m.driver == driverReady && !m.offline
	m.mu.RUnlock()
	sessions := map[int][]iscsi.SessionInfo{}
	for _, s := range m.transport.Sessions(-1) {
		sessions[s.TID] = append(sessions[s.TID], s)
	}
	for _, t := range m.inOrder() {
		f.Targets = append(f.Targets, t.figures(sessions[t.tid]))
	}
	return f
}

func (t *target) figures(sessions []iscsi.SessionInfo) TargetFigures {
	f := TargetFigures{TID: t.tid, Name: t.name, Sessions: len(sessions)}
	for _, s := range sessions {
		f.Connections += len(s.Connections)
	}
	for _, u := range t.device.Units() {
		if u.LUN() == 0 {
			continue // the controller, which stores nothing
		}
		f.Units = append(f.Units, UnitFigures{LUN: u.LUN(), Store: u.StoreName(), Load: u.Load(), Waiting: u.Waiting()})
	}
	return f
}

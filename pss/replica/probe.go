package replica

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pss/agreement"
	"github.com/paxos-iscsi/paxos-iscsi/pss/machine"
	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
)

// Named limits of what a probe shows.
const (
	probedEntries = 100     // entries of the agreed log around the newest
	probedBytes   = 4 << 20 // of these entries, read from the log
)

func quote(text string) string { return strconv.Quote(text) }

// adminProcess shows this process as ps does.
func adminProcess(_ context.Context, r *Replica, _ json.RawMessage, _ func(any) error) (any, error) {
	p, err := machine.Self()
	if err != nil {
		return nil, err
	}
	p.Command = fmt.Sprintf("%s %d %s", filepath.Join(r.self.Path, "PFSserver"), r.opts.ID, r.opts.Root)
	return p, nil
}

func adminSockets(_ context.Context, r *Replica, _ json.RawMessage, _ func(any) error) (any, error) {
	return machine.Sockets(r.self.TCPPort, r.self.UDPPort)
}

// adminLog sends the newest lines of the log, and the ones that come if the tool wants to follow.
func adminLog(ctx context.Context, r *Replica, args json.RawMessage, send func(any) error) (any, error) {
	var a admin.LogArgs
	if err := adminArgs(args, &a); err != nil {
		return nil, err
	}
	if a.Last < 0 {
		return nil, admin.Errorf(admin.BadArguments, "%d lines", a.Last)
	}
	last, more, stop := r.journal.follow(a.Last)
	defer stop()
	for _, l := range last {
		if err := send(l); err != nil {
			return nil, err
		}
	}
	for a.Follow {
		select {
		case l := <-more:
			if err := send(l); err != nil {
				return nil, err
			}
		case <-ctx.Done():
			return nil, nil
		}
	}
	return nil, nil
}

func adminProbe(_ context.Context, r *Replica, args json.RawMessage, send func(any) error) (any, error) {
	var a admin.ProbeArgs
	if err := adminArgs(args, &a); err != nil {
		return nil, err
	}
	var p admin.Probe
	var err error
	switch a.Kind {
	case admin.ProbeAccept:
		p.Sessions = r.probeSessions()
	case admin.ProbeOutbound:
		p.Outbound = r.probeOutbound()
	case admin.ProbeFd, admin.ProbeMeta:
		p.Files = r.probeFiles(a.Kind == admin.ProbeMeta)
	case admin.ProbeBlock:
		pages, limit, bytes := r.store.CachedRecords()
		p.Cache = &admin.Cache{Pages: pages, Limit: limit, PageBytes: bytes}
	case admin.ProbePaxos:
		p.Entries, err = r.probeEntries()
	case admin.ProbePath, admin.ProbeLock, admin.ProbeQueue:
		return nil, r.probeCoordination(a.Kind, send)
	default:
		return nil, admin.Errorf(admin.BadArguments, "there is nothing called %q to be probed", a.Kind)
	}
	return p, err
}

// probeSessions joins what the state machine knows of sessions with the connections there are.
func (r *Replica) probeSessions() []admin.SessionInfo {
	r.mu.Lock()
	known := r.core.Machine().Sessions()
	r.mu.Unlock()
	connected := map[uint64]*client{}
	r.clients.Lock()
	for c := range r.clients.all {
		connected[c.session] = c
	}
	r.clients.Unlock()
	list := make([]admin.SessionInfo, 0, len(known))
	for _, s := range known {
		i := admin.SessionInfo{Session: s.ID, Epoch: s.Epoch, Last: s.Last, Acked: s.Acked}
		if c := connected[s.ID]; c != nil {
			i.Remote, i.Software = c.conn.RemoteAddr().String(), c.software
			c.mu.Lock()
			i.Waiting, i.Bytes = c.proposals, c.bytes
			c.mu.Unlock()
		}
		list = append(list, i)
	}
	return list
}

func (r *Replica) probeOutbound() *admin.Outbound {
	active, frozen := r.store.OverlayBytes()
	r.mu.Lock()
	defer r.mu.Unlock()
	entries, bytes := r.core.Node().Tail()
	return &admin.Outbound{Tail: entries, TailBytes: int64(bytes), TailLimit: agreement.TailBytes,
		OverlayBytes: active + frozen, OverlayLimit: r.opts.OverlayBytes}
}

// probeFiles lists the open files of the store: chunk files, or those with what is known about chunks.
func (r *Replica) probeFiles(meta bool) *admin.Files {
	open, limit := r.store.OpenFiles()
	f := &admin.Files{Limit: limit, Open: []admin.OpenFile{}}
	for _, o := range open {
		if o.Meta == meta {
			f.Open = append(f.Open, admin.OpenFile{Object: o.Object, Label: o.Label, Name: o.Name, Users: o.Users})
		}
	}
	slices.SortFunc(f.Open, func(a, b admin.OpenFile) int { return strings.Compare(a.Name, b.Name) })
	return f
}

// probeEntries lists the newest entries of the agreed log.
func (r *Replica) probeEntries() ([]admin.EntryInfo, error) {
	r.mu.Lock()
	pos := r.core.Node().Position()
	r.mu.Unlock()
	last := min(pos.Last, r.log.Last())
	first := max(r.log.First(), last+1-min(last, probedEntries))
	infos := []admin.EntryInfo{}
	for first <= last {
		entries, err := r.log.Entries(first, last+1, probedBytes)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			i := admin.EntryInfo{Index: e.Index, Term: e.Term, Bytes: len(e.Data), What: "member change",
				Decided: e.Index <= pos.Commit, Applied: e.Index <= pos.Applied}
			switch o, err := op.Parse(e.Data); {
			case len(e.Data) == 0:
				i.What = "new master"
			case err == nil:
				i.What = o.Code.String()
			}
			infos = append(infos, i)
		}
		first = entries[len(entries)-1].Index + 1
	}
	return infos, nil
}

// adminPeers shows how this server sees the others.
func adminPeers(_ context.Context, r *Replica, _ json.RawMessage, _ func(any) error) (any, error) {
	list := []admin.Peer{}
	for _, at := range r.known() {
		p := r.peer(at.ID)
		if p == nil {
			continue // gone meanwhile
		}
		p.mu.Lock()
		connected := p.out != nil
		p.mu.Unlock()
		s := p.server
		list = append(list, admin.Peer{ID: s.ID, Host: s.Host, UDPPort: s.UDPPort, TCPPort: s.TCPPort,
			Connected: connected, HeardNano: r.heard[s.ID].Load()})
	}
	slices.SortFunc(list, func(a, b admin.Peer) int { return int(a.ID) - int(b.ID) })
	return list, nil
}

package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
)

// records is the table in the words of the channel. Its caller holds mu.
func (r *Replica) records() []admin.MemberRecord {
	t := r.core.Table()
	voters := r.core.Node().Members().Voters
	var all []admin.MemberRecord
	for id := range cell.ID(cell.MaxServers) {
		s, known := r.opts.Cell.Server(id)
		rec := t.Find(id)
		if !known && rec.Last == 0 && rec.Host == "" {
			continue
		}
		m := admin.MemberRecord{ID: id, Role: roleOf(id), Member: rec.Number, Host: s.Host, UDPPort: s.UDPPort, TCPPort: s.TCPPort}
		if rec.Host != "" {
			m.Host, m.UDPPort, m.TCPPort = rec.Host, rec.UDP, rec.TCP
		}
		v := r.core.View()
		switch {
		case rec.Removed:
			m.State = admin.StateRemoved
		case rec.Number == 0:
			m.State = admin.StateAbsent
		case v.Known && v.Master == id:
			m.State = admin.StateMaster
		case slices.Contains(voters, rec.Number):
			m.State = admin.StateVoter
		default:
			m.State = admin.StateLearner
		}
		if rec.Number != 0 {
			m.Identity = rec.Root.String()
		}
		all = append(all, m)
	}
	return all
}

func adminMembers(_ context.Context, r *Replica, _ json.RawMessage, _ func(any) error) (any, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.core.Belongs() {
		return nil, admin.Errorf(admin.Refused, "this server does not belong to a cell yet")
	}
	return r.records(), nil
}

// adminEdit makes a method of an edit of one server's record, whose arguments are an A.
func adminEdit[A any](what string, of func(A) (cell.ID, edit)) adminMethod {
	return adminMethod{do: func(ctx context.Context, r *Replica, args json.RawMessage, _ func(any) error) (any, error) {
		var a A
		if err := adminArgs(args, &a); err != nil {
			return nil, err
		}
		id, do := of(a)
		if id >= cell.MaxServers {
			return nil, admin.Errorf(admin.BadArguments, "server %d: ids are 0 to %d", id, cell.MaxServers-1)
		}
		return struct{}{}, r.editMembers(ctx, fmt.Sprintf("server %d %s", id, what), id, do)
	}}
}

// simple is an edit that needs no more than the server's id.
func simple(do edit) func(admin.MemberArgs) (cell.ID, edit) {
	return func(a admin.MemberArgs) (cell.ID, edit) { return a.ID, do }
}

// editMembers carries an edit out and waits until it is through.
func (r *Replica) editMembers(ctx context.Context, what string, id cell.ID, do edit) error {
	index, term, err := r.beginEdit(ctx, what, id, do)
	if err != nil {
		return err
	}
	return r.await(ctx, func() (bool, error) {
		v, t := r.core.View(), r.core.Table()
		switch {
		case v.Term != term || !v.Self:
			return false, admin.Errorf(admin.TimedOut, "the master changed meanwhile; \"members.list\" tells what became of it")
		case r.core.Applied() >= index && t.Index < index:
			return false, admin.Errorf(admin.Busy, "another change of members came first")
		}
		return r.core.Applied() >= index && r.core.Changing() == "", nil
	})
}

// beginEdit proposes an edit. Who is up is asked anew: an answer from before may be of a server that has died since. So
// a refusal counts only when the others had the time of an election to answer.
func (r *Replica) beginEdit(ctx context.Context, what string, id cell.ID, do edit) (index, term uint64, err error) {
	t := time.NewTicker(r.opts.Timing.Tick)
	defer t.Stop()
	var since time.Duration
	for range r.opts.Timing.Election {
		r.drive(func(now time.Duration) error {
			if since == 0 {
				since = now
			}
			if err = r.notMaster(); err == nil {
				index, err = r.core.edit(what, id, do, since)
				term = r.core.View().Term
			}
			return nil
		})
		var e *admin.Error
		if !errors.As(err, &e) || e.Code != admin.Refused {
			return index, term, err
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return index, term, err
		}
	}
	return index, term, err
}

func adminFound(_ context.Context, r *Replica, args json.RawMessage, _ func(any) error) (any, error) {
	var a admin.FoundArgs
	if err := adminArgs(args, &a); err != nil {
		return nil, err
	}
	var err error
	r.drive(func(time.Duration) error {
		e := r.core.mem.entrance
		if e == nil {
			err = admin.Errorf(admin.Refused, "this server belongs to cell %v already", r.core.Identity().Cell)
		} else if refusal := e.foundWithout(a.Without); refusal != nil {
			err = admin.Errorf(admin.Refused, "%v", refusal)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	r.logger.Warn("the cell is founded without some core servers, as told", "without", a.Without)
	return struct{}{}, nil
}

package replica

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
	"github.com/paxos-iscsi/paxos-iscsi/pss/wire"
)

// place is a running server's place in its cell, as far as its sockets need it.
type place struct {
	identity  atomic.Pointer[Identity]
	peers     [cell.MaxServers]atomic.Pointer[peer] // changed by one goroutine, follow
	tables    chan Table                            // one token: the newest table, for follow
	moved     chan struct{}                         // one token: an address changed, for datagrams
	strangers atomic.Uint64                         // messages dropped before the Core saw them
}

func newPlace() place {
	return place{tables: make(chan Table, 1), moved: make(chan struct{}, 1)}
}

// peer is the way to another server, or nil.
func (r *Replica) peer(id cell.ID) *peer {
	if id >= cell.MaxServers {
		return nil
	}
	return r.place.peers[id].Load()
}

// dial connects to another server's port for servers.
func (r *Replica) dial(id cell.ID) (net.Conn, error) {
	p := r.peer(id)
	if p == nil {
		return nil, fmt.Errorf("server %d is not in this cell", id)
	}
	return p.dial()
}

// member is what this server introduces itself with to others. It reports false while it belongs to no cell.
func (r *Replica) member() (wire.Member, bool) {
	id := r.place.identity.Load()
	return wire.Member{Cell: id.Cell, Number: id.Number}, id.Number != 0
}

// neighbours are the other servers and where they are: as the table says, else as server.conf.
func (r *Replica) neighbours(t *Table) []cell.Server {
	var all []cell.Server
	for id := range cell.ID(cell.MaxServers) {
		s, ok := r.opts.Cell.Server(id)
		rec := t.Find(id)
		if rec.Host != "" {
			s, ok = cell.Server{ID: id, Host: rec.Host, UDPPort: rec.UDP, TCPPort: rec.TCP}, true
		}
		if ok && id != r.opts.ID && !rec.Removed {
			all = append(all, s)
		}
	}
	return all
}

// whereabouts are all servers for a client, this one included.
func (r *Replica) whereabouts(t *Table) *wire.Servers {
	all := &wire.Servers{Index: t.Index}
	for id := range cell.ID(cell.MaxServers) {
		s, ok := r.opts.Cell.Server(id)
		rec := t.Find(id)
		w := wire.Server{ID: id, Agreed: rec.Host != "", Removed: rec.Removed}
		switch {
		case rec.Removed:
		case w.Agreed:
			w.Host, w.TCPPort, w.UDPPort = rec.Host, rec.TCP, rec.UDP
		case ok:
			w.Host, w.TCPPort, w.UDPPort = s.Host, s.TCPPort, s.UDPPort
		default:
			continue
		}
		all.Servers = append(all.Servers, w)
	}
	return all
}

// known are the other servers as they are connected to at present.
func (r *Replica) known() []cell.Server {
	var all []cell.Server
	for id := range r.place.peers {
		if p := r.place.peers[id].Load(); p != nil {
			all = append(all, p.server)
		}
	}
	return all
}

// tell has follow adjust to a new table. Its caller holds mu, so that an older one never follows.
func (p *place) tell(t Table) {
	select {
	case <-p.tables:
	default:
	}
	p.tables <- t
}

// follow keeps a connection to each member of the cell where it is at present.
func (r *Replica) follow() {
	for {
		select {
		case <-r.ctx.Done():
			return
		case t := <-r.place.tables:
			r.reconcile(&t)
		}
	}
}

func (r *Replica) reconcile(t *Table) {
	now := r.neighbours(t)
	for id := range r.place.peers {
		slot := &r.place.peers[id]
		old := slot.Load()
		at := slices.IndexFunc(now, func(s cell.Server) bool { return int(s.ID) == id })
		if old != nil && at >= 0 && old.server.TCPAddr() == now[at].TCPAddr() && old.server.UDPAddr() == now[at].UDPAddr() {
			continue
		}
		if old != nil {
			slot.Store(nil)
			old.close()
		}
		if at >= 0 {
			p := newPeer(r, now[at])
			slot.Store(p)
			r.tasks.Go(p.run)
		}
		select {
		case r.place.moved <- struct{}{}:
		default:
		}
	}
}

// keep writes the identity that the Core decided on, and has it be that member.
func (r *Replica) keep(id Identity) {
	if err := KeepIdentity(r.fs, &id); err != nil {
		r.failed(err)
		return
	}
	r.place.identity.Store(&id)
	r.drive(func(now time.Duration) error { return r.core.IdentityKept(now) })
}

// KeepIdentity carries Output.Identity out: afterwards Core.IdentityKept is to be called.
func KeepIdentity(dir disk.FS, id *Identity) error {
	if err := WriteIdentity(dir, id); err != nil {
		return err
	}
	return removeIfThere(dir, givenUpLog)
}

// givenUpLog is where the log of a member goes that gave up its place, until it has another: nothing reads it but,
// if the worst comes to the worst, a person.
const givenUpLog = "log.given-up"

// GiveUp makes a server's root one that belongs to no member: it forgets its log and votes, and keeps the agreed
// state of its checkpoint, from which it takes only the difference once it is taken in again. The server must not
// run. Who calls it is sure that the cell has a majority without this root, for what only this root has is lost.
// into is the cell to be joined; zero is the one that the root belongs to. The state of another cell is of no use.
func GiveUp(root string, id cell.ID, into wire.CellID, random io.Reader) error {
	return giveUp(root, id, into, random, false, time.Time{})
}

// giveUp is GiveUp. discard says that the state in the root is of no use; healed, unless zero, is noted as when the
// server itself gave the root up.
func giveUp(root string, id cell.ID, into wire.CellID, random io.Reader, discard bool, healed time.Time) error {
	dir, err := disk.Dir(root)
	if err != nil {
		return err
	}
	lock, err := disk.Lock(root)
	if err != nil {
		return err
	}
	defer lock.Close()
	return giveUpRoot(dir, id, into, random, discard, healed)
}

// GiveUpRoot is GiveUp for a root that is open and that nobody else uses.
func GiveUpRoot(dir disk.FS, id cell.ID, into wire.CellID, random io.Reader) error {
	return giveUpRoot(dir, id, into, random, false, time.Time{})
}

func giveUpRoot(dir disk.FS, id cell.ID, into wire.CellID, random io.Reader, discard bool, healed time.Time) error {
	old, err := ReadIdentity(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrIdentity) {
		return err
	}
	discard = discard || errors.Is(err, ErrIdentity) // of which cell the state is nobody knows
	fresh, err := NewIdentity(id, random)
	if err != nil {
		return err
	}
	fresh.Cell, fresh.Founders, fresh.Healed = old.Cell, old.Founders, old.Healed
	if !healed.IsZero() {
		fresh.Healed = healed.Unix()
	}
	if into != (wire.CellID{}) && into != old.Cell {
		fresh.Cell, fresh.Founders, fresh.Discard = into, nil, true
	} else if discard || finishCheckpoint(dir) != nil {
		fresh.Discard = true // what can't be opened is of no use as a base either: everything comes from the others
	}
	return WriteIdentity(dir, &fresh)
}

// vacate makes a root ready for a server that is a member of no cell: nothing may go on from its log, nor from a
// store that is to be discarded. A crash can only repeat it.
func vacate(dir disk.FS, id *Identity) error {
	if err := clearLog(dir); err != nil {
		return err
	}
	if !id.Discard {
		return nil
	}
	for _, name := range []string{"checkpoint", "prepared", "data", "staging"} {
		if err := removeIfThere(dir, name); err != nil {
			return err
		}
	}
	if err := dir.SyncDir("."); err != nil {
		return err
	}
	id.Discard = false
	return WriteIdentity(dir, id)
}

// clearLog puts the log of a root that belongs to no member aside.
func clearLog(dir disk.FS) error {
	entries, err := dir.ReadDir(".")
	if err != nil {
		return err
	}
	has := func(name string) bool {
		return slices.ContainsFunc(entries, func(e disk.Entry) bool { return e.Name == name })
	}
	switch {
	case !has("log"):
		return nil
	case has(givenUpLog):
		err = dir.RemoveAll("log")
	default:
		err = dir.Rename("log", givenUpLog)
	}
	if err == nil {
		err = dir.SyncDir(".")
	}
	if err != nil {
		return fmt.Errorf("putting the old log aside: %w", err)
	}
	return nil
}

func removeIfThere(dir disk.FS, name string) error {
	if err := dir.RemoveAll(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing %s: %w", name, err)
	}
	return nil
}

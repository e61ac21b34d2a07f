package replica

import (
	"errors"
	"fmt"
	"io"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
	"github.com/paxos-iscsi/paxos-iscsi/pss/log"
	"github.com/paxos-iscsi/paxos-iscsi/pss/state"
	"github.com/paxos-iscsi/paxos-iscsi/pss/store"
	"github.com/paxos-iscsi/paxos-iscsi/pss/wire"
)

// A cell whose majority is lost for good can be founded again on one server's root. Everything in its log counts as
// agreed then, the entries too that no majority had, so nothing that this server ever acknowledged is lost; what
// only the lost servers acknowledged is. The new cell has an identity of its own, so servers of the old one that
// turn up later have nothing to say in it: each of them keeps its root untouched until an operator has it join.
//
// It is done in steps that a crash can only repeat: the identity says first that it is to be done; then the log is
// applied to its end, and a checkpoint one entry behind it names this server as the only member; then the log
// begins anew behind that; then the identity says that it is done.

// Survey is what there is to found a cell again on.
type Survey struct {
	Identity    Identity
	Last, Term  uint64 // the newest entry of the log; it may not have been agreed on
	Commit      uint64 // known to have been agreed on
	Checkpoint  uint64
	MemberCount int // of the old cell's voters
}

// rootFiles are a stopped server's log and store.
type rootFiles struct {
	dir   disk.FS
	lock  io.Closer
	log   *log.Log
	store *store.Store
	ckpt  store.Position
}

// takeRoot locks a root and reads its identity; nothing is made in it.
func takeRoot(root string) (f *rootFiles, id Identity, err error) {
	f = new(rootFiles)
	if f.dir, err = disk.Dir(root); err != nil {
		return f, id, err
	}
	if id, err = ReadIdentity(f.dir); err != nil {
		return f, id, err
	}
	f.lock, err = disk.Lock(root)
	return f, id, err
}

func (f *rootFiles) open(segmentBytes, overlayBytes int64) (err error) {
	superseded, err := store.Checkpointed(f.dir, ".")
	if err != nil {
		return err
	}
	if f.log, err = log.Open(f.dir, "log", log.Options{SegmentBytes: segmentBytes, Superseded: superseded}); err != nil {
		return err
	}
	f.store, f.ckpt, err = OpenStore(f.dir, f.log, overlayBytes)
	return err
}

func (f *rootFiles) close() error {
	var errs []error
	if f.store != nil {
		errs = append(errs, f.store.Close())
	}
	if f.log != nil {
		errs = append(errs, f.log.Close())
	}
	if f.lock != nil {
		errs = append(errs, f.lock.Close())
	}
	return errors.Join(errs...)
}

// Look surveys the root of a server that does not run.
func Look(root string, id cell.ID) (s Survey, err error) {
	f, found, err := takeRoot(root)
	defer func() { err = errors.Join(err, f.close()) }()
	if err != nil {
		return s, err
	}
	if s.Identity = found; found.ID != id {
		return s, fmt.Errorf("%w: it is server %d's", ErrForeign, found.ID)
	}
	if found.Number == 0 {
		return s, nil // there is nothing to be seen
	}
	if err := f.open(DefaultSegmentBytes, DefaultOverlayBytes); err != nil {
		return s, err
	}
	s.Last, s.Commit, s.Checkpoint = f.log.Last(), max(f.log.HardState().Commit, f.ckpt.Index), f.ckpt.Index
	members := foundersMembers(s.Identity.Founders)
	if f.ckpt.Index > 0 {
		if members, _, _, err = decodeMeta(f.ckpt.Meta); err != nil {
			return s, err
		}
	}
	s.MemberCount = len(members.Voters)
	if s.Last > 0 {
		s.Term, err = f.log.Term(s.Last)
	}
	return s, err
}

// Refound has a server found its cell again when it is started next, with itself as the only member. It must not
// run. random is where the new cell's identity comes from.
func Refound(root string, id cell.ID, random io.Reader) (wire.CellID, error) {
	s, err := Look(root, id)
	if err != nil {
		return wire.CellID{}, err
	}
	switch {
	case s.Identity.Number == 0:
		return wire.CellID{}, errors.New("this root belongs to no cell that could be founded again")
	case s.Last == 0:
		return wire.CellID{}, errors.New("this root holds nothing: start the servers with empty roots instead")
	case !id.Core():
		return wire.CellID{}, fmt.Errorf("server %d is a replica and can't be master: found the cell again on a core server's root", id)
	}
	next := Identity{ID: id, Root: s.Identity.Root, Number: id.Member(cell.Incarnation(s.Identity.Number) + 1), Refound: true}
	if _, err := io.ReadFull(random, next.Cell[:]); err != nil {
		return wire.CellID{}, fmt.Errorf("random bits for the cell's identity: %w", err)
	}
	next.Founders = []Founder{{ID: id, Root: next.Root}}
	dir, err := disk.Dir(root)
	if err != nil {
		return wire.CellID{}, err
	}
	lock, err := disk.Lock(root)
	if err != nil {
		return wire.CellID{}, err
	}
	return next.Cell, errors.Join(WriteIdentity(dir, &next), lock.Close())
}

// finishRefound does what an identity with Refound asks for. Its caller holds the root's lock.
func finishRefound(dir disk.FS, id *Identity, segmentBytes, overlayBytes int64) (err error) {
	f := &rootFiles{dir: dir}
	if err := f.open(segmentBytes, overlayBytes); err != nil {
		return errors.Join(err, f.close())
	}
	err = f.refound(id)
	if err = errors.Join(err, f.close()); err != nil {
		return fmt.Errorf("founding the cell again: %w", err)
	}
	id.Refound = false
	return WriteIdentity(dir, id)
}

func (f *rootFiles) refound(id *Identity) error {
	machine := state.New(f.store)
	var table Table
	if f.ckpt.Index > 0 {
		_, t, meta, err := decodeMeta(f.ckpt.Meta)
		if err != nil {
			return err
		}
		if t.Find(id.ID).Number == id.Number {
			return nil // it was cut short behind the checkpoint
		}
		if err := machine.Restore(meta); err != nil {
			return err
		}
		table = t
	}
	last := f.log.Last()
	for at := f.ckpt.Index + 1; at <= last; at++ {
		if err := f.replay(at, machine, &table); err != nil {
			return fmt.Errorf("entry %d: %w", at, err)
		}
	}
	term, err := f.log.Term(last)
	if err != nil {
		return err
	}
	hs := log.HardState{Term: max(term, f.log.HardState().Term) + 1, Commit: last}
	// The others are out, and their numbers stay used up.
	only := Table{Index: last + 1}
	for _, r := range table.Records {
		r.Number, r.Root = 0, RootID{}
		only.Records = append(only.Records, r)
	}
	self := only.Find(id.ID)
	self.Number, self.Last, self.Root, self.Vote, self.Removed = id.Number, id.Number, id.Root, true, false
	next := only.with(self)
	next.Index = only.Index
	if err := f.log.Append(&hs, nil); err != nil {
		return err
	}
	if err := f.log.Sync(); err != nil {
		return err
	}
	meta := appendMeta(nil, raftpb.ConfState{Voters: []uint64{id.Number}}, &next, machine)
	if err := f.checkpoint(last+1, hs.Term, meta); err != nil {
		return err
	}
	return f.log.Reset(last+1, hs.Term)
}

// replay applies one entry, and makes room when the overlay is full.
func (f *rootFiles) replay(at uint64, machine *state.Machine, table *Table) error {
	es, err := f.log.Entries(at, at+1, wire.MaxEntry)
	if err != nil {
		return err
	}
	e := es[0]
	switch {
	case raftpb.EntryType(e.Kind) == raftpb.EntryConfChangeV2:
		var cc raftpb.ConfChangeV2
		if err := cc.Unmarshal(e.Data); err != nil {
			return err
		}
		if len(cc.Context) > 0 {
			if *table, err = ParseTable(cc.Context); err != nil {
				return err
			}
		}
	case len(e.Data) > 0:
		if _, err := machine.Apply(at, e.Data); err != nil {
			return err
		}
	}
	if !f.store.WantsFlush() {
		return nil
	}
	return f.checkpoint(at, e.Term, appendMeta(nil, raftpb.ConfState{}, table, machine))
}

func (f *rootFiles) checkpoint(index, term uint64, meta []byte) error {
	flush, err := f.store.Freeze(index, term, meta)
	if err != nil {
		return err
	}
	return flush.Run()
}

// Package state is the replicated state machine of a cell: what the agreed log means. Fed with the
// same entries, every server comes to the same sessions, the same tree of folders, files and volumes
// and the same answers, whatever its clock, disk or memory are like. Block data is not kept here but
// in a Store, which the machine tells what to write where.
//
// Apply, Snapshot and Restore belong to one goroutine. Query and Object may be called from any, at
// the same time. What a client may ask and what it is answered is defined in package op; the rules of
// a session, which make each operation take effect exactly once, stand in session.go.
package state

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"

	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
)

// Limits of a cell's state. An operation that would exceed one is answered with op.TooMany.
const (
	MaxSessions = 4096    // open sessions
	MaxObjects  = 1 << 20 // folders, files and volumes, the root not counted
	MaxClosed   = 1024    // closed sessions that are remembered, so that nothing late opens one again
)

// SectorSize is what the size of a volume is a multiple of, in bytes.
const SectorSize = 512

// Store keeps the data of objects. A call that returns an error has changed nothing. What an error
// says is about this server, never about the operation: whatever depends on the agreed log alone is
// settled before the store is asked.
//
// All methods but ReadAt and Chunks are called by the goroutine that applies. index is that of the
// log entry at work. Bytes never written read as zeros.
type Store interface {
	// Create makes an empty object. Its number was never used before; label is its name at this moment.
	Create(object uint64, label string, index uint64) error
	// Delete forgets an object and its data.
	Delete(object, index uint64) error
	// Write stores data at off. data is a part of the entry, from byte entryOffset on, and may be kept:
	// nobody changes an entry. sums has 4 little-endian bytes of CRC32C for each BlockSize-aligned piece.
	Write(object uint64, off int64, data, sums []byte, entryOffset int, index uint64) error
	// Zero makes n bytes from off read as zeros, and with free gives their space back.
	Zero(object uint64, off, n int64, index uint64, free bool) error
	// Truncate drops what is at and beyond size.
	Truncate(object uint64, size int64, index uint64) error
	// ReadAt fills p with what is at off.
	ReadAt(object uint64, off int64, p []byte) error
	// Chunks calls fn for each chunk of op.ChunkSize bytes that takes space, from the given one on and
	// in order, until fn returns false. Chunk c is at byte c*op.ChunkSize.
	Chunks(object uint64, from uint32, fn func(chunk uint32) bool) error
}

// Machine is the state of a cell as of one log entry.
type Machine struct {
	store    Store
	applied  uint64 // index of the last entry applied
	sessions sessions
	scratch  []byte // what CompareAndWrite reads into

	// mu guards the shape of the tree and the map of objects against the readers in other goroutines.
	// The applying goroutine is the only one that changes them, so it takes mu for changes only.
	mu   sync.RWMutex
	tree tree
}

// New makes the machine of a cell that nothing has happened in yet.
func New(store Store) *Machine {
	return &Machine{store: store, sessions: newSessions(), tree: newTree()}
}

// ErrOrder is wrapped by the error of Apply when an entry comes that was applied before.
var ErrOrder = errors.New("entries out of order")

// Apply carries out the entry of the log at index, and answers what its sender is told. Any bytes may
// come: what is no operation is answered with op.Invalid. Entries come in the order of their indexes,
// of which some may be left out.
//
// An error is the store's, or ErrOrder. It says nothing about the operation, whose result the other
// servers find, and leaves everything as it was before the entry. The caller removes the cause, such
// as a block that is damaged on this server's disk, and applies the same entry again, or stops.
func (m *Machine) Apply(index uint64, entry []byte) (op.Result, error) {
	if index <= m.applied {
		return op.Result{}, fmt.Errorf("%w: entry %d was applied, and now comes %d", ErrOrder, m.applied, index)
	}
	r := op.Result{Errno: op.Invalid}
	if o, err := op.Parse(entry); err == nil {
		if r, err = m.apply(index, &o); err != nil {
			return op.Result{}, fmt.Errorf("apply entry %d, %v of object %d: %w", index, o.Code, o.Object, err)
		}
	}
	m.applied = index
	return r, nil
}

// apply carries out an operation if it is in order with its session.
func (m *Machine) apply(index uint64, o *op.Op) (op.Result, error) {
	switch {
	case o.Session == 0 && o.Code == op.Nop:
		return answer(op.OK)
	case o.Session == 0:
		return answer(op.Invalid)
	case o.Code == op.SessionOpen:
		return answer(m.sessions.open(o.Session, o.Epoch))
	case o.Code == op.SessionClose:
		return answer(m.sessions.close(o.Session, o.Epoch))
	}
	s := m.sessions.byID[o.Session]
	if s == nil {
		return answer(op.NoSession)
	}
	if r, settled := s.admit(o); settled {
		return r, nil
	}
	r, err := m.execute(index, o)
	if err != nil {
		return op.Result{}, err
	}
	s.record(o, r)
	return r, nil
}

// execute carries out an operation that its session admitted. Each operation changes the store once at
// most, and before anything else, so that an error of the store leaves nothing half done.
func (m *Machine) execute(index uint64, o *op.Op) (op.Result, error) {
	switch o.Code {
	case op.Nop:
		return op.Result{}, nil
	case op.Mkdir:
		return m.mkdir(o)
	case op.Rmdir:
		return m.rmdir(o)
	case op.CreateFile:
		return m.createFile(index, o)
	case op.Truncate:
		return m.truncate(index, o)
	case op.Delete:
		return m.deleteFile(index, o)
	case op.Rename:
		return m.rename(index, o)
	case op.VolumeCreate:
		return m.volumeCreate(index, o)
	case op.VolumeOpen:
		return m.volumeOpen(o)
	case op.VolumeGrow:
		return m.volumeGrow(o)
	case op.VolumeDelete:
		return m.volumeDelete(index, o)
	case op.Write:
		return m.write(index, o)
	case op.Unmap, op.WriteZeroes:
		return m.zero(index, o)
	case op.CompareAndWrite:
		return m.compareAndWrite(index, o)
	case op.Flush:
		return m.flush(o)
	case op.AttrSet:
		return m.attrSet(index, o)
	default:
		return answer(op.Invalid)
	}
}

// answer is the result of an operation that has nothing more to say than how it ended.
func answer(e op.Errno) (op.Result, error) { return op.Result{Errno: e}, nil }

// Object is what a reader of block data has to know of an object: its size in bytes and whether it is
// a file or a volume; false when there is none. A reader whose object is deleted meanwhile gets
// whatever the store answers then.
func (m *Machine) Object(object uint64) (size uint64, kind op.NodeKind, ok bool) {
	m.mu.RLock()
	n := m.tree.objects[object]
	m.mu.RUnlock()
	if n == nil {
		return 0, 0, false
	}
	return n.size.Load(), n.kind, true
}

// Digest is a hash of all the state but the data of objects. Two servers of a cell that applied the
// same entries have the same.
func (m *Machine) Digest() [sha256.Size]byte { return sha256.Sum256(m.Snapshot(nil)) }

// Package backstore is the interface through which a logical unit keeps its bytes, with one folder
// below it for each type of store. A store takes requests in any number, completes them in any
// order from any goroutine, and never touches a request again once it has completed it. The SCSI
// layer checks ranges before it submits; a store may rely on that.
package backstore

import (
	"errors"
	"fmt"
	"sync"
)

// Op is what a request asks for.
type Op uint8

// The operations. Offsets and lengths are bytes, multiples of the unit's block size. A store that has no
// CompareAndWrite of its own completes it with errors.ErrUnsupported, and the unit then does it itself.
const (
	Read            Op = iota + 1 // fill Data from Offset
	Write                         // Data to Offset
	Flush                         // everything written before is durable when it completes
	Unmap                         // [Offset, Offset+Length) reads as zeros and takes no space, where the store can
	WriteZeroes                   // [Offset, Offset+Length) reads as zeros
	CompareAndWrite               // Data is two halves: if the first equals what is stored, the second is written, atomically
	Status                        // allocation of the range: fills Mapped and MappedLength (GET LBA STATUS)
)

// The errors a store completes requests with; anything else is a medium error.
var (
	ErrMiscompare = errors.New("the stored data differs")          // CompareAndWrite; IO.Miscompare says where
	ErrNoSpace    = errors.New("the backing store is full")        // DATA PROTECT, SPACE ALLOCATION FAILED
	ErrBusy       = errors.New("the backing store is not ready")   // retryable: the unit answers BUSY
	ErrDamaged    = errors.New("the stored data is damaged")       // MEDIUM ERROR, UNRECOVERED READ ERROR
	ErrInternal   = errors.New("the backing store failed")         // HARDWARE ERROR, INTERNAL TARGET FAILURE
	ErrFenced     = errors.New("another target owns the volume")   // this store may not write any more
	ErrReadOnly   = errors.New("the backing store is read-only")   // DATA PROTECT, WRITE PROTECTED
	ErrUnknown    = errors.New("no such type of backing store")    // Open
	ErrOption     = errors.New("unsupported backing store option") // Open
)

// IO is one request. The submitter fills the first part and must leave the request alone until Done
// is called; it may then use it again.
type IO struct {
	Op     Op
	Offset int64
	Length int64  // bytes; len(Data) for Read and Write, half of it for CompareAndWrite
	Data   []byte // Read: filled by the store. Write: must not change until Done.
	FUA    bool   // Write, WriteZeroes, CompareAndWrite: durable when it completes
	// State is the version of the unit's state (StateKeeper) by which the request was allowed. It matters for
	// a shared medium only: the request fails with ErrStateChanged when the state has another version.
	State uint64

	Err          error
	Miscompare   int64 // bytes from Offset to the first difference, with ErrMiscompare
	Mapped       bool  // Status: the blocks at Offset are allocated
	MappedLength int64 // Status: for so many bytes

	// Done is called exactly once, with Err set, from any goroutine; Submit may call it itself.
	Done func(*IO)
	// Owner is the submitter's own.
	Owner any
	// Store is the store's own, kept with the request so that a request used again costs nothing.
	Store any
}

// Info is what a store says of itself.
type Info struct {
	Bytes        int64 // size
	PhysicalSize int   // bytes of a physical block (st_blksize for a file), 0 when unknown
	Thin         bool  // Unmap frees space
	AlwaysThin   bool  // the store has no other form: units on it are thin-provisioned from birth
	// Ordered: of two requests for one range, the one submitted first takes effect first, so that an
	// aborted write can't overtake a later one.
	Ordered  bool
	ReadOnly bool // the medium could be opened for reading only
	// Keeps says whether the store is a StateKeeper, and what for.
	Keeps Keeping
	// Shared: other targets serve the medium at the same time.
	Shared bool
	// Identity, when not empty, names the medium for ever and everywhere; units that show it are one disk to
	// an initiator. 16 bytes.
	Identity string
	// Waiting says why the medium can't be used yet; empty: it can. The store calls Options.Resized when that
	// changes.
	Waiting string
	// AtomicBytes is the longest Write of which all or nothing is there after any event, a loss of power
	// included; 0: none is promised.
	AtomicBytes int64
	// Durable: a write that completed is durable, FUA or not; Flush has nothing left to do.
	Durable bool
}

// Store keeps the bytes of one logical unit.
type Store interface {
	// Submit starts a request and does not wait for it. It may block for a short time when the
	// store's queue is full.
	Submit(*IO)
	// Info may be called at any time; Bytes changes when the medium grows.
	Info() Info
	// Close waits for the requests under way and releases the medium.
	Close() error
}

// Options are what tgtadm --op new --mode logicalunit gives a store.
type Options struct {
	Path      string // --backing-store, as typed
	BlockSize int    // --blocksize in bytes
	Options   string // --bsopts
	Sync      bool   // --bsoflags sync
	Direct    bool   // --bsoflags direct
	Threads   int    // tgtd --nr_iothreads
	// StateDir is the folder for the state of units on this machine; empty: none is kept.
	StateDir string
	// Resized, when not nil, is called after Info().Bytes or Info().Waiting changed.
	Resized func()
}

// Type is a kind of backing store under the name that tgtadm --bstype takes.
type Type struct {
	Name string
	Open func(Options) (Store, error)
}

// Registry holds the types a daemon offers.
type Registry struct {
	// StateDir is what Open gives to stores as Options.StateDir; set it before the first Open.
	StateDir string

	mu    sync.Mutex
	types []Type // in the order of registration, which `tgtadm --op show --mode sys` prints
}

// Add registers a type. A name that is there already is a mistake of the program.
func (r *Registry) Add(t Type) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, have := range r.types {
		if have.Name == t.Name {
			panic("backstore: type " + t.Name + " registered twice")
		}
	}
	r.types = append(r.types, t)
}

// Names lists the types in order of registration.
func (r *Registry) Names() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	names := make([]string, len(r.types))
	for i, t := range r.types {
		names[i] = t.Name
	}
	return names
}

// Open opens a store of the type called name. It returns ErrUnknown for an unknown name.
func (r *Registry) Open(name string, o Options) (Store, error) {
	r.mu.Lock()
	var open func(Options) (Store, error)
	for _, t := range r.types {
		if t.Name == name {
			open = t.Open
		}
	}
	r.mu.Unlock()
	if open == nil {
		return nil, fmt.Errorf("%w: %q", ErrUnknown, name)
	}
	if o.StateDir == "" {
		o.StateDir = r.StateDir
	}
	return open(o)
}

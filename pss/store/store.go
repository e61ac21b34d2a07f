package store

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
)

// Limits. Where a limit is an option, this is its default.
const (
	MaxObjects          = 1 << 22   // objects in one store
	MaxMeta             = 512 << 20 // bytes of Checkpoint.Meta
	DefaultOverlayBytes = 256 << 20
	DefaultSumsBytes    = 64 << 20
	DefaultOpenFiles    = 256
	cacheShards         = 16
	gateCount           = 16
)

// Errors that callers decide upon.
var (
	ErrNoObject = errors.New("no such object")
	ErrRange    = errors.New("outside of what an object can hold")
	ErrOrder    = errors.New("operations out of order")
	ErrBusy     = errors.New("a flush or an installation is under way")
	ErrClosed   = errors.New("the store is closed")
)

// DamageError reports bytes on disk that are not what was written there. The rest of the store can
// be used; see Mend for blocks.
type DamageError struct {
	Object    uint64
	Block     uint64 // number of the block in the object; 0 if the damage is not in a block's data or record
	File      string
	What      string // "data", "record", or in words
	Offset    int64  // in the file, in bytes
	Want, Got uint32 // checksums; equal if What is not about one
	Err       error  // what the disk answered instead of bytes; nil if there are bytes, and they are wrong
}

// Error describes the damage.
func (e *DamageError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("%s can't be read at %d: %s of object %d block %d: %v",
			e.File, e.Offset, e.What, e.Object, e.Block, e.Err)
	}
	if e.Want == e.Got {
		return fmt.Sprintf("%s is damaged: %s", e.File, e.What)
	}
	return fmt.Sprintf("%s is damaged at %d: %s of object %d block %d: want %08x, got %08x",
		e.File, e.Offset, e.What, e.Object, e.Block, e.Want, e.Got)
}

// Unwrap gives what the disk answered, if it did not answer with bytes.
func (e *DamageError) Unwrap() error { return e.Err }

// unreadable says whether an error of reading an open file is about what is read: a sector that the disk gives
// no bytes for (EIO) is damage like wrong bytes, and heals in the same way. A file that was closed and a
// machine that is down are not.
func unreadable(err error) bool {
	return err != nil && !errors.Is(err, disk.ErrCrashed) && !errors.Is(err, fs.ErrClosed)
}

// Options say how a store is opened. Zero values stand for the defaults.
type Options struct {
	// Dir is the store's folder in the file system; it is made if need be.
	Dir string
	// EntryData returns the bytes of the log entry with an index, as they were given to the state
	// machine. Open calls it if a flush was interrupted, for entries after the old checkpoint.
	EntryData func(index uint64) ([]byte, error)
	// Bodies is where the log keeps large data; nil: nowhere.
	Bodies Bodies
	// MaxOverlayBytes is what WantsFlush and Full go by.
	MaxOverlayBytes int64
	// SumsBytes bounds the memory for block records. 4 KiB of it cover 1 MiB of data.
	SumsBytes int
	// OpenFiles bounds the files that are kept open. A flush may have up to maxUnsynced more.
	OpenFiles int
}

// Position is what a checkpoint stands for.
type Position struct {
	Index, Term uint64 // of the last entry it includes; 0 in a new store
	Meta        []byte // as given to Freeze or Install
}

// Object names an object in lists.
type Object struct {
	Number uint64
	Label  string
	Born   uint64 // index of the entry that created it
}

// Store is the block data of a replica. See the package comment for who may call what.
type Store struct {
	fs disk.FS
	o  Options

	mu      sync.RWMutex
	objects map[uint64]*object
	dying   map[uint64]*object // deleted since the last freeze: the checkpoint has them still
	flush   *Flush             // the one under way
	staging *Staging
	// leftover: there is something from a staging that ended without effect.
	leftover bool

	// Readers hold the read side of a gate from before they look into the overlay until they have
	// what they need from the disk. Passing through all gates with the write side hence waits for
	// every reader that might not have seen the frozen overlay.
	gates [gateCount]gate

	files *cache[fileKey, openFile]
	sums  *cache[pageKey, page]

	scratch sync.Pool // *scratch
	buf     []byte    // of the flush or installation under way
	noLinks bool      // the file system gives no file two names; of the flush

	adopted atomic.Uint64 // chunks that bodies became

	activeBytes, frozenBytes atomic.Int64

	seq    uint64        // of the checkpoint
	pos    atomic.Uint64 // index of the Checkpoint view
	broken atomic.Pointer[error]

	// Apply side only.
	dirty  []*object // objects whose active layer was made since the last freeze
	last   uint64    // index of the newest operation
	frozen uint64    // index of the last freeze

	discards atomic.Uint64 // numbers the folders with discardedName since Open

	spareMu sync.Mutex
	spare   []*layer
}

type gate struct {
	sync.RWMutex
	_ [40]byte // a cache line each
}

// maxSpareLayers is how many empty layers are kept for the next generation.
const maxSpareLayers = 64

// Open opens the store in o.Dir of fsys, finishing a flush that a crash interrupted. It returns
// what the content stands for: the entries after that index are to be applied again. A
// *DamageError says that the store can't be trusted as it is.
func Open(fsys disk.FS, o Options) (*Store, Position, error) {
	if o.MaxOverlayBytes == 0 {
		o.MaxOverlayBytes = DefaultOverlayBytes
	}
	if o.SumsBytes == 0 {
		o.SumsBytes = DefaultSumsBytes
	}
	if o.OpenFiles == 0 {
		o.OpenFiles = DefaultOpenFiles
	}
	if o.Dir == "" {
		o.Dir = "."
	}
	s := &Store{fs: fsys, o: o, dying: map[uint64]*object{}}
	s.files = newCache(o.OpenFiles, cacheShards, fileKey.hash, (*openFile).close)
	s.sums = newCache(o.SumsBytes/pageSize, cacheShards, pageKey.hash, func(p *page) { p.loaded = false })
	s.scratch.New = func() any { return new(scratch) }
	p, err := s.recover()
	if err == nil {
		err = s.sweepBodies()
	}
	if err != nil {
		s.files.clear()
		return nil, Position{}, fmt.Errorf("opening the store in %s: %w", o.Dir, err)
	}
	return s, p, nil
}

// Close gives back the open files. No other call may be under way, and none succeeds afterwards.
func (s *Store) Close() error {
	s.fail(ErrClosed)
	s.files.clear()
	if s.staging != nil {
		s.staging.closeList()
	}
	return nil
}

// fail breaks the store for good and returns why.
func (s *Store) fail(err error) error {
	s.broken.CompareAndSwap(nil, &err)
	return *s.broken.Load()
}

// check returns why the store is broken, if it is.
func (s *Store) check() error {
	if e := s.broken.Load(); e != nil {
		return *e
	}
	return nil
}

// find returns an object as v sees it.
func (s *Store) find(v View, number uint64) (*object, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	o := s.objects[number]
	if v == Checkpoint {
		if d := s.dying[number]; d != nil {
			o = d
		}
		if o != nil && o.born > s.pos.Load() {
			o = nil
		}
	}
	if o == nil {
		return nil, fmt.Errorf("%w: %d", ErrNoObject, number)
	}
	return o, nil
}

// step checks that the apply side goes forward.
func (s *Store) step(index uint64) error {
	if err := s.check(); err != nil {
		return err
	}
	if index < s.last || index <= s.frozen || index >= hasFile {
		return fmt.Errorf("%w: entry %d after entry %d and a freeze at %d", ErrOrder, index, s.last, s.frozen)
	}
	s.last = index
	return nil
}

// Create makes an empty object. Its number must not have been used before; label is for the eyes
// of those who look into the data folder. Apply side.
func (s *Store) Create(number uint64, label string, index uint64) error {
	if err := s.step(index); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.objects[number] != nil || s.dying[number] != nil {
		return fmt.Errorf("%w: object %d is there already", ErrOrder, number)
	}
	if len(s.objects) >= MaxObjects {
		return fmt.Errorf("%w: more than %d objects", ErrRange, MaxObjects)
	}
	s.objects[number] = s.newObject(Object{number, sanitise(label), index})
	return nil
}

func (s *Store) newObject(x Object) *object {
	return &object{number: x.Number, label: x.Label, born: x.Born, base: map[uint16]*folderIndex{},
		folder: s.inDir(dataName) + "/" + objectFolder(x.Number, x.Label)}
}

// Delete removes an object: its memory now, what it has on disk with the next flush. Apply side.
func (s *Store) Delete(number uint64, index uint64) error {
	if err := s.step(index); err != nil {
		return err
	}
	s.mu.Lock()
	o := s.objects[number]
	if o == nil {
		s.mu.Unlock()
		return fmt.Errorf("deleting: %w: %d", ErrNoObject, number)
	}
	delete(s.objects, number)
	if o.born <= s.frozen {
		s.dying[number] = o
	}
	s.mu.Unlock()
	o.mu.Lock()
	l := o.active
	o.active = nil
	o.mu.Unlock()
	if l != nil {
		s.activeBytes.Add(-l.bytes)
		s.giveLayer(l)
	}
	return nil
}

// Objects lists the objects that v shows in order of their numbers.
func (s *Store) Objects(v View) []Object {
	s.mu.RLock()
	defer s.mu.RUnlock()
	list := make([]Object, 0, len(s.objects))
	for _, o := range s.objects {
		if v == Newest || o.born <= s.pos.Load() {
			list = append(list, Object{o.number, o.label, o.born})
		}
	}
	if v == Checkpoint {
		for _, o := range s.dying {
			list = append(list, Object{o.number, o.label, o.born})
		}
	}
	slices.SortFunc(list, func(a, b Object) int { return cmp.Compare(a.Number, b.Number) })
	return list
}

// OverlayBytes says how many bytes of log entries the overlay keeps in memory, or might: what was
// written counts until it is flushed, even if it was overwritten since, because an entry's buffer
// stays as long as one block of it does.
func (s *Store) OverlayBytes() (active, frozen int64) {
	return s.activeBytes.Load(), s.frozenBytes.Load()
}

// Dirty says whether the overlay holds anything.
func (s *Store) Dirty() bool {
	a, f := s.OverlayBytes()
	return a+f > 0
}

// WantsFlush says that the overlay is half full, so that it is time to freeze and flush it.
func (s *Store) WantsFlush() bool { return s.activeBytes.Load() >= s.o.MaxOverlayBytes/2 }

// Full says that the overlay has reached its limit: the caller should apply nothing before the
// flush under way has ended. Nothing is refused here.
func (s *Store) Full() bool {
	a, f := s.OverlayBytes()
	return a+f >= s.o.MaxOverlayBytes
}

// Index is the index of the last entry that the checkpoint view includes.
func (s *Store) Index() uint64 { return s.pos.Load() }

// layer returns o's active layer, which it makes if there is none.
func (s *Store) layer(o *object) *layer {
	if o.active != nil {
		return o.active
	}
	s.dirty = append(s.dirty, o)
	s.spareMu.Lock()
	defer s.spareMu.Unlock()
	var l *layer
	if n := len(s.spare); n > 0 {
		l, s.spare[n-1] = s.spare[n-1], nil
		s.spare = s.spare[:n-1]
	} else {
		l = &layer{blocks: map[uint64]cell{}, chunks: map[uint32]note{}}
	}
	o.active = l
	return l
}

// giveLayer takes back a layer that no reader can reach any more.
func (s *Store) giveLayer(l *layer) {
	l.reset()
	s.spareMu.Lock()
	defer s.spareMu.Unlock()
	if len(s.spare) < maxSpareLayers {
		s.spare = append(s.spare, l)
	}
}

// gate is the gate for reading a chunk.
func (s *Store) gate(o *object, chunk uint32) *gate {
	return &s.gates[(o.number+uint64(chunk))%gateCount]
}

// passGates waits for all readers that are reading now.
func (s *Store) passGates() {
	for i := range s.gates {
		s.gates[i].Lock()
		//lint:ignore SA2001 waiting is the purpose
		s.gates[i].Unlock()
	}
}

// within checks a range of an object.
func within(off, n int64) error {
	if off < 0 || n < 0 || off > op.MaxVolume || n > op.MaxVolume-off {
		return fmt.Errorf("%w: %d bytes at %d", ErrRange, n, off)
	}
	return nil
}

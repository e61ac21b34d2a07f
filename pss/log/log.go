package log

import (
	"errors"
	"fmt"
	"sync"

	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
)

// Entry is one entry of the log.
type Entry struct {
	Index uint64 // from 1, consecutive
	Term  uint64 // never falls from one entry to the next
	Kind  uint8  // the caller's
	Data  []byte // at most MaxEntryBytes
	Home  Home   // of the end of Data, for Append
}

// HardState is what agreement must not forget. Commit is from First()-1 to Last().
type HardState struct {
	Term, Vote, Commit uint64
}

// Options are the choices of whoever opens a log.
type Options struct {
	// SegmentBytes is the size of new segments in bytes, a multiple of 4096 between 8 KiB and 1 GiB.
	// 0 is 64 MiB. A log may be opened with another size than before.
	SegmentBytes int64
	// Direct bypasses the page cache where the file system can.
	Direct bool
	// Spares is how many segments Recycle keeps ready; it removes the others. 0 is 2.
	Spares int
	// Superseded is the index up to which a checkpoint holds what the entries led to. Damage to segments that
	// have no entry beyond it is healed: they are given up as Recycle would do. See Healed.
	Superseded uint64
	// Bodies is how many files are kept ready for data that has a Home, at the most. 0: all data is kept in segments.
	Bodies int
	// Identity is given to a log that does not exist yet. 0 is a random one.
	Identity uint64
}

const (
	defaultSegmentBytes = 64 << 20
	minSegmentBytes     = 2 * blockSize
	maxSegmentBytes     = 1 << 30
	defaultSpares       = 2
)

// Errors a caller decides upon.
var (
	// ErrCompacted reports that an entry is not in the log any more: it is before First.
	ErrCompacted = errors.New("the log entry was compacted away")
	// ErrUnavailable reports that an entry is not in the log yet: it is after Last.
	ErrUnavailable = errors.New("the log entry is not there yet")
	// ErrClosed is what a closed log returns.
	ErrClosed = errors.New("the log is closed")
)

// Stats are the figures of a log.
type Stats struct {
	Bytes    int64  // size of all segments and bodies
	Segments int    // in use
	Bodies   int    // files of BodyBytes beside the segments: in use, ready, or given to be made so
	Ready    int    // segments that are prepared or kept for use
	Frames   uint64 // written since Open
	Written  uint64 // bytes of frames with their filling, and to bodies, since Open
	Syncs    uint64 // of segments, since Open
}

// Log is an open log.
//
// Append, Sync, Reset and Close are for one goroutine. The other methods may be called from any
// number of others at the same time; Close must come after them all.
//
// A failed write or sync leaves the state of the disk unknown: the log is broken from then on, and
// every call that could fail returns the first error. Open it again to learn what there is.
type Log struct {
	fs       disk.FS
	dir      string
	options  Options
	identity uint64
	epoch    uint64

	// Of the writing goroutine.
	active  *segment // the last of index.segments
	healed  *DamageError
	stage   []byte // the frame being built, aligned; grows to the largest one, maxFrame
	written int64  // end of the last frame in the active segment
	beside  int64  // bytes that its entries have in bodies: they count, so that bodies get free as segments do
	synced  int64  // of it, what is synced
	sum     uint32 // checksum of the last frame

	preparing sync.Mutex // one Prepare at a time
	naming    sync.Mutex // held while files of segments are named, made ready or removed

	mu        sync.RWMutex // of what follows; never held during I/O
	idle      *sync.Cond   // a segment lost its last reader
	index     index
	ready     []*segment // to become active, in this order; their numbers follow the active one's
	begun     bool       // a frame of the active segment is synced
	replacing bool       // entries were replaced by ones that are not synced yet
	broken    error      // what every call returns
	stats     Stats

	bodies     bodies
	superseded uint64 // guarded by mu; see Supersede

	buffers sync.Pool // *[]byte, aligned: what Entries reads into
}

// check fills in what the options leave open.
func (o *Options) check() error {
	if o.SegmentBytes == 0 {
		o.SegmentBytes = defaultSegmentBytes
	}
	if o.Spares == 0 {
		o.Spares = defaultSpares
	}
	if n := o.SegmentBytes; n < minSegmentBytes || n > maxSegmentBytes || n%blockSize != 0 {
		return fmt.Errorf("log segments of %d bytes: not a multiple of %d between %d and %d",
			n, blockSize, minSegmentBytes, maxSegmentBytes)
	}
	if o.Spares < 0 {
		return fmt.Errorf("%d spare log segments: must not be negative", o.Spares)
	}
	if o.Bodies < 0 {
		return fmt.Errorf("%d log bodies: must not be negative", o.Bodies)
	}
	return nil
}

// First returns the index of the first entry, Last()+1 if there is none.
func (l *Log) First() uint64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.index.readable()
}

// Last returns the index of the last entry, First()-1 if there is none.
func (l *Log) Last() uint64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.index.last
}

// HardState returns the one appended last. Its commit index is raised to First()-1 if it was less:
// entries that were recycled had been committed.
func (l *Log) HardState() HardState {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.index.hardState
}

// Term returns the term of entry i, and that of First()-1: 0 if that is 0. The error satisfies
// errors.Is with ErrCompacted or ErrUnavailable.
func (l *Log) Term(i uint64) (uint64, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	switch {
	case l.broken != nil:
		return 0, l.broken
	case i < l.index.base:
		return 0, fmt.Errorf("term of entry %d: %w", i, ErrCompacted)
	case i > l.index.last:
		return 0, fmt.Errorf("term of entry %d: %w", i, ErrUnavailable)
	}
	return l.index.term(i), nil
}

// Healed returns the damage that Open met in segments that were superseded, and that it gave up; nil if none.
func (l *Log) Healed() *DamageError { return l.healed }

// Prepared says whether the next segment is ready, and bodies are if they are wanted, so that Prepare has nothing to do.
func (l *Log) Prepared() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return len(l.ready) > 0 && !l.bodies.wanted
}

// BodiesPrepared says whether there are bodies ready, if they are wanted, so that PrepareBodies has nothing to do.
func (l *Log) BodiesPrepared() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return !l.bodies.wanted
}

// Room returns how many bytes are left of the segment in use. What its entries have in bodies counts.
func (l *Log) Room() int64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return max(0, l.active.size-l.written-l.beside)
}

// Stats returns the log's figures.
func (l *Log) Stats() Stats {
	l.mu.RLock()
	defer l.mu.RUnlock()
	s := l.stats
	s.Segments, s.Ready = len(l.index.segments), len(l.ready)
	s.Bodies = len(l.bodies.all) + len(l.bodies.ready) + len(l.bodies.dead) + len(l.bodies.spares)
	s.Bytes = int64(s.Bodies) * BodyBytes
	for _, segments := range [2][]*segment{l.index.segments, l.ready} {
		for _, seg := range segments {
			s.Bytes += seg.size
		}
	}
	return s
}

// Close syncs the log, marks that all of it was synced, and closes its files. The files of a broken
// log are only closed.
func (l *Log) Close() error {
	l.preparing.Lock()
	defer l.preparing.Unlock()
	l.naming.Lock()
	defer l.naming.Unlock()
	err := l.failure()
	if errors.Is(err, ErrClosed) {
		return err
	}
	if err == nil {
		err = l.seal()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.broken = ErrClosed
	return errors.Join(err, closeAll(l.index.segments), closeAll(l.ready), l.bodies.close())
}

// seal writes an empty frame behind what was synced, so that damage to the last entries will be
// told from a torn tail. There is none if nothing was appended, or the segment is full.
func (l *Log) seal() error {
	if err := l.Sync(); err != nil {
		return err
	}
	if l.stats.Frames <= 1 || l.written+blockSize > l.active.size {
		return nil
	}
	return l.mark()
}

// mark writes an empty frame, which says what is synced, and syncs it.
func (l *Log) mark() error {
	if err := l.writeFrame(0, l.index.last, l.HardState(), nil); err != nil {
		return err
	}
	return l.Sync()
}

func closeAll(segments []*segment) error {
	var errs []error
	for _, s := range segments {
		errs = append(errs, s.file.Close())
	}
	return errors.Join(errs...)
}

// failure returns why the log is broken, if it is.
func (l *Log) failure() error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.broken
}

// fail breaks the log for good and returns why.
func (l *Log) fail(doing string, err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.breakWith(doing, err)
}

// breakWith is fail for those who hold mu.
func (l *Log) breakWith(doing string, err error) error {
	if l.broken == nil {
		l.broken = fmt.Errorf("the log is broken: %s: %w", doing, err)
	}
	return l.broken
}

// Package rdwr is the backing store that keeps a unit in a file or a block device by ordinary reads and
// writes. Small reads that the page cache holds are answered at once; everything else goes to a pool of
// workers, so that a slow disk never stalls the one who submits. Writes that must be durable and arrive
// together share one fdatasync.
package rdwr

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore"
)

// Name is the type's name for tgtadm --bstype.
const Name = "rdwr"

// Limits.
const (
	// DefaultThreads holds where Options.Threads is not positive; MaxThreads is the most that a store starts.
	DefaultThreads = 16
	MaxThreads     = 1024
	// QueueLimit is how many requests wait for a worker; Submit waits beyond.
	QueueLimit = 1024
	// inlineReadBytes is the largest read tried without a worker.
	inlineReadBytes = 64 << 10
	// chunkBytes is how much is moved at a time through memory of the store's own.
	chunkBytes = 1 << 20
)

// ErrLost is what requests fail with after the operating system failed to make data durable: what was
// written before is then unknown, and trying again could only hide that. Opening the medium anew ends it.
var ErrLost = errors.New("earlier data could not be made durable")

// Type returns the store type for a backstore.Registry.
func Type() backstore.Type { return backstore.Type{Name: Name, Open: Open} }

// store is an open file or device.
type store struct {
	path     string
	file     file
	buffered file // for what direct I/O can't do; nil unless direct
	align    int64
	memAlign int64
	readOnly bool
	durable  bool // every write is durable when it returns
	physical int
	state    *backstore.StateFile // nil: no state is kept

	size   atomic.Int64
	noWait atomic.Bool // the file system answers reads that must not wait
	failed atomic.Bool // see ErrLost

	mu      sync.Mutex
	space   sync.Cond // the queue has room
	idle    []*worker // the last to become idle is the first to get work: its stack is warm
	queue   []job     // a ring
	head, n int
	started int
	threads int
	closed  bool
	workers sync.WaitGroup

	group  syncGroup
	forced atomic.Int32 // durable writes under way
	chunks sync.Pool    // of *[]byte, chunkBytes long, aligned
	zeros  func() []byte
}

// job is a request with the bytes of it that are done already.
type job struct {
	io   *backstore.IO
	done int
}

// worker is a goroutine that executes jobs.
type worker struct {
	jobs chan job // of capacity 1: a job is given only to an idle worker
}

// Open opens the file or block device at o.Path for reading and writing, or for reading only when the
// system does not allow more. Directories, pipes and character devices are refused. The size is read anew
// by each Info, so Resized is never called: growth shows when it is asked for. Options (--bsopts) have no
// meaning for this type; they are refused with backstore.ErrOption when not empty.
func Open(o backstore.Options) (backstore.Store, error) {
	if o.Options != "" {
		return nil, fmt.Errorf("open %q: %w: rdwr takes no --bsopts", o.Path, backstore.ErrOption)
	}
	m, err := openMedium(o.Path, o.Sync, o.Direct)
	if err != nil {
		return nil, fmt.Errorf("open %q: %w", o.Path, err)
	}
	s := newStore(m.file, o.Threads)
	s.path, s.buffered, s.align, s.memAlign = o.Path, m.buffered, m.align, m.memAlign
	s.readOnly, s.durable, s.physical = m.readOnly, o.Sync, m.physical
	s.state = backstore.NewStateFile(o.StateDir, o.Path)
	s.size.Store(m.size)
	s.noWait.Store(!o.Direct)
	return s, nil
}

func newStore(f file, threads int) *store {
	if threads <= 0 {
		threads = DefaultThreads
	}
	s := &store{file: f, threads: min(threads, MaxThreads), queue: make([]job, QueueLimit)}
	s.space.L = &s.mu
	s.chunks.New = func() any {
		b := alignedBytes(chunkBytes)
		return &b
	}
	s.zeros = sync.OnceValue(func() []byte { return alignedBytes(chunkBytes) })
	return s
}

// Info implements backstore.Store.
func (s *store) Info() backstore.Info {
	if size, err := s.file.size(); err == nil {
		s.size.Store(size)
	}
	info := backstore.Info{
		Bytes: s.size.Load(), PhysicalSize: s.physical, Thin: true, ReadOnly: s.readOnly, Durable: s.durable,
	}
	if s.state != nil {
		info.Keeps = backstore.KeepsOnDemand
	}
	return info
}

// LoadState implements backstore.StateKeeper, where Info.Keeps says so.
func (s *store) LoadState(ctx context.Context) ([]byte, uint64, error) { return s.state.LoadState(ctx) }

// SaveState implements backstore.StateKeeper, where Info.Keeps says so.
func (s *store) SaveState(ctx context.Context, value []byte, ifVersion uint64) (uint64, error) {
	return s.state.SaveState(ctx, value, ifVersion)
}

// Submit implements backstore.Store.
func (s *store) Submit(io *backstore.IO) {
	switch io.Op {
	case backstore.CompareAndWrite:
		io.Err = errors.ErrUnsupported // the unit serialises reading and writing
		io.Done(io)
		return
	case backstore.Read:
		done := 0
		if len(io.Data) <= inlineReadBytes && s.noWait.Load() {
			n, err := s.file.preadNoWait(io.Data, io.Offset)
			if err == nil && n == len(io.Data) {
				io.Err = nil
				io.Done(io)
				return
			}
			if err == unix.EOPNOTSUPP || err == unix.ENOSYS || err == unix.EINVAL {
				s.noWait.Store(false)
			}
			done = max(n, 0)
		}
		s.dispatch(job{io, done})
		return
	}
	s.dispatch(job{io, 0})
}

// dispatch gives a job to an idle worker, to a new one, or to the queue.
func (s *store) dispatch(j job) {
	s.mu.Lock()
	for !s.closed && len(s.idle) == 0 && s.started == s.threads && s.n == len(s.queue) {
		s.space.Wait()
	}
	if s.closed {
		s.mu.Unlock()
		j.io.Err = fmt.Errorf("%q: %w", s.path, unix.EBADF)
		j.io.Done(j.io)
		return
	}
	if last := len(s.idle) - 1; last >= 0 {
		w := s.idle[last]
		s.idle = s.idle[:last]
		s.mu.Unlock()
		w.jobs <- j
		return
	}
	if s.started < s.threads {
		s.started++
		s.workers.Add(1)
		s.mu.Unlock()
		w := &worker{jobs: make(chan job, 1)}
		w.jobs <- j
		go s.work(w)
		return
	}
	s.queue[(s.head+s.n)%len(s.queue)] = j
	s.n++
	s.mu.Unlock()
}

// work executes jobs until the store is closed and the queue is empty.
func (s *store) work(w *worker) {
	defer s.workers.Done()
	for j := range w.jobs {
		for more := true; more; j, more = s.next(w) {
			s.execute(j)
		}
	}
}

// next takes a job from the queue, or makes the worker idle.
func (s *store) next(w *worker) (job, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.n > 0 {
		j := s.queue[s.head]
		s.queue[s.head] = job{}
		s.head = (s.head + 1) % len(s.queue)
		s.n--
		s.space.Signal()
		return j, true
	}
	if s.closed {
		close(w.jobs)
		return job{}, false
	}
	s.idle = append(s.idle, w)
	return job{}, false
}

// Close implements backstore.Store.
func (s *store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	for _, w := range s.idle {
		close(w.jobs)
	}
	s.idle = nil
	s.space.Broadcast()
	s.mu.Unlock()
	s.workers.Wait()

	var errs []error
	if !s.readOnly && !s.durable && !s.failed.Load() {
		errs = append(errs, s.file.sync()) // the write cache does not outlive the unit
	}
	errs = append(errs, s.file.close())
	if s.buffered != nil {
		errs = append(errs, s.buffered.close())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close %q: %w", s.path, err)
	}
	return nil
}

// execute carries out a job and completes its request, unless it has to wait for a sync of the group.
func (s *store) execute(j job) {
	io := j.io
	var err error
	switch io.Op {
	case backstore.Read:
		err = s.readFull(io.Data[j.done:], io.Offset+int64(j.done))
	case backstore.Status:
		err = s.status(io)
	default:
		if err = s.writable(); err == nil {
			var wait bool
			if wait, err = s.mutate(io); wait {
				s.group.join(s, io)
				return
			}
		}
	}
	s.complete(io, err)
}

// complete sets the result and calls Done.
func (s *store) complete(io *backstore.IO, err error) {
	io.Err = nil
	if err != nil {
		io.Err = fmt.Errorf("%q, %d bytes at %d: %w", s.path, io.Length, io.Offset, classify(err))
	}
	io.Done(io)
}

// classify gives an error of the system the name that the unit knows.
func classify(err error) error {
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return fmt.Errorf("%w: %w", backstore.ErrNoSpace, err)
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("%w: %w", backstore.ErrReadOnly, err)
	}
	return err
}

// writable says why the store takes no changes.
func (s *store) writable() error {
	switch {
	case s.readOnly:
		return backstore.ErrReadOnly
	case s.failed.Load():
		return ErrLost
	}
	return nil
}

// mutate executes an operation that changes or flushes the medium. wait: it is done but for a sync.
func (s *store) mutate(io *backstore.IO) (wait bool, err error) {
	force := io.FUA && !s.durable
	switch io.Op {
	case backstore.Flush:
		return !s.durable, nil
	case backstore.Write:
		if !force {
			return false, s.lost(s.writeFull(io.Data, io.Offset, false), s.durable)
		}
		// Alone, a write is best made durable by itself: nothing else that is dirty has to be written
		// with it. In company one sync for all is cheaper.
		alone := s.forced.Add(1) == 1 && !s.group.busy()
		err = s.lost(s.writeFull(io.Data, io.Offset, alone), alone)
		s.forced.Add(-1)
		return err == nil && !alone, err
	case backstore.WriteZeroes:
		err = s.zeroFull(io.Offset, io.Length)
	case backstore.Unmap:
		err = s.file.punch(io.Offset, io.Length)
		if unsupported(err) {
			err = s.zeroFull(io.Offset, io.Length)
		}
	default:
		return false, fmt.Errorf("operation %d: %w", io.Op, errors.ErrUnsupported)
	}
	return err == nil && force, err
}

// lost notes an error of a write that was to be durable: the system may have dropped other data with it.
// A full disk is no such case.
func (s *store) lost(err error, durable bool) error {
	if err != nil && durable && !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		s.failed.Store(true)
		return fmt.Errorf("%w: %w", ErrLost, err)
	}
	return err
}

func unsupported(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL)
}

// status answers which blocks are allocated (GET LBA STATUS). A medium that can't say has all of them.
func (s *store) status(io *backstore.IO) error {
	io.Mapped, io.MappedLength = true, io.Length
	data, err := s.file.seekData(io.Offset)
	switch {
	case err == unix.ENXIO: // no data from here on
		io.Mapped = false
		return nil
	case unsupported(err):
		return nil
	case err != nil:
		return err
	case data > io.Offset:
		io.Mapped, io.MappedLength = false, min(io.Length, data-io.Offset)
		return nil
	}
	hole, err := s.file.seekHole(io.Offset)
	if err != nil {
		return err
	}
	if hole > io.Offset {
		io.MappedLength = min(io.Length, hole-io.Offset)
	}
	return nil
}

// syncGroup lets requests that wait for durability share syncs: those that arrive during one sync wait for
// the next, which one of them performs for all.
type syncGroup struct {
	mu      sync.Mutex
	running bool
	waiting []*backstore.IO
	spare   []*backstore.IO
}

func (g *syncGroup) busy() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.running
}

// join completes io after a sync that began after this call. The calling worker performs syncs as long as
// requests wait, if nobody else does.
func (g *syncGroup) join(s *store, io *backstore.IO) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waiting = append(g.waiting, io) // at most one for each of QueueLimit and MaxThreads
	if g.running {
		return
	}
	g.running = true
	for len(g.waiting) > 0 {
		batch := g.waiting
		g.waiting = g.spare[:0]
		g.mu.Unlock()
		err := s.writable()
		if err == nil {
			err = s.lost(s.file.sync(), true)
		}
		for _, io := range batch {
			s.complete(io, err)
		}
		clear(batch)
		g.mu.Lock()
		g.spare = batch[:0]
	}
	g.running = false
}

// maxTransfer is the most that one system call moves.
const maxTransfer = math.MaxInt32 &^ 4095

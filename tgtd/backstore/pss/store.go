package pss

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore"
)

// Name is the type's name for tgtadm --bstype.
const Name = "pss"

// openTimeout is how long opening a unit waits for the cell (M4).
const openTimeout = 5 * time.Second

// growInterval is how often a unit asks whether its volume has grown, and a shared one whether its state was
// changed by somebody else. retryInterval is how often one that waits for its cell tries again.
const (
	growInterval  = 10 * time.Second
	retryInterval = time.Second
)

// atomicBytes is the longest write that travels as one operation, which the cell agrees on as a whole.
const atomicBytes = 256 << 10

// chunkBytes is the unit in which a volume says what of it takes space.
const chunkBytes = 4 << 20

// Type returns the store type for a backstore.Registry. open makes a client of the cell that a
// server.conf describes (FromConf).
func Type(open func(conf string) (*pss.Cell, error)) backstore.Type {
	p := &cells{open: open, used: map[string]*shared{}}
	return backstore.Type{Name: Name, Open: func(o backstore.Options) (backstore.Store, error) {
		return p.openUnit(o, openTimeout, growInterval)
	}}
}

// openUnit opens a unit, waiting for the cell at most so long before it goes on waiting in the background, and
// looking in every grow interval whether the volume has changed.
func (p *cells) openUnit(o backstore.Options, wait, grow time.Duration) (backstore.Store, error) {
	opts, err := parseOptions(o.Options)
	if err != nil {
		return nil, fmt.Errorf("open volume %q: %w", o.Path, err)
	}
	c, done, err := p.get(cell.File(opts.conf))
	if err != nil {
		return nil, fmt.Errorf("open volume %q: %w", o.Path, err)
	}
	s := &store{cell: c, path: o.Path, done: done, timeout: opts.timeout, shared: opts.shared, resized: o.Resized}
	s.idle.L = &s.mu
	s.ctx, s.cancel = context.WithCancel(context.Background())
	err = s.open(wait)
	switch {
	case err == nil:
		s.others.Go(func() { s.watch(grow) })
	case errors.Is(translate(err), backstore.ErrBusy):
		s.wait(err)
		s.others.Go(func() {
			if s.await(wait) {
				s.watch(grow)
			}
		})
	default:
		s.cancel()
		return nil, errors.Join(err, done())
	}
	return s, nil
}

// open opens the volume, waiting for the cell at most so long.
func (s *store) open(wait time.Duration) error {
	ctx, cancel := context.WithTimeout(s.ctx, wait)
	defer cancel()
	var modes []pss.OpenMode
	if s.shared {
		modes = append(modes, pss.Shared)
	}
	v, err := s.cell.OpenVolume(ctx, s.path, modes...)
	if err != nil {
		return err
	}
	if s.shared {
		if s.identity, err = identify(ctx, v); err != nil {
			return errors.Join(err, v.Close())
		}
	}
	v.SetTimeout(s.timeout)
	s.volume.Store(v)
	return nil
}

// wait notes why the unit is not there yet.
func (s *store) wait(err error) {
	text := fmt.Sprintf("waiting for the cell: %v", err)
	s.waiting.Store(&text)
}

// await tries to open the volume until that succeeds, or the unit is closed: then it says false.
func (s *store) await(wait time.Duration) bool {
	t := time.NewTicker(retryInterval)
	defer t.Stop()
	for {
		err := s.open(wait)
		if err == nil {
			if s.resized != nil {
				s.resized()
			}
			return true
		}
		s.wait(err)
		select {
		case <-s.ctx.Done():
			return false
		case <-t.C:
		}
	}
}

// store is an open unit.
type store struct {
	cell     *pss.Cell
	volume   atomic.Pointer[pss.Volume] // nil while the unit waits for the cell
	waiting  atomic.Pointer[string]     // why
	path     string
	done     func() error // with the cell
	timeout  time.Duration
	shared   bool
	identity string // of a shared volume; set before volume
	resized  func() // may be nil

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	others sync.WaitGroup // watch, and one for each request that asks the cell besides

	// Of a shared volume: the state by which requests have to be allowed.
	mu       sync.Mutex
	idle     sync.Cond // entering is 0
	current  bool      // version is that of the state under the token that the volume has
	version  uint64
	entering int // requests that are being submitted
}

// request is what a backstore.IO keeps in its Store field. It is used again with the IO.
type request struct {
	pss.Request
	io    *backstore.IO
	store *store
}

// Submit implements backstore.Store.
func (s *store) Submit(io *backstore.IO) {
	r, ok := io.Store.(*request)
	if !ok {
		r = &request{io: io}
		r.Owner, r.Done = r, complete
		io.Store = r
	}
	v := s.volume.Load()
	if v == nil {
		io.Err = fmt.Errorf("volume %q: %w: %s", s.path, backstore.ErrBusy, *s.waiting.Load())
		io.Done(io)
		return
	}
	r.io, r.store = io, s
	r.Offset, r.Length, r.Data = io.Offset, io.Length, nil
	switch io.Op {
	case backstore.Read:
		r.Op, r.Data = pss.Read, io.Data
	case backstore.Write:
		r.Op, r.Data = pss.Write, io.Data
	case backstore.CompareAndWrite:
		r.Op, r.Data = pss.CompareAndWrite, io.Data
	case backstore.Unmap:
		r.Op = pss.Unmap
	case backstore.WriteZeroes:
		r.Op = pss.WriteZeroes
	case backstore.Flush:
		r.Op = pss.Flush
	case backstore.Status:
		s.others.Go(func() {
			io.Err = translate(s.status(io))
			io.Done(io)
		})
		return
	default:
		io.Err = fmt.Errorf("pss store: operation %d is unknown", io.Op)
		io.Done(io)
		return
	}
	if !s.shared {
		v.Submit(&r.Request)
		return
	}
	if !s.enter(io.State) {
		io.Err = errOlder
		io.Done(io)
		return
	}
	v.Submit(&r.Request)
	s.left()
}

// complete is the Done of all requests.
func complete(q *pss.Request) {
	r := q.Owner.(*request)
	io := r.io
	r.Data = nil // the IO's own
	io.Miscompare = q.Miscompare
	io.Err = translate(q.Err)
	if s := r.store; s.shared && q.Op == pss.Read && io.Err == nil {
		s.others.Go(func() {
			io.Err = s.stillAllowed(io.State)
			io.Done(io)
		})
		return
	}
	io.Done(io)
}

// translate gives an error of the cell the meaning it has for a target.
func translate(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, pss.ErrMiscompare):
		return backstore.ErrMiscompare
	case errors.Is(err, pss.ErrFenced):
		return backstore.ErrFenced
	case errors.Is(err, pss.ErrMoved), errors.Is(err, pss.ErrVersion), errors.Is(err, backstore.ErrStateChanged):
		return fmt.Errorf("%w: %w", backstore.ErrStateChanged, err)
	case errors.Is(err, pss.ErrDamaged):
		return fmt.Errorf("%w: %w", backstore.ErrDamaged, err)
	case errors.Is(err, pss.ErrNoSpace):
		return backstore.ErrNoSpace
	case errors.Is(err, pss.ErrTimeout), errors.Is(err, pss.ErrQueueFull), errors.Is(err, pss.ErrSessionLost),
		errors.Is(err, pss.ErrNoMaster), errors.Is(err, pss.ErrUnreachable), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: %w", backstore.ErrBusy, err)
	}
	return fmt.Errorf("%w: %w", backstore.ErrInternal, err)
}

// status finds out whether the chunk at io.Offset takes space, and how many bytes from there on are like it as far as is
// known. It is rare, and not quick, but its cost does not grow with the volume.
func (s *store) status(io *backstore.IO) error {
	ctx, cancel := s.limited(s.ctx)
	defer cancel()
	mapped, next, err := s.allocated(ctx, io.Offset/chunkBytes)
	if err != nil {
		return err
	}
	io.Mapped = mapped
	io.MappedLength = min(next*chunkBytes, io.Offset+io.Length) - io.Offset
	return nil
}

// allocated says whether a chunk takes space, and the first chunk behind it with which that may be otherwise. A volume
// shows as folders of folders of chunks, three levels of two digits each, in which only those are listed that are there.
func (s *store) allocated(ctx context.Context, chunk int64) (mapped bool, next int64, err error) {
	high, middle, low := chunk>>16, chunk>>8&0xff, chunk&0xff
	there, err := s.list(ctx, fmt.Sprintf("%s/%02x/%02x", s.path, high, middle))
	if err != nil {
		return false, 0, err
	}
	first := chunk - low
	i, mapped := slices.BinarySearch(there, low)
	if mapped {
		for next = low + 1; i+1 < len(there) && there[i+1] == next; i++ {
			next++
		}
		return true, first + next, nil
	}
	if i < len(there) {
		return false, first + there[i], nil
	}
	// Nothing more in this folder: the next one that is there.
	there, err = s.list(ctx, fmt.Sprintf("%s/%02x", s.path, high))
	if err != nil {
		return false, 0, err
	}
	if i, _ := slices.BinarySearch(there, middle+1); i < len(there) {
		return false, high<<16 | there[i]<<8, nil
	}
	there, err = s.list(ctx, s.path)
	if err != nil {
		return false, 0, err
	}
	if i, _ := slices.BinarySearch(there, high+1); i < len(there) {
		return false, there[i] << 16, nil
	}
	return false, 1 << 24, nil
}

// list gives the digits in a folder of a volume, in order; none if there is no such folder.
func (s *store) list(ctx context.Context, folder string) ([]int64, error) {
	nodes, err := s.cell.ReadDir(ctx, folder)
	if err != nil {
		if errors.Is(err, pss.ErrNotFound) {
			err = nil
		}
		return nil, err
	}
	digits := make([]int64, 0, len(nodes))
	for _, n := range nodes {
		d, err := strconv.ParseInt(n.Name, 16, 16)
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", folder, err)
		}
		digits = append(digits, d)
	}
	return digits, nil
}

// watch calls resized after the volume has grown, or somebody else has changed the state of a shared one, until
// the unit is closed.
func (s *store) watch(interval time.Duration) {
	if s.resized == nil {
		return
	}
	t := time.NewTicker(interval)
	defer t.Stop()
	v := s.volume.Load()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-t.C:
		}
		have := v.Size()
		// An error means that the cell can't be asked now, or that the volume is gone: then requests say so.
		n, err := v.Refresh(s.ctx)
		changed := err == nil && n != have
		if s.shared && !changed {
			same, err := v.TokenCurrent(s.ctx)
			changed = err == nil && !same
		}
		if changed {
			s.resized()
		}
	}
}

// Info implements backstore.Store.
func (s *store) Info() backstore.Info {
	info := backstore.Info{
		PhysicalSize: op.BlockSize, AtomicBytes: atomicBytes, Keeps: backstore.KeepsAll, Shared: s.shared,
		Thin: true, AlwaysThin: true, Ordered: true, Durable: true,
	}
	if v := s.volume.Load(); v != nil {
		info.Bytes, info.Identity = v.Size(), s.identity
	} else {
		info.Waiting = *s.waiting.Load()
	}
	return info
}

// Close implements backstore.Store.
func (s *store) Close() error {
	s.cancel()
	v := s.volume.Load()
	var err error
	if v != nil {
		err = v.Close() // the requests under way end, or are given up
	}
	s.others.Wait()
	if late := s.volume.Load(); late != v { // opened at the last moment
		err = late.Close()
	}
	return errors.Join(err, s.done())
}

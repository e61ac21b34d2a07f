package pss

import (
	"context"
	"errors"
	"fmt"
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

const (
	chunkBytes = 4 << 20 // unit of allocation of a volume
	maxChunks  = 64      // chunks that one Status looks at; it answers for fewer bytes than asked for then
)

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

// status finds out which chunks from io.Offset on are allocated, as far as they are like the first.
// It is rare, so it asks for one after the other.
func (s *store) status(io *backstore.IO) error {
	ctx := s.ctx
	if s.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.timeout)
		defer cancel()
	}
	end := io.Offset + io.Length
	at := io.Offset
	for n := 0; at < end && n < maxChunks; n++ {
		chunk := at / chunkBytes
		_, err := s.cell.Stat(ctx, fmt.Sprintf("%s/%02x/%02x/%02x", s.path, chunk>>16, chunk>>8&0xff, chunk&0xff))
		if err != nil && !errors.Is(err, pss.ErrNotFound) {
			return err
		}
		mapped := err == nil
		if n == 0 {
			io.Mapped = mapped
		} else if mapped != io.Mapped {
			break
		}
		at = min(end, (chunk+1)*chunkBytes)
	}
	io.MappedLength = at - io.Offset
	return nil
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

package pss

import (
	"context"
	"errors"
	"fmt"
	"sync"
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

// growInterval is how often a unit asks whether its volume has grown.
const growInterval = 10 * time.Second

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

// openUnit opens a unit, waiting for the cell at most so long, and looking in every grow interval whether it
// has grown.
func (p *cells) openUnit(o backstore.Options, wait, grow time.Duration) (backstore.Store, error) {
	opts, err := parseOptions(o.Options)
	if err != nil {
		return nil, fmt.Errorf("open volume %q: %w", o.Path, err)
	}
	c, done, err := p.get(cell.File(opts.conf))
	if err != nil {
		return nil, fmt.Errorf("open volume %q: %w", o.Path, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	v, err := c.OpenVolume(ctx, o.Path)
	if err != nil {
		return nil, errors.Join(err, done())
	}
	v.SetTimeout(opts.timeout)
	s := &store{cell: c, volume: v, path: o.Path, done: done, timeout: opts.timeout}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if o.Resized != nil {
		s.others.Go(func() { s.watch(grow, o.Resized) })
	}
	return s, nil
}

// store is an open unit.
type store struct {
	cell    *pss.Cell
	volume  *pss.Volume
	path    string
	done    func() error // with the cell
	timeout time.Duration

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	others sync.WaitGroup // watch, and one for each Status under way
}

// request is what a backstore.IO keeps in its Store field. It is used again with the IO.
type request struct {
	pss.Request
	io *backstore.IO
}

// Submit implements backstore.Store.
func (s *store) Submit(io *backstore.IO) {
	r, ok := io.Store.(*request)
	if !ok {
		r = &request{io: io}
		r.Owner, r.Done = r, complete
		io.Store = r
	}
	r.io = io
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
	s.volume.Submit(&r.Request)
}

// complete is the Done of all requests.
func complete(q *pss.Request) {
	r := q.Owner.(*request)
	io := r.io
	r.Data = nil // the IO's own
	io.Miscompare = q.Miscompare
	io.Err = translate(q.Err)
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
	case errors.Is(err, pss.ErrNoSpace):
		return backstore.ErrNoSpace
	case errors.Is(err, pss.ErrTimeout), errors.Is(err, pss.ErrQueueFull), errors.Is(err, pss.ErrSessionLost),
		errors.Is(err, pss.ErrNoMaster), errors.Is(err, pss.ErrUnreachable), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: %w", backstore.ErrBusy, err)
	}
	return err
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

// watch calls resized after the volume has grown, until the unit is closed.
func (s *store) watch(interval time.Duration, resized func()) {
	t := time.NewTicker(interval)
	defer t.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-t.C:
		}
		have := s.volume.Size()
		// An error means that the cell can't be asked now, or that the volume is gone: then requests say so.
		if n, err := s.volume.Refresh(s.ctx); err == nil && n != have {
			resized()
		}
	}
}

// Info implements backstore.Store.
func (s *store) Info() backstore.Info {
	return backstore.Info{
		Bytes: s.volume.Size(), PhysicalSize: op.BlockSize, AtomicBytes: atomicBytes,
		Thin: true, AlwaysThin: true, Ordered: true, Durable: true,
	}
}

// Close implements backstore.Store.
func (s *store) Close() error {
	s.cancel()
	s.others.Wait()
	return errors.Join(s.volume.Close(), s.done())
}

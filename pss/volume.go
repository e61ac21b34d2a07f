package pss

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
	"github.com/paxos-iscsi/paxos-iscsi/pss/wire"
)

// Op is what a Request asks for.
type Op uint8

// The operations on a volume.
const (
	Read            Op = iota + 1 // fill Data from Offset
	Write                         // Data to Offset; durable on a majority when it completes
	CompareAndWrite               // if Data's first half is at Offset, write the second there; op.MaxPayload at most
	Unmap                         // Length bytes from Offset read as zeros and take no space
	WriteZeroes                   // Length bytes from Offset read as zeros
	Flush                         // completes when every request submitted before has taken effect, durably
	opPropose                     // an operation on the tree
	opQuery                       // a question about the tree
)

// Request is one request to a volume. The submitter fills the first part, and leaves the request and
// its Data alone until Done is called. It may then be used again, which costs no memory.
type Request struct {
	Op     Op
	Offset int64 // bytes
	Length int64 // bytes, Unmap and WriteZeroes only; otherwise Data's length counts
	Data   []byte
	// Done is called exactly once, with Err set, from any goroutine, also before Submit returns. It
	// must not wait for other requests of the Cell.
	Done  func(*Request)
	Owner any // the submitter's own

	Err        error
	Miscompare int64 // CompareAndWrite with ErrMiscompare: bytes from Offset to the first difference

	volume   *Volume // nil for opPropose, opQuery and the data of files
	header   op.Header
	args     []byte   // opPropose
	query    op.Query // opQuery
	answer   op.Answer
	result   op.Result // of the call settled last
	state    state
	total    int64 // bytes to be issued; 1 for opPropose and opQuery
	issued   int64
	pieces   int    // calls issued and not settled
	whole    bool   // nothing is left to be issued
	call     *call  // the only one, for those requests that can be abandoned
	barrier  uint64 // Flush: the first sequence number it does not wait for
	deadline uint64 // tick; 0 for none
	next     *Request
}

type state uint8

const (
	idle   state = iota // the caller's
	queued              // ours
)

// maxWrite is the largest piece of a write, in bytes. Of a larger request the servers put the first
// pieces on their disks while the others are still on their way.
const maxWrite = 256 << 10

// mutates says whether the request is made of operations, which have sequence numbers.
func (r *Request) mutates() bool { return r.Op != Read && r.Op != opQuery }

// piece is the size of the next call in bytes, and what it counts against MaxInflightBytes.
func (r *Request) piece() (size, cost int) {
	left := r.total - r.issued
	largest := int64(maxWrite)
	switch r.Op {
	case Unmap, WriteZeroes:
		return int(min(left, op.MaxZeroes)), 0
	case Read:
		largest = wire.MaxRead
	case CompareAndWrite:
		return int(left), int(left)
	}
	// End on a block's border, so that further calls have whole blocks.
	if left > largest {
		left = largest - (r.Offset+r.issued)%op.BlockSize
	}
	return int(left), int(left)
}

// Volume is an open volume. Opening it took it away from whoever had it open before: their changes fail
// with ErrFenced from then on. Those who open it with Shared have it together, until somebody opens it
// without.
type Volume struct {
	cell    *Cell
	path    string
	object  uint64
	token   atomic.Uint64 // of changes that are submitted now
	size    atomic.Int64
	pending int    // requests under way; guarded by Cell.mu
	closed  bool   // guarded by Cell.mu
	timeout uint64 // ticks, 0 for none; guarded by Cell.mu
}

// OpenMode says who else may have a volume.
type OpenMode uint8

// Shared opens a volume together with all others who open it so. See SetAttr for how they agree.
const Shared OpenMode = 1

// OpenVolume opens the volume at path, for this Cell alone or Shared. Either takes it away from one who had it
// alone, and opening it alone takes it away from all. It fails with ErrNotFound, ErrKind for what is no
// volume, and ErrUnreachable or ErrNoMaster if ctx ends before the cell answers.
func (c *Cell) OpenVolume(ctx context.Context, path string, mode ...OpenMode) (*Volume, error) {
	h := op.Header{Code: op.VolumeOpen}
	for _, m := range mode {
		if m != Shared {
			return nil, fmt.Errorf("open volume %q: mode %d: %w", path, m, op.Invalid)
		}
		h.Flags |= op.FlagShared
	}
	res, err := c.proposePath(ctx, h, path)
	if err != nil {
		return nil, fmt.Errorf("open volume %q: %w", path, err)
	}
	v := &Volume{cell: c, path: path, object: res.Object}
	v.token.Store(res.Token)
	v.size.Store(int64(res.Value))
	return v, nil
}

// Size is the size in bytes that was last heard of.
func (v *Volume) Size() int64 { return v.size.Load() }

// Refresh asks for the size, which grows when somebody calls GrowVolume.
func (v *Volume) Refresh(ctx context.Context) (bytes int64, err error) {
	n, err := v.cell.Stat(ctx, v.path)
	if err != nil {
		return 0, err
	}
	if n.Object != v.object {
		return 0, fmt.Errorf("volume %q was deleted and made again: %w", v.path, ErrFenced)
	}
	v.size.Store(int64(n.Bytes))
	return int64(n.Bytes), nil
}

// SetTimeout makes requests submitted from now on fail with ErrTimeout when they have waited for so
// long, rounded up to Options.Ping; 0, as it is at first, lets them wait for the cell for ever. A
// write given up may have taken effect. If it has not, it never will.
func (v *Volume) SetTimeout(d time.Duration) {
	c := v.cell
	c.mu.Lock()
	v.timeout = c.ticks(d)
	c.mu.Unlock()
}

// ticks is d in units of Options.Ping, rounded up.
func (c *Cell) ticks(d time.Duration) uint64 {
	return uint64((max(d, 0) + c.opts.Ping - 1) / c.opts.Ping)
}

// Submit starts a request. It does not wait for the answer. Changes take effect in the order in which
// they are submitted. The range is the cell's to check: ErrOutOfRange.
func (v *Volume) Submit(r *Request) {
	c := v.cell
	r.volume, r.total, r.deadline = v, int64(len(r.Data)), 0
	bad := r.Offset < 0 || r.Length < 0
	code := op.Nop
	switch r.Op {
	case Read, Flush:
		if r.Op == Flush {
			r.total = 0
		}
	case Write:
		code = op.Write
	case CompareAndWrite:
		code = op.CompareAndWrite
		bad = bad || len(r.Data)%2 != 0 || len(r.Data) > op.MaxPayload
	case Unmap, WriteZeroes:
		if code = op.Unmap; r.Op == WriteZeroes {
			code = op.WriteZeroes
		}
		r.total = r.Length
	default:
		bad = true
	}
	if r.total > op.MaxVolume || r.Offset > op.MaxVolume {
		bad = true
	}
	r.header = op.Header{Code: code, Object: v.object, Token: v.token.Load(), Offset: uint64(r.Offset)}
	if r.mutates() {
		r.header.Stamp = uint64(time.Now().UnixNano())
	}

	c.mu.Lock()
	defer c.unlock()
	v.pending++
	r.state = queued
	switch {
	case bad:
		r.Err = nil
		c.finish(r, op.Invalid)
	case v.closed || c.closing:
		r.Err = nil
		c.finish(r, ErrClosed)
	default:
		if v.timeout != 0 {
			r.deadline = c.tick + v.timeout + 1 // the present tick has begun already
			c.deadlines++
		}
		c.enqueue(r)
		c.push()
	}
}

// Close waits for the requests under way, but not longer than Options.CloseTimeout: those fail with
// ErrTimeout then. Later ones fail with ErrClosed. The volume stays ours until somebody opens it.
func (v *Volume) Close() error {
	c := v.cell
	c.mu.Lock()
	defer c.unlock()
	v.closed = true
	at := c.tick + c.ticks(c.opts.CloseTimeout) + 1
	c.hurry(v, at)
	for v.pending > 0 {
		c.cond.Wait()
	}
	return nil
}

// hurry sets the deadline of every request of v to the given tick, where it is not earlier.
func (c *Cell) hurry(v *Volume, at uint64) {
	set := func(r *Request) {
		if r == nil || r.volume != v || r.deadline != 0 && r.deadline <= at {
			return
		}
		if r.deadline == 0 {
			c.deadlines++
		}
		r.deadline = at
	}
	for r := c.backlog; r != nil; r = r.next {
		set(r)
	}
	for r := c.flushes; r != nil; r = r.next {
		set(r)
	}
	for q := c.first; q != nil; q = q.next {
		set(q.req)
	}
}

// ReadAt is Submit of a Read that waits. It makes a Volume an io.ReaderAt; the volume's end is an error,
// ErrOutOfRange.
func (v *Volume) ReadAt(p []byte, off int64) (int, error) {
	return v.wait(&Request{Op: Read, Offset: off, Data: p})
}

// WriteAt is Submit of a Write that waits.
func (v *Volume) WriteAt(p []byte, off int64) (int, error) {
	return v.wait(&Request{Op: Write, Offset: off, Data: p})
}

func (v *Volume) wait(r *Request) (int, error) {
	done := make(chan struct{})
	r.Done = func(*Request) { close(done) }
	v.Submit(r)
	<-done
	if r.Err != nil {
		return 0, fmt.Errorf("volume %q, %d bytes at %d: %w", v.path, len(r.Data), r.Offset, r.Err)
	}
	return len(r.Data), nil
}

package replica

import (
	"net"
	"sync"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
	"github.com/paxos-iscsi/paxos-iscsi/pss/wire"
	"github.com/paxos-iscsi/paxos-iscsi/pss/wire/socket"
)

// writeTimeout is how long one write to a connection may take before it is given up: the other side
// has stopped, or the network swallows everything.
const writeTimeout = 10 * time.Second

// outlet is the sending side of a connection. Any goroutine adds frames; whatever has gathered when
// the connection is free goes out in one write. Frames are added to one wire.Writer while another is
// being written. Who has added something writes it itself with push, which saves waking a goroutine;
// what the socket has no room for is left to the goroutine in run.
type outlet struct {
	conn net.Conn
	wake chan struct{} // one token: there is something to write
	done chan struct{} // closed by close

	mu      sync.Mutex
	writers [2]*wire.Writer
	buffers [2][][]byte // read buffers to be given back once written
	adding  int         // index of the writer that frames are added to
	writing bool
	left    *wire.Writer // what push could not write; run goes on with it
	err     error
	closed  bool
	pool    *bufferPool
	written func() // called after writing, without the lock
}

func newOutlet(conn net.Conn, pool *bufferPool, written func()) *outlet {
	o := &outlet{conn: conn, wake: make(chan struct{}, 1), done: make(chan struct{}), pool: pool, written: written}
	for i := range o.writers {
		o.writers[i] = wire.NewWriter(conn)
		o.writers[i].Timeout = writeTimeout
	}
	return o
}

// begin locks the outlet and returns the writer to add frames to; end unlocks it.
func (o *outlet) begin() *wire.Writer {
	o.mu.Lock()
	return o.writers[o.adding]
}

// own hands a buffer that a frame refers to over to the outlet. It is called between begin and end.
func (o *outlet) own(b []byte) { o.buffers[o.adding] = append(o.buffers[o.adding], b) }

// end unlocks the outlet. An error of adding a frame is a mistake of this program; the connection is
// of no use after it.
func (o *outlet) end(err error) {
	if err != nil && o.err == nil {
		o.err = err
		o.conn.Close()
	}
	o.mu.Unlock()
}

// signal makes the goroutine in run write.
func (o *outlet) signal() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// run writes what is signalled until close.
func (o *outlet) run() {
	for {
		select {
		case <-o.wake:
			o.finish()
			o.flush()
		case <-o.done:
			return
		}
	}
}

// flush writes everything there is, unless another goroutine is writing, which then takes it along.
func (o *outlet) flush() { o.write((*wire.Writer).Flush) }

// push is flush for goroutines that must not wait for the other side.
func (o *outlet) push() { o.write((*wire.Writer).TryFlush) }

func (o *outlet) write(flush func(*wire.Writer) error) {
	o.mu.Lock()
	if o.writing {
		o.mu.Unlock()
		return
	}
	o.writing = true
	for o.err == nil && o.writers[o.adding].Buffered() > 0 {
		w := o.writers[o.adding]
		o.adding = 1 - o.adding
		o.mu.Unlock()
		err := flush(w)
		o.mu.Lock()
		if err == socket.ErrWouldBlock {
			o.left = w
			o.mu.Unlock()
			o.signal()
			return
		}
		o.settle(err)
	}
	o.writing = false
	o.mu.Unlock()
	o.written()
}

// finish writes what push has left.
func (o *outlet) finish() {
	o.mu.Lock()
	w := o.left
	o.left = nil
	o.mu.Unlock()
	if w == nil {
		return
	}
	err := w.Flush()
	o.mu.Lock()
	o.settle(err)
	o.writing = false
	o.mu.Unlock()
	o.written()
}

// settle ends the writing of the Writer that frames are not added to. The outlet is locked.
func (o *outlet) settle(err error) {
	at := 1 - o.adding
	for i, b := range o.buffers[at] {
		o.pool.put(b)
		o.buffers[at][i] = nil
	}
	o.buffers[at] = o.buffers[at][:0]
	if err != nil && o.err == nil {
		o.err = err
		o.conn.Close()
	}
}

// waiting is the number of bytes that are added and not being written yet; none when nothing will be
// written any more.
func (o *outlet) waiting() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return 0
	}
	return o.writers[o.adding].Buffered()
}

// close ends run and closes the connection. It may be called more than once.
func (o *outlet) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.conn.Close()
	if !o.closed {
		o.closed = true
		if o.err == nil {
			o.err = net.ErrClosed
		}
		close(o.done)
	}
}

// bufferPool keeps buffers for the data of read replies, in two sizes, and for their block sums.
type bufferPool struct{ small, large, sumArrays sync.Pool }

// sumArray holds the block sums of the longest read.
type sumArray [wire.MaxRead/op.BlockSize + 1]uint32

func (p *bufferPool) sums() *sumArray {
	if a, ok := p.sumArrays.Get().(*sumArray); ok {
		return a
	}
	return new(sumArray)
}

func (p *bufferPool) putSums(a *sumArray) { p.sumArrays.Put(a) }

const smallBuffer = 16 << 10

// get returns a buffer of n bytes, at most wire.MaxRead, with any content.
func (p *bufferPool) get(n int) []byte {
	pool, size := &p.small, smallBuffer
	if n > smallBuffer {
		pool, size = &p.large, wire.MaxRead+smallBuffer
	}
	if b, ok := pool.Get().(*[]byte); ok {
		return (*b)[:n]
	}
	return make([]byte, n, size)
}

func (p *bufferPool) put(b []byte) {
	b = b[:0]
	if cap(b) == smallBuffer {
		p.small.Put(&b)
	} else {
		p.large.Put(&b)
	}
}

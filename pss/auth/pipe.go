package auth

import (
	"net"
	"sync"
	"sync/atomic"

	"github.com/paxos-iscsi/paxos-iscsi/pss/wire/socket"
)

// readAhead is how many bytes one system call may read.
const readAhead = 64 << 10

// pipe stands between TLS and the socket: it reads ahead, and, once gather is set, keeps the records that TLS writes
// until flush.
type pipe struct {
	net.Conn              // the socket
	socket   *socket.Conn // the same, nil unless it is TCP
	buffers  *sync.Pool   // of *[]byte, for out
	gather   atomic.Bool

	in []byte // the reader's: received and not yet taken
	// buf is what in is a part of.
	buf []byte

	mu   sync.Mutex // guards the rest: TLS may write from the reader, too
	out  *[]byte    // records; lent while there are any
	done int        // bytes of out that were written
	one  [1][]byte  // for TryWrite
}

// peek returns the first n bytes without taking them.
func (p *pipe) peek(n int) ([]byte, error) {
	for len(p.in) < n {
		if err := p.fill(); err != nil {
			return nil, err
		}
	}
	return p.in[:n], nil
}

// fill reads more behind what is there.
func (p *pipe) fill() error {
	if p.buf == nil {
		p.buf = make([]byte, readAhead)
	}
	have := copy(p.buf, p.in)
	n, err := p.Conn.Read(p.buf[have:])
	p.in = p.buf[:have+n]
	if n > 0 {
		return nil
	}
	return err
}

// Read implements io.Reader for TLS.
func (p *pipe) Read(b []byte) (int, error) {
	if len(p.in) == 0 {
		if err := p.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(b, p.in)
	p.in = p.in[n:]
	return n, nil
}

// Write implements io.Writer for TLS.
func (p *pipe) Write(b []byte) (int, error) {
	if !p.gather.Load() {
		return p.Conn.Write(b)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.out == nil {
		p.out = p.lend()
	}
	*p.out = append(*p.out, b...)
	return len(b), nil
}

// lend returns empty memory for all records of maxGather bytes.
func (p *pipe) lend() *[]byte {
	if b, ok := p.buffers.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, 0, maxGather+maxPlain)
	return &b
}

// flush writes what was gathered. Unless it may wait it returns socket.ErrWouldBlock where that is not all; the rest
// stays. It is called by one goroutine at a time.
func (p *pipe) flush(wait bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.out != nil {
		b := (*p.out)[p.done:]
		p.mu.Unlock()
		n, err := p.send(b, wait)
		p.mu.Lock()
		p.done += n
		if p.done == len(*p.out) {
			*p.out = (*p.out)[:0]
			p.buffers.Put(p.out)
			p.out, p.done = nil, 0
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *pipe) send(b []byte, wait bool) (int, error) {
	if wait {
		return p.Conn.Write(b)
	}
	if p.socket == nil {
		return 0, socket.ErrWouldBlock
	}
	p.one[0] = b
	n, err := p.socket.TryWrite(p.one[:])
	p.one[0] = nil
	return n, err
}

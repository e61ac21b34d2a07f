package wire

import (
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"sync/atomic"
)

const (
	readBuffer = 64 << 10 // bytes
	// directRead is from how many missing bytes on a body is read past the buffer, straight into its
	// destination. Below it, one system call that also takes what follows is cheaper than two.
	directRead = 16 << 10
)

// Reader takes frames off a connection: Next, then the body through View or any number of Body, then
// Next again. What is left unread of a body is skipped. A Reader is used by one goroutine, but for
// Received.
type Reader struct {
	conn     net.Conn
	buf      []byte
	pos, end int // buf[pos:end] was received and not yet taken
	header   Header
	left     int    // bytes of the body not yet taken
	sealed   int    // of these, covered by the header's sum
	sum      uint32 // of the sealed bytes taken
	received atomic.Uint64
}

// NewReader returns a Reader of conn.
func NewReader(conn net.Conn) *Reader { return &Reader{conn: conn, buf: make([]byte, readBuffer)} }

// Received counts the bytes that came from the connection: while it grows, the other side lives. It
// may be called from any goroutine.
func (r *Reader) Received() uint64 { return r.received.Load() }

// Buffered is the number of bytes that were received and not yet taken. A loop that answers in
// batches flushes when it is 0.
func (r *Reader) Buffered() int { return r.end - r.pos }

// Next skips what is left of the current body and returns the next frame's header. The error is
// io.EOF where the connection ended between frames, wraps ErrProtocol for bytes that are no
// frame, and is the connection's otherwise.
func (r *Reader) Next() (Header, error) {
	for r.left > 0 {
		if err := r.fill(1); err != nil {
			return Header{}, unexpected(err)
		}
		n := min(r.left, r.end-r.pos)
		r.pos, r.left = r.pos+n, r.left-n
	}
	r.sealed = 0
	if err := r.fill(HeaderSize); err != nil {
		if r.end > r.pos {
			err = unexpected(err)
		}
		return Header{}, err
	}
	h, err := ParseHeader(r.buf[r.pos:r.end])
	if err != nil {
		return h, err
	}
	r.pos += HeaderSize
	r.header, r.left, r.sealed, r.sum = h, int(h.Size), int(h.Sealed), 0
	return h, nil
}

// View returns the rest of the current body, at most MaxView bytes, without copying it. It is valid
// until the next call of the Reader.
func (r *Reader) View() ([]byte, error) {
	n := r.left
	if n > MaxView {
		return nil, fmt.Errorf("%w: %v of %d bytes can't be viewed", ErrProtocol, r.header.Kind, n)
	}
	if err := r.fill(n); err != nil {
		return nil, unexpected(err)
	}
	b := r.buf[r.pos : r.pos+n : r.pos+n]
	r.pos, r.left = r.pos+n, 0
	return b, r.check(b)
}

// Body fills dst with the next bytes of the current body, and verifies them as far as the header's
// sum covers them. Asking for more than is left is an error that wraps ErrProtocol.
func (r *Reader) Body(dst []byte) error {
	if len(dst) > r.left {
		return fmt.Errorf("%w: %v of %d bytes is too short", ErrProtocol, r.header.Kind, r.header.Size)
	}
	r.left -= len(dst)
	rest := dst
	for len(rest) > 0 {
		if r.pos == r.end && len(rest) >= directRead {
			n, err := io.ReadFull(counted{r}, rest)
			if err != nil {
				return unexpected(err)
			}
			rest = rest[n:]
			continue
		}
		if err := r.fill(1); err != nil {
			return unexpected(err)
		}
		n := copy(rest, r.buf[r.pos:r.end])
		r.pos, rest = r.pos+n, rest[n:]
	}
	return r.check(dst)
}

// check accounts for b, the bytes just taken, in the sum of the sealed part.
func (r *Reader) check(b []byte) error {
	if r.sealed == 0 {
		return nil
	}
	n := min(r.sealed, len(b))
	r.sum, r.sealed = crc32.Update(r.sum, castagnoli, b[:n]), r.sealed-n
	if r.sealed == 0 && r.sum != r.header.Sum {
		return fmt.Errorf("%w: %v checksum", ErrProtocol, r.header.Kind)
	}
	return nil
}

// fill sees to it that at least n bytes are in the buffer.
func (r *Reader) fill(n int) error {
	if r.pos == r.end {
		r.pos, r.end = 0, 0
	}
	if r.pos+n > len(r.buf) {
		r.end = copy(r.buf, r.buf[r.pos:r.end])
		r.pos = 0
	}
	for r.end-r.pos < n {
		got, err := r.conn.Read(r.buf[r.end:])
		r.received.Add(uint64(got))
		if r.end += got; err != nil && r.end-r.pos < n {
			return err
		}
	}
	return nil
}

// counted is the connection of a Reader with its bytes counted.
type counted struct{ r *Reader }

func (c counted) Read(b []byte) (int, error) {
	n, err := c.r.conn.Read(b)
	c.r.received.Add(uint64(n))
	return n, err
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

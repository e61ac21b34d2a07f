package iscsi

import (
	"io"
	"net"
)

// readBufferSize is how much a connection reads ahead, in bytes: the headers of many commands and the data of
// small writes come with one system call.
const readBufferSize = 64 << 10

// directReadSize is from how many missing bytes on a payload is read straight to where it belongs,
// past the read-ahead buffer.
const directReadSize = 16 << 10

// reader is the receiving side of a connection. It belongs to the connection's reader goroutine.
type reader struct {
	nc   net.Conn
	buf  []byte
	r, w int // buf[r:w] was read and not used yet
	// pause is called before each read that may wait: what is ready to be sent should go out now.
	pause func()
}

// fill reads more into the buffer, at least one byte.
func (r *reader) fill() error {
	if r.r == r.w {
		r.r, r.w = 0, 0
	} else if r.w == len(r.buf) {
		r.w = copy(r.buf, r.buf[r.r:r.w])
		r.r = 0
	}
	r.pause()
	n, err := r.nc.Read(r.buf[r.w:])
	r.w += n
	if n > 0 {
		return nil
	}
	return err
}

// next gives the next n bytes, n far below readBufferSize. They are good until the next call.
func (r *reader) next(n int) ([]byte, error) {
	for r.w-r.r < n {
		if err := r.fill(); err != nil {
			if err == io.EOF && r.w > r.r {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
	b := r.buf[r.r : r.r+n]
	r.r += n
	return b, nil
}

// full fills p.
func (r *reader) full(p []byte) error {
	for {
		n := copy(p, r.buf[r.r:r.w])
		r.r += n
		p = p[n:]
		if len(p) == 0 {
			return nil
		}
		if len(p) < directReadSize {
			if err := r.fill(); err != nil {
				return unexpected(err)
			}
			continue
		}
		r.pause()
		n, err := r.nc.Read(p)
		p = p[n:]
		if n == 0 && err != nil {
			return unexpected(err)
		}
	}
}

// skip passes over n bytes.
func (r *reader) skip(n int) error {
	for {
		have := min(n, r.w-r.r)
		r.r += have
		n -= have
		if n == 0 {
			return nil
		}
		if err := r.fill(); err != nil {
			return unexpected(err)
		}
	}
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

package auth

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/wire/socket"
)

// Sizes of a connection, in bytes.
const (
	maxPlain  = 16 << 10  // of a TLS record's content (RFC 8446 5.1)
	maxGather = 128 << 10 // of content whose records are written with one system call

	// maxConnBytes is how much one side may send on a connection before it has to be made anew: 2^31 full records,
	// at which an attacker's advantage against AES-GCM is still below 2^-43.
	maxConnBytes = 32 << 40
)

// ErrWorn ends a connection that has carried as much as its keys are good for. Dialling again helps.
var ErrWorn = errors.New("the connection has carried what its keys are good for")

// Conn is a connection on which both sides have proved a key. Small pieces that are written together share
// records, and records share system calls. Closing it is closing the socket, whatever is under way.
type Conn struct {
	keys         *Keys
	raw          net.Conn
	tls          *tls.Conn
	pipe         pipe
	ours, theirs KeyID

	write sync.Mutex // guards the rest
	sent  uint64     // bytes of content
	worn  uint64     // maxConnBytes, but in tests
}

func newConn(k *Keys, raw net.Conn) *Conn {
	return &Conn{keys: k, raw: raw, pipe: pipe{Conn: raw, socket: socket.Of(raw), buffers: &k.buffers}, worn: maxConnBytes}
}

// allowed says whether both keys of the connection are in r.
func (c *Conn) allowed(r *ring) bool { return r.find(c.ours) != nil && r.find(c.theirs) != nil }

// Key is the key that the other side has proved.
func (c *Conn) Key() KeyID { return c.theirs }

// Read implements net.Conn. A dialler whose key was refused hears it here: the error wraps ErrStranger.
func (c *Conn) Read(b []byte) (int, error) {
	n, err := c.tls.Read(b)
	if err != nil && err != io.EOF && remote(err) {
		err = c.explain(err)
	}
	return n, err
}

// Write implements net.Conn.
func (c *Conn) Write(b []byte) (int, error) {
	if err := c.WriteBuffers([][]byte{b}); err != nil {
		return 0, err
	}
	return len(b), nil
}

// WriteBuffers writes all of bufs, in order, and before them what TryWrite has kept. It leaves bufs as it is.
func (c *Conn) WriteBuffers(bufs [][]byte) error {
	c.write.Lock()
	defer c.write.Unlock()
	if err := c.pipe.flush(true); err != nil {
		return err
	}
	for at := (place{}); at.piece < len(bufs); {
		if _, err := c.seal(bufs, &at); err != nil {
			return err
		}
		if err := c.pipe.flush(true); err != nil {
			return err
		}
	}
	return nil
}

// TryWrite takes as many bytes of bufs, in order, as it may without waiting, and returns how many. With
// socket.ErrWouldBlock some of these may be kept, sealed, for the next WriteBuffers or TryWrite to write.
func (c *Conn) TryWrite(bufs [][]byte) (int, error) {
	c.write.Lock()
	defer c.write.Unlock()
	if err := c.pipe.flush(false); err != nil {
		return 0, err
	}
	n, err := c.seal(bufs, &place{})
	if err == nil {
		err = c.pipe.flush(false)
	}
	return n, err
}

// place is how far a list of pieces was taken.
type place struct{ piece, offset int }

// seal makes records of at most maxGather bytes of bufs from at on, and leaves them in the pipe. It moves
// at and returns how many bytes it has taken. Small pieces are put together, large ones are sealed from where they are.
func (c *Conn) seal(bufs [][]byte, at *place) (int, error) {
	plain := c.keys.plain()
	defer c.keys.plains.Put(plain)
	gathered, taken := plain[:0], 0
	for at.piece < len(bufs) && taken < maxGather {
		b := bufs[at.piece][at.offset:]
		n := min(len(b), maxGather-taken)
		if whole := n / maxPlain * maxPlain; whole > 0 && len(gathered) == 0 {
			n = whole
			if _, err := c.tls.Write(b[:n]); err != nil {
				return taken, err
			}
		} else {
			n = min(n, maxPlain-len(gathered))
			gathered = append(gathered, b[:n]...)
		}
		taken += n
		if at.offset += n; at.offset == len(bufs[at.piece]) {
			*at = place{piece: at.piece + 1}
		}
		if len(gathered) == maxPlain || len(gathered) > 0 && (taken >= maxGather || at.piece == len(bufs)) {
			if _, err := c.tls.Write(gathered); err != nil {
				return taken, err
			}
			gathered = gathered[:0]
		}
	}
	if c.sent += uint64(taken); c.sent > c.worn {
		return taken, ErrWorn
	}
	return taken, nil
}

// plain lends memory for the content of one record.
func (k *Keys) plain() *[maxPlain]byte {
	if p, ok := k.plains.Get().(*[maxPlain]byte); ok {
		return p
	}
	return new([maxPlain]byte)
}

// Close closes the socket.
func (c *Conn) Close() error {
	c.keys.forget(c)
	return c.raw.Close()
}

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr { return c.raw.LocalAddr() }

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return c.raw.RemoteAddr() }

// SetDeadline implements net.Conn. After a write that timed out the connection is of no further use.
func (c *Conn) SetDeadline(t time.Time) error { return c.raw.SetDeadline(t) }

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.raw.SetReadDeadline(t) }

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.raw.SetWriteDeadline(t) }

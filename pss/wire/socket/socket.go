// Package socket writes to TCP connections without waiting, which package net does not offer. It is a
// package of its own so that the rest of the wire needs nothing of the operating system.
package socket

import (
	"errors"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrWouldBlock reports that the connection has no room at the moment.
var ErrWouldBlock = errors.New("the connection has no room at the moment")

// maxVector is how many pieces one writev takes (IOV_MAX).
const maxVector = 1024

// Conn is the socket behind a connection.
type Conn struct{ raw syscall.RawConn }

// Of returns the socket behind a TCP connection, nil for any other.
func Of(c net.Conn) *Conn {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil
	}
	return &Conn{raw}
}

// TryWrite writes as many bytes of bufs, in order, as one system call takes and the socket has room for,
// and returns how many. ErrWouldBlock says that there was no room for any.
func (c *Conn) TryWrite(bufs [][]byte) (int, error) {
	if len(bufs) > maxVector {
		bufs = bufs[:maxVector]
	}
	var n int
	var sysErr error
	err := c.raw.Write(func(fd uintptr) bool {
		for {
			if n, sysErr = unix.Writev(int(fd), bufs); sysErr != unix.EINTR {
				return true // never wait
			}
		}
	})
	switch {
	case err != nil:
		return 0, err
	case sysErr == unix.EAGAIN:
		return 0, ErrWouldBlock
	case sysErr != nil:
		return 0, sysErr
	}
	return n, nil
}

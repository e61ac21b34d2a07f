package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/packaging/latency"
	"golang.org/x/sys/unix"
)

const (
	maxFloorTime = time.Second // for each floor
	floorBytes   = 64 << 20    // size of the file
)

// floor is a latency that no target of this machine can go below.
type floor struct {
	name  string
	count uint64
	p50   time.Duration
	p99   time.Duration
}

func floorOf(name string, h *latency.Histogram) floor {
	return floor{name: name, count: h.Count(), p50: h.Quantile(0.5), p99: h.Quantile(0.99)}
}

// takeFloors measures the disk that holds dir, and loopback, each for so long.
func takeFloors(ctx context.Context, dir string, d time.Duration) ([]floor, error) {
	var all []floor
	for _, size := range []int{4 << 10, 8 << 10, 1 << 20} {
		h, err := diskFloor(ctx, filepath.Join(dir, "floor"), size, d)
		if err != nil {
			return nil, err
		}
		all = append(all, floorOf(fmt.Sprintf("disk: write of %d KiB (O_DIRECT) and fdatasync", size>>10), h))
	}
	h, err := netFloor(ctx, d)
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("loopback TCP: %d bytes there, %d+%d back", headBytes, headBytes, pageBytes)
	return append(all, floorOf(name, h)), nil
}

// diskFloor writes size bytes and has them made durable, again and again and one after the other in a file that
// has all its blocks already: what a log does.
func diskFloor(ctx context.Context, name string, size int, d time.Duration) (*latency.Histogram, error) {
	fd, err := unix.Open(name, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0o600)
	if errors.Is(err, unix.EINVAL) {
		return nil, fmt.Errorf("measure the disk: %s is on none, it takes no direct I/O: name a folder on one with --dir", name)
	}
	if err != nil {
		return nil, fmt.Errorf("measure the disk: open %s: %w", name, err)
	}
	defer os.Remove(name)
	defer unix.Close(fd)
	// Direct I/O wants aligned memory; this is aligned to pages, and zero.
	b, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("measure the disk: %w", err)
	}
	defer unix.Munmap(b)
	write := func(b []byte, at int64) error {
		n, err := unix.Pwrite(fd, b, at)
		if err == nil && n < len(b) {
			err = errShort
		}
		if err != nil {
			return fmt.Errorf("measure the disk: %w", err)
		}
		return nil
	}
	for at := int64(0); at < floorBytes; at += int64(len(b)) {
		if err := write(b, at); err != nil {
			return nil, err
		}
	}
	if err := unix.Fsync(fd); err != nil {
		return nil, fmt.Errorf("measure the disk: %w", err)
	}
	h := new(latency.Histogram)
	began := time.Now()
	for at, now := int64(0), time.Duration(0); now < d && ctx.Err() == nil; at = (at + int64(size)) % floorBytes {
		if err := write(b[:size], at); err != nil {
			return nil, err
		}
		if err := unix.Fdatasync(fd); err != nil {
			return nil, fmt.Errorf("measure the disk: %w", err)
		}
		after := time.Since(began)
		h.Add(after - now)
		now = after
	}
	return h, ctx.Err()
}

// headBytes is the size of an iSCSI header (RFC 7143 11.2.1).
const headBytes = 48

// netFloor sends what a read of a page sends, over loopback: a header there, a header and a page back. Both
// ends are threads that wait in the system call: nothing can be quicker without spinning.
func netFloor(ctx context.Context, d time.Duration) (*latency.Histogram, error) {
	near, far, err := loopback()
	if err != nil {
		return nil, fmt.Errorf("measure loopback: %w", err)
	}
	defer near.Close()
	var answering sync.WaitGroup
	answering.Go(func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer far.Close()
		fd, b := int(far.Fd()), make([]byte, headBytes+pageBytes)
		for readFull(fd, b[:headBytes]) == nil && writeFull(fd, b) == nil {
		}
	})
	h := new(latency.Histogram)
	err = func() error {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		fd, b := int(near.Fd()), make([]byte, headBytes+pageBytes)
		began := time.Now()
		for now := time.Duration(0); now < d && ctx.Err() == nil; {
			if err := writeFull(fd, b[:headBytes]); err != nil {
				return fmt.Errorf("measure loopback: %w", err)
			}
			if err := readFull(fd, b); err != nil {
				return fmt.Errorf("measure loopback: %w", err)
			}
			after := time.Since(began)
			h.Add(after - now)
			now = after
		}
		return ctx.Err()
	}()
	// Shutdown, unlike close, reaches the other end even while somebody waits.
	if e := unix.Shutdown(int(near.Fd()), unix.SHUT_RDWR); err == nil && e != nil {
		err = fmt.Errorf("measure loopback: %w", e)
	}
	answering.Wait()
	return h, err
}

// loopback returns the two ends of a TCP connection as files, whose Fd makes them blocking ones.
func loopback() (near, far *os.File, err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer listener.Close()
	dialled, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		return nil, nil, err
	}
	defer dialled.Close()
	accepted, err := listener.Accept()
	if err != nil {
		return nil, nil, err
	}
	defer accepted.Close()
	if near, err = dialled.(*net.TCPConn).File(); err != nil {
		return nil, nil, err
	}
	if far, err = accepted.(*net.TCPConn).File(); err != nil {
		near.Close()
		return nil, nil, err
	}
	return near, far, nil
}

func readFull(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Read(fd, b)
		if err == nil && n == 0 {
			err = unix.ECONNRESET
		}
		if err != nil && err != unix.EINTR {
			return err
		}
		b = b[max(n, 0):]
	}
	return nil
}

func writeFull(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		if err != nil && err != unix.EINTR {
			return err
		}
		b = b[max(n, 0):]
	}
	return nil
}

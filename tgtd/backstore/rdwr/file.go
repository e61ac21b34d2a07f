package rdwr

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore"
)

// file is what the store asks of the system; tests put faults in between.
type file interface {
	pread(b []byte, offset int64) (int, error)
	// preadNoWait reads what the page cache holds: EAGAIN when it holds nothing.
	preadNoWait(b []byte, offset int64) (int, error)
	pwrite(b []byte, offset int64) (int, error)
	pwriteDurable(b []byte, offset int64) (int, error)
	sync() error
	punch(offset, length int64) error // deallocate; reads as zeros
	zero(offset, length int64) error  // read as zeros, keep the space
	seekData(offset int64) (int64, error)
	seekHole(offset int64) (int64, error)
	size() (int64, error)
	close() error
}

// descriptor is an open file or block device.
type descriptor struct {
	fd    int
	block bool
}

func (d descriptor) pread(b []byte, offset int64) (int, error) { return unix.Pread(d.fd, b, offset) }

func (d descriptor) preadNoWait(b []byte, offset int64) (int, error) {
	return unix.Preadv2(d.fd, [][]byte{b}, offset, unix.RWF_NOWAIT)
}

func (d descriptor) pwrite(b []byte, offset int64) (int, error) { return unix.Pwrite(d.fd, b, offset) }

func (d descriptor) pwriteDurable(b []byte, offset int64) (int, error) {
	return unix.Pwritev2(d.fd, [][]byte{b}, offset, unix.RWF_DSYNC)
}

func (d descriptor) sync() error {
	return retry(func() error { return unix.Fdatasync(d.fd) })
}

// punch works on block devices too: the kernel then deallocates only where that leaves zeros, which a
// plain discard does not promise.
func (d descriptor) punch(offset, length int64) error {
	return retry(func() error {
		return unix.Fallocate(d.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, offset, length)
	})
}

func (d descriptor) zero(offset, length int64) error {
	return retry(func() error {
		return unix.Fallocate(d.fd, unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, offset, length)
	})
}

func (d descriptor) seekData(offset int64) (int64, error) {
	if d.block {
		return 0, unix.EOPNOTSUPP
	}
	return unix.Seek(d.fd, offset, unix.SEEK_DATA)
}

func (d descriptor) seekHole(offset int64) (int64, error) {
	return unix.Seek(d.fd, offset, unix.SEEK_HOLE)
}

func (d descriptor) size() (int64, error) {
	if d.block {
		return unix.Seek(d.fd, 0, unix.SEEK_END) // reads and writes never use the position
	}
	var st unix.Stat_t
	if err := unix.Fstat(d.fd, &st); err != nil {
		return 0, fmt.Errorf("stat: %w", err)
	}
	return st.Size, nil
}

func (d descriptor) close() error { return unix.Close(d.fd) }

// retry repeats a call that a signal interrupted.
func retry(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

// openedMedium is what Open needs to know of a path.
type openedMedium struct {
	file, buffered  file
	align, memAlign int64 // for direct I/O, bytes
	readOnly        bool
	physical        int // st_blksize, or the physical block size of a device
	size            int64
}

// openMedium opens path and finds out what it is.
func openMedium(path string, sync, direct bool) (*openedMedium, error) {
	if err := checkKind(path); err != nil {
		return nil, err // before open, which has effects on devices and waits at pipes
	}
	flags := unix.O_CLOEXEC | unix.O_LARGEFILE
	if sync {
		flags |= unix.O_DSYNC
	}
	extra := 0
	if direct {
		extra = unix.O_DIRECT
	}
	m := &openedMedium{}
	access := unix.O_RDWR
	fd, err := openRetry(path, flags|extra|access)
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EROFS) {
		m.readOnly, access = true, unix.O_RDONLY
		fd, err = openRetry(path, flags|extra|access)
	}
	if err != nil {
		return nil, err
	}
	d := descriptor{fd: fd}
	if err := m.describe(&d); err != nil {
		d.close()
		return nil, err
	}
	m.file = d
	if direct {
		m.alignment(d)
		second, err := openRetry(path, flags|access)
		if err != nil {
			d.close()
			return nil, fmt.Errorf("open once more without O_DIRECT: %w", err)
		}
		m.buffered = descriptor{fd: second, block: d.block}
	}
	return m, nil
}

func openRetry(path string, flags int) (fd int, err error) {
	err = retry(func() error {
		fd, err = unix.Open(path, flags, 0)
		return err
	})
	return fd, err
}

// checkKind refuses what can't be a disk.
func checkKind(path string) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFBLK:
		return nil
	}
	return fmt.Errorf("%w: neither a regular file nor a block device", backstore.ErrOption)
}

// describe fills in size, physical block size, and whether a device is read-only.
func (m *openedMedium) describe(d *descriptor) error {
	var st unix.Stat_t
	if err := unix.Fstat(d.fd, &st); err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	m.physical = int(st.Blksize)
	d.block = st.Mode&unix.S_IFMT == unix.S_IFBLK
	if d.block {
		if n, err := unix.IoctlGetInt(d.fd, unix.BLKPBSZGET); err == nil && n > 0 {
			m.physical = n
		}
		// Newer kernels open a device that is set to read-only for writing, too, and refuse the writes.
		if n, err := unix.IoctlGetInt(d.fd, unix.BLKROGET); err == nil && n != 0 {
			m.readOnly = true
		}
	}
	size, err := d.size()
	if err != nil {
		return fmt.Errorf("find the size: %w", err)
	}
	m.size = size
	return nil
}

// alignment asks what direct I/O needs; without an answer, 4096 bytes are safe everywhere.
func (m *openedMedium) alignment(d descriptor) {
	m.align, m.memAlign = 4096, 4096
	if d.block {
		if n, err := unix.IoctlGetInt(d.fd, unix.BLKSSZGET); err == nil && powerOfTwo(n) {
			m.align, m.memAlign = int64(n), int64(n)
		}
		return
	}
	var st unix.Statx_t
	if err := unix.Statx(d.fd, "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &st); err != nil {
		return
	}
	if st.Mask&unix.STATX_DIOALIGN != 0 &&
		powerOfTwo(int(st.Dio_offset_align)) && powerOfTwo(int(st.Dio_mem_align)) {
		m.align, m.memAlign = int64(st.Dio_offset_align), int64(st.Dio_mem_align)
	}
}

func powerOfTwo(n int) bool { return n > 0 && n&(n-1) == 0 }

package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// What the storage service makes belongs to its user alone; the group may look.
const (
	folderMode = 0o750
	fileMode   = 0o640
)

// dir is the FS of a real folder. os.Root keeps every name inside it, symbolic links included.
type dir struct {
	root *os.Root
	path string
}

// Dir returns the folder root of the real file system. The folder must exist: a mistyped path
// must not become an empty server.
//
// Direct opens a file with O_DIRECT; where the file system answers EINVAL, as open(2) says it may,
// the file is buffered instead. The rules of alignment are enforced in both cases.
func Dir(root string) (FS, error) {
	r, err := os.OpenRoot(root)
	if err != nil {
		return nil, fmt.Errorf("opening the storage folder: %w", err)
	}
	return &dir{root: r, path: root}, nil
}

func (d *dir) Open(name string, flags Flags) (File, error) {
	if err := checkName("open", name, false); err != nil {
		return nil, err
	}
	mode := os.O_RDWR
	if flags&Create != 0 {
		mode |= os.O_CREATE
	}
	f, err := d.open(name, mode, flags)
	if err != nil {
		return nil, d.fail("open", name, err)
	}
	switch info, err := f.Stat(); {
	case err != nil:
		return nil, errors.Join(d.fail("open", name, err), f.Close())
	case !info.Mode().IsRegular():
		return nil, errors.Join(d.fail("open", name, errors.New("not a regular file")), f.Close())
	}
	return &dirFile{f: f, fd: int(f.Fd()), direct: flags&Direct != 0}, nil
}

func (d *dir) open(name string, mode int, flags Flags) (*os.File, error) {
	if flags&Direct != 0 {
		f, err := d.root.OpenFile(name, mode|unix.O_DIRECT, fileMode)
		if !errors.Is(err, unix.EINVAL) {
			return f, err
		}
	}
	return d.root.OpenFile(name, mode, fileMode)
}

func (d *dir) MkdirAll(name string) error {
	if err := checkName("mkdir", name, true); err != nil {
		return err
	}
	if name == "." {
		return nil
	}
	return d.fail("mkdir", name, d.root.MkdirAll(name, folderMode))
}

func (d *dir) Rename(from, to string) error {
	for _, name := range []string{from, to} {
		if err := checkName("rename", name, false); err != nil {
			return err
		}
	}
	return d.fail("rename", from, d.root.Rename(from, to))
}

func (d *dir) Link(from, to string) error {
	for _, name := range []string{from, to} {
		if err := checkName("link", name, false); err != nil {
			return err
		}
	}
	err := d.root.Link(from, to)
	for _, cause := range [...]error{unix.EXDEV, unix.EPERM, unix.EMLINK, unix.EOPNOTSUPP} {
		if errors.Is(err, cause) {
			return fmt.Errorf("%w: %w", ErrNoLink, d.fail("link", from, err))
		}
	}
	return d.fail("link", from, err)
}

func (d *dir) Remove(name string) error {
	if err := checkName("remove", name, false); err != nil {
		return err
	}
	return d.fail("remove", name, d.root.Remove(name))
}

func (d *dir) RemoveAll(name string) error {
	if err := checkName("remove", name, false); err != nil {
		return err
	}
	return d.fail("remove", name, d.root.RemoveAll(name))
}

func (d *dir) ReadDir(name string) ([]Entry, error) {
	if err := checkName("readdir", name, true); err != nil {
		return nil, err
	}
	f, err := d.root.Open(name)
	if err != nil {
		return nil, d.fail("readdir", name, err)
	}
	defer f.Close() // only read from
	found, err := f.ReadDir(-1)
	if err != nil {
		return nil, d.fail("readdir", name, err)
	}
	entries := make([]Entry, 0, len(found))
	for _, e := range found {
		info, err := d.root.Lstat(path.Join(name, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed since the folder was read
		}
		if err != nil {
			return nil, d.fail("readdir", path.Join(name, e.Name()), err)
		}
		entry := Entry{Name: e.Name(), Dir: info.IsDir()}
		if !entry.Dir {
			entry.Bytes = info.Size()
		}
		entries = append(entries, entry)
	}
	slices.SortFunc(entries, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	return entries, nil
}

// Space implements Spacer: what a process without privileges may use.
func (d *dir) Space() (free, total int64, err error) {
	var st unix.Statfs_t
	for {
		if err = unix.Statfs(d.path, &st); err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return 0, 0, d.fail("statfs", ".", err)
	}
	return int64(st.Bavail) * int64(st.Bsize), int64(st.Blocks) * int64(st.Bsize), nil
}

func (d *dir) SyncDir(name string) error {
	if err := checkName("syncdir", name, true); err != nil {
		return err
	}
	f, err := d.root.Open(name)
	if err != nil {
		return d.fail("syncdir", name, err)
	}
	return d.fail("syncdir", name, errors.Join(f.Sync(), f.Close()))
}

// fail gives an error of the operating system the full path and, where the disk is full, the
// sentinel for it. It returns nil for nil.
func (d *dir) fail(op, name string, err error) error {
	return failed(op, filepath.Join(d.path, name), err)
}

func failed(op, name string, err error) error {
	if err == nil {
		return nil
	}
	var pathErr *fs.PathError
	var linkErr *os.LinkError
	switch {
	case errors.As(err, &pathErr):
		err = pathErr.Err
	case errors.As(err, &linkErr):
		err = fmt.Errorf("to %s: %w", linkErr.New, linkErr.Err)
	}
	err = &fs.PathError{Op: op, Path: name, Err: err}
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return err
}

// dirFile is an open file of a dir. The lock is held for reading by calls that use the bare
// descriptor, and for writing by Close, so that none of them meets a descriptor used again.
type dirFile struct {
	f      *os.File
	direct bool

	mu     sync.RWMutex
	fd     int
	closed bool
}

// ReadAt passes io.EOF on as it is: it is no failure.
func (f *dirFile) ReadAt(p []byte, off int64) (int, error) {
	if f.direct {
		if err := checkAligned(p, off); err != nil {
			return 0, failed("read", f.f.Name(), err)
		}
	}
	return f.f.ReadAt(p, off)
}

func (f *dirFile) WriteAt(p []byte, off int64) (int, error) {
	if f.direct {
		if err := checkAligned(p, off); err != nil {
			return 0, failed("write", f.f.Name(), err)
		}
	}
	n, err := f.f.WriteAt(p, off)
	return n, failed("write", f.f.Name(), err)
}

func (f *dirFile) Sync() error {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.closed {
		return failed("sync", f.f.Name(), fs.ErrClosed)
	}
	for {
		if err := unix.Fdatasync(f.fd); err != unix.EINTR {
			return failed("sync", f.f.Name(), err)
		}
	}
}

// WriteBack brings [off, off+n) to the disk, so that a later Sync has little to do, and waits for it: so
// whoever writes much takes turns with the syncs of others. It promises nothing.
func (f *dirFile) WriteBack(off, n int64) error {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.closed {
		return failed("write back", f.f.Name(), fs.ErrClosed)
	}
	return failed("write back", f.f.Name(), unix.SyncFileRange(f.fd, off, n,
		unix.SYNC_FILE_RANGE_WAIT_BEFORE|unix.SYNC_FILE_RANGE_WRITE|unix.SYNC_FILE_RANGE_WAIT_AFTER))
}

// WriteVAt is WriteAt of all bufs, one after the other, in as few system calls as can be. It changes bufs.
func (f *dirFile) WriteVAt(bufs [][]byte, off int64) error {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.closed {
		return failed("write", f.f.Name(), fs.ErrClosed)
	}
	for len(bufs) > 0 {
		n, err := unix.Pwritev(f.fd, bufs[:min(len(bufs), maxVector)], off)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return failed("write", f.f.Name(), err)
		}
		for off += int64(n); n > 0; {
			if n < len(bufs[0]) {
				bufs[0] = bufs[0][n:]
				break
			}
			n -= len(bufs[0])
			bufs = bufs[1:]
		}
	}
	return nil
}

// maxVector is how many pieces one pwritev takes (IOV_MAX).
const maxVector = 1024

func (f *dirFile) Truncate(size int64) error {
	if err := checkRange("truncate", f.f.Name(), size, 0); err != nil {
		return err
	}
	return failed("truncate", f.f.Name(), f.f.Truncate(size))
}

func (f *dirFile) Allocate(off, n int64) error {
	return f.fallocate("allocate", 0, off, n)
}

func (f *dirFile) PunchHole(off, n int64) error {
	return f.fallocate("punch", unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
}

func (f *dirFile) fallocate(op string, mode uint32, off, n int64) error {
	if err := checkRange(op, f.f.Name(), off, n); err != nil || n == 0 {
		return err
	}
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.closed {
		return failed(op, f.f.Name(), fs.ErrClosed)
	}
	for {
		if err := unix.Fallocate(f.fd, mode, off, n); err != unix.EINTR {
			return failed(op, f.f.Name(), err)
		}
	}
}

func (f *dirFile) Size() (int64, error) {
	info, err := f.f.Stat()
	if err != nil {
		return 0, failed("size", f.f.Name(), err)
	}
	return info.Size(), nil
}

func (f *dirFile) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	return failed("close", f.f.Name(), f.f.Close())
}

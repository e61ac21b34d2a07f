package disk

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
)

// Shadow returns an FS that shows base, and keeps everything that is written in memory: base is only read. It lets a
// program that repairs what it opens look at a disk without touching it.
func Shadow(base FS) FS {
	return &shadow{base: base, root: &shadowNode{dir: true, from: "."}}
}

// shadow guards all of its nodes with one lock.
type shadow struct {
	base FS
	mu   sync.Mutex
	root *shadowNode
}

// shadowNode is a folder or a file.
type shadowNode struct {
	dir    bool
	from   string                 // its name in base; empty if it is not from there
	listed bool                   // names has what base has
	names  map[string]*shadowNode // of a folder

	sized bool // size and limit are set
	size  int64
	limit int64                 // bytes of base's file that still show through
	pages map[int64]*[4096]byte // what was written, by page
}

func (s *shadow) fail(op, name string, err error) error {
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// list fills in the names of a folder of base.
func (s *shadow) list(n *shadowNode) error {
	if n.listed {
		return nil
	}
	n.names = map[string]*shadowNode{}
	if n.from != "" {
		entries, err := s.base.ReadDir(n.from)
		if err != nil {
			return err
		}
		for _, e := range entries {
			from := e.Name
			if n.from != "." {
				from = n.from + "/" + e.Name
			}
			n.names[e.Name] = &shadowNode{dir: e.Dir, from: from}
		}
	}
	n.listed = true
	return nil
}

// find walks to a name; it returns nil if there is none. parent is its folder.
func (s *shadow) find(op, name string) (n, parent *shadowNode, base string, err error) {
	if !fs.ValidPath(name) {
		return nil, nil, "", s.fail(op, name, fs.ErrInvalid)
	}
	n = s.root
	if name == "." {
		return n, nil, ".", nil
	}
	parts := strings.Split(name, "/")
	for i, part := range parts {
		if n == nil {
			return nil, nil, "", s.fail(op, name, fs.ErrNotExist)
		}
		if !n.dir {
			return nil, nil, "", s.fail(op, name, errNotFolder)
		}
		if err := s.list(n); err != nil {
			return nil, nil, "", err
		}
		parent, base = n, parts[i]
		n = n.names[part]
	}
	return n, parent, base, nil
}

// Open implements FS.
func (s *shadow) Open(name string, flags Flags) (File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, parent, base, err := s.find(OpOpen, name)
	switch {
	case err != nil:
		return nil, err
	case name == "." || n != nil && n.dir:
		return nil, s.fail(OpOpen, name, errIsFolder)
	case n == nil && flags&Create == 0:
		return nil, s.fail(OpOpen, name, fs.ErrNotExist)
	case n == nil:
		n = &shadowNode{sized: true, pages: map[int64]*[4096]byte{}}
		parent.names[base] = n
	}
	if !n.sized {
		below, err := s.base.Open(n.from, 0)
		if err != nil {
			return nil, err
		}
		if n.size, err = below.Size(); err != nil {
			return nil, errors.Join(err, below.Close())
		}
		if err := below.Close(); err != nil {
			return nil, err
		}
		n.limit, n.sized, n.pages = n.size, true, map[int64]*[4096]byte{}
	}
	return &shadowFile{s: s, n: n, name: name, direct: flags&Direct != 0}, nil
}

// MkdirAll implements FS.
func (s *shadow) MkdirAll(name string) error {
	if err := checkName(OpMkdir, name, true); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.root
	if name == "." {
		return nil
	}
	for part := range strings.SplitSeq(name, "/") {
		if err := s.list(n); err != nil {
			return err
		}
		next := n.names[part]
		if next == nil {
			next = &shadowNode{dir: true}
			n.names[part] = next
		}
		if !next.dir {
			return s.fail(OpMkdir, name, errNotFolder)
		}
		n = next
	}
	return nil
}

// Rename implements FS.
func (s *shadow) Rename(from, to string) error {
	for _, name := range [2]string{from, to} {
		if err := checkName(OpRename, name, false); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n, folder, base, err := s.find(OpRename, from)
	if err == nil && n == nil {
		err = s.fail(OpRename, from, fs.ErrNotExist)
	}
	if err != nil {
		return err
	}
	old, target, name, err := s.find(OpRename, to)
	switch {
	case err != nil:
		return err
	case n == old: // two names of one file: rename(2) leaves them
		return nil
	case n.dir && strings.HasPrefix(to, from+"/"):
		return s.fail(OpRename, to, fs.ErrInvalid)
	case old != nil && old.dir:
		return s.fail(OpRename, to, fs.ErrExist)
	case old != nil && n.dir:
		return s.fail(OpRename, to, errNotFolder)
	}
	delete(folder.names, base)
	target.names[name] = n
	return nil
}

// Link implements FS.
func (s *shadow) Link(from, to string) error {
	for _, name := range [2]string{from, to} {
		if err := checkName(OpLink, name, false); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n, _, _, err := s.find(OpLink, from)
	switch {
	case err != nil:
		return err
	case n == nil:
		return s.fail(OpLink, from, fs.ErrNotExist)
	case n.dir:
		return s.fail(OpLink, from, errIsFolder)
	}
	old, folder, base, err := s.find(OpLink, to)
	switch {
	case err != nil:
		return err
	case old != nil:
		return s.fail(OpLink, to, fs.ErrExist)
	}
	folder.names[base] = n
	return nil
}

// Remove implements FS.
func (s *shadow) Remove(name string) error {
	return s.remove(OpRemove, name, func(n *shadowNode) error {
		if n == nil {
			return fs.ErrNotExist
		}
		if n.dir {
			if err := s.list(n); err != nil {
				return err
			}
			if len(n.names) > 0 {
				return errNotEmpty
			}
		}
		return nil
	})
}

// RemoveAll implements FS.
func (s *shadow) RemoveAll(name string) error {
	err := s.remove(OpRemoveAll, name, func(*shadowNode) error { return nil })
	return ignoreNotExist(err)
}

func (s *shadow) remove(op, name string, allow func(*shadowNode) error) error {
	if err := checkName(op, name, false); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n, folder, base, err := s.find(op, name)
	if err != nil {
		return err
	}
	if err := allow(n); err != nil {
		return s.fail(op, name, err)
	}
	delete(folder.names, base)
	return nil
}

// ReadDir implements FS.
func (s *shadow) ReadDir(name string) ([]Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.folder(OpReadDir, name)
	if err != nil {
		return nil, err
	}
	sizes := map[string]int64{}
	if n.from != "" {
		below, err := s.base.ReadDir(n.from)
		if err != nil {
			return nil, err
		}
		for _, e := range below {
			sizes[e.Name] = e.Bytes
		}
	}
	entries := make([]Entry, 0, len(n.names))
	for _, base := range slices.Sorted(maps.Keys(n.names)) {
		child := n.names[base]
		bytes := child.size
		if !child.sized {
			bytes = sizes[base]
		}
		entries = append(entries, Entry{Name: base, Dir: child.dir, Bytes: bytes})
	}
	return entries, nil
}

// SyncDir implements FS.
func (s *shadow) SyncDir(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := s.folder(OpSyncDir, name)
	return err
}

func (s *shadow) folder(op, name string) (*shadowNode, error) {
	n, _, _, err := s.find(op, name)
	switch {
	case err != nil:
		return nil, err
	case n == nil:
		return nil, s.fail(op, name, fs.ErrNotExist)
	case !n.dir:
		return nil, s.fail(op, name, errNotFolder)
	}
	return n, s.list(n)
}

// shadowFile is an open file of a shadow.
type shadowFile struct {
	s      *shadow
	n      *shadowNode
	name   string
	direct bool
	closed bool // guarded by s.mu
	below  File // of base, for reading
}

// enter takes the lock, unless the file is closed.
func (f *shadowFile) enter(op string) error {
	f.s.mu.Lock()
	if f.closed {
		f.s.mu.Unlock()
		return f.s.fail(op, f.name, fs.ErrClosed)
	}
	return nil
}

func (f *shadowFile) transfer(op string, p []byte, off int64) error {
	if err := checkRange(op, f.name, off, int64(len(p))); err != nil {
		return err
	}
	if f.direct {
		if err := checkAligned(p, off); err != nil {
			return f.s.fail(op, f.name, err)
		}
	}
	return f.enter(op)
}

// ReadAt implements File.
func (f *shadowFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.transfer(OpRead, p, off); err != nil {
		return 0, err
	}
	defer f.s.mu.Unlock()
	n := int(max(0, min(int64(len(p)), f.n.size-off)))
	if err := f.read(p[:n], off); err != nil {
		return 0, err
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// read reads what is within the size.
func (f *shadowFile) read(p []byte, off int64) error {
	clear(p)
	if n := min(int64(len(p)), f.n.limit-off); n > 0 {
		if f.below == nil {
			var err error
			if f.below, err = f.s.base.Open(f.n.from, 0); err != nil {
				return err
			}
		}
		if _, err := f.below.ReadAt(p[:n], off); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	for at := off / 4096; at*4096 < off+int64(len(p)); at++ {
		if pg := f.n.pages[at]; pg != nil {
			lo, hi := max(off, at*4096), min(off+int64(len(p)), (at+1)*4096)
			copy(p[lo-off:hi-off], pg[lo-at*4096:])
		}
	}
	return nil
}

// page returns a page to be written to, with what it shows now.
func (f *shadowFile) page(at int64) (*[4096]byte, error) {
	pg := f.n.pages[at]
	if pg == nil {
		pg = new([4096]byte)
		if n := min(4096, f.n.size-at*4096); n > 0 {
			if err := f.read(pg[:n], at*4096); err != nil {
				return nil, err
			}
		}
		f.n.pages[at] = pg
	}
	return pg, nil
}

// WriteAt implements File.
func (f *shadowFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.transfer(OpWrite, p, off); err != nil {
		return 0, err
	}
	defer f.s.mu.Unlock()
	if err := f.put(off, int64(len(p)), func(dst []byte, from int64) { copy(dst, p[from-off:]) }); err != nil {
		return 0, err
	}
	if len(p) > 0 {
		f.n.size = max(f.n.size, off+int64(len(p)))
	}
	return len(p), nil
}

// put has fill change the pages of a range.
func (f *shadowFile) put(off, n int64, fill func(dst []byte, from int64)) error {
	for at := off / 4096; at*4096 < off+n; at++ {
		pg, err := f.page(at)
		if err != nil {
			return err
		}
		lo, hi := max(off, at*4096), min(off+n, (at+1)*4096)
		fill(pg[lo-at*4096:hi-at*4096], lo)
	}
	return nil
}

// Sync implements File.
func (f *shadowFile) Sync() error {
	err := f.enter(OpSync)
	if err == nil {
		f.s.mu.Unlock()
	}
	return err
}

// Truncate implements File.
func (f *shadowFile) Truncate(size int64) error {
	if err := checkRange(OpTruncate, f.name, 0, size); err != nil {
		return err
	}
	if err := f.enter(OpTruncate); err != nil {
		return err
	}
	defer f.s.mu.Unlock()
	if size < f.n.size {
		f.n.limit = min(f.n.limit, size)
		for at, pg := range f.n.pages {
			if at*4096 >= size {
				delete(f.n.pages, at)
			} else if (at+1)*4096 > size {
				clear(pg[size-at*4096:])
			}
		}
	}
	f.n.size = size
	return nil
}

// Allocate implements File.
func (f *shadowFile) Allocate(off, n int64) error {
	if err := checkRange(OpAllocate, f.name, off, n); err != nil {
		return err
	}
	if err := f.enter(OpAllocate); err != nil {
		return err
	}
	defer f.s.mu.Unlock()
	if n > 0 {
		f.n.size = max(f.n.size, off+n)
	}
	return nil
}

// PunchHole implements File.
func (f *shadowFile) PunchHole(off, n int64) error {
	if err := checkRange(OpPunch, f.name, off, n); err != nil {
		return err
	}
	if err := f.enter(OpPunch); err != nil {
		return err
	}
	defer f.s.mu.Unlock()
	return f.put(off, min(n, f.n.size-off), func(dst []byte, _ int64) { clear(dst) })
}

// Size implements File.
func (f *shadowFile) Size() (int64, error) {
	if err := f.enter(OpSize); err != nil {
		return 0, err
	}
	defer f.s.mu.Unlock()
	return f.n.size, nil
}

// Close implements File.
func (f *shadowFile) Close() error {
	if err := f.enter("close"); err != nil {
		return err
	}
	defer f.s.mu.Unlock()
	f.closed = true
	if f.below != nil {
		return f.below.Close()
	}
	return nil
}

package disk

import (
	"fmt"
	"io"
	"io/fs"
)

// pageSize is the unit in which a Mem stores file data, in bytes.
const pageSize = 4096

type page [pageSize]byte

// file is the content of a file and what of it is not durable yet.
//
// A change never alters a page: it puts a new one in its place and keeps the old one in undo, so
// that Sync has only to forget the old ones, and Crash can go back to what was durable.
type file struct {
	pages map[int64]*page // by offset / pageSize; absent is a hole, nil a reserved page
	size  int64           // bytes
	links int             // names of the file; 0 once it is removed

	changes []change // not durable yet, oldest first
	undo    []oldPage
	doomed  bool // a Sync failed: some of the changes are not going to be durable
}

// change is one call that changed a file. Its old pages follow those of the change before.
type change struct {
	op     string // OpWrite, OpTruncate, OpAllocate or OpPunch
	off, n int64  // what was asked for; of OpTruncate, off is the new size
	size   int64  // the size before
	pages  int    // entries of undo that belong to it
	fate   outcome
}

// outcome is what is known of a change that is not forgotten yet.
type outcome uint8

const (
	open   outcome = iota // a crash decides
	doomed                // a Sync failed: it is shown, and lost
	synced                // by a later Sync; it is remembered because of doomed ones before it
)

// oldPage is what was in a file before a change.
type oldPage struct {
	at     int64 // offset / pageSize
	hole   bool  // there was a hole; otherwise old, which is nil for a reserved page
	old    *page
	lo, hi int // the bytes of the page that an OpWrite set
}

// memFile is an open file of a Mem.
type memFile struct {
	m      *Mem
	n      *node
	name   string
	power  uint64
	direct bool
	closed bool
}

// enter admits an operation and takes the lock, which is held if it succeeds.
func (f *memFile) enter(op string) error {
	if err := f.m.admit(op, f.name); err != nil {
		if op == OpSync {
			f.doom()
		}
		return err
	}
	f.m.mu.Lock()
	if err := f.usable(op); err != nil {
		f.m.mu.Unlock()
		return err
	}
	return nil
}

func (f *memFile) usable(op string) error {
	switch {
	case f.closed:
		return &fs.PathError{Op: op, Path: f.name, Err: fs.ErrClosed}
	case f.power != f.m.power:
		return &fs.PathError{Op: op, Path: f.name, Err: ErrCrashed}
	}
	return nil
}

// doom lets the file's unsynced changes never become durable, as after a failed fdatasync; what is written later can.
func (f *memFile) doom() {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if f.usable(OpSync) == nil && len(f.n.changes) > 0 {
		f.n.doomed = true
		f.n.settle(doomed)
	}
}

// settle decides what becomes of the changes of which that is open.
func (n *node) settle(fate outcome) {
	for i := range n.changes {
		if c := &n.changes[i]; c.fate == open {
			c.fate = fate
		}
	}
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.checkTransfer(OpRead, p, off); err != nil {
		return 0, err
	}
	if err := f.enter(OpRead); err != nil {
		return 0, err
	}
	defer f.m.mu.Unlock()
	n := max(0, min(int64(len(p)), f.n.size-off))
	for done := int64(0); done < n; {
		at, lo := (off+done)/pageSize, (off+done)%pageSize
		part := p[done:min(n, done+pageSize-lo)]
		if pg := f.n.pages[at]; pg != nil {
			copy(part, pg[lo:])
		} else {
			clear(part)
		}
		done += int64(len(part))
	}
	if n < int64(len(p)) {
		return int(n), io.EOF
	}
	return int(n), nil
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.checkTransfer(OpWrite, p, off); err != nil {
		return 0, err
	}
	if err := f.enter(OpWrite); err != nil {
		return 0, err
	}
	defer f.m.mu.Unlock()
	if len(p) == 0 {
		return 0, nil
	}
	if err := f.m.room(f.n, off, int64(len(p))); err != nil {
		return 0, &fs.PathError{Op: OpWrite, Path: f.name, Err: err}
	}
	f.m.begin(f.n, OpWrite, off, int64(len(p)))
	f.m.write(f.n, p, off)
	return len(p), nil
}

func (f *memFile) checkTransfer(op string, p []byte, off int64) error {
	if err := checkRange(op, f.name, off, int64(len(p))); err != nil || !f.direct {
		return err
	}
	if err := checkAligned(p, off); err != nil {
		return &fs.PathError{Op: op, Path: f.name, Err: err}
	}
	return nil
}

func (f *memFile) Sync() error {
	if err := f.enter(OpSync); err != nil {
		return err
	}
	defer f.m.mu.Unlock()
	if f.n.doomed {
		f.n.settle(synced)
	} else {
		f.m.forget(f.n)
	}
	return nil
}

func (f *memFile) Truncate(size int64) error {
	if err := checkRange(OpTruncate, f.name, size, 0); err != nil {
		return err
	}
	if err := f.enter(OpTruncate); err != nil {
		return err
	}
	defer f.m.mu.Unlock()
	if size == f.n.size {
		return nil
	}
	f.m.begin(f.n, OpTruncate, size, 0)
	f.m.truncate(f.n, size)
	return nil
}

func (f *memFile) Allocate(off, n int64) error {
	if err := checkRange(OpAllocate, f.name, off, n); err != nil {
		return err
	}
	if err := f.enter(OpAllocate); err != nil {
		return err
	}
	defer f.m.mu.Unlock()
	if n == 0 {
		return nil
	}
	if err := f.m.room(f.n, off, n); err != nil {
		return &fs.PathError{Op: OpAllocate, Path: f.name, Err: err}
	}
	f.m.begin(f.n, OpAllocate, off, n)
	f.m.reserve(f.n, off, n)
	return nil
}

func (f *memFile) PunchHole(off, n int64) error {
	if err := checkRange(OpPunch, f.name, off, n); err != nil {
		return err
	}
	if err := f.enter(OpPunch); err != nil {
		return err
	}
	defer f.m.mu.Unlock()
	f.m.begin(f.n, OpPunch, off, n)
	f.m.punch(f.n, off, n)
	return nil
}

func (f *memFile) Size() (int64, error) {
	if err := f.enter(OpSize); err != nil {
		return 0, err
	}
	defer f.m.mu.Unlock()
	return f.n.size, nil
}

// Close succeeds after a crash too: there is nothing that could go wrong.
func (f *memFile) Close() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if f.closed {
		return &fs.PathError{Op: "close", Path: f.name, Err: fs.ErrClosed}
	}
	f.closed = true
	return nil
}

// room checks that the disk holds the pages of [off, off+n) that the file does not have yet.
func (m *Mem) room(n *node, off, bytes int64) error {
	if m.capacity == 0 || n.links == 0 {
		return nil
	}
	need := int64(0)
	for at := off / pageSize; at*pageSize < off+bytes; at++ {
		if _, ok := n.pages[at]; !ok {
			need += pageSize
		}
	}
	if need > 0 && m.used+need > m.capacity {
		return fmt.Errorf("%w: %d of %d bytes in use", ErrNoSpace, m.used, m.capacity)
	}
	return nil
}

// begin opens the record of a change; put and drop then fill it.
func (m *Mem) begin(n *node, op string, off, bytes int64) {
	if len(n.changes) == 0 {
		m.dirty = append(m.dirty, n)
	}
	n.changes = append(n.changes, change{op: op, off: off, n: bytes, size: n.size})
}

// put places a page (nil: a reservation) and remembers what was there. [lo, hi) is what it set.
func (m *Mem) put(n *node, at int64, pg *page, lo, hi int) {
	old, was := n.pages[at]
	n.pages[at] = pg
	if !was {
		m.charge(n, pageSize)
	}
	n.remember(oldPage{at, !was, old, lo, hi})
}

// drop makes a hole and remembers what was there.
func (m *Mem) drop(n *node, at int64) {
	old := n.pages[at]
	delete(n.pages, at)
	m.charge(n, -pageSize)
	n.remember(oldPage{at: at, old: old})
}

func (n *node) remember(old oldPage) {
	n.undo = append(n.undo, old)
	n.changes[len(n.changes)-1].pages++
}

func (m *Mem) charge(n *node, bytes int64) {
	if n.links > 0 {
		m.used += bytes
	}
}

// set places a page that has the bytes p at offset lo and otherwise what was there before.
func (m *Mem) set(n *node, at int64, p []byte, lo int) {
	pg := m.newPage()
	if len(p) < pageSize {
		if old := n.pages[at]; old != nil {
			*pg = *old
		} else {
			clear(pg[:])
		}
	}
	copy(pg[lo:], p)
	m.put(n, at, pg, lo, lo+len(p))
}

func (m *Mem) write(n *node, p []byte, off int64) {
	n.size = max(n.size, off+int64(len(p)))
	for len(p) > 0 {
		lo := int(off % pageSize)
		part := p[:min(len(p), pageSize-lo)]
		m.set(n, off/pageSize, part, lo)
		p, off = p[len(part):], off+int64(len(part))
	}
}

func (m *Mem) reserve(n *node, off, bytes int64) {
	n.size = max(n.size, off+bytes)
	for at := off / pageSize; at*pageSize < off+bytes; at++ {
		if _, ok := n.pages[at]; !ok {
			m.put(n, at, nil, 0, 0)
		}
	}
}

func (m *Mem) truncate(n *node, size int64) {
	if size < n.size {
		m.punch(n, size, n.size-size)
		for at := range n.pages { // what Allocate reserved beyond the old size is freed as well
			if at*pageSize >= size {
				m.drop(n, at)
			}
		}
	}
	n.size = size
}

func (m *Mem) punch(n *node, off, bytes int64) {
	end := min(off+bytes, n.size)
	for off < end {
		at, lo := off/pageSize, int(off%pageSize)
		hi := int(min(pageSize, int64(lo)+end-off))
		pg, ok := n.pages[at]
		switch whole := lo == 0 && (hi == pageSize || off+int64(hi) == n.size); {
		case ok && whole:
			m.drop(n, at)
		case pg != nil:
			m.set(n, at, m.zeros[:hi-lo], lo)
		}
		off += int64(hi - lo)
	}
}

func (m *Mem) newPage() *page {
	if k := len(m.spare); k > 0 {
		pg := m.spare[k-1]
		m.spare = m.spare[:k-1]
		return pg
	}
	return new(page)
}

func (m *Mem) release(pg *page) {
	if pg != nil && len(m.spare) < sparePages {
		m.spare = append(m.spare, pg)
	}
}

// forget makes what the file holds durable: there is no way back to what it held before.
func (m *Mem) forget(n *node) {
	for i := range n.undo {
		m.release(n.undo[i].old)
		n.undo[i].old = nil
	}
	if len(n.changes) > 0 {
		for i, d := range m.dirty {
			if d == n {
				m.dirty = append(m.dirty[:i], m.dirty[i+1:]...)
				break
			}
		}
	}
	n.changes, n.undo, n.doomed = n.changes[:0], n.undo[:0], false
}

package disk

import (
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
)

// Mem is a disk in memory, for tests and for the simulator. It is an FS, and it keeps apart what
// is written and what is durable:
//
//   - what a file's Sync did not reach yet, and names that SyncDir of their folder did not reach
//     yet, may be lost by Crash, and only by Crash;
//   - a rename is one change: after a crash it took place or it did not. It is durable when the
//     folders of both names were synced;
//   - changes of one name stay in order: a later one never survives without the earlier one;
//   - a Sync that was made to fail loses the file's changes the way an operating system does: they
//     stay readable, and no later Sync makes them durable; what is written anew is.
//
// Faults come in through SetHook, FailAfter and SetCapacity. A Mem draws randomness only from the
// generator handed to Crash: equal calls give equal disks.
type Mem struct {
	mu       sync.Mutex
	root     *node
	power    uint64    // how often the open handles died
	journal  []*rename // changes of names that are not durable yet, oldest first
	dirty    []*node   // files with changes that are not durable yet, in the order they became so
	capacity int64     // bytes; 0 is unlimited
	used     int64     // bytes
	spare    []*page
	zeros    page // never written

	hook func(op, name string) error
	left int   // changes until failing
	fail error // what every call then returns; nil: FailAfter is not in force
}

// sparePages bounds the pages kept for reuse, 16 MiB.
const sparePages = 4096

// The operations that a hook is told of. Those that change nothing are not counted by FailAfter.
const (
	OpOpen      = "open"
	OpMkdir     = "mkdir"
	OpRename    = "rename"
	OpLink      = "link"
	OpRemove    = "remove"
	OpRemoveAll = "removeall"
	OpReadDir   = "readdir" // changes nothing
	OpSyncDir   = "syncdir"
	OpRead      = "read" // changes nothing
	OpWrite     = "write"
	OpSync      = "sync"
	OpTruncate  = "truncate"
	OpAllocate  = "allocate"
	OpPunch     = "punch"
	OpSize      = "size"  // changes nothing
	OpSpace     = "space" // changes nothing
)

// node is a folder or a file.
type node struct {
	names map[string]*node   // a folder's names; nil for a file
	last  map[string]*rename // the newest change of a name that is not durable yet
	file
}

// NewMem returns an empty disk without limits.
func NewMem() *Mem {
	return &Mem{root: newFolder()}
}

func newFolder() *node {
	return &node{names: map[string]*node{}, last: map[string]*rename{}}
}

func newFile() *node {
	return &node{file: file{pages: map[int64]*page{}}}
}

func (n *node) folder() bool { return n.names != nil }

// SetHook makes f see every operation before it takes place: op is one of the Op constants, name
// the file or folder (of a rename, the old name). An error of f becomes the operation's, which
// then does nothing; a failing OpSync also loses the file's unsynced changes for good. f may call
// Crash and KillProcess, and may be called by several goroutines at once. Nil removes the hook.
func (m *Mem) SetHook(f func(op, name string) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hook = f
}

// FailAfter lets n more changes happen (operations that only read are not counted) and makes every
// operation after them fail with err. A nil err takes that back, and so do Crash and KillProcess.
// With ErrCrashed, and Crash once the code under test has given up, this is a power cut at the
// n-th change.
func (m *Mem) FailAfter(n int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.left, m.fail = n, err
}

// SetCapacity limits the disk to the given number of bytes, counted in whole 4 KiB pages of file
// data that was written or reserved. 0 takes the limit away.
func (m *Mem) SetCapacity(bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.capacity = bytes
}

// Used returns the bytes that SetCapacity limits.
func (m *Mem) Used() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.used
}

// Space implements Spacer. A disk without a limit has room for 1 EiB.
func (m *Mem) Space() (free, total int64, err error) {
	if err := m.admit(OpSpace, "."); err != nil {
		return 0, 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.capacity == 0 {
		return 1 << 60, 1 << 60, nil
	}
	return max(0, m.capacity-m.used), m.capacity, nil
}

// KillProcess ends the process that uses the disk: handles that are open return ErrCrashed from
// now on; everything that was written is there, but no more durable than it was.
func (m *Mem) KillProcess() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reboot()
}

// reboot makes the open handles useless and ends FailAfter.
func (m *Mem) reboot() {
	m.power++
	m.left, m.fail = 0, nil
}

// admit asks whoever injects faults about an operation. It is called without the lock, so that a
// hook may call back.
func (m *Mem) admit(op, name string) error {
	m.mu.Lock()
	hook, err := m.hook, error(nil)
	if m.fail != nil {
		if m.left <= 0 {
			err = m.fail
		} else if op != OpRead && op != OpReadDir && op != OpSize && op != OpSpace {
			m.left--
		}
	}
	m.mu.Unlock()
	if err == nil && hook != nil {
		err = hook(op, name)
	}
	if err != nil {
		return &fs.PathError{Op: op, Path: name, Err: err}
	}
	return nil
}

// Open implements FS.
func (m *Mem) Open(name string, flags Flags) (File, error) {
	if err := checkName(OpOpen, name, false); err != nil {
		return nil, err
	}
	if err := m.admit(OpOpen, name); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	folder, base, err := m.parent(OpOpen, name)
	if err != nil {
		return nil, err
	}
	n := folder.names[base]
	switch {
	case n == nil && flags&Create == 0:
		return nil, &fs.PathError{Op: OpOpen, Path: name, Err: fs.ErrNotExist}
	case n == nil:
		n = newFile()
		m.change(slot{folder, base, nil, n})
	case n.folder():
		return nil, &fs.PathError{Op: OpOpen, Path: name, Err: errIsFolder}
	}
	return &memFile{m: m, n: n, name: name, power: m.power, direct: flags&Direct != 0}, nil
}

// MkdirAll implements FS.
func (m *Mem) MkdirAll(name string) error {
	if err := checkName(OpMkdir, name, true); err != nil {
		return err
	}
	if err := m.admit(OpMkdir, name); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	folder := m.root
	for rest := name; rest != "" && name != "."; {
		var base string
		base, rest, _ = strings.Cut(rest, "/")
		n := folder.names[base]
		if n == nil {
			n = newFolder()
			m.change(slot{folder, base, nil, n})
		} else if !n.folder() {
			return &fs.PathError{Op: OpMkdir, Path: name, Err: errNotFolder}
		}
		folder = n
	}
	return nil
}

// Rename implements FS. What it replaces must be a file.
func (m *Mem) Rename(from, to string) error {
	for _, name := range [2]string{from, to} {
		if err := checkName(OpRename, name, false); err != nil {
			return err
		}
	}
	if err := m.admit(OpRename, from); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	fromFolder, fromBase, err := m.parent(OpRename, from)
	if err != nil {
		return err
	}
	toFolder, toBase, err := m.parent(OpRename, to)
	if err != nil {
		return err
	}
	moved, replaced := fromFolder.names[fromBase], toFolder.names[toBase]
	if moved == nil {
		return &fs.PathError{Op: OpRename, Path: from, Err: fs.ErrNotExist}
	}
	if moved == replaced { // two names of one file: rename(2) leaves them
		return nil
	}
	if moved.folder() && strings.HasPrefix(to, from+"/") {
		return &fs.PathError{Op: OpRename, Path: to, Err: fmt.Errorf("inside of %s: %w", from, fs.ErrInvalid)}
	}
	if replaced != nil && replaced.folder() {
		return &fs.PathError{Op: OpRename, Path: to, Err: fs.ErrExist}
	}
	if replaced != nil && moved.folder() {
		return &fs.PathError{Op: OpRename, Path: to, Err: errNotFolder}
	}
	m.change(slot{fromFolder, fromBase, moved, nil}, slot{toFolder, toBase, replaced, moved})
	return nil
}

// Link implements FS.
func (m *Mem) Link(from, to string) error {
	for _, name := range [2]string{from, to} {
		if err := checkName(OpLink, name, false); err != nil {
			return err
		}
	}
	if err := m.admit(OpLink, from); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.lookup(OpLink, from)
	if err != nil {
		return err
	}
	folder, base, err := m.parent(OpLink, to)
	if err != nil {
		return err
	}
	switch {
	case n.folder():
		return &fs.PathError{Op: OpLink, Path: from, Err: errIsFolder}
	case folder.names[base] != nil:
		return &fs.PathError{Op: OpLink, Path: to, Err: fs.ErrExist}
	}
	m.change(slot{folder, base, nil, n})
	return nil
}

// Remove implements FS. A folder must be empty.
func (m *Mem) Remove(name string) error {
	if err := checkName(OpRemove, name, false); err != nil {
		return err
	}
	if err := m.admit(OpRemove, name); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	folder, base, err := m.parent(OpRemove, name)
	if err != nil {
		return err
	}
	n := folder.names[base]
	if n == nil {
		return &fs.PathError{Op: OpRemove, Path: name, Err: fs.ErrNotExist}
	}
	if len(n.names) > 0 {
		return &fs.PathError{Op: OpRemove, Path: name, Err: errNotEmpty}
	}
	m.change(slot{folder, base, n, nil})
	return nil
}

// RemoveAll implements FS. A name that does not exist is no error.
func (m *Mem) RemoveAll(name string) error {
	if err := checkName(OpRemoveAll, name, false); err != nil {
		return err
	}
	if err := m.admit(OpRemoveAll, name); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	folder, base, err := m.parent(OpRemoveAll, name)
	if err != nil || folder.names[base] == nil {
		return ignoreNotExist(err)
	}
	m.removeAll(folder, base)
	return nil
}

func (m *Mem) removeAll(folder *node, base string) {
	n := folder.names[base]
	for _, child := range slices.Sorted(maps.Keys(n.names)) {
		m.removeAll(n, child)
	}
	m.change(slot{folder, base, n, nil})
}

// ReadDir implements FS.
func (m *Mem) ReadDir(name string) ([]Entry, error) {
	n, err := m.openFolder(OpReadDir, name)
	if err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	entries := make([]Entry, 0, len(n.names))
	for base, child := range n.names {
		entries = append(entries, Entry{Name: base, Dir: child.folder(), Bytes: child.size})
	}
	slices.SortFunc(entries, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	return entries, nil
}

// SyncDir implements FS.
func (m *Mem) SyncDir(name string) error {
	n, err := m.openFolder(OpSyncDir, name)
	if err != nil {
		return err
	}
	defer m.mu.Unlock()
	m.syncFolder(n)
	return nil
}

// openFolder looks up a folder. If it succeeds the lock is held.
func (m *Mem) openFolder(op, name string) (*node, error) {
	if err := checkName(op, name, true); err != nil {
		return nil, err
	}
	if err := m.admit(op, name); err != nil {
		return nil, err
	}
	m.mu.Lock()
	n, err := m.lookup(op, name)
	if err == nil && !n.folder() {
		err = &fs.PathError{Op: op, Path: name, Err: errNotFolder}
	}
	if err != nil {
		m.mu.Unlock()
		return nil, err
	}
	return n, nil
}

// parent returns the folder that holds the last part of name, and that part.
func (m *Mem) parent(op, name string) (*node, string, error) {
	i := strings.LastIndexByte(name, '/')
	if i < 0 {
		return m.root, name, nil
	}
	n, err := m.lookup(op, name[:i])
	if err == nil && !n.folder() {
		err = &fs.PathError{Op: op, Path: name, Err: errNotFolder}
	}
	return n, name[i+1:], err
}

func (m *Mem) lookup(op, name string) (*node, error) {
	n := m.root
	for rest := name; rest != "" && name != "."; {
		var base string
		base, rest, _ = strings.Cut(rest, "/")
		if !n.folder() {
			return nil, &fs.PathError{Op: op, Path: name, Err: errNotFolder}
		}
		if n = n.names[base]; n == nil {
			return nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
		}
	}
	return n, nil
}

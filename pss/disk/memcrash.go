package disk

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"slices"
)

// SectorSize is what a disk writes whole or not at all, in bytes.
const SectorSize = 512

var (
	errIsFolder  = errors.New("is a folder")
	errNotFolder = errors.New("not a folder")
	errNotEmpty  = errors.New("folder not empty")
)

func ignoreNotExist(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// slot is a name in a folder and its change from one node to another; nil is no such name.
type slot struct {
	folder *node
	base   string
	from   *node
	to     *node
}

// rename is a change of one name, or of two at once, that is not durable yet.
type rename struct {
	slots   []slot
	synced  [2]bool    // slots whose folder was synced since
	after   [2]*rename // the changes of the same names before it, if they were not durable then
	durable bool
	chosen  bool // by Crash, to survive
}

// change makes a change of names and puts it in the journal.
func (m *Mem) change(slots ...slot) {
	r := &rename{slots: slots}
	for i, s := range slots {
		r.after[i] = s.folder.last[s.base]
		s.folder.last[s.base] = r
		m.setName(s.folder, s.base, s.to)
	}
	m.journal = append(m.journal, r)
}

func (m *Mem) setName(folder *node, base string, to *node) {
	if old := folder.names[base]; old != nil {
		m.link(old, -1)
	}
	if to == nil {
		delete(folder.names, base)
		return
	}
	folder.names[base] = to
	m.link(to, 1)
}

// link counts the names of a file; one without a name takes no space.
func (m *Mem) link(n *node, by int) {
	bytes := int64(len(n.pages)) * pageSize
	if n.links == 0 {
		m.used += bytes
	}
	if n.links += by; n.links == 0 {
		m.used -= bytes
	}
}

// syncFolder makes the changes of names in a folder durable, as far as they have no part elsewhere.
func (m *Mem) syncFolder(folder *node) {
	for _, r := range m.journal {
		all := true
		for i, s := range r.slots {
			r.synced[i] = r.synced[i] || s.folder == folder
			all = all && r.synced[i]
		}
		if all {
			r.commit()
		}
	}
	m.journal = slices.DeleteFunc(m.journal, func(r *rename) bool { return r.durable })
	if len(m.journal) == 0 {
		m.dropRemoved()
	}
}

// commit makes a change of names durable, and with it what went before.
func (r *rename) commit() {
	if r == nil || r.durable {
		return
	}
	r.durable = true
	for i, s := range r.slots {
		r.after[i].commit()
		r.after[i] = nil
		if s.folder.last[s.base] == r {
			delete(s.folder.last, s.base)
		}
	}
}

// dropRemoved forgets the changes of files that no crash can bring back.
func (m *Mem) dropRemoved() {
	m.dirty = slices.DeleteFunc(m.dirty, func(n *node) bool {
		if n.links > 0 {
			return false
		}
		n.changes, n.undo = nil, nil
		return true
	})
}

// Crash cuts the power. Of the writes and other changes of each file since its last Sync a random
// part survives, in any combination; a surviving write may be torn into sectors of SectorSize.
// Of the changes of names that are not durable a random part survives too, see Mem. Open handles
// return ErrCrashed from now on; the disk itself can be used at once, and all it holds is durable.
// A nil rng loses everything that was not durable.
func (m *Mem) Crash(rng *rand.Rand) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reboot()
	f := fate{rng: rng}
	if rng != nil {
		f.mood = rng.IntN(8)
	}
	m.crashNames(f)
	for _, n := range m.dirty {
		m.crashFile(n, f)
	}
	m.dirty = m.dirty[:0]
	m.used = m.measure(m.root, map[*node]bool{})
}

// fate decides what survives. In some crashes everything does, or nothing.
type fate struct {
	rng  *rand.Rand
	mood int
}

const (
	moodLoseAll = iota
	moodKeepAll
)

func (f fate) survives() bool {
	switch {
	case f.rng == nil || f.mood == moodLoseAll:
		return false
	case f.mood == moodKeepAll:
		return true
	}
	return f.rng.IntN(2) == 0
}

// tears says whether a surviving write is torn, and if so in which way: all is lost from some
// sector on, or each sector has its own luck.
func (f fate) tears() (torn, random bool) {
	if f.mood == moodKeepAll {
		return false, false
	}
	k := f.rng.IntN(6)
	return k < 2, k == 0
}

// crashNames goes back to the durable names and makes the surviving changes again.
func (m *Mem) crashNames(f fate) {
	for _, r := range slices.Backward(m.journal) {
		for _, s := range r.slots {
			m.setName(s.folder, s.base, s.from)
			delete(s.folder.last, s.base)
		}
	}
	for _, r := range m.journal {
		r.chosen = f.survives()
		for _, before := range r.after {
			r.chosen = r.chosen && (before == nil || before.durable || before.chosen)
		}
		if !r.chosen {
			continue
		}
		for _, s := range r.slots {
			m.setName(s.folder, s.base, s.to)
		}
	}
	m.journal = m.journal[:0]
}

// crashFile goes back to the file's durable content and makes the surviving changes again.
func (m *Mem) crashFile(n *node, f fate) {
	changes, undo := n.changes, n.undo
	rest := len(undo)
	for _, c := range slices.Backward(changes) {
		for range c.pages {
			rest--
			o := &undo[rest]
			written := n.pages[o.at]
			if o.hole {
				delete(n.pages, o.at)
			} else {
				n.pages[o.at] = o.old
			}
			o.old = written // from here on old is what the change had put there
		}
		n.size = c.size
	}
	n.changes, n.undo, n.doomed = nil, nil, false
	for _, c := range changes {
		pages := undo[:c.pages]
		undo = undo[c.pages:]
		switch {
		case c.fate == synced:
			m.redo(n, c, pages, fate{mood: moodKeepAll})
		case c.fate == open && f.survives():
			m.redo(n, c, pages, f)
		}
		for _, o := range pages {
			m.release(o.old)
		}
	}
	n.changes, n.undo = changes[:0], nil
}

// redo makes a surviving change again.
func (m *Mem) redo(n *node, c change, pages []oldPage, f fate) {
	n.changes = append(n.changes[:0], change{}) // what the change puts or drops is remembered and forgotten
	n.undo = n.undo[:0]
	switch c.op {
	case OpTruncate:
		m.truncate(n, c.off)
	case OpAllocate:
		m.reserve(n, c.off, c.n)
	case OpPunch:
		m.punch(n, c.off, c.n)
	case OpWrite:
		m.rewrite(n, c, pages, f)
	}
	for _, o := range n.undo {
		m.release(o.old)
	}
	n.changes, n.undo = nil, n.undo[:0]
}

// rewrite makes a surviving write again, or those of its sectors that survive.
func (m *Mem) rewrite(n *node, c change, pages []oldPage, f fate) {
	torn, random := f.tears()
	sectors := (c.off+c.n-1)/SectorSize - c.off/SectorSize + 1
	keep := sectors
	if torn && !random {
		keep = f.rng.Int64N(sectors + 1)
	}
	for i := range sectors {
		if i >= keep || (random && f.rng.IntN(2) == 0) {
			continue
		}
		from := max(c.off, (c.off/SectorSize+i)*SectorSize)
		to := min(c.off+c.n, (c.off/SectorSize+i+1)*SectorSize)
		at := from / pageSize
		written := pages[at-c.off/pageSize].old
		m.write(n, written[from-at*pageSize:to-at*pageSize], from)
	}
}

// measure adds up the space of the files below a folder, each of which counts once.
func (m *Mem) measure(folder *node, counted map[*node]bool) int64 {
	sum := int64(0)
	for _, n := range folder.names {
		if n.links > 1 {
			if counted[n] {
				continue
			}
			counted[n] = true
		}
		sum += int64(len(n.pages)) * pageSize
		if n.folder() {
			sum += m.measure(n, counted)
		}
	}
	return sum
}

package store

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
)

// recovery is what Open does about the files it finds.
type recovery uint8

const (
	recoverNew    recovery = iota + 1 // nothing is there: an empty store
	recoverUse                        // the checkpoint stands for the chunk files
	recoverRedo                       // a flush or an installation began to change chunk files: do it again
	recoverDone                       // one ended, and the old name of its file came back: remove it
	recoverRefuse                     // files are missing that no crash takes away
)

// recoveryState is what the decision is made of. `prepared` gets its name only when it is complete
// and durable, so that one that can't be read is damage and not the trace of a crash; and chunk
// files are touched only when it has its name.
type recoveryState struct {
	checkpoint, prepared bool
	data                 bool // there are folders of objects

	// The sequence number of prepared compared to that of the checkpoint, or to 0 without one: 1 if
	// it is the next one, -1 if it is not larger, 2 if it is larger yet. 0 without prepared.
	next int
}

// recoveryRule is a row of the table. Exactly one row matches each state.
type recoveryRule struct {
	name  string
	do    recovery
	match func(recoveryState) bool
}

func recoveryTable() []recoveryRule {
	return []recoveryRule{
		{"nothing", recoverNew,
			func(s recoveryState) bool { return !s.checkpoint && !s.prepared && !s.data }},
		{"data without a checkpoint", recoverRefuse,
			func(s recoveryState) bool { return !s.checkpoint && !s.prepared && s.data }},
		{"checkpoint", recoverUse,
			func(s recoveryState) bool { return s.checkpoint && !s.prepared }},
		{"prepared follows", recoverRedo,
			func(s recoveryState) bool { return s.prepared && s.next == 1 }},
		{"prepared is old", recoverDone,
			func(s recoveryState) bool { return s.checkpoint && s.prepared && s.next < 1 }},
		{"checkpoint is missing", recoverRefuse,
			func(s recoveryState) bool { return !s.checkpoint && s.prepared && s.next != 1 }},
		{"checkpoint is old", recoverRefuse,
			func(s recoveryState) bool { return s.checkpoint && s.prepared && s.next > 1 }},
	}
}

// decide looks the state up.
func decide(st recoveryState) (recoveryRule, bool) {
	for _, r := range recoveryTable() {
		if r.match(st) {
			return r, true
		}
	}
	return recoveryRule{}, false
}

// recover brings the store's folder to a checkpoint and loads it.
func (s *Store) recover() (Position, error) {
	data := s.inDir(dataName)
	if err := s.fs.MkdirAll(data); err != nil {
		return Position{}, fmt.Errorf("making %s: %w", data, err)
	}
	if err := removeFile(s.fs, s.inDir(preparingName)); err != nil {
		return Position{}, err
	}
	now, next, rule, err := s.inspect()
	if err != nil {
		return Position{}, err
	}
	switch rule.do {
	case recoverNew:
		now = &checkpoint{}
		if err = disk.MakeFolder(s.fs, data); err != nil {
			err = fmt.Errorf("making %s: %w", data, err)
		}
	case recoverDone:
		err = removeFile(s.fs, s.inDir(preparedName))
	case recoverRedo:
		now = next
		err = s.redo(next)
	case recoverRefuse:
		err = &DamageError{File: s.inDir(checkpointName), What: rule.name}
	}
	if err != nil {
		return Position{}, err
	}
	if err := s.adopt(now); err != nil {
		return Position{}, err
	}
	keep := false
	if rule.do == recoverNew || rule.do == recoverUse {
		if keep, err = s.keepStaging(); err != nil {
			return Position{}, err
		}
	}
	s.leftover = keep
	return Position{now.index, now.term, now.meta}, s.sweep(now, keep)
}

// inspect reads what there is and decides.
func (s *Store) inspect() (now, next *checkpoint, rule recoveryRule, err error) {
	var st recoveryState
	now, err = s.readCheckpoint(s.inDir(checkpointName), nil)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, rule, err
	}
	next, err = s.readCheckpoint(s.inDir(preparedName), func(*chunkChange) error { return nil })
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, rule, err
	}
	folders, err := s.objectFolders()
	if err != nil {
		return nil, nil, rule, err
	}
	st.checkpoint, st.prepared, st.data = now != nil, next != nil, len(folders) > 0
	var seq uint64
	if now != nil {
		seq = now.seq
	}
	if next != nil {
		switch {
		case next.seq <= seq:
			st.next = -1
		case next.seq == seq+1:
			st.next = 1
		default:
			st.next = 2
		}
	}
	rule, ok := decide(st)
	if !ok {
		return nil, nil, rule, fmt.Errorf("no rule for %+v", st)
	}
	return now, next, rule, nil
}

// objectFolders lists the folders in the data folder that are those of objects.
func (s *Store) objectFolders() ([]string, error) {
	list, err := s.fs.ReadDir(s.inDir(dataName))
	if err != nil {
		return nil, fmt.Errorf("listing %s: %w", s.inDir(dataName), err)
	}
	var names []string
	for _, e := range list {
		var n uint64
		number, _, ok := strings.Cut(e.Name, "-")
		if _, err := fmt.Sscanf(number, "%016x", &n); ok && err == nil && len(number) == 16 && e.Dir {
			names = append(names, e.Name)
		}
	}
	return names, nil
}

// redo carries out what `prepared` says and makes it the checkpoint.
func (s *Store) redo(to *checkpoint) error {
	r := redoer{s: s, objects: make(map[uint64]*object, len(to.objects)),
		w: &chunkWriter{s: s, again: true, dirs: map[string]struct{}{}}}
	for _, x := range to.objects {
		o := s.newObject(x.Object)
		if err := s.loadIndex(o); err != nil {
			return err
		}
		r.objects[x.Number] = o
	}
	_, err := s.readCheckpoint(s.inDir(preparedName), r.change)
	if err == nil {
		err = r.flushPage()
	}
	if err == nil {
		err = r.w.finish()
	}
	if err != nil {
		r.w.abandon()
		return fmt.Errorf("finishing a flush to %d: %w", to.index, err)
	}
	return s.moveCheckpoint()
}

// redoer carries out the changes of a `prepared` that was found at Open.
type redoer struct {
	s       *Store
	w       *chunkWriter
	objects map[uint64]*object
	o       *object // of the changes before
	folder  uint16
	data    []byte // of the log entry that was asked for last
	index   uint64
}

func (r *redoer) change(c *chunkChange) error {
	o, folder := r.objects[c.object], uint16(c.chunk/chunksPerDir)
	if r.o != o || r.folder != folder {
		if err := r.flushPage(); err != nil {
			return err
		}
		r.o, r.folder = o, folder
	}
	for i := range c.blocks {
		if b := &c.blocks[i]; b.kind == Data && b.data == nil {
			if err := r.fetch(o, c, b); err != nil {
				return err
			}
		}
	}
	if err := r.w.change(o, c); err != nil {
		return err
	}
	x := o.base[folder]
	if x == nil {
		x = new(folderIndex)
		o.base[folder] = x
	}
	x.entries[c.chunk%chunksPerDir], x.sums[c.chunk%chunksPerDir] = c.index, c.sums
	if c.flags&changeFile != 0 {
		x.entries[c.chunk%chunksPerDir] |= hasFile
	}
	return nil
}

// fetch gets a block's bytes from the log.
func (r *redoer) fetch(o *object, c *chunkChange, b *blockChange) error {
	if r.index != b.index || r.data == nil {
		if r.s.o.EntryData == nil {
			return fmt.Errorf("entry %d is needed and there is no log", b.index)
		}
		data, err := r.s.o.EntryData(b.index)
		if err != nil {
			return fmt.Errorf("getting entry %d from the log: %w", b.index, err)
		}
		r.data, r.index = data, b.index
	}
	block := blockNumber(c.chunk, int(b.number))
	if int(b.src) > len(r.data)-BlockSize {
		return fmt.Errorf("entry %d has %d bytes, and block %d of object %d was at %d",
			b.index, len(r.data), block, o.number, b.src)
	}
	data := (*[BlockSize]byte)(r.data[b.src:])
	if got := op.Sum(data[:]); got != b.sum {
		return &DamageError{Object: o.number, Block: block, What: "data", File: fmt.Sprintf("log entry %d", b.index),
			Offset: int64(b.src), Want: b.sum, Got: got}
	}
	b.data = data
	return nil
}

// flushPage writes the page of the index that changes were made to.
func (r *redoer) flushPage() error {
	if r.o == nil {
		return nil
	}
	return r.w.page(r.o, r.folder, r.o.base[r.folder])
}

// adopt makes a checkpoint the content of the store. Objects that were there before keep their
// identity, so that readers under way go on with the new content. No reader is past a gate.
func (s *Store) adopt(c *checkpoint) error {
	objects := make(map[uint64]*object, len(c.objects))
	for i := range c.objects {
		x := &c.objects[i]
		o := s.newObject(x.Object)
		if err := s.loadIndex(o); err != nil {
			return err
		}
		if uint32(len(o.base)) != x.pages || o.baseSum != x.indexSum {
			return &DamageError{Object: x.Number, File: o.folder + "/" + indexName, What: "sum of all pages",
				Want: x.indexSum, Got: o.baseSum}
		}
		objects[x.Number] = o
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for number, old := range s.objects {
		o := objects[number]
		if o == nil {
			o = &object{base: map[uint16]*folderIndex{}}
		} else {
			objects[number] = old
		}
		old.mu.Lock()
		old.active, old.frozen, old.next = nil, nil, nil
		old.base, old.baseSum, old.onDisk, old.born = o.base, o.baseSum, o.onDisk, o.born
		old.mu.Unlock()
	}
	s.objects = objects
	clear(s.dying)
	clear(s.dirty)
	s.dirty = s.dirty[:0]
	s.activeBytes.Store(0)
	s.frozenBytes.Store(0)
	s.seq, s.last, s.frozen = c.seq, c.index, c.index
	s.pos.Store(c.index)
	return nil
}

// sweep removes what does not belong to the checkpoint: folders of objects that were deleted, and
// what was staged, unless that is kept.
func (s *Store) sweep(c *checkpoint, keepStaged bool) error {
	keep := make(map[string]bool, len(c.objects))
	for _, x := range c.objects {
		keep[objectFolder(x.Number, x.Label)] = true
	}
	folders, err := s.objectFolders()
	if err != nil {
		return err
	}
	for _, name := range folders {
		if keep[name] {
			continue
		}
		if err := s.fs.RemoveAll(s.inDir(dataName) + "/" + name); err != nil {
			return fmt.Errorf("removing %s: %w", name, err)
		}
	}
	if err := s.Sweep(); err != nil {
		return err
	}
	if keepStaged {
		return nil
	}
	return s.removeStaging()
}

package store

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
)

// Flush brings a frozen overlay to disk. See the package comment for its steps.
type Flush struct {
	s       *Store
	to      checkpoint // without its objects
	parts   []*part
	deleted []*object // since the freeze before: their folders go
	written bool      // prepared is in place: from here on there is only forward
	tried   bool      // chunk files may have been touched
	spares  []string  // what chunk files were before bodies became them
}

// part is what a flush does to one object.
type part struct {
	o        *object
	l        *layer
	blocks   []blockChange           // of l, in order
	chunks   []uint32                // of l, in order
	pages    map[uint16]*folderIndex // of the index, as they are to be
	newPages uint32
	sum      uint32 // of all pages of the index then
}

// Freeze makes everything applied so far the content of a checkpoint to be: index and term are
// those of the last entry, meta is kept with it and must not be changed any more. ErrBusy says that
// the flush before is not done or chunks are being staged. Apply side.
func (s *Store) Freeze(index, term uint64, meta []byte) (*Flush, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	if index < s.last || index < s.frozen || index >= hasFile {
		return nil, fmt.Errorf("%w: a freeze at %d after entry %d and a freeze at %d",
			ErrOrder, index, s.last, s.frozen)
	}
	if len(meta) > MaxMeta {
		return nil, fmt.Errorf("%w: %d bytes of meta", ErrRange, len(meta))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flush != nil || s.staging != nil {
		return nil, ErrBusy
	}
	if err := s.dropLeftover(); err != nil {
		return nil, err
	}
	f := &Flush{s: s, to: checkpoint{seq: s.seq + 1, index: index, term: term, meta: meta}}
	for _, o := range s.dirty {
		o.mu.Lock()
		if o.active != nil && o.frozen == nil {
			o.frozen, o.active = o.active, nil
			f.parts = append(f.parts, &part{o: o, l: o.frozen})
		}
		o.mu.Unlock()
	}
	clear(s.dirty)
	s.dirty = s.dirty[:0]
	for _, o := range s.dying {
		f.deleted = append(f.deleted, o)
	}
	clear(s.dying)
	s.frozenBytes.Store(s.activeBytes.Swap(0))
	s.last, s.frozen = index, index
	s.pos.Store(index)
	s.flush = f
	return f, nil
}

// Index is the index of the last entry that the flush brings to disk.
func (f *Flush) Index() uint64 { return f.to.index }

// Run brings everything to disk. When it has returned nil the checkpoint stands for the frozen
// state and the log before it is no longer needed. An error that is disk.ErrNoSpace leaves all as it
// was for readers and writers, and Run can be called again when there is space; after any other error
// the store is broken for good, and its content is what Open makes of it.
func (f *Flush) Run() error {
	if err := f.s.check(); err != nil {
		return err
	}
	if !f.written {
		if err := f.plan(); err != nil {
			return f.s.fail(fmt.Errorf("planning a checkpoint at %d: %w", f.to.index, err))
		}
		if err := f.s.prepare(&f.to, f.table, f.each); err != nil {
			return fmt.Errorf("preparing a checkpoint at %d: %w", f.to.index, err)
		}
		f.written = true
	}
	f.s.passGates()
	if err := f.write(); err != nil {
		return fmt.Errorf("flushing to %d: %w", f.to.index, err)
	}
	return f.commit()
}

// plan sorts what is to be done, and works out what the index is to be.
func (f *Flush) plan() error {
	slices.SortFunc(f.parts, func(a, b *part) int { return cmp.Compare(a.o.number, b.o.number) })
	for _, p := range f.parts {
		if p.pages != nil {
			continue
		}
		p.plan()
		if err := p.digest(f.s); err != nil {
			return err
		}
	}
	return nil
}

// digest works out the sums of the records that are going to be written, and tells readers of them.
func (p *part) digest(s *Store) error {
	var c chunkChange
	err := p.each(&c, func(c *chunkChange) error {
		return s.digest(p.o, c, &p.pages[uint16(c.chunk/chunksPerDir)].sums[c.chunk%chunksPerDir])
	})
	p.sum = p.o.baseSum
	for folder, x := range p.pages {
		p.sum ^= p.o.base[folder].sumOf(p.o.number, folder) ^ x.sumOf(p.o.number, folder)
	}
	p.o.mu.Lock()
	defer p.o.mu.Unlock()
	p.o.next = p.pages
	return err
}

func (p *part) plan() {
	numbers := make([]uint64, 0, len(p.l.blocks))
	for b := range p.l.blocks {
		numbers = append(numbers, b)
	}
	slices.Sort(numbers)
	p.blocks = make([]blockChange, 0, len(numbers))
	for _, b := range numbers {
		p.blocks = append(p.blocks, blockChange{uint16(b % BlocksPerChunk), p.l.blocks[b]})
	}
	p.chunks = make([]uint32, 0, len(p.l.chunks))
	for c := range p.l.chunks {
		p.chunks = append(p.chunks, c)
	}
	slices.Sort(p.chunks)
	p.pages = map[uint16]*folderIndex{}
	for _, chunk := range p.chunks {
		folder := uint16(chunk / chunksPerDir)
		x := p.pages[folder]
		if x == nil {
			x = new(folderIndex)
			if old := p.o.base[folder]; old != nil {
				*x = *old
			} else {
				p.newPages++
			}
			p.pages[folder] = x
		}
		n := p.l.chunks[chunk]
		x.entries[chunk%chunksPerDir] = n.newest
		if n.hasFile() {
			x.entries[chunk%chunksPerDir] |= hasFile
		}
	}
}

// each calls fn for every change, in order of object and chunk.
func (f *Flush) each(fn func(*chunkChange) error) error {
	var c chunkChange
	for _, p := range f.parts {
		if err := p.each(&c, fn); err != nil {
			return err
		}
	}
	return nil
}

func (p *part) each(c *chunkChange, fn func(*chunkChange) error) error {
	blocks := p.blocks
	for _, chunk := range p.chunks {
		n := p.l.chunks[chunk]
		*c = chunkChange{object: p.o.number, chunk: chunk, index: n.newest, wiped: n.wiped, blocks: blocks[:n.count:n.count],
			sums: p.pages[uint16(chunk/chunksPerDir)].sums[chunk%chunksPerDir]}
		blocks = blocks[n.count:]
		if n.kind != 0 || p.o.baseChunk(chunk)&hasFile == 0 {
			c.flags |= changeEmpty
		}
		if n.hasFile() {
			c.flags |= changeFile
		}
		if n.kind == Zeros {
			c.flags |= changeKeep
		}
		if err := fn(c); err != nil {
			return err
		}
	}
	return nil
}

// table is the object table of the checkpoint to be: the objects there were at the freeze.
func (f *Flush) table() []objectEntry {
	s := f.s
	s.mu.RLock()
	list := make([]objectEntry, 0, len(s.objects)+len(s.dying))
	for _, m := range [...]map[uint64]*object{s.objects, s.dying} {
		for _, o := range m {
			if o.born <= f.to.index {
				x := Object{o.number, o.label, o.born}
				list = append(list, objectEntry{x, uint32(len(o.base)), o.baseSum})
			}
		}
	}
	s.mu.RUnlock()
	slices.SortFunc(list, func(a, b objectEntry) int { return cmp.Compare(a.Number, b.Number) })
	for i, j := 0, 0; i < len(list) && j < len(f.parts); i++ {
		if p := f.parts[j]; p.o.number == list[i].Number {
			list[i].pages += p.newPages
			list[i].indexSum = p.sum
			j++
		}
	}
	return list
}

// prepare writes the file `prepared`: where to go, and the changes that lead there. If the disk is
// full nothing has happened; any other error breaks the store.
func (s *Store) prepare(
	to *checkpoint, table func() []objectEntry, each func(func(*chunkChange) error) error,
) error {
	c := *to
	c.objects = table()
	name := s.inDir(preparingName)
	err := s.writePrepared(name, &c, each)
	if err == nil {
		if err = s.fs.Rename(name, s.inDir(preparedName)); err != nil {
			err = fmt.Errorf("renaming %s: %w", name, err)
		}
	}
	if errors.Is(err, disk.ErrNoSpace) {
		if e := removeFile(s.fs, name); e != nil {
			return s.fail(e)
		}
		return err
	}
	if err == nil {
		err = s.fs.SyncDir(s.o.Dir)
	}
	if err != nil {
		return s.fail(err)
	}
	return nil
}

func (s *Store) writePrepared(name string, c *checkpoint, each func(func(*chunkChange) error) error) error {
	f, err := s.fs.Open(name, disk.Create)
	if err != nil {
		return fmt.Errorf("making %s: %w", name, err)
	}
	defer f.Close()
	if err := f.Truncate(0); err != nil {
		return fmt.Errorf("emptying %s: %w", name, err)
	}
	w := newSectionWriter(f, s.buf)
	w.head(c)
	if err := each(func(c *chunkChange) error {
		w.change(c)
		return w.err
	}); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	err = w.finish()
	s.buf = w.buf[:0]
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("syncing %s: %w", name, err)
	}
	return nil
}

// write brings the frozen overlay to the chunk files.
func (f *Flush) write() error {
	w := &chunkWriter{s: f.s, again: f.tried, dirs: map[string]struct{}{}}
	f.tried = true
	err := f.writeParts(w)
	f.spares = append(f.spares, w.spares...)
	if err == nil {
		return nil
	}
	w.abandon()
	if errors.Is(err, disk.ErrNoSpace) && !w.unsafe {
		return err
	}
	return f.s.fail(err)
}

func (f *Flush) writeParts(w *chunkWriter) error {
	var c chunkChange
	for _, p := range f.parts {
		if err := p.each(&c, func(c *chunkChange) error { return w.change(p.o, c) }); err != nil {
			return err
		}
		for folder, x := range sortedPages(p.pages) {
			if err := w.page(p.o, folder, x); err != nil {
				return err
			}
		}
	}
	return w.finish()
}

// commit moves the checkpoint and drops what it makes superfluous.
func (f *Flush) commit() error {
	s := f.s
	if err := s.moveCheckpoint(); err != nil {
		return s.fail(err)
	}
	for _, p := range f.parts {
		p.o.mu.Lock()
		for folder, x := range p.pages {
			p.o.base[folder] = x
		}
		p.o.baseSum, p.o.onDisk, p.o.next = p.sum, true, nil
		l := p.o.frozen
		p.o.frozen = nil
		p.o.mu.Unlock()
		s.giveLayer(l)
	}
	s.frozenBytes.Store(0)
	if s.o.Bodies != nil {
		s.o.Bodies.Superseded(f.to.index)
	}
	if err := s.giveSpares(f.spares); err != nil {
		return s.fail(err)
	}
	if err := s.removeObjects(f.deleted); err != nil {
		return s.fail(err)
	}
	s.mu.Lock()
	s.seq = f.to.seq
	s.flush = nil
	s.mu.Unlock()
	return nil
}

// moveCheckpoint makes `prepared` the checkpoint.
func (s *Store) moveCheckpoint() error {
	if err := s.fs.Rename(s.inDir(preparedName), s.inDir(checkpointName)); err != nil {
		return fmt.Errorf("renaming %s: %w", preparedName, err)
	}
	if err := s.fs.SyncDir(s.o.Dir); err != nil {
		return fmt.Errorf("syncing the folder %s: %w", s.o.Dir, err)
	}
	return nil
}

// removeObjects removes what deleted objects have on disk. Who found them before they were deleted,
// and reads them still, finds them empty.
func (s *Store) removeObjects(list []*object) error {
	if len(list) == 0 {
		return nil
	}
	gone := make(map[uint64]bool, len(list))
	for _, o := range list {
		gone[o.number] = true
		o.mu.Lock()
		o.base = map[uint16]*folderIndex{}
		o.mu.Unlock()
	}
	s.passGates()
	s.files.removeIf(func(k fileKey) bool { return gone[k.object] })
	s.sums.removeIf(func(k pageKey) bool { return gone[k.object] })
	for _, o := range list {
		if !o.onDisk {
			continue
		}
		if err := s.fs.RemoveAll(o.folder); err != nil {
			return fmt.Errorf("removing %s: %w", o.folder, err)
		}
	}
	return nil
}

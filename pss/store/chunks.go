package store

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"

	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
)

// Limits of a flush.
const (
	maxUnsynced = 128     // files written and not yet synced
	maxRun      = 1 << 20 // bytes written to a chunk file at once
)

// writeBacker is offered by files that can bring a range to the disk ahead of the sync
// (sync_file_range(2)), so that the syncs at the end of a flush find little to do and the log's syncs find
// the disk free in between.
type writeBacker interface {
	WriteBack(off, n int64) error
}

// vectorWriter is offered by files that can write many pieces at once (pwritev(2)).
type vectorWriter interface {
	WriteVAt(bufs [][]byte, off int64) error
}

// chunkWriter carries out changes on chunk files, sums and indexes. Whatever it does can be done
// again from the start after an error or a crash.
type chunkWriter struct {
	s       *Store
	again   bool // an earlier attempt may have made names that are not durable: sync all folders
	pending []*fileSlot
	vector  [][]byte            // of run
	dirs    map[string]struct{} // folders with new, replaced or removed names
	made    string              // the folder that was made last
	unsafe  bool                // a sync failed: what is on disk is unknown
	spares  []string            // files that chunks had before
}

// change carries out a change of a chunk of o.
func (w *chunkWriter) change(o *object, c *chunkChange) error {
	folder := uint16(c.chunk / chunksPerDir)
	dir := chunkFolder(o.folder, folder)
	if (w.again || o.base[folder] == nil) && w.made != dir {
		if err := w.makeFolder(o, dir, folder); err != nil {
			return err
		}
		if c.flags&changeStaged != 0 { // no file is renamed into a folder that a crash can take away
			if err := w.syncDirs(); err != nil {
				return err
			}
		}
	}
	if c.flags&changeEmpty != 0 {
		w.dirs[dir] = struct{}{}
	}
	if c.flags&(changeFile|changeStaged) != changeFile {
		w.s.files.remove(fileKey{object: o.number, number: c.chunk, kind: fileChunk})
	}
	switch {
	case c.flags&changeFile == 0:
		return removeFile(w.s.fs, chunkFile(o.folder, c.chunk))
	case c.flags&changeStaged != 0:
		return w.staged(o, c)
	}
	done := false
	if body, whole := w.bodyOf(c); whole {
		var err error
		if done, err = w.adopt(o, c, body); err != nil {
			return err
		}
	}
	if !done {
		if err := w.data(o, c); err != nil {
			return err
		}
	}
	return w.records(o, c)
}

// makeFolder makes the folder of a chunk, and sees to it that its name and those above get synced.
func (w *chunkWriter) makeFolder(o *object, dir string, folder uint16) error {
	if err := w.s.fs.MkdirAll(dir); err != nil {
		return fmt.Errorf("making %s: %w", dir, err)
	}
	w.made = dir
	for _, d := range [...]string{w.s.inDir(dataName), o.folder, fmt.Sprintf("%s/%02x", o.folder, folder>>8), dir} {
		w.dirs[d] = struct{}{}
	}
	return nil
}

// file opens a file for writing, to be synced and given back by sync.
func (w *chunkWriter) file(o *object, k fileKey) (disk.File, error) {
	sl, err := w.s.open(o, k, 0)
	if errors.Is(err, fs.ErrNotExist) {
		w.dirs[path.Dir(k.name(o))] = struct{}{}
		sl, err = w.s.open(o, k, disk.Create)
	}
	if err != nil {
		return nil, err
	}
	for i := len(w.pending) - 1; i >= 0; i-- {
		if w.pending[i] == sl {
			w.s.files.unpin(sl)
			return sl.value.f, nil
		}
	}
	w.pending = append(w.pending, sl)
	return sl.value.f, nil
}

// data writes the blocks of a chunk, run by run.
func (w *chunkWriter) data(o *object, c *chunkChange) error {
	f, err := w.file(o, fileKey{object: o.number, number: c.chunk, kind: fileChunk})
	if err != nil {
		return err
	}
	if c.flags&changeEmpty != 0 {
		if err := f.Truncate(0); err != nil {
			return fmt.Errorf("emptying %s: %w", chunkFile(o.folder, c.chunk), err)
		}
	}
	if c.flags&changeKeep != 0 {
		if err := allocate(f, 0, ChunkSize); err != nil {
			return fmt.Errorf("allocating %s: %w", chunkFile(o.folder, c.chunk), err)
		}
	}
	for blocks := c.blocks; len(blocks) > 0; {
		n := 1
		for n < len(blocks) && blocks[n].kind == blocks[0].kind &&
			blocks[n].number == blocks[0].number+uint16(n) && (n < maxRun/BlockSize || blocks[0].kind != Data) {
			n++
		}
		if err := w.run(f, c.flags, blocks[:n]); err != nil {
			return fmt.Errorf("writing %s: %w", chunkFile(o.folder, c.chunk), err)
		}
		blocks = blocks[n:]
	}
	if b, ok := f.(writeBacker); ok && len(c.blocks) > 0 {
		if err := b.WriteBack(0, ChunkSize); err != nil {
			return fmt.Errorf("writing %s back: %w", chunkFile(o.folder, c.chunk), err)
		}
	}
	return nil
}

// allocate reserves space for zeros if there is some. That zeros are there is in their records; the space is for
// writes to come, and a full disk refuses these. What was agreed must not need space that nobody counted.
func allocate(f disk.File, off, n int64) error {
	if err := f.Allocate(off, n); err != nil && !errors.Is(err, disk.ErrNoSpace) {
		return err
	}
	return nil
}

// run writes blocks of one kind that lie side by side.
func (w *chunkWriter) run(f disk.File, flags changeFlags, blocks []blockChange) error {
	off, n := int64(blocks[0].number)*BlockSize, int64(len(blocks))*BlockSize
	if blocks[0].kind != Data {
		if flags&(changeEmpty|changeKeep) != changeEmpty {
			if err := f.PunchHole(off, n); err != nil {
				return err
			}
		}
		if blocks[0].kind == Zeros {
			return allocate(f, off, n)
		}
		return nil
	}
	p := blocks[0].data[:]
	if v, ok := f.(vectorWriter); ok && len(blocks) > 1 {
		w.vector = w.vector[:0]
		for i := range blocks {
			w.vector = append(w.vector, blocks[i].data[:])
		}
		err := v.WriteVAt(w.vector, off)
		clear(w.vector)
		return err
	}
	if len(blocks) > 1 {
		p = w.s.buf[:0]
		for i := range blocks {
			p = append(p, blocks[i].data[:]...)
		}
		w.s.buf = p
	}
	_, err := f.WriteAt(p, off)
	return err
}

// records writes the records of the blocks of a chunk, page by page.
func (w *chunkWriter) records(o *object, c *chunkChange) error {
	err := c.eachPage(func(k pageKey, blocks []blockChange) error { return w.recordPage(o, c, k, blocks) })
	if err != nil {
		return err
	}
	if len(w.pending) >= maxUnsynced {
		return w.sync()
	}
	return nil
}

// eachPage calls fn for each page of records that the change changes, with the blocks listed of it.
func (c *chunkChange) eachPage(fn func(k pageKey, blocks []blockChange) error) error {
	blocks := c.blocks
	for i := range uint32(pagesPerChunk) {
		n := 0
		for n < len(blocks) && uint32(blocks[n].number)/blocksPerPage == i {
			n++
		}
		if n > 0 || c.flags&changeEmpty != 0 {
			if err := fn(pageKey{c.object, c.chunk*pagesPerChunk + i}, blocks[:n]); err != nil {
				return err
			}
		}
		blocks = blocks[n:]
	}
	return nil
}

// before makes p the page of records as it was before the change. p.mu is held for writing.
func (s *Store) before(o *object, c *chunkChange, k pageKey, p *page, trust bool) error {
	if c.flags&changeEmpty != 0 {
		return nil // nothing of it stays
	}
	var damage *DamageError
	err := s.load(o, k, p, trust)
	if errors.As(err, &damage) {
		// The disk gives no bytes for the page, or old ones, and most likely takes new ones. Records of zeros are
		// never valid, so those of the other blocks stay noticed as damaged until they are mended.
		clear(p.b[:])
		return nil
	}
	return err
}

// compose makes the change in a page of records.
func (c *chunkChange) compose(p *[pageSize]byte, k pageKey, blocks []blockChange) {
	first := int(k.number%pagesPerChunk) * blocksPerPage
	if c.flags&changeEmpty != 0 {
		rest := Record{Kind: Hole, Index: c.wiped}
		if c.flags&changeKeep != 0 {
			rest.Kind = Zeros
		}
		for i := range blocksPerPage {
			rest.put(p[i*recordSize:], c.object, blockNumber(c.chunk, first+i))
		}
	}
	for i := range blocks {
		b := &blocks[i]
		r := Record{Sum: b.sum, Kind: b.kind, Index: b.index}
		r.put(p[(int(b.number)-first)*recordSize:], c.object, blockNumber(c.chunk, int(b.number)))
	}
}

// digest works out the sums of the pages of records that a change of a chunk leaves behind.
func (s *Store) digest(o *object, c *chunkChange, sums *[pagesPerChunk]uint32) error {
	if c.flags&changeFile == 0 {
		*sums = [pagesPerChunk]uint32{}
		return nil
	}
	return c.eachPage(func(k pageKey, blocks []blockChange) error {
		sl := s.sums.pin(k)
		defer s.sums.unpin(sl)
		p := &sl.value
		p.mu.Lock()
		defer p.mu.Unlock()
		if err := s.before(o, c, k, p, false); err != nil {
			return err
		}
		b := p.b
		c.compose(&b, k, blocks)
		sums[k.number%pagesPerChunk] = pageSum(&b)
		return nil
	})
}

func (w *chunkWriter) recordPage(o *object, c *chunkChange, k pageKey, blocks []blockChange) error {
	key, off := k.sums()
	f, err := w.file(o, key)
	if err != nil {
		return err
	}
	sl := w.s.sums.pin(k)
	defer w.s.sums.unpin(sl)
	p := &sl.value
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := w.s.before(o, c, k, p, w.again); err != nil {
		return err
	}
	c.compose(&p.b, k, blocks)
	if _, err := f.WriteAt(p.b[:], off); err != nil {
		p.loaded = false
		return fmt.Errorf("writing %s: %w", key.name(o), err)
	}
	// What a start over found on the disk was taken as it was: if that was old, whoever reads the page notices.
	want := c.sums[k.number%pagesPerChunk]
	p.loaded = !w.again || want == 0 || want == pageSum(&p.b)
	return nil
}

// page writes a page of o's index, and the sums that belong to it.
func (w *chunkWriter) page(o *object, folder uint16, x *folderIndex) error {
	key := fileKey{object: o.number, kind: fileIndex}
	f, err := w.file(o, key)
	if err != nil {
		return err
	}
	var b [pageSize]byte
	x.encode(&b, o.number, folder)
	if _, err := f.WriteAt(b[:], int64(folder)*pageSize); err != nil {
		return fmt.Errorf("writing %s: %w", key.name(o), err)
	}
	key.kind = filePages
	x.encodeSums(&b)
	if f, err = w.file(o, key); err != nil {
		return err
	}
	if _, err := f.WriteAt(b[:], int64(folder)*pageSize); err != nil {
		return fmt.Errorf("writing %s: %w", key.name(o), err)
	}
	return nil
}

// staged puts a staged chunk into its place.
func (w *chunkWriter) staged(o *object, c *chunkChange) error {
	to := chunkFile(o.folder, c.chunk)
	stage := w.s.stagingFolder(o.number)
	folder := uint16(c.chunk / chunksPerDir)
	w.dirs[chunkFolder(stage, folder)] = struct{}{} // a rename is durable when both folders are
	if err := w.s.fs.Rename(chunkFile(stage, c.chunk), to); err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("installing %s: %w", to, err)
		}
		// It was renamed by an earlier attempt, or it is lost.
		sl, err := w.s.open(o, fileKey{object: o.number, number: c.chunk, kind: fileChunk}, 0)
		if err != nil {
			return fmt.Errorf("installing %s: %w", to, err)
		}
		w.s.files.unpin(sl)
	}
	records := make([]byte, pagesPerChunk*pageSize)
	off := int64(c.chunk%chunksPerDir) * int64(len(records))
	name := chunkFolder(stage, folder) + "/" + sumsName
	from, err := w.s.fs.Open(name, 0)
	if err != nil {
		return fmt.Errorf("opening %s: %w", name, err)
	}
	defer from.Close()
	if err := readFull(from, records, off); err != nil {
		return fmt.Errorf("reading %s: %w", name, err)
	}
	key := fileKey{object: o.number, number: uint32(folder), kind: fileSums}
	f, err := w.file(o, key)
	if err != nil {
		return err
	}
	for i := range int64(pagesPerChunk) {
		k := pageKey{o.number, c.chunk*pagesPerChunk + uint32(i)}
		if err := w.replacePage(k, f, records[i*pageSize:(i+1)*pageSize], off+i*pageSize); err != nil {
			return fmt.Errorf("writing %s: %w", key.name(o), err)
		}
	}
	if len(w.pending) >= maxUnsynced {
		return w.sync()
	}
	return nil
}

// replacePage writes a page of records, and forgets the one in memory with it.
func (w *chunkWriter) replacePage(k pageKey, f disk.File, b []byte, off int64) error {
	sl := w.s.sums.pin(k)
	defer w.s.sums.unpin(sl)
	p := &sl.value
	p.mu.Lock()
	defer p.mu.Unlock()
	p.loaded = false
	_, err := f.WriteAt(b, off)
	return err
}

// sync makes what was written to files durable.
func (w *chunkWriter) sync() error {
	var err error
	for _, sl := range w.pending {
		if err == nil {
			if err = sl.value.f.Sync(); err != nil {
				w.unsafe = true
				err = fmt.Errorf("syncing a file of object %d: %w", sl.key.object, err)
			}
		}
		w.s.files.unpin(sl)
	}
	clear(w.pending)
	w.pending = w.pending[:0]
	return err
}

// finish makes everything durable.
func (w *chunkWriter) finish() error {
	if err := w.sync(); err != nil {
		return err
	}
	return w.syncDirs()
}

// syncDirs makes the names in folders durable.
func (w *chunkWriter) syncDirs() error {
	for _, d := range slices.Sorted(maps.Keys(w.dirs)) {
		if err := w.s.fs.SyncDir(d); err != nil {
			w.unsafe = true
			return fmt.Errorf("syncing the folder %s: %w", d, err)
		}
	}
	clear(w.dirs)
	return nil
}

// abandon gives back the files after an error.
func (w *chunkWriter) abandon() {
	for _, sl := range w.pending {
		w.s.files.unpin(sl)
	}
	w.pending = nil
}

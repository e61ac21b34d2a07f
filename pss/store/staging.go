package store

import (
	"cmp"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"slices"
	"strings"

	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
)

// Chunks on their way in from another server are written to the staging folder, in a tree like the
// one they will move to: staging/<object, 16 hex digits>/aa/bb/cc and …/sums. Install then writes
// `prepared` with the list of them, renames each into its place and copies its records, in the same
// steps, and with the same way of starting over, as a flush.

// Staging is content from another server that is about to replace the store's.
type Staging struct {
	s      *Store
	chunks map[stagedKey]uint64     // that will be installed: index, with hasFile if there is a file
	sums   map[stagedKey]recordSums // of the records of each of them

	kept  map[stagedKey]stagedChunk // staged before, and perhaps of use; see Has
	begun bool                      // Install prepared it: there is only forward

	list   disk.File // of what is staged; nil: not open yet
	listed int64     // its size in bytes
}

// recordSums are the sums of the records of a chunk: of all, and of each page. All are 0 without a file.
type recordSums struct {
	all   uint32
	pages [pagesPerChunk]uint32
}

func sumRecords(b []byte) (sums recordSums) {
	sums.all = crc32.Checksum(b, castagnoli)
	for i := range sums.pages {
		sums.pages[i] = pageSum((*[pageSize]byte)(b[i*pageSize:]))
	}
	return sums
}

type stagedKey struct {
	object uint64
	chunk  uint32
}

func (s *Store) stagingFolder(object uint64) string {
	return fmt.Sprintf("%s/%016x", s.inDir(stagingName), object)
}

// Stage begins to take over content from another server. What to fetch is what differs from the
// store's Checkpoint view; what was applied since does not count, and is dropped by Install. What an
// earlier staging left is of use where Has says so. No
// flush may be under way, and none can begin before Install or Abandon: else the error is ErrBusy.
// Apply side.
func (s *Store) Stage() (*Staging, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	st := &Staging{s: s, chunks: map[stagedKey]uint64{}, sums: map[stagedKey]recordSums{}}
	s.mu.Lock()
	busy := s.flush != nil || s.staging != nil
	if !busy {
		s.staging, s.leftover = st, false
	}
	s.mu.Unlock()
	if busy {
		return nil, ErrBusy
	}
	if err := st.resume(); err != nil {
		s.mu.Lock()
		s.staging = nil
		s.mu.Unlock()
		return nil, err
	}
	return st, nil
}

// discardStaging puts what was staged out of the way, at no cost that depends on how much it is. Sweep removes it.
func (s *Store) discardStaging() error {
	from := s.inDir(stagingName)
	to := fmt.Sprintf("%s%d", s.inDir(discardedName), s.discards.Add(1))
	if err := s.fs.Rename(from, to); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("discarding %s: %w", stagingName, err)
	}
	return nil
}

// Sweep removes what was discarded. It may take long; any goroutine may call it, beside everything else. What it
// does not get to Open removes.
func (s *Store) Sweep() error {
	list, err := s.fs.ReadDir(s.o.Dir)
	if err != nil {
		return fmt.Errorf("listing %s: %w", s.o.Dir, err)
	}
	for _, e := range list {
		if !e.Dir || !strings.HasPrefix(e.Name, discardedName) {
			continue
		}
		if err := s.fs.RemoveAll(s.inDir(e.Name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing %s: %w", e.Name, err)
		}
	}
	return nil
}

// removeStaging removes what was staged.
func (s *Store) removeStaging() error {
	if err := s.fs.RemoveAll(s.inDir(stagingName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing %s: %w", stagingName, err)
	}
	return nil
}

// Abandon ends the staging without effect. What was staged is left to Sweep. Apply side.
func (st *Staging) Abandon() error {
	s := st.s
	st.closeList()
	s.mu.Lock()
	current := s.staging == st
	if current {
		s.staging = nil
	}
	s.mu.Unlock()
	if !current {
		return nil
	}
	return s.discardStaging()
}

// Missing finds the blocks of a chunk whose bytes have to be fetched, given an image of it without
// data: those that the store's checkpoint does not have with the same checksum.
func (st *Staging) Missing(img *Image) (Blocks, error) {
	var missing Blocks
	local, err := st.local(img)
	if err != nil {
		return missing, err
	}
	for i := range img.Records {
		if r := &img.Records[i]; r.Kind == Data && (local[i].kind != Data || local[i].sum != r.Sum) {
			missing.Add(i)
		}
	}
	return missing, nil
}

// local finds what the checkpoint knows of a chunk. A damaged record counts as a hole.
func (st *Staging) local(img *Image) ([]cell, error) {
	cells := make([]cell, BlocksPerChunk)
	o, err := st.s.find(Checkpoint, img.Object)
	if errors.Is(err, ErrNoObject) {
		return cells, nil
	}
	if err != nil {
		return nil, err
	}
	for i := 0; i < len(cells); i += blocksPerPage {
		var damage *DamageError
		page := cells[i : i+blocksPerPage]
		err := st.s.cells(o, Checkpoint, img.Chunk, i, page)
		if errors.As(err, &damage) {
			clear(page)
		} else if err != nil {
			return nil, err
		}
	}
	return cells, nil
}

// PutChunk stages the image of a chunk, durably. Blocks of kind Data that are not in img.Has are
// taken from the store's checkpoint, which must have them with the same checksum; a *DamageError
// says that they have to be fetched after all. A later image of the same chunk replaces the former.
// One goroutine at a time.
func (st *Staging) PutChunk(img *Image) error {
	s := st.s
	if err := s.check(); err != nil {
		return err
	}
	if img.Chunk >= MaxChunks || img.Index == 0 || img.Index >= hasFile {
		return fmt.Errorf("%w: chunk %d at index %d", ErrImage, img.Chunk, img.Index)
	}
	if err := img.check(); err != nil {
		return err
	}
	key := stagedKey{img.Object, img.Chunk}
	delete(st.chunks, key) // from here on its files are neither what they were nor what they will be
	delete(st.sums, key)
	delete(st.kept, key)
	if !img.File {
		return st.note(key, img.Index, recordSums{})
	}
	dir := chunkFolder(s.stagingFolder(img.Object), uint16(img.Chunk/chunksPerDir))
	if err := s.fs.MkdirAll(dir); err != nil {
		return fmt.Errorf("making %s: %w", dir, err)
	}
	if err := st.putData(img); err != nil {
		return fmt.Errorf("staging chunk %d of object %d: %w", img.Chunk, img.Object, err)
	}
	sum, err := st.putRecords(dir+"/"+sumsName, img)
	if err != nil {
		return fmt.Errorf("staging chunk %d of object %d: %w", img.Chunk, img.Object, err)
	}
	return st.note(key, img.Index|hasFile, sum)
}

// putData writes the file of a staged chunk.
func (st *Staging) putData(img *Image) error {
	s := st.s
	f, err := s.fs.Open(chunkFile(s.stagingFolder(img.Object), img.Chunk), disk.Create)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(0); err != nil {
		return err
	}
	o, err := s.find(Checkpoint, img.Object)
	if errors.Is(err, ErrNoObject) {
		o, err = nil, nil
	}
	if err != nil {
		return err
	}
	p := img.Data
	var block [BlockSize]byte
	for i := range img.Records {
		r := &img.Records[i]
		at := int64(i) * BlockSize
		switch {
		case r.Kind == Zeros:
			err = f.Allocate(at, BlockSize)
		case r.Kind != Data:
		case img.Has.Has(i):
			_, err = f.WriteAt(p[:BlockSize], at)
			p = p[BlockSize:]
		case o == nil:
			return fmt.Errorf("%w: block %d is missing", ErrImage, i)
		default:
			var sum [1]uint32
			if err := s.read(o, Checkpoint, int64(img.Chunk)*ChunkSize+at, block[:], sum[:]); err != nil {
				return err
			}
			if sum[0] != r.Sum {
				return fmt.Errorf("%w: block %d is missing", ErrImage, i)
			}
			_, err = f.WriteAt(block[:], at)
		}
		if err != nil {
			return err
		}
	}
	return s.syncStaged(f)
}

// syncStaged makes a staged file durable. If that fails nothing that is staged can be relied upon.
func (s *Store) syncStaged(f disk.File) error {
	if err := f.Sync(); err != nil {
		return s.fail(fmt.Errorf("syncing a staged file: %w", err))
	}
	return nil
}

// putRecords writes the records of a staged chunk and returns their checksums.
func (st *Staging) putRecords(name string, img *Image) (sums recordSums, err error) {
	f, err := st.s.fs.Open(name, disk.Create)
	if err != nil {
		return sums, err
	}
	defer f.Close()
	b := make([]byte, pagesPerChunk*pageSize)
	for i := range img.Records {
		img.Records[i].put(b[i*recordSize:], img.Object, blockNumber(img.Chunk, i))
	}
	if _, err := f.WriteAt(b, int64(img.Chunk%chunksPerDir)*int64(len(b))); err != nil {
		return sums, err
	}
	return sumRecords(b), st.s.syncStaged(f)
}

// Install makes the staged chunks, and the chunks of the store's checkpoint that were not staged,
// the store's content, and drops everything else: objects that are not in the list and what was
// applied since the checkpoint. Afterwards the store stands at the given index, as if it had been
// opened there. A crash at any time leaves the old content or the new one. objects may come in any
// order. With disk.ErrNoSpace the call can be repeated, with the same arguments; until that succeeds nothing can be
// read, or, if the room did not suffice to begin, all is as it was. After any other error but ErrOrder the store is
// broken. Apply side.
func (st *Staging) Install(index, term uint64, meta []byte, objects []Object) error {
	s := st.s
	if st.begun {
		if err := s.check(); !errors.Is(err, disk.ErrNoSpace) {
			return err
		}
		s.broken.Store(nil)
		return st.finish(index)
	}
	if err := s.check(); err != nil {
		return err
	}
	s.mu.Lock()
	current := s.staging == st
	s.mu.Unlock()
	if !current || len(meta) > MaxMeta || len(objects) > MaxObjects || index >= hasFile {
		return fmt.Errorf("%w: an installation at %d", ErrOrder, index)
	}
	in, err := st.plan(objects)
	if err != nil {
		return err
	}
	to := checkpoint{seq: s.seq + 1, index: index, term: term, meta: meta}
	// What is being installed is no longer there to be resumed. Nothing is removed: room that is free now may be
	// taken by somebody else.
	listed := st.list != nil
	st.closeList()
	if err := s.fs.Rename(st.listFile(), st.listFile()+".old"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return s.fail(fmt.Errorf("installing what is staged: %w", err))
	}
	if err := st.syncFolders(listed); err != nil {
		return s.fail(err)
	}
	if err := s.prepare(&to, func() []objectEntry { return in.table }, in.each); err != nil {
		return fmt.Errorf("preparing an installation at %d: %w", index, err)
	}
	st.begun = true
	return st.finish(index)
}

// finish carries out what is prepared. If there is no room for it the store is broken until it is called again.
func (st *Staging) finish(index uint64) error {
	s := st.s
	for i := range s.gates {
		s.gates[i].Lock()
		defer s.gates[i].Unlock()
	}
	s.files.clear()
	s.sums.clear()
	if _, err := s.recover(); err != nil {
		return s.fail(fmt.Errorf("installing %d: %w", index, err))
	}
	s.mu.Lock()
	s.staging = nil
	s.mu.Unlock()
	return nil
}

// installation is what Install is going to do.
type installation struct {
	table   []objectEntry
	changes []chunkChange
}

// plan works out the object table and the list of changes.
func (st *Staging) plan(objects []Object) (*installation, error) {
	in := &installation{}
	staged := map[uint64][]uint32{}
	for key := range st.chunks {
		staged[key.object] = append(staged[key.object], key.chunk)
	}
	for _, x := range objects {
		e := objectEntry{Object: Object{x.Number, sanitise(x.Label), x.Born}}
		o, err := st.s.find(Checkpoint, x.Number)
		if err == nil && o.label != e.Label {
			return nil, fmt.Errorf("%w: object %d is called %q here and %q there", ErrOrder, x.Number, o.label, e.Label)
		}
		if err != nil {
			if !errors.Is(err, ErrNoObject) {
				return nil, err
			}
			o = st.s.newObject(e.Object)
		}
		pages := map[uint16]*folderIndex{}
		e.pages, e.indexSum = uint32(len(o.base)), o.baseSum
		for _, chunk := range staged[x.Number] {
			key := stagedKey{x.Number, chunk}
			in.add(o, chunk, st.chunks[key], st.sums[key].pages, pages)
		}
		for folder, page := range pages {
			if o.base[folder] == nil {
				e.pages++
			}
			e.indexSum ^= o.base[folder].sumOf(o.number, folder) ^ page.sumOf(o.number, folder)
		}
		in.table = append(in.table, e)
	}
	slices.SortFunc(in.table, func(a, b objectEntry) int { return cmp.Compare(a.Number, b.Number) })
	slices.SortFunc(in.changes, func(a, b chunkChange) int {
		return cmp.Or(cmp.Compare(a.object, b.object), cmp.Compare(a.chunk, b.chunk))
	})
	for i := 1; i < len(in.table); i++ {
		if in.table[i].Number == in.table[i-1].Number {
			return nil, fmt.Errorf("%w: object %d is listed twice", ErrOrder, in.table[i].Number)
		}
	}
	return in, nil
}

// add adds the change of one chunk, and makes it in the page of the index.
func (in *installation) add(
	o *object, chunk uint32, entry uint64, sums [pagesPerChunk]uint32, pages map[uint16]*folderIndex,
) {
	c := chunkChange{object: o.number, chunk: chunk, index: entry &^ hasFile, flags: changeStaged | changeEmpty, sums: sums}
	if entry&hasFile != 0 {
		c.flags |= changeFile
	}
	in.changes = append(in.changes, c)
	folder := uint16(chunk / chunksPerDir)
	page := pages[folder]
	if page == nil {
		page = new(folderIndex)
		if old := o.base[folder]; old != nil {
			*page = *old
		}
		pages[folder] = page
	}
	page.entries[chunk%chunksPerDir], page.sums[chunk%chunksPerDir] = entry, sums
}

func (in *installation) each(fn func(*chunkChange) error) error {
	for i := range in.changes {
		if err := fn(&in.changes[i]); err != nil {
			return err
		}
	}
	return nil
}

// syncFolders makes the names of all staged files durable, up to that of the staging folder itself:
// `prepared`, which stands beside it, must not survive a crash without it.
func (st *Staging) syncFolders(listed bool) error {
	dirs := map[string]bool{st.s.o.Dir: true}
	if listed {
		dirs[st.s.inDir(stagingName)] = true
	}
	for key, entry := range st.chunks {
		if entry&hasFile == 0 {
			continue
		}
		top := st.s.stagingFolder(key.object)
		dirs[st.s.inDir(stagingName)] = true
		dirs[top] = true
		dirs[fmt.Sprintf("%s/%02x", top, key.chunk>>16)] = true
		dirs[chunkFolder(top, uint16(key.chunk/chunksPerDir))] = true
	}
	list := make([]string, 0, len(dirs))
	for d := range dirs {
		list = append(list, d)
	}
	slices.Sort(list)
	for _, d := range list {
		if err := st.s.fs.SyncDir(d); err != nil {
			return fmt.Errorf("syncing the folder %s: %w", d, err)
		}
	}
	return nil
}

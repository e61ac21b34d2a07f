package store

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
)

// scratch is what one reader needs besides the caller's buffer.
type scratch struct {
	cells []cell
	used  int // of cells, at the most, since it was taken from the pool
	block [BlockSize]byte
}

// maxPiece is how many blocks are read in one go at most.
const maxPiece = 256

// room returns n cells.
func (sc *scratch) room(n int) []cell {
	if cap(sc.cells) < n {
		sc.cells = make([]cell, max(n, 16))
	}
	sc.used = max(sc.used, n)
	return sc.cells[:n]
}

// give returns sc to the pool without holding on to data.
func (s *Store) give(sc *scratch) {
	clear(sc.cells[:sc.used])
	sc.used = 0
	s.scratch.Put(sc)
}

// ReadAt fills p with the bytes of an object at off. What was never written reads as zeros. Each
// block that comes from the disk is checked against its record: a *DamageError says that it failed.
func (s *Store) ReadAt(object uint64, off int64, p []byte) error {
	return s.ReadSums(object, off, p, nil)
}

// ReadSums is ReadAt, and puts the CRC32C of each block-aligned piece of p into sums, which has
// op.Pieces(off, len(p)) places or is nil.
func (s *Store) ReadSums(object uint64, off int64, p []byte, sums []uint32) error {
	o, err := s.find(Newest, object)
	if err != nil {
		return err
	}
	if err := within(off, int64(len(p))); err != nil {
		return err
	}
	if sums != nil && len(sums) != op.Pieces(uint64(off), len(p)) {
		return fmt.Errorf("%w: %d sums for %d bytes at %d", ErrRange, len(sums), len(p), off)
	}
	return s.read(o, Newest, off, p, sums)
}

// read reads any part of an object, piece by piece. A piece is within one chunk.
func (s *Store) read(o *object, v View, off int64, p []byte, sums []uint32) error {
	sc := s.scratch.Get().(*scratch)
	defer s.give(sc)
	for len(p) > 0 {
		in := off % ChunkSize
		n := int(min(int64(len(p)), ChunkSize-in, maxPiece*BlockSize-in%BlockSize))
		count := op.Pieces(uint64(off), n)
		r := reader{s: s, o: o, chunk: uint32(off / ChunkSize), first: int(in / BlockSize),
			skip: int(in % BlockSize), p: p[:n], sc: sc}
		if sums != nil {
			r.sums, sums = sums[:count], sums[count:]
		}
		err := r.piece(v, sc.room(count))
		if r.file != nil {
			s.files.unpin(r.file)
		}
		if err != nil {
			return err
		}
		off, p = off+int64(n), p[n:]
	}
	return nil
}

// reader reads one piece: the bytes p from byte skip of block first of a chunk on.
type reader struct {
	s     *Store
	o     *object
	chunk uint32
	first int
	skip  int
	p     []byte
	sums  []uint32 // nil if nobody asks
	sc    *scratch
	file  *fileSlot // the chunk's file, when it is open
}

func (r *reader) piece(v View, cells []cell) error {
	g := r.s.gate(r.o, r.chunk)
	g.RLock()
	defer g.RUnlock()
	r.o.look(v, r.chunk, r.first, cells)
	if err := r.s.records(r.o, r.chunk, r.first, cells); err != nil {
		return err
	}
	for i := 0; i < len(cells); {
		n := 1
		var err error
		switch c := &cells[i]; {
		case c.kind != Data:
			clear(r.part(i))
			r.sum(i, zeroSum)
		case c.data != nil:
			lo, _ := r.span(i)
			copy(r.part(i), c.data[lo:])
			r.sum(i, c.sum)
		case !r.whole(i):
			err = r.partial(i, c)
		default:
			for i+n < len(cells) && cells[i+n].kind == Data && cells[i+n].data == nil && r.whole(i+n) {
				n++
			}
			err = r.run(i, cells[i:i+n])
		}
		if err != nil {
			return err
		}
		i += n
	}
	return nil
}

// span is the part of block i that is asked for.
func (r *reader) span(i int) (lo, hi int) {
	if i == 0 {
		lo = r.skip
	}
	return lo, min(BlockSize, len(r.p)+r.skip-i*BlockSize)
}

// part is where the part of block i that is asked for goes.
func (r *reader) part(i int) []byte {
	lo, hi := r.span(i)
	return r.p[i*BlockSize+lo-r.skip : i*BlockSize+hi-r.skip]
}

func (r *reader) whole(i int) bool {
	lo, hi := r.span(i)
	return lo == 0 && hi == BlockSize
}

// sum reports the checksum of block i, or of the part of it that is asked for.
func (r *reader) sum(i int, whole uint32) {
	switch {
	case r.sums == nil:
	case r.whole(i):
		r.sums[i] = whole
	default:
		r.sums[i] = op.Sum(r.part(i))
	}
}

// run reads and checks whole blocks that lie side by side.
func (r *reader) run(i int, cells []cell) error {
	at := i*BlockSize - r.skip
	p := r.p[at : at+len(cells)*BlockSize]
	if err := r.pread(p, i); err != nil {
		return err
	}
	for j := range cells {
		if err := r.verify(p[j*BlockSize:(j+1)*BlockSize], i+j, cells[j].sum); err != nil {
			return err
		}
		r.sum(i+j, cells[j].sum)
	}
	return nil
}

// partial reads and checks a block of which only a part is asked for.
func (r *reader) partial(i int, c *cell) error {
	b := r.sc.block[:]
	if err := r.pread(b, i); err != nil {
		return err
	}
	if err := r.verify(b, i, c.sum); err != nil {
		return err
	}
	lo, _ := r.span(i)
	copy(r.part(i), b[lo:])
	r.sum(i, c.sum)
	return nil
}

// pread reads from block i on. A file that is missing or short reads as zeros: then the check fails.
func (r *reader) pread(p []byte, i int) error {
	key := fileKey{object: r.o.number, number: r.chunk, kind: fileChunk}
	if r.file == nil {
		var err error
		r.file, err = r.s.open(r.o, key, 0)
		if errors.Is(err, fs.ErrNotExist) {
			clear(p)
			return nil
		}
		if err != nil {
			return err
		}
	}
	at := int64(r.first+i) * BlockSize
	err := readFull(r.file.value.f, p, at)
	if !unreadable(err) {
		if err != nil {
			err = fmt.Errorf("reading %s: %w", key.name(r.o), err)
		}
		return err
	}
	if len(p) > BlockSize { // which block is it?
		for n := 0; n < len(p); n += BlockSize {
			if err := r.pread(p[n:n+BlockSize], i+n/BlockSize); err != nil {
				return err
			}
		}
		return nil
	}
	return &DamageError{Object: r.o.number, Block: blockNumber(r.chunk, r.first+i), What: "data",
		File: key.name(r.o), Offset: at, Err: err}
}

func (r *reader) verify(b []byte, i int, want uint32) error {
	got := op.Sum(b)
	if got == want {
		return nil
	}
	return &DamageError{Object: r.o.number, Block: blockNumber(r.chunk, r.first+i), What: "data",
		File: chunkFile(r.o.folder, r.chunk), Offset: int64(r.first+i) * BlockSize, Want: want, Got: got}
}

// maxProbe bounds how many chunks one call of Allocated looks into.
const maxProbe = 256

// maxProbeEmpty bounds how many chunks without a file one call of Allocated passes over.
const maxProbeEmpty = 1 << 18

// Allocated says whether the block at off takes space, and how many bytes from off on are like it.
// length is at least 1, at most n, and may end before the state changes (GET LBA STATUS, SBC-3 5.4).
func (s *Store) Allocated(object uint64, off, n int64) (mapped bool, length int64, err error) {
	o, err := s.find(Newest, object)
	if err != nil {
		return false, 0, err
	}
	if err := within(off, n); err != nil {
		return false, 0, err
	}
	if n == 0 {
		return false, 0, fmt.Errorf("%w: no bytes at %d", ErrRange, off)
	}
	sc := s.scratch.Get().(*scratch)
	defer s.give(sc)
	end := off + n
	for at, probed, empty := off, 0, 0; ; {
		next := min(end, (at/ChunkSize+1)*ChunkSize)
		m, run, file, err := s.probe(o, at, next, sc)
		switch {
		case err != nil:
			return false, 0, err
		case at == off:
			mapped = m
		case m != mapped:
			return mapped, at - off, nil
		}
		if file {
			probed++
		} else {
			empty++
		}
		if at = run; run < next || at == end || probed == maxProbe || empty == maxProbeEmpty {
			return mapped, at - off, nil
		}
	}
}

// probe looks at the blocks of one chunk from at on, up to end: whether the first one takes space,
// where the run of blocks like it ends, and whether the chunk has a file at all.
func (s *Store) probe(o *object, at, end int64, sc *scratch) (mapped bool, run int64, file bool, err error) {
	chunk, first := uint32(at/ChunkSize), int(at%ChunkSize/BlockSize)
	if file = o.entry(Newest, chunk)&hasFile != 0; !file {
		return false, end, false, nil
	}
	cells := sc.room(op.Pieces(uint64(at), int(end-at)))
	if err := s.cells(o, Newest, chunk, first, cells); err != nil {
		return false, 0, true, err
	}
	mapped = cells[0].kind != Hole
	for i := range cells {
		if (cells[i].kind != Hole) != mapped {
			return mapped, int64(chunk)*ChunkSize + int64(first+i)*BlockSize, true, nil
		}
	}
	return mapped, end, true, nil
}

// cells finds what is known of the blocks first, first+1, … of a chunk, without their data where
// that is on disk.
func (s *Store) cells(o *object, v View, chunk uint32, first int, cells []cell) error {
	g := s.gate(o, chunk)
	g.RLock()
	defer g.RUnlock()
	o.look(v, chunk, first, cells)
	return s.records(o, chunk, first, cells)
}

// Chunks calls fn for each chunk of an object that has a file, or will have one, from the given one
// on and in order, until fn returns false.
func (s *Store) Chunks(object uint64, from uint32, fn func(chunk uint32) bool) error {
	o, err := s.find(Newest, object)
	if err != nil {
		return err
	}
	o.walk(Newest, from, func(chunk uint32, entry uint64) bool {
		return entry&hasFile == 0 || fn(chunk)
	})
	return nil
}

// ChangedSince calls fn for each chunk of an object that an entry after the given index changed, in
// order, with the index of the last one, until fn returns false.
func (s *Store) ChangedSince(v View, object, index uint64, fn func(chunk uint32, changed uint64) bool) error {
	o, err := s.find(v, object)
	if err != nil {
		return err
	}
	o.walk(v, 0, func(chunk uint32, entry uint64) bool {
		return entry&^hasFile <= index || fn(chunk, entry&^hasFile)
	})
	return nil
}

// Digest is a hash of an object's content, by the checksums of its blocks: equal bytes have equal
// digests, however they came about. It costs the records of all blocks, and reads no data.
func (s *Store) Digest(object uint64) (uint64, error) {
	o, err := s.find(Newest, object)
	if err != nil {
		return 0, err
	}
	sc := s.scratch.Get().(*scratch)
	defer s.give(sc)
	var sum uint64
	o.walk(Newest, 0, func(chunk uint32, entry uint64) bool {
		if entry&hasFile == 0 {
			return true
		}
		cells := sc.room(BlocksPerChunk)
		if err = s.cells(o, Newest, chunk, 0, cells); err != nil {
			return false
		}
		for i := range cells {
			if cells[i].kind == Data && cells[i].sum != zeroSum {
				sum += mix(blockNumber(chunk, i)<<20 ^ mix(uint64(cells[i].sum)))
			}
		}
		return true
	})
	return sum, err
}

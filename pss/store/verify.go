package store

import (
	"errors"
	"fmt"

	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
)

// VerifyBuffer is a good size of the buffer that Verify reads into, in bytes.
const VerifyBuffer = 1 << 20

// Verify reads what a chunk has on disk in the state that v shows, and returns the blocks whose bytes or
// records are damaged, with the first damage met. buf, at least BlockSize bytes long, is what it reads into.
// Holes and blocks in memory cost nothing. bytes is what was read.
func (s *Store) Verify(v View, object uint64, chunk uint32, buf []byte) (
	bad Blocks, bytes int, first *DamageError, err error,
) {
	o, err := s.find(v, object)
	if err != nil {
		return bad, 0, nil, err
	}
	if chunk >= MaxChunks || len(buf) < BlockSize {
		return bad, 0, nil, fmt.Errorf("%w: verifying chunk %d with %d bytes", ErrRange, chunk, len(buf))
	}
	sc := s.scratch.Get().(*scratch)
	defer s.give(sc)
	g := s.gate(o, chunk)
	g.RLock()
	defer g.RUnlock()
	cells := sc.room(BlocksPerChunk)
	o.look(v, chunk, 0, cells)
	if first, err = s.allRecords(o, chunk, cells, &bad); err != nil {
		return bad, 0, nil, err
	}
	r := reader{s: s, o: o, chunk: chunk}
	defer func() {
		if r.file != nil {
			s.files.unpin(r.file)
		}
	}()
	onDisk := func(i int) bool { return cells[i].kind == Data && cells[i].data == nil && !bad.Has(i) }
	for i := 0; i < len(cells); {
		n := 0
		for i+n < len(cells) && n < len(buf)/BlockSize && onDisk(i+n) {
			n++
		}
		if n == 0 {
			i++
			continue
		}
		d, err := r.verifyRun(buf[:n*BlockSize], i, cells[i:i+n], &bad)
		if err != nil {
			return bad, bytes, first, err
		}
		if first == nil {
			first = d
		}
		bytes += n * BlockSize
		i += n
	}
	return bad, bytes, first, nil
}

// verifyRun reads blocks that lie side by side, and adds those that are damaged to bad.
func (r *reader) verifyRun(p []byte, i int, cells []cell, bad *Blocks) (first *DamageError, err error) {
	var damage *DamageError
	whole := r.pread(p, i)
	if whole != nil && !errors.As(whole, &damage) {
		return nil, whole
	}
	for j := range cells {
		b := p[j*BlockSize : (j+1)*BlockSize]
		if whole != nil { // some of the blocks can't be read, and the others were not
			err = r.pread(b, i+j)
		}
		if err == nil {
			err = r.verify(b, i+j, cells[j].sum)
		}
		switch {
		case err == nil:
			continue
		case !errors.As(err, &damage):
			return first, err
		}
		err = nil
		bad.Add(i + j)
		if first == nil {
			first = damage
		}
	}
	return first, nil
}

// allRecords completes the cells of a whole chunk with the records on disk, as records does, but goes on where
// a record is damaged: the block is added to bad, and its cell's kind is 0.
func (s *Store) allRecords(o *object, chunk uint32, cells []cell, bad *Blocks) (first *DamageError, err error) {
	for at := 0; at < BlocksPerChunk; {
		end := (at/blocksPerPage + 1) * blocksPerPage
		var damage *DamageError
		err := s.recordsOfPage(o, chunk, at, cells[at:end])
		switch {
		case err == nil:
			at = end
			continue
		case !errors.As(err, &damage):
			return first, err
		case first == nil:
			first = damage
		}
		if damage.Err == nil { // one record: go on behind it
			i := int(damage.Block % BlocksPerChunk)
			bad.Add(i)
			at = i + 1
			continue
		}
		for ; at < end; at++ {
			if cells[at].kind == 0 {
				bad.Add(at)
			}
		}
	}
	return first, nil
}

// Mend gives back blocks of a chunk that are damaged here, from the image of the chunk at another server, and
// returns those of want that need nothing more. A block is taken only if it is proven to be the one that was lost:
//
//   - its record here is good: index and checksum are those of the image;
//   - its record is damaged, or the image's is of a later entry, because this one's write got lost: this server's chunk was changed last by entry L. The image shows the chunk at entry
//     L or later, and the block was changed last by an entry up to L: nothing changed it in between, here or
//     there. A block that no entry changed since the chunk was dropped tells nothing; for it the image must be
//     of entry L itself.
//
// What is taken goes the way of a write, but keeps its index: readers find it at once, and the disk is mended by
// the next flush. The image must have been checked (Parse). Apply side.
func (s *Store) Mend(img *Image, want *Blocks) (done Blocks, err error) {
	if img.Chunk >= MaxChunks {
		return done, fmt.Errorf("%w: mending chunk %d", ErrRange, img.Chunk)
	}
	o, err := s.find(Newest, img.Object)
	if err != nil {
		return done, err
	}
	newest := o.entry(Newest, img.Chunk)
	if newest&hasFile == 0 {
		return *want, nil // dropped since
	}
	sc := s.scratch.Get().(*scratch)
	defer s.give(sc)
	cells := sc.room(BlocksPerChunk)
	o.look(Newest, img.Chunk, 0, cells)
	var bad Blocks
	if _, err := s.allRecords(o, img.Chunk, cells, &bad); err != nil {
		return done, err
	}
	m := mender{s: s, o: o, img: img, newest: newest &^ hasFile}
	data := img.Data
	for i := range cells {
		var b []byte
		if img.Has.Has(i) {
			b, data = data[:BlockSize], data[BlockSize:]
		}
		switch {
		case !want.Has(i):
		case !bad.Has(i) && (cells[i].kind != Data || cells[i].data != nil): // overwritten since
			done.Add(i)
		case m.proven(i, &cells[i], bad.Has(i)):
			if m.put(i, b) {
				done.Add(i)
			}
		}
	}
	return done, nil
}

// mender puts blocks of an image into the overlay.
type mender struct {
	s      *Store
	o      *object
	img    *Image
	newest uint64 // index of the last entry that changed the chunk here
}

// proven says whether block i of the image is the one that is lost here. See Mend.
func (m *mender) proven(i int, local *cell, badRecord bool) bool {
	r, img := &m.img.Records[i], m.img
	if !img.File {
		return false
	}
	switch {
	case badRecord:
	case r.Index <= local.index: // were the record here not the last one, the image's would be of a later entry
		return r.Kind == Data && r.Index == local.index && r.Sum == local.sum
	}
	if r.Index == 0 {
		return img.Index == m.newest
	}
	return r.Index <= m.newest && m.newest <= img.Index
}

// put makes block i of the image, whose bytes are b, the newest version of the block. It reports false if the
// image has no bytes where there must be some.
func (m *mender) put(i int, b []byte) bool {
	r := &m.img.Records[i]
	c := cell{index: r.Index, sum: r.Sum, kind: r.Kind, src: inline}
	if r.Kind == Data {
		if b == nil || op.Sum(b) != r.Sum {
			return false
		}
		c.data = new([BlockSize]byte)
		copy(c.data[:], b)
	}
	m.o.mu.Lock()
	defer m.o.mu.Unlock()
	l := m.s.layer(m.o)
	n := l.chunks[m.img.Chunk]
	l.put(blockNumber(m.img.Chunk, i), c, &n)
	n.newest = m.newest
	l.chunks[m.img.Chunk] = n
	m.s.count(l, BlockSize, 1)
	return true
}

// LastChange is the index of the last entry that changed a chunk, 0 if none did.
func (s *Store) LastChange(object uint64, chunk uint32) (uint64, error) {
	o, err := s.find(Newest, object)
	if err != nil {
		return 0, err
	}
	return o.entry(Newest, chunk) &^ hasFile, nil
}

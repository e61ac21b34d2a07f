package store

import (
	"encoding/binary"
	"fmt"

	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
)

// Write makes data the bytes of an object at off. sums are the CRC32C of its block-aligned pieces,
// 4 bytes little-endian each, as an operation carries them; the caller has checked them. entryOffset
// is where data begins in the entry of the given index, which the log can give back. Whole blocks
// are kept by reference: nobody may change data any more. Apply side.
//
// A block that is written in part is read and merged. If that fails nothing has changed, and the
// call can be made again after Mend.
func (s *Store) Write(object uint64, off int64, data, sums []byte, entryOffset int, index uint64) error {
	o, err := s.change(object, off, int64(len(data)), index)
	if err != nil {
		return err
	}
	count := op.Pieces(uint64(off), len(data))
	if len(sums) != 4*count || entryOffset < 0 || entryOffset > op.MaxSize {
		return fmt.Errorf("%w: %d bytes of sums for %d blocks, at %d of the entry",
			ErrRange, len(sums), count, entryOffset)
	}
	if count == 0 {
		return nil
	}
	// Only the first and the last block can be partial.
	first, skip := uint64(off)/BlockSize, int(off%BlockSize)
	var head, tail cell
	if skip != 0 || len(data) < BlockSize {
		if head, err = s.merge(o, first, skip, data[:min(len(data), BlockSize-skip)], 0, index); err != nil {
			return err
		}
	}
	if end := (skip + len(data)) % BlockSize; end != 0 && count > 1 {
		if tail, err = s.merge(o, first+uint64(count-1), 0, data[len(data)-end:], 0, index); err != nil {
			return err
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	l := s.layer(o)
	for i := 0; i < count; {
		chunk := uint32((first + uint64(i)) / BlocksPerChunk)
		n := l.chunks[chunk]
		for ; i < count && uint32((first+uint64(i))/BlocksPerChunk) == chunk; i++ {
			at := i*BlockSize - skip
			switch {
			case i == 0 && head.kind != 0:
				l.put(first, head, &n)
			case i == count-1 && tail.kind != 0:
				l.put(first+uint64(i), tail, &n)
			default:
				l.put(first+uint64(i), cell{data: (*[BlockSize]byte)(data[at:]), index: index, kind: Data,
					sum: binary.LittleEndian.Uint32(sums[4*i:]), src: int32(entryOffset + at)}, &n)
			}
		}
		l.chunks[chunk] = n
	}
	merged := 0
	for _, c := range [...]cell{head, tail} {
		if c.kind != 0 {
			merged++
		}
	}
	bytes := merged * BlockSize
	if count > merged {
		bytes += len(data) // whole blocks keep the entry's buffer
	}
	s.count(l, bytes, count)
	return nil
}

// count adds to what the overlay counts. The caller holds the lock of l's object.
func (s *Store) count(l *layer, bytes, blocks int) {
	n := int64(bytes) + int64(blocks)*cellBytes + noteBytes
	l.bytes += n
	s.activeBytes.Add(n)
}

// change checks an operation and finds its object.
func (s *Store) change(object uint64, off, n int64, index uint64) (*object, error) {
	if err := s.step(index); err != nil {
		return nil, err
	}
	if err := within(off, n); err != nil {
		return nil, err
	}
	return s.find(Newest, object)
}

// merge makes the version of a block in which piece, or if that is nil n zeros, is put over the old
// content at byte at.
func (s *Store) merge(o *object, block uint64, at int, piece []byte, n int, index uint64) (cell, error) {
	b := new([BlockSize]byte)
	if err := s.read(o, Newest, int64(block)*BlockSize, b[:], nil); err != nil {
		return cell{}, fmt.Errorf("reading the rest of block %d of object %d: %w", block, o.number, err)
	}
	if piece == nil {
		clear(b[at : at+n])
	} else {
		copy(b[at:], piece)
	}
	return cell{data: b, index: index, sum: op.Sum(b[:]), src: inline, kind: Data}, nil
}

// Zero makes n bytes of an object at off read as zeros, n up to op.MaxZeroes. With free their space
// is given back as far as whole blocks go; otherwise it is kept. It costs in proportion to the
// chunks in the range that exist and the blocks at its two ends. Partial blocks are merged as in
// Write. Apply side.
func (s *Store) Zero(object uint64, off, n int64, index uint64, free bool) error {
	o, err := s.change(object, off, n, index)
	if err != nil {
		return err
	}
	if n > op.MaxZeroes {
		return fmt.Errorf("%w: zeroing %d bytes at once", ErrRange, n)
	}
	kind := Zeros
	if free {
		kind = Hole
	}
	z := zeroer{s: s, o: o, kind: kind, index: index}
	if err := z.edges(off, off+n); err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	z.edgeBlocks()
	for chunk := off / ChunkSize; n > 0 && chunk <= (off+n-1)/ChunkSize; chunk++ {
		z.chunk(uint32(chunk), off, off+n)
	}
	z.done()
	return nil
}

// Truncate drops all bytes of an object at size and beyond: they read as zeros from now on. It
// costs in proportion to the chunks there that exist. Apply side.
func (s *Store) Truncate(object uint64, size int64, index uint64) error {
	o, err := s.change(object, size, 0, index)
	if err != nil {
		return err
	}
	z := zeroer{s: s, o: o, kind: Hole, index: index}
	if err := z.edges(size, (size+BlockSize-1)/BlockSize*BlockSize); err != nil {
		return err
	}
	var chunks []uint32
	o.walk(Newest, uint32(size/ChunkSize), func(chunk uint32, entry uint64) bool {
		if entry&hasFile != 0 {
			chunks = append(chunks, chunk)
		}
		return true
	})
	o.mu.Lock()
	defer o.mu.Unlock()
	z.edgeBlocks()
	for _, c := range chunks {
		z.chunk(c, size, op.MaxVolume)
	}
	z.done()
	return nil
}

// zeroer carries out Zero and Truncate.
type zeroer struct {
	s     *Store
	o     *object
	kind  Kind
	index uint64
	edge  [2]struct { // partial blocks at the two ends
		block uint64
		cell  cell
	}
	bytes, blocks int
}

// edges merges the partial blocks at the ends of [from, to).
func (z *zeroer) edges(from, to int64) error {
	if from >= to {
		return nil
	}
	first, last := from/BlockSize, (to-1)/BlockSize
	lo, hi := int(from%BlockSize), int((to-1)%BlockSize)+1
	if first == last {
		if lo == 0 && hi == BlockSize {
			return nil
		}
		return z.merge(0, first, lo, hi)
	}
	if lo != 0 {
		if err := z.merge(0, first, lo, BlockSize); err != nil {
			return err
		}
	}
	if hi != BlockSize {
		return z.merge(1, last, 0, hi)
	}
	return nil
}

// merge prepares an edge, unless its chunk has nothing to zero.
func (z *zeroer) merge(i int, block int64, lo, hi int) error {
	if z.o.entry(Newest, uint32(block/BlocksPerChunk))&hasFile == 0 {
		return nil
	}
	c, err := z.s.merge(z.o, uint64(block), lo, nil, hi-lo, z.index)
	z.edge[i].block, z.edge[i].cell = uint64(block), c
	return err
}

// edgeBlocks puts the merged blocks in place. The caller holds o.mu.
func (z *zeroer) edgeBlocks() {
	for _, e := range z.edge {
		if e.cell.kind == 0 {
			continue
		}
		chunk := uint32(e.block / BlocksPerChunk)
		l := z.s.layer(z.o)
		n := l.chunks[chunk]
		l.put(e.block, e.cell, &n)
		l.chunks[chunk] = n
		z.bytes += BlockSize
		z.blocks++
	}
}

// chunk zeroes the whole blocks of a chunk that are within [from, to). The caller holds o.mu.
func (z *zeroer) chunk(chunk uint32, from, to int64) {
	base := int64(chunk) * ChunkSize
	from, to = max(from, base), min(to, base+ChunkSize)
	if z.o.chunk(Newest, chunk)&hasFile == 0 {
		return
	}
	if from == base && to == base+ChunkSize {
		l := z.s.layer(z.o)
		l.wipe(chunk, z.kind, z.index)
		z.s.count(l, 0, 0)
		return
	}
	first, end := (from+BlockSize-1)/BlockSize, to/BlockSize
	if first >= end {
		return
	}
	l := z.s.layer(z.o)
	n := l.chunks[chunk]
	for b := first; b < end; b++ {
		l.put(uint64(b), cell{index: z.index, kind: z.kind}, &n)
	}
	l.chunks[chunk] = n
	z.blocks += int(end - first)
}

// done counts what was added. The caller holds o.mu.
func (z *zeroer) done() {
	if z.blocks > 0 {
		z.s.count(z.o.active, z.bytes, z.blocks)
	}
}

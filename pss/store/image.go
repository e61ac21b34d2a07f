package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"

	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
)

// Blocks is a set of blocks of one chunk.
type Blocks [BlocksPerChunk / 64]uint64

// Has says whether block i is in the set.
func (b *Blocks) Has(i int) bool { return b[i/64]>>(i%64)&1 != 0 }

// Add puts block i into the set.
func (b *Blocks) Add(i int) { b[i/64] |= 1 << (i % 64) }

// Remove takes the blocks of other out of the set.
func (b *Blocks) Remove(other *Blocks) {
	for i := range b {
		b[i] &^= other[i]
	}
}

// Union puts the blocks of other into the set.
func (b *Blocks) Union(other *Blocks) {
	for i := range b {
		b[i] |= other[i]
	}
}

// Len is the number of blocks in the set.
func (b *Blocks) Len() int {
	n := 0
	for _, w := range b {
		n += bits.OnesCount64(w)
	}
	return n
}

// Image is the content of a chunk at one moment, as it travels to a server that catches up: the
// records of all blocks, and the bytes of those that were asked for.
type Image struct {
	Object  uint64
	Chunk   uint32
	Index   uint64 // of the last entry that changed the chunk; 0 if none did
	File    bool   // false: the chunk reads as zeros, and there are no records
	Records [BlocksPerChunk]Record
	Has     Blocks // the blocks whose bytes are in Data; all of kind Data
	Data    []byte // their bytes, in order
}

// Export makes img the image of a chunk in the state that v shows, with the bytes of those blocks
// that are in want and of kind Data; want nil means all. Everything in it is of one moment. The
// memory of img is used again.
func (s *Store) Export(v View, object uint64, chunk uint32, want *Blocks, img *Image) error {
	o, err := s.find(v, object)
	if err != nil {
		return err
	}
	if chunk >= MaxChunks {
		return fmt.Errorf("%w: chunk %d", ErrRange, chunk)
	}
	sc := s.scratch.Get().(*scratch)
	defer s.give(sc)
	g := s.gate(o, chunk)
	g.RLock()
	defer g.RUnlock()
	// Entry and blocks are looked up in two steps: do it again if an entry came between.
	cells := sc.room(BlocksPerChunk)
	var entry uint64
	for again := true; again; again = o.entry(v, chunk) != entry {
		entry = o.entry(v, chunk)
		o.look(v, chunk, 0, cells)
	}
	img.Object, img.Chunk, img.Index, img.File = object, chunk, entry&^hasFile, entry&hasFile != 0
	img.Has, img.Data = Blocks{}, img.Data[:0]
	if !img.File {
		clear(img.Records[:])
		return nil
	}
	if err := s.records(o, chunk, 0, cells); err != nil {
		return err
	}
	for i := range cells {
		c := &cells[i]
		img.Records[i] = Record{c.sum, c.kind, c.index}
		if c.kind == Data && (want == nil || want.Has(i)) {
			img.Has.Add(i)
		}
	}
	return s.exportData(o, cells, img)
}

// exportData puts the bytes of the blocks in img.Has into img.Data.
func (s *Store) exportData(o *object, cells []cell, img *Image) error {
	n := img.Has.Len() * BlockSize
	if cap(img.Data) < n {
		img.Data = make([]byte, n)
	}
	img.Data = img.Data[:n]
	r := reader{s: s, o: o, chunk: img.Chunk, p: img.Data}
	defer func() {
		if r.file != nil {
			s.files.unpin(r.file)
		}
	}()
	p := img.Data
	for i := 0; i < len(cells); {
		if !img.Has.Has(i) {
			i++
			continue
		}
		if cells[i].data != nil {
			p = p[copy(p, cells[i].data[:]):]
			i++
			continue
		}
		n := 1
		for i+n < len(cells) && img.Has.Has(i+n) && cells[i+n].data == nil {
			n++
		}
		if err := r.pread(p[:n*BlockSize], i); err != nil {
			return err
		}
		for ; n > 0; i, n = i+1, n-1 {
			if err := r.verify(p[:BlockSize], i, cells[i].sum); err != nil {
				return err
			}
			p = p[BlockSize:]
		}
	}
	return nil
}

// The byte form of an Image, all integers little-endian:
//
//	 0  u64  object
//	 8  u32  chunk
//	12  u32  1 if the chunk has a file, else 0
//	16  u64  index
//	24       if it has a file: for each block u32 sum, u8 kind | u8 1 if its bytes are here, u16 0, u64 index
//	         the bytes of blocks, in order
const imageHead = 24

// MaxImage is the size of the byte form of an Image at most, in bytes.
const MaxImage = imageHead + BlocksPerChunk*(recordSize+BlockSize)

// ErrImage is wrapped by the errors of Image.Parse.
var ErrImage = errors.New("not the image of a chunk")

// Append appends the byte form of the image.
func (img *Image) Append(b []byte) []byte {
	le := binary.LittleEndian
	b = le.AppendUint64(b, img.Object)
	b = le.AppendUint32(b, img.Chunk)
	file := uint32(0)
	if img.File {
		file = 1
	}
	b = le.AppendUint32(b, file)
	b = le.AppendUint64(b, img.Index)
	if !img.File {
		return b
	}
	for i := range img.Records {
		r := &img.Records[i]
		has := byte(0)
		if img.Has.Has(i) {
			has = 1
		}
		b = le.AppendUint32(b, r.Sum)
		b = append(b, byte(r.Kind), has, 0, 0)
		b = le.AppendUint64(b, r.Index)
	}
	return append(b, img.Data...)
}

// Parse reads what Append made; Data becomes a view into b. The bytes of each block are checked
// against its sum.
func (img *Image) Parse(b []byte) error {
	le := binary.LittleEndian
	if len(b) < imageHead {
		return fmt.Errorf("%w: %d bytes", ErrImage, len(b))
	}
	file := le.Uint32(b[12:])
	img.Object, img.Chunk, img.Index, img.File = le.Uint64(b), le.Uint32(b[8:]), le.Uint64(b[16:]), file == 1
	img.Has, img.Data = Blocks{}, nil
	if img.Chunk >= MaxChunks || img.Index >= hasFile || file > 1 || img.File && img.Index == 0 {
		return fmt.Errorf("%w: chunk %d at index %d", ErrImage, img.Chunk, img.Index)
	}
	b = b[imageHead:]
	if !img.File {
		clear(img.Records[:])
		if len(b) > 0 {
			return fmt.Errorf("%w: %d bytes of a chunk without a file", ErrImage, len(b))
		}
		return nil
	}
	if len(b) < BlocksPerChunk*recordSize {
		return fmt.Errorf("%w: it ends too early", ErrImage)
	}
	for i := range img.Records {
		at := b[i*recordSize:]
		r := Record{le.Uint32(at), Kind(at[4]), le.Uint64(at[8:])}
		if at[5] > 1 || le.Uint16(at[6:]) != 0 || r.Kind < Hole || r.Kind > Zeros ||
			r.Kind != Data && (r.Sum != 0 || at[5] != 0) || r.Index > img.Index {
			return fmt.Errorf("%w: the record of block %d", ErrImage, i)
		}
		img.Records[i] = r
		if at[5] == 1 {
			img.Has.Add(i)
		}
	}
	img.Data = b[BlocksPerChunk*recordSize:]
	return img.check()
}

// check checks Data against Has and Records.
func (img *Image) check() error {
	if len(img.Data) != img.Has.Len()*BlockSize {
		return fmt.Errorf("%w: %d bytes for %d blocks", ErrImage, len(img.Data), img.Has.Len())
	}
	p := img.Data
	for i := range img.Records {
		if !img.Has.Has(i) {
			continue
		}
		if op.Sum(p[:BlockSize]) != img.Records[i].Sum {
			return fmt.Errorf("%w: the bytes of block %d", ErrImage, i)
		}
		p = p[BlockSize:]
	}
	return nil
}

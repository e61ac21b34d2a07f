package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"iter"
	"maps"
	"slices"

	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
)

// An object's index has one Record for each chunk: its kind is never, gone or filed, its index that
// of the last entry that changed the chunk, its sum 0. The records of the 256 chunks of a folder
// make a page, which is written as a whole; a page of which no chunk was ever changed is not there,
// or all zeros. The object table of the checkpoint holds for each object the number of pages and
// the exclusive or of their checksums, so that a page that got lost or is old is noticed.

// What the records of a chunk must be is known, too, so that one that the disk lost, and whose older version is whole by
// itself, is noticed with its data or without: for each folder the file `pages` holds, 1024 u32 in a page, the CRC32C
// of each page of records as it was written last (pageSum; 0: not known, of a chunk without a file or from a version
// of the program before these sums). Its pages are in the checkpoint's sum, too.

// folderIndex is a page of an index in memory.
type folderIndex struct {
	entries [chunksPerDir]uint64                // for each chunk the index, with hasFile if it is filed
	sums    [chunksPerDir][pagesPerChunk]uint32 // of its pages of records; 0: not known
}

// hasFile marks a chunk that has a file. Indexes stay below it.
const hasFile = 1 << 63

// indexPlace keeps records of chunks from being taken for records of blocks.
const indexPlace = 1 << 48

// encode makes the bytes of page number folder of object's index.
func (x *folderIndex) encode(b *[pageSize]byte, object uint64, folder uint16) {
	for i, e := range x.entries {
		r := Record{Kind: gone, Index: e &^ hasFile}
		switch {
		case e == 0:
			r.Kind = never
		case e&hasFile != 0:
			r.Kind = filed
		}
		r.put(b[i*recordSize:], object, indexPlace|uint64(folder)*chunksPerDir|uint64(i))
	}
}

// decode reads what encode made. Sectors of zeros, which a crash can leave in a new page, stand for
// chunks that never changed. bad is the number of the first chunk whose record is damaged, or -1.
func (x *folderIndex) decode(b *[pageSize]byte, object uint64, folder uint16) (bad int, want, got uint32) {
	for i := range x.entries {
		at := b[i*recordSize:]
		if isZero(at) {
			x.entries[i] = 0
			continue
		}
		var r Record
		want, got, ok := r.get(at, object, indexPlace|uint64(folder)*chunksPerDir|uint64(i))
		if !ok || r.Kind < never || r.Sum != 0 || r.Index&hasFile != 0 || (r.Index == 0) != (r.Kind == never) {
			return i, want, got
		}
		x.entries[i] = r.Index
		if r.Kind == filed {
			x.entries[i] |= hasFile
		}
	}
	return -1, 0, 0
}

// indexSum is what a page adds to the sum in the object table.
func indexSum(folder uint16, b *[pageSize]byte) uint32 {
	var f [2]byte
	binary.LittleEndian.PutUint16(f[:], folder)
	return crc32.Update(crc32.Checksum(f[:], castagnoli), castagnoli, b[:])
}

// encodeSums makes the bytes of the page of sums, and says whether any is known.
func (x *folderIndex) encodeSums(b *[pageSize]byte) (any bool) {
	for i := range x.sums {
		for j, sum := range x.sums[i] {
			any = any || sum != 0
			binary.LittleEndian.PutUint32(b[4*(i*pagesPerChunk+j):], sum)
		}
	}
	return any
}

// decodeSums reads what encodeSums made. Nothing in it can be wrong by itself: the checkpoint's sum tells.
func (x *folderIndex) decodeSums(b *[pageSize]byte) {
	for i := range x.sums {
		for j := range x.sums[i] {
			x.sums[i][j] = binary.LittleEndian.Uint32(b[4*(i*pagesPerChunk+j):])
		}
	}
}

// pageSum is the sum of a page of records; never 0.
func pageSum(b *[pageSize]byte) uint32 { return max(1, crc32.Checksum(b[:], castagnoli)) }

// sumsMark keeps the sum of a page of sums from being that of a page of the index.
const sumsMark = 's'

// sumOf is what page x, with its sums, adds to the sum in the object table; 0 if there is none.
func (x *folderIndex) sumOf(object uint64, folder uint16) uint32 {
	if x == nil {
		return 0
	}
	var b [pageSize]byte
	x.encode(&b, object, folder)
	sum := indexSum(folder, &b)
	if x.encodeSums(&b) {
		sum ^= crc32.Update(crc32.Checksum([]byte{sumsMark, byte(folder), byte(folder >> 8)}, castagnoli), castagnoli, b[:])
	}
	return sum
}

// loadIndex reads the object's index and the sums of its records into o.base, and computes o.baseSum.
func (s *Store) loadIndex(o *object) error {
	if err := s.loadPages(o); err != nil {
		return err
	}
	for folder, x := range o.base {
		o.baseSum ^= x.sumOf(o.number, folder)
	}
	return nil
}

func (s *Store) loadPages(o *object) error {
	return s.ifThere(o.folder+"/"+indexName, func(f disk.File, name string) error {
		o.onDisk = true
		if err := o.readIndex(f, name); err != nil {
			return err
		}
		return s.ifThere(o.folder+"/"+pagesName, o.readSums)
	})
}

// ifThere has read read a file, if there is one.
func (s *Store) ifThere(name string, read func(f disk.File, name string) error) error {
	f, err := s.fs.Open(name, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("opening %s: %w", name, err)
	}
	defer f.Close()
	return read(f, name)
}

// readSums reads the sums of the object's records.
func (o *object) readSums(f disk.File, name string) error {
	var b [pageSize]byte
	for folder, x := range o.base {
		if err := readFull(f, b[:], int64(folder)*pageSize); err != nil {
			return fmt.Errorf("reading %s: %w", name, err)
		}
		x.decodeSums(&b)
	}
	return nil
}

func (o *object) readIndex(f disk.File, name string) error {
	size, err := f.Size()
	if err != nil {
		return fmt.Errorf("reading %s: %w", name, err)
	}
	if size > pageSize*(MaxChunks/chunksPerDir) {
		return &DamageError{Object: o.number, File: name, What: "size", Offset: size}
	}
	var b [pageSize]byte
	for folder := range (size + pageSize - 1) / pageSize {
		if err := readFull(f, b[:], folder*pageSize); err != nil {
			return fmt.Errorf("reading %s: %w", name, err)
		}
		if b == [pageSize]byte{} {
			continue
		}
		x := new(folderIndex)
		if bad, want, got := x.decode(&b, o.number, uint16(folder)); bad >= 0 {
			return &DamageError{Object: o.number, Block: uint64(bad) * BlocksPerChunk, File: name,
				What: "record", Offset: folder*pageSize + int64(bad*recordSize), Want: want, Got: got}
		}
		o.base[uint16(folder)] = x
	}
	return nil
}

// sortedPages goes through pages in order of their folders.
func sortedPages(pages map[uint16]*folderIndex) iter.Seq2[uint16, *folderIndex] {
	return func(yield func(uint16, *folderIndex) bool) {
		for _, folder := range slices.Sorted(maps.Keys(pages)) {
			if !yield(folder, pages[folder]) {
				return
			}
		}
	}
}

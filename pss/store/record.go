package store

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
)

// Geometry. These are part of the disk format.
const (
	BlockSize      = op.BlockSize             // bytes that one record describes
	ChunkSize      = op.ChunkSize             // bytes of a chunk file
	BlocksPerChunk = ChunkSize / BlockSize    // 1024
	MaxChunks      = op.MaxVolume / ChunkSize // chunks of an object; their numbers have 24 bits
	chunksPerDir   = 256                      // chunks whose records share a sums file and an index page
	pagesPerChunk  = 4                        // pages of records that describe a chunk
	blocksPerPage  = BlocksPerChunk / pagesPerChunk
	pageSize       = blocksPerPage * recordSize // bytes
)

// Kind says what a block, or a chunk, is. The numbers are part of the disk format.
type Kind uint8

// The kinds. The last three are used for chunks in an index, the others for blocks.
const (
	_     Kind = iota
	Hole       // never written, or unmapped: reads as zeros, takes no space
	Data       // written
	Zeros      // written with zeros by Zero without free: reads as zeros, keeps its space
	never      // nothing ever changed the chunk
	gone       // the chunk was dropped as a whole: it has no file, and reads as zeros
	filed      // the chunk has a file
	kinds
)

// String names the kind.
func (k Kind) String() string {
	if k > 0 && k < kinds {
		return [...]string{"", "hole", "data", "zeros", "never", "gone", "filed"}[k]
	}
	return "bad kind"
}

// Record is what is known of a block besides its bytes.
type Record struct {
	Sum   uint32 // CRC32C of the block's bytes; 0 if Kind is not Data
	Kind  Kind
	Index uint64 // of the entry that changed the block last; 0 if none did
}

// recordSize is the size of an encoded Record in bytes:
//
//	0  u32  sum
//	4  u8   kind
//	5  u24  check: the low 24 bits of mix(mix(mix(mix(object) ^ block) ^ index) ^ (sum | kind<<32))
//	8  u64  index
//
// where mix is the finalizer of splitmix64, see the function. The check binds a record to its object
// and block, so that a record that was lost, damaged or written to the wrong place is noticed. A
// record of zeros is never valid.
const recordSize = 16

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// zeroSum is the CRC32C of a block of zeros.
const zeroSum = 0x98f94189

// check is the value of the check field of r as the record of block number place of object.
func (r *Record) check(object, place uint64) uint32 {
	h := mix(mix(mix(object)^place) ^ r.Index)
	return uint32(mix(h^uint64(r.Sum)^uint64(r.Kind)<<32)) & 0xffffff
}

// put encodes r, the record of place in object, into b.
func (r *Record) put(b []byte, object, place uint64) {
	le := binary.LittleEndian
	le.PutUint32(b[0:], r.Sum)
	le.PutUint32(b[4:], uint32(r.Kind)|r.check(object, place)<<8)
	le.PutUint64(b[8:], r.Index)
}

// get decodes the record of place in object from b. If it is not valid, ok is false and want and
// got are the check it should have and the one it has.
func (r *Record) get(b []byte, object, place uint64) (want, got uint32, ok bool) {
	le := binary.LittleEndian
	w := le.Uint32(b[4:])
	r.Sum, r.Kind, r.Index = le.Uint32(b[0:]), Kind(w), le.Uint64(b[8:])
	want, got = r.check(object, place), w>>8
	return want, got, want == got && r.Kind > 0 && r.Kind < kinds
}

// isZero says whether a record's bytes are all zero, which stands for "not there" in an index.
func isZero(b []byte) bool {
	return binary.LittleEndian.Uint64(b) == 0 && binary.LittleEndian.Uint64(b[8:]) == 0
}

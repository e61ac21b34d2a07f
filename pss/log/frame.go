package log

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
)

// The numbers of the format; see the package's comment.
const (
	version    = 1
	magic      = 'P' | 'L'<<8 | 'F'<<16 | version<<24
	headerSize = 128 // bytes
	rowSize    = 24  // bytes of an entry in the table
	blockSize  = disk.Align

	flagReset = 1
)

// Limits of one frame and one entry.
const (
	// MaxEntryBytes is the longest data of one entry.
	MaxEntryBytes = 8 << 20
	// frameTarget is the size in bytes up to which an Append is one frame and so one write.
	frameTarget = 4 << 20
	// maxFrame bounds what recovery believes of a header: one frame of several entries, or of one.
	maxFrame = max(frameTarget, headerSize+rowSize+MaxEntryBytes)
)

// castagnoli is never changed.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// header is the header of a frame; see the package's comment for the fields.
type header struct {
	sum       uint32
	before    uint32
	tableSum  uint32
	segment   uint64
	offset    uint64
	synced    uint64
	epoch     uint64
	size      uint32
	count     uint32
	flags     uint32
	prevIndex uint64
	prevTerm  uint64
	hard      HardState
	identity  uint64
}

// encode writes the header into b and sets its sum.
func (h *header) encode(b []byte) {
	le := binary.LittleEndian
	b = b[:headerSize]
	clear(b)
	le.PutUint32(b[0:], magic)
	le.PutUint32(b[8:], h.before)
	le.PutUint32(b[12:], h.tableSum)
	le.PutUint64(b[16:], h.segment)
	le.PutUint64(b[24:], h.offset)
	le.PutUint64(b[32:], h.synced)
	le.PutUint64(b[40:], h.epoch)
	le.PutUint32(b[48:], h.size)
	le.PutUint32(b[52:], h.count)
	le.PutUint32(b[56:], h.flags)
	le.PutUint64(b[64:], h.prevIndex)
	le.PutUint64(b[72:], h.prevTerm)
	le.PutUint64(b[80:], h.hard.Term)
	le.PutUint64(b[88:], h.hard.Vote)
	le.PutUint64(b[96:], h.hard.Commit)
	le.PutUint64(b[104:], h.identity)
	h.sum = crc32.Checksum(b[8:], castagnoli)
	le.PutUint32(b[4:], h.sum)
}

// decode reads a header and says whether it is one: whole, of this version, with a size that
// can be. It says nothing about the place, nor about what follows.
func (h *header) decode(b []byte) bool {
	le := binary.LittleEndian
	if len(b) < headerSize {
		return false
	}
	b = b[:headerSize]
	if le.Uint32(b[0:]) != magic || le.Uint32(b[4:]) != crc32.Checksum(b[8:], castagnoli) {
		return false
	}
	*h = header{
		sum:       le.Uint32(b[4:]),
		before:    le.Uint32(b[8:]),
		tableSum:  le.Uint32(b[12:]),
		segment:   le.Uint64(b[16:]),
		offset:    le.Uint64(b[24:]),
		synced:    le.Uint64(b[32:]),
		epoch:     le.Uint64(b[40:]),
		size:      le.Uint32(b[48:]),
		count:     le.Uint32(b[52:]),
		flags:     le.Uint32(b[56:]),
		prevIndex: le.Uint64(b[64:]),
		prevTerm:  le.Uint64(b[72:]),
		hard:      HardState{Term: le.Uint64(b[80:]), Vote: le.Uint64(b[88:]), Commit: le.Uint64(b[96:])},
		identity:  le.Uint64(b[104:]),
	}
	return h.size <= maxFrame && uint64(headerSize)+rowSize*uint64(h.count) <= uint64(h.size)
}

// row is an entry in the table of a frame.
type row struct {
	term uint64
	size uint32
	sum  uint32
	kind uint8
}

func (r row) encode(b []byte) {
	le := binary.LittleEndian
	b = b[:rowSize]
	le.PutUint64(b[0:], r.term)
	le.PutUint32(b[8:], r.size)
	le.PutUint32(b[12:], r.sum)
	le.PutUint64(b[16:], uint64(r.kind))
}

func decodeRow(b []byte) row {
	le := binary.LittleEndian
	b = b[:rowSize]
	return row{term: le.Uint64(b[0:]), size: le.Uint32(b[8:]), sum: le.Uint32(b[12:]), kind: b[16]}
}

// frameSize is the size in bytes of a frame with the given entries, without the filling.
func frameSize(entries []Entry) int {
	size := headerSize + rowSize*len(entries)
	for i := range entries {
		size += len(entries[i].Data)
	}
	return size
}

// encodeFrame writes the frame with its filling into b, which has room for it, and completes h.
func encodeFrame(b []byte, h *header, entries []Entry) {
	at := headerSize + rowSize*len(entries)
	table := b[headerSize:at]
	for i := range entries {
		e := &entries[i]
		sum := crc32.Checksum(e.Data, castagnoli)
		row{term: e.Term, size: uint32(len(e.Data)), sum: sum, kind: e.Kind}.encode(table[rowSize*i:])
		at += copy(b[at:], e.Data)
	}
	clear(b[at:alignUp(at)])
	h.size, h.count = uint32(at), uint32(len(entries))
	h.tableSum = crc32.Checksum(table, castagnoli)
	h.encode(b)
}

// checkBody compares table and data of a frame with its header. b is the frame without the filling.
// The offset in the error counts from the frame's start.
func checkBody(h *header, b []byte) *DamageError {
	at := headerSize + rowSize*int(h.count)
	table := b[headerSize:at]
	if sum := crc32.Checksum(table, castagnoli); sum != h.tableSum {
		return &DamageError{Offset: headerSize, What: "checksum of a frame's table",
			Want: uint64(h.tableSum), Got: uint64(sum)}
	}
	for ; len(table) > 0; table = table[rowSize:] {
		r := decodeRow(table)
		if int64(r.size) > int64(len(b)-at) {
			return &DamageError{Offset: int64(at), What: "bytes left in a frame for an entry",
				Want: uint64(r.size), Got: uint64(len(b) - at)}
		}
		data := b[at : at+int(r.size)]
		if sum := crc32.Checksum(data, castagnoli); sum != r.sum {
			return &DamageError{Offset: int64(at), What: "checksum of an entry", Want: uint64(r.sum), Got: uint64(sum)}
		}
		at += len(data)
	}
	if at != len(b) {
		return &DamageError{Offset: int64(at), What: "size of a frame", Want: uint64(at), Got: uint64(len(b))}
	}
	return nil
}

// alignUp rounds up to whole blocks.
func alignUp[T int | int64](n T) T { return (n + blockSize - 1) &^ (blockSize - 1) }

// alignDown rounds down to whole blocks.
func alignDown[T int | int64](n T) T { return n &^ (blockSize - 1) }

// DamageError reports bytes in the log that are not what was written there. The log does not
// touch them. Whoever gets it can't rely on what the log holds from there on.
type DamageError struct {
	File      string
	Offset    int64  // bytes from the start of the file
	What      string // what is wrong there
	Want, Got uint64
}

// Error implements error.
func (e *DamageError) Error() string {
	return fmt.Sprintf("%s is damaged at offset %d: %s: want %#x, got %#x", e.File, e.Offset, e.What, e.Want, e.Got)
}

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
	bodyMagic  = 'P' | 'L'<<8 | 'F'<<16 | (version+1)<<24 // of frames with entries whose end is in a body
	headerSize = 128                                      // bytes
	rowSize    = 24                                       // bytes of an entry in the table
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
	bodies    uint64 // the lowest number of a body that the table names, 0 if it names none
}

// encode writes the header into b and sets its sum.
func (h *header) encode(b []byte) {
	le := binary.LittleEndian
	b = b[:headerSize]
	clear(b)
	le.PutUint32(b[0:], magic)
	if h.bodies != 0 {
		le.PutUint32(b[0:], bodyMagic)
	}
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
	le.PutUint64(b[112:], h.bodies)
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
	kind := le.Uint32(b[0:])
	if kind != magic && kind != bodyMagic || le.Uint32(b[4:]) != crc32.Checksum(b[8:], castagnoli) {
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
		bodies:    le.Uint64(b[112:]),
	}
	return (h.bodies != 0) == (kind == bodyMagic) && h.size <= maxFrame && uint64(headerSize)+rowSize*uint64(h.count) <= uint64(h.size)
}

// row is an entry in the table of a frame.
type row struct {
	term uint64
	size uint32
	sum  uint32
	kind uint8
	// Of the part of a body that has the end of the data, if blocks is not 0: its blocks, the first of them, and the
	// body's number less the one that the header names.
	blocks, block, body uint16
}

// inline is how many bytes of the data are in the frame.
func (r *row) inline() int64 { return int64(r.size) - int64(r.blocks)*blockSize }

func (r row) encode(b []byte) {
	le := binary.LittleEndian
	b = b[:rowSize]
	le.PutUint64(b[0:], r.term)
	le.PutUint32(b[8:], r.size)
	le.PutUint32(b[12:], r.sum)
	le.PutUint16(b[16:], uint16(r.kind))
	le.PutUint16(b[18:], r.blocks)
	le.PutUint16(b[20:], r.block)
	le.PutUint16(b[22:], r.body)
}

func decodeRow(b []byte) row {
	le := binary.LittleEndian
	b = b[:rowSize]
	return row{term: le.Uint64(b[0:]), size: le.Uint32(b[8:]), sum: le.Uint32(b[12:]), kind: b[16],
		blocks: le.Uint16(b[18:]), block: le.Uint16(b[20:]), body: le.Uint16(b[22:])}
}

// frameSize is the size in bytes of a frame with the given entries, without the filling. spots say which of them have
// their end in a body.
func frameSize(entries []Entry, spots []spot) int {
	size := headerSize + rowSize*len(entries)
	for i := range entries {
		size += len(entries[i].Data) - spots[i].bytes()
	}
	return size
}

// encodeFrame writes the frame with its filling into b, which has room for it, and completes h.
func encodeFrame(b []byte, h *header, entries []Entry, spots []spot) {
	h.bodies = 0
	for i := range spots {
		if s := &spots[i]; s.body != nil && (h.bodies == 0 || s.body.number < h.bodies) {
			h.bodies = s.body.number
		}
	}
	at := headerSize + rowSize*len(entries)
	table := b[headerSize:at]
	for i := range entries {
		e, s := &entries[i], &spots[i]
		r := row{term: e.Term, size: uint32(len(e.Data)), sum: e.sum(), kind: e.Kind}
		if s.body != nil {
			r.blocks, r.block, r.body = s.blocks, s.block, uint16(s.body.number-h.bodies)
		}
		r.encode(table[rowSize*i:])
		at += copy(b[at:], e.Data[:r.inline()])
	}
	clear(b[at:alignUp(at)])
	h.size, h.count = uint32(at), uint32(len(entries))
	h.tableSum = crc32.Checksum(table, castagnoli)
	h.encode(b)
}

// checkFrame compares table and data of a frame with its header. b is the frame without the filling. ending adds the
// part of an entry that is in a body to the checksum of the one before; it is given what the table says and the place
// of the entry in it. An error that is no *DamageError is one of reading. The offset in the damage counts from the
// frame's start.
func checkFrame(h *header, b []byte, ending func(r *row, i int, sum uint32) (uint32, error)) error {
	at := headerSize + rowSize*int(h.count)
	table := b[headerSize:at]
	if sum := crc32.Checksum(table, castagnoli); sum != h.tableSum {
		return &DamageError{Offset: headerSize, What: "checksum of a frame's table",
			Want: uint64(h.tableSum), Got: uint64(sum)}
	}
	for i := range int(h.count) {
		r := decodeRow(table[rowSize*i:])
		if r.blocks > 0 && (h.bodies == 0 || int(r.block)+int(r.blocks) > bodyBlocks || r.inline() < 0) {
			return &DamageError{Offset: headerSize + rowSize*int64(i), What: "blocks of a body at most", Want: bodyBlocks,
				Got: uint64(r.block) + uint64(r.blocks)}
		}
		if r.inline() > int64(len(b)-at) {
			return &DamageError{Offset: int64(at), What: "bytes left in a frame for an entry",
				Want: uint64(r.inline()), Got: uint64(len(b) - at)}
		}
		data := b[at : at+int(r.inline())]
		sum := crc32.Checksum(data, castagnoli)
		if r.blocks > 0 {
			var err error
			if sum, err = ending(&r, i, sum); err != nil {
				return err
			}
		}
		if sum != r.sum {
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

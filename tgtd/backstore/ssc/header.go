package ssc

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// Kind is what an object on a tape is.
type Kind uint32

// The kinds of objects.
const (
	Data     Kind = 2
	Begin    Kind = 16
	End      Kind = 32
	Filemark Kind = 64
)

// String is the name that tgtimg prints.
func (k Kind) String() string {
	switch k {
	case Data:
		return "Uncompressed data"
	case Begin:
		return "Beginning of Tape"
	case End:
		return "End of Data"
	case Filemark:
		return "Filemark"
	}
	return "Unknown"
}

// HeaderBytes is the size of an object's header.
const HeaderBytes = 48

// firstOffset is where the first object is.
const firstOffset = HeaderBytes + MemoryBytes

// Header stands in front of every object. Offsets are bytes in the file.
type Header struct {
	OnMedium             uint32 // bytes of the data as stored
	Size                 uint32 // bytes of the block; of the begin of tape: capacity in MiB
	Kind                 Kind
	Number               uint64
	Previous, Self, Next int64
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// put encodes h into b, which is HeaderBytes long.
func (h *Header) put(b []byte) {
	be := binary.BigEndian
	be.PutUint32(b[4:], h.OnMedium)
	be.PutUint32(b[8:], h.Size)
	be.PutUint32(b[12:], uint32(h.Kind))
	be.PutUint64(b[16:], h.Number)
	be.PutUint64(b[24:], uint64(h.Previous))
	be.PutUint64(b[32:], uint64(h.Self))
	be.PutUint64(b[40:], uint64(h.Next))
	binary.LittleEndian.PutUint32(b, crc32.Checksum(b[4:HeaderBytes], castagnoli))
}

// parseHeader decodes and checks a header that was read at offset.
func parseHeader(b []byte, offset int64) (Header, error) {
	be := binary.BigEndian
	h := Header{
		OnMedium: be.Uint32(b[4:]), Size: be.Uint32(b[8:]), Kind: Kind(be.Uint32(b[12:])), Number: be.Uint64(b[16:]),
		Previous: int64(be.Uint64(b[24:])), Self: int64(be.Uint64(b[32:])), Next: int64(be.Uint64(b[40:])),
	}
	want, got := binary.LittleEndian.Uint32(b), crc32.Checksum(b[4:HeaderBytes], castagnoli)
	switch {
	case want != got:
		return h, &DamageError{offset, fmt.Sprintf("the header's checksum is %08x, not %08x", got, want)}
	case h.Self != offset:
		return h, &DamageError{offset, fmt.Sprintf("the header belongs to offset %d", h.Self)}
	}
	return h, h.check()
}

// check says whether the fields fit each other, so that walking along them comes to an end.
func (h *Header) check() error {
	bad := func(what string) error { return &DamageError{h.Self, what} }
	behind := h.Self + HeaderBytes
	switch h.Kind {
	case Begin:
		if h.Self != 0 || h.Number != 0 || h.Next != firstOffset {
			return bad("a begin of tape that is none")
		}
		return nil
	case End:
		if h.Next != h.Self {
			return bad("something follows the end of data")
		}
	case Filemark:
		if h.Next != behind {
			return bad("a filemark with data")
		}
	case Data:
		if h.Next != behind+int64(h.Size) {
			return bad(fmt.Sprintf("the next object is said to be at %d, not behind a block of %d bytes", h.Next, h.Size))
		}
	default:
		return bad(fmt.Sprintf("an object of kind %d", uint32(h.Kind)))
	}
	if h.Number == 0 || h.Self < firstOffset || h.Previous < 0 || h.Previous >= h.Self {
		return bad("a header in the wrong place")
	}
	return nil
}

// DamageError is an image that is not what it should be.
type DamageError struct {
	Offset int64 // bytes in the file
	What   string
}

// Error implements error.
func (e *DamageError) Error() string {
	return fmt.Sprintf("the tape image is damaged at byte %d: %s", e.Offset, e.What)
}

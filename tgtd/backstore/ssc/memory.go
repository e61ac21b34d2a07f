package ssc

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
)

// MemoryBytes is the size of the medium memory, which lies between the begin of tape and the first object.
const MemoryBytes = 1104

// formatVersion is that of the images of tgt.
const formatVersion = 2

// Limits of an image.
const (
	// MaxBarcode is the length of a barcode that fits the medium memory.
	MaxBarcode = 31
	// MaxCapacityMB keeps every offset of a tape far from overflow: 1 PiB.
	MaxCapacityMB = 1 << 30
)

// Where things are in the medium memory, from the start of the file.
const (
	atVersion      = 48
	atRemaining    = 56
	atCapacity     = 64
	atSpace        = 88
	atManufacturer = 304
	atSerial       = 312
	atLength       = 344
	atWidth        = 348
	atMediumType   = 384
	atTypeInfo     = 386
	atVendor       = 392
	atBarcode      = 616
	serialBytes    = 32
)

// Medium is the kind of a cartridge.
type Medium byte

// The kinds of cartridges.
const (
	DataMedium     Medium = 1
	CleaningMedium Medium = 2
	WORMMedium     Medium = 4 // can be written once, and appended to
)

// String is the name that tgtimg prints.
func (m Medium) String() string {
	switch m {
	case DataMedium:
		return "Data"
	case CleaningMedium:
		return "Cleaning"
	case WORMMedium:
		return "WORM"
	}
	return fmt.Sprintf("Unknown(%d)", byte(m))
}

// Memory is what the medium memory says of a cartridge.
type Memory struct {
	Version   uint32
	Remaining uint64 // bytes
	Capacity  uint64 // bytes
	Medium    Medium
	Serial    string // BARCODE_SECONDS, of the creation
	Barcode   string // padded with blanks to 31 characters
}

// parseMemory reads the front of an image, firstOffset bytes.
func parseMemory(b []byte) Memory {
	text := func(at, n int) string {
		s, _, _ := bytes.Cut(b[at:at+n], []byte{0})
		return string(s)
	}
	be := binary.BigEndian
	return Memory{
		Version: be.Uint32(b[atVersion:]), Remaining: be.Uint64(b[atRemaining:]), Capacity: be.Uint64(b[atCapacity:]),
		Medium: Medium(b[atMediumType]), Serial: text(atSerial, serialBytes), Barcode: text(atBarcode, MaxBarcode),
	}
}

// Created is when the cartridge was made; false when the serial number does not say.
func (m Memory) Created() (time.Time, bool) {
	seconds, err := strconv.ParseInt(m.Serial[strings.LastIndexByte(m.Serial, '_')+1:], 10, 64)
	return time.Unix(seconds, 0), err == nil
}

// Blank returns the bytes of an empty cartridge. The barcode has at most MaxBarcode characters, the
// capacity is from 1 to MaxCapacityMB, in MiB; anything else is an error.
func Blank(barcode string, medium Medium, capacityMB int64, created time.Time) ([]byte, error) {
	if len(barcode) > MaxBarcode {
		return nil, fmt.Errorf("the barcode %.40q has more than %d characters", barcode, MaxBarcode)
	}
	if capacityMB < 1 || capacityMB > MaxCapacityMB {
		return nil, fmt.Errorf("a capacity of %d MB is not in 1…%d", capacityMB, MaxCapacityMB)
	}
	b := make([]byte, firstOffset+HeaderBytes)
	begin := Header{Size: uint32(capacityMB), Kind: Begin, Next: firstOffset}
	begin.put(b)
	be := binary.BigEndian
	be.PutUint32(b[atVersion:], formatVersion)
	be.PutUint64(b[atRemaining:], uint64(capacityMB)<<20)
	be.PutUint64(b[atCapacity:], uint64(capacityMB)<<20)
	be.PutUint64(b[atSpace:], 256)
	copy(b[atManufacturer:], "Foo     ") // as tgtimg writes it
	// The number of seconds must fit, for it is the only record of the creation.
	copy(b[atSerial:atSerial+serialBytes-1], fmt.Sprintf("%.20s_%d", barcode, created.Unix()))
	be.PutUint32(b[atLength:], 384)
	be.PutUint32(b[atWidth:], 127)
	b[atMediumType] = byte(medium)
	if medium == CleaningMedium {
		be.PutUint16(b[atTypeInfo:], 20) // cleanings left
	}
	copy(b[atVendor:], "Bar     ")
	copy(b[atBarcode:], fmt.Sprintf("%-*s", MaxBarcode, barcode))
	end := Header{Kind: End, Number: 1, Self: firstOffset, Next: firstOffset}
	end.put(b[firstOffset:])
	return b, nil
}

// readFront reads and checks the begin of tape and the medium memory.
func readFront(r io.ReaderAt) (Header, Memory, error) {
	b := make([]byte, firstOffset)
	if n, err := r.ReadAt(b, 0); n < len(b) {
		return Header{}, Memory{}, fmt.Errorf("read the begin of tape: %w", noEOF(err))
	}
	m := parseMemory(b)
	h, err := parseHeader(b[:HeaderBytes], 0)
	switch {
	case m.Version != formatVersion:
		err = &VersionError{m.Version}
	case err != nil:
	case h.Kind != Begin:
		err = &DamageError{0, "no begin of tape"}
	case m.Capacity == 0 || m.Capacity > MaxCapacityMB<<20:
		err = &DamageError{atCapacity, fmt.Sprintf("a capacity of %d bytes", m.Capacity)}
	}
	return h, m, err
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// VersionError is an image of another format, or no image.
type VersionError struct{ Version uint32 }

// Error implements error, in tgtimg's words.
func (e *VersionError) Error() string {
	return fmt.Sprintf("Unknown media format version %d", e.Version)
}

// List reads an image and calls each for every object from the begin of tape to the end of data. It
// stops at the first error, of its own or of each.
func List(path string, memory func(Memory), each func(Header) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	h, m, err := readFront(f)
	if err != nil {
		return err
	}
	memory(m)
	b := make([]byte, HeaderBytes)
	for {
		if err := each(h); err != nil || h.Kind == End {
			return err
		}
		at := h.Next
		if n, err := f.ReadAt(b, at); n < len(b) {
			return fmt.Errorf("read the header at byte %d: %w", at, noEOF(err))
		}
		if h, err = parseHeader(b, at); err != nil {
			return err
		}
	}
}

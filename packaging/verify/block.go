package verify

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
)

// BlockSize is the size of the blocks that are written and judged, in bytes.
const BlockSize = 4096

const (
	blockMagic  = 0x3159465256585350 // "PSXVRFY1"
	blockHeader = 40
)

// What can be wrong with a block.
var (
	ErrLost    = errors.New("an acknowledged write is lost")
	ErrTorn    = errors.New("the block is torn or damaged")
	ErrForeign = errors.New("nobody has written this here")
)

// stamp is what a block says of itself:
//
//	0 u64 magic  8 u64 writer  16 u64 address  24 u64 sequence  32 u32 CRC32C of all but itself  36 u32 zero
//	40 noise that follows from the stamp, to the end
type stamp struct {
	writer  uint64
	address uint64 // in units of BlockSize from the unit's beginning
	seq     uint64
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func fill(b []byte, s stamp) {
	le := binary.LittleEndian
	le.PutUint64(b[0:], blockMagic)
	le.PutUint64(b[8:], s.writer)
	le.PutUint64(b[16:], s.address)
	le.PutUint64(b[24:], s.seq)
	le.PutUint32(b[36:], 0)
	// splitmix64: noise, so that nothing on the way can make much of the content.
	x := s.writer ^ s.address*0x9e3779b97f4a7c15 ^ s.seq<<32
	for at := blockHeader; at < BlockSize; at += 8 {
		x += 0x9e3779b97f4a7c15
		z := x
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		le.PutUint64(b[at:], z^z>>31)
	}
	le.PutUint32(b[32:], sum(b))
}

func sum(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[:32], castagnoli), castagnoli, b[36:BlockSize])
}

// parse reads a block. zero is true for one that is nothing but zeros.
func parse(b []byte) (s stamp, zero bool, err error) {
	le := binary.LittleEndian
	switch {
	case le.Uint64(b) == 0 && !slices.ContainsFunc(b, func(c byte) bool { return c != 0 }):
		return s, true, nil
	case le.Uint64(b) != blockMagic:
		return s, false, fmt.Errorf("%w: it begins with % x", ErrTorn, b[:16])
	case le.Uint32(b[32:]) != sum(b):
		return s, false, fmt.Errorf("%w: its checksum is wrong, its sequence number %d", ErrTorn, le.Uint64(b[24:]))
	}
	return stamp{le.Uint64(b[8:]), le.Uint64(b[16:]), le.Uint64(b[24:])}, false, nil
}

// judge compares what a block holds with what it has to hold. The load is locked.
func (l *Load) judge(i uint64, content []byte) error {
	b := &l.blocks[i]
	s, zero, err := parse(content)
	wrong := func(kind error) error {
		if zero {
			return fmt.Errorf("block %d: %w: it is empty; acknowledged: %d, attempted: %d", i, kind, b.acked, b.open)
		}
		return fmt.Errorf("block %d: %w: it has write %d of %016x to %d; acknowledged: %d, attempted: %d",
			i, kind, s.seq, s.writer, s.address-l.o.First, b.acked, b.open)
	}
	switch {
	case err != nil:
		return fmt.Errorf("block %d: %w", i, err)
	case zero && b.acked == 0:
		return nil
	case zero:
		return wrong(ErrLost)
	case s.address != l.o.First+i:
		return wrong(ErrForeign)
	case s.writer != l.writer && b.acked == 0 && !l.o.Fresh:
		return nil // of an earlier load
	case s.writer != l.writer && b.acked == 0:
		return wrong(ErrForeign)
	case s.writer != l.writer:
		return wrong(ErrLost)
	case s.seq == b.acked:
		return nil
	case slices.Contains(b.open, s.seq):
		// Seen is seen: from now on it may not vanish, nor may an older attempt come back.
		b.acked = s.seq
		b.open = slices.DeleteFunc(b.open, func(o uint64) bool { return o <= s.seq })
		return nil
	case s.seq < b.acked:
		return wrong(ErrLost)
	}
	return wrong(ErrForeign)
}

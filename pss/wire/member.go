package wire

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
)

// CellID is the identity of a cell: random, or a hash of its founders'. Zero is no cell.
type CellID [16]byte

// Tag is what datagrams carry of it.
func (c CellID) Tag() uint64 { return binary.LittleEndian.Uint64(c[:]) }

// Member says which member of which cell speaks. A server sends it first on a connection to another; both must
// belong to the same cell.
//
//	0 cell  16 u64 number
type Member struct {
	Cell   CellID
	Number uint64 // in the agreement
}

// AppendMember appends the byte form of m.
func AppendMember(b []byte, m Member) []byte {
	return binary.LittleEndian.AppendUint64(append(b, m.Cell[:]...), m.Number)
}

// ParseMember reads what AppendMember wrote.
func ParseMember(b []byte) (Member, error) {
	if len(b) != memberSize {
		return Member{}, fmt.Errorf("%w: a member of %d bytes", ErrProtocol, len(b))
	}
	return Member{Cell: CellID(b[:16]), Number: binary.LittleEndian.Uint64(b[16:])}, nil
}

// String is hexadecimal.
func (c CellID) String() string { return hex.EncodeToString(c[:]) }

// MarshalText implements encoding.TextMarshaler.
func (c CellID) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (c *CellID) UnmarshalText(b []byte) error {
	if len(b) != 2*len(c) {
		return fmt.Errorf("%w: a cell's identity of %d digits", ErrProtocol, len(b))
	}
	_, err := hex.Decode(c[:], b)
	return err
}

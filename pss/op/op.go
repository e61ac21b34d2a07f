// Package op holds the operations that clients ask of a cell, and their byte form. The bytes a
// client sends are the bytes that agreement orders, the log stores and every server applies: an
// operation is encoded once, in the client, and never copied into another form.
//
//	 0  u32  size of the whole operation in bytes, header included
//	 4  u8   code
//	 5  u8   version, 1
//	 6  u16  flags
//	 8  u64  session
//	16  u32  epoch of the session
//	20  u32  size of the arguments in bytes
//	24  u64  sequence number in the session, from 1
//	32  u64  acked: every sequence number below it has been answered to the client
//	40  u64  object
//	48  u64  token: the fencing token the object was opened with
//	56  u64  offset in bytes
//	64  u64  length in bytes
//	72  u64  stamp: the client's clock, ns since 1970, for modification times only; 0 leaves them alone
//	80  u32  reserved, 0
//	84  u32  CRC32C of bytes 0 to 83 and of the arguments
//	88       arguments, then the payload up to size
//
// All integers are little-endian. For operations with a payload the arguments are one CRC32C for
// each block-aligned piece of it (Sums); they protect the payload from the client's memory to the
// disk, and the header's CRC protects them.
package op

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
)

// Limits of one operation.
const (
	HeaderSize = 88                // bytes
	BlockSize  = 4096              // bytes that one checksum covers
	MaxPayload = 1 << 20           // bytes; a longer write is several operations
	MaxArgs    = 2 * (2 + MaxPath) // bytes; two paths are more than the sums of the longest payload
	MaxSize    = HeaderSize + MaxArgs + MaxPayload
	MaxName    = 255      // bytes of one name
	MaxPath    = 4095     // bytes of a path
	MaxZeroes  = 1 << 30  // bytes one Unmap or WriteZeroes may span
	MaxVolume  = 64 << 40 // bytes of a volume
	Window     = 1024     // operations a session may have unanswered
	Version    = 1
)

// Code says what an operation does. The numbers are part of the disk format and never reused.
type Code uint8

// The operations. Name arguments are paths from the root of the tree.
const (
	_               Code = iota
	Nop                  // nothing; the effect is its place in the log
	SessionOpen          // session, epoch: make the session, or raise its epoch; older epochs are refused from here on
	SessionClose         // session, epoch: forget it; its number can't be opened again
	Mkdir                // path: make the folder and its parents; a folder that is there already is success
	Rmdir                // path: remove an empty folder
	CreateFile           // path: make an empty file in a folder that is there; answers with the object. Exists if it is there
	Truncate             // object, length: set a file's size
	Delete               // path: remove a file
	Rename               // path, path: atomically. A file may take another file's name; otherwise Exists
	VolumeCreate         // path, length: make a thin volume; answers with the object. The same size again is success
	VolumeOpen           // path: answers with object, size and a new fencing token, never 0; older ones are refused from here on
	VolumeGrow           // path, length: never smaller
	VolumeDelete         // path
	Write                // object, token, offset, payload. Files grow, and have no token
	Unmap                // object, token, offset, length: reads as zeros, frees space
	WriteZeroes          // object, token, offset, length: reads as zeros
	CompareAndWrite      // object, token, offset; payload: what must be there, and what to write
	Flush                // object, token: everything before it is durable (it always is); a barrier in the log
	AttrSet              // object, token, flags, name, version; payload: set or remove a volume's attribute. See attr.go
	codes
)

// The flags of operations. A flag belongs to one code; others are refused with Invalid.
const (
	FlagShared uint16 = 1 << 0 // VolumeOpen: share the volume with all who open it so
	FlagRenew  uint16 = 1 << 1 // VolumeOpen, with FlagShared: only if Token belongs to those who share it now
	FlagBump   uint16 = 1 << 0 // AttrSet: give those who share the volume a new token
	FlagRemove uint16 = 1 << 1 // AttrSet: remove the attribute; there is no payload
)

var names = [...]string{"", "nop", "session-open", "session-close", "mkdir", "rmdir", "create", "truncate",
	"delete", "rename", "volume-create", "volume-open", "volume-grow", "volume-delete", "write", "unmap",
	"write-zeroes", "compare-and-write", "flush", "attr-set"}

// String names the code.
func (c Code) String() string {
	if c > 0 && c < codes {
		return names[c]
	}
	return fmt.Sprintf("code-%d", uint8(c))
}

// hasPayload says whether the arguments of c begin with block sums of a payload.
func (c Code) hasPayload() bool { return c == Write || c == CompareAndWrite || c.hasMore() }

// hasMore says whether arguments follow the block sums. Such a payload may be empty.
func (c Code) hasMore() bool { return c == AttrSet }

// HasToken says whether c changes an object's data under a fencing token.
func (c Code) HasToken() bool { return c >= Write && c <= Flush }

// Header is the fixed part of an operation.
type Header struct {
	Code    Code
	Flags   uint16
	Session uint64
	Epoch   uint32
	Seq     uint64
	Acked   uint64
	Object  uint64
	Token   uint64
	Offset  uint64 // bytes
	Length  uint64 // bytes
	Stamp   uint64 // ns since 1970
}

// ErrInvalid is wrapped by every error that Parse returns: the bytes are no operation.
var ErrInvalid = errors.New("invalid operation")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Sum is the CRC32C (Castagnoli) of b.
func Sum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// Pieces is the number of block sums that a payload of n bytes at offset has: one for each
// BlockSize-aligned block it touches.
func Pieces(offset uint64, n int) int {
	if n == 0 {
		return 0
	}
	return int((offset+uint64(n)-1)/BlockSize - offset/BlockSize + 1)
}

// AppendSums appends the sums of payload, which starts at offset, to sums.
func AppendSums(sums []uint32, offset uint64, payload []byte) []uint32 {
	for len(payload) > 0 {
		n := min(len(payload), int(BlockSize-offset%BlockSize))
		sums = append(sums, Sum(payload[:n]))
		payload, offset = payload[n:], offset+uint64(n)
	}
	return sums
}

// Head encodes everything of an operation but its payload into dst, which is grown as needed and
// returned: header and arguments. payloadSize is the number of bytes that follow.
func Head(dst []byte, h *Header, args []byte, payloadSize int) []byte {
	base := len(dst)
	dst = append(dst, make([]byte, HeaderSize)...)
	dst = append(dst, args...)
	seal(dst[base:], h, len(args), payloadSize)
	return dst
}

// HeadSums is Head for operations whose arguments are the block sums of a payload.
func HeadSums(dst []byte, h *Header, sums []uint32, payloadSize int) []byte {
	base := len(dst)
	var zero [HeaderSize]byte
	dst = append(dst, zero[:]...)
	for _, s := range sums {
		dst = binary.LittleEndian.AppendUint32(dst, s)
	}
	seal(dst[base:], h, 4*len(sums), payloadSize)
	return dst
}

func seal(b []byte, h *Header, args, payload int) {
	le := binary.LittleEndian
	le.PutUint32(b[0:], uint32(HeaderSize+args+payload))
	b[4], b[5] = byte(h.Code), Version
	le.PutUint16(b[6:], h.Flags)
	le.PutUint64(b[8:], h.Session)
	le.PutUint32(b[16:], h.Epoch)
	le.PutUint32(b[20:], uint32(args))
	le.PutUint64(b[24:], h.Seq)
	le.PutUint64(b[32:], h.Acked)
	le.PutUint64(b[40:], h.Object)
	le.PutUint64(b[48:], h.Token)
	le.PutUint64(b[56:], h.Offset)
	le.PutUint64(b[64:], h.Length)
	le.PutUint64(b[72:], h.Stamp)
	le.PutUint32(b[80:], 0)
	le.PutUint32(b[84:], headSum(b, args))
}

func headSum(b []byte, args int) uint32 {
	return crc32.Update(crc32.Checksum(b[:84], castagnoli), castagnoli, b[HeaderSize:HeaderSize+args])
}

// Op is a parsed operation: its header, and views into its bytes.
type Op struct {
	Header
	Args    []byte // names, or block sums and then what More gives; a view
	Payload []byte // a view
}

// Parse reads an operation without copying it. It checks the header's CRC and every length, but not
// the payload's sums: see Check.
func Parse(b []byte) (Op, error) {
	var o Op
	le := binary.LittleEndian
	if len(b) < HeaderSize {
		return o, fmt.Errorf("%w: %d bytes", ErrInvalid, len(b))
	}
	args := le.Uint32(b[20:])
	switch {
	case int64(le.Uint32(b[0:])) != int64(len(b)) || len(b) > MaxSize:
		return o, fmt.Errorf("%w: %d bytes say they are %d", ErrInvalid, len(b), le.Uint32(b[0:]))
	case b[5] != Version:
		return o, fmt.Errorf("%w: version %d", ErrInvalid, b[5])
	case args > MaxArgs || int(args) > len(b)-HeaderSize:
		return o, fmt.Errorf("%w: %d bytes of arguments", ErrInvalid, args)
	case le.Uint32(b[84:]) != headSum(b, int(args)):
		return o, fmt.Errorf("%w: header checksum", ErrInvalid)
	case le.Uint32(b[80:]) != 0:
		return o, fmt.Errorf("%w: reserved bytes are %#x", ErrInvalid, le.Uint32(b[80:]))
	}
	o.Header = Header{
		Code: Code(b[4]), Flags: le.Uint16(b[6:]),
		Session: le.Uint64(b[8:]), Epoch: le.Uint32(b[16:]),
		Seq: le.Uint64(b[24:]), Acked: le.Uint64(b[32:]),
		Object: le.Uint64(b[40:]), Token: le.Uint64(b[48:]),
		Offset: le.Uint64(b[56:]), Length: le.Uint64(b[64:]), Stamp: le.Uint64(b[72:]),
	}
	o.Args, o.Payload = b[HeaderSize:HeaderSize+args:HeaderSize+args], b[HeaderSize+args:]
	if o.Code == 0 || o.Code >= codes {
		return o, fmt.Errorf("%w: %v", ErrInvalid, o.Code)
	}
	return o, o.checkShape()
}

func (o *Op) checkShape() error {
	n := len(o.Payload)
	switch {
	case n > MaxPayload || n > 0 && !o.Code.hasPayload():
		return fmt.Errorf("%w: %v with %d bytes of payload", ErrInvalid, o.Code, n)
	case o.Code == Write && (n == 0 || o.Length != uint64(n)),
		o.Code == CompareAndWrite && (n == 0 || n%2 != 0 || o.Length != uint64(n/2)):
		return fmt.Errorf("%w: %v of %d bytes with %d bytes of payload", ErrInvalid, o.Code, o.Length, n)
	case (o.Code == Unmap || o.Code == WriteZeroes) && (o.Length == 0 || o.Length > MaxZeroes):
		return fmt.Errorf("%w: %v of %d bytes", ErrInvalid, o.Code, o.Length)
	case o.Offset > MaxVolume || o.Length > MaxVolume:
		return fmt.Errorf("%w: %v at %d, %d bytes", ErrInvalid, o.Code, o.Offset, o.Length)
	case o.Code.hasMore() && (n > MaxAttr || o.Length != uint64(n) || o.Offset != 0):
		return fmt.Errorf("%w: %v of %d bytes at %d with %d bytes of payload", ErrInvalid, o.Code, o.Length, o.Offset, n)
	case o.Code.hasMore() && len(o.Args) < 4*o.sums(), o.Code.hasPayload() && !o.Code.hasMore() && len(o.Args) != 4*o.sums():
		return fmt.Errorf("%w: %v with %d bytes of sums", ErrInvalid, o.Code, len(o.Args))
	}
	return nil
}

// sums is the number of block sums an operation with a payload carries. Each half of a
// CompareAndWrite has its own.
func (o *Op) sums() int {
	if o.Code == CompareAndWrite {
		return 2 * Pieces(o.Offset, len(o.Payload)/2)
	}
	return Pieces(o.Offset, len(o.Payload))
}

// More is the arguments behind the block sums, of an operation that has both.
func (o *Op) More() []byte { return o.Args[4*o.sums():] }

// SumAt is the i-th block sum of an operation with a payload.
func (o *Op) SumAt(i int) uint32 { return binary.LittleEndian.Uint32(o.Args[4*i:]) }

// Check verifies the payload against its sums. Whoever receives an operation from outside the
// process calls it once.
func (o *Op) Check() error {
	halves := [2][]byte{o.Payload}
	if o.Code == CompareAndWrite {
		halves = [2][]byte{o.Payload[:o.Length], o.Payload[o.Length:]}
	}
	i := 0
	for _, p := range halves {
		for off := o.Offset; len(p) > 0; i++ {
			n := min(len(p), int(BlockSize-off%BlockSize))
			if Sum(p[:n]) != o.SumAt(i) {
				return fmt.Errorf("%w: %v payload checksum, block %d", ErrInvalid, o.Code, off/BlockSize)
			}
			p, off = p[n:], off+uint64(n)
		}
	}
	return nil
}

// AppendString appends a string argument: u16 length, bytes. One longer than MaxPath becomes a length
// that String refuses, so that it can't be taken for a shorter one.
func AppendString(args []byte, s string) []byte {
	if len(s) > MaxPath {
		return binary.LittleEndian.AppendUint16(args, math.MaxUint16)
	}
	args = binary.LittleEndian.AppendUint16(args, uint16(len(s)))
	return append(args, s...)
}

// String takes the next string argument off args.
func String(args []byte) (s string, rest []byte, err error) {
	if len(args) < 2 {
		return "", nil, fmt.Errorf("%w: a name is missing", ErrInvalid)
	}
	n := int(binary.LittleEndian.Uint16(args))
	if n > len(args)-2 || n > MaxPath {
		return "", nil, fmt.Errorf("%w: a name of %d bytes", ErrInvalid, n)
	}
	return string(args[2 : 2+n]), args[2+n:], nil
}

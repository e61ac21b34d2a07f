package wire

import (
	"encoding/binary"
	"fmt"

	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
)

// Protocol is what a party says it speaks above the frames: the operations, the raft messages and
// the order of things. Parties that differ refuse each other with a Goodbye.
const Protocol = 1

// MaxSoftware is the limit, in bytes, of the version text in Hello and HelloReply.
const MaxSoftware = 64

// Role says what the dialler of a connection is.
type Role uint8

// The roles.
const (
	RoleClient Role = 1 // From is its session
	RolePeer   Role = 2 // From is its server id
	RoleAdmin  Role = 3 // a tool: package admin
)

const (
	helloSize      = 16
	helloReplySize = 24
	masterSize     = 16
	readSize       = 24
	memberSize     = 24
	fetchSize      = 16 + op.ChunkSize/op.BlockSize/8
)

// Hello opens a connection.
//
//	0 u8 role  1 u8 to  2 u16 protocol  4 u32 zero  8 u64 from  16 software
type Hello struct {
	Role     Role
	To       uint8 // the server the dialler thinks it called: a wrong server.conf shows here
	Protocol uint16
	From     uint64 // the client's session or the peer's server id
	Software string // version of the program, for status displays
}

// AppendHello appends the byte form of h. A longer Software is cut at MaxSoftware.
func AppendHello(b []byte, h Hello) []byte {
	le := binary.LittleEndian
	b = append(b, byte(h.Role), h.To)
	b = le.AppendUint16(b, h.Protocol)
	b = le.AppendUint32(b, 0)
	b = le.AppendUint64(b, h.From)
	return append(b, h.Software[:min(len(h.Software), MaxSoftware)]...)
}

// ParseHello reads what AppendHello wrote.
func ParseHello(b []byte) (Hello, error) {
	le := binary.LittleEndian
	if len(b) < helloSize || len(b) > helloSize+MaxSoftware {
		return Hello{}, fmt.Errorf("%w: a hello of %d bytes", ErrProtocol, len(b))
	}
	h := Hello{
		Role: Role(b[0]), To: b[1], Protocol: le.Uint16(b[2:]), From: le.Uint64(b[8:]), Software: string(b[16:]),
	}
	if (h.Role < RoleClient || h.Role > RoleAdmin) || le.Uint32(b[4:]) != 0 {
		return h, fmt.Errorf("%w: a hello from role %d", ErrProtocol, h.Role)
	}
	return h, nil
}

// Master is who a server takes for the master, and since which term. Of two, the one with the
// higher term is newer.
//
//	0 u64 term  8 u8 master  9 seven bytes zero
type Master struct {
	Term   uint64
	Master uint8 // server id, or None while the term has no master that the server knows of
}

// AppendMaster appends the byte form of m.
func AppendMaster(b []byte, m Master) []byte {
	b = binary.LittleEndian.AppendUint64(b, m.Term)
	return append(b, m.Master, 0, 0, 0, 0, 0, 0, 0)
}

// ParseMaster reads what AppendMaster wrote.
func ParseMaster(b []byte) (Master, error) {
	if len(b) != masterSize || [7]byte(b[9:16]) != [7]byte{} {
		return Master{}, fmt.Errorf("%w: a master of %d bytes", ErrProtocol, len(b))
	}
	return Master{Term: binary.LittleEndian.Uint64(b), Master: b[8]}, nil
}

// HelloReply accepts a connection.
//
//	0 Master  16 u16 protocol  18 u8 server  19 five bytes zero  24 software
type HelloReply struct {
	Master
	Protocol uint16
	Server   uint8 // the server that answers
	Software string
}

// AppendHelloReply appends the byte form of h. A longer Software is cut at MaxSoftware.
func AppendHelloReply(b []byte, h HelloReply) []byte {
	b = AppendMaster(b, h.Master)
	b = binary.LittleEndian.AppendUint16(b, h.Protocol)
	b = append(b, h.Server, 0, 0, 0, 0, 0)
	return append(b, h.Software[:min(len(h.Software), MaxSoftware)]...)
}

// ParseHelloReply reads what AppendHelloReply wrote.
func ParseHelloReply(b []byte) (HelloReply, error) {
	if len(b) < helloReplySize || len(b) > helloReplySize+MaxSoftware || [5]byte(b[19:24]) != [5]byte{} {
		return HelloReply{}, fmt.Errorf("%w: a hello reply of %d bytes", ErrProtocol, len(b))
	}
	m, err := ParseMaster(b[:masterSize])
	return HelloReply{
		Master: m, Protocol: binary.LittleEndian.Uint16(b[16:]), Server: b[18], Software: string(b[24:]),
	}, err
}

// Read asks for bytes of an object. The answer's data is shorter where the object ends.
//
//	0 u64 object  8 u64 offset  16 u32 length  20 u32 zero
type Read struct {
	Object uint64
	Offset uint64 // bytes
	Length uint32 // bytes, 1 to MaxRead
}

// AppendRead appends the byte form of r.
func AppendRead(b []byte, r Read) []byte {
	le := binary.LittleEndian
	b = le.AppendUint64(b, r.Object)
	b = le.AppendUint64(b, r.Offset)
	b = le.AppendUint32(b, r.Length)
	return le.AppendUint32(b, 0)
}

// ParseRead reads what AppendRead wrote. It refuses a length of 0 or over MaxRead, and an offset
// that overflows with it.
func ParseRead(b []byte) (Read, error) {
	le := binary.LittleEndian
	if len(b) != readSize {
		return Read{}, fmt.Errorf("%w: a read of %d bytes", ErrProtocol, len(b))
	}
	r := Read{Object: le.Uint64(b), Offset: le.Uint64(b[8:]), Length: le.Uint32(b[16:])}
	if r.Length == 0 || r.Length > MaxRead || r.Offset > 1<<63-1-MaxRead || le.Uint32(b[20:]) != 0 {
		return r, fmt.Errorf("%w: a read of %d bytes at %d", ErrProtocol, r.Length, r.Offset)
	}
	return r, nil
}

// Fetch asks for the image of a chunk with the bytes of some of its blocks, as of the server's checkpoint.
//
//	0 u64 object  8 u32 chunk  12 u32 zero  16 the set of blocks, 64 in a u64
type Fetch struct {
	Object uint64
	Chunk  uint32
	Blocks [op.ChunkSize / op.BlockSize / 64]uint64
}

// AppendFetch appends the byte form of f.
func AppendFetch(b []byte, f *Fetch) []byte {
	le := binary.LittleEndian
	b = le.AppendUint64(b, f.Object)
	b = le.AppendUint32(b, f.Chunk)
	b = le.AppendUint32(b, 0)
	for _, w := range f.Blocks {
		b = le.AppendUint64(b, w)
	}
	return b
}

// ParseFetch reads what AppendFetch wrote.
func ParseFetch(b []byte) (f Fetch, err error) {
	le := binary.LittleEndian
	if len(b) != fetchSize || le.Uint32(b[12:]) != 0 {
		return f, fmt.Errorf("%w: a fetch of %d bytes", ErrProtocol, len(b))
	}
	f.Object, f.Chunk = le.Uint64(b), le.Uint32(b[8:])
	for i := range f.Blocks {
		f.Blocks[i] = le.Uint64(b[16+8*i:])
	}
	return f, nil
}

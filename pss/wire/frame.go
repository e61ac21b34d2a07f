package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
)

// Version is the version of the frames and datagrams, the only one there is.
const Version = 1

// HeaderSize is the size of a frame's header in bytes.
const HeaderSize = 32

// None stands for "no server" where the number of one is wanted.
const None = 255

// The most bytes a part of a message may have. Reading a frame allocates nothing beyond them.
const (
	MaxRead    = 1 << 20                           // bytes one Read may ask for
	maxSums    = 4 * (MaxRead/op.BlockSize + 1)    // block sums of a ReadReply
	maxQuery   = 1 + 2*(2+op.MaxPath)              // code, path, cursor
	maxAnswer  = 5 + op.MaxNodes*(2+op.MaxName+25) // nodes of an op.Answer
	MaxStatus  = 1 << 20                           // bytes of a StatusReply
	MaxAdmin   = 32 << 10                          // bytes of an administrative request
	MaxItem    = 1 << 20                           // bytes of a part of the answer to one
	maxAsk     = 4 << 10                           // bytes of a Status
	maxText    = 1 << 10                           // bytes of a Goodbye
	MaxEntries = 1 << 14                           // entries of one raft message
	MaxContext = 4 << 10                           // bytes of a raft message's context
	MaxRaft    = 8 << 20                           // bytes of one raft message with its entries and snapshot
	MaxEntry   = op.MaxSize                        // bytes of one entry's data
	MaxView    = 32 << 10                          // bytes of a body that Reader.View can show
	MaxPart    = 1 << 20                           // bytes of a part of a manifest
	MaxImage   = op.ChunkSize + 64<<10             // bytes of a chunk's image, its records included
)

// Kind says what a frame is. Numbers are never reused; 38 to 63 are free for peers, 18 to 23 and 26 to 31 for clients.
type Kind uint8

// The kinds of frames.
const (
	KindHello       Kind = 1  // Hello; the dialler's first frame
	KindHelloReply  Kind = 2  // HelloReply
	KindPropose     Kind = 3  // client to master. Body: an operation, which protects itself
	KindResult      Kind = 4  // answer to Propose. Body: op.Result
	KindRead        Kind = 5  // client to master. Body: Read
	KindReadReply   Kind = 6  // code: op.Errno. Body: block sums, sealed, then the data; empty unless code is op.OK
	KindQuery       Kind = 7  // client to master. Body: op.Query
	KindQueryReply  Kind = 8  // Body: op.Answer
	KindNotice      Kind = 9  // server to every client, when its idea of who is master changed. Body: Master
	KindNotMaster   Kind = 10 // answer to Propose, Read and Query. Body: Master
	KindPing        Kind = 11 // either side, at any time; no body
	KindPong        Kind = 12 // answer to Ping, with its tag; no body
	KindStatus      Kind = 13 // what to report, as text; empty for everything
	KindStatusReply Kind = 14 // code: op.Errno. Body: the report
	KindGoodbye     Kind = 15 // why the sender closes the connection, as text for a person
	KindWake        Kind = 16 // server to client, its session as the tag: something it waits for is there; no body
	KindServers     Kind = 17 // server to a client that asked for it (PingServers): where the servers are. Body: Servers
	KindAdmin       Kind = 24 // tool to server: see package admin
	KindAdminPart   Kind = 25 // answer to Admin, with its tag, in parts: see package admin
	KindRaft        Kind = 32 // server to server. Body: a raft message, its head sealed

	KindManifest     Kind = 33 // server to server: what has changed since an index. Body: that index, u64, and the one that the answer must stand at or after, u64
	KindManifestPart Kind = 34 // answer to Manifest, in parts; code 1 marks the last. Body: sealed bytes
	KindFetch        Kind = 35 // server to server: the image of a chunk. Body: Fetch
	KindImage        Kind = 36 // answer to Fetch. Code: op.Errno. Body: sealed bytes, the image
	KindMember       Kind = 37 // server to server, before all others: which member of which cell it is. Body: Member
)

var kinds = [...]struct {
	name  string
	limit uint32 // bytes of the body
}{
	KindHello:       {"hello", helloSize + MaxSoftware},
	KindHelloReply:  {"hello-reply", helloReplySize + MaxSoftware},
	KindPropose:     {"propose", op.MaxSize},
	KindResult:      {"result", op.ResultSize},
	KindRead:        {"read", readSize},
	KindReadReply:   {"read-reply", maxSums + MaxRead},
	KindQuery:       {"query", maxQuery},
	KindQueryReply:  {"query-reply", maxAnswer},
	KindNotice:      {"notice", masterSize},
	KindNotMaster:   {"not-master", masterSize},
	KindPing:        {"ping", 0},
	KindPong:        {"pong", 0},
	KindStatus:      {"status", maxAsk},
	KindStatusReply: {"status-reply", MaxStatus},
	KindGoodbye:     {"goodbye", maxText},
	KindWake:        {"wake", 0},
	KindServers:     {"servers", maxServers},
	KindAdmin:       {"admin", MaxAdmin},
	KindAdminPart:   {"admin-part", MaxItem},
	KindRaft:        {"raft", MaxRaft},

	KindManifest:     {"manifest", 16},
	KindManifestPart: {"manifest-part", MaxPart},
	KindFetch:        {"fetch", fetchSize},
	KindImage:        {"image", MaxImage},
	KindMember:       {"member", memberSize},
}

// String names the kind.
func (k Kind) String() string {
	if k.known() {
		return kinds[k].name
	}
	return fmt.Sprintf("kind-%d", uint8(k))
}

func (k Kind) known() bool { return int(k) < len(kinds) && kinds[k].name != "" }

// ErrProtocol is wrapped by every error about bytes that are no message: a checksum, a length over
// its limit, an unknown kind or version. The connection they came from can't be used any further.
var ErrProtocol = errors.New("protocol error")

// ErrTLS is what comes of a caller that has a cell key where this side has none. It wraps ErrProtocol.
var ErrTLS = fmt.Errorf("%w: the caller speaks TLS, as a party with a cell key does, and this side has no key", ErrProtocol)

// Header is the fixed part of a frame.
type Header struct {
	Size   uint32 // bytes of the body
	Kind   Kind
	Code   uint16
	Tag    uint64
	Sealed uint32 // leading bytes of the body that Sum covers
	Sum    uint32
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func putHeader(b []byte, h *Header) {
	le := binary.LittleEndian
	le.PutUint32(b[0:], h.Size)
	b[4], b[5] = byte(h.Kind), Version
	le.PutUint16(b[6:], h.Code)
	le.PutUint64(b[8:], h.Tag)
	le.PutUint32(b[16:], h.Sealed)
	le.PutUint32(b[20:], h.Sum)
	le.PutUint32(b[24:], 0)
	le.PutUint32(b[28:], crc32.Checksum(b[:28], castagnoli))
}

// ParseHeader reads the header that b starts with and checks everything that can be checked without
// the body.
func ParseHeader(b []byte) (Header, error) {
	le := binary.LittleEndian
	if len(b) < HeaderSize {
		return Header{}, fmt.Errorf("%w: a frame header of %d bytes", ErrProtocol, len(b))
	}
	h := Header{
		Size: le.Uint32(b[0:]), Kind: Kind(b[4]), Code: le.Uint16(b[6:]), Tag: le.Uint64(b[8:]),
		Sealed: le.Uint32(b[16:]), Sum: le.Uint32(b[20:]),
	}
	switch {
	case le.Uint32(b[28:]) != crc32.Checksum(b[:28], castagnoli):
		if b[0] == 22 && b[1] == 3 { // a handshake record of TLS (RFC 8446 5.1)
			return h, ErrTLS
		}
		return h, fmt.Errorf("%w: frame header checksum", ErrProtocol)
	case b[5] != Version:
		return h, fmt.Errorf("%w: frame of version %d", ErrProtocol, b[5])
	case !h.Kind.known():
		return h, fmt.Errorf("%w: unknown frame of %v", ErrProtocol, h.Kind)
	case h.Size > kinds[h.Kind].limit:
		return h, fmt.Errorf("%w: %v of %d bytes, over the limit of %d", ErrProtocol, h.Kind, h.Size, kinds[h.Kind].limit)
	case h.Sealed > h.Size || h.Sealed == 0 && h.Sum != 0 || le.Uint32(b[24:]) != 0:
		return h, fmt.Errorf("%w: %v header makes no sense", ErrProtocol, h.Kind)
	}
	return h, nil
}

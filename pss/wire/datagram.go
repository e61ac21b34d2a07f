package wire

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"go.etcd.io/raft/v3/raftpb"
)

// MaxDatagram is the largest datagram in bytes: what every path carries in one packet, with room
// for the sealing around it.
const MaxDatagram = 1380

// MaxDatagramBody is the largest body of a datagram in bytes.
const MaxDatagramBody = MaxDatagram - datagramFixed - 4

const (
	datagramMagic = 0x64535350 // "PSSd"
	datagramFixed = 32         // bytes before the body
)

// DatagramKind says what a datagram is. Numbers are never reused.
type DatagramKind uint8

// The kinds of datagrams.
const (
	DatagramRaft        DatagramKind = 1 // a raft message without entries and snapshot: AppendRaftHead, ParseRaft
	DatagramStatus      DatagramKind = 2 // what to report, as text padded with zeros; empty for a summary
	DatagramStatusReply DatagramKind = 3 // the report, as text
	DatagramAnnounce    DatagramKind = 4 // server to server: of founding and joining a cell; replica.Announce
	datagramKinds       DatagramKind = 5
)

// Datagram is one message on the UDP port.
type Datagram struct {
	Kind  DatagramKind
	From  uint8  // server id, or None
	To    uint8  // server id
	Stamp uint64 // the sender's monotonic clock; only the sender knows its unit and start
	Echo  uint64 // Stamp of the datagram that this one answers, 0 if it answers none
	Cell  uint64 // CellID.Tag of the sender's cell, in a raft message; else 0
	Body  []byte // a view, after ParseDatagram
}

// AppendDatagram appends the byte form of d. It fails, and returns dst, if the body is over
// MaxDatagramBody bytes.
func AppendDatagram(dst []byte, d *Datagram) ([]byte, error) {
	base := len(dst)
	return sealDatagram(append(appendDatagramHead(dst, d), d.Body...), base)
}

// AppendRaftDatagram is AppendDatagram with m for the body; d.Kind and d.Body are not looked at. It
// fails for a message with entries or a snapshot, and for one that is too long.
func AppendRaftDatagram(dst []byte, d *Datagram, m *raftpb.Message) ([]byte, error) {
	if len(m.Entries) > 0 || m.Snapshot != nil {
		return dst, fmt.Errorf("%w: %v with entries or snapshot in a datagram", ErrProtocol, m.Type)
	}
	base := len(dst)
	head := Datagram{Kind: DatagramRaft, From: d.From, To: d.To, Stamp: d.Stamp, Echo: d.Echo, Cell: d.Cell}
	b, err := AppendRaftHead(appendDatagramHead(dst, &head), m)
	if err != nil {
		return dst[:base], err
	}
	return sealDatagram(b, base)
}

func appendDatagramHead(dst []byte, d *Datagram) []byte {
	le := binary.LittleEndian
	dst = le.AppendUint32(dst, datagramMagic)
	dst = append(dst, Version, byte(d.Kind), d.From, d.To)
	dst = le.AppendUint64(dst, d.Stamp)
	dst = le.AppendUint64(dst, d.Echo)
	return le.AppendUint64(dst, d.Cell)
}

// sealDatagram completes the datagram that starts at base.
func sealDatagram(b []byte, base int) ([]byte, error) {
	if len(b)-base+4 > MaxDatagram {
		return b[:base], fmt.Errorf("%w: a datagram of %d bytes to be sent", ErrProtocol, len(b)-base+4)
	}
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[base:], castagnoli)), nil
}

// AppendQuestion appends a status query of full size, that of d with whatever Body it has: a server answers a
// question with no more bytes than it had, so that who sends it under another's address gains nothing.
func AppendQuestion(dst []byte, d *Datagram) ([]byte, error) {
	base := len(dst)
	q := *d
	q.Kind = DatagramStatus
	dst = append(appendDatagramHead(dst, &q), d.Body...)
	if pad := MaxDatagramBody - len(d.Body); pad > 0 {
		dst = append(dst, make([]byte, pad)...)
	}
	return sealDatagram(dst, base)
}

// ParseDatagram reads what AppendDatagram wrote, without copying the body.
func ParseDatagram(b []byte) (Datagram, error) {
	le := binary.LittleEndian
	n := len(b) - 4
	if n < datagramFixed || len(b) > MaxDatagram {
		return Datagram{}, fmt.Errorf("%w: a datagram of %d bytes", ErrProtocol, len(b))
	}
	switch {
	case le.Uint32(b) != datagramMagic:
		return Datagram{}, fmt.Errorf("%w: a foreign datagram", ErrProtocol)
	case le.Uint32(b[n:]) != crc32.Checksum(b[:n], castagnoli):
		return Datagram{}, fmt.Errorf("%w: datagram checksum", ErrProtocol)
	case b[4] != Version:
		return Datagram{}, fmt.Errorf("%w: datagram of version %d", ErrProtocol, b[4])
	case b[5] == 0 || b[5] >= byte(datagramKinds):
		return Datagram{}, fmt.Errorf("%w: datagram of kind %d", ErrProtocol, b[5])
	}
	return Datagram{
		Kind: DatagramKind(b[5]), From: b[6], To: b[7],
		Stamp: le.Uint64(b[8:]), Echo: le.Uint64(b[16:]), Cell: le.Uint64(b[24:]), Body: b[datagramFixed:n:n],
	}, nil
}

package isns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
)

// headerSize is the length of a message's header in bytes (RFC 4171 5.1):
//
//	0  version = 1     2  function
//	4  payload length  6  flags
//	8  transaction    10  sequence number of the piece
const headerSize = 12

// Limits of messages.
const (
	maxPayload = 65532    // bytes of one piece: the length has 16 bits, and is a multiple of 4
	maxMessage = 16 << 20 // bytes of an answer in pieces
)

// Functions (RFC 4171 4.1.3); answers have the upper bit set.
const (
	fnDevAttrReg = 0x0001
	fnDevAttrQry = 0x0002
	fnDevDereg   = 0x0004
	fnSCNReg     = 0x0005
	fnSCNDereg   = 0x0006
	fnSCN        = 0x0008
	fnESI        = 0x000d
	fnAnswer     = 0x8000
)

// Flags (RFC 4171 5.1.4).
const (
	flagClient  = 0x8000
	flagServer  = 0x4000
	flagReplace = 0x1000
	flagLast    = 0x0800
	flagFirst   = 0x0400
)

// Attribute tags (RFC 4171 6.1).
const (
	tagDelimiter  = 0
	tagEntity     = 1
	tagProtocol   = 2
	tagPeriod     = 6
	tagPortalAddr = 16
	tagPortalPort = 17
	tagESIPort    = 20
	tagSCNPort    = 23
	tagName       = 32
	tagNodeType   = 33
	tagSCNBitmap  = 35
	tagGroupName  = 48
	tagGroupAddr  = 49
	tagGroupPort  = 50
	tagGroupTag   = 51
)

const (
	protocolISCSI = 2
	nodeTarget    = 1 // bits of tagNodeType
	nodeInitiator = 2
	portUDP       = 1 << 16 // in ports: datagrams (RFC 4171 6.3.2)
	// scnWanted are the changes we hear of: objects removed, added, updated, members of discovery domains too,
	// of initiators and ourselves only (RFC 4171 6.4.4).
	scnWanted = 0x80 | 0x10 | 0x08 | 0x04 | 0x02 | 0x01
)

// errMessage is a message that can't be understood.
var errMessage = errors.New("malformed iSNS message")

// StatusError is a request that the server refused: a code of RFC 4171 5.4.
type StatusError uint32

// Error implements error.
func (e StatusError) Error() string {
	return fmt.Sprintf("the iSNS server refuses: status %d", uint32(e))
}

// message is a message, its pieces put together.
type message struct {
	function    uint16
	flags       uint16
	transaction uint16
	payload     []byte
}

// attribute is one attribute of a message.
type attribute struct {
	tag   uint32
	value []byte
}

func appendAttribute(b []byte, tag uint32, value []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, tag)
	pad := -len(value) & 3
	b = binary.BigEndian.AppendUint32(b, uint32(len(value)+pad))
	b = append(b, value...)
	return append(b, make([]byte, pad)...)
}

// appendText appends a text, which ends with a NUL (RFC 4171 5.1.6).
func appendText(b []byte, tag uint32, s string) []byte {
	return appendAttribute(b, tag, append([]byte(s), 0))
}

func appendNumber(b []byte, tag, n uint32) []byte {
	return appendAttribute(b, tag, binary.BigEndian.AppendUint32(nil, n))
}

// appendAddr appends an address, IPv4 as IPv6.
func appendAddr(b []byte, tag uint32, a netip.Addr) []byte {
	v := a.As16()
	return appendAttribute(b, tag, v[:])
}

// parseAttributes takes the attributes of a payload apart.
func parseAttributes(b []byte) ([]attribute, error) {
	var list []attribute
	for len(b) > 0 {
		if len(b) < 8 {
			return nil, fmt.Errorf("%w: %d bytes left", errMessage, len(b))
		}
		tag, n := binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])
		b = b[8:]
		if uint64(n) > uint64(len(b)) || n%4 != 0 {
			return nil, fmt.Errorf("%w: attribute %d of %d bytes, %d are left", errMessage, tag, n, len(b))
		}
		list = append(list, attribute{tag, b[:n]})
		b = b[n:]
	}
	return list, nil
}

// text is the value of an attribute without what ends it.
func (a attribute) text() string {
	s, _, _ := strings.Cut(string(a.value), "\x00")
	return s
}

// number is the value of a numeric attribute, 0 for one that is none.
func (a attribute) number() uint32 {
	if len(a.value) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(a.value)
}

// appendTo appends the message as it travels, in as many pieces as it takes.
func (m *message) appendTo(b []byte) []byte {
	rest := m.payload
	for sequence := uint16(0); ; sequence++ {
		piece := rest[:min(len(rest), maxPayload)]
		rest = rest[len(piece):]
		flags := m.flags
		if sequence == 0 {
			flags |= flagFirst
		}
		if len(rest) == 0 {
			flags |= flagLast
		}
		for _, v := range []uint16{1, m.function, uint16(len(piece)), flags, m.transaction, sequence} {
			b = binary.BigEndian.AppendUint16(b, v)
		}
		b = append(b, piece...)
		if len(rest) == 0 {
			return b
		}
	}
}

// readMessage reads a message with all its pieces.
func readMessage(r io.Reader) (*message, error) {
	m := new(message)
	for sequence := uint16(0); ; sequence++ {
		var h [headerSize]byte
		if _, err := io.ReadFull(r, h[:]); err != nil {
			return nil, fmt.Errorf("reading an iSNS header: %w", err)
		}
		field := func(at int) uint16 { return binary.BigEndian.Uint16(h[at:]) }
		n, flags := int(field(4)), field(6)
		switch {
		case field(0) != 1:
			return nil, fmt.Errorf("%w: version %d", errMessage, field(0))
		case n%4 != 0 || len(m.payload)+n > maxMessage:
			return nil, fmt.Errorf("%w: %d bytes after %d", errMessage, n, len(m.payload))
		case field(10) != sequence, (flags&flagFirst != 0) != (sequence == 0):
			return nil, fmt.Errorf("%w: piece %d comes as %d, flags %04x", errMessage, sequence, field(10), flags)
		case sequence > 0 && (m.function != field(2) || m.transaction != field(8)):
			return nil, fmt.Errorf("%w: a piece of another message", errMessage)
		case n == 0 && flags&flagLast == 0:
			return nil, fmt.Errorf("%w: an empty piece", errMessage)
		}
		m.function, m.flags, m.transaction = field(2), flags, field(8)
		at := len(m.payload)
		m.payload = append(m.payload, make([]byte, n)...)
		if _, err := io.ReadFull(r, m.payload[at:]); err != nil {
			return nil, fmt.Errorf("reading %d bytes of an iSNS message: %w", n, err)
		}
		if flags&flagLast != 0 {
			return m, nil
		}
	}
}

// answer takes the status and the attributes of an answer.
func (m *message) answer() ([]attribute, error) {
	if len(m.payload) < 4 {
		return nil, fmt.Errorf("%w: an answer of %d bytes", errMessage, len(m.payload))
	}
	if status := binary.BigEndian.Uint32(m.payload); status != 0 {
		return nil, StatusError(status)
	}
	return parseAttributes(m.payload[4:])
}

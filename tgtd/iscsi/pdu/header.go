// Package pdu is the wire form of iSCSI, RFC 7143 section 11: the 48-byte header of each protocol
// data unit as a struct with Encode and Decode, additional header segments, text keys, digests and
// logical unit numbers. It holds no state and takes no decisions, so that target and initiator share
// it. Whole units can be read and written with Read and PDU.Append; a data path that wants to place
// payloads itself uses the headers alone.
package pdu

import "encoding/binary"

// HeaderSize is the length of the basic header segment in bytes (RFC 7143 11.2).
const HeaderSize = 48

// MaxDataLength is the largest data segment that the 24-bit length can express, in bytes.
const MaxDataLength = 1<<24 - 1

// NoTag is the reserved value of initiator and target task tags.
const NoTag uint32 = 0xffffffff

// Opcode tells what a PDU is (RFC 7143 11.2.1.2).
type Opcode byte

// The opcodes; those from 0x20 on are sent by targets.
const (
	OpNOPOut         Opcode = 0x00
	OpSCSICommand    Opcode = 0x01
	OpTaskRequest    Opcode = 0x02
	OpLoginRequest   Opcode = 0x03
	OpTextRequest    Opcode = 0x04
	OpDataOut        Opcode = 0x05
	OpLogoutRequest  Opcode = 0x06
	OpSNACK          Opcode = 0x10
	OpNOPIn          Opcode = 0x20
	OpSCSIResponse   Opcode = 0x21
	OpTaskResponse   Opcode = 0x22
	OpLoginResponse  Opcode = 0x23
	OpTextResponse   Opcode = 0x24
	OpDataIn         Opcode = 0x25
	OpLogoutResponse Opcode = 0x26
	OpR2T            Opcode = 0x31
	OpAsync          Opcode = 0x32
	OpReject         Opcode = 0x3f
)

const (
	opcodeMask   = 0x3f
	immediateBit = 0x40
	finalBit     = 0x80 // also the T bit of login PDUs
	continueBit  = 0x40 // the C bit of text and login PDUs
)

// Header is a basic header segment as it travels.
type Header [HeaderSize]byte

// Opcode returns the opcode without the immediate bit.
func (h *Header) Opcode() Opcode { return Opcode(h[0] & opcodeMask) }

// Immediate says whether the request is marked for immediate delivery.
func (h *Header) Immediate() bool { return h[0]&immediateBit != 0 }

// Final returns the F bit.
func (h *Header) Final() bool { return h[1]&finalBit != 0 }

// AHSLength is the length of the additional header segments in bytes, 0 to 1020.
func (h *Header) AHSLength() int { return int(h[4]) * 4 }

// SetAHSLength sets the length of the additional header segments; n is a multiple of 4 up to 1020.
func (h *Header) SetAHSLength(n int) { h[4] = byte(n / 4) }

// DataLength is the length of the data segment in bytes without its padding.
func (h *Header) DataLength() int { return int(h[5])<<16 | int(h[6])<<8 | int(h[7]) }

// SetDataLength sets the length of the data segment, at most MaxDataLength.
func (h *Header) SetDataLength(n int) { h[5], h[6], h[7] = byte(n>>16), byte(n>>8), byte(n) }

// LUN returns the 8-byte logical unit number as it stands in the header; see DecodeLUN.
func (h *Header) LUN() uint64 { return binary.BigEndian.Uint64(h[8:]) }

// InitiatorTag returns the initiator task tag.
func (h *Header) InitiatorTag() uint32 { return h.u32(16) }

// TargetTag returns the target transfer tag where the PDU has one.
func (h *Header) TargetTag() uint32 { return h.u32(20) }

// CmdSN returns the command sequence number of a request.
func (h *Header) CmdSN() uint32 { return h.u32(24) }

// ExpStatSN returns the acknowledged status sequence number of a request.
func (h *Header) ExpStatSN() uint32 { return h.u32(28) }

// SetStatus sets the three sequence numbers that every PDU of a target carries at the same place:
// StatSN, ExpCmdSN and MaxCmdSN. Data-In PDUs without status have a StatSN of 0.
func (h *Header) SetStatus(statSN, expCmdSN, maxCmdSN uint32) {
	h.put32(24, statSN)
	h.put32(28, expCmdSN)
	h.put32(32, maxCmdSN)
}

func (h *Header) u16(at int) uint16       { return binary.BigEndian.Uint16(h[at:]) }
func (h *Header) u32(at int) uint32       { return binary.BigEndian.Uint32(h[at:]) }
func (h *Header) put16(at int, v uint16)  { binary.BigEndian.PutUint16(h[at:], v) }
func (h *Header) put32(at int, v uint32)  { binary.BigEndian.PutUint32(h[at:], v) }
func (h *Header) putLUN(v uint64)         { binary.BigEndian.PutUint64(h[8:], v) }
func (h *Header) bit(at int, b byte) bool { return h[at]&b != 0 }

// start clears the header and sets opcode and immediate bit.
func (h *Header) start(op Opcode, immediate bool) {
	*h = Header{}
	h[0] = byte(op)
	if immediate {
		h[0] |= immediateBit
	}
}

func (h *Header) set(at int, b byte, on bool) {
	if on {
		h[at] |= b
	}
}

// Less compares sequence numbers by the serial number arithmetic of RFC 1982 (RFC 7143 4.2.2.1).
func Less(a, b uint32) bool { return int32(a-b) < 0 }

// Padding is how many bytes follow n to fill a multiple of four.
func Padding(n int) int { return -n & 3 }

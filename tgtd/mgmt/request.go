package mgmt

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
)

// Sizes and limits of the protocol, in bytes.
const (
	HeaderSize         = 120  // of a request
	ResponseHeaderSize = 8    // of an answer
	DriverSize         = 64   // the driver's name in a request, NUL padded
	MaxParams          = 8192 // parameter bytes of a request with their NUL; beyond it the daemon hangs up
)

// NoLUN and NoTID stand in a request for a number that was not given.
const (
	NoTID int32  = -1
	NoLUN uint64 = math.MaxUint64
)

// Mode says what kind of thing a request is about.
type Mode uint32

// The modes, as numbered in requests.
const (
	ModeSystem Mode = iota
	ModeTarget
	ModeUnit
	ModePortal
	ModeDriver
	ModeSession
	ModeConnection
	ModeAccount
	modeCount
)

// ModeCount is the number of modes.
const ModeCount = int(modeCount)

var modeNames = [...]string{"system", "target", "logicalunit", "portal", "lld", "session",
	"connection", "account"}

// String returns the mode's name as tgtadm --mode takes it.
func (m Mode) String() string {
	if int(m) < len(modeNames) {
		return modeNames[m]
	}
	return fmt.Sprintf("mode %d", uint32(m))
}

// Op says what a request asks to be done.
type Op uint32

// The operations, as numbered in requests.
const (
	OpNew Op = iota
	OpDelete
	OpShow
	OpBind
	OpUnbind
	OpUpdate
	OpStat
	OpStart
	OpStop
	opCount
)

// OpCount is the number of operations.
const OpCount = int(opCount)

var opNames = [...]string{"new", "delete", "show", "bind", "unbind", "update", "stat", "start", "stop"}

// String returns the operation's name as tgtadm --op takes it.
func (o Op) String() string {
	if int(o) < len(opNames) {
		return opNames[o]
	}
	return fmt.Sprintf("op %d", uint32(o))
}

// Direction says which side of CHAP an account is for.
type Direction uint32

// The directions. The daemon takes any number but 0 for Outgoing.
const (
	Incoming Direction = 0
	Outgoing Direction = 1
)

// DeviceType is a SCSI peripheral device type (SPC-4 6.4.2), or Passthrough.
type DeviceType uint32

// The device types of tgtadm --device-type.
const (
	Disk        DeviceType = 0x00
	Tape        DeviceType = 0x01
	CD          DeviceType = 0x05
	Changer     DeviceType = 0x08
	Controller  DeviceType = 0x0c // LUN 0; tgtadm can't ask for one
	OSD         DeviceType = 0x11
	Passthrough DeviceType = 0xff
)

// Request is one request. The zero value has TID 0 and LUN 0, which are real numbers: set NoTID
// and NoLUN where none is meant.
type Request struct {
	Mode      Mode
	Op        Op
	Driver    string // at most 63 bytes; empty means the first driver
	TID       int32
	SID       uint64
	LUN       uint64
	CID       uint32
	Host      uint32
	Device    DeviceType
	Direction Direction
	Force     bool
	// HasParams tells an empty parameter string from none. Encoding takes it as set when Params isn't
	// empty.
	HasParams bool
	Params    string
}

// header is the layout of a request's head: host byte order, natural alignment, no packing.
//
//	0 mode u32 | 4 op u32 | 8 lld [64] | 72 len u32 | 76 tid i32 | 80 sid u64 | 88 lun u64
//	96 cid u32 | 100 host_no u32 | 104 device_type u32 | 108 ac_dir u32 | 112 pack u32 | 116 force u32
const (
	offMode      = 0
	offOp        = 4
	offDriver    = 8
	offLen       = 72
	offTID       = 76
	offSID       = 80
	offLUN       = 88
	offCID       = 96
	offHost      = 100
	offDevice    = 104
	offDirection = 108
	offForce     = 116
)

// Append encodes the request onto dst. It returns ErrTooLarge when the driver's name or the
// parameters do not fit, and ErrMalformed when one of them holds a NUL, which would cut it.
func (r *Request) Append(dst []byte) ([]byte, error) {
	params := 0
	if r.HasParams || r.Params != "" {
		params = len(r.Params) + 1
	}
	switch {
	case len(r.Driver) >= DriverSize:
		return dst, fmt.Errorf("%w: the driver's name has %d bytes, at most %d fit", ErrTooLarge,
			len(r.Driver), DriverSize-1)
	case params > MaxParams:
		return dst, fmt.Errorf("%w: %d bytes of parameters, at most %d fit", ErrTooLarge,
			params-1, MaxParams-1)
	case bytes.IndexByte([]byte(r.Driver), 0) >= 0 || bytes.IndexByte([]byte(r.Params), 0) >= 0:
		return dst, fmt.Errorf("%w: NUL in a text", ErrMalformed)
	}
	var h [HeaderSize]byte
	order := binary.NativeEndian
	order.PutUint32(h[offMode:], uint32(r.Mode))
	order.PutUint32(h[offOp:], uint32(r.Op))
	copy(h[offDriver:offDriver+DriverSize], r.Driver)
	order.PutUint32(h[offLen:], uint32(HeaderSize+params))
	order.PutUint32(h[offTID:], uint32(r.TID))
	order.PutUint64(h[offSID:], r.SID)
	order.PutUint64(h[offLUN:], r.LUN)
	order.PutUint32(h[offCID:], r.CID)
	order.PutUint32(h[offHost:], r.Host)
	order.PutUint32(h[offDevice:], uint32(r.Device))
	order.PutUint32(h[offDirection:], uint32(r.Direction))
	if r.Force {
		order.PutUint32(h[offForce:], 1)
	}
	dst = append(dst, h[:]...)
	if params > 0 {
		dst = append(append(dst, r.Params...), 0)
	}
	return dst, nil
}

// DecodeHeader decodes the head of a request and says how many parameter bytes follow it. It
// returns ErrMalformed when the length is less than a head, ErrTooLarge when it is beyond MaxParams.
func DecodeHeader(h *[HeaderSize]byte) (r Request, params int, err error) {
	order := binary.NativeEndian
	length := order.Uint32(h[offLen:])
	if length < HeaderSize {
		return Request{}, 0, fmt.Errorf("%w: length %d of a request, the head alone has %d bytes",
			ErrMalformed, length, HeaderSize)
	}
	if length > HeaderSize+MaxParams {
		return Request{}, 0, fmt.Errorf("%w: %d bytes of parameters, at most %d are taken",
			ErrTooLarge, length-HeaderSize, MaxParams)
	}
	r = Request{
		Mode: Mode(order.Uint32(h[offMode:])),
		Op:   Op(order.Uint32(h[offOp:])),
		// The last byte counts as NUL whatever it is.
		Driver:    text(h[offDriver : offDriver+DriverSize-1]),
		TID:       int32(order.Uint32(h[offTID:])),
		SID:       order.Uint64(h[offSID:]),
		LUN:       order.Uint64(h[offLUN:]),
		CID:       order.Uint32(h[offCID:]),
		Host:      order.Uint32(h[offHost:]),
		Device:    DeviceType(order.Uint32(h[offDevice:])),
		Direction: Direction(order.Uint32(h[offDirection:])),
		Force:     order.Uint32(h[offForce:]) != 0,
	}
	return r, int(length) - HeaderSize, nil
}

// DecodeRequest decodes a whole request: b must hold its head and all its parameter bytes and no
// more, else ErrMalformed. Parameters end at their first NUL, or at the end when there is none.
func DecodeRequest(b []byte) (Request, error) {
	if len(b) < HeaderSize {
		return Request{}, fmt.Errorf("%w: %d bytes of a request", ErrMalformed, len(b))
	}
	r, params, err := DecodeHeader((*[HeaderSize]byte)(b))
	if err != nil {
		return Request{}, err
	}
	if params != len(b)-HeaderSize {
		return Request{}, fmt.Errorf("%w: %d parameter bytes announced, %d there", ErrMalformed,
			params, len(b)-HeaderSize)
	}
	r.setParams(b[HeaderSize:])
	return r, nil
}

// setParams takes the parameter bytes of a request.
func (r *Request) setParams(b []byte) {
	r.HasParams = len(b) > 0
	r.Params = text(b)
}

// ReadRequest reads one request. It returns io.EOF when the peer closes before the first byte, an
// error that wraps io.ErrUnexpectedEOF when it closes later, and those of DecodeHeader.
func ReadRequest(from io.Reader) (Request, error) {
	var h [HeaderSize]byte
	if _, err := io.ReadFull(from, h[:]); err != nil {
		if err == io.EOF {
			return Request{}, err
		}
		return Request{}, fmt.Errorf("reading the head of a request: %w", err)
	}
	r, params, err := DecodeHeader(&h)
	if err != nil {
		return Request{}, err
	}
	b := make([]byte, params)
	if _, err := io.ReadFull(from, b); err != nil {
		return Request{}, fmt.Errorf("reading %d bytes of parameters: %w", params, err)
	}
	r.setParams(b)
	return r, nil
}

// text returns the string that ends at the first NUL of b, or at its end.
func text(b []byte) string {
	if n := bytes.IndexByte(b, 0); n >= 0 {
		b = b[:n]
	}
	return string(b)
}

package pdu

// Status is what every PDU of a target says of the sequence numbers (RFC 7143 4.2.2).
type Status struct {
	StatSN   uint32
	ExpCmdSN uint32
	MaxCmdSN uint32
}

func (s *Status) encode(h *Header) { h.SetStatus(s.StatSN, s.ExpCmdSN, s.MaxCmdSN) }

func decodeStatus(h *Header) Status {
	return Status{StatSN: h.u32(24), ExpCmdSN: h.u32(28), MaxCmdSN: h.u32(32)}
}

// Residual says by how much a command's transfer missed what the initiator expected
// (RFC 7143 11.4.5). At most one of Overflow and Underflow is set.
type Residual struct {
	Overflow  bool
	Underflow bool
	Count     uint32 // bytes
}

const (
	overflowBit      = 0x04
	underflowBit     = 0x02
	bidiOverflowBit  = 0x10
	bidiUnderflowBit = 0x08
)

// SCSIResponse is the SCSI Response PDU (RFC 7143 11.4).
type SCSIResponse struct {
	Response     byte // 0 completed at target, 1 target failure
	SCSIStatus   byte
	InitiatorTag uint32
	SNACKTag     uint32
	Status
	ExpDataSN    uint32
	Residual     Residual
	ReadResidual Residual // of the read direction of a bidirectional command
}

// Encode writes the PDU's header.
func (p *SCSIResponse) Encode(h *Header) {
	h.start(OpSCSIResponse, false)
	h[1] = finalBit
	h.set(1, bidiOverflowBit, p.ReadResidual.Overflow)
	h.set(1, bidiUnderflowBit, p.ReadResidual.Underflow)
	h.set(1, overflowBit, p.Residual.Overflow)
	h.set(1, underflowBit, p.Residual.Underflow)
	h[2], h[3] = p.Response, p.SCSIStatus
	h.put32(16, p.InitiatorTag)
	h.put32(20, p.SNACKTag)
	p.Status.encode(h)
	h.put32(36, p.ExpDataSN)
	h.put32(40, p.ReadResidual.Count)
	h.put32(44, p.Residual.Count)
}

// Decode reads the PDU's header.
func (p *SCSIResponse) Decode(h *Header) {
	*p = SCSIResponse{
		Response:     h[2],
		SCSIStatus:   h[3],
		InitiatorTag: h.u32(16),
		SNACKTag:     h.u32(20),
		Status:       decodeStatus(h),
		ExpDataSN:    h.u32(36),
		Residual:     Residual{h.bit(1, overflowBit), h.bit(1, underflowBit), h.u32(44)},
		ReadResidual: Residual{h.bit(1, bidiOverflowBit), h.bit(1, bidiUnderflowBit), h.u32(40)},
	}
}

// TaskResponse is the Task Management Function Response PDU (RFC 7143 11.6).
type TaskResponse struct {
	Response     byte
	InitiatorTag uint32
	Status
}

// Encode writes the PDU's header.
func (p *TaskResponse) Encode(h *Header) {
	h.start(OpTaskResponse, false)
	h[1], h[2] = finalBit, p.Response
	h.put32(16, p.InitiatorTag)
	p.Status.encode(h)
}

// Decode reads the PDU's header.
func (p *TaskResponse) Decode(h *Header) {
	*p = TaskResponse{Response: h[2], InitiatorTag: h.u32(16), Status: decodeStatus(h)}
}

// DataIn is the SCSI Data-In PDU (RFC 7143 11.7).
type DataIn struct {
	Final        bool
	Acknowledge  bool
	HasStatus    bool // S: SCSIStatus, StatSN and Residual are valid
	SCSIStatus   byte
	Residual     Residual
	LUN          uint64
	InitiatorTag uint32
	TargetTag    uint32
	Status
	DataSN uint32
	Offset uint32 // bytes from the beginning of the command's data
}

// Encode writes the PDU's header.
func (p *DataIn) Encode(h *Header) {
	h.start(OpDataIn, false)
	h.set(1, finalBit, p.Final)
	h.set(1, 0x40, p.Acknowledge)
	h.set(1, overflowBit, p.Residual.Overflow)
	h.set(1, underflowBit, p.Residual.Underflow)
	h.set(1, 0x01, p.HasStatus)
	h[3] = p.SCSIStatus
	h.putLUN(p.LUN)
	h.put32(16, p.InitiatorTag)
	h.put32(20, p.TargetTag)
	p.Status.encode(h)
	h.put32(36, p.DataSN)
	h.put32(40, p.Offset)
	h.put32(44, p.Residual.Count)
}

// Decode reads the PDU's header.
func (p *DataIn) Decode(h *Header) {
	*p = DataIn{
		Final:        h.Final(),
		Acknowledge:  h.bit(1, 0x40),
		HasStatus:    h.bit(1, 0x01),
		SCSIStatus:   h[3],
		Residual:     Residual{h.bit(1, overflowBit), h.bit(1, underflowBit), h.u32(44)},
		LUN:          h.LUN(),
		InitiatorTag: h.u32(16),
		TargetTag:    h.u32(20),
		Status:       decodeStatus(h),
		DataSN:       h.u32(36),
		Offset:       h.u32(40),
	}
}

// R2T is the Ready To Transfer PDU (RFC 7143 11.8).
type R2T struct {
	LUN          uint64
	InitiatorTag uint32
	TargetTag    uint32
	Status
	R2TSN  uint32
	Offset uint32 // bytes from the beginning of the command's data
	Length uint32 // bytes wanted
}

// Encode writes the PDU's header.
func (p *R2T) Encode(h *Header) {
	h.start(OpR2T, false)
	h[1] = finalBit
	h.putLUN(p.LUN)
	h.put32(16, p.InitiatorTag)
	h.put32(20, p.TargetTag)
	p.Status.encode(h)
	h.put32(36, p.R2TSN)
	h.put32(40, p.Offset)
	h.put32(44, p.Length)
}

// Decode reads the PDU's header.
func (p *R2T) Decode(h *Header) {
	*p = R2T{
		LUN:          h.LUN(),
		InitiatorTag: h.u32(16),
		TargetTag:    h.u32(20),
		Status:       decodeStatus(h),
		R2TSN:        h.u32(36),
		Offset:       h.u32(40),
		Length:       h.u32(44),
	}
}

// Async is the Asynchronous Message PDU (RFC 7143 11.9).
type Async struct {
	LUN uint64
	Status
	Event      byte // 0 SCSI, 1 logout wanted, 2 connection dropped, 3 session dropped, 4 renegotiate
	VendorCode byte
	Parameter  [3]uint16
}

// Encode writes the PDU's header.
func (p *Async) Encode(h *Header) {
	h.start(OpAsync, false)
	h[1] = finalBit
	h.putLUN(p.LUN)
	h.put32(16, NoTag)
	p.Status.encode(h)
	h[36], h[37] = p.Event, p.VendorCode
	for i, v := range p.Parameter {
		h.put16(38+2*i, v)
	}
}

// Decode reads the PDU's header.
func (p *Async) Decode(h *Header) {
	*p = Async{
		LUN:        h.LUN(),
		Status:     decodeStatus(h),
		Event:      h[36],
		VendorCode: h[37],
		Parameter:  [3]uint16{h.u16(38), h.u16(40), h.u16(42)},
	}
}

// TextResponse is the Text Response PDU (RFC 7143 11.11).
type TextResponse struct {
	Final        bool
	Continue     bool
	LUN          uint64
	InitiatorTag uint32
	TargetTag    uint32 // NoTag with the last one
	Status
}

// Encode writes the PDU's header.
func (p *TextResponse) Encode(h *Header) {
	h.start(OpTextResponse, false)
	h.set(1, finalBit, p.Final)
	h.set(1, continueBit, p.Continue)
	h.putLUN(p.LUN)
	h.put32(16, p.InitiatorTag)
	h.put32(20, p.TargetTag)
	p.Status.encode(h)
}

// Decode reads the PDU's header.
func (p *TextResponse) Decode(h *Header) {
	*p = TextResponse{
		Final:        h.Final(),
		Continue:     h.bit(1, continueBit),
		LUN:          h.LUN(),
		InitiatorTag: h.u32(16),
		TargetTag:    h.u32(20),
		Status:       decodeStatus(h),
	}
}

// LoginResponse is the Login Response PDU (RFC 7143 11.13).
type LoginResponse struct {
	Transit       bool
	Continue      bool
	CSG, NSG      Stage
	VersionMax    byte
	VersionActive byte
	ISID          [6]byte
	TSIH          uint16
	InitiatorTag  uint32
	Status
	StatusClass  byte // 0 success, 1 redirection, 2 initiator error, 3 target error
	StatusDetail byte
}

// Encode writes the PDU's header.
func (p *LoginResponse) Encode(h *Header) {
	h.start(OpLoginResponse, false)
	h[1] = byte(p.CSG&3)<<2 | byte(p.NSG&3)
	h.set(1, finalBit, p.Transit)
	h.set(1, continueBit, p.Continue)
	h[2], h[3] = p.VersionMax, p.VersionActive
	copy(h[8:14], p.ISID[:])
	h.put16(14, p.TSIH)
	h.put32(16, p.InitiatorTag)
	p.Status.encode(h)
	h[36], h[37] = p.StatusClass, p.StatusDetail
}

// Decode reads the PDU's header.
func (p *LoginResponse) Decode(h *Header) {
	*p = LoginResponse{
		Transit:       h.Final(),
		Continue:      h.bit(1, continueBit),
		CSG:           Stage(h[1] >> 2 & 3),
		NSG:           Stage(h[1] & 3),
		VersionMax:    h[2],
		VersionActive: h[3],
		ISID:          [6]byte(h[8:14]),
		TSIH:          h.u16(14),
		InitiatorTag:  h.u32(16),
		Status:        decodeStatus(h),
		StatusClass:   h[36],
		StatusDetail:  h[37],
	}
}

// LogoutResponse is the Logout Response PDU (RFC 7143 11.15).
type LogoutResponse struct {
	Response     byte // 0 closed, 1 no such connection, 2 recovery not supported, 3 cleanup failed
	InitiatorTag uint32
	Status
	Time2Wait   uint16 // seconds
	Time2Retain uint16 // seconds
}

// Encode writes the PDU's header.
func (p *LogoutResponse) Encode(h *Header) {
	h.start(OpLogoutResponse, false)
	h[1], h[2] = finalBit, p.Response
	h.put32(16, p.InitiatorTag)
	p.Status.encode(h)
	h.put16(40, p.Time2Wait)
	h.put16(42, p.Time2Retain)
}

// Decode reads the PDU's header.
func (p *LogoutResponse) Decode(h *Header) {
	*p = LogoutResponse{
		Response:     h[2],
		InitiatorTag: h.u32(16),
		Status:       decodeStatus(h),
		Time2Wait:    h.u16(40),
		Time2Retain:  h.u16(42),
	}
}

// RejectReason says why a PDU was refused (RFC 7143 11.17.1).
type RejectReason byte

// The reasons.
const (
	RejectDataDigest      RejectReason = 0x02
	RejectSNACK           RejectReason = 0x03
	RejectProtocolError   RejectReason = 0x04
	RejectNotSupported    RejectReason = 0x05
	RejectImmediate       RejectReason = 0x06
	RejectTaskInProgress  RejectReason = 0x07
	RejectInvalidDataAck  RejectReason = 0x08
	RejectInvalidField    RejectReason = 0x09
	RejectLongOperation   RejectReason = 0x0a
	RejectWaitingToLogout RejectReason = 0x0c
)

// Reject is the Reject PDU (RFC 7143 11.17); its data segment is the refused header.
type Reject struct {
	Reason RejectReason
	Status
	DataSN uint32
}

// Encode writes the PDU's header.
func (p *Reject) Encode(h *Header) {
	h.start(OpReject, false)
	h[1], h[2] = finalBit, byte(p.Reason)
	h.put32(16, NoTag)
	p.Status.encode(h)
	h.put32(36, p.DataSN)
}

// Decode reads the PDU's header.
func (p *Reject) Decode(h *Header) {
	*p = Reject{Reason: RejectReason(h[2]), Status: decodeStatus(h), DataSN: h.u32(36)}
}

// NOPIn is the NOP-In PDU (RFC 7143 11.19).
type NOPIn struct {
	LUN          uint64
	InitiatorTag uint32 // that of the NOP-Out it answers, or NoTag
	TargetTag    uint32 // NoTag when no answer is wanted
	Status
}

// Encode writes the PDU's header.
func (p *NOPIn) Encode(h *Header) {
	h.start(OpNOPIn, false)
	h[1] = finalBit
	h.putLUN(p.LUN)
	h.put32(16, p.InitiatorTag)
	h.put32(20, p.TargetTag)
	p.Status.encode(h)
}

// Decode reads the PDU's header.
func (p *NOPIn) Decode(h *Header) {
	*p = NOPIn{
		LUN:          h.LUN(),
		InitiatorTag: h.u32(16),
		TargetTag:    h.u32(20),
		Status:       decodeStatus(h),
	}
}

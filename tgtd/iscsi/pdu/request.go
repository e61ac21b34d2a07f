package pdu

// SCSICommand is the SCSI Command PDU (RFC 7143 11.3).
type SCSICommand struct {
	Immediate      bool
	Final          bool // no unsolicited Data-Out follows
	Read           bool
	Write          bool
	Attribute      byte // 0 untagged, 1 simple, 2 ordered, 3 head of queue, 4 ACA
	LUN            uint64
	InitiatorTag   uint32
	ExpectedLength uint32 // bytes; of the write direction for a bidirectional command
	CmdSN          uint32
	ExpStatSN      uint32
	CDB            [16]byte
}

// Encode writes the PDU's header; segment lengths are 0 until they are set.
func (p *SCSICommand) Encode(h *Header) {
	h.start(OpSCSICommand, p.Immediate)
	h[1] = p.Attribute & 7
	h.set(1, finalBit, p.Final)
	h.set(1, 0x40, p.Read)
	h.set(1, 0x20, p.Write)
	h.putLUN(p.LUN)
	h.put32(16, p.InitiatorTag)
	h.put32(20, p.ExpectedLength)
	h.put32(24, p.CmdSN)
	h.put32(28, p.ExpStatSN)
	copy(h[32:], p.CDB[:])
}

// Decode reads the PDU's header.
func (p *SCSICommand) Decode(h *Header) {
	*p = SCSICommand{
		Immediate:      h.Immediate(),
		Final:          h.Final(),
		Read:           h.bit(1, 0x40),
		Write:          h.bit(1, 0x20),
		Attribute:      h[1] & 7,
		LUN:            h.LUN(),
		InitiatorTag:   h.u32(16),
		ExpectedLength: h.u32(20),
		CmdSN:          h.u32(24),
		ExpStatSN:      h.u32(28),
		CDB:            [16]byte(h[32:48]),
	}
}

// TaskRequest is the Task Management Function Request PDU (RFC 7143 11.5).
type TaskRequest struct {
	Immediate     bool
	Function      byte // 1 to 8, 7 bits
	LUN           uint64
	InitiatorTag  uint32
	ReferencedTag uint32
	CmdSN         uint32
	ExpStatSN     uint32
	RefCmdSN      uint32
	ExpDataSN     uint32
}

// Encode writes the PDU's header.
func (p *TaskRequest) Encode(h *Header) {
	h.start(OpTaskRequest, p.Immediate)
	h[1] = finalBit | p.Function&0x7f
	h.putLUN(p.LUN)
	h.put32(16, p.InitiatorTag)
	h.put32(20, p.ReferencedTag)
	h.put32(24, p.CmdSN)
	h.put32(28, p.ExpStatSN)
	h.put32(32, p.RefCmdSN)
	h.put32(36, p.ExpDataSN)
}

// Decode reads the PDU's header.
func (p *TaskRequest) Decode(h *Header) {
	*p = TaskRequest{
		Immediate:     h.Immediate(),
		Function:      h[1] & 0x7f,
		LUN:           h.LUN(),
		InitiatorTag:  h.u32(16),
		ReferencedTag: h.u32(20),
		CmdSN:         h.u32(24),
		ExpStatSN:     h.u32(28),
		RefCmdSN:      h.u32(32),
		ExpDataSN:     h.u32(36),
	}
}

// DataOut is the SCSI Data-Out PDU (RFC 7143 11.7).
type DataOut struct {
	Final        bool
	LUN          uint64
	InitiatorTag uint32
	TargetTag    uint32 // NoTag for unsolicited data
	ExpStatSN    uint32
	DataSN       uint32
	Offset       uint32 // bytes from the beginning of the command's data
}

// Encode writes the PDU's header.
func (p *DataOut) Encode(h *Header) {
	h.start(OpDataOut, false)
	h.set(1, finalBit, p.Final)
	h.putLUN(p.LUN)
	h.put32(16, p.InitiatorTag)
	h.put32(20, p.TargetTag)
	h.put32(28, p.ExpStatSN)
	h.put32(36, p.DataSN)
	h.put32(40, p.Offset)
}

// Decode reads the PDU's header.
func (p *DataOut) Decode(h *Header) {
	*p = DataOut{
		Final:        h.Final(),
		LUN:          h.LUN(),
		InitiatorTag: h.u32(16),
		TargetTag:    h.u32(20),
		ExpStatSN:    h.u32(28),
		DataSN:       h.u32(36),
		Offset:       h.u32(40),
	}
}

// TextRequest is the Text Request PDU (RFC 7143 11.10).
type TextRequest struct {
	Immediate    bool
	Final        bool
	Continue     bool
	LUN          uint64
	InitiatorTag uint32
	TargetTag    uint32
	CmdSN        uint32
	ExpStatSN    uint32
}

// Encode writes the PDU's header.
func (p *TextRequest) Encode(h *Header) {
	h.start(OpTextRequest, p.Immediate)
	h.set(1, finalBit, p.Final)
	h.set(1, continueBit, p.Continue)
	h.putLUN(p.LUN)
	h.put32(16, p.InitiatorTag)
	h.put32(20, p.TargetTag)
	h.put32(24, p.CmdSN)
	h.put32(28, p.ExpStatSN)
}

// Decode reads the PDU's header.
func (p *TextRequest) Decode(h *Header) {
	*p = TextRequest{
		Immediate:    h.Immediate(),
		Final:        h.Final(),
		Continue:     h.bit(1, continueBit),
		LUN:          h.LUN(),
		InitiatorTag: h.u32(16),
		TargetTag:    h.u32(20),
		CmdSN:        h.u32(24),
		ExpStatSN:    h.u32(28),
	}
}

// Stage is a stage of the login phase (RFC 7143 11.12.3).
type Stage byte

// The stages; 2 does not exist.
const (
	StageSecurity    Stage = 0
	StageOperational Stage = 1
	StageFullFeature Stage = 3
)

// LoginRequest is the Login Request PDU (RFC 7143 11.12). It is always immediate.
type LoginRequest struct {
	Transit      bool
	Continue     bool
	CSG, NSG     Stage
	VersionMax   byte
	VersionMin   byte
	ISID         [6]byte
	TSIH         uint16
	InitiatorTag uint32
	CID          uint16
	CmdSN        uint32
	ExpStatSN    uint32
}

// Encode writes the PDU's header.
func (p *LoginRequest) Encode(h *Header) {
	h.start(OpLoginRequest, true)
	h[1] = byte(p.CSG&3)<<2 | byte(p.NSG&3)
	h.set(1, finalBit, p.Transit)
	h.set(1, continueBit, p.Continue)
	h[2], h[3] = p.VersionMax, p.VersionMin
	copy(h[8:14], p.ISID[:])
	h.put16(14, p.TSIH)
	h.put32(16, p.InitiatorTag)
	h.put16(20, p.CID)
	h.put32(24, p.CmdSN)
	h.put32(28, p.ExpStatSN)
}

// Decode reads the PDU's header.
func (p *LoginRequest) Decode(h *Header) {
	*p = LoginRequest{
		Transit:      h.Final(),
		Continue:     h.bit(1, continueBit),
		CSG:          Stage(h[1] >> 2 & 3),
		NSG:          Stage(h[1] & 3),
		VersionMax:   h[2],
		VersionMin:   h[3],
		ISID:         [6]byte(h[8:14]),
		TSIH:         h.u16(14),
		InitiatorTag: h.u32(16),
		CID:          h.u16(20),
		CmdSN:        h.u32(24),
		ExpStatSN:    h.u32(28),
	}
}

// LogoutRequest is the Logout Request PDU (RFC 7143 11.14).
type LogoutRequest struct {
	Immediate    bool
	Reason       byte // 0 close the session, 1 close the connection CID, 2 remove it for recovery
	InitiatorTag uint32
	CID          uint16
	CmdSN        uint32
	ExpStatSN    uint32
}

// Encode writes the PDU's header.
func (p *LogoutRequest) Encode(h *Header) {
	h.start(OpLogoutRequest, p.Immediate)
	h[1] = finalBit | p.Reason&0x7f
	h.put32(16, p.InitiatorTag)
	h.put16(20, p.CID)
	h.put32(24, p.CmdSN)
	h.put32(28, p.ExpStatSN)
}

// Decode reads the PDU's header.
func (p *LogoutRequest) Decode(h *Header) {
	*p = LogoutRequest{
		Immediate:    h.Immediate(),
		Reason:       h[1] & 0x7f,
		InitiatorTag: h.u32(16),
		CID:          h.u16(20),
		CmdSN:        h.u32(24),
		ExpStatSN:    h.u32(28),
	}
}

// SNACK is the SNACK Request PDU (RFC 7143 11.16).
type SNACK struct {
	Type         byte // 0 data or R2T, 1 status, 2 data acknowledgement, 3 resend with new tags
	LUN          uint64
	InitiatorTag uint32
	TargetTag    uint32
	ExpStatSN    uint32
	BegRun       uint32
	RunLength    uint32
}

// Encode writes the PDU's header.
func (p *SNACK) Encode(h *Header) {
	h.start(OpSNACK, false)
	h[1] = finalBit | p.Type&0x0f
	h.putLUN(p.LUN)
	h.put32(16, p.InitiatorTag)
	h.put32(20, p.TargetTag)
	h.put32(28, p.ExpStatSN)
	h.put32(40, p.BegRun)
	h.put32(44, p.RunLength)
}

// Decode reads the PDU's header.
func (p *SNACK) Decode(h *Header) {
	*p = SNACK{
		Type:         h[1] & 0x0f,
		LUN:          h.LUN(),
		InitiatorTag: h.u32(16),
		TargetTag:    h.u32(20),
		ExpStatSN:    h.u32(28),
		BegRun:       h.u32(40),
		RunLength:    h.u32(44),
	}
}

// NOPOut is the NOP-Out PDU (RFC 7143 11.18).
type NOPOut struct {
	Immediate    bool
	LUN          uint64
	InitiatorTag uint32 // NoTag when no answer is wanted
	TargetTag    uint32 // that of the NOP-In it answers, or NoTag
	CmdSN        uint32
	ExpStatSN    uint32
}

// Encode writes the PDU's header.
func (p *NOPOut) Encode(h *Header) {
	h.start(OpNOPOut, p.Immediate)
	h[1] = finalBit
	h.putLUN(p.LUN)
	h.put32(16, p.InitiatorTag)
	h.put32(20, p.TargetTag)
	h.put32(24, p.CmdSN)
	h.put32(28, p.ExpStatSN)
}

// Decode reads the PDU's header.
func (p *NOPOut) Decode(h *Header) {
	*p = NOPOut{
		Immediate:    h.Immediate(),
		LUN:          h.LUN(),
		InitiatorTag: h.u32(16),
		TargetTag:    h.u32(20),
		CmdSN:        h.u32(24),
		ExpStatSN:    h.u32(28),
	}
}

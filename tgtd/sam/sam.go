// Package sam holds the words that a SCSI transport and a SCSI device server share, and no more:
// the I_T nexus, the command, its status, and the task management functions, as SAM-5 names them.
// The transport (tgtd/iscsi) fills in a Command and hands it to a Target; the device server
// (tgtd/scsi) completes it. Neither knows the other.
package sam

import "net/netip"

// Status is the status a command ends with (SAM-5 5.3.1).
type Status byte

// Status codes of SAM-5 5.3.1.
const (
	Good                Status = 0x00
	CheckCondition      Status = 0x02
	ConditionMet        Status = 0x04
	Busy                Status = 0x08
	ReservationConflict Status = 0x18
	TaskSetFull         Status = 0x28
	ACAActive           Status = 0x30
	TaskAborted         Status = 0x40
)

// Attribute is a command's task attribute (SAM-5 8.6).
type Attribute byte

// Task attributes, numbered as in the iSCSI SCSI Command PDU (RFC 7143 11.3.1.4).
const (
	Untagged Attribute = iota
	Simple
	Ordered
	HeadOfQueue
	ACA
)

// LUN is a logical unit number already decoded from its 8-byte form (SAM-5 4.7): the number that
// tgtadm --lun takes. A form that is neither peripheral, flat nor extended flat decodes to NoLUN.
type LUN uint64

// NoLUN is a number that no unit can have.
const NoLUN LUN = 1<<64 - 1

// Nexus is one I_T nexus: an iSCSI session seen from the device server. The transport makes one
// per session and keeps it until Target.Detach.
type Nexus struct {
	Session       uint64 // number of the session: 1, 2, … per daemon, as tgtadm --sid shows it
	InitiatorName string
	ISID          [6]byte
	TargetName    string
	TargetTag     uint16 // target portal group tag
	Peer          netip.AddrPort
	// Server is the device server's own state for this nexus (pending unit attentions, registrations).
	Server any
}

// Command is one SCSI command on its way through the device server. The transport owns the memory
// and may use a Command again after it has handled Done.
type Command struct {
	Nexus     *Nexus
	LUN       LUN
	Tag       uint32 // the initiator task tag
	Attribute Attribute
	CDB       []byte // 6 to 260 bytes; at least 16 are addressable through CDB[:16] (zero-padded)

	DataOut  []byte // everything the initiator sent, exactly min(OutBytes, sent) bytes
	OutBytes uint32 // expected data transfer length towards the target
	InBytes  uint32 // expected data transfer length towards the initiator

	// Set by the device server before it calls Done.
	Status Status
	Sense  []byte // sense data without the length field; nil unless CheckCondition
	DataIn []byte // at most InBytes bytes; belongs to the device server until Release
	// Moved is how many bytes the command asked to transfer in its direction; against InBytes or
	// OutBytes it gives the residual (RFC 7143 11.4.5).
	Moved   uint64
	Aborted bool // a task management function ended it: the transport sends no response

	// Done is set by the transport and called exactly once for each Execute, from any goroutine,
	// possibly before Execute returns. It must not block.
	Done func(*Command)

	// Release, when not nil, is called by the transport once DataIn was sent; it gives buffers back.
	Release func(*Command)

	Transport any // the transport's own
	Server    any // the device server's own
}

// Function is a task management function (SAM-5 7), numbered as in RFC 7143 11.5.1.
type Function byte

// The task management functions.
const (
	AbortTask        Function = 1
	AbortTaskSet     Function = 2
	ClearACA         Function = 3
	ClearTaskSet     Function = 4
	LogicalUnitReset Function = 5
	TargetWarmReset  Function = 6
	TargetColdReset  Function = 7
	TaskReassign     Function = 8
)

// Response is the answer to a task management function, numbered as in RFC 7143 11.6.1.
type Response byte

// The answers.
const (
	FunctionComplete     Response = 0
	TaskDoesNotExist     Response = 1
	LUNDoesNotExist      Response = 2
	TaskStillAllegiant   Response = 3
	ReassignNotSupported Response = 4
	NotSupported         Response = 5
	FunctionRejected     Response = 255
)

// Target is a SCSI target device as a transport sees it. All calls may be made from any goroutine.
type Target interface {
	// Attach tells of a new I_T nexus; it sets up n.Server.
	Attach(n *Nexus)
	// Detach ends a nexus: its commands are aborted, its reservations dropped as SPC rules.
	// It returns after the last Done of the nexus was called.
	Detach(n *Nexus)
	// Execute starts a command and does not wait for it.
	Execute(c *Command)
	// Manage carries out a function; tag is the task's for AbortTask. done is called exactly once,
	// when no affected command can take effect any more, except before commands sent later.
	Manage(n *Nexus, f Function, lun LUN, tag uint32, done func(Response))
}

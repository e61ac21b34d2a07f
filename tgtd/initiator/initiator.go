// Package initiator is an iSCSI initiator (RFC 7143): discovery, login with CHAP and digests, and SCSI
// commands in any number up to a depth. A session survives its connection: it logs in again and issues
// anew what was under way, as an operating system's initiator does; redirections are followed, and with error recovery
// level 1 damaged PDUs are asked for again. The project's own checks and
// measurements use it; it shares only the PDU codec with the target.
//
// A connection has one reader goroutine, which calls Done, and one sender goroutine for what the reader must
// not wait for. Submit writes by itself unless somebody is writing already, who then takes it along. A session may have
// several connections (multi.go).
//
// What an operating system's SCSI layer does above its initiator is not done here: a command that ends
// with UNIT ATTENTION or BUSY is not repeated. A target that hangs without closing its connection is waited
// for; there are no timers for commands.
package initiator

import (
	"errors"
	"fmt"
	"time"
)

// Named limits of a session.
const (
	MaxDepth         = 256       // commands under way
	MaxConnections   = 8         // of one session
	MaxTransfer      = 16 << 20  // bytes of one command
	maxRecvSegment   = 256 << 10 // MaxRecvDataSegmentLength that we declare, in bytes
	maxBurst         = 1 << 20   // MaxBurstLength that we offer, in bytes
	firstBurst       = 256 << 10 // FirstBurstLength that we offer, in bytes
	readBuffer       = 64 << 10  // bytes
	slotBits         = 16        // of an initiator task tag
	senseBuffer      = 256       // bytes of a SCSI Response's data that are understood
	loginTimeout     = 5 * time.Second
	reconnectMin     = 20 * time.Millisecond
	reconnectMax     = 500 * time.Millisecond
	maxLoginRounds   = 16
	maxDiscoveryText = 1 << 20 // bytes of a SendTargets answer
)

// Options says where and how to log in.
type Options struct {
	Portal    string // host:port
	Target    string // iSCSI name; Discover does not need one
	Initiator string // our iSCSI name

	User, Secret             string // CHAP; no user: none
	MutualUser, MutualSecret string // what the target must prove, if a user is set; needs User too

	// Algorithms are the CHAP algorithms we offer, by their registered numbers, most wanted first: 5 MD5, 6 SHA1,
	// 7 SHA-256, 8 SHA3-256. None means these in this order: tgt takes 7 for SHA1, so MD5 is the only one that every
	// target understands in the same way.
	Algorithms []int

	HeaderDigest, DataDigest bool
	// Recovery offers error recovery level 1: damaged PDUs do not end the connection. It needs both digests.
	Recovery bool
	Depth    int // commands under way, 1 to MaxDepth; 0 means 32
	// Connections is how many connections the session has if the target lets it, 1 to MaxConnections; 0 means 1. With
	// several there is no error recovery level 1.
	Connections int
	// Reconnect makes the session outlive its connection. For so long it tries, before commands fail;
	// refused logins count as attempts, since a target that was started anew gets its units bit by bit.
	Reconnect time.Duration
}

// The errors that decisions hang on; LoginError and StatusError say more.
var (
	ErrClosed   = errors.New("the session is closed")
	ErrProtocol = errors.New("the target broke the protocol")
	ErrMutual   = errors.New("the target did not prove itself")
	ErrAborted  = errors.New("the command was aborted by a task management function")
)

// LoginError is a login that the target refused: class and detail of RFC 7143 11.13.5.
type LoginError struct{ Class, Detail byte }

// Error implements error.
func (e *LoginError) Error() string {
	return fmt.Sprintf("login refused: status %02x%02x (%s)", e.Class, e.Detail, e.meaning())
}

func (e *LoginError) meaning() string {
	switch uint(e.Class)<<8 | uint(e.Detail) {
	case 0x0201:
		return "authentication failed"
	case 0x0202:
		return "this initiator is not allowed"
	case 0x0203:
		return "no such target"
	case 0x0301:
		return "the target is unavailable"
	}
	switch e.Class {
	case 1:
		return "the target is elsewhere"
	case 2:
		return "the initiator's mistake"
	case 3:
		return "the target's failure"
	}
	return "unknown"
}

// StatusError is a command that ended with another status than GOOD.
type StatusError struct {
	Status byte
	Sense  []byte // without the length field; valid until the Task is used again
}

// Error implements error.
func (e *StatusError) Error() string {
	if key := e.Key(); key != 0 {
		return fmt.Sprintf("status %02x, sense %x/%04x", e.Status, key>>16, key&0xffff)
	}
	return fmt.Sprintf("status %02x, sense [% x]", e.Status, e.Sense)
}

// Key is the sense key and its additional codes, 0 without sense: 0x062900 is a power-on unit attention.
// It knows the fixed and the descriptor format (SPC-4 4.5).
func (e *StatusError) Key() int {
	switch {
	case len(e.Sense) >= 14 && e.Sense[0]&0x7e == 0x70:
		return int(e.Sense[2]&0xf)<<16 | int(e.Sense[12])<<8 | int(e.Sense[13])
	case len(e.Sense) >= 4 && e.Sense[0]&0x7e == 0x72:
		return int(e.Sense[1]&0xf)<<16 | int(e.Sense[2])<<8 | int(e.Sense[3])
	}
	return 0
}

// Task is one SCSI command. The submitter fills the first part and leaves the Task alone until Done is
// called; then it may use it again.
type Task struct {
	LUN uint64
	CDB [16]byte
	Out []byte // data to the target; it must not change before Done
	In  []byte // room for data from the target; one direction only

	Status byte
	Sense  []byte // valid until the Task is used again
	Moved  int    // bytes that came into In
	// Residual is by how many bytes the command wanted to move less than the submitter expected;
	// negative when it wanted more (RFC 7143 11.4.5).
	Residual int
	Err      error // nil for GOOD; a *StatusError, ErrAborted, or why the session ended

	// Done is called once for each submission, from a goroutine of the session, which it must not hold up: it
	// may call Again and nothing else that waits.
	Done func(*Task)
	// Owner is the submitter's own.
	Owner any

	status StatusError // what Err points to
	sense  [senseBuffer]byte
	tag    uint32 // its slot
	itt    uint32 // initiator task tag of the latest issue: the slot, with recovery below a number of the issue
	seq    uint64 // order of submission
	sn     uint32 // CmdSN of the latest issue
	sent   bool   // issued on a connection of the present session
	conn   *conn  // that; nil when it was lost
	cid    uint16 // its number

	// Of recovery; all but retried, which the session guards, are the reader's own.
	nextSN  uint32 // DataSN or R2TSN that comes next
	asked   bool   // what is missing from there on was asked for
	retried bool   // the command was sent more than once, so that it may still be on its way out
}

// clear forgets what a former use has left.
func (t *Task) clear() {
	t.Status, t.Sense, t.Moved, t.Residual, t.Err, t.sent = 0, nil, 0, 0, nil, false
	t.nextSN, t.asked, t.retried, t.conn = 0, false, false, nil
}

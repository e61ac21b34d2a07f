package scsi

import (
	"encoding/binary"
	"encoding/hex"
	"math"
	"strings"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/sam"
)

// command is a row of the table of operation codes. The checks of dispatch, the order of the task set
// and REPORT SUPPORTED OPERATION CODES all come from it.
type command struct {
	op      byte
	service int // service action, or none
	name    string
	// usage is the CDB usage data (SPC-4) in hexadecimal: a bit that is evaluated is set; the operation
	// code and the service action stand for themselves. Its length is the length of the CDB.
	usage   string
	handler step

	medium bool // needs a medium
	writes bool // changes the medium: refused when write-protected
	thin   bool // there only with thin provisioning
	atomic bool // there only where the store's writes are atomic
	erase  bool // there only where erased blocks are known to read as zeros: with thin provisioning
	local  bool // not there where other targets serve the medium too: its effect could not hold there
	alua   bool // there only where the unit has target port groups
	// sanitizing: allowed while the medium is being sanitized, or after that has failed (SBC-3 4.11.3).
	sanitizing bool
	// standby: allowed in every target port asymmetric access state (SPC-4 5.15.2).
	standby bool
	// extent reads the blocks that the command addresses; nil with writes means all of them.
	extent func(cdb []byte) (lba, blocks uint64)
	// exclusive says whether no other command may change the extent meanwhile; nil means no.
	exclusive func(cdb []byte) bool
	// parameters: data-out is a parameter list, whose errors carry no residual in the reference.
	parameters bool
	// shared: allowed although another session holds the unit by RESERVE(6) (SPC-2).
	shared bool
	access access // against a persistent reservation of another nexus

	cdbUsage []byte // usage, decoded
}

// none stands for a command without service actions.
const none = -1

// access is a command's class in the tables of SPC-4 and SBC-3.
type access uint8

const (
	accessWrite access = iota // conflicts, except for registered nexuses with a registrants type
	accessRead                // as accessWrite, but allowed to all with a write exclusive type
	accessFree                // never conflicts; PERSISTENT RESERVE OUT has rules of its own
)

// table finds rows by operation code.
type table struct {
	rows []*command // by operation code and service action
	byOp [256][]*command
}

func newTable(rows []command) *table {
	tb := &table{}
	for i := range rows {
		row := &rows[i]
		usage, err := hex.DecodeString(strings.ReplaceAll(row.usage, " ", ""))
		if err != nil {
			panic("scsi: usage of " + row.name + ": " + err.Error())
		}
		row.cdbUsage = usage
		tb.rows = append(tb.rows, row)
		tb.byOp[row.op] = append(tb.byOp[row.op], row)
	}
	return tb
}

// find returns the row for a CDB, or nil.
func (tb *table) find(cdb []byte) *command {
	for _, row := range tb.byOp[cdb[0]] {
		if row.service == none || row.service == int(cdb[1]&0x1f) {
			return row
		}
	}
	return nil
}

// Where the fields of a CDB are (SPC-4).

func extent6(cdb []byte) (lba, blocks uint64) {
	lba, blocks = uint64(binary.BigEndian.Uint32(cdb)&0x1fffff), uint64(cdb[4])
	if blocks == 0 {
		blocks = 256 // SBC-3
	}
	return lba, blocks
}

func extent10(cdb []byte) (lba, blocks uint64) {
	return uint64(binary.BigEndian.Uint32(cdb[2:])), uint64(binary.BigEndian.Uint16(cdb[7:]))
}

func extent12(cdb []byte) (lba, blocks uint64) {
	return uint64(binary.BigEndian.Uint32(cdb[2:])), uint64(binary.BigEndian.Uint32(cdb[6:]))
}

func extent16(cdb []byte) (lba, blocks uint64) {
	return binary.BigEndian.Uint64(cdb[2:]), uint64(binary.BigEndian.Uint32(cdb[10:]))
}

func extentAtomic(cdb []byte) (lba, blocks uint64) {
	return binary.BigEndian.Uint64(cdb[2:]), uint64(binary.BigEndian.Uint16(cdb[12:]))
}

func extentCompare(cdb []byte) (lba, blocks uint64) {
	return binary.BigEndian.Uint64(cdb[2:]), uint64(cdb[13])
}

func always([]byte) bool { return true }

// comparesData says whether a VERIFY or WRITE AND VERIFY compares with data (BYTCHK).
func comparesData(cdb []byte) bool { return cdb[1]&0x06 != 0 }

// The commands of a disk (SPC-4, SBC-3, and RESERVE(6)/RELEASE(6) of SPC-2).
var diskTable = newTable([]command{
	{op: 0x00, service: none, name: "TEST UNIT READY", usage: "00 00 00 00 00 07",
		handler: testUnitReady, access: accessFree},
	{op: 0x03, service: none, name: "REQUEST SENSE", usage: "03 00 00 00 ff 07",
		handler: requestSense, shared: true, sanitizing: true, standby: true, access: accessFree},
	{op: 0x04, service: none, name: "FORMAT UNIT", usage: "04 d7 00 00 00 07",
		handler: formatUnit, medium: true, writes: true},
	{op: 0x08, service: none, name: "READ(6)", usage: "08 1f ff ff ff 07",
		handler: read, medium: true, extent: extent6, access: accessRead},
	{op: 0x0a, service: none, name: "WRITE(6)", usage: "0a 1f ff ff ff 07",
		handler: write, medium: true, writes: true, extent: extent6},
	{op: 0x12, service: none, name: "INQUIRY", usage: "12 01 ff ff ff 07",
		handler: inquiry, shared: true, sanitizing: true, standby: true, access: accessFree},
	{op: 0x15, service: none, name: "MODE SELECT(6)", usage: "15 11 00 00 ff 07",
		handler: modeSelect6, standby: true, parameters: true},
	{op: 0x16, service: none, name: "RESERVE(6)", usage: "16 11 00 00 00 07",
		handler: reserve6, local: true, access: accessFree},
	{op: 0x17, service: none, name: "RELEASE(6)", usage: "17 11 00 00 00 07",
		handler: release6, local: true, shared: true, access: accessFree},
	{op: 0x1a, service: none, name: "MODE SENSE(6)", usage: "1a 08 ff ff ff 07",
		handler: modeSense6, standby: true, access: accessRead},
	{op: 0x1b, service: none, name: "START STOP UNIT", usage: "1b 00 00 00 f3 07",
		handler: startStopUnit, access: accessWrite},
	{op: 0x1d, service: none, name: "SEND DIAGNOSTIC", usage: "1d 04 00 00 00 07",
		handler: sendDiagnostic, standby: true},
	{op: 0x1e, service: none, name: "PREVENT ALLOW MEDIUM REMOVAL", usage: "1e 00 00 00 03 07",
		handler: preventAllow},
	{op: 0x25, service: none, name: "READ CAPACITY(10)", usage: "25 00 ff ff ff ff 00 00 01 07",
		handler: readCapacity10, medium: true, shared: true, access: accessFree},
	{op: 0x28, service: none, name: "READ(10)", usage: "28 f8 ff ff ff ff 00 ff ff 07",
		handler: read, medium: true, extent: extent10, access: accessRead},
	{op: 0x2a, service: none, name: "WRITE(10)", usage: "2a f8 ff ff ff ff 00 ff ff 07",
		handler: write, medium: true, writes: true, extent: extent10},
	{op: 0x2e, service: none, name: "WRITE AND VERIFY(10)", usage: "2e f6 ff ff ff ff 00 ff ff 07",
		handler: writeAndVerify, medium: true, writes: true, extent: extent10, exclusive: comparesData},
	{op: 0x2f, service: none, name: "VERIFY(10)", usage: "2f f6 ff ff ff ff 00 ff ff 07",
		handler: verify, medium: true, extent: extent10, access: accessRead},
	{op: 0x34, service: none, name: "PRE-FETCH(10)", usage: "34 00 ff ff ff ff 00 ff ff 07",
		handler: preFetch, medium: true, extent: extent10, access: accessRead},
	{op: 0x35, service: none, name: "SYNCHRONIZE CACHE(10)", usage: "35 02 ff ff ff ff 00 ff ff 07",
		handler: synchronizeCache, medium: true, extent: extent10},
	{op: 0x37, service: none, name: "READ DEFECT DATA(10)", usage: "37 00 1f 00 00 00 00 ff ff 07",
		handler: readDefectData10, medium: true, access: accessRead},
	{op: 0x41, service: none, name: "WRITE SAME(10)", usage: "41 fe ff ff ff ff 00 ff ff 07",
		handler: writeSame, medium: true, writes: true, extent: extent10},
	{op: 0x42, service: none, name: "UNMAP", usage: "42 01 00 00 00 00 00 ff ff 07",
		handler: unmap, medium: true, writes: true, thin: true},
	{op: 0x48, service: sanitizeOverwrite, name: "SANITIZE, OVERWRITE", usage: "48 a1 00 00 00 00 00 ff ff 07",
		handler: sanitize, medium: true, writes: true, sanitizing: true},
	{op: 0x48, service: sanitizeBlockErase, name: "SANITIZE, BLOCK ERASE", usage: "48 a2 00 00 00 00 00 ff ff 07",
		handler: sanitize, medium: true, writes: true, erase: true, sanitizing: true},
	{op: 0x48, service: sanitizeExitFailureMode, name: "SANITIZE, EXIT FAILURE MODE",
		usage: "48 1f 00 00 00 00 00 ff ff 07", handler: sanitize, medium: true, writes: true, sanitizing: true},
	{op: 0x4d, service: none, name: "LOG SENSE", usage: "4d 03 ff ff 00 ff ff ff ff 07",
		handler: logSense, standby: true, access: accessRead},
	{op: 0x55, service: none, name: "MODE SELECT(10)", usage: "55 11 00 00 00 00 00 ff ff 07",
		handler: modeSelect10, standby: true, parameters: true},
	{op: 0x5a, service: none, name: "MODE SENSE(10)", usage: "5a 08 ff ff 00 00 00 ff ff 07",
		handler: modeSense10, standby: true, access: accessRead},
	{op: 0x5e, service: 0x00, name: "PERSISTENT RESERVE IN, READ KEYS",
		usage: "5e 00 00 00 00 00 00 ff ff 07", handler: readKeys, standby: true, access: accessFree},
	{op: 0x5e, service: 0x01, name: "PERSISTENT RESERVE IN, READ RESERVATION",
		usage: "5e 01 00 00 00 00 00 ff ff 07", handler: readReservation, standby: true, access: accessFree},
	{op: 0x5e, service: 0x02, name: "PERSISTENT RESERVE IN, REPORT CAPABILITIES",
		usage: "5e 02 00 00 00 00 00 ff ff 07", handler: reportCapabilities, standby: true, access: accessFree},
	{op: 0x5e, service: 0x03, name: "PERSISTENT RESERVE IN, READ FULL STATUS",
		usage: "5e 03 00 00 00 00 00 ff ff 07", handler: readFullStatus, standby: true, access: accessFree},
	{op: 0x5f, service: 0x00, name: "PERSISTENT RESERVE OUT, REGISTER",
		usage: "5f 00 ff 00 00 ff ff ff ff 07", handler: persistentOut, standby: true, parameters: true, access: accessFree},
	{op: 0x5f, service: 0x01, name: "PERSISTENT RESERVE OUT, RESERVE",
		usage: "5f 01 ff 00 00 ff ff ff ff 07", handler: persistentOut, standby: true, parameters: true, access: accessFree},
	{op: 0x5f, service: 0x02, name: "PERSISTENT RESERVE OUT, RELEASE",
		usage: "5f 02 ff 00 00 ff ff ff ff 07", handler: persistentOut, standby: true, parameters: true, access: accessFree},
	{op: 0x5f, service: 0x03, name: "PERSISTENT RESERVE OUT, CLEAR",
		usage: "5f 03 ff 00 00 ff ff ff ff 07", handler: persistentOut, standby: true, parameters: true, access: accessFree},
	{op: 0x5f, service: 0x04, name: "PERSISTENT RESERVE OUT, PREEMPT",
		usage: "5f 04 ff 00 00 ff ff ff ff 07", handler: persistentOut, standby: true, parameters: true, access: accessFree},
	{op: 0x5f, service: 0x05, name: "PERSISTENT RESERVE OUT, PREEMPT AND ABORT",
		usage: "5f 05 ff 00 00 ff ff ff ff 07", handler: persistentOut, standby: true, parameters: true, access: accessFree},
	{op: 0x5f, service: 0x06, name: "PERSISTENT RESERVE OUT, REGISTER AND IGNORE EXISTING KEY",
		usage: "5f 06 ff 00 00 ff ff ff ff 07", handler: persistentOut, standby: true, parameters: true, access: accessFree},
	{op: 0x5f, service: 0x07, name: "PERSISTENT RESERVE OUT, REGISTER AND MOVE",
		usage: "5f 07 ff 00 00 ff ff ff ff 07", handler: persistentOut, standby: true, parameters: true, access: accessFree},
	{op: 0x83, service: copyLID1, name: "EXTENDED COPY(LID1)", usage: "83 00 00 00 00 00 00 00 00 00 ff ff ff ff 00 07",
		handler: extendedCopy, parameters: true},
	{op: 0x84, service: copyStatusLID1, name: "RECEIVE COPY RESULTS, COPY STATUS(LID1)",
		usage: "84 00 ff 00 00 00 00 00 00 00 ff ff ff ff 00 07", handler: receiveCopyStatus, access: accessFree},
	{op: 0x84, service: copyOperatingParameters, name: "RECEIVE COPY RESULTS, OPERATING PARAMETERS",
		usage: "84 03 00 00 00 00 00 00 00 00 ff ff ff ff 00 07", handler: receiveCopyParameters, access: accessFree},
	{op: 0x88, service: none, name: "READ(16)", usage: "88 f8 ff ff ff ff ff ff ff ff ff ff ff ff 00 07",
		handler: read, medium: true, extent: extent16, access: accessRead},
	{op: 0x89, service: none, name: "COMPARE AND WRITE",
		usage:   "89 f8 ff ff ff ff ff ff ff ff 00 00 00 ff 00 07",
		handler: compareAndWrite, medium: true, writes: true, extent: extentCompare, exclusive: always},
	{op: 0x8a, service: none, name: "WRITE(16)", usage: "8a f8 ff ff ff ff ff ff ff ff ff ff ff ff 00 07",
		handler: write, medium: true, writes: true, extent: extent16},
	{op: 0x8b, service: none, name: "ORWRITE(16)", usage: "8b f8 ff ff ff ff ff ff ff ff ff ff ff ff 00 07",
		handler: orWrite, medium: true, writes: true, extent: extent16, exclusive: always},
	{op: 0x8e, service: none, name: "WRITE AND VERIFY(16)",
		usage:   "8e f6 ff ff ff ff ff ff ff ff ff ff ff ff 00 07",
		handler: writeAndVerify, medium: true, writes: true, extent: extent16, exclusive: comparesData},
	{op: 0x8f, service: none, name: "VERIFY(16)", usage: "8f f6 ff ff ff ff ff ff ff ff ff ff ff ff 00 07",
		handler: verify, medium: true, extent: extent16, access: accessRead},
	{op: 0x90, service: none, name: "PRE-FETCH(16)", usage: "90 00 ff ff ff ff ff ff ff ff ff ff ff ff 00 07",
		handler: preFetch, medium: true, extent: extent16, access: accessRead},
	{op: 0x91, service: none, name: "SYNCHRONIZE CACHE(16)",
		usage:   "91 02 ff ff ff ff ff ff ff ff ff ff ff ff 00 07",
		handler: synchronizeCache, medium: true, extent: extent16},
	{op: 0x93, service: none, name: "WRITE SAME(16)", usage: "93 ff ff ff ff ff ff ff ff ff ff ff ff ff 00 07",
		handler: writeSame, medium: true, writes: true, extent: extent16},
	{op: 0x9c, service: none, name: "WRITE ATOMIC(16)", usage: "9c f8 ff ff ff ff ff ff ff ff ff ff ff ff 00 07",
		handler: writeAtomic, medium: true, writes: true, atomic: true, extent: extentAtomic},
	{op: 0x9e, service: 0x10, name: "READ CAPACITY(16)",
		usage:   "9e 10 00 00 00 00 00 00 00 00 ff ff ff ff 00 07",
		handler: readCapacity16, medium: true, shared: true, access: accessFree},
	{op: 0x9e, service: 0x12, name: "GET LBA STATUS",
		usage:   "9e 12 ff ff ff ff ff ff ff ff ff ff ff ff 00 07",
		handler: getLBAStatus, medium: true, access: accessRead},
	{op: 0xa0, service: none, name: "REPORT LUNS", usage: "a0 00 00 00 00 00 ff ff ff ff 00 07",
		handler: reportLUNs, shared: true, sanitizing: true, standby: true, access: accessFree},
	{op: 0xa3, service: 0x0a, name: "REPORT TARGET PORT GROUPS", usage: "a3 ea 00 00 00 00 ff ff ff ff 00 07",
		handler: reportPortGroups, alua: true, standby: true, access: accessFree},
	{op: 0xa3, service: 0x0c, name: "REPORT SUPPORTED OPERATION CODES",
		usage: "a3 0c 87 ff ff ff ff ff ff ff 00 07", handler: reportSupported, standby: true, access: accessRead},
	{op: 0xa3, service: 0x0d, name: "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS",
		usage: "a3 0d 80 00 00 00 ff ff ff ff 00 07", handler: reportTaskManagement, standby: true, access: accessRead},
	{op: 0xa4, service: 0x0a, name: "SET TARGET PORT GROUPS", usage: "a4 0a 00 00 00 00 ff ff ff ff 00 07",
		handler: setPortGroups, alua: true, parameters: true, standby: true},
	{op: 0xa8, service: none, name: "READ(12)", usage: "a8 f8 ff ff ff ff ff ff ff ff 00 07",
		handler: read, medium: true, extent: extent12, access: accessRead},
	{op: 0xaa, service: none, name: "WRITE(12)", usage: "aa f8 ff ff ff ff ff ff ff ff 00 07",
		handler: write, medium: true, writes: true, extent: extent12},
	{op: 0xae, service: none, name: "WRITE AND VERIFY(12)", usage: "ae f6 ff ff ff ff ff ff ff ff 00 07",
		handler: writeAndVerify, medium: true, writes: true, extent: extent12, exclusive: comparesData},
	{op: 0xaf, service: none, name: "VERIFY(12)", usage: "af f6 ff ff ff ff ff ff ff ff 00 07",
		handler: verify, medium: true, extent: extent12, access: accessRead},
	{op: 0xb7, service: none, name: "READ DEFECT DATA(12)", usage: "b7 1f 00 00 00 00 ff ff ff ff 00 07",
		handler: readDefectData12, medium: true, access: accessRead},
})

// The commands of the controller. It accepts VERIFY and does nothing, as the reference does.
var controllerTable = newTable(sorted(append(
	shared(0x00, 0x03, 0x12, 0xa0),
	command{op: 0x2f, service: none, name: "VERIFY(10)", usage: "2f 00 00 00 00 00 00 00 00 07",
		handler: nothing, access: accessRead},
	command{op: 0x8f, service: none, name: "VERIFY(16)", usage: "8f 00 00 00 00 00 00 00 00 00 00 00 00 00 00 07",
		handler: nothing, access: accessRead},
	command{op: 0xa3, service: 0x0c, name: "REPORT SUPPORTED OPERATION CODES",
		usage: "a3 0c 87 ff ff ff ff ff ff ff 00 07", handler: reportSupported, standby: true, access: accessRead},
	command{op: 0xaf, service: none, name: "VERIFY(12)", usage: "af 00 00 00 00 00 00 00 00 00 00 07",
		handler: nothing, access: accessRead},
)))

// Bits of the control byte (SAM-5 5.2) that no command may set.
const controlNACA, controlLink = 0x04, 0x01

// controlByte is the CDB's control byte; zero for a vendor's format.
func controlByte(cdb []byte) byte {
	switch cdb[0] >> 5 {
	case 0:
		return cdb[5]
	case 1, 2:
		return cdb[9]
	case 3:
		return cdb[1] // variable length CDB
	case 4:
		return cdb[15]
	case 5:
		return cdb[11]
	}
	return 0
}

// Operation codes that dispatch treats apart.
const (
	opRequestSense = 0x03
	opInquiry      = 0x12
	opRelease6     = 0x17
	opStartStop    = 0x1b
	opPrevent      = 0x1e
	opReserve6     = 0x16
	opReportLUNs   = 0xa0
)

// dispatch is the first step of every command.
func dispatch(t *task) outcome {
	cdb := t.command.CDB[:16]
	t.attrs = t.unit.attrs.Load()
	if controlByte(cdb)&(controlNACA|controlLink) != 0 {
		return t.check(invalidFieldInCDB)
	}
	if t.attribute == sam.ACA {
		return t.check(invalidMessage) // no ACA condition can be in effect (SAM-5 8.6)
	}
	if t.absent {
		return dispatchAbsent(t, cdb)
	}
	switch cdb[0] {
	case opInquiry, opReportLUNs:
	case opRequestSense:
		if code := t.nexus.attention(false); code != noSense {
			return t.check(code)
		}
	default:
		if m := t.medium; m != nil && m.info.Keeps != backstore.KeepsNothing {
			if m.waiting.Load() {
				return t.check(becomingReady)
			}
			if !m.loaded.Load() {
				return t.loadFirst()
			}
			t.version = m.version.Load() // before anything is looked at
			t.attrs = t.unit.attrs.Load()
		}
		if t.nexus.pending.Load() == 0 {
			break
		}
		if _, ofCopy := t.command.Server.(*unitStore); ofCopy {
			break // it is for the initiator, not for a command that he did not send
		}
		if code := t.nexus.attention(true); code != noSense {
			return t.check(code)
		}
	}
	row := t.row
	if row != nil && t.unit.guarded.Load() && t.unit.conflicts(t) {
		if !t.current(true) {
			return t.loadAgain() // the conflict may be over, at another target
		}
		return t.refuse(sam.ReservationConflict)
	}
	switch {
	case row == nil && t.unit.table.byOp[cdb[0]] != nil:
		return t.check(invalidFieldInCDB) // a service action that is not there
	case row == nil || row.thin && !t.attrs.thin || !t.there(row):
		return t.check(invalidOpcode)
	case t.attrs.access != accessNone && !row.standby && !t.attrs.access.serves():
		return t.check(t.attrs.access.sense())
	case t.unit.sanitizing.Load() != nil && !row.sanitizing:
		return t.checkSanitizing()
	case row.medium && (t.medium == nil || t.attrs.removable && !t.attrs.online):
		return t.noMedium()
	case row.writes && t.writeProtected():
		if t.attrs.softwareProtect && t.savesModes() && !t.current(true) {
			return t.loadAgain() // another target may have taken the protection back
		}
		return t.check(writeProtected)
	}
	return row.handler(t)
}

// dispatchAbsent answers for a unit that does not exist (SPC-4): LUN 0 carries the command.
func dispatchAbsent(t *task, cdb []byte) outcome {
	switch cdb[0] {
	case opInquiry:
		return inquiry(t)
	case opRequestSense:
		// The reference sends zeros, as many as were asked for: no sense.
		b := t.replyBuffer(math.MaxUint8)
		if b == nil {
			return finished
		}
		b = b[:cdb[4]]
		clear(b)
		return t.reply(b, uint64(cdb[4]))
	}
	return t.check(unitNotSupported)
}

// loadFirst has a command wait for the unit's state, and begin anew.
func (t *task) loadFirst() outcome {
	u := t.unit
	u.mu.Lock()
	defer u.mu.Unlock()
	if t.medium.loaded.Load() {
		t.step = dispatch
		return repeated
	}
	return u.awaitState(t, dispatch)
}

// loadAgain has a command wait for the state of a shared medium to be loaded anew, and begin anew.
func (t *task) loadAgain() outcome {
	u := t.unit
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.awaitState(t, dispatch)
}

// there says whether the unit has a command that depends on what the unit is. Commands for thin provisioning
// are listed for every disk, as the reference does.
func (t *task) there(row *command) bool {
	if row.local && t.medium != nil && t.medium.info.Shared {
		return false
	}
	return (!row.erase || t.attrs.thin) && (!row.atomic || t.atomicBlocks() > 0) && (!row.alua || t.attrs.access != accessNone)
}

// writeProtected says whether the medium may not be written: by the administrator, by SWP, or because it
// could only be opened for reading.
func (t *task) writeProtected() bool {
	return t.attrs.readOnly || t.attrs.softwareProtect || t.medium != nil && t.medium.info.ReadOnly
}

// protected is writeProtected for a unit that no command of which is at hand.
func (u *Unit) protected() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return (&task{attrs: u.attrs.Load(), medium: u.medium}).writeProtected()
}

func nothing(t *task) outcome { return t.good() }

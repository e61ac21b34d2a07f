package scsi

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/sam"
)

// Persistent reservation types (SPC-4).
const (
	writeExclusive                 = 1
	exclusiveAccess                = 3
	writeExclusiveRegistrantsOnly  = 5
	exclusiveAccessRegistrantsOnly = 6
	writeExclusiveAllRegistrants   = 7
	exclusiveAccessAllRegistrants  = 8
)

// Service actions of PERSISTENT RESERVE OUT (SPC-4).
const (
	outRegister          = 0x00
	outReserve           = 0x01
	outRelease           = 0x02
	outClear             = 0x03
	outPreempt           = 0x04
	outPreemptAndAbort   = 0x05
	outRegisterAndIgnore = 0x06
	outRegisterAndMove   = 0x07
)

// persistentReservation holds the registrations and the reservation (SPC-4) of one unit. Registrations
// belong to initiator ports and outlive sessions; they end with the daemon, because APTPL is refused.
type persistentReservation struct {
	registrations []registration // in order of registering
	generation    uint32
	kind          byte   // type of the reservation; 0: there is none
	holder        portID // of a reservation that is not one of all registrants
}

type registration struct {
	id  portID
	key uint64
}

func (p *persistentReservation) find(id portID) *registration {
	for i := range p.registrations {
		if p.registrations[i].id == id {
			return &p.registrations[i]
		}
	}
	return nil
}

// allRegistrants says whether every registered nexus holds the reservation.
func (p *persistentReservation) allRegistrants() bool {
	return p.kind == writeExclusiveAllRegistrants || p.kind == exclusiveAccessAllRegistrants
}

// shared says whether registered nexuses have the holder's access.
func (p *persistentReservation) shared() bool {
	return p.kind == writeExclusiveRegistrantsOnly || p.kind == exclusiveAccessRegistrantsOnly ||
		p.allRegistrants()
}

// holds says whether a nexus holds the reservation.
func (p *persistentReservation) holds(id portID) bool {
	switch {
	case p.kind == 0:
		return false
	case p.allRegistrants():
		return p.find(id) != nil
	}
	return p.holder == id
}

// guard notes whether commands have to look for reservations. mu is held.
func (u *Unit) guard() {
	u.guarded.Store(u.reserved != nil || u.persistent.kind != 0 || len(u.persistent.registrations) > 0)
}

// conflicts says whether a reservation keeps the command out (SPC-2, SPC-4, SBC-3).
func (u *Unit) conflicts(t *task) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.reserved != nil && u.reserved != t.nexus {
		return !t.row.shared
	}
	p, id, cdb := &u.persistent, t.nexus.id, t.command.CDB
	if op := cdb[0]; op == opReserve6 || op == opRelease6 {
		return len(p.registrations) > 0 // no compatible reservation handling (SPC-3)
	}
	if p.kind == 0 || t.row.access == accessFree || p.holds(id) || p.shared() && p.find(id) != nil {
		return false
	}
	switch cdb[0] {
	case opStartStop: // starting in the active power condition is allowed to all
		return cdb[4]&1 == 0 || cdb[4]>>4 != 0
	case opPrevent: // so is allowing removal
		return cdb[4]&3 != 0
	}
	readable := p.kind == writeExclusive || p.kind == writeExclusiveRegistrantsOnly ||
		p.kind == writeExclusiveAllRegistrants
	return t.row.access != accessRead || !readable
}

// reserve6 is RESERVE(6) (SPC-2): the whole unit, for oneself.
func reserve6(t *task) outcome {
	if t.command.CDB[1]&0x11 != 0 {
		return t.check(invalidFieldInCDB) // third-party and extent reservations
	}
	u := t.unit
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.reserved != nil && u.reserved != t.nexus {
		return t.refuse(sam.ReservationConflict)
	}
	if !t.nexus.closed {
		u.reserved = t.nexus
	}
	u.guard()
	return t.good()
}

// release6 is RELEASE(6) (SPC-2); without effect on what another session reserved.
func release6(t *task) outcome {
	if t.command.CDB[1]&0x11 != 0 {
		return t.check(invalidFieldInCDB)
	}
	u := t.unit
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.reserved == t.nexus {
		u.reserved = nil
	}
	u.guard()
	return t.good()
}

// persistentIn begins a PERSISTENT RESERVE IN (SPC-4): the buffer, or nil with the result set. Allocation
// lengths below the header are refused, as in the reference.
func persistentIn(t *task) []byte {
	if binary.BigEndian.Uint16(t.command.CDB[7:]) < 8 {
		t.check(invalidFieldInCDB)
		return nil
	}
	return t.replyBuffer(8 + MaxRegistrations*(24+transportIDBytes))
}

// persistentReply ends it.
func persistentReply(t *task, b []byte) outcome {
	return t.reply(b, uint64(binary.BigEndian.Uint16(t.command.CDB[7:])))
}

// readKeys is READ KEYS (SPC-4).
func readKeys(t *task) outcome {
	b := persistentIn(t)
	if b == nil {
		return finished
	}
	t.unit.mu.Lock()
	defer t.unit.mu.Unlock()
	p := &t.unit.persistent
	b = binary.BigEndian.AppendUint32(b, p.generation)
	b = binary.BigEndian.AppendUint32(b, uint32(8*len(p.registrations)))
	for _, r := range p.registrations {
		b = binary.BigEndian.AppendUint64(b, r.key)
	}
	return persistentReply(t, b)
}

// readReservation is READ RESERVATION (SPC-4).
func readReservation(t *task) outcome {
	b := persistentIn(t)
	if b == nil {
		return finished
	}
	t.unit.mu.Lock()
	defer t.unit.mu.Unlock()
	p := &t.unit.persistent
	b = binary.BigEndian.AppendUint32(b, p.generation)
	if p.kind == 0 {
		return persistentReply(t, append(b, 0, 0, 0, 0))
	}
	var key uint64
	if !p.allRegistrants() {
		key = p.find(p.holder).key
	}
	b = append(b, 0, 0, 0, 16)
	b = binary.BigEndian.AppendUint64(b, key)
	b = append(b, 0, 0, 0, 0, 0, p.kind, 0, 0)
	return persistentReply(t, b)
}

// reportCapabilities is REPORT CAPABILITIES (SPC-4).
func reportCapabilities(t *task) outcome {
	b := persistentIn(t)
	if b == nil {
		return finished
	}
	return persistentReply(t, append(b, 0, 8, 0, 0x80, 0xea, 0x01, 0, 0))
}

// transportIDBytes is the longest TransportID: an iSCSI name of 223 bytes, the ISID, padding.
const transportIDBytes = 4 + 223 + len(",i,0x") + 12 + 4

// readFullStatus is READ FULL STATUS (SPC-4).
func readFullStatus(t *task) outcome {
	b := persistentIn(t)
	if b == nil {
		return finished
	}
	t.unit.mu.Lock()
	defer t.unit.mu.Unlock()
	p := &t.unit.persistent
	b = binary.BigEndian.AppendUint32(b, p.generation)
	b = append(b, 0, 0, 0, 0)
	for _, r := range p.registrations {
		b = binary.BigEndian.AppendUint64(b, r.key)
		var holder, kind byte
		if p.holds(r.id) {
			holder, kind = 1, p.kind
		}
		b = append(b, 0, 0, 0, 0, holder, kind, 0, 0, 0, 0)
		b = binary.BigEndian.AppendUint16(b, r.id.tag)
		id := r.id.transportID()
		b = binary.BigEndian.AppendUint32(b, uint32(len(id)))
		b = append(b, id...)
	}
	binary.BigEndian.PutUint32(b[4:], uint32(len(b)-8))
	return persistentReply(t, b)
}

// transportID encodes the port as an iSCSI TransportID of format 01b (SPC-4).
func (id portID) transportID() []byte {
	name := fmt.Sprintf("%s,i,0x%x", id.name, id.isid)
	n := max(20, (len(name)+1+3)&^3) // NUL-terminated, padded
	b := append(make([]byte, 0, 4+n), 0x45, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(n))
	return appendPadded(b, name, n, 0)
}

// parseTransportID decodes what transportID encodes.
func parseTransportID(b []byte, tag uint16) (portID, bool) {
	if len(b) < 24 || b[0] != 0x45 || int(binary.BigEndian.Uint16(b[2:])) != len(b)-4 {
		return portID{}, false
	}
	text, _, terminated := bytes.Cut(b[4:], []byte{0})
	name, digits, found := strings.Cut(string(text), ",i,0x")
	isid, err := hex.DecodeString(digits)
	if !terminated || !found || name == "" || err != nil || len(isid) != 6 {
		return portID{}, false
	}
	return portID{name, [6]byte(isid), tag}, true
}

// outParameters is a PERSISTENT RESERVE OUT command taken apart.
type outParameters struct {
	service    byte
	kind       byte
	key, other uint64 // reservation key, service action reservation key
	id         portID // of the sender
	unregister bool   // REGISTER AND MOVE
	target     portID // REGISTER AND MOVE
}

// persistentOut is PERSISTENT RESERVE OUT (SPC-4).
func persistentOut(t *task) outcome {
	o, code := parsePersistentOut(t)
	if code != noSense {
		return t.check(code)
	}
	t.moved = uint64(binary.BigEndian.Uint32(t.command.CDB[5:]))
	u := t.unit
	u.mu.Lock()
	defer u.mu.Unlock()
	defer u.guard()
	p := &u.persistent
	own := p.find(o.id)
	switch o.service {
	case outRegister, outRegisterAndIgnore:
		return u.register(t, o, own)
	}
	// All others come from a registered nexus that knows its key.
	if own == nil || own.key != o.key {
		return t.refuse(sam.ReservationConflict)
	}
	switch o.service {
	case outReserve:
		return u.reservePersistent(t, o)
	case outRelease:
		return u.releasePersistent(t, o)
	case outClear:
		for _, r := range p.registrations {
			if r.id != o.id {
				u.attendPort(r.id, reservationsPreempted)
			}
		}
		p.registrations, p.kind = nil, 0
		p.generation++
		return t.good()
	case outPreempt, outPreemptAndAbort:
		return u.preempt(t, o)
	}
	return u.registerAndMove(t, o)
}

// parsePersistentOut checks the CDB and the parameter list. Their length must be right to the byte, and
// SPEC_I_PT, ALL_TG_PT and APTPL are refused, as in the reference.
func parsePersistentOut(t *task) (outParameters, senseCode) {
	cdb, list := t.command.CDB, t.command.DataOut
	o := outParameters{service: cdb[1] & 0x1f, kind: cdb[2] & 0x0f, id: t.nexus.id}
	length := int64(binary.BigEndian.Uint32(cdb[5:]))
	move := o.service == outRegisterAndMove
	if length < 24 || length != 24 && !move {
		return o, invalidFieldInCDB
	}
	if int64(len(list)) < length {
		return o, parameterListLength
	}
	list = list[:length]
	o.key, o.other = binary.BigEndian.Uint64(list), binary.BigEndian.Uint64(list[8:])
	if move {
		o.unregister = list[17]&2 != 0
		target, ok := parseTransportID(list[24:], binary.BigEndian.Uint16(list[18:]))
		if !ok || list[17]&1 != 0 || int64(binary.BigEndian.Uint32(list[20:])) != length-24 {
			return o, invalidFieldInParameters
		}
		o.target = target
		return o, noSense
	}
	if list[20]&0x0d != 0 {
		return o, invalidFieldInCDB
	}
	switch o.service {
	case outReserve, outRelease, outPreempt, outPreemptAndAbort:
		if cdb[2]>>4 != 0 || !validKind(o.kind) {
			return o, invalidFieldInCDB
		}
	}
	return o, noSense
}

func validKind(kind byte) bool {
	switch kind {
	case writeExclusive, exclusiveAccess, writeExclusiveRegistrantsOnly, exclusiveAccessRegistrantsOnly,
		writeExclusiveAllRegistrants, exclusiveAccessAllRegistrants:
		return true
	}
	return false
}

// register is REGISTER and REGISTER AND IGNORE EXISTING KEY (SPC-4). mu is held.
func (u *Unit) register(t *task, o outParameters, own *registration) outcome {
	p := &u.persistent
	if o.service == outRegister {
		var have uint64
		if own != nil {
			have = own.key
		}
		if o.key != have {
			return t.refuse(sam.ReservationConflict)
		}
	}
	switch {
	case own == nil && o.other == 0:
		return t.good() // not registered before or after
	case own == nil && len(p.registrations) >= MaxRegistrations:
		return t.check(noRegistrationResources)
	case own == nil:
		p.registrations = append(p.registrations, registration{o.id, o.other})
	case o.other == 0:
		u.unregister(o.id)
	default:
		own.key = o.other
	}
	p.generation++
	return t.good()
}

// unregister removes a registration, and the reservation if it goes with it; the other registered
// nexuses of a registrants only reservation are told (SPC-4). mu is held.
func (u *Unit) unregister(id portID) {
	p := &u.persistent
	held := p.holds(id)
	p.registrations = slices.DeleteFunc(p.registrations, func(r registration) bool { return r.id == id })
	switch {
	case !held, p.allRegistrants() && len(p.registrations) > 0:
	case p.kind == writeExclusiveRegistrantsOnly || p.kind == exclusiveAccessRegistrantsOnly:
		u.attendRegistered(id, reservationsReleased)
		p.kind = 0
	default:
		p.kind = 0
	}
}

// attendPort queues a unit attention for the sessions of an initiator port. mu is held.
func (u *Unit) attendPort(id portID, code senseCode) {
	for it := range u.nexuses {
		if it.id == id {
			it.attend(code)
		}
	}
}

// attendRegistered queues a unit attention for every registered port but one. mu is held.
func (u *Unit) attendRegistered(except portID, code senseCode) {
	for _, r := range u.persistent.registrations {
		if r.id != except {
			u.attendPort(r.id, code)
		}
	}
}

// reservePersistent is RESERVE (SPC-4). mu is held.
func (u *Unit) reservePersistent(t *task, o outParameters) outcome {
	p := &u.persistent
	if p.kind != 0 {
		if !p.holds(o.id) || p.kind != o.kind {
			return t.refuse(sam.ReservationConflict)
		}
		return t.good()
	}
	p.kind, p.holder = o.kind, o.id
	return t.good()
}

// releasePersistent is RELEASE (SPC-4). mu is held.
func (u *Unit) releasePersistent(t *task, o outParameters) outcome {
	p := &u.persistent
	if !p.holds(o.id) {
		return t.good() // nothing of the sender's to release
	}
	if p.kind != o.kind {
		return t.check(invalidRelease)
	}
	if p.shared() {
		u.attendRegistered(o.id, reservationsReleased)
	}
	p.kind = 0
	return t.good()
}

// preempt is PREEMPT and PREEMPT AND ABORT (SPC-4). mu is held.
func (u *Unit) preempt(t *task, o outParameters) outcome {
	p := &u.persistent
	replaced := p.kind != 0 && (p.allRegistrants() && o.other == 0 ||
		!p.allRegistrants() && p.find(p.holder).key == o.other)
	if o.other == 0 && !replaced {
		return t.check(invalidFieldInParameters)
	}
	var preempted []portID
	for _, r := range p.registrations {
		if r.key == o.other || replaced && p.allRegistrants() && r.id != o.id {
			preempted = append(preempted, r.id)
		}
	}
	if len(preempted) == 0 && !replaced {
		return t.refuse(sam.ReservationConflict)
	}
	oldKind := p.kind
	p.generation++
	p.registrations = slices.DeleteFunc(p.registrations, func(r registration) bool {
		// The preempting nexus keeps its registration where it takes over its own reservation.
		return slices.Contains(preempted, r.id) && (!replaced || r.id != o.id)
	})
	for _, id := range preempted {
		if id != o.id {
			u.attendPort(id, registrationsPreempted)
		}
	}
	switch {
	case replaced:
		p.kind, p.holder = o.kind, o.id
		if oldKind != o.kind {
			u.attendRegistered(o.id, reservationsReleased)
		}
	case p.allRegistrants() && len(p.registrations) == 0:
		p.kind = 0
	}
	if o.service == outPreemptAndAbort {
		return u.abortPreempted(t, preempted)
	}
	return t.good()
}

// abortPreempted completes PREEMPT AND ABORT when the commands of the preempted nexuses can have no effect
// any more. mu is held.
func (u *Unit) abortPreempted(t *task, preempted []portID) outcome {
	t.status = sam.Good
	t.hold = newDrain(true, t.finish)
	u.abortLocked(t.hold, func(other *task) bool {
		return other != t && !other.absent && slices.Contains(preempted, other.nexus.id)
	})
	return waiting
}

// registerAndMove is REGISTER AND MOVE (SPC-4). mu is held.
func (u *Unit) registerAndMove(t *task, o outParameters) outcome {
	p := &u.persistent
	switch {
	case !p.holds(o.id):
		return t.refuse(sam.ReservationConflict)
	case p.allRegistrants():
		return t.refuse(sam.ReservationConflict)
	case o.other == 0 || o.target.name == o.id.name && o.target.isid == o.id.isid || o.target.tag != o.id.tag:
		return t.check(invalidFieldInParameters)
	}
	if there := p.find(o.target); there != nil {
		there.key = o.other
	} else if len(p.registrations) >= MaxRegistrations {
		return t.check(noRegistrationResources)
	} else {
		p.registrations = append(p.registrations, registration{o.target, o.other})
	}
	p.holder = o.target
	if o.unregister {
		p.registrations = slices.DeleteFunc(p.registrations, func(r registration) bool { return r.id == o.id })
	}
	p.generation++
	return t.good()
}

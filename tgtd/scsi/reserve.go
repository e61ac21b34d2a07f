package scsi

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore"
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
// belong to I_T nexuses and outlive sessions; they end with the daemon, unless the store keeps them (state.go).
type persistentReservation struct {
	registrations []registration // in order of registering
	generation    uint32
	kind          byte   // type of the reservation; 0: there is none
	holder        portID // of a reservation that is not one of all registrants
	aptpl         bool   // APTPL of the last REGISTER: survives a loss of power
}

// registration is one key. With allPorts (ALL_TG_PT) it holds for the initiator port through every target
// port, those of other targets that serve the medium included; id then says who registered it.
type registration struct {
	id       portID
	key      uint64
	allPorts bool
}

// covers says whether a nexus is registered by the registration.
func (r *registration) covers(id portID) bool {
	return r.id == id || r.allPorts && r.id.name == id.name && r.id.isid == id.isid
}

// find returns the registration of a nexus, or nil.
func (p *persistentReservation) find(id portID) *registration {
	for i := range p.registrations {
		if p.registrations[i].covers(id) {
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

// fromReservations answers a PERSISTENT RESERVE IN with what build makes of the reservations.
func fromReservations(t *task, then step, build func(p *persistentReservation, b []byte) []byte) outcome {
	u := t.unit
	u.mu.Lock()
	defer u.mu.Unlock()
	if !t.current(true) {
		return u.awaitState(t, then)
	}
	b := persistentIn(t)
	if b == nil {
		return finished
	}
	p := &u.persistent
	b = binary.BigEndian.AppendUint32(b, p.generation)
	b = append(b, 0, 0, 0, 0)
	b = build(p, b)
	binary.BigEndian.PutUint32(b[4:], uint32(len(b)-8))
	return persistentReply(t, b)
}

// readKeys is READ KEYS (SPC-4).
func readKeys(t *task) outcome {
	return fromReservations(t, readKeys, func(p *persistentReservation, b []byte) []byte {
		for _, r := range p.registrations {
			b = binary.BigEndian.AppendUint64(b, r.key)
		}
		return b
	})
}

// readReservation is READ RESERVATION (SPC-4).
func readReservation(t *task) outcome {
	return fromReservations(t, readReservation, func(p *persistentReservation, b []byte) []byte {
		if p.kind == 0 {
			return b
		}
		var key uint64
		if !p.allRegistrants() {
			key = p.find(p.holder).key
		}
		b = binary.BigEndian.AppendUint64(b, key)
		return append(b, 0, 0, 0, 0, 0, p.kind, 0, 0)
	})
}

// reportCapabilities is REPORT CAPABILITIES (SPC-4 6.15.4).
func reportCapabilities(t *task) outcome {
	u := t.unit
	u.mu.Lock()
	defer u.mu.Unlock()
	if !t.current(true) {
		return u.awaitState(t, reportCapabilities)
	}
	b := persistentIn(t)
	if b == nil {
		return finished
	}
	const specifiesPorts, allPorts, keepsPossible, keepsActive = 0x08, 0x04, 0x01, 0x01
	capabilities, active := byte(specifiesPorts|allPorts), byte(0x80) // TMV
	if t.keepsReservations() {
		capabilities |= keepsPossible
		if u.persistent.aptpl {
			active |= keepsActive
		}
	}
	return persistentReply(t, append(b, 0, 8, capabilities, active, 0xea, 0x01, 0, 0))
}

// keepsReservations says whether APTPL can be had.
func (t *task) keepsReservations() bool {
	return t.medium != nil && t.medium.info.Keeps != backstore.KeepsNothing
}

// transportIDBytes is the longest TransportID: an iSCSI name of 223 bytes, the ISID, padding.
const transportIDBytes = 4 + 223 + len(",i,0x") + 12 + 4

// readFullStatus is READ FULL STATUS (SPC-4).
func readFullStatus(t *task) outcome {
	return fromReservations(t, readFullStatus, func(p *persistentReservation, b []byte) []byte {
		for _, r := range p.registrations {
			b = binary.BigEndian.AppendUint64(b, r.key)
			var flags, kind byte
			if p.holds(r.id) || p.kind != 0 && r.covers(p.holder) {
				flags, kind = 1, p.kind
			}
			tag := r.id.tag
			if r.allPorts {
				flags, tag = flags|2, 0 // ALL_TG_PT
			}
			b = append(b, 0, 0, 0, 0, flags, kind, 0, 0, 0, 0)
			b = binary.BigEndian.AppendUint16(b, tag)
			id := r.id.transportID()
			b = binary.BigEndian.AppendUint32(b, uint32(len(id)))
			b = append(b, id...)
		}
		return b
	})
}

// transportID encodes the port as an iSCSI TransportID of format 01b (SPC-4).
func (id portID) transportID() []byte {
	name := fmt.Sprintf("%s,i,0x%x", id.name, id.isid)
	n := max(20, (len(name)+1+3)&^3) // NUL-terminated, padded
	b := append(make([]byte, 0, 4+n), 0x45, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(n))
	return appendPadded(b, name, n, 0)
}

// parseTransportID decodes what transportID encodes, for a port of the same target.
func parseTransportID(b []byte, own portID, tag uint16) (portID, bool) {
	if len(b) < 24 || b[0] != 0x45 || int(binary.BigEndian.Uint16(b[2:])) != len(b)-4 {
		return portID{}, false
	}
	text, _, terminated := bytes.Cut(b[4:], []byte{0})
	name, digits, found := strings.Cut(string(text), ",i,0x")
	isid, err := hex.DecodeString(digits)
	if !terminated || !found || name == "" || err != nil || len(isid) != 6 {
		return portID{}, false
	}
	return portID{name: name, isid: [6]byte(isid), tag: tag, target: own.target}, true
}

// outParameters is a PERSISTENT RESERVE OUT command taken apart.
type outParameters struct {
	service    byte
	kind       byte
	key, other uint64 // reservation key, service action reservation key
	id         portID // of the sender
	unregister bool   // REGISTER AND MOVE
	target     portID // REGISTER AND MOVE
	aptpl      bool   // REGISTER, REGISTER AND IGNORE EXISTING KEY
	allPorts   bool
	others     []portID // SPEC_I_PT: initiator ports that are registered besides
	specified  bool     // SPEC_I_PT
}

// reservationChange is what a PERSISTENT RESERVE OUT makes of the reservations: worked out on a copy, saved where
// the store keeps them, and only then in force.
type reservationChange struct {
	next      persistentReservation
	o         outParameters
	changed   bool
	attend    []portAttention
	preempted []registration // whose commands PREEMPT AND ABORT aborts
	conflict  bool
	code      senseCode
}

// portAttention is a unit attention for the sessions of a registration.
type portAttention struct {
	to   registration
	code senseCode
}

// persistentOut is PERSISTENT RESERVE OUT (SPC-4 6.16).
func persistentOut(t *task) outcome {
	o, code := parsePersistentOut(t)
	if code != noSense {
		return t.check(code)
	}
	t.moved = uint64(binary.BigEndian.Uint32(t.command.CDB[5:]))
	u := t.unit
	u.mu.Lock()
	defer u.mu.Unlock()
	if !t.current(true) || t.medium != nil && t.medium.busy {
		return u.awaitState(t, persistentOut)
	}
	c := &reservationChange{next: u.persistent.clone(), o: o}
	c.apply()
	switch {
	case c.conflict:
		return t.refuse(sam.ReservationConflict)
	case c.code != noSense:
		return t.check(c.code)
	case c.changed && t.medium.stays(&c.next):
		return u.saveReservations(t, c)
	case c.changed:
		u.commit(c)
	}
	return u.finishReservation(t, c)
}

// commit makes a change come into force. mu is held.
func (u *Unit) commit(c *reservationChange) {
	u.persistent = c.next
	u.guard()
	for _, a := range c.attend {
		for it := range u.nexuses {
			if a.to.covers(it.id) && it.id != c.o.id {
				it.attend(a.code)
			}
		}
	}
}

// finishReservation completes the command. mu is held.
func (u *Unit) finishReservation(t *task, c *reservationChange) outcome {
	if c.o.service != outPreemptAndAbort {
		return t.good()
	}
	// It is complete when the commands of the preempted nexuses can have no effect any more.
	t.status = sam.Good
	t.hold = newDrain(true, t.finish)
	u.abortLocked(t.hold, func(other *task) bool {
		return other != t && !other.absent && slices.ContainsFunc(c.preempted, func(r registration) bool {
			return r.covers(other.nexus.id)
		})
	})
	return waiting
}

// parsePersistentOut checks the CDB and the parameter list (SPC-4 6.16.3).
func parsePersistentOut(t *task) (outParameters, senseCode) {
	cdb, list := t.command.CDB, t.command.DataOut
	o := outParameters{service: cdb[1] & 0x1f, kind: cdb[2] & 0x0f, id: t.nexus.id}
	length := int64(binary.BigEndian.Uint32(cdb[5:]))
	registers := o.service == outRegister || o.service == outRegisterAndIgnore
	if length < 24 || length > maxOutBytes || length != 24 && o.service != outRegisterAndMove && o.service != outRegister {
		return o, invalidFieldInCDB
	}
	if int64(len(list)) < length {
		return o, parameterListLength
	}
	list = list[:length]
	o.key, o.other = binary.BigEndian.Uint64(list), binary.BigEndian.Uint64(list[8:])
	if o.service == outRegisterAndMove {
		code := o.parseMove(list)
		if o.aptpl && !t.keepsReservations() {
			code = invalidFieldInParameters
		}
		return o, code
	}
	if registers {
		o.aptpl, o.allPorts, o.specified = list[20]&0x01 != 0, list[20]&0x04 != 0, list[20]&0x08 != 0
		switch {
		case o.aptpl && !t.keepsReservations():
			return o, invalidFieldInCDB // as the reference does
		case o.specified && o.service != outRegister:
			return o, invalidFieldInParameters
		case o.specified:
			return o, o.parsePorts(list[24:])
		case length != 24:
			return o, invalidFieldInCDB
		}
		return o, noSense
	}
	if length != 24 || list[20]&0x0d != 0 {
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

// maxOutBytes bounds a parameter list: as many TransportIDs as can be registered.
const maxOutBytes = int64(28 + MaxRegistrations*transportIDBytes)

// parseMove reads the parameter list of REGISTER AND MOVE (SPC-4 6.16.4).
func (o *outParameters) parseMove(list []byte) senseCode {
	o.unregister, o.aptpl = list[17]&2 != 0, list[17]&1 != 0
	target, ok := parseTransportID(list[24:], o.id, binary.BigEndian.Uint16(list[18:]))
	if !ok || int(binary.BigEndian.Uint32(list[20:])) != len(list)-24 {
		return invalidFieldInParameters
	}
	o.target = target
	return noSense
}

// parsePorts reads the TransportIDs of SPEC_I_PT (SPC-4 6.16.3).
func (o *outParameters) parsePorts(list []byte) senseCode {
	if len(list) < 4 || int(binary.BigEndian.Uint32(list)) != len(list)-4 {
		return invalidFieldInParameters
	}
	for list = list[4:]; len(list) > 0; {
		n := 0
		if len(list) >= 4 {
			n = 4 + int(binary.BigEndian.Uint16(list[2:]))
		}
		if n == 0 || n > len(list) || len(o.others) == MaxRegistrations {
			return invalidFieldInParameters
		}
		id, ok := parseTransportID(list[:n], o.id, o.id.tag)
		if !ok {
			return invalidFieldInParameters
		}
		o.others = append(o.others, id)
		list = list[n:]
	}
	return noSense
}

func validKind(kind byte) bool {
	switch kind {
	case writeExclusive, exclusiveAccess, writeExclusiveRegistrantsOnly, exclusiveAccessRegistrantsOnly,
		writeExclusiveAllRegistrants, exclusiveAccessAllRegistrants:
		return true
	}
	return false
}

// apply works the change out.
func (c *reservationChange) apply() {
	own := c.next.find(c.o.id)
	switch c.o.service {
	case outRegister, outRegisterAndIgnore:
		c.register(own)
		return
	}
	// All others come from a registered nexus that knows its key.
	if own == nil || own.key != c.o.key {
		c.conflict = true
		return
	}
	switch c.o.service {
	case outReserve:
		c.reserve()
	case outRelease:
		c.release()
	case outClear:
		for _, r := range c.next.registrations {
			c.tell(r, reservationsPreempted)
		}
		c.next.registrations, c.next.kind = nil, 0
		c.raise()
	case outPreempt, outPreemptAndAbort:
		c.preempt()
	default:
		c.move()
	}
}

// raise counts the generation up, as every change of registrations does.
func (c *reservationChange) raise() {
	c.next.generation++
	c.changed = true
}

// tell notes a unit attention; the sender himself never gets one.
func (c *reservationChange) tell(r registration, code senseCode) {
	c.attend = append(c.attend, portAttention{r, code})
}

// tellAll notes a unit attention for all registered nexuses.
func (c *reservationChange) tellAll(code senseCode) {
	for _, r := range c.next.registrations {
		c.tell(r, code)
	}
}

// register is REGISTER and REGISTER AND IGNORE EXISTING KEY (SPC-4 5.13.7).
func (c *reservationChange) register(own *registration) {
	p, o := &c.next, &c.o
	if o.service == outRegister {
		var have uint64
		if own != nil {
			have = own.key
		}
		if o.key != have {
			c.conflict = true
			return
		}
	}
	switch {
	case o.specified && own != nil:
		c.code = invalidFieldInCDB
		return
	case own == nil && o.other == 0:
		return // not registered before or after
	case own == nil:
		for _, id := range append([]portID{o.id}, o.others...) {
			if there := p.find(id); there != nil {
				if id != o.id {
					c.code = invalidFieldInParameters // registered already
					return
				}
				continue
			}
			if len(p.registrations) >= MaxRegistrations {
				c.code = noRegistrationResources
				return
			}
			p.registrations = append(p.registrations, registration{id, o.other, o.allPorts})
		}
	case o.other == 0:
		c.unregister(*own)
	default:
		own.key = o.other
		own.allPorts = own.allPorts || o.allPorts
	}
	p.aptpl = o.aptpl
	c.raise()
}

// unregister removes a registration, and the reservation if it goes with it; the other registered
// nexuses of a registrants only reservation are told (SPC-4 5.13.11.3).
func (c *reservationChange) unregister(gone registration) {
	p := &c.next
	held := p.holds(gone.id) || p.kind != 0 && gone.covers(p.holder)
	p.registrations = slices.DeleteFunc(p.registrations, func(r registration) bool { return r == gone })
	switch {
	case !held, p.allRegistrants() && len(p.registrations) > 0:
	case p.kind == writeExclusiveRegistrantsOnly || p.kind == exclusiveAccessRegistrantsOnly:
		c.tellAll(reservationsReleased)
		p.kind = 0
	default:
		p.kind = 0
	}
}

// reserve is RESERVE (SPC-4 5.13.9).
func (c *reservationChange) reserve() {
	p, o := &c.next, &c.o
	if p.kind != 0 {
		c.conflict = !p.holds(o.id) || p.kind != o.kind
		return
	}
	p.kind, p.holder, c.changed = o.kind, o.id, true
}

// release is RELEASE (SPC-4 5.13.11.2).
func (c *reservationChange) release() {
	p, o := &c.next, &c.o
	if !p.holds(o.id) {
		return // nothing of the sender's to release
	}
	if p.kind != o.kind {
		c.code = invalidRelease
		return
	}
	if p.shared() {
		c.tellAll(reservationsReleased)
	}
	p.kind, c.changed = 0, true
}

// preempt is PREEMPT and PREEMPT AND ABORT (SPC-4 5.13.11.4).
func (c *reservationChange) preempt() {
	p, o := &c.next, &c.o
	replaced := p.kind != 0 && (p.allRegistrants() && o.other == 0 ||
		!p.allRegistrants() && p.find(p.holder).key == o.other)
	if o.other == 0 && !replaced {
		c.code = invalidFieldInParameters
		return
	}
	for _, r := range p.registrations {
		if r.key == o.other || replaced && p.allRegistrants() && !r.covers(o.id) {
			c.preempted = append(c.preempted, r)
		}
	}
	if len(c.preempted) == 0 && !replaced {
		c.conflict = true
		return
	}
	oldKind := p.kind
	c.raise()
	p.registrations = slices.DeleteFunc(p.registrations, func(r registration) bool {
		// The preempting nexus keeps its registration where it takes over its own reservation.
		return slices.Contains(c.preempted, r) && (!replaced || !r.covers(o.id))
	})
	for _, r := range c.preempted {
		c.tell(r, registrationsPreempted)
	}
	switch {
	case replaced:
		p.kind, p.holder = o.kind, o.id
		if oldKind != o.kind {
			c.tellAll(reservationsReleased)
		}
	case p.allRegistrants() && len(p.registrations) == 0:
		p.kind = 0
	}
}

// move is REGISTER AND MOVE (SPC-4 5.13.8).
func (c *reservationChange) move() {
	p, o := &c.next, &c.o
	switch {
	case !p.holds(o.id), p.allRegistrants():
		c.conflict = true
		return
	case o.other == 0 || o.target.name == o.id.name && o.target.isid == o.id.isid || o.target.tag != o.id.tag:
		c.code = invalidFieldInParameters
		return
	}
	if there := p.find(o.target); there != nil {
		there.key = o.other
	} else if len(p.registrations) >= MaxRegistrations {
		c.code = noRegistrationResources
		return
	} else {
		p.registrations = append(p.registrations, registration{id: o.target, key: o.other})
	}
	p.holder, p.aptpl = o.target, o.aptpl
	if o.unregister {
		p.registrations = slices.DeleteFunc(p.registrations, func(r registration) bool { return r.covers(o.id) })
	}
	c.raise()
}

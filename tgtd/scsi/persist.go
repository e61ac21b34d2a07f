package scsi

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// The kept form of a unit's reservations, version 1; numbers are big endian:
//
//	1       version of the form
//	1       type of the reservation, 0 for none
//	1       1: APTPL
//	1       0
//	4       generation
//	port    holder, only with a type that is not 0
//	2       count of registrations, and for each
//	  8     key
//	  1     1: for all target ports
//	  port
//
// A port is the ISID (6), the target portal group tag (2), and the names of initiator and target, each
// behind its length (2).
const reservationsVersion = 1

// maxNameBytes is the longest iSCSI name (RFC 7143 4.2.7.1).
const maxNameBytes = 223

var errReservations = errors.New("the kept reservations can't be read")

// append encodes the reservations.
func (p *persistentReservation) append(b []byte) []byte {
	var aptpl byte
	if p.aptpl {
		aptpl = 1
	}
	b = append(b, reservationsVersion, p.kind, aptpl, 0)
	b = binary.BigEndian.AppendUint32(b, p.generation)
	if p.kind != 0 {
		b = p.holder.append(b)
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(p.registrations)))
	for _, r := range p.registrations {
		b = binary.BigEndian.AppendUint64(b, r.key)
		var all byte
		if r.allPorts {
			all = 1
		}
		b = append(b, all)
		b = r.id.append(b)
	}
	return b
}

func (id portID) append(b []byte) []byte {
	b = append(b, id.isid[:]...)
	b = binary.BigEndian.AppendUint16(b, id.tag)
	for _, name := range []string{id.name, id.target} {
		b = binary.BigEndian.AppendUint16(b, uint16(len(name)))
		b = append(b, name...)
	}
	return b
}

// stateReader takes kept state apart; after the first bad field it stays bad.
type stateReader struct {
	b   []byte
	bad bool
}

func (r *stateReader) take(n int) []byte {
	if r.bad || n > len(r.b) {
		r.bad = true
		return make([]byte, n)
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *stateReader) number(bytes int) uint64 {
	var n uint64
	for _, b := range r.take(bytes) {
		n = n<<8 | uint64(b)
	}
	return n
}

func (r *stateReader) flag() bool {
	n := r.number(1)
	r.bad = r.bad || n > 1
	return n == 1
}

func (r *stateReader) name() string {
	n := r.number(2)
	if n > maxNameBytes {
		r.bad = true
		return ""
	}
	return string(r.take(int(n)))
}

func (r *stateReader) port() (id portID) {
	copy(id.isid[:], r.take(6))
	id.tag = uint16(r.number(2))
	id.name, id.target = r.name(), r.name()
	return id
}

// parseReservations decodes what append encodes. No bytes are no reservations.
func parseReservations(b []byte) (p persistentReservation, err error) {
	if len(b) == 0 {
		return p, nil
	}
	r := &stateReader{b: b}
	version := r.number(1)
	p.kind, p.aptpl = byte(r.number(1)), r.flag()
	r.bad = r.bad || r.number(1) != 0 || p.kind != 0 && !validKind(p.kind)
	p.generation = uint32(r.number(4))
	if p.kind != 0 {
		p.holder = r.port()
	}
	n := int(r.number(2))
	if version != reservationsVersion || r.bad || n > MaxRegistrations {
		return persistentReservation{}, fmt.Errorf("%w: version %d, %d registrations", errReservations, version, n)
	}
	for range n {
		reg := registration{key: r.number(8), allPorts: r.flag()}
		reg.id = r.port()
		r.bad = r.bad || reg.key == 0 || reg.id.name == ""
		p.registrations = append(p.registrations, reg)
	}
	if r.bad || len(r.b) > 0 {
		return persistentReservation{}, fmt.Errorf("%w: a field is bad, or %d bytes are too many", errReservations, len(r.b))
	}
	if p.kind != 0 && !p.allRegistrants() && p.find(p.holder) == nil || p.kind != 0 && n == 0 {
		return persistentReservation{}, fmt.Errorf("%w: the holder is not registered", errReservations)
	}
	return p, nil
}

// replaceReservations takes over what another target has made of the reservations, and tells the sessions of this
// one what they lost (SPC-4 5.13.7). mu is held.
func (u *Unit) replaceReservations(next persistentReservation) {
	old := u.persistent
	u.persistent = next
	u.guard()
	for it := range u.nexuses {
		was, is := old.find(it.id), next.find(it.id)
		switch {
		case was != nil && is == nil && len(next.registrations) == 0:
			it.attend(reservationsPreempted) // by CLEAR
		case was != nil && is == nil:
			it.attend(registrationsPreempted)
		case was != nil && old.shared() && old.kind != next.kind:
			it.attend(reservationsReleased)
		}
	}
}

// clone is a copy that shares nothing.
func (p *persistentReservation) clone() persistentReservation {
	c := *p
	c.registrations = slices.Clone(p.registrations)
	return c
}

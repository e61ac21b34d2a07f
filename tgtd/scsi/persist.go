package scsi

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// The kept form of a unit's state; numbers are big endian:
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
// and, from version 2 of the form on,
//
//	1       count of mode pages, and for each
//	  1     page code
//	  1     subpage code
//	  1     n, length of the page without its header
//	  n     current values
//	  n     saved values
//
// A port is the ISID (6), the target portal group tag (2), and the names of initiator and target, each
// behind its length (2). A state without mode pages is written as version 1.
const (
	reservationsVersion = 1
	modesVersion        = 2
)

// keptState is what a store keeps for a unit.
type keptState struct {
	reservations persistentReservation
	modes        []keptMode
}

// keptMode are the values of a mode page, without its header.
type keptMode struct {
	code, subpage  byte
	current, saved []byte // of one length, at most maxKeptMode bytes
}

// maxKeptMode is the longest mode page that is kept, in bytes; a longer one can't be saved.
const maxKeptMode = 255

// maxNameBytes is the longest iSCSI name (RFC 7143 4.2.7.1).
const maxNameBytes = 223

var errState = errors.New("the kept state can't be read")

// append encodes the state.
func (s *keptState) append(b []byte) []byte {
	if len(s.modes) == 0 {
		return s.reservations.append(append(b, reservationsVersion))
	}
	b = s.reservations.append(append(b, modesVersion))
	b = append(b, byte(len(s.modes)))
	for _, m := range s.modes {
		b = append(b, m.code, m.subpage, byte(len(m.current)))
		b = append(append(b, m.current...), m.saved...)
	}
	return b
}

// append encodes the reservations.
func (p *persistentReservation) append(b []byte) []byte {
	var aptpl byte
	if p.aptpl {
		aptpl = 1
	}
	b = append(b, p.kind, aptpl, 0)
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

// parseState decodes what append encodes. No bytes are a state in which nothing was ever set.
func parseState(b []byte) (s keptState, err error) {
	if len(b) == 0 {
		return s, nil
	}
	r := &stateReader{b: b}
	version := r.number(1)
	if version != reservationsVersion && version != modesVersion {
		return s, fmt.Errorf("%w: version %d", errState, version)
	}
	s.reservations = r.reservations()
	if version == modesVersion {
		s.modes = r.modes()
	}
	if r.bad || len(r.b) > 0 {
		return keptState{}, fmt.Errorf("%w: a field is bad, or %d bytes are too many", errState, len(r.b))
	}
	p := &s.reservations
	if p.kind != 0 && !p.allRegistrants() && p.find(p.holder) == nil || p.kind != 0 && len(p.registrations) == 0 {
		return keptState{}, fmt.Errorf("%w: the holder is not registered", errState)
	}
	return s, nil
}

func (r *stateReader) reservations() (p persistentReservation) {
	p.kind, p.aptpl = byte(r.number(1)), r.flag()
	r.bad = r.bad || r.number(1) != 0 || p.kind != 0 && !validKind(p.kind)
	p.generation = uint32(r.number(4))
	if p.kind != 0 {
		p.holder = r.port()
	}
	n := int(r.number(2))
	r.bad = r.bad || n > MaxRegistrations
	for i := 0; i < n && !r.bad; i++ {
		reg := registration{key: r.number(8), allPorts: r.flag()}
		reg.id = r.port()
		r.bad = r.bad || reg.key == 0 || reg.id.name == ""
		p.registrations = append(p.registrations, reg)
	}
	return p
}

func (r *stateReader) modes() (modes []keptMode) {
	n := int(r.number(1))
	r.bad = r.bad || n == 0 || n > MaxModePages
	for i := 0; i < n && !r.bad; i++ {
		m := keptMode{code: byte(r.number(1)), subpage: byte(r.number(1))}
		length := int(r.number(1))
		m.current, m.saved = r.take(length), r.take(length)
		modes = append(modes, m)
	}
	return modes
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

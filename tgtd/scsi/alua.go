package scsi

import (
	"encoding/binary"
	"fmt"
)

// accessState is a target port asymmetric access state (SPC-4 5.15.2), one more than in the standard so that
// zero means a unit without target port groups.
type accessState uint8

const (
	accessNone accessState = iota
	accessOptimized
	accessNonOptimized
	accessStandby
	accessUnavailable
)

// accessNames are the values of the parameter alua_state.
var accessNames = [...]string{"off", "optimized", "nonoptimized", "standby", "unavailable"}

// serves says whether commands that reach the medium are executed in the state.
func (s accessState) serves() bool { return s == accessOptimized || s == accessNonOptimized }

// sense is what other commands end with.
func (s accessState) sense() senseCode {
	if s == accessStandby {
		return notReadyStandby
	}
	return notReadyUnavailable
}

// supportedStates are the bits T_SUP … AO_SUP of the group descriptor.
const supportedStates = 0x0f

// group is the number of the target port group of the session's port: the configured one, or the target portal
// group's tag.
func (t *task) group() uint16 {
	if t.attrs.portGroup != 0 {
		return t.attrs.portGroup
	}
	return t.nexus.nexus.sam.TargetTag
}

// reportPortGroups is REPORT TARGET PORT GROUPS (SPC-4 6.37). A target has one port, so one group; what other
// targets serve the same volume are groups of their own, which each reports itself.
func reportPortGroups(t *task) outcome {
	cdb := t.command.CDB
	format := cdb[1] >> 5
	if format > 1 {
		return t.check(invalidFieldInCDB)
	}
	b := t.replyBuffer(64)
	if b == nil {
		return finished
	}
	b = append(b, 0, 0, 0, 0)
	if format == 1 {
		b = append(b, 0x10, 0, 0, 0) // extended header; no implicit transition takes time
	}
	state := byte(t.attrs.access - 1)
	b = append(b, state, supportedStates)
	b = binary.BigEndian.AppendUint16(b, t.group())
	b = append(b, 0, 0, 0, 1, 0, 0) // one port
	b = binary.BigEndian.AppendUint16(b, t.nexus.nexus.sam.TargetTag)
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return t.reply(b, uint64(binary.BigEndian.Uint32(cdb[6:])))
}

// setPortGroups is SET TARGET PORT GROUPS (SPC-4 6.45): the state of the unit's own group. Nothing changes
// unless every descriptor is good.
func setPortGroups(t *task) outcome {
	length := int64(binary.BigEndian.Uint32(t.command.CDB[6:]))
	if length == 0 {
		return t.good()
	}
	list := t.command.DataOut
	if length < 4 || length%4 != 0 || length > 4+4*MaxUnits {
		return t.check(invalidFieldInCDB)
	}
	if int64(len(list)) < length {
		return t.check(parameterListLength)
	}
	state := accessNone
	for d := list[4:length]; len(d) > 0; d = d[4:] {
		want := accessState(d[0]&0x0f) + 1
		if want > accessUnavailable || binary.BigEndian.Uint16(d[2:]) != t.group() {
			return t.check(invalidFieldInParameters)
		}
		state = want
	}
	t.moved = uint64(length)
	u := t.unit
	u.mu.Lock()
	defer u.mu.Unlock()
	if state != accessNone && state != u.attrs.Load().access {
		u.changeLocked(func(a *attributes) { a.access = state })
		u.attendOthers(t.nexus, accessStateChanged)
	}
	return t.good()
}

// setAccess is the parameter alua_state.
func (u *Unit) setAccess(value string) error {
	state := accessNone
	for i, name := range accessNames {
		if name == value {
			state = accessState(i)
		}
	}
	if accessNames[state] != value {
		return fmt.Errorf("%w: no target port group state; there are %v", ErrInvalidParam, accessNames)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	was := u.attrs.Load().access
	u.changeLocked(func(a *attributes) { a.access = state })
	if state != was {
		u.attendOthers(nil, accessStateChanged)
	}
	return nil
}

package scsi

import (
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/sam"
)

// reserveOut is a PERSISTENT RESERVE OUT command and its parameter list.
func reserveOut(service, kind byte, key, other uint64) (cdb, list []byte) {
	list = binary.BigEndian.AppendUint64(nil, key)
	list = binary.BigEndian.AppendUint64(list, other)
	return []byte{0x5f, service, kind, 0, 0, 0, 0, 0, 24, 0}, append(list, make([]byte, 8)...)
}

func (i *initiator) reserveOut(service, kind byte, key, other uint64) {
	i.t.Helper()
	cdb, list := reserveOut(service, kind, key, other)
	i.good(1, cdb, 0, list)
}

// TestAccessMatrix checks the tables of SPC-4 and SBC-3: which class of command passes for which
// nexus under which type of reservation. The holder is allowed everything.
func TestAccessMatrix(t *testing.T) {
	classes := map[string][]byte{
		"read": cdb10(0x28, 0, 0, 1), "verify": cdb10(0x2f, 0, 0, 1), "get status": cdb16(0x9e, 0x12, 0, 24),
		"mode sense":  {0x1a, 0, 0x3f, 0, 255, 0},
		"write":       cdb10(0x2a, 0, 0, 1),
		"caw":         cdbCompare(0, 0, 0),
		"sync":        cdb10(0x35, 0, 0, 0),
		"mode select": {0x15, 0x10, 0, 0, 0, 0},
		"diagnostic":  {0x1d, 4, 0, 0, 0, 0},
		"format":      {0x04, 0, 0, 0, 0, 0},
		"tur":         make([]byte, 6), "inquiry": {0x12, 0, 0, 0, 36, 0}, "sense": {3, 0, 0, 0, 18, 0},
		"capacity": cdb10(0x25, 0, 0, 0), "read keys": {0x5e, 0, 0, 0, 0, 0, 0, 0, 8, 0},
		"luns": {0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0}, "allow": {0x1e, 0, 0, 0, 0, 0}, "start": {0x1b, 0, 0, 0, 1, 0},
	}
	reads := map[string]bool{"read": true, "verify": true, "get status": true, "mode sense": true}
	free := map[string]bool{"tur": true, "inquiry": true, "sense": true, "capacity": true, "read keys": true,
		"luns": true, "allow": true, "start": true}
	for _, c := range []struct {
		kind                                     byte
		registeredReads, registeredWrites, reads bool // for registered and for other nexuses
	}{
		{writeExclusive, true, false, true},
		{exclusiveAccess, false, false, false},
		{writeExclusiveRegistrantsOnly, true, true, true},
		{exclusiveAccessRegistrantsOnly, true, true, false},
		{writeExclusiveAllRegistrants, true, true, true},
		{exclusiveAccessAllRegistrants, true, true, false},
	} {
		t.Run(fmt.Sprintf("type%d", c.kind), func(t *testing.T) {
			tg, u, holder := disk(t, newMemory(1<<16))
			registered, other := attach(t, tg, 2, "iqn.2000-01.probe:r"), attach(t, tg, 3, "iqn.2000-01.probe:o")
			registered.clear(1)
			other.clear(1)
			holder.reserveOut(outRegister, 0, 0, 0xa)
			registered.reserveOut(outRegister, 0, 0, 0xb)
			holder.reserveOut(outReserve, c.kind, 0xa, 0)
			for name, cdb := range classes {
				in, out := 512, []byte(nil)
				if name == "write" {
					in, out = 0, make([]byte, 512)
				}
				check := func(who string, i *initiator, allowed bool) {
					want := sam.Good
					if !allowed {
						want = sam.ReservationConflict
					}
					if r := i.do(1, cdb, in, out); r.status != want {
						t.Errorf("%s by the %s nexus: status %02x sense %06x, want %02x", name, who, r.status, r.code(), want)
					}
				}
				check("holding", holder, true)
				check("registered", registered, free[name] || reads[name] && c.registeredReads || c.registeredWrites)
				check("other", other, free[name] || reads[name] && c.reads)
			}
			for _, i := range []*initiator{holder, registered, other} {
				i.detach()
			}
			must(t, u.Close())
		})
	}
}

func TestRegistrationLimit(t *testing.T) {
	tg, u, first := disk(t, newMemory(1<<16))
	var all []*initiator
	for n := range uint64(MaxRegistrations) {
		i := attachISID(t, tg, n+2, "iqn.2000-01.probe:i", [6]byte{1, 2, 3, 4, byte(n >> 8), byte(n)})
		i.clear(1)
		i.reserveOut(outRegister, 0, 0, n+1)
		all = append(all, i)
	}
	cdb, list := reserveOut(outRegister, 0, 0, 1)
	first.expect(1, cdb, 0, list, sam.CheckCondition, noRegistrationResources)
	status := first.good(1, []byte{0x5e, 3, 0, 0, 0, 0, 0, 0xff, 0xff, 0}, 0xffff, nil)
	if n := int(binary.BigEndian.Uint32(status[4:])); n != len(status)-8 || n != MaxRegistrations*68 {
		t.Errorf("READ FULL STATUS: %d bytes of %d", len(status), n)
	}
	// With all gone there is room again.
	for n, i := range all {
		i.reserveOut(outRegister, 0, uint64(n+1), 0)
		i.detach()
	}
	first.reserveOut(outRegister, 0, 0, 1)
	first.detach()
	must(t, u.Close())
}

// TestPreemptAndAbort: the command ends when those of the preempted nexus can have no effect any more.
func TestPreemptAndAbort(t *testing.T) {
	m := newMemory(1 << 16)
	tg, u, a := disk(t, m)
	b := attach(t, tg, 2, "iqn.2000-01.probe:b")
	b.clear(1)
	a.reserveOut(outRegister, 0, 0, 0xa)
	b.reserveOut(outRegister, 0, 0, 0xb)
	b.reserveOut(outReserve, writeExclusiveRegistrantsOnly, 0xb, 0)
	m.hold()
	victim, mine := b.write(0, sam.Simple, 0), a.write(1, sam.Simple, 0)
	behind := b.write(2, sam.Ordered, 0)
	cdb, list := reserveOut(outPreemptAndAbort, exclusiveAccess, 0xa, 0xb)
	// At the head of the queue, for the ordered command must not hold it up.
	preempt := a.start(sam.Command{LUN: 1, Attribute: sam.HeadOfQueue}, cdb, 0, list)
	if r := <-behind; !r.aborted {
		t.Error("the preempted nexus's waiting command was not aborted")
	}
	if len(preempt) != 0 {
		t.Fatal("PREEMPT AND ABORT ended while a command of the preempted nexus was with the store")
	}
	m.release()
	if r := <-preempt; r.status != sam.Good {
		t.Errorf("PREEMPT AND ABORT: status %02x", r.status)
	}
	if r := <-victim; !r.aborted {
		t.Error("the preempted nexus's command was not aborted")
	}
	if r := <-mine; r.aborted || r.status != sam.Good {
		t.Errorf("own command: %+v", r)
	}
	b.expect(1, make([]byte, 6), 0, nil, sam.CheckCondition, registrationsPreempted)
	b.expect(1, cdb10(0x28, 0, 0, 1), 512, nil, sam.ReservationConflict, noSense)
	a.good(1, cdb10(0x28, 0, 0, 1), 512, nil)
	a.detach()
	b.detach()
	must(t, u.Close())
}

func TestTransportID(t *testing.T) {
	for _, name := range []string{"i", "iqn.2000-01.probe:i", "iqn.2000-01.a:" + strings.Repeat("x", 223-14)} {
		id := portID{name, [6]byte{0x80, 1, 2, 3, 4, 5}, 7, ""}
		b := id.transportID()
		if len(b)%4 != 0 || len(b) > transportIDBytes || len(b) < 24 {
			t.Errorf("%q: %d bytes", name, len(b))
		}
		if back, ok := parseTransportID(b, portID{}, 7); !ok || back != id {
			t.Errorf("%q came back as %+v, %v", name, back, ok)
		}
	}
}

func FuzzTransportID(f *testing.F) {
	f.Add(portID{"iqn.2000-01.probe:i", [6]byte{1, 2, 3, 4, 5, 6}, 1, ""}.transportID())
	f.Add([]byte{0x45, 0, 0, 20})
	f.Fuzz(func(t *testing.T, b []byte) {
		id, ok := parseTransportID(b, portID{}, 1)
		if !ok {
			return
		}
		if again, ok := parseTransportID(id.transportID(), portID{}, 1); !ok || again != id {
			t.Errorf("%+v came back as %+v, %v", id, again, ok)
		}
	})
}

func TestRegisterAndMove(t *testing.T) {
	tg, u, a := disk(t, newMemory(1<<16))
	b := attach(t, tg, 2, "iqn.2000-01.probe:b")
	b.clear(1)
	portOf := func(i *initiator) portID {
		return portID{i.nexus.InitiatorName, i.nexus.ISID, i.nexus.TargetTag, i.nexus.TargetName}
	}
	move := func(key, other uint64, flags byte, tag uint16, id []byte) (cdb, list []byte) {
		cdb, list = reserveOut(outRegisterAndMove, 0, key, other)
		list[17] = flags
		binary.BigEndian.PutUint16(list[18:], tag)
		binary.BigEndian.PutUint32(list[20:], uint32(len(id)))
		list = append(list, id...)
		cdb[8] = byte(len(list))
		return cdb, list
	}
	expect := func(i *initiator, status sam.Status, code senseCode, cdb, list []byte) {
		t.Helper()
		i.expect(1, cdb, 0, list, status, code)
	}
	toB, toA := portOf(b).transportID(), portOf(a).transportID()

	cdb, list := move(0xa, 0xb, 0, 1, toB)
	expect(a, sam.ReservationConflict, noSense, cdb, list) // not registered
	a.reserveOut(outRegister, 0, 0, 0xa)
	expect(a, sam.ReservationConflict, noSense, cdb, list) // not the holder
	a.reserveOut(outReserve, writeExclusiveAllRegistrants, 0xa, 0)
	expect(a, sam.ReservationConflict, noSense, cdb, list) // nor is one of all registrants
	a.reserveOut(outRelease, writeExclusiveAllRegistrants, 0xa, 0)
	a.reserveOut(outReserve, exclusiveAccess, 0xa, 0)
	for name, bad := range map[string]struct {
		other uint64
		flags byte
		tag   uint16
		id    []byte
	}{
		"no key": {0, 0, 1, toB}, "to oneself": {0xb, 0, 1, toA}, "another port": {0xb, 0, 2, toB},
		"APTPL": {0xb, 1, 1, toB}, "a TransportID cut short": {0xb, 0, 1, toB[4:]},
	} {
		t.Log(name)
		cdb, list := move(0xa, bad.other, bad.flags, bad.tag, bad.id)
		expect(a, sam.CheckCondition, invalidFieldInParameters, cdb, list)
	}
	cdb, list = move(0xa, 0xb, 2, 1, toB) // and unregister
	expect(a, sam.Good, noSense, cdb, list)
	b.good(1, cdb10(0x28, 0, 0, 1), 512, nil)
	a.expect(1, cdb10(0x28, 0, 0, 1), 512, nil, sam.ReservationConflict, noSense)
	if keys := b.good(1, []byte{0x5e, 0, 0, 0, 0, 0, 0, 0, 64, 0}, 64, nil); len(keys) != 16 || keys[15] != 0xb {
		t.Errorf("keys % x", keys)
	}
	a.reserveOut(outRegister, 0, 0, 0xa)
	cdb, list = move(0xb, 0xaa, 0, 1, toA) // to one registered already: its key changes
	expect(b, sam.Good, noSense, cdb, list)
	a.reserveOut(outRelease, exclusiveAccess, 0xaa, 0)
	a.detach()
	b.detach()
	must(t, u.Close())
}

// TestHolderUnregisters: the reservation goes; the others are told of one of registrants only.
func TestHolderUnregisters(t *testing.T) {
	for kind, told := range map[byte]bool{
		writeExclusive: false, exclusiveAccess: false,
		writeExclusiveRegistrantsOnly: true, exclusiveAccessRegistrantsOnly: true,
	} {
		tg, u, a := disk(t, newMemory(1<<16))
		b := attach(t, tg, 2, "iqn.2000-01.probe:b")
		b.clear(1)
		a.reserveOut(outRegister, 0, 0, 0xa)
		b.reserveOut(outRegister, 0, 0, 0xb)
		a.reserveOut(outReserve, kind, 0xa, 0)
		a.reserveOut(outRegister, 0, 0xa, 0)
		a.good(1, make([]byte, 6), 0, nil)
		if told {
			b.expect(1, make([]byte, 6), 0, nil, sam.CheckCondition, reservationsReleased)
		}
		b.good(1, cdb10(0x2a, 0, 0, 1), 0, make([]byte, 512))
		a.good(1, cdb10(0x2a, 0, 0, 1), 0, make([]byte, 512))
		a.detach()
		b.detach()
		must(t, u.Close())
	}
}

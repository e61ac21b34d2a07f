package scsi

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/sam"
)

// designator asks a unit for the NAA designator of 16 bytes, as initiators do that copy.
func (i *initiator) designator(lun uint64) []byte {
	i.t.Helper()
	page := i.good(lun, []byte{0x12, 1, 0x83, 0, 255, 0}, 255, nil)
	for d := page[4:]; len(d) >= 4; d = d[4+int(d[3]):] {
		if d[1] == 3 && d[3] == 16 {
			return d[:20]
		}
	}
	i.t.Fatalf("no designator in % x", page)
	return nil
}

type segment struct {
	from, to       uint16
	blocks         uint16
	source, target uint64
}

// copyList is the parameter list of EXTENDED COPY.
func (i *initiator) copyList(list byte, luns []uint64, segments ...segment) []byte {
	b := make([]byte, 16)
	b[0] = list
	binary.BigEndian.PutUint16(b[2:], uint16(32*len(luns)))
	binary.BigEndian.PutUint32(b[8:], uint32(28*len(segments)))
	for _, lun := range luns {
		d := make([]byte, 32)
		d[0] = 0xe4
		copy(d[4:], i.designator(lun))
		d[30] = 2
		b = append(b, d...)
	}
	for _, s := range segments {
		d := make([]byte, 28)
		d[0], d[3] = 2, 24
		binary.BigEndian.PutUint16(d[4:], s.from)
		binary.BigEndian.PutUint16(d[6:], s.to)
		binary.BigEndian.PutUint16(d[10:], s.blocks)
		binary.BigEndian.PutUint64(d[12:], s.source)
		binary.BigEndian.PutUint64(d[20:], s.target)
		b = append(b, d...)
	}
	return b
}

func cdbCopy(list []byte) []byte { return cdb16(0x83, 0, 0, uint32(len(list))) }

// two makes a target with two disks and one session.
func two(t *testing.T) (*Target, []*memory, []*Unit, *initiator) {
	tg := NewTarget(1)
	var stores []*memory
	var units []*Unit
	for lun := uint64(1); lun <= 2; lun++ {
		m := newMemory(4 << 20)
		u, err := NewUnit(UnitOptions{Type: Disk, TID: 1, LUN: lun, Path: "memory", Store: m})
		must(t, err)
		must(t, tg.AddUnit(lun, u))
		stores, units = append(stores, m), append(units, u)
	}
	i := attach(t, tg, 1, "iqn.2000-01.probe:i")
	i.clear(1)
	i.clear(2)
	t.Cleanup(func() {
		i.detach()
		for _, u := range units {
			must(t, u.Close())
		}
	})
	return tg, stores, units, i
}

func TestExtendedCopy(t *testing.T) {
	tg, stores, units, i := two(t)
	for n := range stores[0].bytes {
		stores[0].bytes[n] = byte(n >> 9)
	}
	list := i.copyList(7, []uint64{1, 2}, segment{0, 1, 5000, 8, 100}, segment{1, 0, 3, 100, 0})
	i.good(1, cdbCopy(list), 0, list)
	if !bytes.Equal(stores[1].bytes[100<<9:5100<<9], stores[0].bytes[8<<9:5008<<9]) {
		t.Error("what was copied to unit 2 differs")
	}
	if !bytes.Equal(stores[0].bytes[:3<<9], stores[1].bytes[100<<9:103<<9]) {
		t.Error("what was copied to unit 1 differs")
	}
	status := cdb16(0x84, 0, 7<<56, 64)
	if got := i.good(1, status, 64, nil); got[4] != 1 || got[6] != 2 || binary.BigEndian.Uint32(got[8:]) != 5003*512 {
		t.Errorf("status % x", got)
	}
	i.expect(1, status, 64, nil, sam.CheckCondition, invalidFieldInCDB) // told once

	// The rules of the units hold: another session's reservation, write protection, the end of the medium.
	other := attach(t, tg, 2, "iqn.2000-01.probe:other")
	defer other.detach()
	other.clear(2)
	other.good(2, []byte{0x16, 0, 0, 0, 0, 0}, 0, nil)
	i.expect(1, cdbCopy(list), 0, list, sam.CheckCondition, thirdPartyFailure)
	other.good(2, []byte{0x17, 0, 0, 0, 0, 0}, 0, nil)
	must(t, units[1].Update("readonly=1"))
	i.expect(1, cdbCopy(list), 0, list, sam.CheckCondition, writeProtected)
	must(t, units[1].Update("readonly=0"))
	if got := i.good(1, status, 64, nil); got[4] != 2 {
		t.Errorf("status of a copy that failed % x", got)
	}
	beyond := i.copyList(7, []uint64{1, 2}, segment{0, 1, 2, 0, 8191})
	i.expect(1, cdbCopy(beyond), 0, beyond, sam.CheckCondition, copyAborted)
	stores[0].fail = func(*backstore.IO) error { return errors.New("broken") }
	i.expect(1, cdbCopy(list), 0, list, sam.CheckCondition, thirdPartyFailure)
	stores[0].fail = nil

	// A unit attention of the other unit is the initiator's to see, and does not stop a copy.
	must(t, units[1].Update("mode_page=1:0:2:0:0"))
	i.good(1, cdbCopy(list), 0, list)
	i.expect(2, make([]byte, 6), 0, nil, sam.CheckCondition, modeParametersChanged)

	// An abort finds the copy wherever it is.
	stores[1].hold()
	result := i.start(sam.Command{LUN: 1, Attribute: sam.Simple, Tag: 99}, cdbCopy(list), 0, list)
	answer := make(chan sam.Response, 1)
	tg.Manage(i.nexus, sam.AbortTask, 1, 99, func(r sam.Response) { answer <- r })
	stores[1].release()
	if r := <-result; !r.aborted || <-answer != sam.FunctionComplete {
		t.Errorf("%+v", r)
	}
}

// TestExtendedCopyBehindOrdered: an ORDERED command that waits for the copy does not keep the copy from ending.
func TestExtendedCopyBehindOrdered(t *testing.T) {
	_, stores, _, i := two(t)
	stores[0].hold()
	list := i.copyList(1, []uint64{1}, segment{0, 0, 3000, 0, 4000})
	copied := i.start(sam.Command{LUN: 1, Attribute: sam.Simple}, cdbCopy(list), 0, list)
	ordered := i.start(sam.Command{LUN: 1, Attribute: sam.Ordered}, make([]byte, 6), 0, nil)
	stores[0].release()
	if r := <-copied; r.status != sam.Good {
		t.Errorf("copy %+v", r)
	}
	if r := <-ordered; r.status != sam.Good {
		t.Errorf("ordered %+v", r)
	}
}

// FuzzExtendedCopy feeds parameter lists that may be anything.
func FuzzExtendedCopy(f *testing.F) {
	tg := NewTarget(1)
	u, err := NewUnit(UnitOptions{Type: Disk, TID: 1, LUN: 1, Path: "memory", Store: newMemory(1 << 16)})
	must(f, err)
	must(f, tg.AddUnit(1, u))
	i := attach(f, tg, 1, "iqn.2000-01.probe:i")
	i.clear(1)
	f.Cleanup(func() {
		i.detach()
		must(f, u.Close())
	})
	f.Add(i.copyList(1, []uint64{1}, segment{0, 0, 3, 1, 4}))
	f.Fuzz(func(t *testing.T, list []byte) {
		r := i.do(1, cdbCopy(list), 0, list)
		if r.status != sam.Good && r.status != sam.CheckCondition {
			t.Errorf("%+v", r)
		}
	})
}

func overwrite(count byte, pattern ...byte) []byte {
	return append([]byte{count, 0, byte(len(pattern) >> 8), byte(len(pattern))}, pattern...)
}

func TestSanitize(t *testing.T) {
	m := newMemory(3 << 20)
	tg, u, i := disk(t, m)
	must(t, u.Update("thin_provisioning=1"))
	sanitize := func(flags byte, list []byte) ([]byte, []byte) {
		return []byte{0x48, flags, 0, 0, 0, 0, 0, byte(len(list) >> 8), byte(len(list)), 0}, list
	}
	cdb, list := sanitize(0x01, overwrite(0x83, 0xaa, 0x55, 1))
	i.good(1, cdb, 0, list)
	if m.bytes[0] != 0xaa || m.bytes[511] != 0x55 {
		t.Errorf("begins % x, block ends %02x", m.bytes[:4], m.bytes[511])
	}
	if !bytes.Equal(m.bytes[:512], m.bytes[len(m.bytes)-512:]) {
		t.Error("blocks differ")
	}
	for _, bad := range [][]byte{overwrite(0, 1), overwrite(1), make([]byte, 517), {1, 0, 0, 9, 1}} {
		cdb, list := sanitize(0x01, bad)
		i.expect(1, cdb, 0, list, sam.CheckCondition, invalidFieldInCDB)
	}

	// While it runs everything else is refused, aborts and the end of the session included leave it alone.
	m.hold()
	cdb, _ = sanitize(0x02, nil)
	result := i.start(sam.Command{LUN: 1, Attribute: sam.Simple, Tag: 77}, cdb, 0, nil)
	other := attach(t, tg, 2, "iqn.2000-01.probe:other")
	for other.do(1, make([]byte, 6), 0, nil).code().key() == 6 {
	}
	other.expect(1, make([]byte, 6), 0, nil, sam.CheckCondition, sanitizeInProgress)
	other.expect(1, cdb10(0x28, 0, 0, 1), 512, nil, sam.CheckCondition, sanitizeInProgress)
	other.expect(1, cdb, 0, nil, sam.CheckCondition, sanitizeInProgress)
	if sense := other.good(1, []byte{3, 0, 0, 0, 64, 0}, 64, nil); sense[12] != 4 || sense[13] != 0x1b || sense[15] != 0x80 {
		t.Errorf("REQUEST SENSE % x", sense)
	}
	answer := make(chan sam.Response, 1)
	tg.Manage(i.nexus, sam.AbortTask, 1, 77, func(r sam.Response) { answer <- r })
	if r := <-result; !r.aborted || <-answer != sam.FunctionComplete {
		t.Errorf("%+v", r)
	}
	i.detach()
	m.release()
	for other.do(1, make([]byte, 6), 0, nil).status != sam.Good {
	}
	if !zeros(m.bytes) {
		t.Error("not erased")
	}

	// A failure stays until a sanitize succeeds, or EXIT FAILURE MODE where AUSE allowed it.
	m.mu.Lock()
	m.fail = func(*backstore.IO) error { return errors.New("broken") }
	m.mu.Unlock()
	other.expect(1, cdb, 0, nil, sam.CheckCondition, sanitizeFailed)
	exit, _ := sanitize(0x1f, nil)
	other.expect(1, exit, 0, nil, sam.CheckCondition, sanitizeFailed)
	other.expect(1, cdb10(0x28, 0, 0, 1), 512, nil, sam.CheckCondition, sanitizeFailed)
	withExit, _ := sanitize(0x22, nil)
	other.expect(1, withExit, 0, nil, sam.CheckCondition, sanitizeFailed)
	m.mu.Lock()
	m.fail = nil
	m.mu.Unlock()
	other.good(1, exit, 0, nil)
	other.good(1, cdb10(0x28, 0, 0, 1), 512, nil)

	// IMMED: the unit's end waits for it.
	m.hold()
	immediate, list := sanitize(0x81, overwrite(1, 7))
	other.good(1, immediate, 0, list)
	other.expect(1, make([]byte, 6), 0, nil, sam.CheckCondition, sanitizeInProgress)
	other.detach()
	closed := make(chan error)
	go func() { closed <- u.Close() }()
	m.release()
	must(t, <-closed)
}

func TestWriteAtomic(t *testing.T) {
	m := newMemory(1 << 20)
	_, u, i := disk(t, m)
	cdb := cdb16(0x9c, 0, 4, 8)
	i.expect(1, cdb, 0, make([]byte, 8*512), sam.CheckCondition, invalidOpcode)
	i.detach()
	must(t, u.Close())

	m = newMemory(1 << 20)
	m.info.AtomicBytes = 8 * 512
	_, u, i = disk(t, m)
	i.good(1, cdb, 0, bytes.Repeat([]byte{5}, 8*512))
	if m.bytes[4*512] != 5 || m.bytes[12*512-1] != 5 || m.bytes[12*512] != 0 {
		t.Error("not written")
	}
	i.expect(1, cdb16(0x9c, 0, 4, 9), 0, make([]byte, 9*512), sam.CheckCondition, invalidFieldInCDB)
	i.expect(1, cdb16(0x9c, 0, 4, 1<<16|8), 0, make([]byte, 8*512), sam.CheckCondition, invalidFieldInCDB)
	i.expect(1, cdb, 0, make([]byte, 7*512), sam.CheckCondition, invalidFieldInCDB)
	i.expect(1, cdb16(0x9c, 0, 2047, 2), 0, make([]byte, 1024), sam.CheckCondition, lbaOutOfRange)
	limits := i.good(1, []byte{0x12, 1, 0xb0, 0, 255, 0}, 255, nil)
	if binary.BigEndian.Uint32(limits[44:]) != 8 || binary.BigEndian.Uint32(limits[8:]) < 8 {
		t.Errorf("block limits % x", limits)
	}
	i.detach()
	must(t, u.Close())
}

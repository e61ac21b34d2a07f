package scsi

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/sam"
)

// TestTable checks what the rows of the tables must have in common.
func TestTable(t *testing.T) {
	lengths := map[byte]int{0: 6, 1: 10, 2: 10, 4: 16, 5: 12}
	for _, tb := range []*table{diskTable, controllerTable, discTable, tapeTable, changerTable, objectTable} {
		last := -1
		for _, row := range tb.rows {
			order := int(row.op)<<8 | max(row.service, 0)
			if order <= last {
				t.Errorf("%s: not in order of its code", row.name)
			}
			last = order
			if row.cdbUsage[0] != row.op || len(row.cdbUsage) != lengths[row.op>>5] {
				t.Errorf("%s: usage % x", row.name, row.cdbUsage)
			}
			if row.service != none && int(row.cdbUsage[1]&0x1f) != row.service {
				t.Errorf("%s: usage has service action %02x", row.name, row.cdbUsage[1])
			}
			if row.writes && (!row.medium || row.access != accessWrite) {
				t.Errorf("%s: writes without a medium, or past a reservation", row.name)
			}
			cdb := make([]byte, 16)
			copy(cdb, row.cdbUsage)
			if tb.find(cdb) != row {
				t.Errorf("%s: not found by its own code", row.name)
			}
		}
	}
}

func TestStoreErrors(t *testing.T) {
	for _, c := range []struct {
		err         error
		status      sam.Status
		read, write senseCode
	}{
		{errors.New("broken"), sam.CheckCondition, unrecoveredReadError, writeError},
		{backstore.ErrNoSpace, sam.CheckCondition, spaceAllocationFailed, spaceAllocationFailed},
		{backstore.ErrReadOnly, sam.CheckCondition, writeProtected, writeProtected},
		{backstore.ErrFenced, sam.CheckCondition, manualIntervention, manualIntervention},
		{backstore.ErrDamaged, sam.CheckCondition, unrecoveredReadError, unrecoveredReadError},
		{backstore.ErrInternal, sam.CheckCondition, internalTargetFailure, internalTargetFailure},
		{backstore.ErrBusy, sam.Busy, noSense, noSense},
	} {
		m := newMemory(1 << 16)
		m.fail = func(*backstore.IO) error { return c.err }
		_, u, i := disk(t, m)
		must(t, u.Update("thin_provisioning=1"))
		i.expect(1, cdb10(0x28, 0, 0, 1), 512, nil, c.status, c.read)
		i.expect(1, cdb10(0x2f, 0, 0, 1), 0, nil, c.status, c.read)
		i.expect(1, cdb16(0x9e, 0x12, 0, 24), 24, nil, c.status, c.read)
		i.expect(1, cdb16(0x8b, 0, 0, 1), 0, make([]byte, 512), c.status, c.read)
		for _, cdb := range [][]byte{
			cdb10(0x2a, 0, 0, 1), cdb10(0x2e, 0, 0, 1), cdb10(0x41, 0, 0, 1), cdb10(0x35, 0, 0, 0),
		} {
			i.expect(1, cdb, 0, make([]byte, 512), c.status, c.write)
		}
		i.expect(1, cdbCompare(0, 0, 1), 0, make([]byte, 1024), c.status, c.write)
		list := make([]byte, 24)
		list[3], list[19] = 16, 1
		i.expect(1, cdb10(0x42, 0, 0, 24), 0, list, c.status, c.write)
		i.detach()
		must(t, u.Close())
	}
}

// TestForcedUnitAccess checks what reaches the store as FUA.
func TestForcedUnitAccess(t *testing.T) {
	m := newMemory(4 << 20)
	_, u, i := disk(t, m)
	last := func() backstore.IO {
		m.mu.Lock()
		defer m.mu.Unlock()
		io := m.log[len(m.log)-1]
		m.log = nil
		return io
	}
	data := make([]byte, 512)
	data[0] = 1
	for _, c := range []struct {
		cache string
		cdb   []byte
		op    backstore.Op
		fua   bool
	}{
		{"0x14", cdb10(0x2a, 0, 0, 1), backstore.Write, false},
		{"0x14", cdb10(0x2a, 0x08, 0, 1), backstore.Write, true},
		{"0x14", cdb16(0x8a, 0x18, 0, 1), backstore.Write, true},
		{"0x14", unhex("0a0000000100"), backstore.Write, false},
		{"0x14", cdb10(0x41, 0, 0, 1), backstore.Write, false},
		{"0x10", cdb10(0x2a, 0, 0, 1), backstore.Write, true},
		{"0x10", unhex("0a0000000100"), backstore.Write, true},
		{"0x10", cdb10(0x41, 0, 0, 1), backstore.Write, true},
		{"0x10", cdb10(0x41, 0, 0, 5000), backstore.Flush, false}, // several pieces and one flush
		{"0x10", cdb16(0x93, sameNDOB, 0, 1), backstore.WriteZeroes, true},
	} {
		must(t, u.Update("mode_page=8:0:18:"+c.cache))
		i.clear(1)
		i.good(1, c.cdb, 0, data)
		if io := last(); io.Op != c.op || io.FUA != c.fua {
			t.Errorf("cache %s, % x: operation %d, FUA %v", c.cache, c.cdb, io.Op, io.FUA)
		}
	}
	i.detach()
	must(t, u.Close())
}

func TestGrowthIsNoticed(t *testing.T) {
	m := newMemory(1 << 16)
	tg, u, a := disk(t, m)
	b := attach(t, tg, 2, "iqn.2000-01.probe:b")
	b.clear(1)
	m.mu.Lock()
	m.bytes = make([]byte, 1<<17)
	m.mu.Unlock()
	a.good(1, cdb10(0x28, 0, 200, 1), 512, nil) // beyond the old end
	b.expect(1, make([]byte, 6), 0, nil, sam.CheckCondition, capacityChanged)
	if got := binary.BigEndian.Uint32(b.good(1, cdb10(0x25, 0, 0, 0), 8, nil)); got != 255 {
		t.Errorf("last block %d", got)
	}
	m.mu.Lock()
	m.bytes = make([]byte, 1<<18)
	m.mu.Unlock()
	must(t, u.Update("product_rev=2")) // any update looks
	u.Resized()                        // nothing new
	for _, i := range []*initiator{a, b} {
		i.expect(1, make([]byte, 6), 0, nil, sam.CheckCondition, capacityChanged)
		i.good(1, make([]byte, 6), 0, nil)
	}
	if got := u.Show().Bytes; got != 1<<18 {
		t.Errorf("size %d", got)
	}
	a.detach()
	b.detach()
	must(t, u.Close())
}

// TestStats repeats the numbers of the reference's transcript 075.
func TestStats(t *testing.T) {
	_, u, i := disk(t, newMemory(10<<20))
	i.detach()
	i = attach(t, i.target, 7, "iqn.2000-01.probe:i")
	i.do(1, make([]byte, 6), 0, nil)
	i.good(1, make([]byte, 6), 0, nil)
	i.good(1, cdb10(0x28, 0, 0, 8), 4096, nil)
	i.good(1, cdb10(0x2a, 0, 0, 4), 0, make([]byte, 2048))
	i.expect(1, cdb10(0x28, 0, 0xffff, 1), 512, nil, sam.CheckCondition, lbaOutOfRange)
	want := Stats{ReadSubmittedBytes: 4608, ReadSubmitted: 2, ReadDoneBytes: 4608, ReadDone: 2,
		WriteSubmittedBytes: 2048, WriteSubmitted: 1, WriteDoneBytes: 2048, WriteDone: 1, Errors: 2}
	if got := u.Stats(7); got != want {
		t.Errorf("%+v", got)
	}
	if got := u.Stats(8); got != (Stats{}) {
		t.Errorf("unknown session: %+v", got)
	}
	i.detach()
	must(t, u.Close())
}

func TestUnitAttentionLimit(t *testing.T) {
	_, u, i := disk(t, newMemory(1<<16))
	for range 2 * MaxUnitAttentions {
		must(t, u.Update("online=0,online=1"))
	}
	n := 0
	for i.do(1, make([]byte, 6), 0, nil).status != sam.Good {
		n++
	}
	if n != MaxUnitAttentions {
		t.Errorf("%d conditions were kept", n)
	}
	i.detach()
	must(t, u.Close())
}

func TestUnsupportedTypes(t *testing.T) {
	for _, kind := range []DeviceType{-1, Passthrough + 1, 99} {
		if _, err := NewUnit(UnitOptions{Type: kind}); !errors.Is(err, ErrUnsupportedType) {
			t.Errorf("%v: %v", kind, err)
		}
	}
}

func TestTooLargeTransfers(t *testing.T) {
	tg, u, i := disk(t, newMemory(1<<16))
	must(t, u.Close())
	big, err := NewUnit(UnitOptions{Type: Disk, TID: 1, LUN: 2, Path: "null", Store: nullStore{}})
	must(t, err)
	must(t, tg.AddUnit(2, big))
	i.clear(2)
	n := uint32(MaxTransferBytes/512 + 1)
	i.expect(2, cdb16(0x88, 0, 0, n), int(n)*512, nil, sam.CheckCondition, invalidFieldInCDB)
	// What is not expected is not read, and so not too large.
	i.good(2, cdb16(0x88, 0, 0, n), 512, nil)

	tg.buffers.inUse.Add(MaxBufferBytes)
	i.expect(2, cdb16(0x88, 0, 0, 1), 512, nil, sam.TaskSetFull, noSense)
	tg.buffers.inUse.Add(-MaxBufferBytes)
	i.detach()
	must(t, big.Close())
}

// nullStore is large and does nothing.
type nullStore struct{}

func (nullStore) Submit(io *backstore.IO) { io.Done(io) }
func (nullStore) Info() backstore.Info    { return backstore.Info{Bytes: 1 << 40} }
func (nullStore) Close() error            { return nil }

// TestNoAllocations checks that a READ and a WRITE allocate nothing once the pools are filled.
func TestNoAllocations(t *testing.T) {
	tg, u, i := disk(t, nullStore{})
	data := make([]byte, 4096)
	done := 0
	c := &sam.Command{Nexus: i.nexus, LUN: 1, Attribute: sam.Simple, Done: func(c *sam.Command) {
		done++
		if c.Release != nil {
			c.Release(c)
		}
	}}
	run := func() {
		c.CDB, c.InBytes, c.OutBytes, c.DataOut = readCDB[:], 4096, 0, nil
		tg.Execute(c)
		c.CDB, c.InBytes, c.OutBytes, c.DataOut = writeCDB[:], 0, 4096, data
		tg.Execute(c)
	}
	if n := testing.AllocsPerRun(200, run); n > 0.5 && !raceEnabled {
		t.Errorf("%v allocations for a READ and a WRITE", n)
	}
	if done == 0 || c.Status != sam.Good {
		t.Errorf("%d commands done, last status %02x", done, c.Status)
	}
	i.detach()
	must(t, u.Close())
}

var (
	readCDB  = [16]byte(cdb16(0x88, 0, 3, 8))
	writeCDB = [16]byte(cdb16(0x8a, 0, 3, 8))
)

func TestNumbers(t *testing.T) {
	for s, want := range map[string]int32{
		"": 0, "1": 1, " 12x": 12, "-3": -3, "+4": 4, "yes": 0, "0x10": 0, "010": 10, "99999999999999999999": -1,
		"-99999999999999999999": 0, "\t7": 7, "4294967297": 1,
	} {
		if got := atoi(s); got != want {
			t.Errorf("atoi(%q) = %d, want %d", s, got, want)
		}
	}
	for s, want := range map[string]int64{"0x1f": 31, "010": 8, "12": 12, "-0x2": -2, "0": 0, "abc": 0, "08": 0, "0x": 0, " 3": 3} {
		if got := strtol(s); got != want {
			t.Errorf("strtol(%q) = %d, want %d", s, got, want)
		}
	}
}

package scsi

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore/rdwr"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore/ssc"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/sam"
)

// Unit numbers of deviceTarget.
const (
	tapeLUN = 1 + iota
	discLUN
	blankLUN
	changerLUN
	objectLUN
	realLUN
)

// echo is a real device that answers every command with its CDB, twice.
type echo struct{ backstore.Store }

func (echo) Execute(c *backstore.DeviceCommand) error {
	c.Moved = copy(c.In, append(bytes.Clone(c.CDB), c.CDB...))
	if len(c.Out) > 0 {
		c.Moved = len(c.Out)
	}
	if c.CDB[0] == 0xc1 {
		c.Status, c.Sense = 2, []byte{0x70, 0, 6, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x29, 1, 0, 0, 0, 0}
	}
	return nil
}

// deviceTarget is a target with a unit of each type.
func deviceTarget(t testing.TB) (*Target, *initiator) {
	t.Helper()
	dir := t.TempDir()
	image, err := ssc.Blank("A00001", ssc.DataMedium, 4, time.Unix(1, 0))
	must(t, err)
	file := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, content, 0o600))
		return path
	}
	tg := NewTarget(1)
	for _, o := range []UnitOptions{
		{LUN: tapeLUN, Type: Tape, Path: file("tape", image)},
		{LUN: discLUN, Type: CD, Path: file("disc", make([]byte, 1<<20))},
		{LUN: blankLUN, Type: CD, Path: file("blank", nil)},
		{LUN: changerLUN, Type: Changer, Path: file("changer", nil)},
		{LUN: objectLUN, Type: OSD, Path: file("objects", nil)},
		{LUN: realLUN, Type: Passthrough, Path: "device"},
	} {
		o.TID = 1
		o.Peer = func(_ int, lun uint64) *Unit { return tg.Unit(lun) }
		o.Open = func(path string) (backstore.Store, error) {
			switch o.Type {
			case Tape:
				return ssc.Open(backstore.Options{Path: path})
			case Passthrough:
				return echo{nullStore{}}, nil
			}
			return rdwr.Open(backstore.Options{Path: path})
		}
		u, err := NewUnit(o)
		must(t, err)
		must(t, tg.AddUnit(o.LUN, u))
	}
	changer := tg.Unit(changerLUN)
	for _, params := range []string{
		"media_home=" + dir, "element_type=1,start_address=1,quantity=1", "element_type=2,start_address=10,quantity=2",
		"element_type=4,start_address=20,quantity=1", "element_type=4,address=20,tid=1,lun=1",
		"element_type=2,address=10,barcode=tape",
	} {
		must(t, changer.Update(params))
	}
	i := attach(t, tg, 1, "iqn.x:i")
	for lun := range uint64(realLUN) {
		i.clear(lun + 1)
	}
	t.Cleanup(func() {
		i.detach()
		for _, u := range tg.Units() {
			must(t, u.Close())
		}
	})
	return tg, i
}

// TestNoData: commands that answer with data, sent by an initiator that expects none. The reference dies of some.
func TestNoData(t *testing.T) {
	_, i := deviceTarget(t)
	for _, lun := range []uint64{tapeLUN, discLUN, blankLUN, changerLUN} {
		for _, row := range i.target.Unit(lun).table.rows {
			cdb := make([]byte, 16)
			cdb[0] = row.op
			if row.service != none {
				cdb[1] = byte(row.service)
			}
			if r := i.do(lun, cdb, 0, nil); len(r.data) > 0 {
				t.Errorf("LUN %d, %s: %d bytes of data", lun, row.name, len(r.data))
			}
			i.clear(lun)
		}
	}
}

// TestTapeDataWithCondition: what was read comes with the condition that tells of its length.
func TestTapeDataWithCondition(t *testing.T) {
	_, i := deviceTarget(t)
	i.good(tapeLUN, unhex("0a0000000400"), 0, []byte("four"))
	for _, c := range []struct {
		room byte
		want string
	}{{2, "fo"}, {9, "four"}} {
		i.good(tapeLUN, unhex("010000000000"), 0, nil)
		r := i.do(tapeLUN, []byte{8, 0, 0, 0, c.room, 0}, int(c.room), nil)
		if r.status != sam.CheckCondition || string(r.data) != c.want || r.sense[2] != senseIncorrectSize {
			t.Errorf("%d bytes: status %02x, %q, sense % x", c.room, r.status, r.data, r.sense)
		}
	}
	// Less is expected than the command is about.
	i.good(tapeLUN, unhex("010000000000"), 0, nil)
	if r := i.do(tapeLUN, unhex("080000000900"), 3, nil); string(r.data) != "fou" || r.moved != 4 {
		t.Errorf("3 bytes expected of 4: %q, %d moved", r.data, r.moved)
	}
}

// slowTape is a cartridge that can be held.
type slowTape struct {
	*ssc.Store
	entered chan struct{}
	release chan struct{}
}

func (s *slowTape) Tape() (*ssc.Tape, error) {
	s.entered <- struct{}{}
	<-s.release
	return s.Store.Tape()
}

// TestTapeReset: a reset lets the command under way end, and the waiting ones never begin.
func TestTapeReset(t *testing.T) {
	image, err := ssc.Blank("A00001", ssc.DataMedium, 4, time.Unix(1, 0))
	must(t, err)
	path := filepath.Join(t.TempDir(), "tape")
	must(t, os.WriteFile(path, image, 0o600))
	store, err := ssc.Open(backstore.Options{Path: path})
	must(t, err)
	slow := &slowTape{store.(*ssc.Store), make(chan struct{}, 8), make(chan struct{})}
	u, err := NewUnit(UnitOptions{Type: Tape, TID: 1, LUN: 1, Path: path, Store: slow})
	must(t, err)
	tg := NewTarget(1)
	must(t, tg.AddUnit(1, u))
	i := attach(t, tg, 1, "iqn.x:i")
	i.clear(1)

	write := func() <-chan result {
		return i.start(sam.Command{LUN: 1, Attribute: sam.Simple}, unhex("0a0000000100"), 0, []byte{1})
	}
	first := write()
	<-slow.entered
	waiting := []<-chan result{write(), write()}
	reset := make(chan sam.Response, 1)
	tg.Manage(i.nexus, sam.LogicalUnitReset, 1, 0, func(r sam.Response) { reset <- r })
	select {
	case <-reset:
		t.Fatal("the reset answered while a command was under way")
	default:
	}
	close(slow.release)
	if r := <-reset; r != sam.FunctionComplete {
		t.Errorf("the reset answered %d", r)
	}
	for n, done := range append([]<-chan result{first}, waiting...) {
		if r := <-done; !r.aborted {
			t.Errorf("command %d was not aborted", n)
		}
	}
	i.clear(1)
	r := i.good(1, unhex("34000000000000000000"), 20, nil)
	if r[7] != 1 {
		t.Errorf("%d blocks were written, want that of the command under way alone", r[7])
	}
	i.detach()
	must(t, u.Close())
}

// TestPassthrough: commands reach the device as they are, with its answers.
func TestPassthrough(t *testing.T) {
	_, i := deviceTarget(t)
	cdb := []byte{0xc0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	if got := i.good(realLUN, cdb, 40, nil); !bytes.Equal(got, append(bytes.Clone(cdb), cdb...)) {
		t.Errorf("the answer is % x", got)
	}
	if got := i.good(realLUN, []byte{0x12, 0, 0, 0, 5, 0}, 5, nil); !bytes.Equal(got, []byte{0x12, 0, 0, 0, 5}) {
		t.Errorf("the answer to INQUIRY is % x", got)
	}
	if r := i.do(realLUN, []byte{0x2a}, 0, make([]byte, 512)); r.status != sam.Good || r.moved != 512 {
		t.Errorf("a write: status %02x, %d bytes moved", r.status, r.moved)
	}
	i.expect(realLUN, []byte{0xc1}, 0, nil, sam.CheckCondition, 0x062901)
	if got := i.good(realLUN, unhex("a00000000000000000640000"), 100, nil); len(got) != 8+8*(realLUN+1) {
		t.Errorf("REPORT LUNS went to the device: % x", got)
	}
	if info := i.target.Unit(realLUN).Show(); info.Type.String() != "passthrough" || info.BlockSize != 1 {
		t.Errorf("shown as %+v", info)
	}
}

// FuzzDeviceCommands: no command breaks a device.
func FuzzDeviceCommands(f *testing.F) {
	for _, lun := range []uint64{tapeLUN, discLUN, blankLUN, changerLUN} {
		tb := map[uint64]*table{tapeLUN: tapeTable, discLUN: discTable, blankLUN: discTable, changerLUN: changerTable}[lun]
		for _, row := range tb.rows {
			cdb := make([]byte, 16)
			copy(cdb, row.cdbUsage)
			cdb[len(row.cdbUsage)-1] = 0
			if row.writes || row.parameters {
				f.Add(byte(lun-1), cdb, uint16(0), make([]byte, 600))
			} else {
				f.Add(byte(lun-1), cdb, uint16(255), []byte(nil))
			}
		}
	}
	f.Fuzz(func(t *testing.T, lun byte, cdb []byte, in uint16, out []byte) {
		if len(cdb) == 0 || len(cdb) > 16 {
			return
		}
		_, i := deviceTarget(t)
		if len(out) > 0 {
			in = 0
		}
		n := uint64(lun)%realLUN + 1
		i.do(n, cdb, int(in), out)
		i.do(n, cdb, int(in), out)
		i.clear(tapeLUN)
		i.do(tapeLUN, make([]byte, 6), 0, nil)
	})
}

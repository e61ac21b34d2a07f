package scsi

import (
	"bytes"
	"errors"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/sam"
)

// selectControl is a MODE SELECT(6) with the control page; sp saves it.
func selectControl(sp, swp bool) ([]byte, []byte) {
	cdb := []byte{0x15, 0x10, 0, 0, 16, 0}
	list := make([]byte, 16)
	list[4], list[5], list[6], list[7], list[14] = controlPage, 10, 0x02, 0x10, 0x02
	if sp {
		cdb[1] |= 0x01
	}
	if swp {
		list[8] = controlSWP
	}
	return cdb, list
}

// control are the control page's values as MODE SENSE(6) has them, with the page's header.
func (i *initiator) control(pageControl byte) []byte {
	i.t.Helper()
	return i.good(1, []byte{0x1a, 8, pageControl<<6 | controlPage, 0, 64, 0}, 64, nil)[4:]
}

// protects says whether the control page has SWP set, by page control.
func (i *initiator) protects(pageControl byte) bool {
	i.t.Helper()
	return i.control(pageControl)[4]&controlSWP != 0
}

// TestModePagesAreSaved: MODE SELECT with SP saves, and a new daemon starts with what was saved.
func TestModePagesAreSaved(t *testing.T) {
	k := newKept(backstore.KeepsAll, false)
	write := cdb10(0x2a, 0, 0, 1)
	i, u := k.session(t)
	if page := i.control(0); page[0] != pageSaveable|controlPage {
		t.Errorf("header %02x: not saveable", page[0])
	}
	cdb, list := selectControl(false, true)
	i.good(1, cdb, 0, list)
	if k.saves != 0 || !i.protects(0) || i.protects(modeSavedValues) {
		t.Error("without SP: something was saved, or does not hold")
	}
	i.expect(1, write, 0, make([]byte, 512), sam.CheckCondition, writeProtected)
	restart := func() {
		t.Helper()
		leave(t, u, i)
		i, u = k.session(t)
	}
	restart()
	if i.protects(0) {
		t.Error("what was not saved came back")
	}
	cdb, list = selectControl(true, true)
	i.goodOut(outRegister, 0, 0, 1, 0)
	i.good(1, cdb, 0, list)
	if !i.protects(0) || !i.protects(modeSavedValues) || i.protects(modeDefaultValues) {
		t.Error("current, saved or default values are not what they should be")
	}
	cdb, list = selectControl(false, false)
	i.good(1, cdb, 0, list) // current values only
	restart()
	if !i.protects(0) || !i.protects(modeSavedValues) || !u.Show().SWP {
		t.Error("what was saved did not come back")
	}
	if len(i.keys()) != 8 {
		t.Error("the registration is lost")
	}
	i.expect(1, write, 0, make([]byte, 512), sam.CheckCondition, writeProtected)
	// Pages with nothing to save have zeros; all of them come with 3Fh.
	all := i.good(1, []byte{0x1a, 8, modeSavedValues<<6 | allPages, 0, 255, 0}, 255, nil)
	if want := append([]byte{disconnectPage, 14}, make([]byte, 14)...); !bytes.Contains(all, want) {
		t.Errorf("% x", all)
	}
	// A page that the administrator gives a unit is his.
	must(t, u.Update("mode_page=10:0:10:2:16:0:0:0:0:0:0:2:0"))
	i.clear(1)
	if page := i.control(0); page[0] != controlPage || page[4] != 0 {
		t.Errorf("% x", page)
	}
	leave(t, u, i)
}

// TestModePagesOfSharedMedium: what one target makes of the mode pages, all have, at once.
func TestModePagesOfSharedMedium(t *testing.T) {
	k := newKept(backstore.KeepsAll, true)
	ta, ua := k.serve(t)
	tb, ub := k.serve(t)
	a, b := at(t, ta, 1, "a"), at(t, tb, 2, "b")
	write := cdb10(0x2a, 0, 0, 1)
	b.good(1, write, 0, make([]byte, 512))
	cdb, list := selectControl(false, true)
	a.good(1, cdb, 0, list)
	before := k.bytes[0]
	r := b.do(1, write, 0, bytes.Repeat([]byte{before + 1}, 512))
	if r.code() == modeParametersChanged {
		r = b.do(1, write, 0, bytes.Repeat([]byte{before + 1}, 512))
	}
	if r.code() != writeProtected || k.bytes[0] != before {
		t.Errorf("a write through the other target: status %02x, sense %06x", r.status, r.code())
	}
	b.clear(1)
	if !b.protects(0) || b.protects(modeSavedValues) {
		t.Error("the other target does not show it")
	}
	// Back again: the other target does not refuse by what was.
	cdb, list = selectControl(true, false)
	a.good(1, cdb, 0, list)
	if r = b.do(1, write, 0, make([]byte, 512)); r.code() == modeParametersChanged {
		r = b.do(1, write, 0, make([]byte, 512))
	}
	if r.status != sam.Good {
		t.Errorf("status %02x, sense %06x", r.status, r.code())
	}
	// A target that comes later has the values that the others have.
	cdb, list = selectControl(false, true)
	b.good(1, cdb, 0, list)
	tc, uc := k.serve(t)
	c := at(t, tc, 3, "c")
	if !c.protects(0) || c.protects(modeSavedValues) {
		t.Error("a later target has other values")
	}
	for _, i := range []*initiator{a, b, c} {
		i.detach()
	}
	for _, u := range []*Unit{ua, ub, uc} {
		must(t, u.Close())
	}
}

// TestModePagesNotSaved: a change that can't be saved does not hold, and stores on this machine save none.
func TestModePagesNotSaved(t *testing.T) {
	k := newKept(backstore.KeepsAll, false)
	i, u := k.session(t)
	k.saving = func() error { return errors.New("broken") }
	cdb, list := selectControl(true, true)
	i.expect(1, cdb, 0, list, sam.CheckCondition, commandAborted)
	k.saving = nil
	if i.protects(0) || i.protects(modeSavedValues) {
		t.Error("what was not saved holds")
	}
	leave(t, u, i)
	for _, keeps := range []backstore.Keeping{backstore.KeepsNothing, backstore.KeepsOnDemand} {
		i, u := newKept(keeps, false).session(t)
		i.expect(1, cdb, 0, list, sam.CheckCondition, invalidFieldInCDB)
		i.expect(1, []byte{0x1a, 8, modeSavedValues<<6 | controlPage, 0, 64, 0}, 64, nil, sam.CheckCondition, savingNotSupported)
		if page := i.control(0); page[0] != controlPage {
			t.Errorf("header %02x: saveable", page[0])
		}
		leave(t, u, i)
	}
}

package scsi

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/sam"
)

// kept is what a medium keeps, for all that serve it.
type kept struct {
	*memory
	mu      sync.Mutex
	value   []byte
	version uint64
	saving  func() error // called for each SaveState
	loading func() error // and LoadState
	saves   int
}

// sharer is one target's view of a medium. Like a cell it refuses requests that were decided on by an older state.
type sharer struct{ *kept }

func (s *kept) check(io *backstore.IO) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if io.State != s.version {
		return fmt.Errorf("state %d, not %d: %w", io.State, s.version, backstore.ErrStateChanged)
	}
	return nil
}

func (s sharer) LoadState(ctx context.Context) ([]byte, uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.loading != nil {
		if err := s.loading(); err != nil {
			return nil, 0, err
		}
	}
	return bytes.Clone(s.value), s.version, ctx.Err()
}

func (s sharer) SaveState(ctx context.Context, value []byte, ifVersion uint64) (uint64, error) {
	s.mu.Lock()
	hook := s.saving
	s.mu.Unlock()
	if hook != nil {
		if err := hook(); err != nil {
			return 0, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.saves++
	if ifVersion != s.version {
		return 0, backstore.ErrStateChanged
	}
	s.value, s.version = bytes.Clone(value), s.version+1
	return s.version, ctx.Err()
}

func (s sharer) Close() error { return nil }

func newKept(keeps backstore.Keeping, shared bool) *kept {
	k := &kept{memory: newMemory(1 << 20)}
	k.info.Keeps, k.info.Shared = keeps, shared
	if shared {
		k.fail = k.check
	}
	return k
}

// serve makes a target with the medium on LUN 1.
func (k *kept) serve(t testing.TB) (*Target, *Unit) {
	tg := NewTarget(1)
	u, err := NewUnit(UnitOptions{Type: Disk, TID: 1, LUN: 1, Path: "memory", Store: sharer{k}})
	must(t, err)
	must(t, tg.AddUnit(1, u))
	return tg, u
}

// session is a target with the medium on LUN 1, and a session on it.
func (k *kept) session(t testing.TB) (*initiator, *Unit) {
	t.Helper()
	tg, u := k.serve(t)
	return at(t, tg, 1, "t"), u
}

// leave ends sessions and closes the unit that they were on.
func leave(t testing.TB, u *Unit, sessions ...*initiator) {
	t.Helper()
	for _, i := range sessions {
		i.detach()
	}
	must(t, u.Close())
}

// at is a session on a target of the given name.
func at(t testing.TB, tg *Target, session uint64, target string) *initiator {
	n := &sam.Nexus{Session: session, InitiatorName: "iqn.2000-01.probe:i", ISID: [6]byte{0x80, 5: byte(session)},
		TargetTag: 1, TargetName: target}
	tg.Attach(n)
	i := &initiator{t: t, target: tg, nexus: n}
	i.clear(1)
	return i
}

// out is a PERSISTENT RESERVE OUT.
func out(service, kind byte, key, other uint64, flags byte) ([]byte, []byte) {
	list := make([]byte, 24)
	binary.BigEndian.PutUint64(list, key)
	binary.BigEndian.PutUint64(list[8:], other)
	list[20] = flags
	return []byte{0x5f, service, kind, 0, 0, 0, 0, 0, 24, 0}, list
}

func (i *initiator) goodOut(service, kind byte, key, other uint64, flags byte) {
	i.t.Helper()
	cdb, list := out(service, kind, key, other, flags)
	i.good(1, cdb, 0, list)
}

func (i *initiator) keys() []byte {
	return i.good(1, []byte{0x5e, 0, 0, 0, 0, 0, 0, 1, 0, 0}, 256, nil)[8:]
}

const aptpl, allPorts, specifiesPorts = 0x01, 0x04, 0x08

// TestReservationsAreKept: what was to survive the daemon does, and nothing else.
func TestReservationsAreKept(t *testing.T) {
	k := newKept(backstore.KeepsOnDemand, false)
	restart := func() (*initiator, *initiator, func()) {
		tg, u := k.serve(t)
		a, b := at(t, tg, 1, "t"), at(t, tg, 2, "t")
		return a, b, func() {
			leave(t, u, a, b)
		}
	}
	a, _, stop := restart()
	a.goodOut(outRegister, 0, 0, 1, 0)
	if k.saves != 0 {
		t.Error("saved what nobody asked to be kept")
	}
	stop()
	a, _, stop = restart()
	if len(a.keys()) != 0 {
		t.Error("a key without APTPL survived")
	}
	a.goodOut(outRegister, 0, 0, 1, aptpl)
	a.goodOut(outReserve, writeExclusive, 1, 0, 0)
	stop()
	a, b, stop := restart()
	b.expect(1, cdb10(0x2a, 0, 0, 1), 0, make([]byte, 512), sam.ReservationConflict, noSense)
	a.good(1, cdb10(0x2a, 0, 0, 1), 0, make([]byte, 512))
	if c := a.good(1, []byte{0x5e, 2, 0, 0, 0, 0, 0, 0, 8, 0}, 8, nil); c[2]&1 == 0 || c[3]&1 == 0 {
		t.Errorf("capabilities % x", c)
	}
	// The next registration without APTPL ends it: nothing may come back.
	b.goodOut(outRegister, 0, 0, 2, 0)
	stop()
	a, _, stop = restart()
	if len(a.keys()) != 0 {
		t.Error("keys came back")
	}
	stop()

	// Without anything that keeps there is no APTPL.
	_, u, i := disk(t, newMemory(1<<20))
	cdb, list := out(outRegister, 0, 0, 1, aptpl)
	i.expect(1, cdb, 0, list, sam.CheckCondition, invalidFieldInCDB)
	leave(t, u, i)
}

// TestSavingFails: a change that could not be saved is not acknowledged, and does not hold.
func TestSavingFails(t *testing.T) {
	k := newKept(backstore.KeepsAll, false)
	i, u := k.session(t)
	k.saving = func() error { return errors.New("broken") }
	cdb, list := out(outRegister, 0, 0, 1, 0)
	i.expect(1, cdb, 0, list, sam.CheckCondition, commandAborted)
	k.saving = nil
	if len(i.keys()) != 0 {
		t.Error("a key that was not saved is there")
	}

	// A command is aborted while its change is being saved: the change holds, and others wait for it.
	var begun, goOn = make(chan struct{}), make(chan struct{})
	k.saving = func() error {
		close(begun)
		<-goOn
		return nil
	}
	first := i.start(sam.Command{LUN: 1, Attribute: sam.Simple, Tag: 50}, cdb, 0, list)
	<-begun
	second := i.start(sam.Command{LUN: 1, Attribute: sam.Simple}, cdb, 0, list)
	answer := make(chan sam.Response, 1)
	i.target.Manage(i.nexus, sam.AbortTask, 1, 50, func(r sam.Response) { answer <- r })
	if r := <-first; !r.aborted || <-answer != sam.FunctionComplete {
		t.Errorf("%+v", r)
	}
	k.mu.Lock()
	k.saving = nil
	k.mu.Unlock()
	close(goOn)
	if r := <-second; r.status != sam.ReservationConflict { // the key is not 0 any more
		t.Errorf("%+v", r)
	}
	if len(i.keys()) != 8 {
		t.Error("the change is lost")
	}

	// A state that can't be had now makes commands busy, one that is damaged an error.
	leave(t, u, i)
	tg, u := k.serve(t)
	k.loading = func() error { return backstore.ErrBusy }
	n := &sam.Nexus{Session: 1, InitiatorName: "i", TargetTag: 1}
	tg.Attach(n)
	i = &initiator{t: t, target: tg, nexus: n}
	i.expect(1, make([]byte, 6), 0, nil, sam.Busy, noSense)
	i.good(1, []byte{0x12, 0, 0, 0, 36, 0}, 36, nil)
	k.loading = nil
	k.value = []byte{9, 9, 9}
	i.expect(1, make([]byte, 6), 0, nil, sam.CheckCondition, internalTargetFailure)
	if p := u.Show().Problem; p == "" {
		t.Error("no problem is shown")
	}
	leave(t, u, i)
}

// TestSharedMedium: reservations hold across two targets of one medium.
func TestSharedMedium(t *testing.T) {
	k := newKept(backstore.KeepsAll, true)
	ta, ua := k.serve(t)
	tb, ub := k.serve(t)
	a, b := at(t, ta, 1, "ta"), at(t, tb, 2, "tb")
	write, data := cdb10(0x2a, 0, 0, 1), make([]byte, 512)
	a.good(1, write, 0, data)
	b.good(1, write, 0, data)
	a.expect(1, []byte{0x16, 0, 0, 0, 0, 0}, 0, nil, sam.CheckCondition, invalidOpcode) // RESERVE(6)

	// A write that was let through before the other target's reservation has no effect after it.
	a.goodOut(outRegister, 0, 0, 1, 0)
	k.hold()
	held := b.start(sam.Command{LUN: 1, Attribute: sam.Simple}, write, 0, bytes.Repeat([]byte{9}, 512))
	a.goodOut(outReserve, exclusiveAccess, 1, 0, 0)
	k.release()
	if r := <-held; r.status != sam.ReservationConflict {
		t.Errorf("%+v", r)
	}
	if k.bytes[0] == 9 {
		t.Error("written in spite of the reservation")
	}
	b.expect(1, cdb10(0x28, 0, 0, 1), 512, nil, sam.ReservationConflict, noSense)
	if !bytes.Equal(b.keys(), []byte{0, 0, 0, 0, 0, 0, 0, 1}) {
		t.Errorf("keys % x", b.keys())
	}
	a.good(1, write, 0, data)

	// The same through COMPARE AND WRITE, and the sessions of the other target learn what they lost.
	b.goodOut(outRegister, 0, 0, 2, 0)
	b.goodOut(outPreempt, exclusiveAccess, 2, 1, 0)
	caw := a.do(1, cdbCompare(0, 0, 1), 0, make([]byte, 1024))
	if caw.status != sam.CheckCondition || caw.code() != registrationsPreempted {
		t.Errorf("%+v", caw)
	}
	a.expect(1, cdbCompare(0, 0, 1), 0, make([]byte, 1024), sam.ReservationConflict, noSense)

	// They learn it without asking where the store tells the unit.
	b.goodOut(outClear, 0, 2, 0, 0)
	a.goodOut(outRegister, 0, 0, 1, 0)
	b.goodOut(outRegister, 0, 0, 2, 0)
	b.goodOut(outClear, 0, 2, 0, 0)
	ua.Resized()
	ua.background.Wait()
	a.expect(1, make([]byte, 6), 0, nil, sam.CheckCondition, reservationsPreempted)

	// ALL_TG_PT: the same initiator port at the other target is registered too.
	same := &sam.Nexus{Session: 3, InitiatorName: a.nexus.InitiatorName, ISID: b.nexus.ISID, TargetTag: 1, TargetName: "ta"}
	b.goodOut(outRegister, 0, 0, 3, allPorts)
	b.goodOut(outReserve, exclusiveAccessRegistrantsOnly, 3, 0, 0)
	ta.Attach(same)
	c := &initiator{t: t, target: ta, nexus: same}
	c.clear(1)
	c.good(1, write, 0, data)
	for _, i := range []*initiator{a, b, c} {
		i.detach()
	}
	must(t, ua.Close())
	must(t, ub.Close())
}

// TestSharedOrWrite: what another target writes meanwhile is not lost.
func TestSharedOrWrite(t *testing.T) {
	k := newKept(backstore.KeepsAll, true)
	k.caw = true
	i, u := k.session(t)
	others := 0
	k.fail = func(io *backstore.IO) error {
		if io.Op == backstore.CompareAndWrite && others < 2 {
			k.bytes[io.Offset+1] |= byte(1 << others)
			others++
		}
		return k.check(io)
	}
	const blocks = 1200 // three pieces
	i.good(1, cdb16(0x8b, 0, 4, blocks), 0, bytes.Repeat([]byte{0x40}, blocks*512))
	if got := k.bytes[4*512 : 4*512+3]; !bytes.Equal(got, []byte{0x40, 0x43, 0x40}) || others != 2 {
		t.Errorf("% x", got)
	}
	if k.bytes[(4+blocks)*512-1] != 0x40 || k.bytes[(4+blocks)*512] != 0 {
		t.Error("not all of it, or too much")
	}
	leave(t, u, i)
}

// TestSpecifiedPorts: SPEC_I_PT registers initiator ports that are not there yet.
func TestSpecifiedPorts(t *testing.T) {
	k := newKept(backstore.KeepsAll, false)
	a, u := k.session(t)
	id := portID{"iqn.2000-01.probe:i", [6]byte{0x80, 5: 2}, 1, "t"}.transportID()
	_, list := out(outRegister, 0, 0, 5, specifiesPorts)
	list = binary.BigEndian.AppendUint32(list, uint32(len(id)))
	list = append(list, id...)
	cdb := []byte{0x5f, outRegister, 0, 0, 0, 0, 0, 0, byte(len(list)), 0}
	bad := slices.Clone(list)
	bad[27]--
	a.expect(1, cdb, 0, bad, sam.CheckCondition, invalidFieldInParameters)
	a.good(1, cdb, 0, list)
	if len(a.keys()) != 16 {
		t.Errorf("keys % x", a.keys())
	}
	a.goodOut(outReserve, exclusiveAccessRegistrantsOnly, 5, 0, 0)
	b := at(t, a.target, 2, "t")
	b.good(1, cdb10(0x2a, 0, 0, 1), 0, make([]byte, 512))
	leave(t, u, a, b)
}

// TestTwoTargetsAreAsOne has two targets share a medium, and one target serve another with the same sessions;
// whatever the initiators do, they see the same.
func TestTwoTargetsAreAsOne(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		shared, single := newKept(backstore.KeepsAll, true), newKept(backstore.KeepsAll, false)
		ta, ua := shared.serve(t)
		tb, ub := shared.serve(t)
		tc, uc := single.serve(t)
		two := []*initiator{at(t, ta, 1, "a"), at(t, ta, 2, "a"), at(t, tb, 3, "b"), at(t, tb, 4, "b")}
		one := []*initiator{at(t, tc, 1, "a"), at(t, tc, 2, "a"), at(t, tc, 3, "b"), at(t, tc, 4, "b")}
		kinds := []byte{1, 3, 5, 6, 7, 8}
		keys := rapid.SampledFrom([]uint64{0, 1, 1, 1, 1, 2})
		for n := range 3 {
			two[n].goodOut(outRegister, 0, 0, 1, 0)
			one[n].goodOut(outRegister, 0, 0, 1, 0)
		}
		for range rapid.IntRange(1, 40).Draw(r, "steps") {
			n := rapid.IntRange(0, 3).Draw(r, "initiator")
			var cdb, list []byte
			in := 0
			switch rapid.IntRange(0, 3).Draw(r, "what") {
			case 0:
				cdb, list = cdb10(0x2a, 0, 0, 1), make([]byte, 512)
			case 1:
				cdb, in = cdb10(0x28, 0, 0, 1), 512
			default:
				cdb, list = out(rapid.ByteRange(0, 6).Draw(r, "service"), rapid.SampledFrom(kinds).Draw(r, "kind"),
					keys.Draw(r, "key"), keys.Draw(r, "other"), 0)
			}
			// Unit attentions may come later to the other target's sessions; the state may not.
			do := func(i *initiator) result {
				for {
					if res := i.do(1, cdb, in, list); res.code().key() != 6 {
						return res
					}
				}
			}
			got, want := do(two[n]), do(one[n])
			if got.status != want.status || got.code() != want.code() {
				r.Fatalf("initiator %d, % x: %02x %06x, as one %02x %06x", n, cdb, got.status, got.code(), want.status, want.code())
			}
		}
		full := []byte{0x5e, 3, 0, 0, 0, 0, 0, 16, 0, 0}
		read := func(i *initiator) []byte {
			i.clear(1)
			return i.good(1, full, 4096, nil)
		}
		if got, want := read(two[3]), read(one[3]); !bytes.Equal(got, want) {
			r.Fatalf("READ FULL STATUS % x, as one % x", got, want)
		}
		for n := range two {
			two[n].detach()
			one[n].detach()
		}
		for _, u := range []*Unit{ua, ub, uc} {
			must(t, u.Close())
		}
	})
}

// TestWaitingForTheMedium: a unit whose store is not ready yet says so, and tells when it is.
func TestWaitingForTheMedium(t *testing.T) {
	k := newKept(backstore.KeepsAll, false)
	k.info.Waiting = "no cell"
	tg, u := k.serve(t)
	i := attach(t, tg, 1, "i")
	i.expect(1, make([]byte, 6), 0, nil, sam.CheckCondition, becomingReady)
	i.expect(1, cdb10(0x28, 0, 0, 1), 512, nil, sam.CheckCondition, becomingReady)
	i.good(1, []byte{0x12, 0, 0, 0, 36, 0}, 36, nil)
	if u.Show().Online {
		t.Error("online")
	}
	k.memory.mu.Lock()
	k.info.Waiting = ""
	k.memory.mu.Unlock()
	u.Resized()
	i.expect(1, make([]byte, 6), 0, nil, sam.CheckCondition, powerOnOrReset)
	i.expect(1, make([]byte, 6), 0, nil, sam.CheckCondition, mediumMayHaveChanged)
	i.good(1, cdb10(0x28, 0, 0, 1), 512, nil)
	if !u.Show().Online {
		t.Error("offline")
	}
	leave(t, u, i)
}

// keptExamples are a state as version 1 of the kept form has it, and one as version 2.
func keptExamples() (v1, v2 keptState) {
	p := persistentReservation{generation: 7, kind: 5, aptpl: true, holder: portID{"i", [6]byte{1, 2, 3, 4, 5, 6}, 2, "t"}}
	p.registrations = []registration{{p.holder, 9, true}}
	return keptState{reservations: p}, keptState{p, []keptMode{{0x0a, 0, []byte{1, 2}, []byte{3, 4}}}}
}

func FuzzState(f *testing.F) {
	v1, v2 := keptExamples()
	f.Add(v1.append(nil))
	f.Add(v2.append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseState(b)
		if err != nil {
			return
		}
		if again := s.append(nil); len(b) > 0 && !bytes.Equal(again, b) {
			t.Errorf("% x became % x", b, again)
		}
	})
}

// TestKeptForm pins both versions of the kept form.
func TestKeptForm(t *testing.T) {
	const body = "\x05\x01\x00\x00\x00\x00\x07\x01\x02\x03\x04\x05\x06\x00\x02\x00\x01i\x00\x01t\x00\x01" +
		"\x00\x00\x00\x00\x00\x00\x00\x09\x01\x01\x02\x03\x04\x05\x06\x00\x02\x00\x01i\x00\x01t"
	v1, v2 := keptExamples()
	if got := string(v1.append(nil)); got != "\x01"+body {
		t.Errorf("version 1: %q", got)
	}
	if got := string(v2.append(nil)); got != "\x02"+body+"\x01\x0a\x00\x02\x01\x02\x03\x04" {
		t.Errorf("version 2: %q", got)
	}
	for _, bad := range []string{"\x00" + body, "\x03" + body, "\x02" + body, "\x02" + body + "\x00", "\x01" + body + "\x00",
		"\x02" + body + "\x01\x0a\x00\x02\x01\x02\x03", "\x02" + body + "\x41"} {
		if _, err := parseState([]byte(bad)); !errors.Is(err, errState) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// TestIdentity: units of one medium show one identity, wherever they are.
func TestIdentity(t *testing.T) {
	show := func(lun uint64, late bool, params string) []byte {
		k := newKept(backstore.KeepsAll, true)
		const identity = "0123456789abcdef"
		if k.info.Identity = identity; late {
			k.info.Identity, k.info.Waiting = "", "no cell"
		}
		tg := NewTarget(int(lun))
		u, err := NewUnit(UnitOptions{Type: Disk, TID: int(lun), LUN: lun, Path: "memory", Store: sharer{k}})
		must(t, err)
		must(t, tg.AddUnit(lun, u))
		must(t, u.Update(params))
		k.memory.mu.Lock()
		k.info.Identity, k.info.Waiting = identity, ""
		k.memory.mu.Unlock()
		u.Resized()
		i := attach(t, tg, 1, "i")
		defer func() {
			leave(t, u, i)
		}()
		return append(i.good(lun, []byte{0x12, 1, 0x83, 0, 255, 0}, 255, nil), i.good(lun, []byte{0x12, 1, 0x80, 0, 255, 0}, 255, nil)...)
	}
	first := show(1, false, "")
	if !bytes.Contains(first, []byte("\x01\x03\x00\x10\x60123456789abcdef")) || !bytes.Contains(first, []byte("PSS 3031")) {
		t.Errorf("%q", first)
	}
	if second := show(7, true, ""); !bytes.Equal(first, second) {
		t.Errorf("%q and %q", first, second)
	}
	if set := show(7, true, "scsi_id=mine"); !bytes.Contains(set, []byte("mine")) {
		t.Errorf("%q", set)
	}
}

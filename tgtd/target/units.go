package target

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/mgmt"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/scsi"
)

// deviceKind is a type of logical unit that can be asked for.
type deviceKind struct {
	number mgmt.DeviceType
	unit   scsi.DeviceType
	store  string // default type of backing store
	fixed  bool   // no other store will do: --bstype is overruled
}

// fileStore is the store of which tgt logs how it is opened.
const fileStore = "rdwr"

// deviceKinds are in the order in which `tgtadm --op show --mode sys` lists them.
var deviceKinds = [...]deviceKind{
	{mgmt.Disk, scsi.Disk, "rdwr", false},
	{mgmt.CD, scsi.CD, "mmc", true},
	{mgmt.OSD, scsi.OSD, "rdwr", false},
	{mgmt.Controller, scsi.Controller, "null", true},
	{mgmt.Changer, scsi.Changer, "smc", true},
	{mgmt.Tape, scsi.Tape, "ssc", true},
	{mgmt.Passthrough, scsi.Passthrough, "", false}, // which of deviceStores must be said
}

var (
	// flagStores take --bsoflags.
	flagStores = [...]string{"pss", "rdwr", "mmc", "smc", "rbd"}
	// deviceStores are for passthrough alone, and passthrough for them.
	deviceStores = [...]string{"sg", "bsg"}
	// otherStores have a purpose of their own: neither a disk nor an OSD can use them.
	otherStores = [...]string{"ssc", "mmc", "smc"}
)

// maxOpening bounds the units of a target that are being made at a time.
const maxOpening = 256

// UnitSpec is what a logical unit is made from, as typed.
type UnitSpec struct {
	Device    mgmt.DeviceType
	Path      string // of the backing store; empty: no medium yet
	Store     string // type of the backing store; empty: the default of the device type
	Options   string // for the store
	Flags     string // sync, direct, sync:direct
	BlockSize string // bytes, a power of two from 2 up; anything else means 512
}

// unitPlan is a UnitSpec that has been looked through.
type unitPlan struct {
	kind      deviceKind
	store     string
	blockSize int
	sync      bool
	direct    bool
}

// plan looks a specification through. Errors carry mgmt.ErrInvalid.
func (m *Model) plan(s UnitSpec) (unitPlan, error) {
	i := slices.IndexFunc(deviceKinds[:], func(k deviceKind) bool { return k.number == s.Device })
	if i < 0 || s.Device == mgmt.Controller {
		return unitPlan{}, fmt.Errorf("device type %#x: %w", uint32(s.Device), mgmt.ErrInvalid)
	}
	p := unitPlan{kind: deviceKinds[i], blockSize: parseBlockSize(s.BlockSize)}
	p.store = s.Store
	if p.store == "" || p.kind.fixed {
		p.store = p.kind.store
	}
	if !slices.Contains(m.o.Stores.Names(), p.store) {
		return unitPlan{}, Worded(fmt.Errorf("failed to find bstype, %.80s: %w", p.store, mgmt.ErrInvalid),
			"tgt_device_create", fmt.Sprintf("failed to find bstype, %.80s", p.store))
	}
	device := slices.Contains(deviceStores[:], p.store)
	if device != (p.kind.unit == scsi.Passthrough) || !p.kind.fixed && slices.Contains(otherStores[:], p.store) {
		return unitPlan{}, fmt.Errorf("backing store type %s is not for device type %v: %w", p.store, p.kind.unit,
			mgmt.ErrInvalid)
	}
	var err error
	if p.sync, p.direct, err = parseFlags(s.Flags); err != nil {
		return unitPlan{}, err
	}
	if (p.sync || p.direct) && !slices.Contains(flagStores[:], p.store) {
		return unitPlan{}, fmt.Errorf("bsoflags %s not supported by backing store %s: %w",
			p.flags(), p.store, mgmt.ErrInvalid)
	}
	return p, nil
}

// parseBlockSize reads a block size: C's number, and 512 for what is no power of two from 2 up.
func parseBlockSize(text string) int {
	n, _, ok := cNumber(text, 0)
	if !ok || n < 2 || n > 1<<30 || bits.OnesCount64(uint64(n)) != 1 {
		return 512
	}
	return int(n)
}

// parseFlags reads --bsoflags: words separated by colons, of which the beginning is looked at.
func parseFlags(text string) (sync, direct bool, err error) {
	if text == "" {
		return false, false, nil
	}
	for word := range strings.SplitSeq(text, ":") {
		word = strings.TrimLeft(word, " \t")
		switch {
		case strings.HasPrefix(word, "sync"):
			sync = true
		case strings.HasPrefix(word, "direct"):
			direct = true
		default:
			return false, false, fmt.Errorf("bsoflags %.80q: %w", text, mgmt.ErrInvalid)
		}
	}
	return sync, direct, nil
}

// flags writes the flags as show prints them.
func (p unitPlan) flags() string {
	switch {
	case p.sync && p.direct:
		return "sync:direct"
	case p.sync:
		return "sync"
	case p.direct:
		return "direct"
	}
	return ""
}

// NewUnit makes a logical unit. Opening its store may take seconds; meanwhile the model goes on
// and the number is taken. It returns mgmt.ErrNoTarget, mgmt.ErrUnitExists, and mgmt.ErrInvalid for everything else, a
// store that can't be opened included.
func (m *Model) NewUnit(tid int, lun uint64, spec UnitSpec) error {
	var t *target
	err := m.onTarget(tid, func(found *target) error {
		if _, taken := found.opening[lun]; taken {
			return fmt.Errorf("logical unit %d is being made: %w", lun, mgmt.ErrUnitExists)
		}
		if len(found.opening) >= maxOpening {
			return fmt.Errorf("%d logical units are being made: %w", maxOpening, mgmt.ErrNoMemory)
		}
		t = found
		t.opening[lun] = struct{}{}
		return nil
	})
	if err != nil {
		return err
	}
	defer m.update(func() error {
		delete(t.opening, lun)
		return nil
	})
	if lun == mgmt.NoLUN {
		return fmt.Errorf("target %d: no number for the logical unit: %w", tid, mgmt.ErrInvalid)
	}
	if t.device.Unit(lun) != nil {
		return fmt.Errorf("target %d: logical unit %d: %w", tid, lun, mgmt.ErrUnitExists)
	}
	plan, err := m.plan(spec)
	if err != nil {
		return fmt.Errorf("target %d: logical unit %d: %w", tid, lun, err)
	}
	u, err := m.makeUnit(tid, lun, spec, plan)
	if err != nil {
		return fmt.Errorf("target %d: %w", tid, err)
	}
	r := m.recordUnit(t, lun, spec) // before it can be deleted
	if err := t.device.AddUnit(lun, u); err != nil {
		m.eraseUnit(tid, lun, r)
		return errors.Join(fmt.Errorf("target %d: %w", tid, unitError(err)), u.Close())
	}
	m.mu.RLock()
	deleted := t.deleted
	m.mu.RUnlock()
	if deleted {
		return errors.Join(fmt.Errorf("target %d was deleted meanwhile: %w", tid, mgmt.ErrNoTarget),
			closeUnits(t.device))
	}
	return nil
}

// makeUnit opens the store and makes the unit.
func (m *Model) makeUnit(tid int, lun uint64, spec UnitSpec, plan unitPlan) (*scsi.Unit, error) {
	var unit atomic.Pointer[scsi.Unit] // nil until it is made: its store may speak of its size before
	o := scsi.UnitOptions{
		Type: plan.kind.unit, TID: tid, LUN: lun, BlockSize: plan.blockSize,
		Path: spec.Path, StoreName: plan.store, Flags: plan.flags(), Log: m.log, Peer: m.peer,
	}
	o.Open = func(path string) (backstore.Store, error) {
		if plan.store == fileStore {
			m.log.Info(strconv.Itoa(m.o.Threads), OriginKey, "bs_thread_open")
		}
		store, err := m.o.Stores.Open(plan.store, backstore.Options{
			Path: path, BlockSize: plan.blockSize, Options: spec.Options,
			Sync: plan.sync, Direct: plan.direct, Threads: m.o.Threads,
			Resized: func() {
				if u := unit.Load(); u != nil {
					u.Resized()
				}
			},
		})
		if err != nil {
			err = fmt.Errorf("backing store %s: %w", plan.store, err)
			if plan.store == fileStore && errors.As(err, new(syscall.Errno)) {
				err = Worded(err, "backed_file_open", "Could not open "+path+", "+osText(err))
			}
			return nil, err
		}
		return store, nil
	}
	u, err := scsi.NewUnit(o)
	if err != nil {
		return nil, unitError(err)
	}
	unit.Store(u)
	u.Resized() // what was said in between
	return u, nil
}

// peer finds a unit for another one: the drive of a changer. Nil when it is not there.
func (m *Model) peer(tid int, lun uint64) *scsi.Unit {
	u, err := m.unit(tid, lun)
	if err != nil {
		return nil
	}
	return u
}

// unitError gives an error of package scsi its number.
func unitError(err error) error {
	number := mgmt.ErrInvalid
	switch {
	case errors.Is(err, scsi.ErrUnitExists):
		number = mgmt.ErrUnitExists
	case errors.Is(err, scsi.ErrNoUnit):
		number = mgmt.ErrNoUnit
	case errors.Is(err, scsi.ErrUnitBusy):
		number = mgmt.ErrUnitActive
	case errors.Is(err, scsi.ErrTooManyUnits):
		number = mgmt.ErrNoMemory
	case errors.Is(err, scsi.ErrUnsupportedType):
		number = mgmt.ErrUnsupported
	case errors.Is(err, scsi.ErrPreventRemoval):
		number = mgmt.ErrPreventRemoval
	}
	return number.With(err)
}

// DeleteUnit removes a logical unit and closes its store. It returns mgmt.ErrInvalid for the controller, mgmt.ErrNoUnit
// when the unit or its target is not there, and mgmt.ErrUnitActive while a command runs on it.
func (m *Model) DeleteUnit(tid int, lun uint64) error {
	if lun == 0 {
		return fmt.Errorf("target %d: the controller, LUN 0, stays: %w", tid, mgmt.ErrInvalid)
	}
	device, err := m.device(tid)
	if err != nil {
		return fmt.Errorf("target %d is not there: logical unit %d: %w", tid, lun, mgmt.ErrNoUnit)
	}
	r := m.unitRecord(tid, lun)
	u, err := device.RemoveUnit(lun)
	if err != nil {
		err = fmt.Errorf("target %d: %w", tid, unitError(err))
		if errors.Is(err, mgmt.ErrNoUnit) {
			err = Worded(err, "tgt_device_destroy", fmt.Sprintf("device %d not found", lun))
		}
		return err
	}
	m.eraseUnit(tid, lun, r)
	if err := u.Close(); err != nil {
		// The unit is gone all the same.
		m.log.Error("closing a backing store failed", "tid", tid, "lun", lun, "err", err)
	}
	return nil
}

// unit finds a logical unit.
func (m *Model) unit(tid int, lun uint64) (*scsi.Unit, error) {
	device, err := m.device(tid)
	if err != nil {
		return nil, err
	}
	u := device.Unit(lun)
	if u == nil {
		return nil, fmt.Errorf("target %d: logical unit %d: %w", tid, lun, mgmt.ErrNoUnit)
	}
	return u, nil
}

// UpdateUnit sets parameters of a logical unit, a comma list of NAME=VALUE, left to right; those
// before a bad one stay. It returns mgmt.ErrNoTarget, mgmt.ErrNoUnit, mgmt.ErrInvalid, mgmt.ErrPreventRemoval, or
// mgmt.ErrUnknownParam for a name that a changer does not know.
func (m *Model) UpdateUnit(tid int, lun uint64, params string) error {
	u, err := m.unit(tid, lun)
	if err != nil {
		return err
	}
	err = u.Update(params)
	m.recordUpdate(tid, lun, params, err != nil)
	if err != nil {
		if u.Show().Type == scsi.Changer && errors.Is(err, scsi.ErrUnknownParam) {
			return fmt.Errorf("target %d: logical unit %d: %w", tid, lun, mgmt.ErrUnknownParam.With(err))
		}
		return fmt.Errorf("target %d: logical unit %d: %w", tid, lun, unitError(err))
	}
	return nil
}

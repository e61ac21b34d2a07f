package scsi

import (
	"cmp"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/sam"
)

// Errors of the unit list.
var (
	ErrUnitExists   = errors.New("this logical unit number already exists")
	ErrNoUnit       = errors.New("no such logical unit")
	ErrUnitBusy     = errors.New("this logical unit is still active")
	ErrController   = errors.New("the controller, LUN 0, stays with its target")
	ErrTooManyUnits = fmt.Errorf("a target holds at most %d logical units", MaxUnits)
)

// Target is a SCSI target device: its units and the nexuses they are reached through. It implements
// sam.Target. All methods may be called from any goroutine.
type Target struct {
	tid     int
	buffers buffers

	mu      sync.Mutex
	byLUN   map[sam.LUN]*Unit
	nexuses map[*nexus]struct{}
	units   atomic.Pointer[[]*Unit] // by number; replaced as a whole
}

var _ sam.Target = (*Target)(nil)

// NewTarget makes target number tid with its controller, LUN 0.
func NewTarget(tid int) *Target {
	tg := &Target{tid: tid, byLUN: map[sam.LUN]*Unit{}, nexuses: map[*nexus]struct{}{}}
	controller := newUnit(UnitOptions{Type: Controller, TID: tid, StoreName: "null"})
	tg.byLUN[0] = controller
	tg.list()
	return tg
}

// list rebuilds the ordered list of units. mu is held, or the target not yet shared.
func (tg *Target) list() {
	units := make([]*Unit, 0, len(tg.byLUN))
	for _, u := range tg.byLUN {
		units = append(units, u)
	}
	slices.SortFunc(units, func(a, b *Unit) int { return cmp.Compare(a.lun, b.lun) })
	tg.units.Store(&units)
}

// AddUnit adds a unit under its number, which must be the one it was made with. Sessions that exist learn
// of it by REPORTED LUNS DATA HAS CHANGED on their other units.
func (tg *Target) AddUnit(lun uint64, u *Unit) error {
	if sam.LUN(lun) != u.lun || u.lun == sam.NoLUN {
		return fmt.Errorf("add logical unit %d: made as number %d", lun, u.lun)
	}
	tg.mu.Lock()
	defer tg.mu.Unlock()
	if tg.byLUN[u.lun] != nil {
		return fmt.Errorf("logical unit %d: %w", lun, ErrUnitExists)
	}
	if len(tg.byLUN) >= MaxUnits {
		return ErrTooManyUnits
	}
	tg.reportedLUNsChanged()
	tg.byLUN[u.lun] = u
	tg.list()
	for n := range tg.nexuses {
		tg.connect(n, u, noSense)
	}
	return nil
}

// RemoveUnit takes a unit out of the target and returns it for the caller to Close. It fails with ErrNoUnit,
// ErrController, or ErrUnitBusy while a command runs on the unit.
func (tg *Target) RemoveUnit(lun uint64) (*Unit, error) {
	tg.mu.Lock()
	defer tg.mu.Unlock()
	u := tg.byLUN[sam.LUN(lun)]
	switch {
	case u == nil:
		return nil, fmt.Errorf("logical unit %d: %w", lun, ErrNoUnit)
	case lun == 0:
		return nil, ErrController
	case !u.retire():
		return nil, fmt.Errorf("logical unit %d: %w", lun, ErrUnitBusy)
	}
	delete(tg.byLUN, u.lun)
	tg.list()
	for n := range tg.nexuses {
		units := *n.units.Load()
		without := make(map[sam.LUN]*itl, len(units))
		for l, it := range units {
			if l != u.lun {
				without[l] = it
			}
		}
		n.units.Store(&without)
	}
	tg.reportedLUNsChanged()
	return u, nil
}

// reportedLUNsChanged queues the unit attention for all units of all sessions. mu is held.
func (tg *Target) reportedLUNsChanged() {
	for n := range tg.nexuses {
		for _, it := range *n.units.Load() {
			it.unit.attend(it, reportedLUNsChanged)
		}
	}
}

// connect makes the I_T_L nexus of n and u. mu is held.
func (tg *Target) connect(n *nexus, u *Unit, attention senseCode) {
	it := u.connect(n, attention)
	units := *n.units.Load()
	with := make(map[sam.LUN]*itl, len(units)+1)
	for l, other := range units {
		with[l] = other
	}
	with[u.lun] = it
	n.units.Store(&with)
}

// Unit returns the unit with the number, or nil.
func (tg *Target) Unit(lun uint64) *Unit {
	tg.mu.Lock()
	defer tg.mu.Unlock()
	return tg.byLUN[sam.LUN(lun)]
}

// Units lists the units by number, the controller first. The slice must not be changed.
func (tg *Target) Units() []*Unit {
	return *tg.units.Load()
}

// Attach implements sam.Target: every unit greets the new nexus with POWER ON, RESET, OR BUS DEVICE RESET
// OCCURRED.
func (tg *Target) Attach(sn *sam.Nexus) {
	n := &nexus{sam: sn}
	tg.mu.Lock()
	defer tg.mu.Unlock()
	units := make(map[sam.LUN]*itl, len(tg.byLUN))
	for lun, u := range tg.byLUN {
		units[lun] = u.connect(n, powerOnOrReset)
	}
	n.units.Store(&units)
	tg.nexuses[n] = struct{}{}
	sn.Server = n
}

// Detach implements sam.Target: it aborts the commands of the nexus, drops its RESERVE(6) reservations
// and removal locks, and returns when the last command is through.
func (tg *Target) Detach(sn *sam.Nexus) {
	n := sn.Server.(*nexus)
	tg.mu.Lock()
	delete(tg.nexuses, n)
	units := *n.units.Load()
	tg.mu.Unlock()

	through := make(chan struct{})
	d := newDrain(false, func() { close(through) })
	for _, it := range units {
		it.unit.disconnect(it, d)
	}
	d.release()
	for _, it := range units {
		it.unit.runReady()
	}
	<-through
}

// Execute implements sam.Target.
func (tg *Target) Execute(c *sam.Command) {
	n := c.Nexus.Server.(*nexus)
	for {
		it := n.find(c.LUN)
		absent := it == nil
		if absent {
			it = n.find(0) // which is always there
		}
		t := it.unit.tasks.Get().(*task)
		t.command, t.target, t.tag = c, tg, c.Tag
		t.nexus, t.unit, t.absent = it, it.unit, absent
		if it.unit.admit(t) {
			return
		}
		// The unit was removed after the look-up: look again. RemoveUnit is about to take it out of
		// the nexus's map.
		runtime.Gosched()
	}
}

// Manage implements sam.Target (SAM-5 7). The functions that the reference target knows are ABORT TASK,
// ABORT TASK SET and LOGICAL UNIT RESET; the others it, and this, answer as not supported.
func (tg *Target) Manage(sn *sam.Nexus, f sam.Function, lun sam.LUN, tag uint32, done func(sam.Response)) {
	switch f {
	case sam.AbortTask, sam.AbortTaskSet, sam.LogicalUnitReset:
	case sam.ClearACA, sam.ClearTaskSet, sam.TargetWarmReset, sam.TargetColdReset, sam.TaskReassign:
		done(sam.NotSupported)
		return
	default:
		done(sam.FunctionRejected)
		return
	}
	it := sn.Server.(*nexus).find(lun)
	if it == nil {
		done(sam.LUNDoesNotExist)
		return
	}
	response := sam.FunctionComplete
	d := newDrain(true, func() { done(response) })
	switch f {
	case sam.AbortTask:
		found := it.unit.abort(d, func(t *task) bool { return t.nexus == it && t.tag == tag && !t.absent })
		if !found {
			response = sam.TaskDoesNotExist
		}
	case sam.AbortTaskSet:
		it.unit.abort(d, func(t *task) bool { return t.nexus == it && !t.absent })
	case sam.LogicalUnitReset:
		it.unit.abort(d, func(t *task) bool { return !t.absent })
		it.unit.reset()
	}
	d.release()
	it.unit.runReady()
}

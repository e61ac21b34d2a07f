package scsi

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/sam"
)

// outcome is what a step of a command says about how to go on.
type outcome uint8

const (
	finished outcome = iota // the command is complete; its result is in the task
	submit                  // give task.io to the store, then go on with task.step
	waiting                 // task.hold calls finish when what it waits for has happened
	repeated                // take task.step at once
	parked                  // somebody else has the task, and makes it ready again (Unit.park)
)

// step is a handler, or a continuation of one after its I/O.
type step func(*task) outcome

// Bits of task.state. A step's I/O has two ends that may come in either order, Submit returning and Done
// being called; whoever is second goes on with the task. Both bits are cleared before the next Submit.
const (
	stateReturned  = 1 << iota // Submit has returned
	stateCompleted             // the store has called Done
	stateAborted               // a task management function ended the task; nothing more is submitted
	stateFinished              // the result is decided
)

// task is one command under way. Each unit pools its own, so that the store's part of the request stays
// of use; after finish nothing may hold on to one.
type task struct {
	command *sam.Command
	target  *Target
	nexus   *itl
	unit    *Unit
	attrs   *attributes // the unit's settings when the command started
	medium  *medium     // nil when the unit has none
	row     *command
	absent  bool // addressed to a unit that does not exist; carried by LUN 0
	tag     uint32

	// The task set; guarded by Unit.mu.
	prev, next *task
	runNext    *task
	waiters    []*drain
	attribute  sam.Attribute
	started    bool
	parking    *parking // while the task is parked
	// Blocks that the command changes, [low, high), and whether nobody else may change them meanwhile.
	low, high uint64
	writes    bool
	exclusive bool

	state  atomic.Uint32
	step   step
	work   func(*task) // what a worker of the medium does for the command
	hold   *drain
	io     backstore.IO
	buffer *buffer
	// lastStore is whose own data io.Store holds.
	lastStore backstore.Store
	// via is where the requests go instead of the medium; nil for nearly all commands.
	via  backstore.Store
	copy *copying // EXTENDED COPY

	// For the unit's load, in its own time (Unit.since).
	arrived int64
	asked   atomic.Int64 // when the store got the request that it has now; 0: it has none

	// Progress of commands that take several steps; offsets are bytes on the medium.
	offset, end int64
	data        []byte // what is still to be written or compared, or the list of descriptors
	fua         bool
	room        int // descriptors that GET LBA STATUS may return
	queries     int // requests it has made

	version uint64 // of the unit's state by which the command was allowed
	fresh   bool   // the state was loaded for this command

	// The result.
	status sam.Status
	sense  []byte
	dataIn []byte
	moved  uint64
}

// newTask is the pool's constructor.
func newTask() any {
	t := &task{}
	t.io.Owner = t
	t.io.Done = ioDone
	return t
}

// ioDone is the Done of every request: no closure, so no allocation.
func ioDone(io *backstore.IO) {
	t := io.Owner.(*task)
	if at := t.asked.Swap(0); at != 0 {
		t.unit.load.answered(t, time.Duration(t.unit.since()-at))
	}
	if t.state.Or(stateCompleted)&stateReturned != 0 {
		t.run() // Submit has returned: nobody else continues the task
	}
}

// run takes steps until one waits for the store or completes the command.
func (t *task) run() {
	for {
		// Clearing and asking for an abort is one operation: an abort that comes later finds both bits
		// clear and waits, one that comes earlier is seen here.
		if t.state.And(^uint32(stateReturned|stateCompleted))&stateAborted != 0 {
			t.finish()
			return
		}
		next := t.step
		if t.io.Err != nil && errors.Is(t.io.Err, backstore.ErrStateChanged) {
			next = (*task).again
		}
		switch next(t) {
		case repeated:
			continue
		case finished:
			t.finish()
			return
		case waiting:
			hold, unit := t.hold, t.unit
			t.hold = nil
			hold.release()
			unit.runReady()
			return
		case parked:
			return
		}
		t.io.Err = nil
		store := t.via
		if store == nil {
			store = t.medium.store
			t.asked.Store(t.unit.since())
		}
		if t.lastStore != store {
			t.lastStore, t.io.Store = store, nil
		}
		store.Submit(&t.io)
		if !t.returned() {
			return
		}
	}
}

// returned notes that Submit has returned and says whether Done was called before, so that the caller
// has to continue. Otherwise the task belongs to the store and must not be touched any more.
func (t *task) returned() bool {
	for {
		old := t.state.Load()
		if old&stateAborted != 0 {
			// Still ours: without stateReturned nobody finishes it. What waits only for the last
			// submission can be told now.
			t.unit.settled(t)
			return t.state.Or(stateReturned)&stateCompleted != 0
		}
		if t.state.CompareAndSwap(old, old|stateReturned) {
			return old&stateCompleted != 0
		}
	}
}

// finish hands the result to the transport and takes the task out of the task set.
func (t *task) finish() {
	aborted := t.state.Or(stateFinished)&stateAborted != 0
	c := t.command
	t.nexus.count(t, aborted)
	t.unit.load.count(t, aborted)
	c.Status, c.Sense, c.Moved, c.Aborted = t.status, t.sense, t.moved, aborted
	c.DataIn, c.Server, c.Release = nil, nil, nil
	if b := t.buffer; b != nil {
		if len(t.dataIn) > 0 && !aborted {
			c.DataIn, c.Server, c.Release = t.dataIn, b, releaseDataIn
		} else {
			b.put()
		}
	}
	t.command, t.buffer = nil, nil
	c.Done(c)

	unit := t.unit
	drains, ready := unit.remove(t)
	t.recycle()
	unit.tasks.Put(t)
	for _, d := range drains {
		d.release()
	}
	if ready {
		unit.runReady()
	}
}

// recycle makes the task fit for another command; io keeps its Done, Owner and Store.
func (t *task) recycle() {
	t.command, t.target, t.nexus, t.unit, t.attrs, t.medium, t.row = nil, nil, nil, nil, nil, nil, nil
	t.prev, t.next, t.runNext, t.waiters, t.hold, t.buffer = nil, nil, nil, nil, nil, nil
	t.absent, t.started, t.writes, t.exclusive, t.fua, t.fresh = false, false, false, false, false, false
	t.low, t.high, t.offset, t.end, t.moved = 0, 0, 0, 0, 0
	t.status, t.sense, t.dataIn, t.data, t.step, t.work = sam.Good, nil, nil, nil, nil, nil
	t.io.Err, t.io.State, t.version = nil, 0, 0
	t.io.Data, t.via, t.copy, t.parking = nil, nil, nil, nil
	t.state.Store(0)
}

// good completes the command.
func (t *task) good() outcome {
	t.status = sam.Good
	return finished
}

// check completes the command with CHECK CONDITION. Nothing was transferred then, except that the
// reference reports no residual where only parameters were sent.
func (t *task) check(code senseCode) outcome {
	return t.checkSense(code.bytes(t.attrs.descriptorSense))
}

func (t *task) checkSense(sense []byte) outcome {
	t.status, t.sense, t.dataIn, t.moved = sam.CheckCondition, sense, nil, 0
	if t.row != nil && t.row.parameters {
		t.moved = uint64(t.command.OutBytes)
	}
	return finished
}

// refuse completes the command with a status that has no sense data.
func (t *task) refuse(status sam.Status) outcome {
	t.status, t.sense, t.dataIn = status, nil, nil
	t.moved = uint64(max(t.command.InBytes, t.command.OutBytes))
	return finished
}

// storeError completes the command after the store reported an error; medium is the sense code for an
// error that says nothing more.
func (t *task) storeError(medium senseCode) outcome {
	switch err := t.io.Err; {
	case errors.Is(err, backstore.ErrBusy):
		return t.refuse(sam.Busy)
	case errors.Is(err, backstore.ErrNoSpace):
		return t.check(spaceAllocationFailed)
	case errors.Is(err, backstore.ErrReadOnly):
		return t.check(writeProtected)
	case errors.Is(err, backstore.ErrFenced):
		return t.check(manualIntervention)
	case errors.Is(err, backstore.ErrDamaged):
		return t.check(unrecoveredReadError)
	case errors.Is(err, backstore.ErrInternal):
		return t.check(internalTargetFailure)
	}
	return t.check(medium)
}

// allocate gives the task a buffer of n bytes. When it can't, it sets the result and returns nil.
func (t *task) allocate(n int64) []byte {
	if n > MaxTransferBytes {
		t.check(invalidFieldInCDB)
		return nil
	}
	b := t.target.buffers.get(n)
	if b == nil {
		t.refuse(sam.TaskSetFull)
		return nil
	}
	t.buffer = b
	return b.data[:n]
}

// replyBuffer gives an empty slice with room for n bytes to build data-in in; nil as allocate.
func (t *task) replyBuffer(n int) []byte {
	b := t.allocate(int64(n))
	if b == nil {
		return nil
	}
	return b[:0]
}

// reply completes the command with data-in, cut to the allocation length and to what is expected.
// data must have been built in the task's buffer or live as long as the command.
func (t *task) reply(data []byte, allocation uint64) outcome {
	n := min(uint64(len(data)), allocation)
	t.moved = n
	t.dataIn = data[:min(n, uint64(t.command.InBytes))]
	return t.good()
}

// submitIO prepares the task's request.
func (t *task) submitIO(op backstore.Op, offset, length int64, data []byte, fua bool, then step) outcome {
	t.io.Op, t.io.Offset, t.io.Length, t.io.Data, t.io.FUA = op, offset, length, data, fua
	t.io.State = t.version
	t.step = then
	return submit
}

// drain waits for a number of tasks and calls done when the last of them is through. It is born holding
// one count for whoever sets it up, who gives it back with release.
type drain struct {
	left atomic.Int32
	// settle: a task of an ordered store needs to be waited for only until its last request is submitted.
	settle bool
	done   func()
}

func newDrain(settle bool, done func()) *drain {
	d := &drain{settle: settle, done: done}
	d.left.Store(1)
	return d
}

func (d *drain) release() {
	if d.left.Add(-1) == 0 {
		d.done()
	}
}

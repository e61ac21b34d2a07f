package scsi

import (
	"math"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/sam"
)

// The task set of a unit (SAM-5 8) is a list of tasks, in order of arrival. Tasks start at once, except:
//
//	an ORDERED task waits for every earlier one, and every later one waits for it;
//	a task that must be alone on its blocks (COMPARE AND WRITE, ORWRITE, WRITE AND VERIFY with
//	comparison) waits for earlier tasks that change them, and such tasks wait for it;
//	a HEAD OF QUEUE task goes to the front, and waits only for blocks held by tasks that have started.
//
// The counts of the first two kinds keep the common case free of any walk through the list.

// admit puts a new task into the set and runs it if nothing stands before it. It returns false when the
// unit is no longer part of the target.
func (u *Unit) admit(t *task) bool {
	t.attribute = t.command.Attribute
	if !t.absent {
		t.row = u.table.find(t.command.CDB)
		t.plan()
		t.nexus.submitted(t.command)
	}
	t.step, t.arrived = dispatch, u.since()

	u.mu.Lock()
	if u.removed {
		u.mu.Unlock()
		return false
	}
	atOnce := false
	if u.taskCount >= MaxTasks {
		t.step, atOnce = taskSetFull, true
		t.attribute, t.writes, t.exclusive = sam.Simple, false, false
	}
	if t.nexus.closed {
		t.state.Store(stateAborted)
		atOnce = true
	}
	u.link(t)
	runnable := atOnce || u.runnable(t)
	t.started = runnable
	if !runnable {
		u.blocked++
	}
	u.mu.Unlock()

	if runnable {
		t.run()
	}
	return true
}

func taskSetFull(t *task) outcome {
	return t.refuse(sam.TaskSetFull)
}

// plan works out which blocks the command will change.
func (t *task) plan() {
	row := t.row
	if row == nil || !row.writes {
		return
	}
	t.writes, t.exclusive = true, row.exclusive != nil && row.exclusive(t.command.CDB)
	t.low, t.high = 0, math.MaxUint64
	if row.extent != nil {
		lba, n := row.extent(t.command.CDB)
		t.low = lba
		if sum := lba + n; n > 0 && sum >= lba {
			t.high = sum
		}
	}
}

// link puts t into the list. mu is held.
func (u *Unit) link(t *task) {
	switch {
	case u.first == nil:
		u.first, u.last = t, t
	case t.attribute == sam.HeadOfQueue:
		t.next, u.first.prev = u.first, t
		u.first = t
	default:
		t.prev, u.last.next = u.last, t
		u.last = t
	}
	u.taskCount++
	if t.attribute == sam.Ordered {
		u.ordered++
	}
	if t.exclusive {
		u.exclusive++
	}
	if t.medium = u.medium; t.medium != nil {
		t.medium.users++
	}
}

// remove takes a finished task out of the set and makes ready what waited for it. It returns the drains
// that wait for it, and whether there are tasks for runReady.
func (u *Unit) remove(t *task) ([]*drain, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if t.prev != nil {
		t.prev.next = t.next
	} else {
		u.first = t.next
	}
	if t.next != nil {
		t.next.prev = t.prev
	} else {
		u.last = t.prev
	}
	u.taskCount--
	if t.attribute == sam.Ordered {
		u.ordered--
	}
	if t.exclusive {
		u.exclusive--
	}
	if m := t.medium; m != nil {
		if m.users--; m.users == 0 && m.closing {
			close(m.idle)
		}
	}
	if u.blocked > 0 {
		for e := u.first; e != nil; e = e.next {
			if !e.started && e.parking == nil && u.runnable(e) {
				u.ready(e)
			}
		}
	}
	return t.waiters, u.readyFirst != nil && !u.running
}

// ready moves a waiting task to the queue of those to run. mu is held.
func (u *Unit) ready(t *task) {
	t.started = true
	u.blocked--
	if u.readyLast != nil {
		u.readyLast.runNext = t
	} else {
		u.readyFirst = t
	}
	u.readyLast = t
}

// runReady runs the tasks that became ready. One goroutine at a time does that, in a loop, so that a chain
// of commands each of which starts the next does not grow the stack.
func (u *Unit) runReady() {
	u.mu.Lock()
	if u.running {
		u.mu.Unlock()
		return
	}
	u.running = true
	for u.readyFirst != nil {
		t := u.readyFirst
		u.readyFirst = t.runNext
		if u.readyFirst == nil {
			u.readyLast = nil
		}
		t.runNext = nil
		u.mu.Unlock()
		t.run()
		u.mu.Lock()
	}
	u.running = false
	u.mu.Unlock()
}

// parking is the place of a task that waits for something other than a request to its store: for unit state
// that is being saved, or the end of a sanitize operation. Whoever makes it ready again holds on to the
// parking, not to the task, which an abort may take out of it.
type parking struct {
	unit *Unit
	task *task // nil once the task was taken out; guarded by Unit.mu
}

// park makes a task that has started wait until unpark is called, and then go on with a step. It returns what
// the task's present step has to return; with a parking of nil the task was aborted before. mu is held.
func (u *Unit) park(t *task, then step) (*parking, outcome) {
	if t.state.Load()&stateAborted != 0 {
		return nil, finished
	}
	p := &parking{unit: u, task: t}
	t.step, t.parking, t.started = then, p, false
	u.blocked++
	return p, parked
}

// unpark makes a parked task ready, unless it was aborted meanwhile; runReady has to be called after it. mu
// is held.
func (p *parking) unpark(then step) {
	if t := p.task; t != nil {
		t.leave()
		if then != nil {
			t.step = then
		}
		p.unit.ready(t)
	}
}

// leave takes a task out of its parking, if it has one. mu is held.
func (t *task) leave() {
	if t.parking != nil {
		t.parking.task, t.parking = nil, nil
	}
}

// runnable says whether nothing in the set keeps t from starting. mu is held.
func (u *Unit) runnable(t *task) bool {
	if u.ordered == 0 && u.exclusive == 0 {
		return true
	}
	head := t.attribute == sam.HeadOfQueue
	earlier := true
	for e := u.first; e != nil; e = e.next {
		if e == t {
			earlier = false
			continue
		}
		if earlier && !head && (t.attribute == sam.Ordered || e.attribute == sam.Ordered) {
			return false
		}
		if (e.started || earlier && !head) && t.collides(e) {
			return false
		}
	}
	return true
}

// collides says whether t and e may not change their blocks at the same time.
func (t *task) collides(e *task) bool {
	return (t.exclusive || e.exclusive) && t.writes && e.writes && t.low < e.high && e.low < t.high
}

// abort marks the tasks that match and makes d wait for them. Waiting ones are made ready: they
// finish without effect. It says whether any matching task was not finished already. mu is not held.
func (u *Unit) abort(d *drain, match func(*task) bool) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.abortLocked(d, match)
}

// abortLocked is abort with mu held.
func (u *Unit) abortLocked(d *drain, match func(*task) bool) bool {
	found := false
	for t := u.first; t != nil; t = t.next {
		if !match(t) {
			continue
		}
		old := t.state.Or(stateAborted)
		if old&stateFinished == 0 {
			found = true
			if !t.started {
				t.leave()
				u.ready(t)
			} else if d.settle && t.medium != nil && t.medium.ordered && old&(stateReturned|stateCompleted) != 0 {
				continue // its last request is with the store, in front of all later ones
			}
		}
		// A finished task is waited for too, so that its response goes out before the function's.
		d.left.Add(1)
		t.waiters = append(t.waiters, d)
	}
	return found
}

// settled releases the drains that wait only for the task's last submission.
func (u *Unit) settled(t *task) {
	if !t.medium.ordered {
		return
	}
	u.mu.Lock()
	var told []*drain
	keep := t.waiters[:0]
	for _, d := range t.waiters {
		if d.settle {
			told = append(told, d)
		} else {
			keep = append(keep, d)
		}
	}
	t.waiters = keep
	u.mu.Unlock()
	for _, d := range told {
		d.release()
	}
}

// retire closes the unit for new tasks unless one is running; one that is finished but not yet out of the
// set is waited for.
func (u *Unit) retire() bool {
	out := make(chan struct{})
	d := newDrain(false, func() { close(out) })
	u.mu.Lock()
	for t := u.first; t != nil; t = t.next {
		if t.state.Load()&stateFinished == 0 {
			u.mu.Unlock()
			return false
		}
	}
	for t := u.first; t != nil; t = t.next {
		d.left.Add(1)
		t.waiters = append(t.waiters, d)
	}
	u.removed = true
	u.mu.Unlock()
	d.release()
	<-out
	return true
}

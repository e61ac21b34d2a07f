package scsi

import (
	"context"
	"errors"
	"fmt"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/sam"
)

// Where the store keeps the unit's state (backstore.StateKeeper), the copy in the Unit is good as long as
// medium.loaded says so. A command that finds it otherwise is parked until it was loaded; a change is parked
// until it was saved, and comes into force only then, so that nothing is acknowledged that a crash could undo.
//
// For a shared medium the copy can be out of date without anybody knowing. Every request carries the version of
// the state by which it was allowed; the store refuses it when there is a newer one, and then the command starts
// again with a state that is loaded anew (task.again). The version is read before reservations and mode pages are
// looked at, and published after they were replaced, so a request never carries a newer version than what was
// looked at. Commands that show or change reservations or mode pages load them first.

// keeper is the medium's, when it keeps anything.
func (m *medium) keeper() backstore.StateKeeper {
	if m.info.Keeps == backstore.KeepsNothing {
		return nil
	}
	return m.store.(backstore.StateKeeper)
}

// current says whether the command may go by the unit's copy of the state; shared media need it fresh where the
// command asks so.
func (t *task) current(fresh bool) bool {
	m := t.medium
	if m == nil || m.info.Keeps == backstore.KeepsNothing {
		return true
	}
	return m.loaded.Load() && (!fresh || !m.info.Shared || t.fresh)
}

// awaitState parks the task until the state was loaded, or the change under way saved, and goes on with a step.
// mu is held.
func (u *Unit) awaitState(t *task, then step) outcome {
	m := t.medium
	p, result := u.park(t, then)
	if p == nil {
		return result
	}
	t.fresh = true
	// Neither list is longer than the task set.
	if m.busy && m.info.Shared {
		m.late = append(m.late, p) // what is being loaded may be older than this command
		return result
	}
	m.waiters = append(m.waiters, p)
	if !m.busy {
		u.startLoading(m)
	}
	return result
}

// startLoading starts a goroutine that loads the state. mu is held.
func (u *Unit) startLoading(m *medium) {
	m.busy = true
	m.users++
	u.background.Add(1)
	go u.loadState(m)
}

// loadState loads the state for all that wait for it.
func (u *Unit) loadState(m *medium) {
	defer u.background.Done()
	value, version, err := m.keeper().LoadState(m.ctx)
	var loaded keptState
	if err == nil {
		loaded, err = parseState(value)
	}
	u.mu.Lock()
	then := step(nil)
	switch {
	case err != nil:
		m.trouble = fmt.Sprintf("load the state of the unit: %v", err)
		then = stateFailed
		switch {
		case errors.Is(err, backstore.ErrBusy):
			then = stateBusy
		case errors.Is(err, backstore.ErrFenced):
			then = stateFenced
		}
	case u.medium == m:
		if version > 0 { // else nobody has ever saved: what is here stays
			u.replaceReservations(loaded.reservations)
			u.replaceModes(m, loaded.modes)
		}
		m.saved = version
		m.version.Store(version)
		m.loaded.Store(true)
		m.trouble = ""
	}
	u.wake(m, then)
}

// wake lets those go on that wait for the state, with a step or with their own, and releases mu.
func (u *Unit) wake(m *medium, then step) {
	for _, p := range m.waiters {
		p.unpark(then)
	}
	m.waiters, m.late, m.busy = m.late, nil, false
	if len(m.waiters) > 0 {
		u.startLoading(m)
	}
	u.mu.Unlock()
	u.leave(m)
	u.runReady()
}

// stateBusy, stateFenced and stateFailed complete commands that need a state which can't be had now, or at all.
func stateBusy(t *task) outcome   { return t.refuse(sam.Busy) }
func stateFenced(t *task) outcome { return t.check(manualIntervention) }
func stateFailed(t *task) outcome { return t.check(internalTargetFailure) }

// stateLost completes a command whose change may have been saved or not.
func stateLost(t *task) outcome { return t.check(commandAborted) }

// stays says whether a change has to be saved before it comes into force. mu is held.
func (m *medium) stays(p *persistentReservation) bool {
	switch {
	case m == nil:
		return false
	case m.info.Keeps == backstore.KeepsOnDemand:
		return p.aptpl || m.saved > 0
	}
	return m.info.Keeps == backstore.KeepsAll
}

// saveReservations parks the command, saves the change, and makes it come into force. mu is held.
func (u *Unit) saveReservations(t *task, c *reservationChange) outcome {
	m := t.medium
	kept := keptState{reservations: c.next, modes: u.modes}
	if m.info.Keeps == backstore.KeepsOnDemand && !c.next.aptpl {
		kept.reservations = persistentReservation{generation: c.next.generation} // what is on disk must not come back
	}
	value := kept.append(nil)
	if len(value) > backstore.MaxStateBytes {
		return t.check(noRegistrationResources)
	}
	return u.saveState(t, value, stateSaving{
		commit: func() { u.commit(c) },
		done:   func(t *task) outcome { return u.reservationDone(t, c) },
		retry:  persistentOut,
	})
}

// stateSaving is how a command goes on whose change of the state is being saved.
type stateSaving struct {
	commit func() // makes the change come into force; called with mu held
	done   step   // after that
	retry  step   // where another target was faster: works the change out anew
}

// saveState parks the command, saves a new state, and makes it come into force. mu is held.
func (u *Unit) saveState(t *task, value []byte, s stateSaving) outcome {
	m := t.medium
	p, result := u.park(t, nil)
	if p == nil {
		return result
	}
	m.busy = true
	m.users++
	u.background.Add(1)
	go func() {
		defer u.background.Done()
		version, err := m.keeper().SaveState(m.ctx, value, m.saved)
		u.mu.Lock()
		switch {
		case err == nil:
			s.commit()
			m.saved = version
			m.version.Store(version)
			m.loaded.Store(true)
			p.unpark(s.done)
		case errors.Is(err, backstore.ErrStateChanged):
			m.loaded.Store(false)
			if p.task != nil {
				p.task.fresh = false
			}
			p.unpark(s.retry) // with what is there now
		default:
			m.loaded.Store(false)
			m.trouble = fmt.Sprintf("save the state of the unit: %v", err)
			p.unpark(stateLost)
		}
		u.wake(m, nil)
	}()
	return result
}

// reservationDone completes a command whose change is in force.
func (u *Unit) reservationDone(t *task, c *reservationChange) outcome {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.finishReservation(t, c)
}

// again starts a command anew whose request was refused because the state has changed.
func (t *task) again() outcome {
	if t.buffer != nil {
		t.buffer.put()
		t.buffer = nil
	}
	t.offset, t.end, t.moved, t.data, t.dataIn, t.fua, t.io.Err = 0, 0, 0, nil, nil, false, nil
	u, m := t.unit, t.medium
	u.mu.Lock()
	defer u.mu.Unlock()
	// Somebody may have loaded the newer state since this request was submitted.
	if t.version == m.version.Load() {
		m.loaded.Store(false)
	}
	if m.loaded.Load() && !m.busy {
		t.step = dispatch
		return repeated
	}
	return u.awaitState(t, dispatch)
}

// stop ends what waits for the state on behalf of a medium that goes.
func (m *medium) stop() {
	if m.cancel != nil {
		m.cancel()
	}
}

// start prepares a medium for keeping state.
func (m *medium) start() {
	m.ctx, m.cancel = context.WithCancel(context.Background())
}

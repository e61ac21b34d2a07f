package state

import (
	"slices"

	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
)

// lock is held by one writer or by any number of readers; the others stand in line. A reader who comes when
// somebody waits, waits too. A lock that nobody has is not there.
type lock struct {
	name string
	// version is the entry of the log that gave the lock to its present writer, or to the first of its
	// present readers. It grows with each change of hands: a holder may use it as a fencing token.
	version uint64
	holders []holder
	waiters []holder // in the order they came
}

type holder struct {
	owner
	write bool
}

func (l *lock) find(list []holder, by owner) int {
	return slices.IndexFunc(list, func(h holder) bool { return h.owner == by })
}

// lockTake gives the lock to who asks or has him wait. Who asks again is told how it stands.
func (c *coordination) lockTake(index uint64, name string, by owner, flags uint16) (op.Result, error) {
	if flags&^(op.FlagWrite|op.FlagTry) != 0 {
		return answer(op.Invalid)
	}
	want := holder{by, flags&op.FlagWrite != 0}
	l := c.locks[name]
	if l == nil {
		l = &lock{name: name}
		if !c.room(lockBytes + len(name) + holderBytes) {
			return answer(op.TooMany)
		}
		c.locks[name] = l
		c.bytes += lockBytes + len(name)
	}
	if i := l.find(l.holders, by); i >= 0 {
		if l.holders[i] != want {
			return answer(op.Invalid)
		}
		return op.Result{Value: l.version}, nil
	}
	if i := l.find(l.waiters, by); i >= 0 {
		if l.waiters[i] != want {
			return answer(op.Invalid)
		}
		return answer(op.Waiting)
	}
	free := len(l.waiters) == 0 && l.compatible(want)
	switch {
	case !free && flags&op.FlagTry != 0:
		return answer(op.Busy)
	case len(l.holders)+len(l.waiters) >= MaxWaiters || !c.room(holderBytes):
		return answer(op.TooMany)
	}
	c.bytes += holderBytes
	if free {
		l.give(index, want)
		return op.Result{Value: l.version}, nil
	}
	l.waiters = append(l.waiters, want)
	c.lockEvent(index, l)
	return answer(op.Waiting)
}

// compatible says whether want may have the lock beside its holders.
func (l *lock) compatible(want holder) bool {
	return len(l.holders) == 0 || !want.write && !l.holders[0].write
}

func (l *lock) give(index uint64, to holder) {
	if len(l.holders) == 0 {
		l.version = index
	}
	l.holders = append(l.holders, to)
}

// advance gives the lock to those at the head of the line who can have it, and wakes them. A lock that nobody
// has or waits for ends.
func (l *lock) advance(c *coordination, index uint64) {
	given := false
	for len(l.waiters) > 0 && l.compatible(l.waiters[0]) {
		given = true
		next := l.waiters[0]
		l.waiters = slices.Delete(l.waiters, 0, 1)
		l.give(index, next)
		c.wake(next.session)
	}
	if given && len(l.waiters) > 0 {
		c.lockEvent(index, l) // the new holders are to know that somebody waits already
	}
	if len(l.holders) == 0 {
		delete(c.locks, l.name)
		c.bytes -= lockBytes + len(l.name)
	}
}

func (c *coordination) lockRelease(index uint64, name string, by owner) op.Errno {
	l := c.locks[name]
	if l == nil || l.remove(c, func(h holder) bool { return h.owner == by }) == 0 {
		return op.NotFound
	}
	l.advance(c, index)
	return op.OK
}

// remove takes holders and waiters away and returns how many they were.
func (l *lock) remove(c *coordination, who func(holder) bool) int {
	before := len(l.holders) + len(l.waiters)
	l.holders = slices.DeleteFunc(l.holders, who)
	l.waiters = slices.DeleteFunc(l.waiters, who)
	n := before - len(l.holders) - len(l.waiters)
	c.bytes -= n * holderBytes
	return n
}

// leave takes all of a session away. The data that a writer guarded with the lock stays as it is: the old
// product deleted the file of the lock's name when a writer was lost, which is no way to treat data.
func (l *lock) leave(c *coordination, index, session uint64) {
	if l.remove(c, func(h holder) bool { return h.session == session }) > 0 {
		l.advance(c, index)
	}
}

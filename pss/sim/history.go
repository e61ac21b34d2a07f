package sim

import (
	"fmt"
	"math"
	"time"

	"github.com/anishathalye/porcupine"
)

// history is what the clients saw, for every sector by itself: each is a register.
type history struct {
	sectors [registers][]porcupine.Operation
	volume  []porcupine.Operation // of those who share one
}

// action is what was done to a sector.
type action struct {
	kind action_
	old  uint64 // compare: what must stand there
	new  uint64 // write, compare: what stands there afterwards
}

type action_ uint8

const (
	doRead action_ = iota
	doWrite
	doCompare
)

// unknown is the answer of an action whose client never heard how it ended.
type unknown struct{}

// add notes an action and its answer: the value of a read, whether a compare matched, unknown.
func (h *history) add(client, register int, a action, call, ret time.Duration, answer any) {
	at := int64(ret)
	if answer == (unknown{}) {
		at = math.MaxInt64 // it may take effect at any time
	}
	h.sectors[register] = append(h.sectors[register], porcupine.Operation{
		ClientId: client, Input: a, Call: int64(call), Output: answer, Return: at})
}

// register is a sector: what was written last is read.
var register = porcupine.Model{
	Init: func() any { return uint64(0) },
	Step: func(state, input, output any) (bool, any) {
		value, a := state.(uint64), input.(action)
		switch a.kind {
		case doRead:
			return output.(uint64) == value, value
		case doWrite:
			return true, a.new
		}
		if output == (unknown{}) {
			if value == a.old {
				return true, a.new
			}
			return true, value
		}
		if matched := output.(bool); matched != (value == a.old) {
			return false, value
		} else if matched {
			return true, a.new
		}
		return true, value
	},
	DescribeOperation: func(input, output any) string {
		a := input.(action)
		switch a.kind {
		case doRead:
			return fmt.Sprintf("read -> %d", output)
		case doWrite:
			return fmt.Sprintf("write %d", a.new)
		}
		return fmt.Sprintf("compare %d write %d -> %v", a.old, a.new, output)
	},
}

// checkTimeout bounds the search for an order of one sector's history. Histories here are short; one
// that takes so long is reported, never passed over.
const checkTimeout = 30 * time.Second

// check reports the first sector whose history has no order that explains it.
func (h *history) check() error {
	for s, ops := range h.sectors {
		if err := decide(register, ops, fmt.Sprintf("sector %d", s)); err != nil {
			return err
		}
	}
	return h.checkVolume()
}

// decide looks for an order of operations on something.
func decide(m porcupine.Model, ops []porcupine.Operation, on string) error {
	switch porcupine.CheckOperationsTimeout(m, ops, checkTimeout) {
	case porcupine.Illegal:
		return fmt.Errorf("%s: no order of its %d operations explains what the clients saw", on, len(ops))
	case porcupine.Unknown:
		return fmt.Errorf("%s: its history of %d operations could not be decided", on, len(ops))
	}
	return nil
}

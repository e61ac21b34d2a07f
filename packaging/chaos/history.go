package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/initiator"
)

// Limits of the contended load.
const (
	registersAtOnce  = 8    // blocks that are read and written at a time
	maxOperations    = 1000 // of a register; then another block takes its place
	historyWorkers   = 4
	historyPause     = 2 * time.Millisecond // between two commands of a worker: what is shown is order, not speed
	reconnectPause   = 50 * time.Millisecond
	decideTimeout    = 2 * time.Minute // to find an order of one register's history
	maxRegisterCount = 1 << 16
)

// kind is what a command does to a register.
type kind uint8

const (
	reads kind = iota
	writes
	compares
)

// input is a command.
type input struct {
	kind     kind
	old, new uint64 // compare: what must stand there; write, compare: what stands there then
}

// output is its answer.
type output struct {
	value   uint64 // of a read
	matched bool   // of a compare
	unknown bool   // nobody heard how it ended
}

// register is a block as porcupine knows it: what was written last is read.
var register = porcupine.Model{
	Init: func() any { return uint64(0) },
	Step: func(state, in, out any) (bool, any) {
		value, i, o := state.(uint64), in.(input), out.(output)
		switch {
		case i.kind == reads:
			return o.value == value, value
		case i.kind == writes:
			return true, i.new
		case !o.unknown && o.matched != (value == i.old):
			return false, value
		case value == i.old:
			return true, i.new
		}
		return true, value
	},
	DescribeOperation: func(in, out any) string { return describe(in.(input), out.(output)) },
}

func describe(i input, o output) string {
	end := ""
	if o.unknown {
		end = " -> unknown"
	}
	switch i.kind {
	case reads:
		return fmt.Sprintf("read -> %d", o.value)
	case writes:
		return fmt.Sprintf("write %d%s", i.new, end)
	}
	if end == "" {
		end = fmt.Sprintf(" -> %v", o.matched)
	}
	return fmt.Sprintf("compare %d and write %d%s", i.old, i.new, end)
}

// history is what the workers saw, for each register by itself.
type history struct {
	mu        sync.Mutex
	registers [][]porcupine.Operation
	open      []int // commands begun on each
	active    [registersAtOnce]int
	begin     time.Time
	unknown   int
	wrong     error // the first block that no worker can have written
}

func newHistory() *history {
	h := &history{begin: time.Now()}
	for i := range h.active {
		h.active[i] = h.add()
	}
	return h
}

func (h *history) add() int {
	h.registers = append(h.registers, nil)
	h.open = append(h.open, 0)
	return len(h.registers) - 1
}

// choose takes a register for one command.
func (h *history) choose() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	slot := rand.IntN(registersAtOnce)
	r := h.active[slot]
	if h.open[r] == maxOperations && len(h.registers) < maxRegisterCount {
		r = h.add()
		h.active[slot] = r
	}
	h.open[r]++
	return r
}

func (h *history) now() int64 { return int64(time.Since(h.begin)) }

// note adds a command that began at call. One of unknown outcome may take effect at any later time; a read of which
// nothing was heard says nothing.
func (h *history) note(worker, register int, call int64, in input, out output) {
	ret := h.now()
	h.mu.Lock()
	defer h.mu.Unlock()
	if out.unknown {
		h.unknown++
		if in.kind == reads {
			return
		}
		ret = math.MaxInt64
	}
	h.registers[register] = append(h.registers[register], porcupine.Operation{
		ClientId: worker, Input: in, Call: call, Output: out, Return: ret})
}

func (h *history) fail(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.wrong == nil {
		h.wrong = err
	}
}

// size is how many commands there were, and how many of unknown outcome.
func (h *history) size() (commands, unknown int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range h.registers {
		commands += len(r)
	}
	return commands, h.unknown
}

// check looks for an order of each register's commands that explains what was seen. The workers must have ended.
func (h *history) check() error {
	if h.wrong != nil {
		return h.wrong
	}
	for r, ops := range h.registers {
		switch porcupine.CheckOperationsTimeout(register, ops, decideTimeout) {
		case porcupine.Illegal:
			return fmt.Errorf("register %d: no order of its %d commands explains what the initiator saw", r, len(ops))
		case porcupine.Unknown:
			return fmt.Errorf("register %d: its history of %d commands could not be decided", r, len(ops))
		}
	}
	return nil
}

// print writes the whole history as text.
func (h *history) print(w io.Writer) error {
	for r, ops := range h.registers {
		for _, o := range ops {
			ret := fmt.Sprint(time.Duration(o.Return))
			if o.Return == math.MaxInt64 {
				ret = "never"
			}
			_, err := fmt.Fprintf(w, "register %d worker %d from %v to %s: %s\n", r, o.ClientId, time.Duration(o.Call), ret,
				describe(o.Input.(input), o.Output.(output)))
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// contention reads, writes and compares the same few blocks from several sessions at once. A session does not outlive
// its connection here: a command that is issued anew by itself could take effect twice, which no register does; so a
// command whose connection breaks is one of unknown outcome.
type contention struct {
	history    *history
	login      func(context.Context) (*initiator.Session, error)
	lun        uint64
	first      uint64 // block of register 0
	blockBytes int
}

// run works until ctx ends.
func (c *contention) run(ctx context.Context) {
	var workers sync.WaitGroup
	for i := range historyWorkers {
		workers.Go(func() { c.work(ctx, i) })
	}
	workers.Wait()
}

// work is one session after the other.
func (c *contention) work(ctx context.Context, worker int) {
	var seq uint64
	known := make(map[int]uint64) // what the worker last saw in each register
	for ctx.Err() == nil {
		s, err := c.login(ctx)
		if err != nil {
			wait(ctx, reconnectPause)
			continue
		}
		ended := context.AfterFunc(ctx, func() { s.Close() })
		for ctx.Err() == nil {
			seq++
			if !c.command(s, worker, seq, known) {
				break
			}
			wait(ctx, historyPause)
		}
		if ended() {
			s.Close()
		}
	}
}

// wait is a pause that ends with ctx.
func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// command carries out one command of chance, and says whether the session is of further use.
func (c *contention) command(s *initiator.Session, worker int, seq uint64, known map[int]uint64) bool {
	r := c.history.choose()
	in := input{kind: kind(rand.IntN(3)), old: known[r], new: uint64(worker+1)<<40 | seq}
	lba := c.first + uint64(r)
	buf := make([]byte, c.blockBytes)
	t := initiator.Task{LUN: c.lun}
	switch in.kind {
	case reads:
		t.SetRead(lba, 1, buf)
	case writes:
		paint(buf, in.new)
		t.SetWrite(lba, 1, buf)
	case compares:
		buf = make([]byte, 2*c.blockBytes)
		paint(buf[:c.blockBytes], in.old)
		paint(buf[c.blockBytes:], in.new)
		t.SetCompareAndWrite(lba, 1, buf)
	}
	call := c.history.now()
	var out output
	alive := true
	for {
		err := s.Do(&t)
		var status *initiator.StatusError
		switch {
		case err == nil:
			out.matched = true
		case !errors.As(err, &status):
			out.unknown, alive = true, false
		case status.Key()>>16 == 0xe:
			out.matched = false
		case notBegun(status):
			continue
		default:
			out.unknown = true
		}
		break
	}
	if in.kind == reads && !out.unknown {
		var err error
		if out.value, err = unpaint(buf); err != nil {
			c.history.fail(fmt.Errorf("register %d: %w", r, err))
		}
		known[r] = out.value
	}
	c.history.note(worker, r, call, in, out)
	return alive
}

// notBegun says whether a command was turned away without effect, and is to be repeated: BUSY, TASK SET FULL, UNIT
// ATTENTION.
func notBegun(s *initiator.StatusError) bool {
	const busy, taskSetFull, unitAttention, becomingReady = 0x08, 0x28, 0x6, 0x020401
	return s.Status == busy || s.Status == taskSetFull || s.Key()>>16 == unitAttention || s.Key() == becomingReady
}

// paint fills a block with a value.
func paint(b []byte, value uint64) {
	for at := 0; at < len(b); at += 8 {
		binary.LittleEndian.PutUint64(b[at:], value)
	}
}

// unpaint reads a painted block.
func unpaint(b []byte) (uint64, error) {
	value := binary.LittleEndian.Uint64(b)
	for at := 8; at < len(b); at += 8 {
		if v := binary.LittleEndian.Uint64(b[at:]); v != value {
			return 0, fmt.Errorf("the block is torn: it has %d at its beginning and %d at byte %d", value, v, at)
		}
	}
	return value, nil
}

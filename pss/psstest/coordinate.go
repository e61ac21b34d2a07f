package psstest

import (
	"fmt"

	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
	"github.com/paxos-iscsi/paxos-iscsi/pss/state"
	"github.com/paxos-iscsi/paxos-iscsi/pss/wire"
)

// coordinator has the locks, queues and events of the cell in a state machine of its own, which no block data
// ever reaches. Whether an operation comes twice is decided before.
type coordinator struct {
	machine *state.Machine
	index   uint64
	seq     map[uint64]uint64
}

// noStore stands for the store: calling it is a mistake.
type noStore struct{ state.Store }

// apply has an operation executed and returns the sessions it wakes.
func (c *coordinator) apply(h op.Header, args, payload []byte) (op.Result, []uint64) {
	if c.machine == nil {
		c.machine, c.seq = state.New(noStore{}), map[uint64]uint64{}
	}
	c.index++
	if h.Code != op.SessionOpen && h.Code != op.SessionExpire {
		c.seq[h.Session]++
		h.Seq = c.seq[h.Session]
		h.Acked = h.Seq
	}
	r, err := c.machine.Apply(c.index, append(op.Head(nil, &h, args, len(payload)), payload...))
	if err != nil {
		panic(fmt.Sprintf("psstest: %v", err))
	}
	return r, c.machine.Woken()
}

func (c *coordinator) query(q op.Query) op.Answer {
	if c.machine == nil {
		return op.Answer{Errno: op.NotFound}
	}
	a, err := c.machine.Query(q)
	if err != nil {
		panic(fmt.Sprintf("psstest: %v", err))
	}
	return a
}

// wake tells clients at the master to ask again. The cell is locked.
func (f *Cell) wake(r op.Result, sessions []uint64) op.Result {
	if f.master == wire.None {
		return r
	}
	for _, id := range sessions {
		for k := range f.servers[f.master].conns {
			if k.session == id && k.s.paused == nil {
				f.wg.Go(func() { k.send(func(w *wire.Writer) error { return w.Wake(id) }) })
			}
		}
	}
	return r
}

// end ends a session. The cell is locked.
func (f *Cell) end(id uint64) {
	delete(f.Sessions, id)
	f.Ended[id] = true
	f.wake(f.coord.apply(op.Header{Code: op.SessionExpire}, op.AppendExpiry(nil, op.Expiry{Session: id, Epoch: 1}), nil))
}

// Expire ends all sessions, as if their clients had not been heard of for long.
func (f *Cell) Expire() {
	f.Lock()
	defer f.Unlock()
	for id := range f.Sessions {
		f.end(id)
	}
}

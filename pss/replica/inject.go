package replica

import (
	"context"
	"encoding/json"
	"sync/atomic"

	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
)

// cuts are the servers to which this one's messages of the agreement are lost, since somebody tests what the cell
// makes of that. Their connections stay: a message that is not sent is all that such a test needs.
type cuts struct{ ids atomic.Uint32 } // a bit each

func (c *cuts) has(id cell.ID) bool { return c.ids.Load()&(1<<id) != 0 }

func (c *cuts) set(id cell.ID, cut bool) {
	if cut {
		c.ids.Or(1 << id)
	} else {
		c.ids.And(^uint32(1 << id))
	}
}

// adminInject cuts or restores the way to another server. A server that serves data refuses.
func adminInject(_ context.Context, r *Replica, args json.RawMessage, _ func(any) error) (any, error) {
	var a admin.InjectArgs
	if err := adminArgs(args, &a); err != nil {
		return nil, err
	}
	switch {
	case !r.opts.Inject:
		return nil, admin.Errorf(admin.Refused, "server %d runs without --debug, and injects no faults", r.opts.ID)
	case a.To == r.opts.ID || r.peer(a.To) == nil:
		return nil, admin.Errorf(admin.BadArguments, "server %d sends no messages to server %d", r.opts.ID, a.To)
	}
	r.cut.set(a.To, a.Cut)
	r.opts.Logger.Warn("a fault is injected", "to", a.To, "cut", a.Cut)
	return nil, nil
}

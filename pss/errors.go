package pss

import (
	"errors"
	"fmt"
	"strings"

	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
	"github.com/paxos-iscsi/paxos-iscsi/pss/wire"
)

// What the cell answers, for errors.Is. All op.Errno may come; these are those a caller decides by.
const (
	ErrNotFound   = op.NotFound
	ErrExists     = op.Exists
	ErrFenced     = op.Fenced      // somebody else opened the volume since
	ErrMiscompare = op.Miscompare  // Request.Miscompare says where
	ErrNoSpace    = op.NoSpace     // the write has no effect; reads go on
	ErrDamaged    = op.ReadDamaged // no server has the data undamaged
	ErrMoved      = op.Moved       // the volume is shared and its token moved on: Volume.Renew, decide anew, retry
	ErrVersion    = op.Conflict    // the attribute was changed since
	ErrOutOfRange = op.OutOfRange
	ErrKind       = op.Kind // a volume where a file was wanted, or the reverse
)

// What goes wrong on this side.
var (
	// ErrUnreachable: no connection to the master, or to any server.
	ErrUnreachable = errors.New("no server of the cell answers")
	// ErrNoMaster: servers answer, but they have not agreed on a master.
	ErrNoMaster = errors.New("the cell has no majority")
	// ErrTimeout: the request was given up. If it was a write, it may have taken effect; if it has
	// not, it never will.
	ErrTimeout = errors.New("the cell did not answer in time")
	// ErrSessionLost: the cell forgot the session; an operation that was sent before may or may not
	// have taken effect.
	ErrSessionLost = errors.New("the cell lost the session")
	// ErrClosed: the Cell or Volume was closed.
	ErrClosed = errors.New("closed")
	// ErrQueueFull: Options.MaxQueued requests are waiting.
	ErrQueueFull = errors.New("too many requests are waiting")
)

// waitError says why a caller's wait ended without an answer. c.mu is held.
func (c *Cell) waitError(cause error) error {
	if c.refusal != nil {
		return fmt.Errorf("%w: %w", c.refusal, cause)
	}
	if c.active != nil {
		return fmt.Errorf("the master, server %d, has not answered: %w", c.active.peer.server.ID, cause)
	}
	var lost []string
	for _, p := range c.peers {
		if p.conn == nil && p.err != nil {
			lost = append(lost, fmt.Sprintf("server %d: %v", p.server.ID, p.err))
		}
	}
	why := strings.Join(lost, "; ")
	switch best, p := c.master(); {
	case c.connected() == 0:
		return fmt.Errorf("%w (%s): %w", ErrUnreachable, why, cause)
	case best.Master != wire.None && p != nil && p.conn == nil:
		return fmt.Errorf("%w that is master (%s): %w", ErrUnreachable, why, cause)
	case why != "":
		return fmt.Errorf("%w (%s): %w", ErrNoMaster, why, cause)
	}
	return fmt.Errorf("%w: %w", ErrNoMaster, cause)
}

func (c *Cell) connected() (n int) {
	for _, p := range c.peers {
		if p.conn != nil {
			n++
		}
	}
	return n
}

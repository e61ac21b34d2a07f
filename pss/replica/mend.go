package replica

import (
	"errors"
	"fmt"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/log"
	"github.com/paxos-iscsi/paxos-iscsi/pss/state"
	"github.com/paxos-iscsi/paxos-iscsi/pss/store"
)

// Damage on this server's disk. Whoever meets it asks for the chunk to be repaired: a client's read, applying an
// entry that changes a part of a block, another server that catches up from here, the scrub. The damaged blocks
// are fetched from another server, proven to be those that were lost (store.Mend), and go into the overlay, where
// every reader finds them at once; the checkpoint that follows soon mends the disk.
//
// Whether an entry can be applied must not depend on one server's disk. So applying waits at an entry that meets
// damage, while this server goes on to append, acknowledge and vote. If every other server tells that it has
// the block only in a later state, this server's state can't be carried on, and it ends with a HealError. So it does where
// another one's later state of the block is damaged, too: whatever becomes of that, it is not the block that is missed
// here, and two servers that both miss a block would wait for each other. That other one may be the next to end, though,
// so there a core server ends only if the cell can do without both (CanEnd).
//
// Nor must a client's read. A master that could not have a block repaired hands over, for the others answer from disks
// of their own; its clients ask the new master.

const (
	// repairRetry is how long after a failed repair applying asks for it again.
	repairRetry = time.Second
	// hurtPatience is how long a master may wait for a repair before another server should be master.
	hurtPatience = 2 * time.Second
	// mendPause is how long after the beginning of one checkpoint the next one may begin if it is only to mend
	// the disk.
	mendPause = time.Second
)

// ErrNoCopy reports that a damaged block could not be had from any other server now.
var ErrNoCopy = errors.New("no other server could give the block")

// ErrGoneEverywhere reports that every other server answered, and has a damaged block in a later state only.
var ErrGoneEverywhere = errors.New("all other servers have the block in a later state only")

// HealError ends a server whose own state can't be relied upon or carried on. Err says what is wrong, and in
// which file. It must not vote or acknowledge with that state any more: it has to give it up and come back with a
// state from the others.
type HealError struct{ Err error }

// Error says what is wrong, and what has to be done.
func (e *HealError) Error() string {
	return "this server's state has to be given up and fetched anew from the others: " + e.Err.Error()
}

// Unwrap gives what is wrong.
func (e *HealError) Unwrap() error { return e.Err }

// Repair names a block that applying needs and that is damaged here.
type Repair struct {
	ChunkRef
	Block int // in the chunk
}

// damagedAt is where damage is.
func damagedAt(d *store.DamageError) Repair {
	ref := ChunkRef{Object: d.Object, Chunk: uint32(d.Block / store.BlocksPerChunk)}
	return Repair{ref, int(d.Block % store.BlocksPerChunk)}
}

// needsHealing makes an error about damage to the log or the store a HealError.
func needsHealing(err error) error {
	var heal *HealError
	var inLog *log.DamageError
	var inStore *store.DamageError
	if errors.As(err, &heal) {
		return err
	}
	if errors.As(err, &inLog) || errors.As(err, &inStore) {
		return &HealError{err}
	}
	return err
}

// hurt is damage that applying waits for.
type hurt struct {
	at    Repair
	entry uint64 // the entry that could not be applied; 0: none
	wait  bool   // for its repair
	since time.Duration
	askAt time.Duration
}

// noteDamage has applying wait for a repair if err is about damage.
func (c *Core) noteDamage(entry uint64, err error, out *Output) bool {
	var damage *store.DamageError
	if !errors.As(err, &damage) {
		return false
	}
	c.logger.Warn("applying waits for the repair of a damaged block", "entry", entry, "damage", damage)
	c.hurt = hurt{at: damagedAt(damage), entry: entry, wait: true, since: c.now, askAt: c.now}
	c.isHurt(out)
	return true
}

// isHurt says whether applying has to wait for a repair, and asks for it when it is time to.
func (c *Core) isHurt(out *Output) bool {
	h := &c.hurt
	if h.wait && c.now >= h.askAt {
		h.askAt = c.now + time.Hour // Repaired brings it forward
		at := h.at
		out.Repair = &at
	}
	return h.wait
}

// Mend takes blocks of a chunk that are damaged here from the image of the chunk at another server, as far as they
// are proven to be the same, and returns those of bad that need nothing more.
func (c *Core) Mend(img *store.Image, bad *store.Blocks) (store.Blocks, error) {
	done, err := c.store.Mend(img, bad)
	c.mended = c.mended || done.Len() > 0
	return done, err
}

// Replace takes blocks that a majority of servers found to be wrong here from the image of the chunk at one of them,
// and returns those that it took.
func (c *Core) Replace(img *store.Image, want *store.Blocks) (store.Blocks, error) {
	done, err := c.store.Replace(img, want)
	c.mended = c.mended || done.Len() > 0
	return done, err
}

// Mended tells that the chunk files differ from what readers find: a checkpoint is to be made soon.
func (c *Core) Mended() { c.mended = true }

// Repaired tells how the repair that Output.Repair asked for ended.
func (c *Core) Repaired(at Repair, err error) error {
	h := &c.hurt
	switch {
	case !h.wait || h.at != at:
	case err == nil:
		h.wait = false
	case errors.Is(err, ErrGoneEverywhere):
		return &HealError{fmt.Errorf("entry %d can't be applied: block %d in chunk %d of object %d: %w",
			h.entry, at.Block, at.Chunk, at.Object, err)}
	default:
		h.askAt = c.now + repairRetry
	}
	return nil
}

// IsBeyond says that another server has blocks of a chunk in a later state only than one that changed the chunk last at
// the index here, going by the records in the image of the chunk there.
func IsBeyond(img *store.Image, blocks *store.Blocks, here uint64) bool {
	for i := range img.Records {
		if blocks.Has(i) && img.Records[i].Index <= here {
			return false
		}
	}
	return true
}

// NoHelp says whether a server with id self has nothing to expect any more, for a block that it misses, of another one that
// is ahead of its state, or whose copy of the block is damaged. A damaged copy may be whole again later, in the state that it
// is of, so a core server waits for it unless that is beyond its own (IsBeyond); but a replica that ends costs the cell
// nothing, and two replicas would wait for each other where one of them has lost the records, too.
func NoHelp(self cell.ID, ahead, damaged bool) bool { return ahead || damaged && !self.Core() }

// CanEnd says whether the cell bears that this server ends for want of a block, and so many core servers after it that
// miss the same block.
func (c *Core) CanEnd(after int) bool { return canEnd(c.cfg.ID, len(c.node.Members().Voters), after) }

func canEnd(id cell.ID, voters, after int) bool {
	return after == 0 || !id.Core() || voters-(1+after) > voters/2
}

// Unreadable tells that a block which a client asks for is damaged and could not be repaired. It reports whether the
// read is to be asked again (Ask): another server is master, or can be.
func (c *Core) Unreadable() bool {
	c.unread = c.now
	return !c.view.Self || c.another
}

// CheckMeta says whether a server can start from what a checkpoint keeps besides blocks.
func CheckMeta(at store.Position) error {
	if at.Index == 0 {
		return nil
	}
	_, _, machine, err := decodeMeta(at.Meta)
	if err != nil {
		return err
	}
	return state.New(nil).Restore(machine)
}

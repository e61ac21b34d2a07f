package replica

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/agreement"
	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
	"github.com/paxos-iscsi/paxos-iscsi/pss/log"
	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
	"go.etcd.io/raft/v3/raftpb"
)

// Full disks. Each server has its own, and whether an operation succeeds must be the same on all. So operations
// that take space are refused by the master before they are proposed, when too few disks have room; what was
// agreed is applied by everyone, and a reserve that no new operation may use keeps room for the checkpoints of it.
//
//   - Below the reserve a server is low: it tells the master so with every heartbeat it takes. A master that is low
//     hands over to a server that is not. When no majority has room, operations that take space are answered with
//     op.NoSpace; all others, those that free space above all, go on.
//   - Below half of the reserve a server takes no entries of such operations any more. It lags, keeps its promises,
//     and is fed again when it has room: from the log, or with the difference. What takes no space it takes as before:
//     else a cell that is full everywhere could neither get a new master nor be told to delete something.
//   - A write that the disk refuses in spite of this is tried again until there is room: a checkpoint, an append,
//     an installation. Nothing is acknowledged before it succeeded.

// spaceLevel is how much room a server's disk has.
type spaceLevel uint8

const (
	spaceGood spaceLevel = iota
	spaceLow             // below the reserve
	spaceNone            // below half of it
)

var spaceNames = [...]string{"good", "low", "none"}

func (l spaceLevel) String() string { return spaceNames[l] }

const (
	// spaceRetry is how often a write that the disk had no room for is tried again.
	spaceRetry = 250 * time.Millisecond
	// spaceEvery is how often the room on the disk is looked at.
	spaceEvery = 500 * time.Millisecond
	// surveyEvery is how often a master looks at what the others told of their disks.
	surveyEvery = 100 * time.Millisecond
	// handOverEvery is how often a master with a bad disk offers its mastership to another server.
	handOverEvery = 5 * time.Second
	// reservedPart of a disk is the reserve at most: one over so much.
	reservedPart = 20
)

// reserve is the room that checkpoints of what was agreed may need: two overlays in the chunk files, and
// `prepared`, a few segments of log and the bodies that are kept ready beside them; twice that, since only half of it is left when entries are
// taken no more. Small disks keep a part of their size instead; when that does not suffice, writes are tried again.
func reserve(o *Options, total int64) int64 {
	return min(2*(3*o.OverlayBytes+3*o.SegmentBytes+maxBodies*log.BodyBytes), total/reservedPart)
}

// Space tells how many bytes the disk has room for, and how many are reserved.
func (c *Core) Space(free, reserved int64) {
	level := c.space
	switch margin := reserved / 8; { // coming back takes a little more than going down
	case free < reserved/2, level == spaceNone && free < reserved/2+margin:
		level = spaceNone
	case free < reserved, level >= spaceLow && free < reserved+margin:
		level = spaceLow
	default:
		level = spaceGood
	}
	if level != c.space {
		c.logger.Warn("room on the disk", "now", level, "was", c.space, "free", free, "reserved", reserved)
	}
	c.space = level
	var told agreement.Condition
	if level != spaceGood {
		told = agreement.Full
	}
	c.node.SetCondition(told)
}

// survey has a master look at the disks of all core servers: whether the cell has room, and whether another server
// should be master.
func (c *Core) survey() {
	if c.now < c.surveyAt {
		return
	}
	c.surveyAt = c.now + surveyEvery
	c.cellFull, c.another = false, false
	if !c.view.Self {
		return
	}
	all := c.node.Progress(c.progress[:0])
	if len(all) == 0 {
		return // it has just ceased to be master, which observe will see to
	}
	voters, full := 0, 0
	var best agreement.Progress
	found := false
	c.compareDigests(all)
	for _, p := range all {
		if !p.Voter {
			continue
		}
		voters++
		if p.Condition&agreement.Full != 0 {
			full++
			continue
		}
		if p.ID != c.cfg.ID && p.Active && !p.Lagging && (!found || p.Match > best.Match) {
			best, found = p, true
		}
	}
	c.cellFull, c.another = voters-full < voters/2+1, voters > 1
	why := ""
	switch {
	case c.hangs():
		why = "its disk does not answer"
	case c.space != spaceGood && !c.cellFull:
		why = "its disk is full"
	case c.hurt.wait && c.now-c.hurt.since > hurtPatience:
		why = "damage keeps it from going on"
	case c.unread != 0 && c.now-c.unread < hurtPatience:
		why = "damage keeps it from answering a read"
	}
	if !c.hangs() {
		c.hungIn = 0
	}
	if found && c.abdicates() {
		c.hungIn = 0
		c.node.Abdicate("the disk does not answer, so that no other server can be brought up to date")
		return
	}
	if why == "" || !found || c.now < c.handOverAt {
		return
	}
	if c.hangs() && c.hungIn != c.view.Term {
		c.hungIn, c.hungAt = c.view.Term, c.now
	}
	c.handOverAt = c.now + handOverEvery
	c.logger.Warn("the mastership is handed over", "to", best.ID, "because", why)
	c.HandOver(best.ID)
}

// refuseSpace answers the operations in the queue that take space, while the cell has none. It reports false when
// the queue has to wait: before this master has applied all of earlier terms it can't tell which of them took
// effect already and only ask for their result. Nor may an operation be refused before the opening of its connection is
// applied: what was sent on the connection before may be under way, and take effect. Until then it is agreed on; the
// reserve has room for that.
func (c *Core) refuseSpace(out *Output) bool {
	if !c.cellFull {
		return true
	}
	if !c.ready {
		return false
	}
	keep := c.queue[:0]
	for _, p := range c.queue {
		o, err := op.Parse(p.Op)
		if err == nil && takesSpace(o.Code) && c.machine.Refusable(o.Session, o.Epoch, o.Seq) {
			out.Replies = append(out.Replies, Reply{Origin: p.Origin, Bytes: len(p.Op), Result: op.Result{Errno: op.NoSpace}})
			continue
		}
		keep = append(keep, p)
	}
	clear(c.queue[len(keep):])
	c.queue = keep
	return true
}

// takesSpace says whether an operation may need space that was free before.
func takesSpace(c op.Code) bool {
	switch c {
	case op.Write, op.CompareAndWrite, op.WriteZeroes, op.CreateFile, op.Mkdir, op.VolumeCreate, op.VolumeGrow:
		return true
	}
	return false
}

// takes says whether a server without room takes a message, and cuts off the entries that it does not take: from the
// first one on that takes space, for entries come in their order.
func (c *Core) takes(m *raftpb.Message) bool {
	switch {
	case m.Type == raftpb.MsgSnap:
		return false
	case m.Type != raftpb.MsgApp || len(m.Entries) == 0:
		return true
	}
	first := slices.IndexFunc(m.Entries, func(e raftpb.Entry) bool {
		if e.Type != raftpb.EntryNormal || len(e.Data) == 0 {
			return false
		}
		o, err := op.Parse(e.Data)
		return err != nil || takesSpace(o.Code)
	})
	if first > 0 {
		m.Entries = m.Entries[:first]
	}
	return first != 0
}

// NoRoom says whether a server ended, or did not start, for want of nothing but room on its disk: AwaitRoom.
func NoRoom(err error) bool { return noRoom(err) && !Heals(err) }

// roomRetry is after how long a server that had no room is tried again, though no more of it has been seen.
const roomRetry = 5 * time.Second

// AwaitRoom waits until a root that had no room has more than now, or until it is worth trying again anyway. It returns
// the context's error when that ends before.
func AwaitRoom(ctx context.Context, o Options) error {
	root := o.Disk
	if root == nil {
		var err error
		if root, err = disk.Dir(o.Root); err != nil {
			return err
		}
	}
	spacer, ok := root.(disk.Spacer)
	had := int64(-1)
	for waited := time.Duration(0); waited < roomRetry; waited += spaceEvery {
		if ok {
			free, _, err := spacer.Space()
			if err != nil {
				return fmt.Errorf("the room on the disk: %w", err)
			}
			if had >= 0 && free > had {
				return nil
			}
			had = free // it may become less
		}
		if !sleep(ctx, spaceEvery) {
			return ctx.Err()
		}
	}
	return nil
}

// noRoom says whether a write failed for nothing but a full disk, so that it can be tried again.
func noRoom(err error) bool { return errors.Is(err, disk.ErrNoSpace) }

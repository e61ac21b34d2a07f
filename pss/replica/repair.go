package replica

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
	"github.com/paxos-iscsi/paxos-iscsi/pss/store"
	"github.com/paxos-iscsi/paxos-iscsi/pss/wire"
)

// Named limits of repairing.
const (
	maxRepairs    = 1024                   // chunks waiting for their repair; further ones are refused
	repairWorkers = 4                      // chunks being repaired at the same time
	repairRounds  = 3                      // times all other servers are asked
	repairPause   = 200 * time.Millisecond // between two rounds: others may be about to apply what they lack
	repairTimeout = 2 * time.Second        // for one answer of another server
	readAttempts  = 4                      // times a client's read meets damage, each after a repair, before it fails
	passOnWait    = 3 * time.Second        // a read of what was not repaired waits for another master
)

// errRepairs reports that maxRepairs chunks wait already.
var errRepairs = fmt.Errorf("more than %d chunks are waiting to be repaired", maxRepairs)

// repairs has damaged chunks repaired from other servers: each once, however many ask for it, and beside all
// other work.
type repairs struct {
	r     *Replica
	queue chan ChunkRef // never more than jobs has

	mu   sync.Mutex
	jobs map[ChunkRef][]repairWaiter // who waits for a chunk's repair

	found, repaired, failed, failedReads atomic.Uint64
}

// repairWaiter waits for the repair of a block of a chunk.
type repairWaiter struct {
	block int
	done  func(error)
}

func newRepairs(r *Replica) *repairs {
	return &repairs{r: r, queue: make(chan ChunkRef, maxRepairs), jobs: make(map[ChunkRef][]repairWaiter)}
}

func (q *repairs) start() {
	for range repairWorkers {
		q.r.tasks.Go(q.run)
	}
}

// stats returns the counts.
func (q *repairs) stats() admin.Repairs {
	return admin.Repairs{Found: q.found.Load(), Repaired: q.repaired.Load(), Failed: q.failed.Load(),
		FailedReads: q.failedReads.Load()}
}

// request asks for the repair of the chunk that a block is in; done, unless nil, is called with what came of the
// block, by another goroutine. It never waits. It reports false when too many are waiting; then done is not called.
func (q *repairs) request(at Repair, done func(error)) bool {
	ref := at.ChunkRef
	q.mu.Lock()
	defer q.mu.Unlock()
	waiting, known := q.jobs[ref]
	if !known && len(q.jobs) >= maxRepairs {
		return false
	}
	if done != nil {
		waiting = append(waiting, repairWaiter{at.Block, done})
	}
	q.jobs[ref] = waiting
	if !known {
		q.queue <- ref // there is room: it holds no more than jobs
	}
	return true
}

// forApply asks for a repair that applying waits for. The caller holds the Replica's lock.
func (q *repairs) forApply(at Repair) {
	finish := func(err error) {
		q.r.drive(func(time.Duration) error { return q.r.core.Repaired(at, err) })
	}
	if !q.request(at, finish) {
		q.r.tasks.Go(func() { finish(errRepairs) })
	}
}

// run repairs chunks until the server ends.
func (q *repairs) run() {
	buf := make([]byte, store.VerifyBuffer)
	for {
		select {
		case <-q.r.ctx.Done():
			return
		case ref := <-q.queue:
			var bad store.Blocks
			err := q.repair(ref, &bad, buf)
			if err != nil && q.r.ctx.Err() == nil {
				q.failed.Add(1)
				q.r.logger.Error("damage was not repaired", "object", ref.Object, "chunk", ref.Chunk, "error", err)
			}
			q.mu.Lock()
			waiting := q.jobs[ref]
			delete(q.jobs, ref)
			q.mu.Unlock()
			for _, w := range waiting {
				if err != nil && bad.Len() > 0 && !bad.Has(w.block) { // it is others that are damaged still
					w.done(nil)
				} else {
					w.done(err)
				}
			}
		}
	}
}

// repair finds the damaged blocks of a chunk and takes them from other servers. bad is what is left of them.
func (q *repairs) repair(ref ChunkRef, bad *store.Blocks, buf []byte) (err error) {
	var first *store.DamageError
	*bad, _, first, err = q.r.store.Verify(store.Newest, ref.Object, ref.Chunk, buf)
	if errors.Is(err, store.ErrNoObject) {
		return nil
	}
	if err != nil {
		return err
	}
	if bad.Len() == 0 {
		// What was met is overwritten in memory. The checkpoint, which others catch up from, has it still.
		q.r.drive(func(time.Duration) error { q.r.core.Mended(); return nil })
		return nil
	}
	count := bad.Len()
	q.found.Add(uint64(count))
	q.r.logger.Warn("damage found", "object", ref.Object, "chunk", ref.Chunk, "blocks", count, "first", first)
	gone := errors.New("never asked")
	for round := range repairRounds {
		if round > 0 && !q.r.wait(repairPause) {
			return q.r.ctx.Err()
		}
		if gone = q.askAll(ref, bad); bad.Len() == 0 {
			q.r.logger.Info("damage repaired", "object", ref.Object, "chunk", ref.Chunk, "blocks", count)
			return nil
		}
	}
	return fmt.Errorf("%d of %d damaged blocks: %w", bad.Len(), count, gone)
}

// sources lists the other servers, replicas first: they have the time.
func (q *repairs) sources() []cell.ID {
	var ids []cell.ID
	for _, s := range q.r.known() {
		ids = append(ids, s.ID)
	}
	slices.SortFunc(ids, func(a, b cell.ID) int { return int(b) - int(a) })
	return ids
}

// askAll asks the other servers one after the other for the blocks in bad, and takes those out that are repaired.
// If blocks are left it says why: ErrNoCopy, or ErrGoneEverywhere if all were asked and none has them any more.
func (q *repairs) askAll(ref ChunkRef, bad *store.Blocks) error {
	ahead, damaged := 0, 0
	ids := q.sources()
	for _, id := range ids {
		isAhead, isDamaged, err := q.ask(id, ref, bad)
		if err != nil {
			q.r.logger.Info("a server can't help with a repair", "server", id, "error", err)
		}
		if bad.Len() == 0 {
			return nil
		}
		if NoHelp(q.r.opts.ID, isAhead, isDamaged) {
			ahead++
		}
		if isDamaged && id.Core() {
			damaged++
		}
	}
	gone := len(ids) > 0 && ahead == len(ids)
	if gone {
		q.r.drive(func(time.Duration) error { gone = q.r.core.CanEnd(damaged); return nil })
	}
	if gone {
		return ErrGoneEverywhere
	}
	return ErrNoCopy
}

// ask takes what it can from one server, as it is now or as its checkpoint was. ahead says that it has gone beyond
// this server's state of the chunk, damaged that its own copy of the blocks is damaged.
func (q *repairs) ask(id cell.ID, ref ChunkRef, bad *store.Blocks) (ahead, damaged bool, err error) {
	conn, err := q.r.dial(id)
	if err != nil {
		return false, false, err
	}
	defer conn.Close()
	defer q.r.closeWith(conn)()
	src := newRemoteSource(conn, repairTimeout)
	var img store.Image
	for _, view := range [...]uint16{fetchNewest, fetchCheckpoint} {
		err := src.image(view, ref, bad, &img)
		if errors.Is(err, errDamagedThere) && view == fetchNewest {
			damaged = true
			err = src.image(view, ref, new(store.Blocks), &img) // the records are whole, it may be
		}
		if errors.Is(err, ErrMoved) { // the object was deleted there, or is not in its checkpoint
			ahead = ahead || view == fetchNewest
			continue
		}
		if errors.Is(err, errDamagedThere) {
			continue
		}
		if err != nil {
			return ahead, damaged, err
		}
		q.r.drive(func(time.Duration) error {
			have, err := q.r.core.Mend(&img, bad)
			if errors.Is(err, store.ErrNoObject) { // deleted meanwhile: nobody misses it
				*bad = store.Blocks{}
				return nil
			}
			if err != nil {
				return err
			}
			q.repaired.Add(uint64(have.Len()))
			bad.Remove(&have)
			if here, err := q.r.store.LastChange(ref.Object, ref.Chunk); err == nil && view == fetchNewest {
				ahead = img.Index > here && (!damaged || IsBeyond(&img, bad, here))
			}
			return nil
		})
		if bad.Len() == 0 || q.r.ctx.Err() != nil {
			break
		}
	}
	return ahead, damaged, nil
}

// damagedRead is a client's read that waits for a repair.
type damagedRead struct {
	c     *client
	tag   uint64
	q     wire.Read
	since time.Duration // when the client asked
	seen  int           // damage met so far
}

// repairRead has the damage that a read met repaired, and the read repeated.
func (c *client) repairRead(d *damagedRead, damage *store.DamageError) {
	c.count(1, int(d.q.Length))
	if d.seen++; d.seen > readAttempts || !c.r.repairs.request(damagedAt(damage), d.again) {
		d.finish(op.ReadDamaged, damage)
	}
}

// again repeats the read after a repair that ended with err.
func (d *damagedRead) again(err error) {
	if err != nil {
		d.passOn(err)
		return
	}
	d.c.r.tasks.Go(func() {
		d.c.readOnce(d.tag, d.q, d.since, d)
		d.c.count(-1, -int(d.q.Length))
		d.c.out.signal()
	})
}

// passOn sees to a read of a block that was not repaired. If another server can be master, this one hands over, and
// the client is told so as soon as that is done; if that takes too long this server tries again to have it repaired.
func (d *damagedRead) passOn(because error) {
	r := d.c.r
	another := false
	r.drive(func(time.Duration) error { another = r.core.Unreadable(); return nil })
	if !another || r.now()-d.since > passOnWait {
		d.finish(op.ReadDamaged, because)
		return
	}
	d.seen = 0 // as often it may meet damage at the next try
	r.tasks.Go(func() {
		if !r.wait(repairPause) {
			return
		}
		r.drive(func(now time.Duration) error {
			r.core.Ask(now, Read{Origin: Origin{Client: &pendingRead{d.c, d.q, d}, Tag: d.tag, Since: d.since}})
			return nil
		})
	})
}

// finish answers the read with an error.
func (d *damagedRead) finish(errno op.Errno, err error) {
	if d.c.r.ctx.Err() == nil {
		d.c.r.repairs.failedReads.Add(1)
		d.c.r.logger.Error("read refused", "object", d.q.Object, "offset", d.q.Offset, "bytes", d.q.Length, "error", err)
	}
	d.c.out.end(d.c.out.begin().ReadReply(d.tag, errno, nil, nil))
	d.c.count(-1, -int(d.q.Length))
	d.c.out.signal()
}

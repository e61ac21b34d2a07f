package replica

import (
	"fmt"
	"sync"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/agreement"
	"github.com/paxos-iscsi/paxos-iscsi/pss/log"
)

// appendQueue carries out appends to the durable log, in order. Whatever waits when the disk is free is
// written and synced as one: the more clients, the fewer syncs for each. One goroutine at a time does it:
// the queue's own, or one that has nothing else to do meanwhile (workOnce). Agreement bounds what can wait
// (agreement.MaxUncommittedBytes and the in-flight windows).
type appendQueue struct {
	r    *Replica
	wake chan struct{} // one token: something waits

	mu      sync.Mutex
	waiting []agreement.Append
	working bool
	closed  bool

	// Of whoever is working.
	batch  []agreement.Append
	writer LogWriter
}

func newAppendQueue(r *Replica) *appendQueue {
	return &appendQueue{r: r, wake: make(chan struct{}, 1)}
}

// add queues appends; wake says that the queue's own goroutine shall see to them, else the caller calls
// workOnce.
func (q *appendQueue) add(as []agreement.Append, wake bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = append(q.waiting, as...)
	if !wake || q.closed || len(q.waiting) == 0 {
		return
	}
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *appendQueue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.closed {
		q.closed = true
		close(q.wake)
	}
}

func (q *appendQueue) run() {
	for range q.wake {
		for q.work() {
		}
	}
}

// work carries out what waits now, unless another goroutine is at it, which then sees to it. It reports
// whether more has come meanwhile, which is for the queue's own goroutine.
func (q *appendQueue) work() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.working || len(q.waiting) == 0 || q.closed {
		return false
	}
	q.working = true
	q.batch, q.waiting = q.waiting, q.batch[:0]
	q.mu.Unlock()
	err := q.carryOut()
	q.mu.Lock()
	if err != nil {
		return false // and working stays set: nothing is written any more
	}
	q.working = false
	return len(q.waiting) > 0
}

// workOnce is work for a goroutine that has another task: what has come meanwhile it leaves to the queue's
// own.
func (q *appendQueue) workOnce() {
	if q.work() {
		q.add(nil, true)
	}
}

// carryOut writes a batch, syncs it, and tells the Core.
func (q *appendQueue) carryOut() error {
	err := q.writer.Write(q.r.log, q.batch)
	for tries := 0; noRoom(err); tries++ {
		if tries == 0 {
			q.r.logger.Error("the log waits for room on the disk", "error", err)
		}
		if !q.r.wait(spaceRetry) {
			return err
		}
		err = q.writer.Write(q.r.log, q.batch)
	}
	if err == nil {
		err = q.writer.Finish(q.r.log, q.batch)
	}
	if err != nil {
		// After a failed write or sync the state of the disk is unknown; only a restart finds out.
		q.r.failed(fmt.Errorf("durable log: %w", err))
		return err
	}
	q.r.upkeep.prepare()
	q.r.drive(func(now time.Duration) error {
		for i := range q.batch {
			if err := q.r.core.Appended(now, &q.batch[i]); err != nil {
				return err
			}
		}
		return nil
	})
	clear(q.batch)
	return nil
}

// LogWriter turns appends into as few writes as their order allows, and at most one sync.
type LogWriter struct {
	entries []log.Entry    // to be written, of the appends before next
	state   *log.HardState // to be written with them
	dirty   bool           // something was written since the last sync

	next      int  // the append of the batch to go on with
	installed bool // its snapshot is on disk, and the log is to be restarted behind it
}

// Write writes a batch of appends to the log. They are not durable before Finish. After an error that is
// disk.ErrNoSpace it is called again with the same batch, and goes on where there was no room.
func (w *LogWriter) Write(l *log.Log, batch []agreement.Append) error {
	for ; w.next < len(batch); w.next++ {
		a := &batch[w.next]
		if n := len(w.entries); n > 0 && len(a.Entries) > 0 && a.Entries[0].Index != w.entries[n-1].Index+1 {
			if err := w.put(l); err != nil { // these replace some of those before
				return err
			}
		}
		if a.Snapshot != nil {
			if err := w.restart(l, a); err != nil {
				return err
			}
		}
		if a.State != nil {
			w.state = a.State
		}
		for _, e := range a.Entries {
			e.Home = homeOf(e.Data)
			w.entries = append(w.entries, e)
		}
	}
	if err := w.put(l); err != nil {
		return err
	}
	w.next = 0
	return nil
}

// Finish makes durable what the batch says must be.
func (w *LogWriter) Finish(l *log.Log, batch []agreement.Append) error {
	durable := false
	for i := range batch {
		durable = durable || batch[i].Durable
	}
	if !durable || !w.dirty {
		return nil
	}
	w.dirty = false
	return l.Sync()
}

// restart begins the log anew behind a snapshot, whose state is brought to disk first: until then the
// old log is what this server has promised to keep.
func (w *LogWriter) restart(l *log.Log, a *agreement.Append) error {
	if err := w.put(l); err != nil {
		return err
	}
	if !w.installed {
		if err := a.Install(); err != nil {
			return err
		}
		w.installed = true
	}
	if err := l.Reset(a.Snapshot.Metadata.Index, a.Snapshot.Metadata.Term); err != nil {
		return err
	}
	w.installed = false
	return nil
}

// put writes what has gathered. If there is no room for all of it, what is not written yet stays for the next time.
func (w *LogWriter) put(l *log.Log) error {
	if w.state == nil && len(w.entries) == 0 {
		return nil
	}
	err := l.Append(w.state, w.entries)
	w.dirty = true
	if noRoom(err) {
		n := 0
		for n < len(w.entries) { // an index and a term name an entry: it is in the log, or another one is
			if term, err := l.Term(w.entries[n].Index); err != nil || term != w.entries[n].Term {
				break
			}
			n++
		}
		rest := copy(w.entries, w.entries[n:])
		clear(w.entries[rest:])
		w.entries = w.entries[:rest]
		return err
	}
	clear(w.entries)
	w.entries, w.state = w.entries[:0], nil
	return err
}

// readLog reads what agreement needs of the log and has not in memory, until the server ends. Clients and the other
// servers are served meanwhile.
func (r *Replica) readLog() {
	for {
		select {
		case <-r.ctx.Done():
			return
		case read := <-r.reads:
			err := read.Carry(r.log)
			r.drive(func(time.Duration) error { return r.core.ReadDone(read, err) })
		}
	}
}

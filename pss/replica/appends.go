package replica

import (
	"fmt"
	"sync"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/agreement"
	"github.com/paxos-iscsi/paxos-iscsi/pss/log"
)

// appendQueue carries out appends to the durable log, in order. Whatever waits when the disk is free is
// written and synced as one: the more clients, the fewer syncs for each. Agreement bounds what can wait
// (agreement.MaxUncommittedBytes and the in-flight windows).
type appendQueue struct {
	r    *Replica
	wake chan struct{} // one token: something waits

	mu      sync.Mutex
	waiting []agreement.Append
	closed  bool
}

func newAppendQueue(r *Replica) *appendQueue {
	return &appendQueue{r: r, wake: make(chan struct{}, 1)}
}

func (q *appendQueue) add(as []agreement.Append) {
	if len(as) == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = append(q.waiting, as...)
	if q.closed {
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
	var batch []agreement.Append
	var w LogWriter
	for range q.wake {
		q.mu.Lock()
		batch, q.waiting = q.waiting, batch[:0]
		q.mu.Unlock()
		if len(batch) == 0 {
			continue
		}
		err := w.Write(q.r.log, batch)
		if err == nil {
			err = w.Finish(q.r.log, batch)
		}
		if err != nil {
			// After a failed write or sync the state of the disk is unknown; only a restart finds out.
			q.r.failed(fmt.Errorf("durable log: %w", err))
			return
		}
		q.r.upkeep.prepare()
		q.r.drive(func(now time.Duration) error {
			for i := range batch {
				if err := q.r.core.Appended(now, &batch[i]); err != nil {
					return err
				}
			}
			return nil
		})
		clear(batch)
	}
}

// LogWriter turns appends into as few writes as their order allows, and at most one sync.
type LogWriter struct {
	entries []log.Entry
	dirty   bool // something was written since the last sync
}

// Write writes a batch of appends to the log. They are not durable before Finish.
func (w *LogWriter) Write(l *log.Log, batch []agreement.Append) error {
	var state *log.HardState
	w.entries = w.entries[:0]
	for i := range batch {
		a := &batch[i]
		if n := len(w.entries); n > 0 && len(a.Entries) > 0 && a.Entries[0].Index != w.entries[n-1].Index+1 {
			if err := w.put(l, state); err != nil { // these replace some of those before
				return err
			}
			state = nil
		}
		if a.Snapshot != nil {
			if err := w.restart(l, a, state); err != nil {
				return err
			}
			state = nil
		}
		if a.State != nil {
			state = a.State
		}
		w.entries = append(w.entries, a.Entries...)
	}
	return w.put(l, state)
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
func (w *LogWriter) restart(l *log.Log, a *agreement.Append, state *log.HardState) error {
	if err := w.put(l, state); err != nil {
		return err
	}
	if err := a.Install(); err != nil {
		return err
	}
	return l.Reset(a.Snapshot.Metadata.Index, a.Snapshot.Metadata.Term)
}

func (w *LogWriter) put(l *log.Log, state *log.HardState) error {
	if state == nil && len(w.entries) == 0 {
		return nil
	}
	err := l.Append(state, w.entries)
	clear(w.entries)
	w.entries, w.dirty = w.entries[:0], true
	return err
}

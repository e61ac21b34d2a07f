package scsi

import (
	"sync"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore"
)

// worker is a medium whose commands take long and can't be told as block requests: a goroutine that belongs to
// the medium executes them, one after the other in the order in which they came, so that the connection they
// came on goes on. Close waits for the goroutine.
type worker struct {
	backstore.Store
	queue   chan *backstore.IO // as large as the task set: Submit never waits
	running sync.WaitGroup
}

func newWorker(s backstore.Store) backstore.Store {
	w := &worker{Store: s, queue: make(chan *backstore.IO, MaxTasks)}
	w.running.Go(w.work)
	return w
}

// work executes what arrives until Close.
func (w *worker) work() {
	for io := range w.queue {
		t := io.Owner.(*task)
		if t.state.Load()&stateAborted == 0 {
			t.work(t)
		}
		io.Done(io)
	}
}

// Submit implements backstore.Store: the request is the task's work.
func (w *worker) Submit(io *backstore.IO) { w.queue <- io }

// Close implements backstore.Store.
func (w *worker) Close() error {
	close(w.queue)
	w.running.Wait()
	return w.Store.Close()
}

// later has the medium's worker do the rest of the command; work sets the result.
func (t *task) later(work func(*task)) outcome {
	t.work, t.step = work, worked
	return submit
}

func worked(*task) outcome { return finished }

package daemon

import (
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// Limits of what waits to be written to the log.
const (
	// maxQueuedLines wait for who takes them; more are dropped and counted, so that a stalled syslogd or journald
	// stalls nobody.
	maxQueuedLines = 1024
	// flushLimit is how long the last lines may take when the daemon ends.
	flushLimit = 2 * time.Second
)

// queued is a line on its way.
type queued struct {
	level   slog.Level
	line    string
	dropped uint64 // lines that came before it and found no place
}

// queue is what a sink needs so that nobody waits for it: a bounded queue, and a goroutine, of writer, that runs run.
type queue struct {
	lines   chan queued
	dropped atomic.Uint64 // since the last line that found a place
	closing chan struct{}
	writer  sync.WaitGroup
}

func newQueue() queue {
	return queue{lines: make(chan queued, maxQueuedLines), closing: make(chan struct{})}
}

// Log implements Sink.
func (q *queue) Log(level slog.Level, line string) {
	dropped := q.dropped.Swap(0)
	select {
	case q.lines <- queued{level, line, dropped}:
	default:
		q.dropped.Add(dropped + 1)
	}
}

// run hands lines over until the queue is closed, and then those that are left.
func (q *queue) run(hand func(queued)) {
	for !q.closed() {
		select {
		case l := <-q.lines:
			hand(l)
		case <-q.closing:
		}
	}
	q.flush(hand)
}

// closed is asked before each line: a select alone would choose lines as often as the end, without a limit.
func (q *queue) closed() bool {
	select {
	case <-q.closing:
		return true
	default:
		return false
	}
}

// flush hands over the lines that are left, or as many as there is time for and the number of the others.
func (q *queue) flush(hand func(queued)) {
	end := time.Now().Add(flushLimit)
	for len(q.lines) > 0 && time.Now().Before(end) {
		hand(<-q.lines)
	}
	lost := q.dropped.Swap(0)
	for len(q.lines) > 0 {
		l := <-q.lines
		lost += l.dropped + 1
	}
	if lost > 0 {
		hand(queued{slog.LevelWarn, "the log ends", lost})
	}
}

// Queue is a sink in front of another that may take its time: who logs does not wait for it.
type Queue struct {
	queue
	to Sink
}

// NewQueue returns a queue in front of a sink, which it closes, and starts the goroutine that Close ends.
func NewQueue(to Sink) *Queue {
	q := &Queue{queue: newQueue(), to: to}
	q.writer.Go(func() { q.run(q.hand) })
	return q
}

func (q *Queue) hand(l queued) {
	if l.dropped > 0 {
		l.line += fmt.Sprintf(" dropped=%d", l.dropped)
	}
	q.to.Log(l.level, l.line)
}

// Close implements Sink. A sink that does not come back from a line is left behind with its goroutine: the process
// ends anyway, and must not wait for a log that nobody reads.
func (q *Queue) Close() {
	close(q.closing)
	written := make(chan struct{})
	go func() {
		q.writer.Wait()
		q.to.Close()
		close(written)
	}()
	t := time.NewTimer(2 * flushLimit)
	defer t.Stop()
	select {
	case <-written:
	case <-t.C:
	}
}

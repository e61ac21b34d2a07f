package main

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/packaging/latency"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/initiator"
)

// initiatorName is what the load logs in as.
const initiatorName = "iqn.2001-03.jp.tritech:bench-initiator"

// theLUN is the unit of every target here; 0 is the controller.
const theLUN = 1

// errShort is a command that moved less than it was to.
var errShort = errors.New("a command moved less than was asked for")

// unit says where a unit is and what can be expected of it.
type unit struct {
	portal string // host:port
	target string // iSCSI name
	bytes  int64  // that the tests reach, from the beginning
	keeps  bool   // it holds content
}

// options are for a session with so many commands under way.
func (u unit) options(depth int) initiator.Options {
	return initiator.Options{Portal: u.portal, Target: u.target, Initiator: initiatorName, Depth: depth}
}

// load keeps as many I/Os of a test under way as its depth says, on a session of its own. Everything it needs
// is allocated before the first I/O: after that each completion, in the session's own goroutine, notes the
// latency and submits the same task again.
type load struct {
	test       test
	unit       unit
	session    *initiator.Session
	blockBytes int // of the unit
	chunks     uint64
	slots      []slot
	began      time.Time
	cursor     atomic.Uint64 // next chunk of a sequential test
	once       bool          // a sequential test ends with the last chunk
	into       atomic.Pointer[latency.Histogram]
	stopping   atomic.Bool
	running    sync.WaitGroup // slots
	drained    chan struct{}  // closed when no slot runs any more
	watching   sync.WaitGroup // who closes drained

	mu     sync.Mutex
	err    error
	failed chan struct{} // closed when err is set
}

// slot is one of the I/Os that are under way at a time.
type slot struct {
	task   initiator.Task
	buf    []byte
	random rand.PCG
	page   uint64
	start  time.Duration // from load.began
}

// newLoad logs in and makes everything ready; seed decides which places random tests go to.
func newLoad(ctx context.Context, t test, u unit, seed uint64) (*load, error) {
	l := &load{test: t, unit: u, chunks: uint64(u.bytes) / uint64(t.bytes), slots: make([]slot, t.depth),
		failed: make(chan struct{}), drained: make(chan struct{})}
	if l.chunks == 0 {
		return nil, fmt.Errorf("%s: %d bytes hold no I/O of %d", t.name, u.bytes, t.bytes)
	}
	var err error
	l.session, err = initiator.Login(ctx, u.options(t.depth))
	if err != nil {
		return nil, err
	}
	if err := l.look(); err != nil {
		l.session.Close()
		return nil, fmt.Errorf("look at %s: %w", u.target, err)
	}
	done := l.done
	for i := range l.slots {
		s := &l.slots[i]
		s.buf = noise(t.bytes)
		s.random = *rand.NewPCG(seed, uint64(i))
		s.task.LUN, s.task.Owner, s.task.Done = theLUN, s, done
	}
	return l, nil
}

// look makes sure that the unit is ready and as large as the tests need it.
func (l *load) look() error {
	if err := l.session.Ready(theLUN); err != nil {
		return err
	}
	blocks, blockBytes, err := l.session.Capacity(theLUN)
	if err != nil {
		return err
	}
	if blockBytes <= 0 || pageBytes%blockBytes != 0 {
		return fmt.Errorf("its blocks have %d bytes; %d must be a multiple", blockBytes, pageBytes)
	}
	if have := blocks * uint64(blockBytes); have < uint64(l.unit.bytes) {
		return fmt.Errorf("it has %d bytes; the tests need %d", have, l.unit.bytes)
	}
	l.blockBytes = blockBytes
	return nil
}

// start begins; latencies go to h until record says otherwise.
func (l *load) start(h *latency.Histogram) {
	l.into.Store(h)
	l.began = time.Now()
	l.running.Add(len(l.slots))
	for i := range l.slots {
		s := &l.slots[i]
		if !l.prepare(s) {
			l.running.Done()
			continue
		}
		s.start = time.Since(l.began)
		l.session.Submit(&s.task)
	}
	l.watching.Go(func() {
		l.running.Wait()
		close(l.drained)
	})
}

// record lets the latencies of what completes from now on go to h.
func (l *load) record(h *latency.Histogram) { l.into.Store(h) }

// wait waits for so long, or until the load fails or the context ends.
func (l *load) wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-l.failed:
		return nil // stop tells why
	case <-ctx.Done():
		return ctx.Err()
	}
}

// stop lets what is under way complete, logs out, and returns the first error of the load.
func (l *load) stop(ctx context.Context) error {
	l.stopping.Store(true)
	return l.finish(ctx, drainTimeout)
}

// finish waits until no slot runs any more, and ends the session with whatever still does when the time is
// over.
func (l *load) finish(ctx context.Context, limit time.Duration) error {
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-l.drained:
	case <-ctx.Done():
		l.fail(ctx.Err())
	case <-t.C:
		l.fail(errStuck)
	}
	l.stopping.Store(true)
	err := l.session.Close()
	l.watching.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	return err
}

func (l *load) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = fmt.Errorf("%s on %s: %w", l.test.name, l.unit.target, err)
		close(l.failed)
	}
}

// done is the Done of all tasks.
func (l *load) done(t *initiator.Task) {
	s := t.Owner.(*slot)
	now := time.Since(l.began)
	if err := l.check(s); err != nil {
		l.fail(err)
		l.running.Done()
		return
	}
	l.into.Load().Add(now - s.start)
	if l.stopping.Load() || !l.prepare(s) {
		l.running.Done()
		return
	}
	s.start = now
	if err := l.session.Again(t); err != nil {
		l.fail(err)
		l.running.Done()
	}
}

// check judges a command that is over.
func (l *load) check(s *slot) error {
	t := &s.task
	switch {
	case t.Err != nil:
		return fmt.Errorf("an I/O at page %d: %w", s.page, t.Err)
	case t.Residual != 0 || t.Moved != len(t.In):
		return fmt.Errorf("an I/O at page %d: %w", s.page, errShort)
	case l.unit.keeps && len(t.In) > 0:
		return checkStamps(t.In, s.page)
	}
	return nil
}

// below draws a number below n.
func (s *slot) below(n uint64) uint64 {
	high, _ := bits.Mul64(s.random.Uint64(), n)
	return high
}

// prepare sets a slot's next command; it reports false if there is none.
func (l *load) prepare(s *slot) bool {
	var chunk uint64
	if l.test.sequential {
		chunk = l.cursor.Add(1) - 1
		if l.once && chunk >= l.chunks {
			return false
		}
		chunk %= l.chunks
	} else {
		chunk = s.below(l.chunks)
	}
	s.page = chunk * uint64(l.test.bytes/pageBytes)
	lba := s.page * uint64(pageBytes/l.blockBytes)
	blocks := uint32(l.test.bytes / l.blockBytes)
	reads := l.test.readPercent
	if reads == 100 || reads > 0 && s.below(100) < uint64(reads) {
		s.task.SetRead(lba, blocks, s.buf)
		return true
	}
	stamp(s.buf, s.page)
	s.task.SetWrite(lba, blocks, s.buf)
	return true
}

// fillTest is how a volume is filled.
func fillTest() test {
	return test{name: "fill", title: "filling", bytes: 1 << 20, depth: 4, sequential: true}
}

// fill gives a unit its content, within a time.
func fill(ctx context.Context, u unit, limit time.Duration) error {
	l, err := newLoad(ctx, fillTest(), u, 0)
	if err != nil {
		return err
	}
	l.once = true
	l.start(new(latency.Histogram))
	return l.finish(ctx, limit)
}

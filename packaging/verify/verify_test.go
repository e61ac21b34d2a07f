package verify

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/initiator"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// disk is a device in memory with blocks of 512 bytes. fault may answer a command in its place: it returns
// true if it has.
type disk struct {
	mu    sync.Mutex
	bytes []byte
	fault func(d *disk, t *initiator.Task, off int) (done bool, err error)
}

func newDisk(blocks int) *disk { return &disk{bytes: make([]byte, blocks*BlockSize)} }

func (d *disk) Do(t *initiator.Task) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	off := int(binary.BigEndian.Uint64(t.CDB[2:])) * 512
	t.Residual = 0
	if d.fault != nil {
		if done, err := d.fault(d, t, off); done {
			return err
		}
	}
	d.carryOut(t, off)
	return nil
}

func (d *disk) carryOut(t *initiator.Task, off int) {
	copy(d.bytes[off:], t.Out)
	t.Moved = copy(t.In, d.bytes[off:])
}

func newLoad(t *testing.T, d *disk, change func(*Options)) *Load {
	t.Helper()
	o := Options{Device: d, BlockBytes: 512, Blocks: 64, Depth: 8, IOBlocks: 4, ReadPart: 30, Fresh: true}
	if change != nil {
		change(&o)
	}
	l, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func run(t *testing.T, l *Load, acks uint64) {
	t.Helper()
	l.Start()
	defer l.Stop()
	if err := l.WaitAcks(t.Context(), acks); err != nil {
		t.Fatal(err)
	}
}

func TestSoundDisk(t *testing.T) {
	d := newDisk(80)
	l := newLoad(t, d, func(o *Options) { o.First = 16 })
	for range 2 { // a load may go on after a look
		run(t, l, 2000)
		if err := errors.Join(l.ReadBack(t.Context()), l.Err()); err != nil {
			t.Fatal(err)
		}
	}
	w := l.Mark()
	if w.Errors != 0 || w.Retries != 0 || w.Writes < 1000 || w.Reads < 500 || w.Latency.Count() != w.Reads+w.Writes {
		t.Errorf("counted %d reads, %d writes, %d errors, %d retries, %d latencies", w.Reads, w.Writes, w.Errors, w.Retries, w.Latency.Count())
	}
	if acked, open := l.Acked(); acked != 64 || open != 0 {
		t.Errorf("%d blocks acknowledged, %d open", acked, open)
	}
	if slices.ContainsFunc(d.bytes[:16*BlockSize], func(b byte) bool { return b != 0 }) {
		t.Error("it wrote in front of its range")
	}
}

// TestUnsoundDisks has each way of a disk to lie, and what has to be found.
// TestStreams: stretches are written whole, in order and aligned to the unit, and nothing else writes there.
func TestStreams(t *testing.T) {
	const blocks, first = 16 * streamBlocks, 100
	d := newDisk(first + blocks)
	lastOf := map[int]int{} // the block behind the last command on a stretch
	streams := 0
	d.fault = func(_ *disk, t *initiator.Task, off int) (bool, error) {
		at, n := off/BlockSize, len(t.Out)/BlockSize
		if n == 0 || at < first+blocks-blocks/streamPart {
			return false, nil
		}
		stretch := at / streamBlocks
		if at%streamBlocks != 0 && lastOf[stretch] != at || n != maxIOBlocks {
			return true, errors.New("not in order")
		}
		if lastOf[stretch] = at + n; (at+n)%streamBlocks == 0 {
			streams++
		}
		return false, nil
	}
	l := newLoad(t, d, func(o *Options) { o.First, o.Blocks, o.Depth, o.Streams = first, blocks, 1, 100 })
	run(t, l, 500)
	if err := l.ReadBack(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := l.Err(); err != nil || streams == 0 {
		t.Fatalf("%d streams, %v", streams, err)
	}
}

func TestUnsoundDisks(t *testing.T) {
	every := func(n int, f func(d *disk, t *initiator.Task, off int)) func(*disk, *initiator.Task, int) (bool, error) {
		count := 0
		return func(d *disk, t *initiator.Task, off int) (bool, error) {
			if count++; len(t.Out) == 0 || count%n != 0 {
				return false, nil
			}
			f(d, t, off)
			return true, nil
		}
	}
	for _, c := range []struct {
		name  string
		fault func(*disk, *initiator.Task, int) (bool, error)
		want  error
	}{
		{"drops a write", every(50, func(*disk, *initiator.Task, int) {}), ErrLost},
		{"drops the end of a write", every(20, func(d *disk, t *initiator.Task, off int) {
			copy(d.bytes[off:], t.Out[:len(t.Out)-512])
		}), ErrTorn},
		{"writes elsewhere", every(20, func(d *disk, t *initiator.Task, off int) {
			copy(d.bytes[(off+8*BlockSize)%len(d.bytes):], t.Out)
		}), ErrForeign},
		{"changes a bit", every(50, func(d *disk, t *initiator.Task, off int) {
			d.carryOut(t, off)
			d.bytes[off+1000] ^= 1
		}), ErrTorn},
		{"changes a bit of the header", every(50, func(d *disk, t *initiator.Task, off int) {
			d.carryOut(t, off)
			d.bytes[off+25] ^= 1
		}), ErrTorn},
		{"forgets a block", every(50, func(d *disk, t *initiator.Task, off int) {
			d.carryOut(t, off)
			clear(d.bytes[off:][:BlockSize])
		}), ErrLost},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDisk(64)
			d.fault = c.fault
			l := newLoad(t, d, nil)
			run(t, l, 2000)
			if err := l.ReadBack(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := l.Err(); !errors.Is(err, c.want) {
				t.Errorf("found %v, want %v", err, c.want)
			}
		})
	}
}

// TestOutcomes follows one block through attempts with and without an acknowledgement.
func TestOutcomes(t *testing.T) {
	lost := errors.New("the answer is lost")
	d := newDisk(1)
	l := newLoad(t, d, func(o *Options) { o.Blocks, o.IOBlocks = 1, 1 })
	w := worker{load: l, buf: make([]byte, BlockSize)}
	attempt := func(carriedOut bool) {
		d.fault = func(d *disk, t *initiator.Task, off int) (bool, error) {
			if carriedOut {
				d.carryOut(t, off)
			}
			return true, lost
		}
		w.write(0, 1)
		d.fault = nil
	}
	judge := func(want error) {
		t.Helper()
		l.findings = nil
		if err := w.read(0, 1); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(l.findings...); !errors.Is(err, want) {
			t.Fatalf("found %v, want %v", err, want)
		}
	}
	attempt(false)
	judge(nil) // empty, as before
	w.write(0, 1)
	first := slices.Clone(d.bytes)
	judge(nil)
	attempt(true)
	second := slices.Clone(d.bytes)
	copy(d.bytes, first)
	judge(nil) // the attempt did not happen
	copy(d.bytes, second)
	judge(nil) // or it happened late, but before the next write
	copy(d.bytes, first)
	judge(ErrLost) // a disk does not take back what it has shown
	attempt(true)
	third := slices.Clone(d.bytes)
	attempt(false)
	copy(d.bytes, third)
	judge(nil)
	w.write(0, 1)
	copy(d.bytes, third)
	judge(ErrLost)
	clear(d.bytes)
	judge(ErrLost)
	fill(d.bytes, stamp{l.writer, 0, 999})
	judge(ErrForeign)
	fill(d.bytes, stamp{l.writer + 1, 0, 1})
	judge(ErrLost)
}

func TestBlocksOfEarlierLoads(t *testing.T) {
	d := newDisk(64)
	run(t, newLoad(t, d, nil), 500)
	for fresh, want := range map[bool]error{false: nil, true: ErrForeign} {
		l := newLoad(t, d, func(o *Options) { o.Fresh = fresh })
		if err := l.ReadBack(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := l.Err(); !errors.Is(err, want) {
			t.Errorf("fresh %v: found %v, want %v", fresh, err, want)
		}
	}
}

func TestErrorsAndRetries(t *testing.T) {
	status := func(status byte, key ...byte) error {
		e := &initiator.StatusError{Status: status}
		if len(key) == 3 {
			e.Sense = []byte{0x72, key[0], key[1], key[2], 0, 0, 0, 0}
		}
		return e
	}
	for _, c := range []struct {
		name            string
		err             error
		times           int
		errors, retries uint64
	}{
		{"busy for long", status(0x08), 9, 0, 9},
		{"task set full", status(0x28), 2, 0, 2},
		{"unit attention", status(2, 6, 0x29, 0), 1, 0, 1},
		{"aborted command", status(2, 0xb, 0, 0), 5, 0, 5},
		{"aborted too often", status(2, 0xb, 0, 0), 6, 1, 5},
		{"task aborted", status(0x40), 1, 0, 1},
		{"becoming ready", status(2, 2, 4, 1), 1, 0, 1},
		{"not ready", status(2, 2, 4, 3), 1, 1, 0},
		{"medium error", status(2, 3, 0x11, 0), 1, 1, 0},
		{"session lost", initiator.ErrClosed, 1, 1, 0},
	} {
		d := newDisk(1)
		l := newLoad(t, d, func(o *Options) { o.Blocks, o.IOBlocks = 1, 1 })
		left := c.times
		d.fault = func(*disk, *initiator.Task, int) (bool, error) {
			left--
			return left >= 0, c.err
		}
		w := worker{load: l, buf: make([]byte, BlockSize)}
		w.write(0, 1)
		if got := l.Mark(); got.Errors != c.errors || got.Retries != c.retries || got.Writes != 1-c.errors {
			t.Errorf("%s: %d errors, %d retries, %d writes", c.name, got.Errors, got.Retries, got.Writes)
		}
		if err := l.Err(); (err != nil) != (c.errors > 0) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestPause measures a pause with a clock of its own.
func TestPause(t *testing.T) {
	now := time.Unix(0, 0)
	d := newDisk(4)
	l := newLoad(t, d, func(o *Options) { o.Blocks, o.IOBlocks = 4, 1 })
	l.clock = func() time.Time { return now }
	l.running, l.lastAck = true, now
	w := worker{load: l, buf: make([]byte, BlockSize)}
	for _, ms := range []int{3, 700, 5} {
		d.fault = func(*disk, *initiator.Task, int) (bool, error) {
			now = now.Add(time.Duration(ms) * time.Millisecond)
			return false, nil
		}
		w.write(0, 1)
	}
	if m := l.Mark(); m.Longest != 700*time.Millisecond || m.Latency.Quantile(1) < m.Longest {
		t.Errorf("longest pause %v, longest command %v", m.Longest, m.Latency.Quantile(1))
	}
	now = now.Add(time.Second)
	if m := l.Mark(); m.Longest != time.Second {
		t.Errorf("a pause that lasts counts %v", m.Longest)
	}
}

func TestWaitAcksEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	l := newLoad(t, newDisk(64), nil)
	time.AfterFunc(time.Millisecond, cancel)
	if err := l.WaitAcks(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestBadOptions(t *testing.T) {
	for _, change := range []func(*Options){
		func(o *Options) { o.Blocks = 0 },
		func(o *Options) { o.Blocks = MaxBlocks + 1 },
		func(o *Options) { o.BlockBytes = 8192 },
		func(o *Options) { o.BlockBytes = 0 },
		func(o *Options) { o.IOBlocks = 65 },
		func(o *Options) { o.IOBlocks, o.Blocks = 4, 3 },
		func(o *Options) { o.Depth = 0 },
		func(o *Options) { o.ReadPart = 101 },
	} {
		o := Options{BlockBytes: 512, Blocks: 64, Depth: 8, IOBlocks: 4}
		change(&o)
		if _, err := New(o); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
}

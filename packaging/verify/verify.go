// Package verify proves that a block device keeps what it acknowledged. A Load writes blocks that say who
// wrote them, where and when, through an iSCSI session at a queue depth, remembers which writes were
// acknowledged, and reads them back: while it runs, and all of them at the end. It tells a lost write, a torn
// block and a block from elsewhere apart, counts the errors an operating system would have seen, and measures
// the longest time without an acknowledgement.
//
// The rule: a block holds the write that was acknowledged last, or one that was attempted later and whose
// outcome is unknown. What a read has returned counts as acknowledged from then on, since a disk may not
// take back what it has shown.
package verify

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"sync"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/packaging/latency"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/initiator"
)

// Named limits of a load.
const (
	MaxBlocks     = 1 << 22 // blocks of a load: 16 GiB, 100 MB of memory
	maxIOBlocks   = 64      // blocks of one command: 256 KiB
	streamBlocks  = 1024    // blocks of a stream: 4 MiB, a chunk of the storage service
	streamPart    = 4       // one over the part of the blocks that is for streams
	maxFindings   = 20      // findings that are kept in full; all are counted
	maxRetries    = 5       // of a command that ends with UNIT ATTENTION or ABORTED COMMAND, as Linux has it
	busyPause     = 20 * time.Millisecond
	readBackDepth = 16
)

// Device is what a load works on; *initiator.Session is one.
type Device interface {
	Do(t *initiator.Task) error
}

// Options say what to do to which blocks.
type Options struct {
	Device     Device
	LUN        uint64
	BlockBytes int    // of the unit; divides BlockSize
	First      uint64 // the load's first block, in units of BlockSize from the unit's beginning
	Blocks     uint64 // how many of BlockSize, up to MaxBlocks
	Depth      int    // commands under way
	IOBlocks   int    // blocks of a command at most, up to 64; commands have 1 to so many
	ReadPart   int    // of 100 commands, how many read and verify
	// Streams is of how many of 1000 commands there is a stream instead: a stretch of 4 MiB, aligned, written in order
	// with long commands. If there are any, the last quarter of the blocks is for them, and others only read there.
	Streams int
	// Fresh says that blocks never written read as zeros; else they may hold blocks of earlier loads.
	Fresh bool
}

// Load is a verifying load. Its methods may be called from any goroutine.
type Load struct {
	o      Options
	writer uint64
	stop   chan struct{} // closed by Stop
	tasks  sync.WaitGroup
	clock  func() time.Time

	mu       sync.Mutex
	changed  sync.Cond // an acknowledgement came, or a range became free
	blocks   []block
	seq      uint64 // of the latest write
	window   Window
	lastAck  time.Time
	acks     uint64
	running  bool
	findings []error
	found    int // all findings
}

// block is what is known of one block.
type block struct {
	acked  uint64   // sequence number of the write it must have; 0: it was never written
	open   []uint64 // later attempts, whose outcome is unknown
	locked bool     // a command is under way on it
}

// Window is what was measured since the load began, or since the last Mark.
type Window struct {
	Reads, Writes uint64
	Errors        uint64            // commands that failed for good
	Retries       uint64            // commands repeated because of UNIT ATTENTION, BUSY, TASK SET FULL or ABORTED COMMAND
	Longest       time.Duration     // without an acknowledgement, while commands were under way
	Latency       latency.Histogram // of all commands, retries included
}

// New prepares a load.
func New(o Options) (*Load, error) {
	switch {
	case o.Blocks == 0 || o.Blocks > MaxBlocks:
		return nil, fmt.Errorf("a load of %d blocks: 1 to %d are possible", o.Blocks, MaxBlocks)
	case o.BlockBytes <= 0 || BlockSize%o.BlockBytes != 0:
		return nil, fmt.Errorf("a unit with blocks of %d bytes: they have to divide %d", o.BlockBytes, BlockSize)
	case o.IOBlocks < 1 || o.IOBlocks > maxIOBlocks || uint64(o.IOBlocks) > o.Blocks:
		return nil, fmt.Errorf("commands of %d blocks: 1 to %d are possible", o.IOBlocks, min(maxIOBlocks, o.Blocks))
	case o.Depth < 1 || o.Depth > initiator.MaxDepth:
		return nil, fmt.Errorf("a depth of %d: 1 to %d are possible", o.Depth, initiator.MaxDepth)
	case o.ReadPart < 0 || o.ReadPart > 100:
		return nil, fmt.Errorf("%d of 100 commands are to read", o.ReadPart)
	case o.Streams < 0 || o.Streams > 1000 || o.Streams > 0 && o.Blocks/streamPart < 2*streamBlocks:
		return nil, fmt.Errorf("%d of 1000 commands are to begin a stream, in %d blocks", o.Streams, o.Blocks)
	}
	var id [8]byte
	rand.Read(id[:])
	l := &Load{o: o, writer: binary.LittleEndian.Uint64(id[:]), blocks: make([]block, o.Blocks), clock: time.Now}
	l.changed.L = &l.mu
	return l, nil
}

// Start begins to read and write, with Depth goroutines.
func (l *Load) Start() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.running {
		panic("verify: Start of a load that runs")
	}
	l.running = true
	l.stop = make(chan struct{})
	l.lastAck = l.clock()
	for range l.o.Depth {
		l.tasks.Go(l.work)
	}
}

// Stop ends reading and writing. It waits for the commands under way.
func (l *Load) Stop() {
	l.mu.Lock()
	if !l.running {
		l.mu.Unlock()
		return
	}
	close(l.stop)
	l.changed.Broadcast()
	l.mu.Unlock()
	l.tasks.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running = false
}

// Mark returns what was measured since the last Mark, and begins anew. A pause that lasts counts for both.
func (l *Load) Mark() Window {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.running {
		l.window.Longest = max(l.window.Longest, l.clock().Sub(l.lastAck))
	}
	w := l.window
	l.window = Window{}
	return w
}

// WaitAcks waits until n more commands were acknowledged.
func (l *Load) WaitAcks(ctx context.Context, n uint64) error {
	defer context.AfterFunc(ctx, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.changed.Broadcast()
	})()
	l.mu.Lock()
	defer l.mu.Unlock()
	for goal := l.acks + n; l.acks < goal; l.changed.Wait() {
		if ctx.Err() != nil {
			return fmt.Errorf("waiting for %d more acknowledgements, %d are missing: %w", n, goal-l.acks, ctx.Err())
		}
	}
	return nil
}

// Acks is how many commands were acknowledged since the load was made.
func (l *Load) Acks() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acks
}

// Err is nil while everything was as it has to be. Else it joins what was found, up to a limit, and the
// commands that failed.
func (l *Load) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.found == 0 {
		return nil
	}
	all := l.findings
	if more := l.found - len(all); more > 0 {
		all = append(all[:len(all):len(all)], fmt.Errorf("and %d more", more))
	}
	return errors.Join(all...)
}

// find notes something that must not be. The load is locked.
func (l *Load) find(err error) {
	l.found++
	if len(l.findings) < maxFindings {
		l.findings = append(l.findings, err)
	}
}

func (l *Load) stopped() bool {
	select {
	case <-l.stop:
		return true
	default:
		return false
	}
}

// work is one of the load's goroutines: one command after the other.
func (l *Load) work() {
	w := worker{load: l, buf: make([]byte, maxIOBlocks*BlockSize)}
	for !l.stopped() {
		if mathrand.IntN(1000) < l.o.Streams {
			w.stream()
			continue
		}
		n := 1 + mathrand.Uint64N(uint64(l.o.IOBlocks))
		reads, blocks := mathrand.IntN(100) < l.o.ReadPart, l.o.Blocks
		if l.o.Streams > 0 && !reads {
			blocks -= blocks / streamPart
		}
		first := mathrand.Uint64N(blocks - n + 1)
		if !l.lock(first, n) {
			return
		}
		if reads {
			w.read(first, n)
		} else {
			w.write(first, n)
		}
		l.unlock(first, n)
	}
}

// stream writes an aligned stretch of those that are for streams, from its beginning to its end.
func (w *worker) stream() {
	l := w.load
	from := l.o.First + l.o.Blocks - l.o.Blocks/streamPart
	from += -from & (streamBlocks - 1)
	first := from - l.o.First + mathrand.Uint64N((l.o.First+l.o.Blocks-from)/streamBlocks)*streamBlocks
	for end := first + streamBlocks; first < end && l.lock(first, maxIOBlocks); first += maxIOBlocks {
		w.write(first, maxIOBlocks)
		l.unlock(first, maxIOBlocks)
	}
}

// lock waits until no command is under way on a range, and takes it: writes of one range that are under way
// together have no order. It returns false when the load stops.
func (l *Load) lock(first, n uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.busy(first, n) {
		if l.stopped() {
			return false
		}
		l.changed.Wait()
	}
	for i := first; i < first+n; i++ {
		l.blocks[i].locked = true
	}
	return true
}

func (l *Load) busy(first, n uint64) bool {
	for i := first; i < first+n; i++ {
		if l.blocks[i].locked {
			return true
		}
	}
	return false
}

func (l *Load) unlock(first, n uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := first; i < first+n; i++ {
		l.blocks[i].locked = false
	}
	l.changed.Broadcast()
}

// ReadBack reads all blocks and compares them with what they have to be. The load must not run. The error
// is about reading; what is wrong with the blocks is in Err.
func (l *Load) ReadBack(ctx context.Context) error {
	l.mu.Lock()
	if l.running {
		l.mu.Unlock()
		panic("verify: ReadBack of a load that runs")
	}
	l.mu.Unlock()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	step := uint64(l.o.IOBlocks)
	var next uint64
	var readers sync.WaitGroup
	for range readBackDepth {
		readers.Go(func() {
			w := worker{load: l, buf: make([]byte, step*BlockSize)}
			for ctx.Err() == nil {
				l.mu.Lock()
				first := next
				next += step
				l.mu.Unlock()
				if first >= l.o.Blocks {
					return
				}
				if err := w.read(first, min(step, l.o.Blocks-first)); err != nil {
					cancel(fmt.Errorf("read back: %w", err))
				}
			}
		})
	}
	readers.Wait()
	return context.Cause(ctx)
}

// Acked is how many blocks have an acknowledged write, and how many have attempts of unknown outcome.
func (l *Load) Acked() (acked, open int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.blocks {
		if l.blocks[i].acked > 0 {
			acked++
		}
		if len(l.blocks[i].open) > 0 {
			open++
		}
	}
	return acked, open
}

// worker carries out commands, one at a time.
type worker struct {
	load *Load
	task initiator.Task
	buf  []byte
}

func (w *worker) write(first, n uint64) {
	l, buf := w.load, w.buf[:n*BlockSize]
	l.mu.Lock()
	l.seq++
	seq := l.seq
	for i := first; i < first+n; i++ {
		b := &l.blocks[i]
		b.open = append(b.open, seq)
	}
	l.mu.Unlock()
	for i := range n {
		fill(buf[i*BlockSize:][:BlockSize], stamp{l.writer, l.o.First + first + i, seq})
	}
	w.task.SetWrite(w.lba(first), w.blocks(n), buf)
	took, err := w.do()
	if err == nil && w.task.Residual != 0 {
		err = fmt.Errorf("GOOD with a residual of %d bytes", w.task.Residual)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.window.Errors++
		l.find(fmt.Errorf("write of %d blocks at %d: %w", n, first, err))
		return
	}
	l.window.Writes++
	l.acknowledged(took)
	for i := first; i < first+n; i++ {
		l.blocks[i].acked = seq
		l.blocks[i].open = l.blocks[i].open[:0]
	}
}

func (w *worker) read(first, n uint64) error {
	l, buf := w.load, w.buf[:n*BlockSize]
	w.task.SetRead(w.lba(first), w.blocks(n), buf)
	took, err := w.do()
	if err == nil && w.task.Moved != len(buf) {
		err = fmt.Errorf("GOOD with %d bytes of %d", w.task.Moved, len(buf))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.window.Errors++
		err = fmt.Errorf("read of %d blocks at %d: %w", n, first, err)
		l.find(err)
		return err
	}
	l.window.Reads++
	l.acknowledged(took)
	for i := range n {
		if err := l.judge(first+i, buf[i*BlockSize:][:BlockSize]); err != nil {
			l.find(err)
		}
	}
	return nil
}

// acknowledged counts a command that has succeeded. The load is locked.
func (l *Load) acknowledged(took time.Duration) {
	now := l.clock()
	if l.running {
		l.window.Longest = max(l.window.Longest, now.Sub(l.lastAck))
	}
	l.lastAck = now
	l.acks++
	l.window.Latency.Add(took)
	l.changed.Broadcast()
}

func (w *worker) lba(first uint64) uint64 {
	return (w.load.o.First + first) * uint64(BlockSize/w.load.o.BlockBytes)
}

func (w *worker) blocks(n uint64) uint32 { return uint32(n) * uint32(BlockSize/w.load.o.BlockBytes) }

// do carries out the worker's task, and repeats it where an operating system would.
func (w *worker) do() (took time.Duration, err error) {
	begin := w.load.clock()
	w.task.LUN = w.load.o.LUN
	for retries := 0; ; {
		err := w.load.o.Device.Do(&w.task)
		again, busy := transient(err)
		if !again || !busy && retries == maxRetries {
			return w.load.clock().Sub(begin), err
		}
		w.load.mu.Lock()
		w.load.window.Retries++
		w.load.mu.Unlock()
		if busy {
			time.Sleep(busyPause)
		} else {
			retries++
		}
	}
}

// transient says whether a command is to be repeated, and whether without counting, after a pause. It is
// what Linux's SCSI layer does: BUSY and TASK SET FULL go back to the queue, UNIT ATTENTION, ABORTED COMMAND and
// a unit that is becoming ready are tried a few times.
func transient(err error) (again, busy bool) {
	var status *initiator.StatusError
	if !errors.As(err, &status) {
		return false, false
	}
	const busyStatus, taskSetFull, taskAborted = 0x08, 0x28, 0x40
	switch status.Status {
	case busyStatus, taskSetFull:
		return true, true
	case taskAborted:
		return true, false
	}
	const becomingReady, unitAttention, abortedCommand = 0x020401, 0x6, 0xb
	key := status.Key()
	return key>>16 == unitAttention || key>>16 == abortedCommand || key == becomingReady, false
}

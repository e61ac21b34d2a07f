package iscsi

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi/pdu"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/sam"
)

// Limits of one writev: it takes what is ready, up to these.
const (
	batchArena   = 16 << 10 // bytes of headers, small data, padding and digests
	batchVectors = 512      // pieces of memory; the kernel takes 1024
	batchBytes   = 1 << 20
	// inlineData is up to how many bytes data is copied beside its header instead of being a piece of
	// memory of its own.
	inlineData = 256
	// arenaReserve is the most that one PDU takes of the arena.
	arenaReserve = pdu.HeaderSize + 2*pdu.DigestSize + 3 + inlineData
)

// maxControl is how many answers may wait on a connection that the command window does not bound: all but
// those to numbered SCSI commands. Whoever lets more of them pile up does not read.
const maxControl = 1024

// item is something to be sent: the response of a task, or a PDU whose header is ready but for the
// sequence numbers.
type item struct {
	next *item
	task *task
	hdr  pdu.Header
	data []byte
	peek bool          // shows the next StatSN without using it (R2T, NOP-In of our own)
	sent chan struct{} // closed when the item has left, where somebody waits for it

	snack *pdu.SNACK // to be answered out of what is kept
	kept  bool       // belongs to recovery.kept until it is acknowledged
}

// outQueue is what waits to be sent on a connection, and who sends it. Whoever sets busy is the one
// who writes, until there is nothing left or the socket is full; then the writer goroutine takes over.
type outQueue struct {
	mu         sync.Mutex
	head, tail *item
	control    int  // items that occupy no slot of the command window
	bytes      int  // of data in head…tail
	busy       bool // somebody writes
	handed     bool // the writer goroutine is the one: it was given a batch half sent
	closed     bool // the writer goroutine is gone
}

// push puts an item in the queue and returns how many bytes of data wait. It sends nothing.
func (c *conn) push(it *item) (waiting int) {
	q := &c.out
	q.mu.Lock()
	it.next = nil
	if q.tail == nil {
		q.head = it
	} else {
		q.tail.next = it
	}
	q.tail = it
	if it.task == nil || !it.task.slot {
		q.control++
	}
	if it.task != nil {
		q.bytes += len(it.task.DataIn)
	}
	over := q.control > maxControl
	waiting = q.bytes
	q.mu.Unlock()
	if over {
		c.fail(errNotReading)
	}
	return waiting
}

// flush sends what waits unless somebody else is at it. It never waits for the socket: what does not
// fit is left to the writer goroutine.
func (c *conn) flush() {
	q := &c.out
	q.mu.Lock()
	if q.busy || q.head == nil {
		q.mu.Unlock()
		return
	}
	q.busy = true
	q.mu.Unlock()
	c.drain(false)
}

// kick has the writer goroutine send what waits. Whatever else becomes ready until it runs goes with it.
func (c *conn) kick() {
	q := &c.out
	q.mu.Lock()
	idle := !q.busy && q.head != nil
	closed := q.closed
	q.mu.Unlock()
	switch {
	case !idle:
	case closed:
		c.flush() // the connection is gone: what waits is given back
	default:
		c.wakeWriter()
	}
}

func (c *conn) wakeWriter() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// writeLoop is the writer goroutine: it writes when a batch was handed to it or nobody else wants to.
func (c *conn) writeLoop() {
	q := &c.out
	for ended := false; !ended; {
		select {
		case <-c.wake:
		case <-c.closed:
			ended = true
		}
		q.mu.Lock()
		mine := q.handed || !q.busy && q.head != nil
		if mine {
			q.handed, q.busy = false, true
		}
		if ended {
			q.closed = true
		}
		q.mu.Unlock()
		if mine {
			c.drain(true)
		}
	}
}

// drain writes until the queue is empty. The caller has set busy. With wait unset it hands over to the
// writer goroutine as soon as the socket is full.
func (c *conn) drain(wait bool) {
	q, b := &c.out, &c.batch
	for {
		if len(b.vectors) == 0 && !b.fill(c) {
			q.mu.Lock()
			if q.head == nil && !c.mustRelease() {
				q.busy = false
				q.mu.Unlock()
				return
			}
			q.mu.Unlock()
			continue
		}
		b.wait = false
		err := c.raw.Write(b.attempt)
		if err == nil && b.err == nil && wait && len(b.vectors) > 0 {
			err = c.writePatiently()
		}
		if err == nil {
			err = b.err
		}
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				err = errNotReading
			}
			c.fail(fmt.Errorf("sending: %w", err))
			b.vectors, b.err = b.vectors[:0], nil
		}
		if len(b.vectors) > 0 { // the socket is full
			q.mu.Lock()
			q.handed = !q.closed
			handed := q.handed
			q.mu.Unlock()
			if handed {
				c.wakeWriter()
				return
			}
			continue // the connection has ended: the next attempt fails
		}
		b.recycle(c)
	}
}

// writePatiently sends a batch whose initiator is slow to read, for as long as it may be.
func (c *conn) writePatiently() error {
	if err := c.nc.SetWriteDeadline(time.Now().Add(c.srv.opt.StallTimeout)); err != nil {
		return err
	}
	c.batch.wait = true
	if err := c.raw.Write(c.batch.attempt); err != nil {
		return err
	}
	return c.nc.SetWriteDeadline(time.Time{})
}

// limitSilence has the kernel end the connection when what was sent is not acknowledged for so long, or the
// initiator offers no room for it.
func (c *conn) limitSilence(limit time.Duration) error {
	var failed error
	err := c.raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(limit.Milliseconds()))
	})
	return errors.Join(err, failed)
}

// batch is one writev in the making. It belongs to whoever has set busy.
type batch struct {
	arena   []byte // fixed capacity: vectors point into it
	run     int    // arena[run:] is not in a vector yet
	vectors []unix.Iovec
	whole   []unix.Iovec // the memory behind vectors
	bytes   int
	waiting *item // taken from the queue, not in a batch yet
	done    []*item

	// The task at the head of waiting, when it has begun to go out.
	started bool
	offset  int    // bytes of DataIn in PDUs
	dataSN  uint32 // of the next Data-In
	burst   int    // bytes left in the burst
	next    uint32 // of a SNACK: the StatSN to repeat next
	until   uint32 // of a SNACK: the StatSN or DataSN behind the last one

	statSN  uint32
	wait    bool
	err     error
	attempt func(fd uintptr) bool // bound once, so that a write does not allocate
}

func (b *batch) init(statSN uint32) {
	b.arena = make([]byte, 0, batchArena)
	b.whole = make([]unix.Iovec, 0, batchVectors)
	b.vectors = b.whole
	b.statSN = statSN
	b.attempt = b.writev
}

// writev sends the vectors. It is called by the runtime's poller with the socket's descriptor and
// returns false to be called again when the socket has room.
func (b *batch) writev(fd uintptr) bool {
	for len(b.vectors) > 0 {
		n, _, errno := unix.Syscall(unix.SYS_WRITEV, fd,
			uintptr(unsafe.Pointer(&b.vectors[0])), uintptr(len(b.vectors)))
		switch errno {
		case 0:
			b.consume(int(n))
		case syscall.EINTR:
		case syscall.EAGAIN:
			return !b.wait
		default:
			b.err = errno
			return true
		}
	}
	return true
}

// consume drops the first n bytes of the vectors.
func (b *batch) consume(n int) {
	for n > 0 {
		v := &b.vectors[0]
		if n < int(v.Len) {
			v.Base = (*byte)(unsafe.Add(unsafe.Pointer(v.Base), n))
			v.Len -= uint64(n)
			return
		}
		n -= int(v.Len)
		v.Base = nil
		b.vectors = b.vectors[1:]
	}
}

func (b *batch) room() bool {
	return cap(b.arena)-len(b.arena) >= arenaReserve && len(b.whole)+3 <= batchVectors && b.bytes < batchBytes
}

// fill makes vectors of what is in the queue. It returns false when there is nothing to send.
func (b *batch) fill(c *conn) bool {
	b.arena, b.run, b.whole, b.bytes = b.arena[:0], 0, b.whole[:0], 0
	broken := c.broken.Load()
	if c.recovery != nil {
		c.recovery.release(c, broken)
	}
	for broken || b.room() {
		if b.waiting == nil {
			if b.waiting = c.out.takeAll(); b.waiting == nil {
				break
			}
		}
		it := b.waiting
		statSN := b.statSN
		if !broken && !b.emit(c, it) {
			break // a task whose data goes on in the next batch
		}
		b.waiting, b.started = it.next, false
		it.next = nil
		if broken {
			c.giveBack(it)
			continue
		}
		b.done = append(b.done, it)
		if c.recovery != nil && b.statSN != statSN {
			c.recovery.keep(c, it, statSN, b.dataSN)
		}
	}
	b.closeRun()
	b.vectors = b.whole
	if len(b.vectors) == 0 {
		return false
	}
	c.stats.txOctets.Add(uint64(b.bytes))
	return true
}

func (q *outQueue) takeAll() *item {
	q.mu.Lock()
	head := q.head
	q.head, q.tail, q.bytes, q.control = nil, nil, 0, 0
	q.mu.Unlock()
	return head
}

// recycle gives back what a sent batch held.
func (b *batch) recycle(c *conn) {
	for i, it := range b.done {
		b.done[i] = nil
		if it.kept {
			it.hasLeft()
			continue
		}
		c.giveBack(it)
	}
	b.done = b.done[:0]
}

// closeRun makes a vector of what the arena got since the last one.
func (b *batch) closeRun() {
	if n := len(b.arena) - b.run; n > 0 {
		b.whole = append(b.whole, unix.Iovec{Base: &b.arena[b.run], Len: uint64(n)})
		b.bytes += n
		b.run = len(b.arena)
	}
}

// pdu adds one PDU whose header is complete but for the data length. Data stays where it is until the
// batch was sent.
func (b *batch) pdu(d pdu.Digests, h *pdu.Header, data []byte) {
	if len(data) <= inlineData {
		b.smallPDU(d, h, data)
		return
	}
	b.header(d, h, len(data))
	b.closeRun()
	b.whole = append(b.whole, unix.Iovec{Base: &data[0], Len: uint64(len(data))})
	b.bytes += len(data)
	pad := len(b.arena)
	b.arena = append(b.arena, "\x00\x00\x00"[:pdu.Padding(len(data))]...)
	if d.Data {
		b.arena = appendDigest(b.arena, pdu.Digest(pdu.Digest(0, data), b.arena[pad:]))
	}
}

// smallPDU adds one PDU with at most inlineData bytes of data, which it copies.
func (b *batch) smallPDU(d pdu.Digests, h *pdu.Header, data []byte) {
	b.header(d, h, len(data))
	if len(data) == 0 {
		return
	}
	at := len(b.arena)
	b.arena = append(b.arena, data...)
	b.arena = append(b.arena, "\x00\x00\x00"[:pdu.Padding(len(data))]...)
	if d.Data {
		b.arena = appendDigest(b.arena, pdu.Digest(0, b.arena[at:]))
	}
}

func (b *batch) header(d pdu.Digests, h *pdu.Header, dataLength int) {
	h.SetDataLength(dataLength)
	at := len(b.arena)
	b.arena = append(b.arena, h[:]...)
	if d.Header {
		b.arena = appendDigest(b.arena, pdu.Digest(0, b.arena[at:]))
	}
}

func appendDigest(b []byte, crc uint32) []byte {
	return append(b, byte(crc), byte(crc>>8), byte(crc>>16), byte(crc>>24))
}

// emit adds the PDUs of an item. It returns false when there was no room for all of them.
func (b *batch) emit(c *conn, it *item) bool {
	if it.task != nil {
		return b.emitTask(c, it.task)
	}
	if it.snack != nil {
		return b.emitAgain(c, it)
	}
	exp, last := c.session.numbers()
	it.hdr.SetStatus(b.statSN, exp, last)
	if !it.peek {
		b.statSN++
	}
	b.pdu(c.agreed.digests, &it.hdr, it.data)
	return true
}

// emitTask adds the Data-In PDUs of a command and its status: in the last Data-In if the command went
// well and has nothing more to say, else in a SCSI Response (RFC 7143 11.7.3). With error recovery it is always
// a SCSI Response: then each StatSN belongs to a PDU that can be repeated by itself.
func (b *batch) emitTask(c *conn, t *task) bool {
	if !b.started {
		b.started = true
		b.rewind(c, t)
		t.DataIn = t.DataIn[:min(len(t.DataIn), int(t.InBytes))]
		t.computeResidual()
		if c.recovery != nil && len(t.DataIn) > c.agreed.maxBurst {
			c.recovery.ackTag = c.recovery.ackTag%0x7ffffff0 + 1
			t.ackTag = c.recovery.ackTag
		}
	}
	phaseCollapse := t.Status == sam.Good && len(t.Sense) == 0 && t.OutBytes == 0 && c.recovery == nil
	for b.offset < len(t.DataIn) {
		if !b.room() {
			return false
		}
		if b.emitDataIn(c, t, phaseCollapse) {
			return true
		}
	}
	if !b.room() {
		return false
	}
	b.emitResponse(c, t, b.finalNumbers(c, t), b.dataSN, 0)
	return true
}

// rewind goes to the beginning of a command's data.
func (b *batch) rewind(c *conn, t *task) {
	b.offset, b.dataSN, b.burst = 0, t.r2tSN, c.agreed.maxBurst
}

// skipDataIn passes over a Data-In PDU and returns its length.
func (b *batch) skipDataIn(c *conn, t *task) int {
	n := min(len(t.DataIn)-b.offset, c.agreed.sendSegment, b.burst)
	b.offset += n
	b.dataSN++
	if b.burst -= n; b.burst == 0 {
		b.burst = c.agreed.maxBurst
	}
	return n
}

// emitDataIn adds the next Data-In PDU of a command. The last one takes the status with it, if it may, and
// only then true is returned.
func (b *batch) emitDataIn(c *conn, t *task, withStatus bool) bool {
	offset, dataSN := b.offset, b.dataSN
	n := b.skipDataIn(c, t)
	last := b.offset == len(t.DataIn)
	p := pdu.DataIn{
		Final:        last || b.burst == c.agreed.maxBurst,
		InitiatorTag: t.Tag,
		TargetTag:    pdu.NoTag,
		DataSN:       dataSN,
		Offset:       uint32(offset),
	}
	withStatus = withStatus && last
	if withStatus {
		p.HasStatus, p.SCSIStatus, p.Residual = true, byte(t.Status), t.residual
		p.Status = b.finalNumbers(c, t)
	} else {
		p.ExpCmdSN, p.MaxCmdSN = c.session.numbers()
	}
	if p.Final && t.ackTag != 0 {
		// Once a burst, so that a long command's data need not be asked for from its beginning.
		p.Acknowledge, p.TargetTag, p.LUN = true, t.ackTag, t.rawLUN
	}
	var h pdu.Header
	p.Encode(&h)
	b.pdu(c.agreed.digests, &h, t.DataIn[offset:offset+n])
	c.stats.dataInPDUs.Add(1)
	return withStatus
}

func (b *batch) emitResponse(c *conn, t *task, status pdu.Status, dataSN, snackTag uint32) {
	p := pdu.SCSIResponse{
		SCSIStatus:   byte(t.Status),
		InitiatorTag: t.Tag,
		SNACKTag:     snackTag,
		Status:       status,
		ExpDataSN:    dataSN,
		Residual:     t.residual,
		ReadResidual: t.readResidual,
	}
	var h pdu.Header
	p.Encode(&h)
	// Sense data follows its length (RFC 7143 11.4.7); it fits beside the header.
	var sense [2 + maxSense]byte
	n := 0
	if s := t.Sense[:min(len(t.Sense), maxSense)]; len(s) > 0 {
		sense[0], sense[1] = byte(len(s)>>8), byte(len(s))
		n = 2 + copy(sense[2:], s)
	}
	b.smallPDU(c.agreed.digests, &h, sense[:n])
	c.stats.responsePDUs.Add(1)
}

// maxSense is the longest sense data that is sent, in bytes (SPC-4 4.5.1 allows 252).
const maxSense = 252

// finalNumbers takes a StatSN for the command's status and gives its slot of the window back, so that
// the response itself opens the window.
func (b *batch) finalNumbers(c *conn, t *task) pdu.Status {
	if t.slot {
		t.slot = false
		c.session.release()
	}
	s := pdu.Status{StatSN: b.statSN}
	b.statSN++
	s.ExpCmdSN, s.MaxCmdSN = c.session.numbers()
	return s
}

// mustRelease says whether the connection has ended and what it kept for recovery is still there.
func (c *conn) mustRelease() bool {
	return c.recovery != nil && c.broken.Load() && c.recovery.waiting.Load() > 0
}

// hasLeft tells whoever waits for an item to be sent.
func (it *item) hasLeft() {
	if it.sent != nil {
		close(it.sent)
		it.sent = nil
	}
}

// giveBack frees what an item held, sent or not.
func (c *conn) giveBack(it *item) {
	it.hasLeft()
	if it.task != nil {
		c.free(it.task)
		return
	}
	c.putItem(it)
}

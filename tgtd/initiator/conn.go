package initiator

import (
	"bufio"
	"net"
	"sync"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi/pdu"
)

// conn is one connection, after its login the connection of a session. Outgoing units gather while a
// write is under way and then go out in one.
type conn struct {
	nc       net.Conn
	cid      uint16
	joins    *membership // the session that the connection joins; nil: it begins one
	r        *bufio.Reader
	digests  pdu.Digests
	recovery *recovery // nil without error recovery
	neg      negotiated
	tail     [4 + pdu.DigestSize]byte // the reader's: padding and digest

	// The session's lock guards these until the session has taken them over.
	cmdSN, maxSN uint32
	expSN        uint32 // ExpCmdSN of the last login response

	mu        sync.Mutex
	expStatSN uint32
	heads     []byte   // headers and digests of what gathers
	open      int      // heads[open:] is not in parts yet
	parts     [][]byte // what gathers, in order
	writing   bool
	vector    net.Buffers // what is being written
	spare     []byte      // heads not in use
	spareVec  [][]byte    // parts not in use
	idle      sync.Cond   // signalled when writing ends
	gathered  uint64      // batches that were taken for writing
	written   uint64      // batches that were written
	lates     []*Task     // over, but with data that may be in what gathers or is being written
	err       error
	wake      chan struct{} // closed by close
	closed    bool
}

// negotiated is what the login agreed on.
type negotiated struct {
	initialR2T   bool
	immediate    bool
	firstBurst   int
	maxBurst     int
	maxSend      int // the target's MaxRecvDataSegmentLength
	tsih         uint16
	connections  int // MaxConnections
	recovery     int // ErrorRecoveryLevel
	targetDigest pdu.Digests
}

func newConn(nc net.Conn) *conn {
	c := &conn{nc: nc, r: bufio.NewReaderSize(nc, readBuffer), wake: make(chan struct{}, 1),
		neg: negotiated{initialR2T: true, immediate: true, firstBurst: 65536, maxBurst: 262144, maxSend: 8192,
			connections: 1}}
	c.idle.L = &c.mu
	return c
}

// header adds the header of a PDU, to be filled in at once and followed by body. c.mu is held.
func (c *conn) header() *pdu.Header {
	at := len(c.heads)
	c.heads = append(c.heads, make([]byte, pdu.HeaderSize)...)
	return (*pdu.Header)(c.heads[at:])
}

// body adds what follows a header: digests, and the data, which is kept by reference until written.
// c.mu is held.
func (c *conn) body(data []byte) {
	h := (*pdu.Header)(c.heads[len(c.heads)-pdu.HeaderSize:])
	h.SetDataLength(len(data))
	if c.digests.Header {
		c.digest(pdu.Digest(0, h[:]))
	}
	if len(data) == 0 {
		return
	}
	c.cut()
	c.parts = append(c.parts, data)
	at := len(c.heads)
	c.heads = append(c.heads, make([]byte, pdu.Padding(len(data)))...)
	if c.digests.Data {
		c.digest(pdu.Digest(pdu.Digest(0, data), c.heads[at:]))
	}
}

func (c *conn) digest(crc uint32) {
	at := len(c.heads)
	c.heads = append(c.heads, make([]byte, pdu.DigestSize)...)
	pdu.PutDigest(c.heads[at:], crc)
}

// cut puts the headers gathered so far among the parts. When heads grows, what was cut stays in the old
// array, unchanged.
func (c *conn) cut() {
	if c.open < len(c.heads) {
		c.parts = append(c.parts, c.heads[c.open:len(c.heads):len(c.heads)])
		c.open = len(c.heads)
	}
}

// command adds a SCSI command with as much of its data as may go unasked.
func (c *conn) command(t *Task) {
	c.mu.Lock()
	defer c.mu.Unlock()
	cmd := pdu.SCSICommand{Final: true, Attribute: 1, InitiatorTag: t.itt, CmdSN: t.sn, ExpStatSN: c.expStatSN, CDB: t.CDB}
	cmd.LUN, _ = pdu.EncodeLUN(t.LUN)
	var now, unsolicited int
	switch {
	case len(t.Out) > 0:
		cmd.Write, cmd.ExpectedLength = true, uint32(len(t.Out))
		first := min(len(t.Out), c.neg.firstBurst)
		if c.neg.immediate {
			now = min(first, c.neg.maxSend)
		}
		if !c.neg.initialR2T {
			unsolicited = first - now
		}
		cmd.Final = unsolicited == 0
	case len(t.In) > 0:
		cmd.Read, cmd.ExpectedLength = true, uint32(len(t.In))
	}
	cmd.Encode(c.header())
	c.body(t.Out[:now])
	if unsolicited > 0 {
		c.dataOut(t, cmd.LUN, pdu.NoTag, now, unsolicited)
	}
}

// dataOut adds the Data-Out sequence for n bytes of a task's data. c.mu is held.
func (c *conn) dataOut(t *Task, lun uint64, transferTag uint32, offset, n int) {
	for sn := uint32(0); n > 0; sn++ {
		size := min(n, c.neg.maxSend)
		d := pdu.DataOut{Final: size == n, LUN: lun, InitiatorTag: t.itt, TargetTag: transferTag,
			ExpStatSN: c.expStatSN, DataSN: sn, Offset: uint32(offset)}
		d.Encode(c.header())
		c.body(t.Out[offset : offset+size])
		offset, n = offset+size, n-size
	}
}

func (c *conn) logout(sn uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := pdu.LogoutRequest{Immediate: true, InitiatorTag: pdu.NoTag - 1, CmdSN: sn, ExpStatSN: c.expStatSN}
	l.Encode(c.header())
	c.body(nil)
}

// manage adds a task management function.
func (c *conn) manage(req *pdu.TaskRequest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	req.ExpStatSN = c.expStatSN
	req.Encode(c.header())
	c.body(nil)
}

// flush writes what has gathered, unless another goroutine is writing, which then takes it along.
func (c *conn) flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writing {
		return
	}
	c.writing = true
	for c.err == nil && len(c.heads) > 0 {
		c.cut()
		heads, parts := c.heads, c.parts
		c.heads, c.parts, c.open = c.spare[:0], c.spareVec[:0], 0
		c.vector = parts
		c.gathered++
		c.mu.Unlock()
		_, err := c.vector.WriteTo(c.nc)
		c.mu.Lock()
		clear(parts)
		c.spare, c.spareVec = heads, parts
		c.written++
		if err != nil {
			c.err = err
			c.nc.Close()
		}
	}
	c.writing = false
	c.idle.Broadcast()
}

// flushSoon has run write what has gathered: for callers that must not wait for the network.
func (c *conn) flushSoon() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	select {
	case c.wake <- struct{}{}:
	default: // it is awake already
	}
}

// owes says whether something has gathered that nobody is writing.
func (c *conn) owes() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.writing && len(c.heads) > 0
}

// late takes a retired task over if its data may still be on the way out, so that its submitter does not
// use the buffer anew too early; run completes it. A target may end a command before it has all the data.
func (c *conn) late(t *Task) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(t.Out) == 0 || c.closed || !c.writing && len(c.heads) == 0 {
		return false
	}
	c.lates = append(c.lates, t)
	select {
	case c.wake <- struct{}{}:
	default:
	}
	return true
}

// run is the sender: it writes for those who must not wait, until the connection is closed. When it returns,
// nobody writes on the connection any more.
func (c *conn) run(s *Session) {
	for range c.wake {
		c.flush()
		c.settle(s)
		c.flush() // what Done has submitted
	}
	c.settle(s)
}

// settle completes the late tasks as soon as what gathered before is written, or the connection has failed.
func (c *conn) settle(s *Session) {
	c.mu.Lock()
	if len(c.lates) == 0 && c.err == nil {
		c.mu.Unlock()
		return
	}
	lates := c.lates
	c.lates = nil
	until := c.gathered
	if len(c.heads) > 0 {
		until++
	}
	for c.writing && c.err != nil || c.written < until && c.err == nil {
		if c.writing {
			c.idle.Wait()
			continue
		}
		c.mu.Unlock()
		c.flush()
		c.mu.Lock()
	}
	c.mu.Unlock()
	for _, t := range lates {
		s.complete(t)
	}
}

// close ends the connection. What gathers is not sent any more.
func (c *conn) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nc.Close()
	if !c.closed {
		c.closed = true
		if c.err == nil {
			c.err = net.ErrClosed
		}
		close(c.wake)
	}
}

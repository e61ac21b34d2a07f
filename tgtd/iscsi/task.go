package iscsi

import (
	"errors"
	"fmt"
	"math"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi/bufpool"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi/pdu"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/sam"
)

// maxBursts is how many R2Ts of one command are outstanding at most, however many were agreed on:
// more than this hides no latency.
const maxBursts = 8

// task is one SCSI command on its way through the transport. Tasks are pooled; the sam.Command in it
// keeps its Server value from use to use.
//
// Its life: the reader fills it in; if data is missing it waits in the connection's gathering table;
// when its turn in the command window has come and its data is there, it is executed; Done puts it into the out
// queue; when its response was sent it goes back to the pool.
type task struct {
	sam.Command
	out  item
	conn *conn

	cdb     [pdu.MaxCDB]byte
	rawLUN  uint64
	buf     *bufpool.Buffer // DataOut's memory
	charged int64           // bytes of the session's budget
	slot    bool            // occupies a slot of the command window
	refusal *refusal        // set: the command is not executed but answered so

	residual     pdu.Residual
	readResidual pdu.Residual

	// Of commands whose data comes in several PDUs; under conn.gatherMu while in the table.
	received    int  // bytes
	unsolicited bool // Data-Out PDUs without R2T go on
	dataSN      uint32
	solicited   int // bytes asked for so far, unsolicited ones included
	r2tSN       uint32
	bursts      [maxBursts]burst
	burstCount  int
	filling     bool // the reader copies into buf right now
	dropped     bool // ended while filling
	begun       bool // its turn in the command window has come
	gathered    bool // was put into the table; never changes afterwards

	// Of error recovery level 1; under conn.gatherMu too, but for ackTag, which the sender owns.
	lost       bool   // a PDU of the unsolicited data was lost
	suspect    bool   // one may have been lost
	recoveries int    // how often data was asked for again
	ackTag     uint32 // target transfer tag under which data is acknowledged, 0 for none
}

// maxImmediate is how many commands may run on a connection when one more comes that is marked for
// immediate delivery and so is not held back by the command window.
const maxImmediate = 2 * maxQueueDepth

// burst is the data that one R2T asked for.
type burst struct {
	targetTag uint32
	r2tSN     uint32
	begin     int // offsets into the command's data
	end       int
	received  int
	dataSN    uint32
	lost      bool // a PDU was lost: what follows is passed over and asked for again
	suspect   bool // one may have been lost
}

// refusal is a status that the transport itself gives.
type refusal struct {
	status sam.Status
	sense  []byte
}

// fixedSense builds sense data in fixed format (SPC-4 4.5.3).
func fixedSense(key, asc, ascq byte) []byte {
	return []byte{0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, asc, ascq, 0, 0, 0, 0}
}

// The refusals. They are never written.
var (
	// RFC 7143 11.4.7.2: unexpected unsolicited data.
	refuseUnsolicited = refusal{sam.CheckCondition, fixedSense(0x0b, 0x0c, 0x0c)}
	// A Data-Out came out of sequence, so data is missing: PROTOCOL SERVICE CRC ERROR (RFC 7143 7.8, 7.7).
	refuseSequence = refusal{sam.CheckCondition, fixedSense(0x0b, 0x47, 0x05)}
	// A single command wants more memory than any may have: INSUFFICIENT RESOURCES.
	refuseTooLarge = refusal{sam.CheckCondition, fixedSense(0x05, 0x55, 0x03)}
	// The session's commands under way hold all memory they may; the initiator tries again.
	refuseFull = refusal{sam.TaskSetFull, nil}
)

// newTask takes a task from the pool.
func (c *conn) newTask() *task {
	t, _ := c.srv.tasks.Get().(*task)
	if t == nil {
		t = new(task)
		t.Command.Done = commandDone
		t.Command.Transport = t
		t.out.task = t
	}
	t.conn = c
	return t
}

// free gives a task and all it holds back, and its slot of the window if no response did.
func (c *conn) free(t *task) {
	if t.Release != nil {
		t.Release(&t.Command)
	}
	if t.slot {
		c.session.release()
	}
	if t.buf != nil {
		c.srv.buffers.Put(t.buf)
	}
	if t.charged > 0 {
		c.session.bytes.Add(-t.charged)
		c.srv.bytes.Add(-t.charged)
	}
	done, server := t.Command.Done, t.Command.Server
	t.Command = sam.Command{Done: done, Server: server, Transport: t}
	t.out = item{task: t}
	t.conn, t.buf, t.charged, t.slot, t.refusal = nil, nil, 0, false, nil
	t.residual, t.readResidual = pdu.Residual{}, pdu.Residual{}
	t.received, t.unsolicited, t.dataSN, t.solicited, t.r2tSN, t.burstCount = 0, false, 0, 0, 0, 0
	t.filling, t.dropped, t.begun, t.gathered = false, false, false, false
	t.lost, t.suspect, t.recoveries, t.ackTag = false, false, 0, 0
	c.srv.tasks.Put(t)
}

// command takes a SCSI Command PDU (RFC 7143 11.3).
func (c *conn) command() error {
	if c.session.nexus == nil {
		return fmt.Errorf("%w: SCSI command in a discovery session", errProtocol)
	}
	var req pdu.SCSICommand
	req.Decode(&c.header)
	t := c.newTask()
	if err := c.describe(t, &req); err != nil {
		c.free(t)
		return err
	}
	if n := c.header.DataLength(); n > 0 {
		if n > int(t.OutBytes) {
			why := fmt.Errorf("%w: %d bytes of immediate data, %d expected", errProtocol, n, t.OutBytes)
			c.free(t)
			return c.reject(pdu.RejectInvalidField, why)
		}
		if err := c.receiveData(t, 0, n); err != nil {
			c.free(t)
			return err
		}
		t.received = n
	}
	c.stats.commandPDUs.Add(1)
	return c.enter(t, &req)
}

// describe fills a task in from its header.
func (c *conn) describe(t *task, req *pdu.SCSICommand) error {
	t.Nexus = c.session.nexus
	t.Tag, t.Attribute = req.InitiatorTag, sam.Attribute(req.Attribute)
	t.rawLUN = req.LUN
	t.LUN = sam.NoLUN
	if lun, ok := pdu.DecodeLUN(req.LUN); ok {
		t.LUN = sam.LUN(lun)
	}
	copy(t.cdb[:16], req.CDB[:])
	cdbLength := 16
	var ahs pdu.AHS
	if len(c.ahs) > 0 {
		var err error
		if ahs, err = pdu.ParseAHS(c.ahs); err != nil {
			return c.reject(pdu.RejectInvalidField, fmt.Errorf("%w: %w", errProtocol, err))
		}
		cdbLength += copy(t.cdb[16:], ahs.ExtendedCDB)
	}
	t.CDB = t.cdb[:cdbLength]
	switch {
	case req.Read && req.Write:
		t.OutBytes, t.InBytes = req.ExpectedLength, ahs.ReadLength
	case req.Write:
		t.OutBytes = req.ExpectedLength
	case req.Read:
		t.InBytes = req.ExpectedLength
	}
	c.charge(t)
	immediate := c.header.DataLength()
	t.unsolicited = req.Write && !req.Final && immediate < int(t.OutBytes)
	switch a := &c.agreed; {
	case t.refusal != nil:
	case immediate > 0 && !a.immediateData, immediate > a.firstBurst, t.unsolicited && a.initialR2T:
		t.refusal = &refuseUnsolicited
	}
	if t.refusal == nil && t.OutBytes > 0 {
		t.buf = c.srv.buffers.Get(int(t.OutBytes))
		if !c.agreed.dataPDUInOrder {
			clear(t.buf.Data) // pieces may come in any order: a gap must not show what was here before
		}
	}
	return nil
}

// charge books the memory that a command may need.
func (c *conn) charge(t *task) {
	want := int64(t.OutBytes) + int64(t.InBytes)
	if want > int64(c.srv.opt.MaxTransfer) {
		t.refusal = &refuseTooLarge
		return
	}
	t.charged = want
	held, all, o := c.session.bytes.Add(want), c.srv.bytes.Add(want), &c.srv.opt
	if want > 0 && (held > int64(o.MaxSessionBytes) || all > int64(o.MaxServerBytes) && held > fairSessionBytes) {
		t.refusal = &refuseFull
	}
}

// receiveData takes the PDU's data segment, to the given place of the command's data or, when the
// command is refused, to nowhere.
func (c *conn) receiveData(t *task, offset, n int) error {
	if t.buf == nil {
		return c.skipData()
	}
	return c.readData(t.buf.Data[offset : offset+n])
}

// enter brings a command whose immediate data is here into the session's order.
func (c *conn) enter(t *task, req *pdu.SCSICommand) error {
	s := c.session
	missing := t.unsolicited || t.refusal == nil && t.received < int(t.OutBytes)
	if missing && !c.gather(t) {
		c.free(t)
		if req.Immediate || !s.received(req.CmdSN) { // else it is a retry, of which nothing is wanted
			c.answerReject(pdu.RejectTaskInProgress)
		}
		return nil
	}
	if req.Immediate && c.executing.Load() > maxImmediate {
		c.ungather(t)
		c.free(t)
		c.answerReject(pdu.RejectImmediate)
		return nil
	}
	s.deliver.Lock()
	defer s.deliver.Unlock()
	if req.Immediate {
		c.begin(t)
		return nil
	}
	switch s.order(req.CmdSN) {
	case turnNever:
		c.ungather(t)
		c.free(t)
	case turnLater:
		s.hold(req.CmdSN, early{conn: c, task: t})
	case turnNow:
		s.take(true)
		t.slot = true
		c.begin(t)
		s.catchUp()
	}
	return nil
}

// gather puts a command whose data is not complete into the table. It returns false when there is
// one with the same tag, or too many: those without a slot of the window are not limited by it.
func (c *conn) gather(t *task) bool {
	c.gatherMu.Lock()
	defer c.gatherMu.Unlock()
	if _, there := c.gathering[t.Tag]; there || len(c.gathering) > 2*maxQueueDepth {
		return false
	}
	t.solicited, t.gathered = t.received, true
	c.gathering[t.Tag] = t
	return true
}

func (c *conn) ungather(t *task) {
	if t.gathered {
		c.gatherMu.Lock()
		delete(c.gathering, t.Tag)
		c.gatherMu.Unlock()
	}
}

// forget frees a command that has not begun. It may be one of another connection, whose reader may be at its data
// just now and then frees it.
func (c *conn) forget(t *task) {
	if t.gathered {
		c.gatherMu.Lock()
		if t.filling {
			t.dropped = true
			c.gatherMu.Unlock()
			return
		}
		delete(c.gathering, t.Tag)
		c.gatherMu.Unlock()
	}
	c.free(t)
}

// begin is called when a command's turn in the window has come. What it has to say is sent by its
// caller: the connection's reader before it waits, or catchUp.
func (c *conn) begin(t *task) {
	if !t.gathered {
		c.execute(t)
		return
	}
	c.gatherMu.Lock()
	t.begun = true
	c.moveOn(t, !t.unsolicited)
}

// moveOn, when ready, moves a command on that has begun and for which no unsolicited data is under way: it asks for
// what is missing, or hands it to the target. It is called with gatherMu held, and releases it: until a command is
// out of the table, task management on another connection may end it.
func (c *conn) moveOn(t *task, ready bool) {
	if !ready {
		c.gatherMu.Unlock()
		return
	}
	if t.refusal == nil && t.received < int(t.OutBytes) {
		c.solicit(t)
		c.gatherMu.Unlock()
		return
	}
	delete(c.gathering, t.Tag)
	c.gatherMu.Unlock()
	c.execute(t)
}

// execute hands a command whose data is complete to the target, or answers it if it is refused.
func (c *conn) execute(t *task) {
	c.executing.Add(1)
	c.track(t)
	if r := t.refusal; r != nil {
		t.Status, t.Sense = r.status, r.sense
		commandDone(&t.Command)
		return
	}
	if t.buf != nil {
		t.DataOut = t.buf.Data[:t.received]
	}
	c.current.Store(t)
	c.session.target.Execute(&t.Command)
	c.current.Store(nil)
}

// solicit sends R2Ts for what was not asked for yet (RFC 7143 11.8), as many as may be outstanding.
// Called with gatherMu held.
func (c *conn) solicit(t *task) {
	for t.burstCount < min(c.agreed.maxR2T, maxBursts) && t.solicited < int(t.OutBytes) {
		n := min(c.agreed.maxBurst, int(t.OutBytes)-t.solicited)
		b := &t.bursts[t.burstCount]
		*b = burst{targetTag: c.nextTargetTag(), r2tSN: t.r2tSN, begin: t.solicited, end: t.solicited + n}
		t.burstCount++
		t.r2tSN++
		t.solicited += n
		c.pushR2T(t, b)
	}
}

// nextTargetTag is a target transfer tag not in use. Called with gatherMu held.
func (c *conn) nextTargetTag() uint32 {
	if c.lastTargetTag++; c.lastTargetTag == pdu.NoTag {
		c.lastTargetTag = 0
	}
	return c.lastTargetTag
}

// pushR2T puts the R2T of a burst into the out queue. Called with gatherMu held.
func (c *conn) pushR2T(t *task, b *burst) {
	p := pdu.R2T{
		LUN:          t.rawLUN,
		InitiatorTag: t.Tag,
		TargetTag:    b.targetTag,
		R2TSN:        b.r2tSN,
		Offset:       uint32(b.begin),
		Length:       uint32(b.end - b.begin),
	}
	it := c.newItem()
	it.peek = true
	p.Encode(&it.hdr)
	c.push(it)
}

// dataOut takes a Data-Out PDU (RFC 7143 11.7). Data of a command that is not there any more, or was
// ignored, is passed over.
func (c *conn) dataOut() error {
	c.stats.dataOutPDUs.Add(1)
	var p pdu.DataOut
	p.Decode(&c.header)
	n := c.header.DataLength()
	c.gatherMu.Lock()
	t := c.gathering[p.InitiatorTag]
	if t == nil {
		c.gatherMu.Unlock()
		return c.skipData()
	}
	if c.recovery != nil {
		if i, verdict := t.inspect(&p); verdict != pieceWanted {
			return c.unwanted(t, i, &p, verdict)
		}
	}
	i, err := t.place(&p, n, &c.agreed)
	if err == nil && t.refusal == &refuseSequence {
		c.moveOn(t, t.passOver(i, &p) && t.begun)
		return c.skipData()
	}
	t.filling = err == nil
	c.gatherMu.Unlock()
	if err != nil {
		return c.reject(pdu.RejectProtocolError, err)
	}
	err = c.receiveData(t, int(p.Offset), n)
	c.gatherMu.Lock()
	t.filling = false
	if t.dropped {
		delete(c.gathering, t.Tag)
		c.gatherMu.Unlock()
		c.free(t)
		return err
	}
	if err != nil && c.recovery != nil && errors.Is(err, pdu.ErrDataDigest) {
		if err = c.damaged(err); err == nil {
			return c.unwanted(t, i, &p, pieceLost)
		}
	}
	if err != nil {
		c.gatherMu.Unlock()
		return err // teardown frees the task
	}
	c.moveOn(t, t.account(i, &p, n) && t.begun)
	return nil
}

// piece is what a Data-Out is worth with error recovery.
type piece uint8

const (
	pieceWanted piece = iota // the next one of its sequence
	pieceStale               // of a sequence that is over or was asked for anew: passed over
	pieceLost                // of a sequence that has lost one: passed over, and asked for again
)

// inspect finds what a Data-Out is worth, and its burst, -1 for unsolicited data.
func (t *task) inspect(p *pdu.DataOut) (int, piece) {
	verdict := func(i int, lost, suspect *bool, expected uint32) (int, piece) {
		*suspect = false
		switch {
		case pdu.Less(p.DataSN, expected):
			return i, pieceStale
		case *lost || p.DataSN != expected:
			return i, pieceLost
		}
		return i, pieceWanted
	}
	if p.TargetTag == pdu.NoTag {
		if !t.unsolicited {
			return -1, pieceStale
		}
		return verdict(-1, &t.lost, &t.suspect, t.dataSN)
	}
	for i := range t.bursts[:t.burstCount] {
		if b := &t.bursts[i]; b.targetTag == p.TargetTag {
			return verdict(i, &b.lost, &b.suspect, b.dataSN)
		}
	}
	return -1, pieceStale
}

// unwanted passes over a Data-Out that is of no use, whose data may have been read already; with the last of a
// sequence that has a gap, what is missing is asked for again. It is called with gatherMu held and releases it.
func (c *conn) unwanted(t *task, i int, p *pdu.DataOut, v piece) error {
	ready := false
	if v == pieceLost {
		if i < 0 {
			t.lost = true
		} else {
			t.bursts[i].lost = true
		}
		ready = p.Final && c.recoverData(t, i) && t.begun
	}
	c.moveOn(t, ready)
	if c.dataRead {
		return nil
	}
	return c.skipData()
}

// place checks where a Data-Out belongs: the index of its burst, or -1 for unsolicited data. One that is
// out of sequence makes the command refused, once all of its data has come by (RFC 7143 7.7); other
// errors end the connection.
func (t *task) place(p *pdu.DataOut, n int, a *agreement) (int, error) {
	bad := func(what string) error {
		return fmt.Errorf("%w: Data-Out for tag %08x, %s: transfer tag %08x, DataSN %d, offset %d, %d bytes",
			errProtocol, p.InitiatorTag, what, p.TargetTag, p.DataSN, p.Offset, n)
	}
	if p.TargetTag == pdu.NoTag {
		switch limit := min(a.firstBurst, int(t.OutBytes)); {
		case !t.unsolicited:
			return 0, bad("no unsolicited data expected")
		case t.outOfSequence(p.DataSN != t.dataSN):
		case uint64(p.Offset) != uint64(t.received):
			return 0, bad("out of order")
		case t.received+n > limit && t.refusal == nil, t.received+n > int(t.OutBytes):
			return 0, bad("more unsolicited data than agreed on")
		}
		return -1, nil
	}
	for i := range t.bursts[:t.burstCount] {
		b := &t.bursts[i]
		if b.targetTag != p.TargetTag {
			continue
		}
		end := uint64(p.Offset) + uint64(n)
		switch {
		case t.outOfSequence(p.DataSN != b.dataSN):
		case uint64(p.Offset) < uint64(b.begin), end > uint64(b.end), b.received+n > b.end-b.begin:
			return 0, bad("outside of the burst")
		case a.dataPDUInOrder && int(p.Offset) != b.begin+b.received:
			return 0, bad("out of order")
		case p.Final && b.received+n < b.end-b.begin:
			return 0, bad("burst ends early")
		}
		return i, nil
	}
	return 0, bad("unknown transfer tag")
}

// outOfSequence says whether the command has lost data, by this PDU or before.
func (t *task) outOfSequence(now bool) bool {
	if now {
		t.refusal = &refuseSequence
	}
	return t.refusal == &refuseSequence
}

// passOver books a Data-Out whose data is of no use. It returns true when it was the last one to come.
func (t *task) passOver(i int, p *pdu.DataOut) bool {
	switch {
	case !p.Final:
	case i < 0:
		t.unsolicited = false
	default:
		t.endBurst(i)
	}
	return t.burstCount == 0 && !t.unsolicited
}

func (t *task) endBurst(i int) {
	t.burstCount--
	copy(t.bursts[i:t.burstCount], t.bursts[i+1:])
}

// account books the data of a Data-Out. It returns true when the command can move on: unsolicited data
// is over, or a burst is complete.
func (t *task) account(i int, p *pdu.DataOut, n int) bool {
	t.received += n
	if i < 0 {
		t.dataSN++
		t.solicited = t.received
		if p.Final || t.received == int(t.OutBytes) {
			t.unsolicited = false
			return true
		}
		return false
	}
	b := &t.bursts[i]
	b.received += n
	b.dataSN++
	if b.received < b.end-b.begin {
		return false
	}
	t.endBurst(i)
	return t.solicited < int(t.OutBytes) || t.received == int(t.OutBytes)
}

// dropGathering ends the commands waiting for data that match. The initiator gets no response to them.
func (c *conn) dropGathering(match func(*task) bool) (dropped int) {
	c.gatherMu.Lock()
	var gone []*task
	for tag, t := range c.gathering {
		switch {
		case !t.begun || t.dropped || !match(t):
			continue
		case t.filling:
			t.dropped = true
		default:
			delete(c.gathering, tag)
			gone = append(gone, t)
		}
		dropped++
	}
	c.gatherMu.Unlock()
	for _, t := range gone {
		c.free(t)
	}
	return dropped
}

// commandDone is every command's Done. It may be called from any goroutine, even before Execute returns.
func commandDone(cmd *sam.Command) {
	t := cmd.Transport.(*task)
	c := t.conn
	inReader := c.current.Load() == t
	c.untrack(t)
	if cmd.Aborted {
		c.abandon(t)
		c.ended()
		return
	}
	waiting := c.push(&t.out) // from here on the task belongs to whoever sends
	left := c.ended()
	switch {
	case inReader && waiting < batchBytes:
		// The reader sends before it waits for more; until then others may join.
	case left == 0:
		c.flush() // nobody to wait for: save the way through the writer goroutine
	default:
		c.kick()
	}
}

// ended counts a command that the target is done with; returns how many are left.
func (c *conn) ended() int32 {
	left := c.executing.Add(-1)
	if left == 0 && c.broken.Load() {
		select {
		case c.idle <- struct{}{}:
		default:
		}
	}
	return left
}

// abandon frees an aborted command, which gets no response (RFC 7143 11.5.1). If it was what kept the
// window closed the initiator is told by a NOP-In.
func (c *conn) abandon(t *task) {
	closed := false
	if t.slot {
		t.slot = false
		closed = c.session.release()
	}
	c.free(t)
	if closed {
		it := c.newItem()
		it.peek = true
		p := pdu.NOPIn{InitiatorTag: pdu.NoTag, TargetTag: pdu.NoTag}
		p.Encode(&it.hdr)
		c.push(it)
		c.kick()
	}
}

// computeResidual compares what the command asked to move with what the initiator expected.
func (t *task) computeResidual() {
	switch {
	case t.OutBytes > 0 && t.InBytes > 0:
		t.residual = residual(uint64(t.OutBytes), t.Moved)
		t.readResidual = residual(uint64(t.InBytes), uint64(len(t.DataIn)))
	default: // one of them is 0, or both
		t.residual = residual(uint64(t.OutBytes)+uint64(t.InBytes), t.Moved)
	}
}

func residual(expected, moved uint64) pdu.Residual {
	switch {
	case moved > expected:
		return pdu.Residual{Overflow: true, Count: uint32(min(moved-expected, math.MaxUint32))}
	case moved < expected:
		return pdu.Residual{Underflow: true, Count: uint32(expected - moved)}
	}
	return pdu.Residual{}
}

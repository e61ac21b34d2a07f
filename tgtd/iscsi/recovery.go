package iscsi

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi/pdu"
)

// maxRecoveryLevel is the highest ErrorRecoveryLevel that is agreed on: recovery within a connection
// (RFC 7143 7.1.4). Level 2 would keep commands alive that lost their connection.
const maxRecoveryLevel = 1

// Limits of error recovery.
const (
	// maxUnacknowledged is how many responses may wait for their acknowledgement; an initiator that lets more
	// pile up counts as failed (RFC 7143 4.2.2.2).
	maxUnacknowledged = 4096
	// askAfter is how many of them make the target ask for an acknowledgement by a NOP-In.
	askAfter = maxUnacknowledged / 2
	// maxRecoveries is how often data of one command is asked for again before the command fails.
	maxRecoveries = 16
	// recoveryDelay is how long after a PDU whose header was damaged data counts as lost that did not go on.
	recoveryDelay = time.Second
)

var errNotAcknowledging = errors.New("the initiator does not acknowledge its answers")

// SNACK types (RFC 7143 11.16.1).
const (
	snackData      = 0 // or R2T
	snackStatus    = 1
	snackDataAck   = 2
	snackDataAgain = 3 // R-Data
)

// recovery is what a connection keeps for error recovery level 1; at level 0 there is none, and nothing of it is
// paid for. What was sent stays here, in order of its StatSN, until the initiator has acknowledged it; the data of a
// command stays with its response, so it is bounded by the session's budget of bytes.
//
// kept belongs to whoever has set outQueue.busy, like the batch: a SNACK comes by as an item of the queue and so
// finds everything sent before it.
type recovery struct {
	kept    []kept
	asked   bool          // an acknowledgement was asked for and has not come
	ackTag  uint32        // target transfer tag of the latest Data-In that wants an acknowledgement
	acked   atomic.Uint32 // the newest ExpStatSN heard
	waiting atomic.Int32  // len(kept), for those who do not own it

	// The reader's own.
	headerLost bool          // the PDU before had a damaged header
	watching   bool          // the goroutine that asks for lost data again runs
	lost       chan struct{} // tells it of a damaged header
}

// kept is a response that was sent, or another PDU that has a StatSN.
type kept struct {
	it     *item
	statSN uint32
	dataSN uint32 // of a task: the one after its last Data-In
	acked  uint32 // of a task: Data-In PDUs before this one are acknowledged
}

func newRecovery(statSN uint32) *recovery {
	r := &recovery{lost: make(chan struct{}, 1)}
	r.acked.Store(statSN)
	return r
}

// acknowledge notes the ExpStatSN of a PDU and lets go of what it acknowledges. Called by the reader.
func (c *conn) acknowledge(expStatSN uint32) {
	r := c.recovery
	if !pdu.Less(r.acked.Load(), expStatSN) {
		return
	}
	r.acked.Store(expStatSN)
	if r.waiting.Load() > 0 {
		c.trim()
	}
}

// trim has what is acknowledged given back, by whoever sends, or by itself when nobody does.
func (c *conn) trim() {
	q := &c.out
	q.mu.Lock()
	if q.busy {
		q.mu.Unlock()
		return
	}
	q.busy = true
	q.mu.Unlock()
	c.drain(false)
}

// release gives back what was acknowledged, or everything. The caller has set busy, and no batch is half sent.
func (r *recovery) release(c *conn, all bool) {
	n := 0
	for acked := r.acked.Load(); n < len(r.kept) && (all || pdu.Less(r.kept[n].statSN, acked)); n++ {
		c.giveBack(r.kept[n].it)
	}
	if n > 0 {
		rest := copy(r.kept, r.kept[n:])
		clear(r.kept[rest:])
		r.kept = r.kept[:rest]
		r.waiting.Store(int32(rest))
		r.asked = false
	}
}

// keep holds an item back that was put into a batch under a StatSN.
func (r *recovery) keep(c *conn, it *item, statSN, dataSN uint32) {
	it.kept = true
	k := kept{it: it, statSN: statSN, dataSN: dataSN}
	if it.task != nil {
		k.acked = it.task.r2tSN
	}
	r.kept = append(r.kept, k)
	r.waiting.Store(int32(len(r.kept)))
	switch {
	case len(r.kept) > maxUnacknowledged:
		c.fail(errNotAcknowledging)
	case len(r.kept) > askAfter && !r.asked:
		r.asked = true
		ping := c.newItem()
		ping.peek = true
		p := pdu.NOPIn{InitiatorTag: pdu.NoTag, TargetTag: 0x7ffffffe}
		p.Encode(&ping.hdr)
		c.push(ping)
	}
}

// find looks a kept response up. What is acknowledged and not given back yet does not count: its tag may be in use
// for another command.
func (r *recovery) find(match func(*kept) bool) *kept {
	acked := r.acked.Load()
	for i := len(r.kept) - 1; i >= 0; i-- {
		if !pdu.Less(r.kept[i].statSN, acked) && match(&r.kept[i]) {
			return &r.kept[i]
		}
	}
	return nil
}

// snack takes a SNACK Request (RFC 7143 11.16). Those for R2Ts are answered here, the others where the
// responses are kept, once their turn in the out queue has come.
func (c *conn) snack() error {
	if err := c.skipData(); err != nil {
		return err
	}
	it := c.newItem()
	it.snack = new(pdu.SNACK)
	it.snack.Decode(&c.header)
	it.data = append(it.data, c.header[:]...) // should it be rejected
	if it.snack.Type == snackData {
		if mine, ok := c.repeatR2Ts(it.snack); mine {
			if !ok {
				c.answerReject(pdu.RejectProtocolError)
			}
			c.putItem(it)
			return nil
		}
	}
	c.push(it)
	return nil
}

// repeatR2Ts sends R2Ts of a command again that still gathers its data. mine is false for other commands; ok
// is false when none of the R2Ts that were asked for is outstanding.
func (c *conn) repeatR2Ts(s *pdu.SNACK) (mine, ok bool) {
	c.gatherMu.Lock()
	defer c.gatherMu.Unlock()
	t := c.gathering[s.InitiatorTag]
	if t == nil {
		return false, false
	}
	for i := range t.bursts[:t.burstCount] {
		b := &t.bursts[i]
		if !pdu.Less(b.r2tSN, s.BegRun) && (s.RunLength == 0 || b.r2tSN-s.BegRun < s.RunLength) {
			c.pushR2T(t, b)
			ok = true
		}
	}
	return true, ok
}

// emitAgain answers a SNACK out of what is kept. It returns false when there was no room for all of it.
func (b *batch) emitAgain(c *conn, it *item) bool {
	s, r := it.snack, c.recovery
	switch s.Type {
	case snackStatus:
		return b.statusAgain(c, it)
	case snackDataAck:
		k := r.find(func(k *kept) bool { return k.it.task != nil && k.it.task.ackTag == s.TargetTag && s.TargetTag != 0 })
		if k == nil || pdu.Less(k.dataSN, s.BegRun) || pdu.Less(s.BegRun, k.acked) {
			return b.rejectSNACK(c, it, pdu.RejectInvalidDataAck)
		}
		k.acked = s.BegRun
		return true
	case snackData, snackDataAgain:
		return b.dataAgain(c, it)
	}
	return b.rejectSNACK(c, it, pdu.RejectInvalidField)
}

// statusAgain repeats responses by their StatSN.
func (b *batch) statusAgain(c *conn, it *item) bool {
	s, r := it.snack, c.recovery
	if !b.started {
		b.started, b.next, b.until = true, s.BegRun, s.BegRun+s.RunLength
		if s.BegRun == 0 && s.RunLength == 0 {
			b.next = r.acked.Load()
		}
		if s.RunLength == 0 {
			b.until = b.statSN
		}
		first := b.statSN
		if len(r.kept) > 0 {
			first = r.kept[0].statSN
		}
		if b.next != b.until && (pdu.Less(b.next, first) || pdu.Less(b.statSN, b.until) || pdu.Less(b.until, b.next)) {
			return b.rejectSNACK(c, it, pdu.RejectProtocolError)
		}
	}
	for ; b.next != b.until; b.next++ {
		if !b.room() {
			return false
		}
		// What has a StatSN is kept, so the numbers are without a gap. Some may be acknowledged meanwhile.
		if len(r.kept) > 0 && b.next-r.kept[0].statSN < uint32(len(r.kept)) {
			b.emitKept(c, &r.kept[b.next-r.kept[0].statSN], 0)
		}
	}
	return true
}

// emitKept sends a kept PDU again, all but ExpCmdSN and MaxCmdSN as it was.
func (b *batch) emitKept(c *conn, k *kept, snackTag uint32) {
	exp, last := c.session.numbers()
	if t := k.it.task; t != nil {
		b.emitResponse(c, t, pdu.Status{StatSN: k.statSN, ExpCmdSN: exp, MaxCmdSN: last}, k.dataSN, snackTag)
		return
	}
	k.it.hdr.SetStatus(k.statSN, exp, last)
	b.pdu(c.agreed.digests, &k.it.hdr, k.it.data)
}

// dataAgain repeats Data-In PDUs; for an R-Data SNACK all that are not acknowledged, and the response with the
// SNACK's tag behind them. Segments never change their length here, so both repeat exact replicas.
func (b *batch) dataAgain(c *conn, it *item) bool {
	s := it.snack
	k := c.recovery.find(func(k *kept) bool { return k.it.task != nil && k.it.task.Tag == s.InitiatorTag })
	if k == nil {
		return b.rejectSNACK(c, it, pdu.RejectProtocolError)
	}
	t := k.it.task
	if !b.started {
		from, until := s.BegRun, s.BegRun+s.RunLength
		if s.BegRun == 0 && s.RunLength == 0 || s.Type == snackDataAgain {
			from = k.acked
		}
		if s.RunLength == 0 || s.Type == snackDataAgain {
			until = k.dataSN
		}
		if pdu.Less(from, k.acked) || pdu.Less(k.dataSN, until) || pdu.Less(until, from) {
			return b.rejectSNACK(c, it, pdu.RejectProtocolError)
		}
		b.started, b.until = true, until
		b.rewind(c, t)
		for pdu.Less(b.dataSN, from) {
			b.skipDataIn(c, t)
		}
	}
	for pdu.Less(b.dataSN, b.until) {
		if !b.room() {
			return false
		}
		b.emitDataIn(c, t, false)
	}
	if s.Type != snackDataAgain {
		return true
	}
	if !b.room() {
		return false
	}
	b.emitKept(c, k, s.TargetTag)
	return true
}

// rejectSNACK turns a SNACK into its Reject and sends that.
func (b *batch) rejectSNACK(c *conn, it *item, reason pdu.RejectReason) bool {
	it.snack = nil
	p := pdu.Reject{Reason: reason}
	p.Encode(&it.hdr)
	return b.emit(c, it)
}

// damaged deals with a PDU that has a wrong digest. It returns nil when the connection can go on: at level 1,
// with the PDU discarded (RFC 7143 7.8).
func (c *conn) damaged(err error) error {
	r := c.recovery
	switch {
	case r == nil:
		return err
	case errors.Is(err, pdu.ErrDataDigest):
		c.answerReject(pdu.RejectDataDigest)
		return nil
	case !errors.Is(err, pdu.ErrHeaderDigest):
		return err
	case r.headerLost || c.header.DataLength() > c.agreed.receiveSegment:
		// The lengths can't be trusted. Only a good header right behind shows that they were.
		return err
	}
	r.headerLost = true
	c.suspect()
	if !r.watching {
		r.watching = true
		c.helper.Go(c.watchLosses)
	}
	select {
	case r.lost <- struct{}{}:
	default:
	}
	return c.skipData()
}

// suspect marks all data under way: a PDU was lost, and nobody knows which.
func (c *conn) suspect() {
	c.gatherMu.Lock()
	defer c.gatherMu.Unlock()
	for _, t := range c.gathering {
		t.suspect = t.unsolicited
		for i := range t.bursts[:t.burstCount] {
			t.bursts[i].suspect = true
		}
	}
}

// watchLosses is a goroutine that runs on a connection that has had a damaged header: data that did not go on
// for recoveryDelay after one is asked for again, since its last PDU may be what was lost.
func (c *conn) watchLosses() {
	timer := time.NewTimer(recoveryDelay)
	defer timer.Stop()
	for {
		select {
		case <-c.closed:
			return
		case <-c.recovery.lost:
			timer.Reset(recoveryDelay)
		case <-timer.C:
			c.recoverSuspects()
		}
	}
}

func (c *conn) recoverSuspects() {
	for again := true; again; {
		again = false
		c.gatherMu.Lock()
		for _, t := range c.gathering {
			if i, there := t.suspected(); there && !t.filling {
				c.moveOn(t, c.recoverData(t, i) && t.begun) // unlocks
				again = true
				break
			}
		}
		if !again {
			c.gatherMu.Unlock()
		}
	}
	c.kick()
}

// suspected finds data that may have been lost: its burst, -1 for unsolicited data.
func (t *task) suspected() (i int, there bool) {
	if t.suspect && t.unsolicited {
		return -1, true
	}
	for i := range t.bursts[:t.burstCount] {
		if t.bursts[i].suspect {
			return i, true
		}
	}
	return 0, false
}

// recoverData asks for what is missing of a burst, or of unsolicited data (-1), whose end has come. It returns true
// when the command can move on by itself. Called with gatherMu held.
func (c *conn) recoverData(t *task, i int) bool {
	t.recoveries++
	if i < 0 {
		t.unsolicited, t.suspect, t.lost = false, false, false
		t.solicited = t.received // the rest is asked for as if it had never been sent
		return true
	}
	if t.recoveries > maxRecoveries {
		t.refusal = &refuseSequence
		t.endBurst(i)
		return t.burstCount == 0
	}
	b := &t.bursts[i]
	if c.agreed.dataPDUInOrder {
		b.begin += b.received // what is before the gap stays
	} else {
		t.received -= b.received
	}
	*b = burst{targetTag: c.nextTargetTag(), r2tSN: t.r2tSN, begin: b.begin, end: b.end}
	t.r2tSN++
	c.pushR2T(t, b)
	return false
}

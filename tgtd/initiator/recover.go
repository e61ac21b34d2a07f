package initiator

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi/pdu"
)

// nudgeAfter is how long nothing comes for commands under way before they are looked after.
const nudgeAfter = 500 * time.Millisecond

// recovery is error recovery level 1 on our side (RFC 7143 7.1.4): PDUs that came damaged are left out, and what is
// missing is asked for by SNACK. It belongs to the reader, which takes data of a command, and responses, in their
// order only: what comes behind a gap is left out too and comes again. A response is not acknowledged before its
// command's data is complete, since the target keeps the data until then.
type recovery struct {
	headerLost bool   // the PDU before had a damaged header
	asked      bool   // responses from expStatSN on were asked for
	blocked    *Task  // its response was left out, since data is missing
	until      uint32 // DataSN at which that is complete
	closing    int    // pauses since the session was closed
	damaged    atomic.Int64
	retried    atomic.Int64
}

// Recovered says how many PDUs came damaged on the present connection, and how many commands were sent again there.
// It is 0, 0 without Options.Recovery.
func (s *Session) Recovered() (damaged, retried int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.conns[0] // there is no other with recovery
	if c == nil || c.recovery == nil {
		return 0, 0
	}
	r := c.recovery
	return int(r.damaged.Load()), int(r.retried.Load())
}

// snack adds a SNACK Request. Tags and numbers are as RFC 7143 11.16 has them.
func (c *conn) snack(p pdu.SNACK) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p.ExpStatSN = c.expStatSN
	p.Encode(c.header())
	c.body(nil)
}

// SNACK types (RFC 7143 11.16.1).
const (
	snackData   = 0 // or R2T
	snackStatus = 1
	snackAck    = 2
)

// askData asks for the data, or R2Ts, of a command from what is missing on, once.
func (c *conn) askData(t *Task) {
	if !t.asked {
		t.asked = true
		c.snack(pdu.SNACK{Type: snackData, InitiatorTag: t.itt, TargetTag: pdu.NoTag, BegRun: t.nextSN})
	}
}

// askStatus asks for all responses from the first missing on, once.
func (c *conn) askStatus() {
	if r := c.recovery; !r.asked {
		r.asked = true
		c.snack(pdu.SNACK{Type: snackStatus, InitiatorTag: pdu.NoTag, TargetTag: pdu.NoTag, BegRun: c.exp()})
	}
}

func (c *conn) exp() uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.expStatSN
}

// discard passes over the data of a PDU.
func (c *conn) discard(n int) error {
	if n == 0 {
		return nil
	}
	n += pdu.Padding(n)
	if c.digests.Data {
		n += pdu.DigestSize
	}
	_, err := io.CopyN(io.Discard, c.r, int64(n))
	return err
}

// await waits for the next PDU to begin. While nothing comes, what is under way is looked after.
func (s *Session) await(c *conn) error {
	for c.r.Buffered() == 0 {
		if err := c.nc.SetReadDeadline(time.Now().Add(nudgeAfter)); err != nil {
			return err
		}
		_, err := c.r.Peek(1)
		if err := c.nc.SetReadDeadline(time.Time{}); err != nil {
			return err
		}
		if err == nil {
			return nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		if err := s.nudge(c); err != nil {
			return err
		}
	}
	return nil
}

// nudge looks after what may have been lost without a trace: commands that the target has not counted are sent again
// under their numbers, responses, data and R2Ts are asked for. What the target does not have, it rejects.
func (s *Session) nudge(c *conn) error {
	s.mu.Lock()
	if s.closed {
		if c.recovery.closing++; time.Duration(c.recovery.closing)*nudgeAfter > loginTimeout {
			s.mu.Unlock()
			return ErrClosed
		}
	}
	var under []*Task
	for _, t := range s.slots {
		if t != nil && t.sent {
			under = append(under, t)
			if !pdu.Less(t.sn, s.expSN) {
				s.retry(c, t)
			}
		}
	}
	s.mu.Unlock()
	if len(under) == 0 {
		return nil
	}
	c.recovery.asked = false
	if c.recovery.blocked == nil {
		c.askStatus()
	}
	for _, t := range under {
		t.asked = false
		c.askData(t)
	}
	c.flushSoon()
	return nil
}

// retry sends a command again under its number (RFC 7143 7.2.1). The session is locked.
func (s *Session) retry(c *conn, t *Task) {
	t.retried = true
	c.recovery.retried.Add(1)
	c.command(t)
}

// recover takes a PDU whose header was read, or failed to be. It returns true when the PDU is dealt with; else the
// PDU is the next one and can be taken as without recovery.
func (s *Session) recover(c *conn, h *pdu.Header, n int, err error) (bool, error) {
	r := c.recovery
	switch {
	case errors.Is(err, pdu.ErrHeaderDigest):
		r.damaged.Add(1)
		// Its length is believed once: the next header shows whether it was right.
		if r.headerLost || h.AHSLength() != 0 || h.DataLength() > maxRecvSegment {
			return true, err
		}
		r.headerLost = true
		return true, c.discard(h.DataLength())
	case err != nil:
		return true, err
	}
	r.headerLost = false
	switch h.Opcode() {
	case pdu.OpDataIn:
		return true, s.recoverData(c, h, n)
	case pdu.OpR2T:
		t, err := s.task(c, h.InitiatorTag())
		var p pdu.R2T
		p.Decode(h)
		return c.outOfOrder(t, err, p.R2TSN), nil
	case pdu.OpNOPIn:
		if h.InitiatorTag() == pdu.NoTag {
			return false, nil
		}
	}
	switch exp := c.exp(); {
	case pdu.Less(h.CmdSN(), exp): // StatSN has the place of CmdSN: a repetition of what has come
		return true, c.discard(n)
	case h.CmdSN() != exp:
		if r.blocked == nil {
			c.askStatus()
		}
		return true, c.discard(n)
	}
	if h.Opcode() == pdu.OpReject {
		return true, s.takeReject(c, h, n)
	}
	if h.Opcode() == pdu.OpSCSIResponse {
		var p pdu.SCSIResponse
		p.Decode(h)
		if t, err := s.task(c, p.InitiatorTag); err == nil && pdu.Less(t.nextSN, p.ExpDataSN) {
			r.blocked, r.until = t, p.ExpDataSN
			c.askData(t)
			return true, c.discard(n)
		}
	}
	r.asked = false
	return false, nil
}

// outOfOrder says whether a Data-In or R2T is not the next one of its command, and asks for what is missing; else it
// counts it. err says that there is no such command.
func (c *conn) outOfOrder(t *Task, err error, sn uint32) bool {
	switch {
	case err != nil, pdu.Less(sn, t.nextSN):
		return true // a repetition
	case sn != t.nextSN:
		c.askData(t)
		return true
	}
	t.nextSN++
	t.asked = false
	return false
}

// recoverData takes a Data-In PDU if it is the next one.
func (s *Session) recoverData(c *conn, h *pdu.Header, n int) error {
	var d pdu.DataIn
	d.Decode(h)
	t, err := s.task(c, d.InitiatorTag)
	if c.outOfOrder(t, err, d.DataSN) {
		return c.discard(n)
	}
	if uint64(d.Offset)+uint64(n) > uint64(len(t.In)) {
		return fmt.Errorf("%w: data beyond the command's length", ErrProtocol)
	}
	if err := c.data(t.In[d.Offset : int(d.Offset)+n]); err != nil {
		if errors.Is(err, pdu.ErrDataDigest) {
			c.recovery.damaged.Add(1)
			t.nextSN--
			c.askData(t)
			return nil
		}
		return err
	}
	t.Moved += n
	if d.Acknowledge {
		c.snack(pdu.SNACK{Type: snackAck, LUN: d.LUN, InitiatorTag: pdu.NoTag, TargetTag: d.TargetTag, BegRun: t.nextSN})
	}
	r := c.recovery
	if d.HasStatus {
		if d.StatSN != c.exp() {
			t.nextSN-- // the status must come in its turn, and the data with it
			t.Moved -= n
			c.askStatus()
			return nil
		}
		r.asked = false
		s.window(c, &d.Status, true)
		s.finish(c, t, d.SCSIStatus, d.Residual)
		return nil
	}
	s.window(c, &d.Status, false)
	if r.blocked == t && t.nextSN == r.until {
		r.blocked, r.asked = nil, false
		c.askStatus()
	}
	return nil
}

// takeReject takes a Reject: a command that came damaged is sent again; what was lost besides is recovered anyway.
func (s *Session) takeReject(c *conn, h *pdu.Header, n int) error {
	var p pdu.Reject
	p.Decode(h)
	refused := make([]byte, n)
	if err := c.data(refused); err != nil {
		return s.lost(c, err)
	}
	c.recovery.asked = false
	s.window(c, &p.Status, true)
	if len(refused) < pdu.HeaderSize {
		return fmt.Errorf("%w: a reject of %d bytes", ErrProtocol, n)
	}
	of := (*pdu.Header)(refused)
	switch {
	case p.Reason == pdu.RejectDataDigest && of.Opcode() == pdu.OpSCSICommand:
		if t, err := s.task(c, of.InitiatorTag()); err == nil { // else it was answered already
			s.mu.Lock()
			s.retry(c, t)
			s.mu.Unlock()
		}
	case p.Reason == pdu.RejectDataDigest, of.Opcode() == pdu.OpSNACK:
	default:
		return fmt.Errorf("%w: it rejects opcode %#x, reason %#x", ErrProtocol, of.Opcode(), p.Reason)
	}
	return nil
}

// lost has a response sent again whose data was damaged.
func (s *Session) lost(c *conn, err error) error {
	if c.recovery == nil || !errors.Is(err, pdu.ErrDataDigest) {
		return err
	}
	c.recovery.damaged.Add(1)
	c.recovery.asked = false
	c.askStatus()
	return nil
}

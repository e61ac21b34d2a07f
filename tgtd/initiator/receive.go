package initiator

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi/pdu"
)

// next reads a PDU's header and returns the length of its data.
func (c *conn) next(h *pdu.Header) (int, error) {
	if _, err := io.ReadFull(c.r, h[:]); err != nil {
		return 0, err
	}
	if c.digests.Header {
		d := c.tail[:pdu.DigestSize]
		if _, err := io.ReadFull(c.r, d); err != nil {
			return 0, err
		}
		if pdu.GetDigest(d) != pdu.Digest(0, h[:]) {
			return 0, pdu.ErrHeaderDigest
		}
	}
	if h.AHSLength() != 0 || h.DataLength() > maxRecvSegment {
		return 0, fmt.Errorf("%w: %d bytes of AHS, %d of data", ErrProtocol, h.AHSLength(), h.DataLength())
	}
	return h.DataLength(), nil
}

// data reads a PDU's data, padding and digest into b.
func (c *conn) data(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if _, err := io.ReadFull(c.r, b); err != nil {
		return err
	}
	tail := c.tail[:]
	pad := pdu.Padding(len(b))
	n := pad
	if c.digests.Data {
		n += pdu.DigestSize
	}
	if _, err := io.ReadFull(c.r, tail[:n]); err != nil {
		return err
	}
	if c.digests.Data && pdu.GetDigest(tail[pad:]) != pdu.Digest(pdu.Digest(0, b), tail[:pad]) {
		return pdu.ErrDataDigest
	}
	return nil
}

// receive takes PDUs until the connection ends.
func (s *Session) receive(c *conn) error {
	var h pdu.Header
	for {
		if c.recovery != nil {
			if err := s.await(c); err != nil {
				return err
			}
		}
		n, err := c.next(&h)
		if c.recovery != nil {
			var done bool
			if done, err = s.recover(c, &h, n, err); done && err == nil {
				s.sendLater(c)
				continue
			}
		}
		if err != nil {
			return err
		}
		switch h.Opcode() {
		case pdu.OpDataIn:
			err = s.takeData(c, &h, n)
		case pdu.OpSCSIResponse:
			err = s.takeResponse(c, &h, n)
		case pdu.OpR2T:
			err = s.takeR2T(c, &h)
		case pdu.OpNOPIn:
			err = s.takeNOP(c, &h, n)
		case pdu.OpTaskResponse:
			err = s.takeTask(c, &h)
		case pdu.OpAsync:
			err = s.takeAsync(c, &h, n)
		case pdu.OpLogoutResponse:
			return io.EOF
		case pdu.OpReject:
			return fmt.Errorf("%w: it rejects what we sent, reason %#x", ErrProtocol, h[2])
		default:
			return fmt.Errorf("%w: opcode %#x", ErrProtocol, h.Opcode())
		}
		if err = s.lost(c, err); err != nil {
			return err
		}
		s.sendLater(c)
	}
}

// sendLater has what gathered sent, once nothing more waits to be read.
func (s *Session) sendLater(c *conn) {
	if c.r.Buffered() == 0 && c.owes() {
		c.flushSoon()
	}
}

// window notes the sequence numbers that a PDU carries, and sends what they let go.
func (s *Session) window(c *conn, st *pdu.Status, counts bool) {
	if counts {
		c.mu.Lock()
		c.expStatSN = st.StatSN + 1
		c.mu.Unlock()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if pdu.Less(s.expSN, st.ExpCmdSN) {
		s.expSN = st.ExpCmdSN
	}
	if pdu.Less(s.maxSN, st.MaxCmdSN) {
		s.maxSN = st.MaxCmdSN
		s.pump()
	}
}

// task is the command under way on a connection with a tag.
func (s *Session) task(c *conn, tag uint32) (*Task, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	slot := tag % (1 << slotBits)
	if slot >= uint32(len(s.slots)) || s.slots[slot] == nil || s.slots[slot].itt != tag || s.slots[slot].conn != c {
		return nil, fmt.Errorf("%w: no command has the tag %#x", ErrProtocol, tag)
	}
	return s.slots[slot], nil
}

func (s *Session) takeData(c *conn, h *pdu.Header, n int) error {
	var d pdu.DataIn
	d.Decode(h)
	t, err := s.task(c, d.InitiatorTag)
	if err != nil {
		return err
	}
	if uint64(d.Offset)+uint64(n) > uint64(len(t.In)) {
		return fmt.Errorf("%w: data beyond the command's length", ErrProtocol)
	}
	if err := c.data(t.In[d.Offset : int(d.Offset)+n]); err != nil {
		return err
	}
	t.Moved += n
	s.window(c, &d.Status, d.HasStatus)
	if d.HasStatus {
		s.finish(c, t, d.SCSIStatus, d.Residual)
	}
	return nil
}

func (s *Session) takeResponse(c *conn, h *pdu.Header, n int) error {
	var r pdu.SCSIResponse
	r.Decode(h)
	t, err := s.task(c, r.InitiatorTag)
	if err != nil {
		return err
	}
	if n > len(t.sense) {
		return fmt.Errorf("%w: %d bytes of sense", ErrProtocol, n)
	}
	if err := c.data(t.sense[:n]); err != nil {
		return err
	}
	if n >= 2 {
		t.Sense = t.sense[2:min(n, 2+int(binary.BigEndian.Uint16(t.sense[:])))]
	}
	s.window(c, &r.Status, true)
	if r.Response != 0 {
		return fmt.Errorf("%w: target failure %#x", ErrProtocol, r.Response)
	}
	s.finish(c, t, r.SCSIStatus, r.Residual)
	return nil
}

func (s *Session) finish(c *conn, t *Task, status byte, r pdu.Residual) {
	t.Status = status
	switch {
	case r.Underflow:
		t.Residual = int(r.Count)
	case r.Overflow:
		t.Residual = -int(r.Count)
	}
	if status != 0 {
		t.status = StatusError{Status: status, Sense: t.Sense}
		t.Err = &t.status
	}
	s.mu.Lock()
	s.retire(t)
	retried := t.retried
	s.mu.Unlock()
	// GOOD means that the target has all the data.
	if status == 0 && !retried || !c.late(t) {
		s.complete(t)
	}
}

func (s *Session) takeR2T(c *conn, h *pdu.Header) error {
	var r pdu.R2T
	r.Decode(h)
	t, err := s.task(c, r.InitiatorTag)
	if err != nil {
		return err
	}
	if r.Length == 0 || uint64(r.Offset)+uint64(r.Length) > uint64(len(t.Out)) {
		return fmt.Errorf("%w: it asks for %d bytes at %d of %d", ErrProtocol, r.Length, r.Offset, len(t.Out))
	}
	s.window(c, &r.Status, false)
	c.mu.Lock()
	c.dataOut(t, r.LUN, r.TargetTag, int(r.Offset), int(r.Length))
	c.mu.Unlock()
	return nil
}

// asyncDropped is the event that a connection, the one that Parameter1 names, is dropped (RFC 7143 11.9.1).
const asyncDropped = 2

// takeAsync takes an asynchronous message (RFC 7143 11.9). SCSI events and a vendor's own mean nothing here; that
// another connection was dropped its own reader sees, and by now it may be there again. All others announce the end of
// this connection, or want it.
func (s *Session) takeAsync(c *conn, h *pdu.Header, n int) error {
	var a pdu.Async
	a.Decode(h)
	if err := c.data(make([]byte, n)); err != nil {
		return err
	}
	s.window(c, &a.Status, true)
	if a.Event == asyncDropped && a.Parameter[0] != c.cid {
		return nil
	}
	if a.Event != 0 && a.Event != 255 {
		return fmt.Errorf("the target ends the connection: asynchronous event %d", a.Event)
	}
	return nil
}

// takeNOP answers the target's ping.
func (s *Session) takeNOP(c *conn, h *pdu.Header, n int) error {
	var p pdu.NOPIn
	p.Decode(h)
	if err := c.data(make([]byte, n)); err != nil {
		return err
	}
	s.window(c, &p.Status, p.InitiatorTag != pdu.NoTag)
	if p.TargetTag == pdu.NoTag {
		return nil
	}
	s.mu.Lock()
	sn := s.cmdSN
	s.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	out := pdu.NOPOut{Immediate: true, LUN: p.LUN, InitiatorTag: pdu.NoTag, TargetTag: p.TargetTag, CmdSN: sn, ExpStatSN: c.expStatSN}
	out.Encode(c.header())
	c.body(nil)
	return nil
}

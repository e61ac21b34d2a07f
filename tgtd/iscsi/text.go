package iscsi

import (
	"fmt"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi/pdu"
)

// maxTextRequest is the longest text of an initiator in full feature phase, in bytes.
const maxTextRequest = 16 << 10

// textRequest takes a Text Request (RFC 7143 11.10): SendTargets, or the wish for more of its answer.
func (c *conn) textRequest() error {
	if !c.agreed.sendTargetsHere {
		return fmt.Errorf("%w: text request in a normal session", errProtocol)
	}
	var req pdu.TextRequest
	req.Decode(&c.header)
	data, err := c.smallData()
	if err != nil {
		return err
	}
	if !c.numbered(early{}) {
		return nil
	}
	defer c.caughtUp()
	if req.TargetTag != pdu.NoTag && len(c.answer) > 0 && len(data) == 0 {
		c.sendText(&req)
		return nil
	}
	if len(c.text)+len(data) > maxTextRequest {
		return c.reject(pdu.RejectProtocolError, fmt.Errorf("%w: endless text", errProtocol))
	}
	c.text = append(c.text, data...)
	if req.Continue {
		c.sendText(&req) // empty: the rest is awaited
		return nil
	}
	kvs, err := pdu.ParseText(c.text)
	c.text = c.text[:0]
	if err != nil {
		return c.reject(pdu.RejectProtocolError, fmt.Errorf("%w: %w", errProtocol, err))
	}
	c.answer = c.answer[:0]
	for _, kv := range kvs {
		if kv.Key == "SendTargets" {
			c.sendTargets(kv.Value)
		} else {
			c.answer = pdu.AppendText(c.answer, kv.Key, answerNotUnderstood)
		}
	}
	c.sendText(&req)
	return nil
}

// sendTargets appends the targets asked for: all, one by its name, or in a normal session its own
// (RFC 7143 Appendix C). Each is shown at the address that the initiator talks to.
func (c *conn) sendTargets(which string) {
	s := c.session
	if s.nexus != nil && which == "" {
		which = s.nexus.TargetName
	}
	if which == "" {
		return
	}
	address := fmt.Sprintf("%v,%d", c.addrs.local, portalGroupTag)
	for _, name := range c.srv.opt.Directory.Discover(c.addrs.remote, s.initiator) {
		// All is for discovery; a normal session may ask for single names.
		if which == name || which == "All" && s.nexus == nil {
			c.answer = pdu.AppendText(c.answer, "TargetName", name)
			c.answer = pdu.AppendText(c.answer, "TargetAddress", address)
		}
	}
}

// sendText sends the next piece of the answer. Like tgt's, pieces are as long as the initiator takes
// them, with the F bit in the last one and a transfer tag, but no C bit, in the others.
func (c *conn) sendText(req *pdu.TextRequest) {
	n := min(len(c.answer), c.agreed.sendSegment)
	it := c.newItem()
	it.data = append(it.data, c.answer[:n]...)
	c.answer = c.answer[n:]
	p := pdu.TextResponse{
		Final:        len(c.answer) == 0 && !req.Continue,
		InitiatorTag: req.InitiatorTag,
		TargetTag:    pdu.NoTag,
	}
	if !p.Final {
		c.textTag = (c.textTag + 1) & 0x7fffffff
		p.TargetTag = c.textTag
	}
	p.Encode(&it.hdr)
	c.push(it)
}

package iscsi

import (
	"fmt"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi/pdu"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/sam"
)

// maxManaging is how many task management functions of a connection may be under way.
const maxManaging = 64

// taskRequest takes a Task Management Function Request (RFC 7143 11.5).
func (c *conn) taskRequest() error {
	if err := c.skipData(); err != nil {
		return err
	}
	if c.session.nexus == nil {
		return fmt.Errorf("%w: task management in a discovery session", errProtocol)
	}
	req := new(pdu.TaskRequest)
	req.Decode(&c.header)
	if c.managing.Load() >= maxManaging {
		c.answerReject(pdu.RejectImmediate)
		return nil
	}
	plugged := req.Immediate && c.session.plug(req)
	if c.numbered(early{conn: c, tmf: req}) {
		c.manage(req, plugged)
		c.caughtUp()
	}
	return nil
}

// manage carries a function out: on commands that still wait for data here, on all others in the target. With
// plugged, the command to be aborted has been kept from beginning already.
func (c *conn) manage(req *pdu.TaskRequest, plugged bool) {
	lun := sam.NoLUN
	if n, ok := pdu.DecodeLUN(req.LUN); ok {
		lun = sam.LUN(n)
	}
	f := sam.Function(req.Function)
	switch f {
	case sam.AbortTask:
		isIt := func(t *task) bool { return t.Tag == req.ReferencedTag }
		if c.dropGathering(isIt) > 0 {
			c.managed(req.InitiatorTag, sam.FunctionComplete)
			return
		}
	case sam.AbortTaskSet, sam.LogicalUnitReset:
		// Before the target is asked: none of them may reach it afterwards.
		c.session.dropGathering(lun, false)
	case sam.ClearACA, sam.ClearTaskSet, sam.TargetWarmReset, sam.TargetColdReset:
	case sam.TaskReassign:
		c.managed(req.InitiatorTag, sam.NotSupported)
		return
	default:
		c.managed(req.InitiatorTag, sam.FunctionRejected)
		return
	}
	c.managing.Add(1)
	c.session.target.Manage(c.session.nexus, f, lun, req.ReferencedTag, func(r sam.Response) {
		if r == sam.FunctionComplete {
			switch f {
			case sam.ClearTaskSet:
				c.session.dropGathering(lun, false)
			case sam.TargetWarmReset, sam.TargetColdReset:
				c.session.dropGathering(0, true)
			}
		}
		if plugged && f == sam.AbortTask && r == sam.TaskDoesNotExist {
			r = sam.FunctionComplete // it will never begin
		}
		c.managing.Add(-1)
		c.managed(req.InitiatorTag, r)
		c.kick()
	})
}

// managed answers a function (RFC 7143 11.6).
func (c *conn) managed(tag uint32, r sam.Response) {
	it := c.newItem()
	p := pdu.TaskResponse{Response: byte(r), InitiatorTag: tag}
	p.Encode(&it.hdr)
	c.push(it)
}

package iscsi

import (
	"errors"
	"io"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi/pdu"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/sam"
)

// What sessions of several connections need beyond those of one. A command belongs to the connection that it came by
// (RFC 7143 4.2.2.1, connection allegiance). When that connection ends and its session goes on, its commands have to
// be over before anybody hears of it: the initiator may issue them again on another connection, and an older write
// must not come after a newer one. With a single connection Detach sees to that.

// track notes a command that is handed to the target. Sessions that can have one connection only pay nothing.
func (c *conn) track(t *task) {
	if c.agreed.maxConnections < 2 {
		return
	}
	c.trackMu.Lock()
	defer c.trackMu.Unlock()
	if c.tracked == nil {
		c.tracked = make(map[*task]struct{})
	}
	c.tracked[t] = struct{}{}
}

// untrack forgets a command that the target is done with.
func (c *conn) untrack(t *task) {
	if c.agreed.maxConnections < 2 {
		return
	}
	c.trackMu.Lock()
	defer c.trackMu.Unlock()
	delete(c.tracked, t)
}

// abortTracked ends the commands of a connection that is gone, and returns when the target is done with all of
// them. If the session ends with the connection Detach will do it.
func (c *conn) abortTracked() {
	s := c.session
	if s.nexus == nil || c.agreed.maxConnections < 2 {
		return
	}
	type name struct {
		lun sam.LUN
		tag uint32
	}
	var under []name
	c.trackMu.Lock()
	for t := range c.tracked {
		under = append(under, name{t.LUN, t.Tag})
	}
	c.trackMu.Unlock()
	for _, u := range under {
		s.target.Manage(s.nexus, sam.AbortTask, u.lun, u.tag, func(sam.Response) {})
	}
	for c.executing.Load() > 0 {
		<-c.idle
	}
}

// tellOfDrop tells the initiator on another connection of its session that one was dropped, unless it did so itself.
func (s *session) tellOfDrop(gone *conn) {
	itself := errors.Is(gone.cause, errLogout) || errors.Is(gone.cause, errReplaced) || errors.Is(gone.cause, io.EOF)
	if s.nexus == nil || itself {
		return
	}
	s.srv.mu.Lock()
	var other *conn
	for _, c := range s.conns {
		if c.full.Load() && !c.broken.Load() {
			other = c
			break
		}
	}
	s.srv.mu.Unlock()
	if other == nil {
		return
	}
	other.sendAsync(pdu.Async{Event: asyncDropped,
		Parameter: [3]uint16{gone.cid, s.agreed.time2Wait, s.agreed.time2Retain}})
}

// plug carries out the part of an immediate task management function that is about commands which have not begun,
// because commands before them are missing (RFC 7143 4.2.2.1, 11.5.1): they will not begin any more, and their
// numbers count as received. ABORT TASK does so for a command that has not come at all, too, if it names its number.
// It returns whether there was any.
func (s *session) plug(req *pdu.TaskRequest) (plugged bool) {
	s.deliver.Lock()
	defer s.deliver.Unlock()
	for sn, e := range s.early {
		if e.task != nil && pdu.Less(sn, req.CmdSN) && covers(req, e.task) {
			e.conn.forget(e.task)
			s.early[sn] = early{}
			plugged = true
		}
	}
	if sam.Function(req.Function) != sam.AbortTask || plugged || !pdu.Less(req.RefCmdSN, req.CmdSN) {
		return plugged
	}
	switch s.order(req.RefCmdSN) {
	case turnLater:
		s.hold(req.RefCmdSN, early{})
	case turnNow:
		s.take(false)
		s.catchUp()
	default:
		return false
	}
	return true
}

// covers says whether a function ends a command that has not begun. The others may be refused by the target, so
// they leave such commands alone.
func covers(req *pdu.TaskRequest, t *task) bool {
	switch sam.Function(req.Function) {
	case sam.AbortTask:
		return t.Tag == req.ReferencedTag
	case sam.AbortTaskSet, sam.LogicalUnitReset:
		lun, ok := pdu.DecodeLUN(req.LUN)
		return ok && t.LUN == sam.LUN(lun)
	}
	return false
}

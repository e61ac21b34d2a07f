package iscsi

import (
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi/pdu"
)

// Events of asynchronous messages (RFC 7143 11.9.1).
const (
	asyncLogout      = 1 // the target wants a logout, within Parameter3 seconds
	asyncDropped     = 2 // the target dropped the connection Parameter1
	asyncDropSession = 3 // the target is going to drop all connections of the session
)

// sendAsync sends an asynchronous message; it may be called from any goroutine.
func (c *conn) sendAsync(a pdu.Async) {
	it := c.newItem()
	a.Encode(&it.hdr)
	c.push(it)
	c.kick()
}

// established lists the connections in full feature phase of a target's normal sessions; of all targets' for
// a negative tid.
func (srv *Server) established(tid int) []*conn {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	var list []*conn
	for _, s := range srv.sessions {
		if s.state != sessionLoggedIn || tid >= 0 && s.tid != tid {
			continue
		}
		for _, c := range s.conns {
			if c.full.Load() && !c.broken.Load() {
				list = append(list, c)
			}
		}
	}
	return list
}

// RequestLogout asks the initiators of a target to log out within Options.LogoutGrace, and does not wait for it.
// Nothing is closed. Without a LogoutGrace nothing happens at all: tgt asks nobody.
func (srv *Server) RequestLogout(tid int) {
	grace := srv.opt.LogoutGrace
	if grace <= 0 {
		return
	}
	seconds := uint16(max(1, min(grace/time.Second, 1<<16-1)))
	for _, c := range srv.established(tid) {
		c.sendAsync(pdu.Async{Event: asyncLogout, Parameter: [3]uint16{2: seconds}})
	}
}

// askToLogOut asks the initiators of sessions that are going to be closed to log out, waits until they have or the
// grace is over, and tells those that are left what happens.
func (srv *Server) askToLogOut(tid int) {
	if srv.opt.LogoutGrace <= 0 {
		return
	}
	srv.RequestLogout(tid)
	timer := time.NewTimer(srv.opt.LogoutGrace)
	defer timer.Stop()
	for _, c := range srv.established(tid) {
		select {
		case <-c.left:
		case <-timer.C:
			srv.tellOfEnd(tid)
			return
		}
	}
}

// tellOfEnd announces the end of sessions, and gives the announcements a moment to leave.
func (srv *Server) tellOfEnd(tid int) {
	type told struct {
		c    *conn
		sent chan struct{}
	}
	var all []told
	for _, c := range srv.established(tid) {
		it := c.newItem()
		it.sent = make(chan struct{})
		all = append(all, told{c, it.sent})
		a := pdu.Async{Event: asyncDropSession, Parameter: [3]uint16{1: c.agreed.time2Wait, 2: c.agreed.time2Retain}}
		a.Encode(&it.hdr)
		c.push(it)
		c.kick()
	}
	timer := time.NewTimer(lingerTime)
	defer timer.Stop()
	for _, a := range all {
		select {
		case <-a.sent:
		case <-a.c.closed:
		case <-timer.C:
			return
		}
	}
}

package iscsi

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi/pdu"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/sam"
)

// The errors of the calls that name a session or connection.
var (
	ErrNoSession    = errors.New("no such session")
	ErrNoConnection = errors.New("no such connection")
)

// sessionState is where a session stands (RFC 7143 8.3).
type sessionState uint8

const (
	sessionFree     sessionState = iota // Q1: being founded, its connection is still logging in
	sessionLoggedIn                     // Q3: attached to its target
	sessionClosing                      // no command is taken any more; Detach may be under way
)

// session is one I_T nexus: the connections that share a command window (RFC 7143 4.2.2.1, 4.4). Discovery
// sessions are sessions without a nexus and are not in the server's table.
type session struct {
	srv       *Server
	id        uint64 // 1, 2, … per daemon; 0 for discovery
	tsih      uint16
	tid       int
	initiator string
	alias     string
	isid      [6]byte
	nexus     *sam.Nexus
	target    sam.Target
	agreed    agreement // of the leading connection; its lengths and window hold for all

	state sessionState // under srv.mu
	conns []*conn      // under srv.mu; oldest first
	done  chan struct{}

	forget   sync.Once
	detached chan struct{} // made by forget, closed when the target has forgotten the nexus

	// window is ExpCmdSN in the upper half and, in the lower, how many commands of the window are under
	// way. One word, so that MaxCmdSN = ExpCmdSN + depth - under way never seems to go back.
	window atomic.Uint64
	// deliver is held while a command is given to the target, so that commands of several
	// connections arrive in the order of their numbers.
	deliver sync.Mutex
	early   map[uint32]early // under deliver: commands ahead of their turn, at most the window
	bytes   atomic.Int64     // of data that commands under way may hold
}

// early is a numbered PDU that came before its turn; empty, a number that only has to count as received.
type early struct {
	conn *conn
	task *task // a SCSI command
	nop  *item // the answer to a NOP-Out, to be sent at its turn
	tmf  *pdu.TaskRequest
}

// turn says when a numbered command is dealt with.
type turn uint8

const (
	turnNow turn = iota
	turnLater
	turnNever // outside of the window, or there already: to be ignored silently (RFC 7143 4.2.2.1)
)

func (s *session) startWindow(cmdSN uint32) { s.window.Store(uint64(cmdSN) << 32) }

// numbers are the ExpCmdSN and MaxCmdSN to tell the initiator. tgt's MaxCmdSN lets one more command in
// than MaxQueueCmd says; initiators see the same number here.
func (s *session) numbers() (expCmdSN, maxCmdSN uint32) {
	w := s.window.Load()
	expCmdSN = uint32(w >> 32)
	return expCmdSN, expCmdSN + uint32(s.agreed.queueDepth) - uint32(w)
}

// order finds the turn of a numbered command. Called with deliver held.
func (s *session) order(cmdSN uint32) turn {
	exp, last := s.numbers()
	switch {
	case pdu.Less(last, cmdSN) || pdu.Less(cmdSN, exp):
		return turnNever
	case cmdSN == exp:
		return turnNow
	}
	if _, there := s.early[cmdSN]; there {
		return turnNever
	}
	return turnLater
}

// received says whether a numbered command is known already: it came, or is held until its turn.
func (s *session) received(cmdSN uint32) bool {
	s.deliver.Lock()
	defer s.deliver.Unlock()
	return s.order(cmdSN) == turnNever
}

// take counts a command as received; one that occupies the window until it is answered takes a slot.
func (s *session) take(slot bool) {
	if slot {
		s.window.Add(1<<32 | 1)
	} else {
		s.window.Add(1 << 32)
	}
}

// release gives a slot of the window back. It returns true when the window had been closed, so that
// the initiator has to hear of it.
func (s *session) release() (wasClosed bool) {
	now := s.window.Add(^uint64(0))
	return uint32(now) >= uint32(s.agreed.queueDepth)
}

// hold keeps a command ahead of its turn. Called with deliver held.
func (s *session) hold(cmdSN uint32, e early) {
	if s.early == nil {
		s.early = make(map[uint32]early)
	}
	s.early[cmdSN] = e
}

// catchUp delivers held commands whose turn has come. Called with deliver held.
func (s *session) catchUp() {
	for len(s.early) > 0 {
		exp, _ := s.numbers()
		e, there := s.early[exp]
		if !there {
			return
		}
		delete(s.early, exp)
		s.take(e.task != nil)
		switch {
		case e.task != nil:
			e.task.slot = true
			e.conn.begin(e.task)
		case e.nop != nil:
			e.conn.push(e.nop)
		case e.tmf != nil:
			e.conn.manage(e.tmf, false)
		}
		if e.conn != nil {
			e.conn.kick()
		}
	}
}

// dropEarly forgets what was held for a connection that ends.
func (s *session) dropEarly(c *conn) {
	s.deliver.Lock()
	defer s.deliver.Unlock()
	for sn, e := range s.early {
		if e.conn == c {
			delete(s.early, sn)
			if e.task != nil {
				c.ungather(e.task)
				c.free(e.task)
			}
		}
	}
}

// dropGathering ends the commands that still wait for data: those of the unit, or of all units. They
// never reached the target, so the transport carries a task management function out on them.
func (s *session) dropGathering(lun sam.LUN, all bool) {
	s.srv.mu.Lock()
	conns := append([]*conn(nil), s.conns...)
	s.srv.mu.Unlock()
	for _, c := range conns {
		c.dropGathering(func(t *task) bool { return all || t.LUN == lun })
	}
}

// sessionKey is what makes a session one (RFC 7143 4.4.3): a second login with the same key replaces it.
type sessionKey struct {
	initiator string
	isid      [6]byte
	tid       int
}

func (s *session) key() sessionKey { return sessionKey{s.initiator, s.isid, s.tid} }

// close ends all connections of a session but the given one, if any. It does not wait.
func (s *session) close(why error, except *conn) {
	s.srv.mu.Lock()
	s.state = sessionClosing
	conns := append([]*conn(nil), s.conns...)
	s.srv.mu.Unlock()
	for _, c := range conns {
		if c != except {
			c.fail(why)
		}
	}
}

// detach has the target forget the nexus, which may take as long as its commands do; the channel is closed then.
// The last connection waits for it when it leaves.
func (s *session) detach() <-chan struct{} {
	s.forget.Do(func() {
		s.detached = make(chan struct{})
		if s.nexus == nil {
			close(s.detached)
			return
		}
		go func() {
			s.target.Detach(s.nexus)
			close(s.detached)
		}()
	})
	return s.detached
}

// endsWith says whether a logout on c ends the session, which then takes no further command.
func (s *session) endsWith(c *conn, all bool) bool {
	s.srv.mu.Lock()
	defer s.srv.mu.Unlock()
	if !all && (len(s.conns) != 1 || s.conns[0] != c) {
		return false
	}
	s.state = sessionClosing
	return true
}

// leave takes a connection out of its session; the last one ends the session. It returns after the
// target has forgotten the nexus.
func (s *session) leave(c *conn) {
	srv := s.srv
	srv.mu.Lock()
	for i := range s.conns {
		if s.conns[i] == c {
			s.conns = append(s.conns[:i:i], s.conns[i+1:]...)
			break
		}
	}
	last := len(s.conns) == 0
	if last {
		s.state = sessionClosing
	}
	srv.mu.Unlock()
	if !last {
		return
	}
	<-s.detach()
	srv.mu.Lock()
	delete(srv.sessions, s.id)
	srv.mu.Unlock()
	close(s.done)
}

// trusted is what an authenticated initiator hears about the session it names: RFC 7143 6.3.1.
func (srv *Server) trusted(l *login) LoginStatus {
	tsih := l.first.TSIH
	if l.discovery {
		if tsih != 0 {
			return l.refuse(SessionDoesNotExist, fmt.Errorf("TSIH %d for discovery", tsih))
		}
		return LoginSuccess
	}
	if tsih == 0 {
		return LoginSuccess
	}
	srv.mu.Lock()
	defer srv.mu.Unlock()
	s := srv.find(sessionKey{l.initiator, l.first.ISID, l.admission.TID})
	switch {
	case s == nil || s.state != sessionLoggedIn:
		return l.refuse(SessionDoesNotExist, fmt.Errorf("TSIH %d", tsih))
	case s.tsih != tsih:
		return l.refuse(TargetNotFound, fmt.Errorf("TSIH %d instead of %d", tsih, s.tsih))
	}
	return LoginSuccess
}

// find looks a session up by its key. Called with srv.mu held.
func (srv *Server) find(k sessionKey) *session {
	for _, s := range srv.sessions {
		if s.key() == k {
			return s
		}
	}
	return nil
}

// wireTSIH is tgt's number on the wire: the session number with its bytes swapped. 0 is no TSIH, so
// numbers that do not fit go round past it.
func wireTSIH(id uint64) uint16 {
	n := uint16((id-1)%65535 + 1)
	return n<<8 | n>>8
}

// establish makes the session of a finished login, or lets the connection join the one it named.
func (c *conn) establish(l *login) (uint16, LoginStatus) {
	agreed := l.nego.agreement()
	c.agreed = agreed
	switch {
	case l.discovery:
		c.agreed.sendTargetsHere = true
		s := &session{srv: c.srv, agreed: c.agreed, initiator: l.initiator, done: make(chan struct{})}
		s.startWindow(l.first.CmdSN)
		c.srv.mu.Lock()
		s.conns = []*conn{c}
		c.srv.mu.Unlock()
		c.session = s
		return wireTSIH(1), LoginSuccess
	case l.first.TSIH != 0:
		return c.join(l)
	}
	return c.found(l)
}

// join adds a connection to a living session (RFC 7143 6.3.1). A connection with the same CID is
// replaced (6.3.4).
func (c *conn) join(l *login) (uint16, LoginStatus) {
	srv := c.srv
	for {
		srv.mu.Lock()
		s := srv.find(sessionKey{l.initiator, l.first.ISID, l.admission.TID})
		if s == nil || s.state != sessionLoggedIn || s.tsih != l.first.TSIH {
			srv.mu.Unlock()
			return 0, l.refuse(SessionDoesNotExist, errors.New("the session has ended"))
		}
		var old *conn
		for _, other := range s.conns {
			if other.cid == l.first.CID {
				old = other
			}
		}
		if old == nil {
			defer srv.mu.Unlock()
			if len(s.conns) >= s.agreed.maxConnections {
				return 0, l.refuse(TooManyConnections, fmt.Errorf("%d connections", len(s.conns)))
			}
			s.conns = append(s.conns, c)
			c.joinAgreement(s)
			return s.tsih, LoginSuccess
		}
		srv.mu.Unlock()
		old.fail(errReplaced)
		select {
		case <-old.left:
		case <-c.closed:
			return 0, l.refuse(ServiceUnavailable, errors.New("connection lost"))
		}
	}
}

// joinAgreement takes over what the leading connection agreed on for the whole session.
func (c *conn) joinAgreement(s *session) {
	own := c.agreed
	c.agreed = s.agreed
	c.agreed.digests = own.digests
	c.agreed.sendSegment = own.sendSegment
	c.agreed.receiveSegment = own.receiveSegment
	c.session = s
}

// found makes a new session. An old one of the same initiator and ISID is ended first, and entirely:
// none of its commands can take effect any more when the new session begins (RFC 7143 6.3.5).
func (c *conn) found(l *login) (uint16, LoginStatus) {
	srv := c.srv
	s := &session{
		srv:       srv,
		tid:       l.admission.TID,
		initiator: l.initiator,
		alias:     l.alias,
		isid:      l.first.ISID,
		target:    l.admission.Target,
		agreed:    c.agreed,
		conns:     []*conn{c},
		done:      make(chan struct{}),
	}
	s.agreed.sendTargetsHere = srv.opt.SendTargetsInNormalSessions
	s.startWindow(l.first.CmdSN)
	for {
		srv.mu.Lock()
		old := srv.find(s.key())
		if old == nil {
			break
		}
		srv.mu.Unlock()
		old.close(errors.New("replaced by a new session of the same initiator and ISID"), nil)
		select {
		case <-old.done:
		case <-c.closed:
			return 0, l.refuse(ServiceUnavailable, errors.New("connection lost"))
		}
	}
	srv.lastSession++
	s.id = srv.lastSession
	s.tsih = wireTSIH(s.id)
	srv.sessions[s.id] = s
	c.session = s
	srv.mu.Unlock()
	c.agreed.sendTargetsHere = s.agreed.sendTargetsHere

	// The target may have gone between the first request and now. It is asked again once the session
	// is in the table: either this sees its removal, or CloseTarget sees the session.
	again := srv.opt.Directory.Admit(l.target, l.initiator, l.peer.remote, l.peer.local)
	srv.mu.Lock()
	if again.Status != LoginSuccess || again.Target != s.target || s.state == sessionClosing {
		srv.mu.Unlock()
		return 0, l.refuse(TargetRemoved, errors.New("the target changed during login"))
	}
	s.state = sessionLoggedIn
	s.nexus = l.nexus(s.id)
	srv.mu.Unlock()
	s.target.Attach(s.nexus)
	return s.tsih, LoginSuccess
}

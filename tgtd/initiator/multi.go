package initiator

import (
	"cmp"
	"context"
	"slices"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi/pdu"
)

// Several connections in one session (RFC 7143 4.2.2.1, 4.4.3). They share numbers and window of commands; a command
// belongs to the connection it was issued on. When a connection is lost and others live, it is taken up again under its
// number (6.3.4): the target has then ended what the lost one carried, and its login response says which commands had come.
// Those that had not are sent again under their numbers, without which the target would wait for them for ever; the others
// are issued anew. When none lives, the session begins again, as with one connection.

// membership is what a connection needs to know of the session that it joins.
type membership struct {
	neg   negotiated // with the first connection
	cmdSN uint32
}

// connections is how many the session may have.
func (o *Options) connections() int { return max(o.Connections, 1) }

// someConn is the connection whose turn it is, nil if there is none. The session is locked.
func (s *Session) someConn() *conn {
	for range s.conns {
		c := s.conns[s.next]
		s.next = (s.next + 1) % len(s.conns)
		if c != nil {
			return c
		}
	}
	return nil
}

// joinAll brings all connections but the first into a new session.
func (s *Session) joinAll(ctx context.Context) error {
	for cid := 1; cid < len(s.conns); cid++ {
		s.logins.Lock()
		c, err := s.join(ctx, uint16(cid))
		s.logins.Unlock()
		if err != nil {
			return err
		}
		s.start(c)
	}
	return nil
}

// join makes a connection of the living session. logins is held.
func (s *Session) join(ctx context.Context, cid uint16) (*conn, error) {
	s.mu.Lock()
	m := &membership{s.neg, s.cmdSN}
	s.mu.Unlock()
	c, err := dialTarget(ctx, &s.o, s.isid, cid, m)
	if err != nil {
		return nil, err
	}
	if !s.rejoin(c) {
		c.close()
		return nil, ErrClosed
	}
	return c, nil
}

// revive logs in again on a connection that was lost: into the session if one of its others lives, else to begin it
// anew. It returns ErrClosed once the session is closed.
func (s *Session) revive(cid uint16) (*conn, error) {
	s.logins.Lock()
	defer s.logins.Unlock()
	s.mu.Lock()
	closed, lives := s.closed, s.someConn() != nil
	s.mu.Unlock()
	if closed {
		return nil, ErrClosed
	}
	if lives {
		c, err := s.join(s.ctx, cid)
		if err == nil {
			s.mu.Lock()
			s.rejoins++
			s.mu.Unlock()
		}
		return c, err
	}
	c, err := dialTarget(s.ctx, &s.o, s.isid, cid, nil)
	if err != nil {
		return nil, err
	}
	if !s.adopt(c) {
		c.close()
		return nil, ErrClosed
	}
	s.mu.Lock()
	s.relogin++
	s.mu.Unlock()
	return c, nil
}

// rejoin makes c a connection of the session, and sends what its predecessor carried. It returns false if the session
// was closed meanwhile.
func (s *Session) rejoin(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.conns[c.cid] = c
	if pdu.Less(s.expSN, c.expSN) {
		s.expSN = c.expSN
	}
	if pdu.Less(s.maxSN, c.maxSN) {
		s.maxSN = c.maxSN
	}
	for _, t := range s.slots {
		switch {
		case t == nil || !t.sent || t.conn != nil || t.cid != c.cid:
		case pdu.Less(t.sn, c.expSN): // it had come, and is over
			t.clear()
			s.unsent = append(s.unsent, t)
		default:
			sn := t.sn
			t.clear()
			t.sn, t.sent, t.conn = sn, true, c
			c.command(t)
		}
	}
	slices.SortFunc(s.unsent, func(a, b *Task) int { return cmp.Compare(a.seq, b.seq) })
	s.pump()
	return true
}

// Connections is how many connections the session has now.
func (s *Session) Connections() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		if c != nil {
			n++
		}
	}
	return n
}

// Rejoins counts how often a lost connection was taken up again while others of the session lived.
func (s *Session) Rejoins() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rejoins
}

package initiator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi/pdu"
)

// Session is an iSCSI session. Its methods may be called from any goroutine,
// but not from within Done, save Again.
type Session struct {
	o    Options
	isid [6]byte

	mu      sync.Mutex
	room    sync.Cond  // signalled when a slot opens, or at the end
	slots   []*Task    // by tag; nil has no command under way
	held    []bool     // by tag: the command is over and its Done is running
	free    []uint32   // tags that are neither
	unsent  []*Task    // in slots, and waiting for a connection or the command window; in order
	conns   []*conn    // by CID; nil while there is none
	next    int        // index of the connection that the next command goes by
	running int        // readers, of all connections
	rejoins int        // connections that were taken up again in a living session
	neg     negotiated // with the session's first connection
	cmdSN   uint32
	maxSN   uint32
	expSN   uint32 // ExpCmdSN as last heard
	seq     uint64 // of the latest submission
	issues  uint32 // of commands, with recovery
	closed  bool
	err     error
	relogin int         // times the session was taken up again
	managed *management // the task management function under way

	managing sync.Mutex // held while a task management function is under way
	logins   sync.Mutex // held while a connection logs in
	ctx      context.Context
	cancel   context.CancelFunc
	tasks    sync.WaitGroup
}

// Login opens a session with a target. Besides the network's errors it returns ErrProtocol, ErrMutual and
// *LoginError.
func Login(ctx context.Context, o Options) (*Session, error) {
	if o.Depth == 0 {
		o.Depth = 32
	}
	switch {
	case o.Depth < 1 || o.Depth > MaxDepth:
		return nil, fmt.Errorf("depth %d: 1 to %d commands can be under way", o.Depth, MaxDepth)
	case o.Connections < 0 || o.Connections > MaxConnections:
		return nil, fmt.Errorf("%d connections: 1 to %d make a session", o.Connections, MaxConnections)
	case o.connections() > 1 && o.Recovery:
		return nil, fmt.Errorf("log in to %s: there is no error recovery level 1 with several connections", o.Portal)
	case o.Target == "":
		return nil, fmt.Errorf("log in to %s: no target is named", o.Portal)
	case o.Recovery && !(o.HeaderDigest && o.DataDigest):
		return nil, fmt.Errorf("log in to %s: error recovery needs both digests", o.Portal)
	case o.MutualUser != "" && o.MutualSecret == o.Secret:
		// Otherwise our own proof could be had back as the target's (RFC 7143 9.2.1).
		return nil, fmt.Errorf("log in to %s: the same secret in both directions proves nothing", o.Portal)
	}
	s := &Session{o: o, isid: newISID(), slots: make([]*Task, o.Depth), held: make([]bool, o.Depth),
		unsent: make([]*Task, 0, o.Depth)}
	s.room.L = &s.mu
	for i := range s.slots {
		s.free = append(s.free, uint32(i))
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	c, err := dialTarget(ctx, &s.o, s.isid, 0, nil)
	if err != nil {
		s.cancel()
		return nil, err
	}
	s.conns = make([]*conn, min(o.connections(), c.neg.connections))
	s.adopt(c)
	s.start(c)
	if err := s.joinAll(ctx); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// dial makes a connection and logs in on it.
func dial(ctx context.Context, o *Options, isid [6]byte, cid uint16, joins *membership) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, loginTimeout)
	defer cancel()
	var d net.Dialer
	nc, err := d.DialContext(ctx, "tcp", o.Portal)
	if err != nil {
		return nil, err
	}
	// The context ends the login by way of the connection.
	stop := context.AfterFunc(ctx, func() { nc.SetDeadline(time.Unix(1, 0)) })
	c := newConn(nc)
	c.cid, c.joins = cid, joins
	err = c.login(o, isid)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		nc.Close()
		if ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", ctx.Err(), err)
		}
		return nil, fmt.Errorf("log in to %q at %s: %w", o.Target, o.Portal, err)
	}
	return c, nil
}

// adopt makes c the session's first connection and issues everything under way on it. The login has ended the
// former connection at the target, with all its commands (RFC 7143 6.3.5, session reinstatement), so that none
// of them can take effect after its second issue. It returns false if the session was closed meanwhile.
func (s *Session) adopt(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.conns[c.cid], s.neg = c, c.neg
	s.cmdSN, s.maxSN, s.expSN = c.cmdSN, c.maxSN, c.cmdSN
	s.unsent = s.unsent[:0]
	for _, t := range s.slots {
		if t != nil {
			t.clear()
			s.unsent = append(s.unsent, t)
		}
	}
	slices.SortFunc(s.unsent, func(a, b *Task) int { return cmp.Compare(a.seq, b.seq) })
	s.pump()
	return true
}

// pump puts commands into the outgoing data of the connections, one after the other, as far as the command window
// reaches (RFC 7143 4.2.2.1). The session is locked.
func (s *Session) pump() {
	n := 0
	for n < len(s.unsent) && int32(s.maxSN-s.cmdSN) >= 0 {
		c := s.someConn()
		if c == nil {
			break
		}
		t := s.unsent[n]
		t.sn, t.sent, t.itt, t.conn, t.cid = s.cmdSN, true, t.tag, c, c.cid
		if c.recovery != nil {
			// What is repeated for a command that is over must not be taken for the next one's in its slot.
			s.issues = (s.issues + 1) % (1 << (31 - slotBits))
			t.itt |= s.issues << slotBits
		}
		s.cmdSN++
		c.command(t)
		if len(s.conns) > 1 {
			c.flushSoon() // nobody else may look after this one
		}
		n++
	}
	s.unsent = slices.Delete(s.unsent, 0, n)
}

// start begins to read what comes on a connection.
func (s *Session) start(c *conn) {
	s.mu.Lock()
	s.running++
	s.mu.Unlock()
	s.tasks.Go(func() { s.run(c) })
}

// run reads responses until the session ends, over as many connections with one number as it takes. The last one to
// leave ends the session.
func (s *Session) run(c *conn) {
	for cid := c.cid; c != nil; {
		var sender sync.WaitGroup
		sender.Go(func() { c.run(s) })
		c.flushSoon()
		err := s.receive(c)
		c.close()
		sender.Wait()
		s.drop(c, err)
		c = s.again(cid, err)
	}
	s.mu.Lock()
	s.running--
	last, why := s.running == 0, s.why()
	s.mu.Unlock()
	if last {
		s.end(why)
	}
}

// drop takes a connection that is lost out of the session.
func (s *Session) drop(c *conn, why error) {
	s.mu.Lock()
	s.conns[c.cid] = nil
	for _, t := range s.slots {
		if t != nil && t.conn == c {
			t.conn = nil
		}
	}
	m := s.managed
	if m != nil && m.conn == c {
		s.managed = nil
	} else {
		m = nil
	}
	s.mu.Unlock()
	if m != nil {
		m.finish(0, fmt.Errorf("the connection was lost: %w", why))
	}
}

// again logs in anew after a connection was lost, or gives the session up when it may not or can't.
func (s *Session) again(cid uint16, cause error) *conn {
	if s.o.Reconnect == 0 {
		s.giveUp(cause)
		return nil
	}
	pause := reconnectMin
	for deadline := time.Now().Add(s.o.Reconnect); time.Now().Before(deadline); pause = min(2*pause, reconnectMax) {
		c, err := s.revive(cid)
		if c != nil || errors.Is(err, ErrClosed) {
			return c
		}
		cause = err
		select {
		case <-s.ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
	s.giveUp(fmt.Errorf("no new login within %v: %w", s.o.Reconnect, cause))
	return nil
}

// giveUp closes the session for a reason, which ends the other connections, too.
func (s *Session) giveUp(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed, s.err = true, cause
	}
	for _, c := range s.conns {
		if c != nil {
			c.nc.Close()
		}
	}
	s.cancel()
	s.room.Broadcast()
}

// end fails everything under way.
func (s *Session) end(err error) {
	s.mu.Lock()
	s.closed = true
	if s.err == nil {
		s.err = err
	}
	var left []*Task
	for tag, t := range s.slots {
		if t != nil {
			left = append(left, t)
			s.slots[tag] = nil
		}
	}
	s.unsent = s.unsent[:0]
	s.room.Broadcast()
	s.mu.Unlock()
	for _, t := range left {
		t.Err = err
		t.Done(t)
	}
}

// why is the error of a closed session. The session is locked.
func (s *Session) why() error {
	if s.err == nil {
		return ErrClosed
	}
	return s.err
}

// check refuses what can't be sent.
func (t *Task) check() error {
	if _, ok := pdu.EncodeLUN(t.LUN); !ok {
		return fmt.Errorf("no LUN has the number %d", t.LUN)
	}
	if n := max(len(t.In), len(t.Out)); n > MaxTransfer {
		return fmt.Errorf("a command of %d bytes: at most %d can be moved", n, MaxTransfer)
	}
	if len(t.In) > 0 && len(t.Out) > 0 {
		return errors.New("a command with data in both directions")
	}
	return nil
}

// Submit starts a command. It waits while as many as the depth are under way, and no longer: a command
// that finds no connection, or the target's command window closed, goes out when there is one. Commands go out
// in the order of their submission. If the command can't be sent, or the session has ended, Done is called
// before Submit returns.
func (s *Session) Submit(t *Task) {
	err := t.check()
	s.mu.Lock()
	for err == nil && !s.closed && len(s.free) == 0 {
		s.room.Wait()
	}
	if err == nil && s.closed {
		err = s.why()
	}
	if err != nil {
		s.mu.Unlock()
		t.clear()
		t.Err = err
		t.Done(t)
		return
	}
	tag := s.free[len(s.free)-1]
	s.free = s.free[:len(s.free)-1]
	s.enter(t, tag)
	c := t.conn
	s.mu.Unlock()
	if c != nil {
		c.flush()
	}
}

// Again submits a task anew, with whatever it holds now, from within its Done. It takes the place that the
// task had, so that it never waits. When the command can't be sent, or the session has ended, it returns the
// error and Done is not called.
func (s *Session) Again(t *Task) error {
	if err := t.check(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return s.why()
	}
	if !s.held[t.tag] || s.slots[t.tag] != nil {
		panic("initiator: Again outside of the task's Done")
	}
	s.enter(t, t.tag)
	return nil
}

// enter gives a task its tag and its place in the order. The session is locked.
func (s *Session) enter(t *Task, tag uint32) {
	t.clear()
	s.seq++
	t.tag, t.seq = tag, s.seq
	s.slots[tag] = t
	s.unsent = append(s.unsent, t)
	s.pump()
}

// retire takes a command that is over out of its slot. The session is locked.
func (s *Session) retire(t *Task) {
	s.slots[t.tag] = nil
	s.held[t.tag] = true
}

// complete calls Done of a retired task and gives its tag back, unless it was submitted again meanwhile.
func (s *Session) complete(t *Task) {
	tag := t.tag
	t.Done(t)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held[tag] = false
	if s.slots[tag] == nil {
		s.free = append(s.free, tag)
		s.room.Signal()
	}
}

// Do carries a command out and returns its error.
func (s *Session) Do(t *Task) error {
	done := make(chan struct{})
	t.Done = func(*Task) { close(done) }
	s.Submit(t)
	<-done
	return t.Err
}

// Relogins counts how often the session was taken up again on a new connection.
func (s *Session) Relogins() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.relogin
}

// Close logs out and ends the session; what is under way fails with ErrClosed. It returns when every Done
// was called and every goroutine has ended.
func (s *Session) Close() error {
	s.mu.Lock()
	first := !s.closed
	s.closed = true
	c, sn := s.someConn(), s.cmdSN
	for _, each := range s.conns {
		if each != nil && first {
			each.nc.SetDeadline(time.Now().Add(loginTimeout))
		}
	}
	s.room.Broadcast()
	s.mu.Unlock()
	if c != nil && first {
		c.logout(sn)
		c.flush()
	}
	s.cancel()
	s.tasks.Wait()
	return nil
}

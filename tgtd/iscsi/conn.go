package iscsi

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi/bufpool"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi/pdu"
)

// Why connections end, besides errors of the socket.
var (
	errProtocol   = errors.New("protocol error of the initiator")
	errLogout     = errors.New("logged out")
	errRefused    = errors.New("login refused")
	errNotReading = errors.New("the initiator does not read its answers")
	errNOPTimeout = errors.New("the initiator does not answer NOP-In")
	errAdmin      = errors.New("closed by the administrator")
	errShutdown   = errors.New("the server ends")
	errReplaced   = errors.New("replaced by a new connection of the same CID")
	errTimeout    = errors.New("login took too long")
	errCrowdedOut = errors.New("too many connections in login")
)

// lingerTime is how long an ended connection waits for its last answer to be sent and for the initiator to
// close its side.
const lingerTime = 2 * time.Second

// maxControlData is the longest data segment of PDUs other than login, SCSI command and Data-Out.
const maxControlData = 64 << 10

// connAddrs are the two ends of a connection, IPv4-mapped addresses unmapped.
type connAddrs struct{ remote, local netip.AddrPort }

// connStats count what went over a connection.
type connStats struct {
	rxOctets, txOctets        atomic.Uint64
	commandPDUs, responsePDUs atomic.Uint64
	dataInPDUs, dataOutPDUs   atomic.Uint64
}

// conn is one TCP connection. Its goroutines are the reader, which runs serve from beginning to end and
// owns the fields of the first group, the writer, and the pinger when NOP-In pings are wanted.
type conn struct {
	srv      *Server
	nc       net.Conn
	raw      syscall.RawConn
	addrs    connAddrs
	cid      uint16
	agreed   agreement   // fixed when full feature phase begins
	session  *session    // set by login
	verdict  LoginStatus // how a login ended, unless it was abandoned
	recovery *recovery   // nil at error recovery level 0; set by login

	rd       reader
	rdBuf    *bufpool.Buffer
	header   pdu.Header
	dataRead bool // the data segment of the PDU was taken from the socket
	ahs      []byte
	ahsBuf   [255 * 4]byte
	text     []byte // pieces of a text request
	answer   []byte // what is left of a long text response
	textTag  uint32 // target transfer tag of that response

	gatherMu      sync.Mutex
	gathering     map[uint32]*task // commands waiting for data, by initiator task tag
	lastTargetTag uint32           // under gatherMu

	executing  atomic.Int32         // commands with the target
	managing   atomic.Int32         // task management functions with the target
	current    atomic.Pointer[task] // being executed in the reader goroutine
	unanswered atomic.Int32         // NOP-In pings
	idle       chan struct{}        // told when the target is done with the last command of a broken connection

	trackMu sync.Mutex
	tracked map[*task]struct{} // commands with the target, where the session has room for more connections

	out   outQueue
	batch batch // belongs to whoever has set out.busy
	wake  chan struct{}

	stats  connStats
	full   atomic.Bool   // in full feature phase
	broken atomic.Bool   // nothing is sent any more
	closed chan struct{} // closed when the socket is
	left   chan struct{} // closed when the connection has left its session
	once   sync.Once
	cause  error // why it ended; written once, before closed is closed
	helper sync.WaitGroup
}

// newConn wraps an accepted connection.
func newConn(srv *Server, nc net.Conn) (*conn, error) {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("%T has no file descriptor", nc)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("connection of %v: %w", nc.RemoteAddr(), err)
	}
	c := &conn{
		srv:       srv,
		nc:        nc,
		raw:       raw,
		addrs:     connAddrs{addrPort(nc.RemoteAddr()), addrPort(nc.LocalAddr())},
		gathering: make(map[uint32]*task),
		wake:      make(chan struct{}, 1),
		closed:    make(chan struct{}),
		idle:      make(chan struct{}, 1),
		left:      make(chan struct{}),
	}
	c.out.closed = true // until the writer goroutine runs
	return c, nil
}

func addrPort(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// fail ends the connection at once. It may be called from any goroutine and any number of times.
func (c *conn) fail(why error) {
	c.once.Do(func() {
		c.cause = why
		c.broken.Store(true)
		c.nc.Close()
		close(c.closed)
	})
}

// serve is the connection's life. It returns when everything that belongs to it is gone.
func (c *conn) serve() {
	c.rdBuf = c.srv.buffers.Get(readBufferSize)
	c.rd = reader{nc: c.nc, buf: c.rdBuf.Data, pause: func() {}}
	timer := time.AfterFunc(c.srv.opt.LoginTimeout, func() { c.fail(errTimeout) })
	err := c.login()
	timer.Stop()
	c.srv.loggedIn(c)
	c.srv.countLogin(c, err)
	if err == nil {
		err = c.fullFeature()
	}
	if errors.Is(err, errProtocol) || errors.Is(err, errLogout) || errors.Is(err, errRefused) {
		c.linger()
	}
	c.fail(err)
	c.helper.Wait()
	if c.session != nil {
		c.session.dropEarly(c) // first: nothing of this connection begins any more
		c.dropAll()
		c.abortTracked()
		if c.recovery != nil {
			c.trim()
		}
		c.session.leave(c)
		c.session.tellOfDrop(c)
	}
	close(c.left)
	c.srv.buffers.Put(c.rdBuf)
	c.logEnd()
}

// dropAll frees commands that wait for data which will not come.
func (c *conn) dropAll() {
	c.gatherMu.Lock()
	gone := slices.Collect(maps.Values(c.gathering))
	clear(c.gathering)
	c.gatherMu.Unlock()
	for _, t := range gone {
		c.free(t)
	}
}

func (c *conn) logEnd() {
	log := c.srv.opt.Logger.With("peer", c.addrs.remote)
	if s := c.session; s != nil {
		log = log.With("initiator", s.initiator)
		if s.id != 0 {
			log = log.With("session", s.id, "connection", c.cid)
		}
	}
	switch {
	case errors.Is(c.cause, errRefused):
		// reported where it was decided
	case c.session == nil && errors.Is(c.cause, io.EOF):
		log.Debug("iscsi: connection ended", "why", c.cause) // a look at the port
	case c.cause == io.EOF, errors.Is(c.cause, errLogout):
		log.Info("iscsi: connection ended", "why", c.cause)
	default:
		log.Warn("iscsi: connection closed", "why", c.cause)
	}
}

// fullFeature is the full feature phase (RFC 7143 4.3, connection state S5).
func (c *conn) fullFeature() error {
	c.rd.pause = c.flush
	c.out.mu.Lock()
	c.out.closed = false
	c.out.mu.Unlock()
	c.helper.Go(c.writeLoop)
	c.full.Store(true)
	if c.recovery == nil && c.agreed.errorRecovery > 0 {
		panic("iscsi: no recovery")
	}
	if c.agreed.nopInterval > 0 && c.session.nexus != nil {
		c.helper.Go(c.ping)
	}
	for {
		err := c.readHeader()
		if err == nil {
			if c.recovery != nil {
				c.recovery.headerLost = false
				c.acknowledge(c.header.ExpStatSN())
			}
			err = c.dispatch()
		}
		if err != nil {
			if err = c.damaged(err); err != nil {
				return err
			}
		}
	}
}

// readHeader reads header, additional headers and their digest of the next PDU.
func (c *conn) readHeader() error {
	b, err := c.rd.next(pdu.HeaderSize)
	if err != nil {
		return err
	}
	copy(c.header[:], b)
	c.dataRead = false
	size := pdu.HeaderSize
	c.ahs = c.ahsBuf[:c.header.AHSLength()]
	if len(c.ahs) > 0 {
		if b, err = c.rd.next(len(c.ahs)); err != nil {
			return unexpected(err)
		}
		size += copy(c.ahs, b)
	}
	if c.agreed.digests.Header && c.session != nil {
		if b, err = c.rd.next(pdu.DigestSize); err != nil {
			return unexpected(err)
		}
		size += pdu.DigestSize
		if want := pdu.GetDigest(b); pdu.Digest(pdu.Digest(0, c.header[:]), c.ahs) != want {
			return fmt.Errorf("receiving: %w", pdu.ErrHeaderDigest)
		}
	}
	if n := c.header.DataLength(); n > 0 {
		size += n + pdu.Padding(n)
		if c.agreed.digests.Data && c.session != nil {
			size += pdu.DigestSize
		}
	}
	c.stats.rxOctets.Add(uint64(size))
	return nil
}

// readData reads the data segment into p, which has its length, and checks the digest.
func (c *conn) readData(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	c.dataRead = true
	if err := c.rd.full(p); err != nil {
		return err
	}
	tail := pdu.Padding(len(p))
	if c.agreed.digests.Data && c.session != nil {
		tail += pdu.DigestSize
	}
	if tail == 0 {
		return nil
	}
	b, err := c.rd.next(tail)
	if err != nil {
		return unexpected(err)
	}
	if pad := pdu.Padding(len(p)); tail > pad && pdu.Digest(pdu.Digest(0, p), b[:pad]) != pdu.GetDigest(b[pad:]) {
		return fmt.Errorf("receiving: %w", pdu.ErrDataDigest)
	}
	return nil
}

// skipData passes over the data segment.
func (c *conn) skipData() error {
	n := c.header.DataLength()
	if n == 0 {
		return nil
	}
	n += pdu.Padding(n)
	if c.agreed.digests.Data {
		n += pdu.DigestSize
	}
	return c.rd.skip(n)
}

// smallData reads a data segment of a PDU that carries no SCSI data.
func (c *conn) smallData() ([]byte, error) {
	n := c.header.DataLength()
	if n > maxControlData {
		return nil, c.reject(pdu.RejectInvalidField, fmt.Errorf("%w: %d bytes of data", errProtocol, n))
	}
	p := make([]byte, n)
	return p, c.readData(p)
}

// dispatch deals with the PDU whose header was read.
func (c *conn) dispatch() error {
	if n := c.header.DataLength(); n > c.agreed.receiveSegment {
		return c.reject(pdu.RejectInvalidField,
			fmt.Errorf("%w: %d bytes in one PDU, %d agreed on", errProtocol, n, c.agreed.receiveSegment))
	}
	switch op := c.header.Opcode(); op {
	case pdu.OpSCSICommand:
		return c.command()
	case pdu.OpDataOut:
		return c.dataOut()
	case pdu.OpNOPOut:
		return c.nopOut()
	case pdu.OpTaskRequest:
		return c.taskRequest()
	case pdu.OpTextRequest:
		return c.textRequest()
	case pdu.OpLogoutRequest:
		return c.logout()
	case pdu.OpSNACK:
		if c.recovery != nil {
			return c.snack()
		}
		fallthrough // at error recovery level 0 there is nothing to recover
	default:
		return fmt.Errorf("%w: opcode %02x in full feature phase", errProtocol, byte(op))
	}
}

// numbered brings a PDU that is no SCSI command into the session's order. It returns true when the PDU
// is to be dealt with now; e is kept for later, where it can be.
func (c *conn) numbered(e early) bool {
	s := c.session
	if c.header.Immediate() {
		return true
	}
	s.deliver.Lock()
	defer s.deliver.Unlock()
	switch s.order(c.header.CmdSN()) {
	case turnNow:
		s.take(false)
		return true
	case turnLater:
		if e.conn != nil {
			s.hold(c.header.CmdSN(), e)
		}
	}
	return false
}

// caughtUp delivers what waited for the PDU that was just dealt with.
func (c *conn) caughtUp() {
	s := c.session
	s.deliver.Lock()
	s.catchUp()
	s.deliver.Unlock()
}

// nopOut answers a ping, or takes the answer to one of ours (RFC 7143 11.18).
func (c *conn) nopOut() error {
	var p pdu.NOPOut
	p.Decode(&c.header)
	data, err := c.smallData()
	if err != nil {
		return err
	}
	if p.TargetTag != pdu.NoTag {
		c.unanswered.Store(0)
	}
	if p.InitiatorTag == pdu.NoTag {
		if c.numbered(early{}) {
			c.caughtUp()
		}
		return nil
	}
	if c.session.nexus == nil {
		return fmt.Errorf("%w: NOP-Out in a discovery session", errProtocol)
	}
	it := c.newItem()
	answer := pdu.NOPIn{LUN: p.LUN, InitiatorTag: p.InitiatorTag, TargetTag: pdu.NoTag}
	answer.Encode(&it.hdr)
	it.data = data[:min(len(data), c.agreed.sendSegment)]
	if c.numbered(early{conn: c, nop: it}) {
		c.push(it)
		c.caughtUp()
	}
	return nil
}

// ping is the pinger goroutine: it sends NOP-In every interval and closes a connection that left too
// many unanswered. The first one goes out early: an initiator that can't answer shows at once.
func (c *conn) ping() {
	interval := time.Duration(c.agreed.nopInterval) * time.Second
	timer := time.NewTimer(interval / 4)
	defer timer.Stop()
	for tag := uint32(1); ; tag++ {
		select {
		case <-c.closed:
			return
		case <-timer.C:
		}
		timer.Reset(interval)
		if c.agreed.nopCount > 0 && int(c.unanswered.Load()) >= c.agreed.nopCount {
			c.fail(errNOPTimeout)
			return
		}
		c.unanswered.Add(1)
		it := c.newItem()
		it.peek = true
		p := pdu.NOPIn{InitiatorTag: pdu.NoTag, TargetTag: tag & 0x7fffffff}
		p.Encode(&it.hdr)
		c.push(it)
		c.kick()
	}
}

// logout ends the connection or another one of the session (RFC 7143 11.14). Commands under way are
// given up, as the initiator has asked for by it.
func (c *conn) logout() error {
	var p pdu.LogoutRequest
	p.Decode(&c.header)
	if err := c.skipData(); err != nil {
		return err
	}
	c.numbered(early{})
	answer := pdu.LogoutResponse{
		InitiatorTag: p.InitiatorTag,
		Time2Wait:    c.agreed.time2Wait,
		Time2Retain:  c.agreed.time2Retain,
	}
	const closeSession, closeConnection, forRecovery = 0, 1, 2
	ours := true
	if p.Reason != closeSession && p.CID != c.cid && c.session.nexus != nil {
		ours = false
		switch other := c.session.connection(p.CID); {
		case other == nil:
			answer.Response = 1 // CID not found
		case p.Reason == forRecovery:
			answer.Response = 2 // that would be level 2
		default:
			other.fail(errLogout)
			c.helper.Go(func() { c.answerWhenLeft(other, answer) })
			return nil
		}
	}
	it := c.newItem()
	answer.Encode(&it.hdr)
	if !ours {
		c.push(it)
		return nil
	}
	if c.session.endsWith(c, p.Reason == closeSession) {
		// Whoever hears the answer finds no reservation of this session any more, unless a command of it hangs.
		select {
		case <-c.session.detach():
		case <-c.closed:
		case <-time.After(lingerTime):
		}
	}
	c.pushAndWait(it)
	if p.Reason == closeSession {
		c.session.close(errLogout, c)
	}
	return errLogout
}

// connection is the session's living connection of that CID, nil when there is none.
func (s *session) connection(cid uint16) *conn {
	s.srv.mu.Lock()
	defer s.srv.mu.Unlock()
	for _, c := range s.conns {
		if c.cid == cid && !c.broken.Load() {
			return c
		}
	}
	return nil
}

// answerWhenLeft answers the logout of another connection once none of its commands can take effect any more.
func (c *conn) answerWhenLeft(other *conn, answer pdu.LogoutResponse) {
	select {
	case <-other.left:
	case <-c.closed:
		return
	}
	it := c.newItem()
	answer.Encode(&it.hdr)
	c.push(it)
	c.kick()
}

// pushAndWait sends an item and waits until it has left, for a limited time.
func (c *conn) pushAndWait(it *item) {
	it.sent = make(chan struct{})
	sent := it.sent
	c.push(it)
	c.flush()
	timer := time.NewTimer(lingerTime)
	defer timer.Stop()
	select {
	case <-sent:
	case <-c.closed:
	case <-timer.C:
	}
}

// linger closes our half of the connection and waits a little for the initiator to close its own, so
// that our last PDU is not lost to a reset.
func (c *conn) linger() {
	tcp, ok := c.nc.(interface{ CloseWrite() error })
	if !ok || tcp.CloseWrite() != nil {
		return
	}
	if c.nc.SetReadDeadline(time.Now().Add(lingerTime)) != nil {
		return
	}
	c.rd.pause = func() {}
	for total := 0; total < 1<<20; { // an initiator that keeps sending is cut off
		c.rd.r, c.rd.w = 0, 0
		if c.rd.fill() != nil {
			return
		}
		total += c.rd.w
	}
}

// reject sends a Reject with the header that was refused (RFC 7143 11.17) and returns why, which ends
// the connection.
func (c *conn) reject(reason pdu.RejectReason, why error) error {
	it := c.rejectItem(reason)
	c.pushAndWait(it)
	return why
}

// answerReject sends a Reject; the connection goes on.
func (c *conn) answerReject(reason pdu.RejectReason) { c.push(c.rejectItem(reason)) }

func (c *conn) rejectItem(reason pdu.RejectReason) *item {
	it := c.newItem()
	p := pdu.Reject{Reason: reason}
	p.Encode(&it.hdr)
	it.data = append(it.data, c.header[:]...)
	return it
}

func (c *conn) newItem() *item {
	it, _ := c.srv.items.Get().(*item)
	if it == nil {
		it = new(item)
	}
	return it
}

func (c *conn) putItem(it *item) {
	*it = item{}
	c.srv.items.Put(it)
}

// login is the login phase on the wire.
func (c *conn) login() error {
	l := login{dir: c.srv.opt.Directory, peer: c.addrs, trusted: c.srv.trusted, establish: c.establish}
	l.chap.refuseMD5 = c.srv.opt.RefuseMD5
	statSN := uint32(0)
	for first := true; ; first = false {
		if err := c.readHeader(); err != nil {
			return fmt.Errorf("login: %w", err)
		}
		n := c.header.DataLength()
		if len(c.ahs)+n > maxLoginData {
			return fmt.Errorf("login: %w: %d bytes", errProtocol, n)
		}
		data := make([]byte, n)
		if err := c.readData(data); err != nil {
			return fmt.Errorf("login: %w", err)
		}
		if c.header.Opcode() != pdu.OpLoginRequest || !c.header.Immediate() {
			return c.loginReject()
		}
		var req pdu.LoginRequest
		req.Decode(&c.header)
		if first {
			statSN = req.ExpStatSN
			c.cid = req.CID
		}
		r := l.step(&req, data)
		if err := c.loginReply(&l, &r, &req, statSN); err != nil {
			return err
		}
		statSN++
		switch {
		case r.status != LoginSuccess:
			c.srv.opt.Logger.Warn("iscsi: login refused", "peer", c.addrs.remote, "initiator", l.initiator,
				"target", l.target, "status", r.status, "why", l.reason)
			c.verdict = r.status
			return errRefused
		case l.phase == phaseDone:
			c.batch.init(statSN)
			if c.agreed.errorRecovery > 0 && !l.discovery {
				c.recovery = newRecovery(statSN)
			}
			c.logLogin(&l)
			return nil
		}
	}
}

func (c *conn) logLogin(l *login) {
	log := c.srv.opt.Logger.With("peer", c.addrs.remote, "initiator", l.initiator)
	if l.discovery {
		log.Debug("iscsi: discovery login")
		return
	}
	log.Info("iscsi: login", "target", l.target, "session", c.session.id, "connection", c.cid)
}

// loginReply sends a login response. Until the login is complete the window is where the request was.
func (c *conn) loginReply(l *login, r *reply, req *pdu.LoginRequest, statSN uint32) error {
	h := &r.header
	depth := DefaultParams().QueueDepth()
	if l.nego != nil {
		depth = l.nego.ours.QueueDepth()
	}
	h.Status = pdu.Status{StatSN: statSN, ExpCmdSN: req.CmdSN, MaxCmdSN: req.CmdSN + uint32(depth)}
	if l.phase == phaseDone {
		h.ExpCmdSN, h.MaxCmdSN = c.session.numbers()
	}
	// An answer longer than a segment would need the C bit; our keys are far from it.
	if len(r.text) > maxLoginData {
		return fmt.Errorf("login: %w: answer of %d bytes", errProtocol, len(r.text))
	}
	p := pdu.PDU{Data: r.text}
	h.Encode(&p.Header)
	return c.loginWrite(p.Append(nil, pdu.Digests{}))
}

func (c *conn) loginReject() error {
	p := pdu.PDU{Data: c.header[:]}
	r := pdu.Reject{Reason: pdu.RejectProtocolError}
	r.Encode(&p.Header)
	if err := c.loginWrite(p.Append(nil, pdu.Digests{})); err != nil {
		return err
	}
	return fmt.Errorf("login: %w: opcode %02x", errProtocol, c.header[0])
}

func (c *conn) loginWrite(b []byte) error {
	c.stats.txOctets.Add(uint64(len(b)))
	if _, err := c.nc.Write(b); err != nil {
		return fmt.Errorf("login: sending: %w", err)
	}
	return nil
}

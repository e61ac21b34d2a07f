package pss

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
	"github.com/paxos-iscsi/paxos-iscsi/pss/wire"
)

const (
	maxBatchCalls = 256     // calls that one transmission carries
	maxBatchBytes = 2 << 20 // payload bytes after which it takes no further call
)

// peer is a core server: its record, its own idea of who is master, and the connection to it.
type peer struct {
	cell   *Cell
	server cell.Server
	gone   chan struct{} // closed when the server is not there any more

	// Guarded by Cell.mu.
	view wire.Master // the last it said
	conn *conn       // nil unless it greeted us
	err  error       // why there is none
}

// run keeps a connection to the server until the Cell is closed.
func (p *peer) run() {
	c := p.cell
	delay := c.opts.Backoff
	for c.ctx.Err() == nil && !p.left() {
		started := time.Now()
		err := p.connect()
		c.mu.Lock()
		p.err = err
		c.mu.Unlock()
		if time.Since(started) > 2*c.opts.MaxBackoff {
			delay = c.opts.Backoff
		}
		select {
		case <-c.ctx.Done():
		case <-p.gone:
		case <-time.After(delay/2 + rand.N(delay/2+1)):
		}
		delay = min(2*delay, c.opts.MaxBackoff)
	}
}

// left says that the server is not there any more.
func (p *peer) left() bool {
	select {
	case <-p.gone:
		return true
	default:
		return false
	}
}

// connect makes one connection and serves it until it ends. It returns why it ended.
func (p *peer) connect() error {
	c := p.cell
	ctx, cancel := context.WithTimeout(c.ctx, c.opts.DialTimeout)
	nc, err := c.opts.Dial(ctx, p.server.TCPAddr())
	if err == nil {
		nc, err = c.keys.Client(ctx, nc)
	}
	cancel()
	if err != nil {
		return err
	}
	defer nc.Close()
	stop := context.AfterFunc(c.ctx, func() { nc.Close() })
	defer stop()
	k := &conn{
		peer: p, nc: nc, r: wire.NewReader(nc), w: wire.NewWriter(nc),
		wake: make(chan struct{}, 1), quit: make(chan struct{}),
	}
	hello, err := k.greet()
	if err != nil {
		return err
	}
	written := make(chan struct{})
	go func() {
		defer close(written)
		k.writeLoop()
	}()

	c.mu.Lock()
	if p.left() {
		k.close(errMoved)
	} else {
		p.conn, p.view = k, hello.Master
		k.ping = true // which asks for the servers
		k.poke()
	}
	c.pick()
	c.unlock()

	err = k.readLoop()

	nc.Close()
	close(k.quit)
	<-written
	c.mu.Lock()
	k.dead = true
	for k.writing {
		c.cond.Wait() // for a submitter
	}
	if k.why != nil {
		err = k.why
	}
	p.conn, p.err = nil, err
	if c.ctx.Err() == nil {
		c.opts.Logger.Info("lost the connection", "server", p.server.ID, "err", err)
	}
	c.drained(k)
	c.pick()
	c.unlock()
	return err
}

// conn is a connection to a server that greeted us.
type conn struct {
	peer *peer
	nc   net.Conn
	r    *wire.Reader
	wake chan struct{} // something waits to be written
	quit chan struct{}

	// Guarded by Cell.mu; w and batch belong to whoever set writing.
	writing   bool
	dead      bool  // nothing is to be written any more
	why       error // why we closed it, if we did
	opening   bool  // SessionOpen was sent
	confirmed bool  // and answered with success
	openTag   uint64
	ping      bool
	pong      bool
	pongTag   uint64
	received  uint64 // bytes, when watch looked last
	silent    int    // intervals without any

	w     *wire.Writer
	batch []sending

	sums [4 * (wire.MaxRead/op.BlockSize + 1)]byte // the reader's
}

// sending is a call as it is written: what may change under the mutex is copied.
type sending struct {
	call *call
	tag  uint64
	req  *Request
}

// greet introduces us and checks who answers.
func (k *conn) greet() (wire.HelloReply, error) {
	var reply wire.HelloReply
	c, id := k.peer.cell, uint8(k.peer.server.ID)
	c.mu.Lock()
	session := c.session
	c.mu.Unlock()
	if err := k.nc.SetDeadline(time.Now().Add(c.opts.DialTimeout)); err != nil {
		return reply, err
	}
	err := k.w.Hello(wire.Hello{
		Role: wire.RoleClient, To: id, Protocol: wire.Protocol, From: session, Software: c.opts.Software,
	})
	if err == nil {
		err = k.w.Flush()
	}
	if err != nil {
		return reply, fmt.Errorf("greet: %w", err)
	}
	h, err := k.r.Next()
	if err != nil {
		return reply, fmt.Errorf("wait for a greeting: %w", err)
	}
	b, err := k.r.View()
	if err != nil {
		return reply, fmt.Errorf("read the greeting: %w", err)
	}
	switch h.Kind {
	case wire.KindGoodbye:
		return reply, fmt.Errorf("refused: %q", b)
	case wire.KindHelloReply:
	default:
		return reply, fmt.Errorf("%w: %v instead of a greeting", wire.ErrProtocol, h.Kind)
	}
	if reply, err = wire.ParseHelloReply(b); err != nil {
		return reply, err
	}
	if reply.Server != id || reply.Protocol != wire.Protocol {
		return reply, fmt.Errorf("%w: server %d with protocol %d answers at %s, not server %d with %d",
			wire.ErrProtocol, reply.Server, reply.Protocol, k.peer.server.TCPAddr(), id, wire.Protocol)
	}
	return reply, k.nc.SetDeadline(time.Time{})
}

// close ends the connection from this side. c.mu is held.
func (k *conn) close(why error) {
	if k.why == nil {
		k.why = why
	}
	k.dead = true
	k.nc.Close()
}

// watch asks for a sign of life, or gives up. c.mu is held.
func (k *conn) watch(limit int, silence time.Duration) {
	if n := k.r.Received(); n != k.received {
		k.received, k.silent = n, 0
		if c := k.peer.cell; c.tick%c.signs == 0 { // we may have been silent, receiving something long
			k.ping = true
			k.poke()
		}
		return
	}
	if k.silent++; k.silent > limit {
		k.close(fmt.Errorf("silent for %v", silence))
		return
	}
	k.ping = true
	k.poke()
}

// poke makes the write loop look.
func (k *conn) poke() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

func (k *conn) writeLoop() {
	c := k.peer.cell
	for {
		select {
		case <-k.quit:
			return
		case <-k.wake:
		}
		c.mu.Lock()
		for !k.writing && k.hasWork() {
			c.transmit(k)
		}
		c.unlock()
	}
}

// hasWork says whether there is something to write. c.mu is held.
func (k *conn) hasWork() bool {
	c := k.peer.cell
	return !k.dead && (k.ping || k.pong || c.active == k && c.unsent != nil)
}

// transmit writes what waits, as far as one batch goes. c.mu is held, but not while writing; k.writing
// is false before and after.
func (c *Cell) transmit(k *conn) {
	k.writing = true
	ping, pong, pongTag := k.ping, k.pong, k.pongTag
	k.ping, k.pong = false, false
	var open op.Header
	if c.active == k {
		open = c.take(k)
	}
	openTag := k.openTag
	c.mu.Unlock()

	var err error
	if ping {
		err = k.w.Ping(wire.PingServers)
	}
	if pong && err == nil {
		err = k.w.Pong(pongTag)
	}
	if open.Code != 0 && err == nil {
		err = k.w.Propose(openTag, op.Head(nil, &open, nil, 0))
	}
	for _, s := range k.batch {
		if err == nil {
			err = s.call.write(k.w, s.tag, s.req)
		}
	}
	if err == nil {
		err = k.w.Flush()
	}
	clear(k.batch)
	k.batch = k.batch[:0]

	c.mu.Lock()
	k.writing = false
	if err != nil {
		k.close(fmt.Errorf("send: %w", err))
	}
	if k.dead {
		c.cond.Broadcast()
	}
}

// take moves calls into k's batch. Before the first operation of a connection it returns the
// SessionOpen that has to be sent in front of the batch.
func (c *Cell) take(k *conn) (open op.Header) {
	size := 0
	for q := c.unsent; q != nil; q = c.unsent {
		if len(k.batch) == maxBatchCalls || size > maxBatchBytes {
			break
		}
		if q.seq != 0 && !k.opening {
			k.opening = true
			c.epoch++
			c.sends++
			k.openTag = c.sends<<slotBits | openSlot
			open = op.Header{Code: op.SessionOpen, Session: c.session, Epoch: c.epoch,
				Length: uint64(c.opts.SessionLease.Milliseconds())}
			if !c.known {
				open.Flags = op.FlagFirst
			}
		}
		c.stamp(q)
		c.unsent = q.next
		k.batch = append(k.batch, sending{q, q.tag, q.req})
		if q.req.Op != Read {
			size += q.size
		}
	}
	return open
}

func (k *conn) readLoop() error {
	c := k.peer.cell
	for {
		h, err := k.r.Next()
		if err != nil {
			return err
		}
		switch h.Kind {
		case wire.KindResult:
			err = k.readResult(h)
		case wire.KindReadReply:
			err = k.readReply(h)
		case wire.KindQueryReply:
			err = k.readAnswer(h)
		case wire.KindNotice, wire.KindNotMaster:
			var b []byte
			var m wire.Master
			if b, err = k.r.View(); err == nil {
				m, err = wire.ParseMaster(b)
			}
			switch {
			case err != nil:
			case h.Kind == wire.KindNotice:
				c.heard(k, m)
			default:
				c.notMaster(k, m)
			}
		case wire.KindPing:
			c.mu.Lock()
			k.pong, k.pongTag = true, h.Tag
			k.poke()
			c.unlock()
		case wire.KindWake:
			c.mu.Lock()
			c.wakeAll()
			c.unlock()
		case wire.KindServers:
			var s wire.Servers
			if s, err = readServers(k.r); err == nil {
				c.learn(&s)
			}
		case wire.KindPong:
		case wire.KindGoodbye:
			b, err := k.r.View()
			if err != nil {
				return err
			}
			return fmt.Errorf("the server closes the connection: %q", b)
		default:
			err = fmt.Errorf("%w: %v from a server", wire.ErrProtocol, h.Kind)
		}
		if err != nil {
			return err
		}
	}
}

// readServers reads where the servers are.
func readServers(r *wire.Reader) (wire.Servers, error) {
	b, err := r.View()
	if err != nil {
		return wire.Servers{}, err
	}
	return wire.ParseServers(b)
}

// readResult takes the answer to an operation.
func (k *conn) readResult(h wire.Header) error {
	b, err := k.r.View()
	if err != nil {
		return err
	}
	res, err := op.ParseResult(b)
	if err != nil {
		return err
	}
	c := k.peer.cell
	c.mu.Lock()
	defer c.unlock()
	if c.active == k && k.opening && h.Tag == k.openTag {
		c.opened(k, res.Errno)
		return nil
	}
	q := c.sent(k, h.Tag)
	switch {
	case q == nil:
	case q.seq == 0:
		return fmt.Errorf("%w: a result for what is no operation", wire.ErrProtocol)
	case (res.Errno == op.NoSession || res.Errno == op.StaleEpoch) && q.hdr.Code != op.SessionClose:
		c.sessionLost(q)
	default:
		c.settled(q, res)
	}
	return nil
}

// settled settles a call that was answered, and sends what that makes room for.
func (c *Cell) settled(q *call, res op.Result) {
	k := c.active
	c.settle(q, res, nil)
	c.admit()
	if !k.writing && k.hasWork() {
		k.poke()
	}
}

// readAnswer takes the answer to a query.
func (k *conn) readAnswer(h wire.Header) error {
	b := make([]byte, h.Size)
	if err := k.r.Body(b); err != nil {
		return err
	}
	a, err := op.ParseAnswer(b)
	if err != nil {
		return err
	}
	c := k.peer.cell
	c.mu.Lock()
	defer c.unlock()
	q := c.sent(k, h.Tag)
	if q == nil {
		return nil
	}
	if r := q.req; r != nil {
		if r.Op != opQuery {
			return fmt.Errorf("%w: an answer to what is no query", wire.ErrProtocol)
		}
		r.answer = a
	}
	c.settled(q, op.Result{Errno: a.Errno})
	return nil
}

// readReply takes the answer to a read, straight into the request's data.
func (k *conn) readReply(h wire.Header) error {
	c := k.peer.cell
	c.mu.Lock()
	q := c.sent(k, h.Tag)
	var r *Request
	var at int64
	var size int
	if q != nil {
		r, at, size = q.req, q.at, q.size
	}
	c.mu.Unlock()
	if q == nil {
		return nil // Next skips it
	}
	n := 0
	if r != nil && h.Code == uint16(op.OK) {
		if r.Op != Read {
			return fmt.Errorf("%w: data for what is no read", wire.ErrProtocol)
		}
		n = int(h.Size - h.Sealed)
		offset := r.header.Offset + uint64(at)
		if n > size || int(h.Sealed) != 4*op.Pieces(offset, n) {
			return fmt.Errorf("%w: %d bytes with %d bytes of sums for a read of %d", wire.ErrProtocol, n, h.Sealed, size)
		}
		// Nobody else settles a call that was sent: r.Data is ours until c.settled.
		if err := k.readData(offset, r.Data[at:at+int64(n)], int(h.Sealed)); err != nil {
			return err
		}
	}
	res := op.Result{Errno: op.Errno(h.Code), Value: uint64(n)}
	if r != nil && r.volume != nil && res.Errno == op.OK && n < size {
		res = op.Result{Errno: op.OutOfRange}
	}
	c.mu.Lock()
	defer c.unlock()
	if q = c.sent(k, h.Tag); q != nil {
		c.settled(q, res)
	}
	return nil
}

func (k *conn) readData(offset uint64, data []byte, sums int) error {
	if err := k.r.Body(k.sums[:sums]); err != nil {
		return err
	}
	if err := k.r.Body(data); err != nil {
		return err
	}
	for i := 0; len(data) > 0; i++ {
		n := min(len(data), int(op.BlockSize-offset%op.BlockSize))
		if op.Sum(data[:n]) != binary.LittleEndian.Uint32(k.sums[4*i:]) {
			return fmt.Errorf("%w: data checksum, block %d", wire.ErrProtocol, offset/op.BlockSize)
		}
		data, offset = data[n:], offset+uint64(n)
	}
	return nil
}

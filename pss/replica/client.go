package replica

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
	"github.com/paxos-iscsi/paxos-iscsi/pss/release"
	"github.com/paxos-iscsi/paxos-iscsi/pss/store"
	"github.com/paxos-iscsi/paxos-iscsi/pss/wire"
)

// Named limits of one client connection. Where one is reached the server stops reading from it.
const (
	maxClientProposals = 2 * op.Window // operations taken and not answered
	maxClientBytes     = 64 << 20      // bytes of these, and of the reads that wait
	maxClientReplies   = 16 << 20      // bytes of replies waiting to be written
	maxClientReads     = 1024          // reads and queries waiting for the lease, or for the disk after it
	maxGather          = 2 << 20       // bytes read in answer to frames that came together, before they are sent
)

// client is one connection of a client.
type client struct {
	r    *Replica
	conn net.Conn
	out  *outlet

	session  uint64 // as it introduced itself
	software string
	load     counts

	// refused is set with the first operation that is answered with NotMaster, and refuses all later
	// ones of this connection: none may overtake those the client sends again elsewhere, or here, under
	// a new epoch. The Replica's lock guards it.
	refused bool
	// readSince is when a read of the store began that is under way, on the server's clock; 0: none. Of several
	// at the same time it is one.
	readSince atomic.Int64

	heard   atomic.Bool // since the master looked last
	follows atomic.Bool // it wants to know where the servers are

	mu        sync.Mutex
	room      sync.Cond // signalled when one of the counts below falls, or at the end
	proposals int
	bytes     int
	reads     int
	waiting   bool // nothing is read until there is room
	ended     bool

	frames atomic.Uint64 // received: while it grows, the client lives
}

// accept takes connections until the listener is closed.
func (r *Replica) accept() {
	slots := make(chan struct{}, maxConnections)
	greeting := newGreetings()
	for {
		conn, err := r.tcp.Accept()
		if err != nil {
			if r.ctx.Err() != nil {
				return
			}
			r.logger.Warn("accept", "error", err)
			select {
			case <-r.ctx.Done():
				return
			case <-time.After(dialPauseMin): // out of descriptors, most likely
			}
			continue
		}
		if greeting.admit(conn) != nil {
			r.refused.crowded.Add(1)
		}
		select { // what was closed for others ends soon
		case greeting.slots <- struct{}{}:
		case <-r.ctx.Done():
			conn.Close()
			return
		}
		r.tasks.Go(func() { r.serve(conn, greeting, slots) })
	}
}

// serve finds out who is calling and talks to it until the connection ends. It holds one of greeting's slots until
// it knows, and then one of slots.
func (r *Replica) serve(raw net.Conn, greeting *greetings, slots chan struct{}) {
	defer raw.Close()
	stop := r.closeWith(raw)
	defer stop()
	conn, rd, hello, err := r.meet(raw)
	greeting.done(raw)
	<-greeting.slots
	if err != nil {
		r.refusedConnection(raw, err)
		return
	}
	defer conn.Close()
	select {
	case slots <- struct{}{}:
		defer func() { <-slots }()
	default:
		r.refused.crowded.Add(1)
		r.logger.Warn("too many connections", "limit", maxConnections, "from", conn.RemoteAddr())
		return
	}
	switch hello.Role {
	case wire.RolePeer:
		err = r.receiveFrom(conn, rd, cell.ID(hello.From))
	case wire.RoleAdmin:
		err = r.serveAdmin(conn, rd)
	default:
		err = r.serveClient(conn, rd, &hello)
	}
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) && r.ctx.Err() == nil {
		r.logger.Info("connection ended", "from", conn.RemoteAddr(), "error", err)
	}
}

// meet has a caller prove the cell's key and greet, in helloTimeout.
func (r *Replica) meet(raw net.Conn) (net.Conn, *wire.Reader, wire.Hello, error) {
	conn, err := r.secure(raw)
	if err != nil {
		return nil, nil, wire.Hello{}, err
	}
	rd := wire.NewReader(conn)
	hello, err := r.greet(conn, rd)
	if err != nil {
		conn.Close()
	}
	return conn, rd, hello, err
}

// closeWith closes conn when the server ends.
func (r *Replica) closeWith(conn net.Conn) (stop func()) {
	done := make(chan struct{})
	r.tasks.Go(func() {
		select {
		case <-r.ctx.Done():
			conn.Close()
		case <-done:
		}
	})
	return func() { close(done) }
}

// greet reads the first frame and answers it. A deadline is set.
func (r *Replica) greet(conn net.Conn, rd *wire.Reader) (wire.Hello, error) {
	h, err := rd.Next()
	if errors.Is(err, wire.ErrTLS) {
		w := wire.NewWriter(conn)
		return wire.Hello{}, errors.Join(err, w.Goodbye(fmt.Sprintf("server %d has no cell key", r.opts.ID)), w.Flush())
	}
	if err != nil {
		return wire.Hello{}, err
	}
	body, err := rd.View()
	if err != nil {
		return wire.Hello{}, err
	}
	if h.Kind != wire.KindHello {
		return wire.Hello{}, fmt.Errorf("%w: %v for a hello", wire.ErrProtocol, h.Kind)
	}
	hello, err := wire.ParseHello(body)
	if err != nil {
		return hello, err
	}
	w := wire.NewWriter(conn)
	if refusal := r.refuse(&hello); refusal != "" {
		err = errors.New(refusal)
		return hello, errors.Join(err, w.Goodbye(refusal), w.Flush())
	}
	err = w.HelloReply(wire.HelloReply{Master: masterOf(r.view()), Protocol: wire.Protocol,
		Server: uint8(r.opts.ID), Software: release.Version})
	if err == nil {
		err = w.Flush()
	}
	if err != nil {
		return hello, err
	}
	return hello, conn.SetDeadline(time.Time{})
}

// refuse says why a caller is not welcome, or nothing.
func (r *Replica) refuse(h *wire.Hello) string {
	switch {
	case h.Protocol != wire.Protocol:
		return fmt.Sprintf("this server speaks protocol %d, not %d", wire.Protocol, h.Protocol)
	case h.To != wire.None && h.To != uint8(r.opts.ID):
		return fmt.Sprintf("this is server %d, not %d", r.opts.ID, h.To)
	case h.Role == wire.RolePeer && (h.From >= cell.MaxServers || r.peer(cell.ID(h.From)) == nil):
		return fmt.Sprintf("server %d is not in this cell", h.From)
	}
	return ""
}

func (r *Replica) serveClient(conn net.Conn, rd *wire.Reader, hello *wire.Hello) error {
	c := &client{r: r, conn: conn, session: hello.From, software: hello.Software}
	c.heard.Store(true)
	c.room.L = &c.mu
	c.out = newOutlet(conn, &r.pool, c.signalRoom)
	var writer sync.WaitGroup
	writer.Go(c.out.run)
	welcome := r.welcome(c)
	if !welcome {
		c.out.end(c.out.begin().Goodbye(fmt.Sprintf("this server has %d clients already", r.maxClients)))
		c.out.flush()
	}
	defer func() {
		r.clients.Lock()
		delete(r.clients.all, c)
		r.clients.Unlock()
		c.end()
		c.out.close()
		writer.Wait()
	}()
	if !welcome {
		return fmt.Errorf("%d clients already", r.maxClients)
	}
	return c.receive(rd)
}

// welcome adds a client to those that are told who is master, and tells it: the master may have
// changed since the greeting. Notices reach a client in the order of their terms. It reports false when
// there are too many, or the server has ended.
func (r *Replica) welcome(c *client) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clients.Lock()
	defer r.clients.Unlock()
	if len(r.clients.all) >= r.maxClients || r.ctx.Err() != nil {
		return false
	}
	r.clients.all[c] = struct{}{}
	c.notice(masterOf(r.core.View()))
	return true
}

// receive takes frames until the connection ends. What has gathered is given to the Core at once.
func (c *client) receive(rd *wire.Reader) error {
	slab := wire.NewSlab(c.r.slabs)
	var batch []Proposal
	gathered := 0 // bytes of read replies
	for {
		h, err := rd.Next()
		if err != nil {
			return err
		}
		c.frames.Add(1)
		if !c.heard.Load() {
			c.heard.Store(true)
		}
		switch h.Kind {
		case wire.KindPropose:
			p, err := c.takeProposal(rd, h, slab)
			if err != nil {
				return err
			}
			batch = append(batch, p)
		case wire.KindRead:
			n, err := c.takeRead(rd, h)
			if err != nil {
				return err
			}
			gathered += n
		case wire.KindQuery:
			if err := c.takeQuery(rd, h); err != nil {
				return err
			}
		case wire.KindPing:
			c.pinged(h.Tag)
		case wire.KindStatus:
			c.out.end(c.out.begin().StatusReply(h.Tag, op.OK, c.r.Report()))
		case wire.KindPong, wire.KindGoodbye:
		default:
			return fmt.Errorf("%w: %v from a client", wire.ErrProtocol, h.Kind)
		}
		if rd.Buffered() >= wire.HeaderSize && len(batch) < maxBatchEntries && gathered < maxGather {
			continue
		}
		gathered = 0
		if len(batch) > 0 {
			c.propose(batch)
			clear(batch)
			batch = batch[:0]
		}
		c.out.flush()
		if !c.waitForRoom() {
			return net.ErrClosed
		}
	}
}

func (c *client) takeProposal(rd *wire.Reader, h wire.Header, slab *wire.Slab) (Proposal, error) {
	b := slab.Take(int(h.Size))
	if err := rd.Body(b); err != nil {
		return Proposal{}, err
	}
	o, err := op.Parse(b)
	if err == nil {
		err = o.Check()
	}
	if err == nil && o.Code == op.SessionExpire {
		err = fmt.Errorf("%w: %v from a client", wire.ErrProtocol, o.Code)
	}
	if err != nil {
		return Proposal{}, err
	}
	return Proposal{Origin: Origin{Client: c, Tag: h.Tag, Object: o.Object, Since: c.r.now()}, Op: b}, nil
}

func (c *client) propose(batch []Proposal) {
	c.mu.Lock()
	c.proposals += len(batch)
	for i := range batch {
		c.bytes += len(batch[i].Op)
	}
	c.mu.Unlock()
	c.r.drive(func(time.Duration) error {
		if !c.refused {
			c.r.core.Propose(batch...)
			return nil
		}
		for i := range batch {
			c.answer(&Reply{Origin: batch[i].Origin, NotMaster: true, Bytes: len(batch[i].Op)})
		}
		c.out.signal()
		return nil
	})
}

// waitForRoom waits until the connection is within its limits. It reports false when it ended.
func (c *client) waitForRoom() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !c.ended && (c.proposals >= maxClientProposals || c.bytes >= maxClientBytes ||
		c.reads >= maxClientReads || c.out.waiting() >= maxClientReplies) {
		c.waiting = true
		c.room.Wait()
	}
	c.waiting = false
	return !c.ended
}

// isWaiting says whether nothing is read from the client until there is room.
func (c *client) isWaiting() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.waiting
}

func (c *client) signalRoom() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.room.Signal()
}

func (c *client) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	c.room.Broadcast()
}

// pendingRead is a read that waits for the lease.
type pendingRead struct {
	c     *client
	read  wire.Read
	again *damagedRead // set when it met damage before
}

// takeRead answers a read, or has it wait for the lease. It returns how many bytes it may have read.
func (c *client) takeRead(rd *wire.Reader, h wire.Header) (int, error) {
	b, err := rd.View()
	if err != nil {
		return 0, err
	}
	q, err := wire.ParseRead(b)
	if err != nil {
		return 0, err
	}
	// Whoever is master at this moment, with everything it ever answered applied, may answer
	// from the store as it is now or later.
	if now := c.r.now(); now < c.r.core.Lease() {
		watched := c.readSince.CompareAndSwap(0, int64(now))
		c.read(h.Tag, q, now)
		if watched {
			c.readSince.Store(0)
		}
		return int(q.Length), nil
	}
	c.count(1, int(q.Length))
	c.r.drive(func(now time.Duration) error {
		c.r.core.Ask(now, Read{Origin: Origin{Client: &pendingRead{c, q, nil}, Tag: h.Tag, Since: now}})
		return nil
	})
	return int(q.Length), nil
}

// count counts reads, and the bytes their replies will have, until these are added to the outlet.
func (c *client) count(reads, bytes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reads += reads
	c.bytes += bytes
	c.room.Signal()
}

// read reads blocks for a client that asked at a time, and adds the reply.
func (c *client) read(tag uint64, q wire.Read, since time.Duration) { c.readOnce(tag, q, since, nil) }

// readOnce is read; again is set when the read is repeated after a repair.
func (c *client) readOnce(tag uint64, q wire.Read, since time.Duration, again *damagedRead) {
	size, _, ok := c.r.core.Machine().Object(q.Object)
	if !ok {
		c.out.end(c.out.begin().ReadReply(tag, op.NotFound, nil, nil))
		return
	}
	n := 0
	if q.Offset < size {
		n = int(min(uint64(q.Length), size-q.Offset))
	}
	pieces := op.Pieces(q.Offset, n)
	head := 4 * pieces
	b := c.r.pool.get(head + n)
	sums := c.r.pool.sums()
	err := c.r.store.ReadSums(q.Object, int64(q.Offset), b[head:], sums[:pieces])
	for i, s := range sums[:pieces] {
		binary.LittleEndian.PutUint32(b[4*i:], s)
	}
	c.r.pool.putSums(sums)
	if err != nil {
		c.r.pool.put(b)
	}
	if errors.Is(err, store.ErrNoObject) { // deleted since the machine was asked
		c.out.end(c.out.begin().ReadReply(tag, op.NotFound, nil, nil))
		return
	}
	var damage *store.DamageError
	if errors.As(err, &damage) {
		if again == nil {
			again = &damagedRead{c: c, tag: tag, q: q, since: since}
		}
		c.repairRead(again, damage)
		return
	}
	if err != nil {
		c.r.failed(fmt.Errorf("read of object %d at %d: %w", q.Object, q.Offset, err))
		return
	}
	w := c.out.begin()
	err = w.ReadReply(tag, op.OK, b[:head], b[head:])
	c.out.own(b)
	c.out.end(err)
	c.countRead(q.Object, n, since)
}

func (c *client) takeQuery(rd *wire.Reader, h wire.Header) error {
	b, err := rd.View()
	if err != nil {
		return err
	}
	q, err := op.ParseQuery(b)
	if err != nil {
		return err
	}
	c.count(1, 0)
	c.r.drive(func(now time.Duration) error {
		c.r.core.Ask(now, Read{Origin: Origin{Client: c, Tag: h.Tag}, Query: &q})
		return nil
	})
	return nil
}

// pinged answers a Ping. One with the tag PingServers is the client's wish to know where the servers are.
func (c *client) pinged(tag uint64) {
	if tag == wire.PingServers && !c.follows.Load() {
		c.r.mu.Lock() // the table that it is told now is followed by all newer ones
		t := c.r.core.Table()
		c.follows.Store(true)
		c.servers(c.r.whereabouts(&t))
		c.r.mu.Unlock()
	}
	c.out.end(c.out.begin().Pong(tag))
}

// servers tells the client where the servers are.
func (c *client) servers(s *wire.Servers) {
	c.out.end(c.out.begin().Servers(s))
	c.out.signal()
}

// notice tells the client who is master.
func (c *client) notice(m wire.Master) {
	c.out.end(c.out.begin().Notice(m))
	c.out.signal()
}

// deliver passes a Core's reply on to the connection it is for. It never waits. It returns the outlet to
// be pushed, if any.
func (r *Replica) deliver(reply *Reply) *outlet {
	switch to := reply.Client.(type) {
	case *pendingRead:
		to.c.answerRead(reply, to)
	case *client:
		if reply.Answer != nil {
			to.count(-1, 0)
			to.out.end(to.out.begin().QueryReply(reply.Tag, *reply.Answer))
		} else {
			to.answer(reply)
		}
		return to.out
	}
	return nil
}

func (c *client) answer(reply *Reply) {
	w := c.out.begin()
	var err error
	if reply.NotMaster {
		c.refused = c.refused || reply.Bytes > 0
		err = w.NotMaster(reply.Tag, masterOf(c.r.core.View()))
	} else {
		err = w.Result(reply.Tag, reply.Result)
		c.countWrite(reply)
	}
	c.out.end(err)
	c.mu.Lock()
	defer c.mu.Unlock()
	if reply.Bytes == 0 { // a query
		c.reads--
	} else {
		c.proposals--
		c.bytes -= reply.Bytes
	}
	c.room.Signal()
}

// answerRead answers a read that waited for the lease.
func (c *client) answerRead(reply *Reply, asked *pendingRead) {
	q := asked.read
	if reply.NotMaster {
		c.count(-1, -int(q.Length))
		c.out.end(c.out.begin().NotMaster(reply.Tag, masterOf(c.r.core.View())))
		c.out.signal()
		return
	}
	tag, since := reply.Tag, reply.Since
	c.r.tasks.Go(func() { // the disk may be slow, and the caller holds the Replica's lock
		watched := c.readSince.CompareAndSwap(0, int64(c.r.now()))
		c.readOnce(tag, q, since, asked.again)
		if watched {
			c.readSince.Store(0)
		}
		c.count(-1, -int(q.Length))
		c.out.signal()
	})
}

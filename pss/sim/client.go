package sim

import (
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
	"github.com/paxos-iscsi/paxos-iscsi/pss/replica"
	"github.com/paxos-iscsi/paxos-iscsi/pss/store"
)

// The sectors that clients work on lie on both sides of a chunk's end.
const (
	sectorBytes  = 512
	blockSectors = op.BlockSize / sectorBytes
	sectorCount  = 4 * blockSectors
	firstSector  = store.ChunkSize/sectorBytes - sectorCount/2
	fileName     = "/file"
	patienceMin  = 100 * time.Millisecond // how long a client waits for an answer before it asks elsewhere
	patienceMax  = 800 * time.Millisecond
	lastRequests = 3 // that each client makes in the second phase
	maxDepth     = 4 // requests that a client has under way
)

// request is one thing a client wants.
type request struct {
	code    op.Code // 0 for a read
	flags   uint16
	object  uint64 // that it is about; of a lock, the handle
	token   uint64
	base    int  // sector of the object that sector counts from
	sector  int  // first
	count   int  // sectors
	piece   int  // of the streamed chunk
	part    part // of the piece
	old     uint64
	value   uint64
	seq     uint64
	started time.Duration
}

// client is a simulated client. It behaves as package pss does: it sends requests to whom it takes for
// the master without waiting for the answers to those before, and when that fails it connects to another
// server, raises its session's epoch there and sends all that is unanswered again, in order and under the
// same sequence numbers.
type client struct {
	w       *world
	id      int
	session uint64
	epoch   uint32
	seq     uint64
	object  uint64
	sized   bool       // the file was given its size; client 0 does that
	sharer  *sharer    // what it is besides; nil: it works on the file
	reader  bool       // it only reads: it stays with a master that can't agree on anything any more
	depth   int        // requests it has under way at the most
	window  []*request // under way, in order
	idle    bool       // the window is full: the next answer makes it think again
	conn    *conn      // nil between two
	left    int        // requests still to be made in the second phase
	pieces  []*request // of a stream that was begun
	value   uint64
	seen    uint64 // newest value read, for compares to have a chance
}

func newClient(w *world, id int) *client {
	c := &client{w: w, id: id, session: uint64(id + 1), depth: 1 + w.rng.IntN(maxDepth),
		left: lastRequests, reader: id > 1 || id == 1 && w.chance(3)}
	c.connect(w.anyCore().id)
	return c
}

// conn is a connection: what is sent on it arrives in order, up to some point. What was on its way when
// the client gave it up still arrives.
type conn struct {
	c        *client
	s        *server
	life     int // of the server; another process knows nothing of the connection
	opened   bool
	watched  bool          // the client's patience is running
	heard    time.Duration // when the last answer came
	there    time.Duration // when the last message arrives
	back     time.Duration // when the last answer arrives
	lost     bool          // a message was lost, and so is every later one
	lostBack bool          // an answer was lost
	inbox    []*call
	refused  bool // an operation was answered with NotMaster: so are all later ones
}

// call is one sending of a request.
type call struct {
	k     *conn
	r     *request // nil to open the session
	bytes []byte   // of the operation; nil for a read
}

// think schedules the next request.
func (c *client) think() {
	c.w.after(c.w.between(netFast, 30*time.Millisecond), func() {
		if c.w.calm && c.left == 0 {
			return
		}
		if c.idle = len(c.window) >= c.limit(); c.idle {
			return
		}
		if c.w.calm {
			c.left--
		}
		c.begin(c.choose())
		c.think()
	})
}

// limit is how many requests may be under way: one until the file is there.
func (c *client) limit() int {
	if c.sharer != nil {
		if c.sharer.volume == 0 {
			return 1
		}
		return c.depth
	}
	if c.object == 0 || c.id == 0 && !c.sized {
		return 1
	}
	return c.depth
}

func (c *client) choose() *request {
	rng := c.w.rng
	switch {
	case c.sharer != nil:
		return c.sharer.choose()
	case c.object == 0:
		return &request{code: op.CreateFile}
	case c.id == 0 && !c.sized:
		return &request{code: op.Truncate}
	}
	if r := c.chooseStream(); r != nil {
		return r
	}
	r := &request{code: op.Write, sector: rng.IntN(sectorCount), count: 1, value: c.nextValue()}
	kind := rng.IntN(8)
	if c.reader {
		kind = 0
	}
	if kind < 3 && !c.w.mayRead() {
		kind = 7
	}
	switch kind {
	case 0, 1, 2:
		*r = request{sector: r.sector, count: min(1+rng.IntN(2*blockSectors), sectorCount-r.sector)}
		if c.reader && rng.IntN(2) == 0 {
			r.sector, r.count = 0, sectorCount
		}
	case 3:
		r.code, r.old = op.CompareAndWrite, c.seen
	case 4:
		r.code, r.value = op.WriteZeroes, 0
		r.count = min(1+rng.IntN(blockSectors), sectorCount-r.sector)
	case 5, 6:
		r.sector, r.count = r.sector/blockSectors*blockSectors, blockSectors
	}
	return r
}

// begin starts a request.
func (c *client) begin(r *request) {
	r.started = c.w.now
	if c.sharer == nil {
		r.object = c.object
		if r.part == noPiece {
			r.base = firstSector
		}
	}
	if r.code != 0 {
		c.seq++
		r.seq = c.seq
	}
	c.window = append(c.window, r)
	c.send(r)
}

// connect goes on at a server, with everything that is unanswered.
func (c *client) connect(to cell.ID) {
	s := c.w.servers[to]
	c.conn = &conn{c: c, s: s, life: s.life, lost: !s.up}
	if c.w.o.Flaw == ApplyTwice {
		for _, r := range c.window {
			if r.code != 0 {
				c.seq++
				r.seq = c.seq
			}
		}
	}
	for _, r := range c.window {
		c.send(r)
	}
}

// send sends a request, and before the first operation of a connection a raise of the epoch.
func (c *client) send(r *request) {
	k := c.conn
	if k == nil {
		return
	}
	if r.code != 0 && !k.opened {
		k.opened = true
		c.epoch++
		k.transmit(&call{k: k, bytes: op.Head(nil,
			&op.Header{Code: op.SessionOpen, Flags: op.FlagFirst, Session: c.session, Epoch: c.epoch}, nil, 0)})
	}
	sent := &call{k: k, r: r}
	if r.code != 0 {
		sent.bytes = c.encode(r)
	}
	k.transmit(sent)
	if !k.watched {
		k.watched, k.heard = true, c.w.now
		k.watch()
	}
}

// watch runs out of patience when no answer comes.
func (k *conn) watch() {
	c, since := k.c, k.heard
	c.w.after(c.w.between(patienceMin, patienceMax), func() {
		switch {
		case c.conn != k:
		case len(c.window) == 0:
			k.watched = false
		case k.heard != since:
			k.watch()
		default:
			c.connect(c.w.anyCore().id)
		}
	})
}

// transmit sends a call on its way.
func (k *conn) transmit(sent *call) {
	d, ok := k.c.w.transit()
	if k.lost = k.lost || !ok; k.lost {
		return
	}
	k.there = max(k.there, k.c.w.now+d)
	k.c.w.after(k.there-k.c.w.now, func() { k.s.request(sent) })
}

// acked is the number of the first operation that is not answered.
func (c *client) acked() uint64 {
	for _, r := range c.window {
		if r.code != 0 {
			return r.seq
		}
	}
	return c.seq + 1
}

// encode makes the bytes of an operation.
func (c *client) encode(r *request) []byte {
	h := op.Header{Code: r.code, Session: c.session, Epoch: c.epoch, Seq: r.seq, Acked: c.acked(), Object: r.object,
		Flags: r.flags, Token: r.token, Offset: uint64(r.base+r.sector) * sectorBytes, Length: uint64(r.count) * sectorBytes}
	if c.w.o.Flaw == IgnoreTokens && r.code.HasToken() && r.token != 0 {
		h.Token = c.w.newest
	}
	switch r.code {
	case op.VolumeCreate:
		h.Length = volumeBytes
		return op.Head(nil, &h, op.AppendString(nil, volumeName), 0)
	case op.VolumeOpen:
		return op.Head(nil, &h, op.AppendString(nil, volumeName), 0)
	case op.AttrSet:
		return op.Head(nil, &h, op.AttrArgs(attrName, r.old, nil), 0)
	case op.LockTake, op.LockRelease:
		return op.Head(nil, &h, op.AppendString(nil, lockName), 0)
	case op.CreateFile:
		h.Offset, h.Length = 0, 0
		return op.Head(nil, &h, op.AppendString(nil, fileName), 0)
	case op.Truncate:
		h.Offset, h.Length = 0, uint64(firstSector+sectorCount)*sectorBytes
		return op.Head(nil, &h, nil, 0)
	case op.WriteZeroes:
		return op.Head(nil, &h, nil, 0)
	case op.CompareAndWrite:
		before, after := fill(r.old, r.count), fill(r.value, r.count)
		sums := op.AppendSums(op.AppendSums(nil, h.Offset, before), h.Offset, after)
		b := op.HeadSums(nil, &h, sums, len(before)+len(after))
		return append(append(b, before...), after...)
	}
	payload := fill(r.value, r.count)
	b := op.HeadSums(nil, &h, op.AppendSums(nil, h.Offset, payload), len(payload))
	return append(b, payload...)
}

// fill makes sectors that hold a value in every word.
func fill(value uint64, sectors int) []byte {
	b := make([]byte, sectors*sectorBytes)
	for i := 0; i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], value)
	}
	return b
}

// request is a client's request arriving at a server.
func (s *server) request(sent *call) {
	k := sent.k
	if !s.up || s.life != k.life {
		return
	}
	k.inbox = append(k.inbox, sent)
	s.later(0, func() {
		// Whatever became of the process meanwhile, a connection's messages stay in order.
		next := k.inbox[0]
		k.inbox = k.inbox[1:]
		s.serve(next)
	})
}

// serve takes a request as replica's client connections do.
func (s *server) serve(sent *call) {
	switch {
	case sent.bytes != nil && sent.k.refused:
		s.refuse(sent)
		return
	case sent.bytes != nil:
		if s.w.o.Flaw == RefuseAndDo && s.full && sent.r != nil && s.core.View().Self && s.w.chance(4) {
			refused := sent
			s.answer(refused, func() { refused.k.c.result(refused, op.Result{Errno: op.NoSpace}) })
			s.core.Propose(replica.Proposal{Op: sent.bytes}) // nobody waits for it
			break
		}
		s.core.Propose(replica.Proposal{Origin: replica.Origin{Client: sent}, Op: sent.bytes})
	case s.clock() < s.core.Lease() || s.w.o.Flaw == DeposedReads && s.wasMaster:
		s.readNow(sent)
		return
	default:
		s.core.Ask(s.clock(), replica.Read{Origin: replica.Origin{Client: sent}})
	}
	s.pump(nil)
}

// readNow reads the sectors of a request and sends them to the client.
func (s *server) readNow(sent *call) {
	r := sent.r
	if s.readsHang() {
		if s.reading == 0 {
			s.reading = s.clock()
			if s.w.o.Flaw != StayMaster {
				s.core.Reading(s.reading)
			}
		}
		s.onRead(0, func() { s.readNow(sent) })
		return
	}
	buf := make([]byte, r.count*sectorBytes)
	size, _, ok := s.core.Machine().Object(r.object)
	if !ok {
		s.w.fail("server %d: object %d is gone", s.id, r.object)
		return
	}
	from := uint64(r.base+r.sector) * sectorBytes
	if size > from {
		if err := s.store.ReadAt(r.object, int64(from), buf[:min(uint64(len(buf)), size-from)]); err != nil {
			s.readFailed(sent, err)
			return
		}
	}
	values := make([]uint64, r.count)
	for i := range values {
		sector := buf[i*sectorBytes : (i+1)*sectorBytes]
		values[i] = binary.LittleEndian.Uint64(sector)
		for w := 0; w < sectorBytes; w += 8 {
			if binary.LittleEndian.Uint64(sector[w:]) != values[i] {
				s.w.fail("server %d: sector %d is torn", s.id, r.sector+i)
				return
			}
		}
	}
	s.answer(sent, func() { sent.k.c.finish(r, op.Result{}, values) })
}

// readFailed sees to a read that met a bad disk: after a repair it is made again, as if it came anew.
func (s *server) readFailed(sent *call, err error) {
	var damage *store.DamageError
	switch {
	case errors.As(err, &damage) && s.wound.open:
		ref := replica.ChunkRef{Object: damage.Object, Chunk: uint32(damage.Block / store.BlocksPerChunk)}
		s.later(s.w.between(netFast, repairAfter), func() {
			if err := s.repair(ref); err != nil {
				s.w.tracef("server %d repairs for a read: %v", s.id, err)
				s.core.Unreadable()
			}
			s.serve(sent)
		})
	default:
		s.ended(err)
	}
}

// reply carries a Core's reply to the client it is for.
func (s *server) reply(r replica.Reply) {
	sent, ok := r.Client.(*call)
	switch {
	case !ok: // nobody waits
	case r.Granted:
		s.readNow(sent)
	case r.NotMaster:
		s.refuse(sent)
	default:
		s.answer(sent, func() { sent.k.c.result(sent, r.Result) })
	}
}

// refuse answers NotMaster: the client goes on elsewhere.
func (s *server) refuse(sent *call) {
	sent.k.refused = sent.k.refused || sent.bytes != nil
	hint := s.core.View()
	s.answer(sent, func() {
		to := s.w.anyCore().id
		if hint.Known {
			to = hint.Master
		}
		c := sent.k.c
		c.conn = nil
		c.w.after(c.w.between(time.Millisecond, 20*time.Millisecond), func() { c.connect(to) })
	})
}

// answer carries an answer over the network, unless an earlier one was lost or the client has given the
// connection up.
func (s *server) answer(sent *call, do func()) {
	k := sent.k
	d, ok := s.w.transit()
	if k.lostBack = k.lostBack || !ok; k.lostBack {
		return
	}
	k.back = max(k.back, s.w.now+d)
	s.w.after(k.back-s.w.now, func() {
		if k.c.conn == k {
			k.heard = s.w.now
			do()
		}
	})
}

// result takes the answer to an operation.
func (c *client) result(sent *call, res op.Result) {
	switch {
	case res.Errno == op.StaleEpoch || res.Errno == op.NoSession:
		// Nobody opened the session after us, and what follows the opening can't overtake it.
		c.w.fail("client %d, epoch %d: %w", c.id, c.epoch, res.Errno)
	case sent.r != nil:
		c.finish(sent.r, res, nil)
	case res.Errno != op.OK:
		c.w.fail("client %d opens its session: %w", c.id, res.Errno)
	}
}

// finish ends a request and notes what the client saw.
func (c *client) finish(r *request, res op.Result, values []uint64) {
	w := c.w
	c.window = slices.DeleteFunc(c.window, func(x *request) bool { return x == r })
	w.tracef("client %d: %v sector %d+%d value %d: %v %v", c.id, r.code, r.sector, r.count, r.value, res, values)
	switch {
	case res.Errno == op.NoSpace && w.o.Faults.Has(Full):
		// It was refused: it has no effect, now or later, so it is not part of the history.
		w.injected[refusal]++
		if c.sharer != nil {
			c.sharer.refused(r)
		}
		if w.calm { // it is one of the last requests that it must get through
			c.left++
			c.think()
		}
	case c.sharer != nil:
		c.sharer.finish(r, res, values)
	case r.code == op.CreateFile && res.Errno == op.OK:
		for _, other := range w.clients {
			other.object = res.Object
		}
	case r.code == op.Truncate && res.Errno == op.OK:
		c.sized = true
		for _, other := range w.clients[1:] {
			other.think()
		}
	case res.Errno == op.OK || r.code == op.CompareAndWrite && res.Errno == op.Miscompare:
		c.note(r, w.now, res, values)
	default:
		w.fail("client %d: %v failed: %w", c.id, r.code, res.Errno)
		return
	}
	if c.idle {
		c.idle = false
		c.think()
	}
}

func (c *client) note(r *request, ret time.Duration, res op.Result, values []uint64) {
	if r.part != noPiece && r.code == 0 && slices.ContainsFunc(values, func(v uint64) bool { return v != values[0] }) {
		c.w.fail("client %d reads %v of piece %d, of which one write has all", c.id, values, r.piece)
		return
	}
	for i, register := range r.covers() {
		a, answer := action{new: r.value}, any(nil)
		switch r.code {
		case 0:
			a.kind, answer = doRead, values[i]
			c.seen = values[i]
		case op.CompareAndWrite:
			a.kind, a.old, answer = doCompare, r.old, res.Errno == op.OK
		default:
			a.kind = doWrite
		}
		c.w.history.add(c.id, register, a, r.started, ret, answer)
	}
}

// unfinished notes the requests that the run ended on.
func (c *client) unfinished() {
	if c.sharer != nil {
		return // the run ends with all answered
	}
	for _, r := range c.window {
		if r.code == 0 || r.code == op.CreateFile || r.code == op.Truncate {
			continue
		}
		for _, register := range r.covers() {
			a := action{kind: doWrite, new: r.value}
			if r.code == op.CompareAndWrite {
				a = action{kind: doCompare, old: r.old, new: r.value}
			}
			c.w.history.add(c.id, register, a, r.started, 0, unknown{})
		}
	}
}

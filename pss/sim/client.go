package sim

import (
	"encoding/binary"
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
	patienceMax  = 2 * time.Second
	lastRequests = 3 // that each client makes in the second phase
)

// request is one thing a client wants.
type request struct {
	code    op.Code // op.Write, op.CompareAndWrite, op.WriteZeroes, op.CreateFile; 0 for a read
	sector  int     // first, of sectorCount
	count   int     // sectors
	old     uint64
	value   uint64
	seq     uint64
	started time.Duration
}

// client is a simulated client with one request under way. It behaves as package pss does: it asks
// whom it takes for the master, and when that fails it raises its session's epoch at another server and
// asks again under the same sequence number.
type client struct {
	w       *world
	id      int
	session uint64
	epoch   uint32
	seq     uint64
	server  cell.ID
	object  uint64
	sized   bool // the file was given its size; client 0 does that
	reader  bool // it only reads: it stays with a master that can't agree on anything any more
	now     *request
	attempt int // which sending of what; answers to earlier ones are void
	opening bool
	left    int // requests still to be made in the second phase
	value   uint64
	seen    uint64 // newest value read, for compares to have a chance
}

func newClient(w *world, id int) *client {
	return &client{w: w, id: id, session: uint64(id + 1), server: cell.ID(w.rng.IntN(w.o.Core)),
		left: lastRequests, reader: id > 1 || id == 1 && w.chance(3)}
}

// call is one sending of a request.
type call struct {
	c       *client
	attempt int
	read    *request // a read of blocks, to be carried out when granted
	at      *server
	life    int
}

// think schedules the next request.
func (c *client) think() {
	c.w.after(c.w.between(netFast, 30*time.Millisecond), func() {
		if c.w.calm {
			if c.left == 0 {
				return
			}
			c.left--
		}
		c.begin(c.choose())
	})
}

func (c *client) choose() *request {
	rng := c.w.rng
	switch {
	case c.object == 0:
		return &request{code: op.CreateFile}
	case c.id == 0 && !c.sized:
		return &request{code: op.Truncate}
	}
	c.value++
	r := &request{code: op.Write, sector: rng.IntN(sectorCount), count: 1, value: c.value<<8 | uint64(c.id+1)}
	kind := rng.IntN(8)
	if c.reader {
		kind = 0
	}
	switch kind {
	case 0, 1, 2:
		*r = request{sector: r.sector, count: min(1+rng.IntN(2*blockSectors), sectorCount-r.sector)}
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
	if r.code != 0 {
		c.seq++
		r.seq = c.seq
	}
	c.now = r
	c.send()
}

// send sends the present request, or opens the session first.
func (c *client) send() {
	c.attempt++
	sent := &call{c: c, attempt: c.attempt}
	if c.epoch == 0 && c.now.code != 0 {
		c.epoch, c.opening = 1, true
	}
	c.w.after(c.w.between(patienceMin, patienceMax), func() {
		if c.attempt == sent.attempt && c.now != nil {
			c.move(cell.ID(c.w.rng.IntN(c.w.o.Core)))
		}
	})
	d, ok := c.w.transit()
	if !ok {
		return
	}
	r, opening := c.now, c.opening
	var bytes []byte
	switch {
	case opening:
		bytes = op.Head(nil, &op.Header{Code: op.SessionOpen, Session: c.session, Epoch: c.epoch}, nil, 0)
	case r.code != 0:
		bytes = c.encode(r)
	}
	c.w.after(d, func() { c.w.servers[c.server].request(sent, r, bytes) })
}

// move goes on at another server, under a new epoch.
func (c *client) move(to cell.ID) {
	c.server = to
	if c.now.code != 0 || c.opening {
		c.epoch++
		c.opening = true
	}
	if c.w.o.Flaw == ApplyTwice && c.now.code != 0 {
		c.seq++
		c.now.seq = c.seq
	}
	c.send()
}

// encode makes the bytes of the present request.
func (c *client) encode(r *request) []byte {
	h := op.Header{Code: r.code, Session: c.session, Epoch: c.epoch, Seq: r.seq, Acked: r.seq, Object: c.object,
		Offset: uint64(firstSector+r.sector) * sectorBytes, Length: uint64(r.count) * sectorBytes}
	switch r.code {
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
func (s *server) request(sent *call, r *request, bytes []byte) {
	if !s.up {
		return
	}
	sent.at, sent.life = s, s.life
	s.later(0, func() {
		switch {
		case bytes != nil:
			s.core.Propose(replica.Proposal{Origin: replica.Origin{Client: sent}, Op: bytes})
		case s.clock() < s.core.Lease() || s.w.o.Flaw == DeposedReads && s.wasMaster:
			s.readNow(sent, r)
			return
		default:
			sent.read = r
			s.core.Ask(s.clock(), replica.Read{Origin: replica.Origin{Client: sent}})
		}
		s.pump(nil)
	})
}

// readNow reads the sectors of a request and sends them to the client.
func (s *server) readNow(sent *call, r *request) {
	buf := make([]byte, r.count*sectorBytes)
	size, _, ok := s.core.Machine().Object(sent.c.object)
	if !ok {
		s.w.fail("server %d: the file is gone", s.id)
		return
	}
	from := uint64(firstSector+r.sector) * sectorBytes
	if size > from {
		if err := s.store.ReadAt(sent.c.object, int64(from), buf[:min(uint64(len(buf)), size-from)]); err != nil {
			s.w.fail("server %d reads: %w", s.id, err)
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
	s.answer(sent, func() { sent.c.finish(op.Result{}, values) })
}

// reply carries a Core's reply to the client it is for.
func (s *server) reply(r replica.Reply) {
	sent, ok := r.Client.(*call)
	switch {
	case !ok: // nobody waits
	case r.Granted:
		s.readNow(sent, sent.read)
	case r.NotMaster:
		hint := s.core.View()
		s.answer(sent, func() {
			to := cell.ID(s.w.rng.IntN(s.w.o.Core))
			if hint.Known {
				to = hint.Master
			}
			c := sent.c
			c.attempt++ // the time-out is void
			c.w.after(c.w.between(time.Millisecond, 20*time.Millisecond), func() { c.move(to) })
		})
	default:
		s.answer(sent, func() { sent.c.result(r.Result) })
	}
}

// answer carries an answer over the network, unless the connection has ended or the client has given up.
func (s *server) answer(sent *call, do func()) {
	d, ok := s.w.transit()
	if !ok {
		return
	}
	s.w.after(d, func() {
		if sent.c.attempt == sent.attempt && sent.c.now != nil {
			do()
		}
	})
}

// result takes the answer to an operation.
func (c *client) result(res op.Result) {
	switch {
	case c.opening && res.Errno == op.OK:
		c.opening = false
		c.send()
	case res.Errno == op.StaleEpoch || res.Errno == op.NoSession:
		// A late duplicate of an older opening was answered, or ours overtook it: open again.
		c.move(c.server)
	default:
		c.finish(res, nil)
	}
}

// finish ends the present request and notes what the client saw.
func (c *client) finish(res op.Result, values []uint64) {
	w, r := c.w, c.now
	c.now = nil
	c.attempt++
	w.tracef("client %d: %v sector %d+%d value %d: %v %v", c.id, r.code, r.sector, r.count, r.value, res, values)
	switch {
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
	c.think()
}

func (c *client) note(r *request, ret time.Duration, res op.Result, values []uint64) {
	for i := range r.count {
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
		c.w.history.add(c.id, r.sector+i, a, r.started, ret, answer)
	}
}

// unfinished notes a request that the run ended on.
func (c *client) unfinished() {
	if r := c.now; r != nil && r.code != 0 && r.code != op.CreateFile && r.code != op.Truncate {
		for i := range r.count {
			a := action{kind: doWrite, new: r.value}
			if r.code == op.CompareAndWrite {
				a = action{kind: doCompare, old: r.old, new: r.value}
			}
			c.w.history.add(c.id, r.sector+i, a, r.started, 0, unknown{})
		}
	}
}

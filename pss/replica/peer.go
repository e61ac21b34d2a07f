package replica

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/paxos-iscsi/paxos-iscsi/pss/agreement"
	"github.com/paxos-iscsi/paxos-iscsi/pss/auth"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
	"github.com/paxos-iscsi/paxos-iscsi/pss/release"
	"github.com/paxos-iscsi/paxos-iscsi/pss/wire"
)

// Named limits of talking to another server.
const (
	maxPeerBytes = 2 * agreement.MaxInflightBytes // waiting for one server; more is dropped, as a network would
	dialTimeout  = time.Second                    // to connect to another server
	helloTimeout = 2 * time.Second                // for the first frames of a connection
	dialPauseMin = 20 * time.Millisecond          // before the second attempt to connect
	dialPauseMax = 500 * time.Millisecond         // between attempts, at the most
)

// peer is the sending side towards another server. Each server dials every other and only sends on the
// connections it dialled. Messages that can't be sent are lost; agreement copes with that.
type peer struct {
	r      *Replica
	server cell.Server

	mu     sync.Mutex
	out    *outlet // of the present connection, or nil
	closed bool

	cause string // of run: why there is no connection, if that was logged
}

// errRefused is a server's refusal, in its own words.
var errRefused = errors.New("refused")

func newPeer(r *Replica, s cell.Server) *peer { return &peer{r: r, server: s} }

// send adds a message to what goes out; it never waits. It returns where, for a push, or nil when the
// message is lost.
func (p *peer) send(m *raftpb.Message) *outlet {
	p.mu.Lock()
	o := p.out
	p.mu.Unlock()
	if o == nil || o.waiting() >= maxPeerBytes {
		return nil
	}
	o.end(o.begin().Raft(m))
	return o
}

func (p *peer) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if p.out != nil {
		p.out.close()
	}
}

// ended says that the server is not there, or not at this address, any more.
func (p *peer) ended() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

// run keeps a connection to the other server and sends on it, until close.
func (p *peer) run() {
	pause := dialPauseMin
	for p.r.ctx.Err() == nil && !p.ended() {
		began := time.Now()
		conn, err := p.dial()
		if err != nil {
			p.refused(err)
			pause = p.pause(pause)
			continue
		}
		o := newOutlet(conn, &p.r.pool, func() {})
		if !p.use(o) {
			conn.Close()
			return
		}
		p.r.logger.Info("connected to", "server", p.server.ID)
		p.attend(o)
		p.use(nil)
		if p.r.ctx.Err() == nil && !p.ended() {
			p.r.logger.Info("lost the connection to", "server", p.server.ID)
			p.r.drive(func(time.Duration) error { p.r.core.Node().Unreachable(p.server.ID); return nil })
		}
		if time.Since(began) > dialPauseMax {
			pause = dialPauseMin
		} else {
			pause = p.pause(pause) // it takes connections and ends them: it is of another cell, or of none yet
		}
	}
}

// pause waits before the next attempt to connect, and returns how long to wait before the one after it.
func (p *peer) pause(d time.Duration) time.Duration {
	select {
	case <-p.r.ctx.Done():
	case <-time.After(d):
	}
	return min(2*d, dialPauseMax)
}

// refused logs why there is no connection: loudly, but once, where keys don't fit, for that doesn't mend itself.
func (p *peer) refused(err error) {
	cause := ""
	for _, known := range []error{auth.ErrMixed, auth.ErrStranger, errRefused} {
		if errors.Is(err, known) {
			cause = err.Error()
		}
	}
	if cause != "" && cause != p.cause {
		p.r.logger.Warn("no connection", "server", p.server.ID, "error", err)
	} else {
		p.r.logger.Debug("no connection", "server", p.server.ID, "error", err)
	}
	p.cause = cause
}

// use makes o the way to the other server. It reports false after close.
func (p *peer) use(o *outlet) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.out = o
	return !p.closed
}

// attend lets an outlet write until its connection ends.
func (p *peer) attend(o *outlet) {
	var writer sync.WaitGroup
	writer.Go(o.run)
	// Nothing comes back on this connection, but its end does: it is noticed at once, not at the next
	// write.
	var b [1]byte
	_, _ = o.conn.Read(b[:])
	o.close()
	writer.Wait()
}

// dial connects and introduces this server.
func (p *peer) dial() (net.Conn, error) {
	ctx, cancel := context.WithTimeout(p.r.ctx, dialTimeout)
	defer cancel()
	conn, err := p.r.opts.Cell.Auth.Dial(ctx, p.server.TCPAddr())
	if err != nil {
		return nil, err
	}
	defer p.r.closeWith(conn)()
	if err := p.introduce(conn); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

func (p *peer) introduce(conn net.Conn) error {
	member, ok := p.r.member()
	if !ok {
		return errors.New("this server is not a member of a cell yet")
	}
	if err := conn.SetDeadline(time.Now().Add(helloTimeout)); err != nil {
		return err
	}
	w := wire.NewWriter(conn)
	err := w.Hello(wire.Hello{Role: wire.RolePeer, To: uint8(p.server.ID), Protocol: wire.Protocol,
		From: uint64(p.r.opts.ID), Software: release.Version})
	if err == nil {
		err = w.Flush()
	}
	if err != nil {
		return err
	}
	rd := wire.NewReader(conn)
	h, err := rd.Next()
	if err != nil {
		return err
	}
	body, err := rd.View()
	if err != nil {
		return err
	}
	if h.Kind == wire.KindGoodbye {
		return fmt.Errorf("%w: %s", errRefused, body)
	}
	reply, err := wire.ParseHelloReply(body)
	if err != nil {
		return err
	}
	if reply.Server != uint8(p.server.ID) {
		return fmt.Errorf("server %d answers at the address of server %d", reply.Server, p.server.ID)
	}
	if err := w.Frame(wire.KindMember, 0, 0, wire.AppendMember(nil, member)); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return conn.SetDeadline(time.Time{})
}

// maxInlineBytes is up to how many bytes the goroutine that received entries appends them to the log itself:
// more come in small messages while it waits for the disk, and then go as one. Large messages are appended
// by the log's own goroutine, so that further ones are received meanwhile and share the next sync.
const maxInlineBytes = 32 << 10

// maxStepBatch is how many received messages are given to the Core at once.
const maxStepBatch = 64

// receive takes another server's messages off a connection that it dialled.
func (r *Replica) receive(conn net.Conn, rd *wire.Reader, from cell.ID) error {
	slab := wire.NewSlab(r.slabs)
	var fetches *fetchServer // made when the other server catches up on this connection
	var batch []raftpb.Message
	received := 0 // bytes of batch
	if err := r.acquaint(rd); err != nil {
		return err
	}
	for {
		h, err := rd.Next()
		if err != nil {
			return err
		}
		switch h.Kind {
		case wire.KindRaft:
		case wire.KindManifest, wire.KindFetch:
			if fetches == nil {
				fetches = newFetchServer(r, conn)
			}
			if err := fetches.answer(rd, h, from); err != nil {
				return err
			}
			continue
		default:
			return fmt.Errorf("%w: %v from a server", wire.ErrProtocol, h.Kind)
		}
		body := slab.Take(int(h.Size))
		if err := rd.Body(body); err != nil {
			return err
		}
		m, err := wire.ParseRaft(body)
		if err != nil {
			return err
		}
		if err := r.check(&m, from); err != nil {
			return err
		}
		if !r.concerns(&m) {
			continue
		}
		batch = append(batch, m)
		received += len(body)
		if rd.Buffered() >= wire.HeaderSize && len(batch) < maxStepBatch {
			continue
		}
		step := func(now time.Duration) error {
			for i := range batch {
				if err := r.core.Step(now, batch[i], 0, 0); err != nil {
					return err
				}
			}
			return nil
		}
		if received <= maxInlineBytes {
			r.driveAndAppend(step)
		} else {
			r.drive(step)
		}
		received = 0
		clear(batch)
		batch = batch[:0]
		if r.ctx.Err() != nil {
			return r.ctx.Err()
		}
	}
}

// errStranger ends the connection of a server that is of another cell, or of none.
var errStranger = errors.New("it is of another cell")

// acquaint reads which member of which cell the other server is. While either belongs to no cell, or they are of
// different cells, they have nothing to say to each other.
func (r *Replica) acquaint(rd *wire.Reader) error {
	h, err := rd.Next()
	if err != nil {
		return err
	}
	if h.Kind != wire.KindMember {
		return fmt.Errorf("%w: %v before a server has said of which cell it is", wire.ErrProtocol, h.Kind)
	}
	b, err := rd.View()
	if err != nil {
		return err
	}
	m, err := wire.ParseMember(b)
	if err != nil {
		return err
	}
	if own, ok := r.member(); !ok || own.Cell != m.Cell {
		r.place.strangers.Add(1)
		return errStranger
	}
	return nil
}

// concerns says whether a message is for the member that this server is, and not for one that it was.
func (r *Replica) concerns(m *raftpb.Message) bool {
	if own, ok := r.member(); ok && own.Number == m.To {
		return true
	}
	r.place.strangers.Add(1)
	return false
}

// check verifies a message before agreement sees it: it is from whom the connection is from, and its entries are
// intact.
func (r *Replica) check(m *raftpb.Message, from cell.ID) error {
	if id, ok := cell.FromRaft(m.From); !ok || id != from {
		return fmt.Errorf("%w: %v from member %d to member %d on server %d's connection",
			wire.ErrProtocol, m.Type, m.From, m.To, from)
	}
	r.heard[from].Store(time.Now().UnixNano())
	for i := range m.Entries {
		e := &m.Entries[i]
		if e.Type != raftpb.EntryNormal || len(e.Data) == 0 {
			continue
		}
		o, err := op.Parse(e.Data)
		if err == nil {
			err = o.Check()
		}
		if err != nil {
			return fmt.Errorf("entry %d from server %d: %w", e.Index, from, err)
		}
	}
	return nil
}

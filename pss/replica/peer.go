package replica

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
	"github.com/paxos-iscsi/paxos-iscsi/pss/release"
	"github.com/paxos-iscsi/paxos-iscsi/pss/wire"
)

// Named limits of talking to another server.
const (
	maxPeerMessages = 4096                   // messages waiting for one server; more are dropped, as a network would
	dialTimeout     = time.Second            // to connect to another server
	helloTimeout    = 2 * time.Second        // for the first frames of a connection
	dialPauseMin    = 20 * time.Millisecond  // before the second attempt to connect
	dialPauseMax    = 500 * time.Millisecond // between attempts, at the most
)

// peer is the sending side towards another server. Each server dials every other and only sends on the
// connections it dialled. Messages that can't be sent are lost; agreement copes with that.
type peer struct {
	r      *Replica
	server cell.Server
	wake   chan struct{} // one token: messages wait

	mu      sync.Mutex
	waiting []raftpb.Message
	conn    net.Conn // the present connection, for close
	closed  bool
}

func newPeer(r *Replica, s cell.Server) *peer {
	return &peer{r: r, server: s, wake: make(chan struct{}, 1)}
}

// send queues a message; it never waits.
func (p *peer) send(m raftpb.Message) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.conn == nil || len(p.waiting) >= maxPeerMessages {
		return
	}
	p.waiting = append(p.waiting, m)
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *peer) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.closed = true
		close(p.wake)
	}
	if p.conn != nil {
		p.conn.Close()
	}
}

// run keeps a connection to the other server and sends on it, until close.
func (p *peer) run() {
	pause := dialPauseMin
	for p.r.ctx.Err() == nil {
		conn, err := p.dial()
		if err != nil {
			p.r.logger.Debug("no connection", "server", p.server.ID, "error", err)
			select {
			case <-p.r.ctx.Done():
				return
			case <-time.After(pause):
			}
			pause = min(2*pause, dialPauseMax)
			continue
		}
		pause = dialPauseMin
		if !p.use(conn) {
			conn.Close()
			return
		}
		p.r.logger.Info("connected to", "server", p.server.ID)
		err = p.sendAll(conn)
		conn.Close()
		p.use(nil)
		if p.r.ctx.Err() == nil {
			p.r.logger.Info("lost the connection to", "server", p.server.ID, "error", err)
			p.r.drive(func(time.Duration) error { p.r.core.Node().Unreachable(p.server.ID); return nil })
		}
	}
}

// use makes conn the present connection, with nothing waiting. It reports false after close.
func (p *peer) use(conn net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.waiting)
	p.conn, p.waiting = conn, p.waiting[:0]
	return !p.closed
}

// dial connects and introduces this server.
func (p *peer) dial() (net.Conn, error) {
	ctx, cancel := context.WithTimeout(p.r.ctx, dialTimeout)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", p.server.TCPAddr())
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
		return fmt.Errorf("refused: %s", body)
	}
	reply, err := wire.ParseHelloReply(body)
	if err != nil {
		return err
	}
	if reply.Server != uint8(p.server.ID) {
		return fmt.Errorf("server %d answers at the address of server %d", reply.Server, p.server.ID)
	}
	return conn.SetDeadline(time.Time{})
}

// sendAll sends what waits, as much at once as there is, until the connection breaks or close.
func (p *peer) sendAll(conn net.Conn) error {
	w := wire.NewWriter(conn)
	w.Timeout = writeTimeout
	// Nothing comes back on this connection, but its end does: notice it at once, not at the next write.
	ended := make(chan struct{})
	p.r.tasks.Go(func() {
		defer close(ended)
		var b [1]byte
		_, _ = conn.Read(b[:])
		conn.Close()
	})
	defer func() { conn.Close(); <-ended }()
	var batch []raftpb.Message
	for {
		select {
		case _, open := <-p.wake:
			if !open {
				return net.ErrClosed
			}
		case <-ended:
			return net.ErrClosed
		}
		p.mu.Lock()
		batch, p.waiting = p.waiting, batch[:0]
		p.mu.Unlock()
		for i := range batch {
			if err := w.Raft(&batch[i]); err != nil {
				return err
			}
		}
		if err := w.Flush(); err != nil {
			return err
		}
		clear(batch)
	}
}

// maxStepBatch is how many received messages are given to the Core at once.
const maxStepBatch = 64

// receive takes another server's messages off a connection that it dialled.
func (r *Replica) receive(conn net.Conn, rd *wire.Reader, from cell.ID) error {
	slab := wire.NewSlab(r.slabs)
	var fetches *fetchServer // made when the other server catches up on this connection
	var batch []raftpb.Message
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
		batch = append(batch, m)
		if rd.Buffered() >= wire.HeaderSize && len(batch) < maxStepBatch {
			continue
		}
		r.drive(func(now time.Duration) error {
			for i := range batch {
				if err := r.core.Step(now, batch[i], 0, 0); err != nil {
					return err
				}
			}
			return nil
		})
		clear(batch)
		batch = batch[:0]
		if r.ctx.Err() != nil {
			return r.ctx.Err()
		}
	}
}

// check verifies a message before agreement sees it: it is from whom the connection is from, for this
// server, and its entries are intact.
func (r *Replica) check(m *raftpb.Message, from cell.ID) error {
	if m.From != from.Raft() || m.To != r.opts.ID.Raft() {
		return fmt.Errorf("%w: %v from member %d to member %d on server %d's connection",
			wire.ErrProtocol, m.Type, m.From, m.To, from)
	}
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

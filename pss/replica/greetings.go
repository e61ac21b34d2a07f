package replica

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pss/auth"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/wire"
)

// Named limits of connections whose caller has not introduced itself yet. Where one is reached the oldest of them
// is closed for a new one: who greets at once gets through, however many others don't.
const (
	maxGreetings        = 256 // at the same time
	maxGreetingsAddress = 64  // of them, from one address
)

// maxPeerConnections is how many connections in one server's name there may be: that for messages, others for
// catching up, and some that are dead without our knowing. The oldest is closed for a new one.
const maxPeerConnections = (maxConnections - maxClients) / cell.MaxServers

// Named limits of clients that have greeted.
const (
	// DefaultClientIdle is how long a client may take for one frame, and for the next one to come. One that pings, as
	// package pss does, is never idle.
	DefaultClientIdle = time.Minute
	idleChecks        = 4 // looks at a client in that time
)

// keyCheckEvery is how often the file of the cell's key is looked at.
const keyCheckEvery = time.Second

// refusals counts what a server did not take.
type refusals struct {
	connections atomic.Uint64 // that did not greet as they should, or did not prove the key
	crowded     atomic.Uint64 // closed because there were too many
	idle        atomic.Uint64 // clients that said nothing for too long
	datagrams   atomic.Uint64
}

func (f *refusals) report() admin.Refusals {
	return admin.Refusals{Connections: f.connections.Load(), Crowded: f.crowded.Load(), Idle: f.idle.Load(),
		Datagrams: f.datagrams.Load()}
}

// greetings are the connections whose callers have not introduced themselves yet.
type greetings struct {
	mu  sync.Mutex
	all []greeting // the oldest first; at most maxGreetings
	// slots bounds the goroutines of these, also of those that were closed and have not noticed.
	slots chan struct{}
}

type greeting struct {
	conn net.Conn
	from netip.Addr
}

func newGreetings() *greetings { return &greetings{slots: make(chan struct{}, maxGreetings)} }

// admit adds a connection, and returns one that had to be closed for it, or nil.
func (g *greetings) admit(conn net.Conn) (evicted net.Conn) {
	from := addressOf(conn)
	g.mu.Lock()
	defer g.mu.Unlock()
	same := 0
	for i := range g.all {
		if g.all[i].from == from {
			same++
		}
	}
	if same >= maxGreetingsAddress {
		evicted = g.evict(from)
	} else if len(g.all) >= maxGreetings {
		evicted = g.evict(g.busiest())
	}
	g.all = append(g.all, greeting{conn, from})
	return evicted
}

// busiest is the address that has the most connections here.
func (g *greetings) busiest() netip.Addr {
	counts := make(map[netip.Addr]int)
	var most netip.Addr
	for i := range g.all {
		a := g.all[i].from
		if counts[a]++; counts[a] > counts[most] {
			most = a
		}
	}
	return most
}

// evict closes the oldest connection from an address, and returns it.
func (g *greetings) evict(from netip.Addr) net.Conn {
	for i := range g.all {
		if conn := g.all[i].conn; g.all[i].from == from {
			g.remove(i)
			conn.Close()
			return conn
		}
	}
	return nil
}

func (g *greetings) remove(i int) {
	copy(g.all[i:], g.all[i+1:])
	g.all[len(g.all)-1] = greeting{}
	g.all = g.all[:len(g.all)-1]
}

// done forgets a connection whose caller has introduced itself, or is gone.
func (g *greetings) done(conn net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range g.all {
		if g.all[i].conn == conn {
			g.remove(i)
			return
		}
	}
}

func addressOf(conn net.Conn) netip.Addr {
	if a, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// secure has the caller prove the cell's key, if there is one. A caller without a key is told so in clear.
func (r *Replica) secure(raw net.Conn) (net.Conn, error) {
	if err := raw.SetDeadline(time.Now().Add(helloTimeout)); err != nil {
		return nil, err
	}
	conn, err := r.opts.Cell.Auth.Server(r.ctx, raw)
	if errors.Is(err, auth.ErrMixed) {
		w := wire.NewWriter(raw)
		said := w.Goodbye(fmt.Sprintf("server %d takes callers with the cell's key only, and this one has none", r.opts.ID))
		if said == nil {
			said = w.Flush()
		}
		return nil, errors.Join(err, said)
	}
	return conn, err
}

// watchClients closes the connections of clients that have not sent a whole frame for too long.
func (r *Replica) watchClients() {
	every := r.opts.ClientIdle / idleChecks
	t := time.NewTicker(every)
	defer t.Stop()
	type mark struct {
		frames uint64
		checks int
	}
	marks := make(map[*client]mark) // as many as there are clients
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-t.C:
		}
		r.clients.Lock()
		for c := range marks {
			if _, ok := r.clients.all[c]; !ok {
				delete(marks, c)
			}
		}
		for c := range r.clients.all {
			m := marks[c]
			// A client that we don't read from may well send.
			if n := c.frames.Load(); n != m.frames || c.isWaiting() {
				m = mark{frames: n}
			} else if m.checks++; m.checks > idleChecks {
				r.refused.idle.Add(1)
				r.logger.Info("client dropped", "from", c.conn.RemoteAddr(), "silent", r.opts.ClientIdle)
				c.conn.Close()
			}
			marks[c] = m
		}
		r.clients.Unlock()
	}
}

// watchKeys takes up changes of the file with the cell's key.
func (r *Replica) watchKeys() {
	keys := r.opts.Cell.Auth
	t := time.NewTicker(keyCheckEvery)
	defer t.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-t.C:
		}
		// Who dials looks at the file, too: the change may have been taken up already.
		if _, err := keys.Refresh(); err != nil {
			r.logger.Error("cell key", "error", err)
		}
	}
}

// causes remembers why connections were refused, so that the log says each cause once until it changes: a party with
// the wrong key comes back twice a second.
type causes struct {
	mu   sync.Mutex
	said map[netip.Addr]string
}

// maxCauses is how many addresses causes remembers; then it begins anew.
const maxCauses = 64

// news reports whether err is not what was said of this address last.
func (c *causes) news(from netip.Addr, err error) bool {
	cause := ""
	for _, known := range []error{auth.ErrMixed, auth.ErrStranger, wire.ErrTLS} {
		if errors.Is(err, known) {
			cause = known.Error()
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if cause == "" || c.said[from] == cause {
		return false
	}
	if c.said == nil || len(c.said) >= maxCauses {
		c.said = make(map[netip.Addr]string)
	}
	c.said[from] = cause
	return true
}

// refusedConnection counts a caller that was not let in, and logs why.
func (r *Replica) refusedConnection(conn net.Conn, err error) {
	if r.ctx.Err() != nil {
		return
	}
	r.refused.connections.Add(1)
	if r.causes.news(addressOf(conn), err) {
		r.logger.Warn("connection refused", "from", conn.RemoteAddr(), "error", err)
		return
	}
	r.logger.Debug("connection refused", "from", conn.RemoteAddr(), "error", err)
}

// peerConnections are the connections that other servers have dialled.
type peerConnections struct {
	mu  sync.Mutex
	all [cell.MaxServers][]net.Conn // the oldest first; at most maxPeerConnections each
}

// add adds a connection of a server, and closes the oldest if there are too many, which it reports.
func (p *peerConnections) add(id cell.ID, conn net.Conn) (closed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if list := p.all[id]; len(list) >= maxPeerConnections {
		list[0].Close()
		p.all[id] = slices.Delete(list, 0, 1)
		closed = true
	}
	p.all[id] = append(p.all[id], conn)
	return closed
}

func (p *peerConnections) remove(id cell.ID, conn net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all[id] = slices.DeleteFunc(p.all[id], func(c net.Conn) bool { return c == conn })
}

// receiveFrom is receive, counted among the connections of the server.
func (r *Replica) receiveFrom(conn net.Conn, rd *wire.Reader, from cell.ID) error {
	if r.dialled.add(from, conn) {
		r.refused.crowded.Add(1)
	}
	defer r.dialled.remove(from, conn)
	return r.receive(conn, rd, from)
}

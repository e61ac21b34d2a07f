package pss

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/auth"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
	"github.com/paxos-iscsi/paxos-iscsi/pss/wire"
)

// Options of a Cell. The zero value has the defaults of a LAN.
type Options struct {
	// MaxInflightBytes limits the data of requests that were sent, or may be, and not answered.
	// 32 MiB by default. One operation is always let through.
	MaxInflightBytes int
	// MaxQueued limits the requests that wait behind that; further ones fail with ErrQueueFull.
	// 65536 by default.
	MaxQueued int

	DialTimeout  time.Duration // of one attempt to connect, greeting included; 1 s by default
	Backoff      time.Duration // before the second attempt; doubled for each further one; 20 ms by default
	MaxBackoff   time.Duration // 500 ms by default
	Ping         time.Duration // a connection silent for so long is asked for a sign of life; 500 ms by default
	Silence      time.Duration // a connection silent for so long is given up; 3 s by default
	SessionLease time.Duration // after so long without a sign of life the cell ends the session; 30 s by default, 1 s at least
	CloseTimeout time.Duration // how long Close waits for what is under way; 1 s by default

	// Dial connects to host:port; TCP by default. With a cell key, what it returns is secured.
	Dial func(ctx context.Context, address string) (net.Conn, error)
	// Software is told to the servers, for their status displays.
	Software string
	// Logger hears of masters and connections that come and go; nobody does by default.
	Logger *slog.Logger
}

func (o Options) withDefaults() Options {
	or := func(d *time.Duration, def time.Duration) {
		if *d <= 0 {
			*d = def
		}
	}
	or(&o.DialTimeout, time.Second)
	or(&o.Backoff, 20*time.Millisecond)
	or(&o.MaxBackoff, 500*time.Millisecond)
	or(&o.Ping, 500*time.Millisecond)
	or(&o.Silence, 3*time.Second)
	or(&o.CloseTimeout, time.Second)
	or(&o.SessionLease, 30*time.Second)
	if o.MaxInflightBytes <= 0 {
		o.MaxInflightBytes = 32 << 20
	}
	if o.MaxQueued <= 0 {
		o.MaxQueued = 64 << 10
	}
	if o.Dial == nil {
		var d net.Dialer
		o.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			return d.DialContext(ctx, "tcp", address)
		}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// Cell is a client of one cell, with one session. Its methods may be called from several goroutines.
type Cell struct {
	opts   Options
	keys   *auth.Keys      // nil in an open cell
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu       sync.Mutex
	cond     *sync.Cond // a transmission ended, a volume has nothing under way, Close is done
	peers    []*peer
	table    uint64 // index of the newest table of servers that a server told of
	active   *conn  // to the master; carries the requests
	draining *conn  // was active; its goroutines may still refer to requests
	closing  bool   // nothing new is taken
	closed   bool
	tick     uint64 // counts Options.Ping intervals
	signs    uint64 // after so many of them the servers hear of us whatever happens

	session uint64
	epoch   uint32        // of the latest SessionOpen sent, 0 before the first
	known   bool          // a SessionOpen of this session was answered with success
	refusal error         // why the latest SessionOpen failed
	woken   chan struct{} // closed when those who wait for something in the cell ought to ask again
	handles uint64        // given out to locks and readers of queues

	watching  uint64 // the session that Watch was last called in
	delivered uint64 // number of the last event that Events returned

	queue
	finished, finishedEnd *Request // whose Done unlock will call, in this order
}

// Open makes a client of the cell that conf describes. It does not wait for the network.
func Open(conf *cell.Config, o Options) (*Cell, error) {
	core := conf.Core()
	if len(core) == 0 {
		return nil, fmt.Errorf("%s lists no core server", conf.File)
	}
	session, err := newSession()
	if err != nil {
		return nil, err
	}
	c := &Cell{opts: o.withDefaults(), keys: conf.Auth, session: session, woken: make(chan struct{})}
	c.signs = uint64(max(1, c.opts.SessionLease/4/c.opts.Ping))
	c.cond = sync.NewCond(&c.mu)
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.queue.init()
	c.mu.Lock()
	for _, s := range core {
		c.reach(s)
	}
	c.mu.Unlock()
	c.wg.Go(c.watch)
	return c, nil
}

// newSession draws the number of a session: never 0, and never drawn twice.
func newSession() (uint64, error) {
	var b [8]byte
	for {
		if _, err := rand.Read(b[:]); err != nil {
			return 0, fmt.Errorf("draw a session number: %w", err)
		}
		if n := binary.LittleEndian.Uint64(b[:]); n != 0 {
			return n, nil
		}
	}
}

// Close closes the session, waiting at most Options.CloseTimeout for what is under way before, fails
// what is left with ErrClosed, and returns when all of the Cell's goroutines have ended.
func (c *Cell) Close() error { return c.end(true) }

// Abort is Close without a word to the cell, as if the client had died: what the session holds stays held until its
// lease is over.
func (c *Cell) Abort() { _ = c.end(false) } // an error would be that of the farewell

func (c *Cell) end(farewell bool) error {
	c.mu.Lock()
	if c.closing {
		for !c.closed {
			c.cond.Wait()
		}
		c.mu.Unlock()
		return nil
	}
	c.closing = true
	farewell = farewell && c.epoch > 0 && c.active != nil
	c.mu.Unlock()

	var err error
	if farewell {
		ctx, cancel := context.WithTimeout(c.ctx, c.opts.CloseTimeout)
		_, err = c.propose(ctx, op.Header{Code: op.SessionClose}, nil)
		cancel()
	}
	c.cancel()
	c.wg.Wait()

	c.mu.Lock()
	c.failAll(ErrClosed)
	c.closed = true
	c.cond.Broadcast()
	c.unlock()
	if err != nil && !errors.Is(err, op.NoSession) && !errors.Is(err, ErrSessionLost) { // it had ended already
		return fmt.Errorf("close the session: %w", err)
	}
	return nil
}

// unlock ends a section under c.mu and completes the requests that were finished in it.
func (c *Cell) unlock() {
	r := c.finished
	c.finished, c.finishedEnd = nil, nil
	c.mu.Unlock()
	for r != nil {
		next := r.next // r is the caller's again once Done is called
		r.next = nil
		r.Done(r)
		r = next
	}
}

// master is the newest that any server said about who is master, and this server if we know it and it
// does not say otherwise of itself.
func (c *Cell) master() (wire.Master, *peer) {
	best := wire.Master{Master: wire.None}
	for _, p := range c.peers {
		if p.view.Master != wire.None && (best.Master == wire.None || p.view.Term > best.Term) {
			best = p.view
		}
	}
	for _, p := range c.peers {
		if uint8(p.server.ID) == best.Master && (p.view.Master == best.Master || p.view.Term < best.Term) {
			return best, p
		}
	}
	return best, nil
}

// Master is the server that is master as far as we know, and false if there is none or it can't be reached.
func (c *Cell) Master() (id cell.ID, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.active == nil {
		return 0, false
	}
	return c.active.peer.server.ID, true
}

// Sync returns when the cell has agreed on an operation that does nothing. The session is open then.
func (c *Cell) Sync(ctx context.Context) error {
	_, err := c.propose(ctx, op.Header{Code: op.Nop}, nil)
	if err != nil {
		return fmt.Errorf("open a session: %w", err)
	}
	return nil
}

// pick makes the connection to the master the active one, if there is one.
func (c *Cell) pick() {
	best, p := c.master()
	if c.active != nil && (p == nil || p.conn != c.active) {
		c.deactivate(fmt.Errorf("server %d is not master any more", c.active.peer.server.ID))
	}
	if c.active != nil || c.draining != nil || p == nil || p.conn == nil {
		return
	}
	c.active = p.conn
	c.wakeAll() // a wake may have been lost with the old connection
	c.opts.Logger.Info("found the master", "server", p.server.ID, "term", best.Term)
	c.admit()
	c.active.poke()
}

// deactivate closes the active connection. Nothing is sent elsewhere before its goroutines have ended,
// because until then they may read and write the memory of requests.
func (c *Cell) deactivate(why error) {
	k := c.active
	c.active, c.draining = nil, k
	k.close(why)
}

// drained is called when the goroutines of k have ended and it carried requests.
func (c *Cell) drained(k *conn) {
	if c.active != k && c.draining != k {
		return
	}
	c.active, c.draining = nil, nil
	c.rewind()
	c.expire()
}

// watch looks after connections and requests that nothing happens to. It is no part of the data path.
func (c *Cell) watch() {
	t := time.NewTicker(c.opts.Ping)
	defer t.Stop()
	limit := int(max(1, c.opts.Silence/c.opts.Ping))
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-t.C:
		}
		c.mu.Lock()
		c.tick++
		for _, p := range c.peers {
			if k := p.conn; k != nil {
				k.watch(limit, c.opts.Silence)
			}
		}
		c.expire()
		c.unlock()
	}
}

// heard takes what a server says about who is master.
func (c *Cell) heard(k *conn, m wire.Master) {
	c.mu.Lock()
	if m.Term >= k.peer.view.Term {
		k.peer.view = m
	}
	c.pick()
	c.wakeAll() // the same server may be master again, and have told nobody meanwhile
	c.unlock()
}

// notMaster takes the refusal of a request.
func (c *Cell) notMaster(k *conn, m wire.Master) {
	c.mu.Lock()
	if m.Master == uint8(k.peer.server.ID) {
		m.Master = wire.None // it can't be both; it will say when it is
	}
	if m.Term >= k.peer.view.Term {
		k.peer.view = m
	}
	if c.active == k {
		c.deactivate(fmt.Errorf("server %d is not master", k.peer.server.ID))
	}
	c.pick()
	c.unlock()
}

// opened takes the answer to the SessionOpen that was sent on k.
func (c *Cell) opened(k *conn, e op.Errno) {
	switch e {
	case op.OK:
		k.confirmed, c.known, c.refusal = true, true, nil
	case op.NoSession, op.StaleEpoch:
		c.sessionLost(nil)
	default:
		c.refusal = fmt.Errorf("server %d refuses to open a session: %w", k.peer.server.ID, e)
		c.deactivate(c.refusal)
	}
}

// sessionLost takes a new session: the cell does not know the old one. refused is the call that was
// answered so, or nil when it was the SessionOpen. Calls sent for the first time on this connection,
// and not before the refused one, were refused too; the others may have taken effect.
func (c *Cell) sessionLost(refused *call) {
	k := c.active
	if refused != nil && !k.confirmed {
		// The answer to the SessionOpen, which says why, is still to come.
		c.deactivate(errors.New("the cell refuses the session"))
		return
	}
	session, err := newSession()
	if err != nil {
		c.deactivate(err) // and try again
		return
	}
	for q := c.first; q != nil; q = q.next {
		if q.seq == 0 || q.attempts == 0 && (q.req == nil || q.req.bound == 0) {
			continue
		}
		if q.req != nil && q.req.bound != 0 {
			q.lost = true // it makes no sense in another session
		} else if q.attempts == 1 && (refused == nil || q.seq >= refused.seq) {
			q.attempts = 0
		} else {
			q.lost = true
		}
	}
	c.session, c.epoch, c.known = session, 0, false
	c.rebase = true
	for _, p := range c.peers {
		if p.conn != nil && p.conn != k {
			p.conn.close(ErrSessionLost) // it told the server of the old session: greet again
		}
	}
	c.opts.Logger.Warn("the cell lost our session; going on with a new one")
	c.deactivate(ErrSessionLost)
}

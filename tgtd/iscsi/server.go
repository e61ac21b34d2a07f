package iscsi

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi/bufpool"
)

// DefaultPort is where iSCSI targets listen (RFC 7143 14).
const DefaultPort = 3260

// Options configure a Server. Only Directory is required; a zero limit means its default.
type Options struct {
	Directory Directory
	Logger    *slog.Logger // nil: nothing is logged

	LoginTimeout time.Duration // for the whole login phase, default 15 s
	MaxLogins    int           // connections in login; beyond it the oldest is closed, default 512
	// MaxLoginsPerAddress bounds those of one address, or of one IPv6 network of 64 bits: beyond it the oldest of them
	// is closed, so that one host can't keep others out. Default a quarter of MaxLogins, but at least 16.
	MaxLoginsPerAddress int
	// StallTimeout closes a connection whose initiator takes less than 1 MiB of what waits for it in that time, or
	// acknowledges nothing at all, default 60 s.
	StallTimeout time.Duration
	// LogoutGrace is how long sessions that are going to be closed are given after they were asked to log out by an
	// asynchronous message (RFC 7143 11.9.1). 0, the default, closes them without a word, as tgt does.
	LogoutGrace time.Duration
	// RefuseMD5 leaves only CHAP with SHA1, SHA-256 and SHA3-256.
	RefuseMD5      bool
	MaxConnections int // connections at once; beyond it new ones are closed, default 4096
	// MaxTransfer is how many bytes one command may move, default 64 MiB, at most bufpool.MaxSize. One that
	// wants more gets CHECK CONDITION, INSUFFICIENT RESOURCES.
	MaxTransfer int
	// MaxSessionBytes bounds what the commands of one session may hold at once, default 256 MiB and never
	// less than MaxTransfer. A command beyond it gets TASK SET FULL.
	MaxSessionBytes int
	// MaxServerBytes bounds what the commands of all sessions may hold at once, default 1 GiB. Beyond it a command
	// gets TASK SET FULL, but for those of sessions that hold little.
	MaxServerBytes int
	// SendTargetsInNormalSessions answers text requests in normal sessions, as RFC 7143 Appendix C
	// demands. Off by default: tgt closes the connection.
	SendTargetsInNormalSessions bool
}

// fairSessionBytes is what the commands of a session may hold even when Options.MaxServerBytes is used up by others.
const fairSessionBytes = 1 << 20

// withDefaults fills in what was left out.
func (o Options) withDefaults() Options {
	pick := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.LoginTimeout <= 0 {
		o.LoginTimeout = 15 * time.Second
	}
	if o.StallTimeout <= 0 {
		o.StallTimeout = 60 * time.Second
	}
	pick(&o.MaxLogins, 512)
	pick(&o.MaxLoginsPerAddress, max(o.MaxLogins/4, 16))
	pick(&o.MaxConnections, 4096)
	pick(&o.MaxTransfer, 64<<20)
	pick(&o.MaxSessionBytes, 256<<20)
	pick(&o.MaxServerBytes, 1<<30)
	o.MaxTransfer = min(o.MaxTransfer, bufpool.MaxSize)
	o.MaxSessionBytes = max(o.MaxSessionBytes, o.MaxTransfer)
	return o
}

// Server is the target side of iSCSI: portals, connections and sessions. Its methods may be called from
// any goroutine.
type Server struct {
	opt     Options
	buffers bufpool.Pool
	tasks   sync.Pool    // *task
	items   sync.Pool    // *item
	bytes   atomic.Int64 // what the commands of all sessions hold

	mu          sync.Mutex
	closing     bool
	portals     map[*Portal]struct{}
	conns       map[*conn]struct{}
	logins      []*conn // of conns, those in login, oldest first
	sessions    map[uint64]*session
	lastSession uint64
	ended       map[LoginStatus]uint64 // logins
	abandoned   uint64                 // the same
	turnedAway  uint64                 // connections
	running     sync.WaitGroup         // accept loops and connections
}

// NewServer makes a server without portals.
func NewServer(o Options) *Server {
	return &Server{
		opt:      o.withDefaults(),
		portals:  make(map[*Portal]struct{}),
		conns:    make(map[*conn]struct{}),
		sessions: make(map[uint64]*session),
		ended:    make(map[LoginStatus]uint64),
	}
}

// ErrServerClosed is returned by a server that was closed.
var ErrServerClosed = errors.New("the iSCSI server is closed")

// Portal is one address that a server listens on.
type Portal struct {
	srv      *Server
	listener net.Listener
	addr     netip.AddrPort
	ended    chan struct{}
}

// Addr is the address the portal is bound to; its port is never 0. It prints as tgtadm shows it, IPv6 in
// brackets.
func (p *Portal) Addr() netip.AddrPort { return p.addr }

// Close stops listening. Sessions that came in through the portal go on.
func (p *Portal) Close() {
	p.srv.mu.Lock()
	delete(p.srv.portals, p)
	p.srv.mu.Unlock()
	p.listener.Close()
	<-p.ended
}

// Listen opens a portal at HOST[:PORT], an IPv6 address in brackets. The port is 3260 when left out; 0, or
// something that is no number, is any free one. A host name is looked up. An IPv6 portal takes IPv6 only.
func (srv *Server) Listen(addr string) (*Portal, error) {
	host, port, err := splitPortal(addr)
	if err != nil {
		return nil, fmt.Errorf("portal %q: %w", addr, err)
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		found, err := net.ResolveTCPAddr("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err != nil {
			return nil, fmt.Errorf("portal %q: %w", addr, err)
		}
		ip = found.AddrPort().Addr().Unmap()
	}
	network := "tcp4"
	if ip.Is6() {
		network = "tcp6" // implies IPV6_V6ONLY: 0.0.0.0 and [::] are two portals
	}
	l, err := net.Listen(network, netip.AddrPortFrom(ip, uint16(port)).String())
	if err != nil {
		return nil, fmt.Errorf("portal %q: %w", addr, err)
	}
	p, err := srv.Serve(l)
	if err != nil {
		l.Close()
	}
	return p, err
}

// splitPortal takes HOST[:PORT] apart.
func splitPortal(addr string) (host string, port int, err error) {
	rest := ""
	if strings.HasPrefix(addr, "[") {
		end := strings.IndexByte(addr, ']')
		if end < 0 {
			return "", 0, errors.New("missing ]")
		}
		host, rest = addr[1:end], addr[end+1:]
	} else if i := strings.IndexByte(addr, ':'); i >= 0 {
		host, rest = addr[:i], addr[i:]
	} else {
		host = addr
	}
	if host == "" {
		return "", 0, errors.New("no host")
	}
	if rest == "" {
		return host, DefaultPort, nil
	}
	if port = atoi(strings.TrimPrefix(rest, ":")); port < 0 || port > 65535 {
		return "", 0, errors.New("port out of range")
	}
	return host, port, nil
}

// Serve takes over a listening TCP socket, for example one that was inherited.
func (srv *Server) Serve(l net.Listener) (*Portal, error) {
	tcp, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return nil, fmt.Errorf("portal %v: not TCP", l.Addr())
	}
	p := &Portal{srv: srv, listener: l, addr: tcp.AddrPort(), ended: make(chan struct{})}
	srv.mu.Lock()
	defer srv.mu.Unlock()
	if srv.closing {
		return nil, ErrServerClosed
	}
	srv.portals[p] = struct{}{}
	srv.running.Go(p.accept)
	return p, nil
}

// acceptPause is how long a portal waits when the process has run out of descriptors or memory.
const acceptPause = 50 * time.Millisecond

// accept is the portal's goroutine.
func (p *Portal) accept() {
	defer close(p.ended)
	for {
		nc, err := p.listener.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			p.srv.opt.Logger.Error("iscsi: accepting a connection", "portal", p.addr, "err", err)
			time.Sleep(acceptPause)
		default:
			p.srv.start(nc)
		}
	}
}

// start takes a new connection in, or closes it at once.
func (srv *Server) start(nc net.Conn) {
	c, err := newConn(srv, nc)
	if err != nil || !srv.opt.Directory.Welcome() {
		nc.Close()
		return
	}
	if tcp, ok := nc.(*net.TCPConn); ok {
		// net sets TCP_NODELAY by itself. Keepalive finds initiators that vanished without a word.
		err := tcp.SetKeepAliveConfig(net.KeepAliveConfig{
			Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 6,
		})
		if err != nil {
			srv.opt.Logger.Debug("iscsi: keepalive", "peer", c.addrs.remote, "err", err)
		}
	}
	if err := c.limitSilence(srv.opt.StallTimeout); err != nil {
		srv.opt.Logger.Debug("iscsi: user time-out", "peer", c.addrs.remote, "err", err)
	}
	srv.mu.Lock()
	if srv.closing || len(srv.conns) >= srv.opt.MaxConnections {
		srv.turnedAway++
		srv.mu.Unlock()
		nc.Close()
		srv.opt.Logger.Warn("iscsi: too many connections", "peer", c.addrs.remote)
		return
	}
	oldest := srv.crowdOut(c.addrs.remote.Addr())
	srv.conns[c] = struct{}{}
	srv.logins = append(srv.logins, c)
	srv.running.Go(func() {
		c.serve()
		srv.mu.Lock()
		delete(srv.conns, c)
		srv.mu.Unlock()
	})
	srv.mu.Unlock()
	if oldest != nil {
		oldest.fail(errCrowdedOut)
	}
}

// crowdOut makes room for one more connection in login and returns the one that has to go, if any. Called with
// srv.mu held.
func (srv *Server) crowdOut(from netip.Addr) *conn {
	out := -1
	if len(srv.logins) >= srv.opt.MaxLogins {
		out = 0
	}
	same := 0
	for i := len(srv.logins) - 1; i >= 0; i-- {
		if neighbours(srv.logins[i].addrs.remote.Addr(), from) {
			if same++; same >= srv.opt.MaxLoginsPerAddress {
				out = i
			}
		}
	}
	if out < 0 {
		return nil
	}
	oldest := srv.logins[out]
	srv.logins = slices.Delete(srv.logins, out, out+1)
	return oldest
}

// neighbours says whether two addresses count as one: a host with IPv6 has a network of 64 bits to choose from.
func neighbours(a, b netip.Addr) bool {
	if !a.Is6() || !b.Is6() {
		return a == b
	}
	net, err := a.WithZone("").Prefix(64)
	return err == nil && net.Contains(b.WithZone(""))
}

// loggedIn takes a connection out of the list of those in login.
func (srv *Server) loggedIn(c *conn) {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	if i := slices.Index(srv.logins, c); i >= 0 {
		srv.logins = slices.Delete(srv.logins, i, i+1)
	}
}

// Close closes all portals and connections and returns when every goroutine has ended and every session
// is detached from its target. With a LogoutGrace the initiators are asked to log out before.
func (srv *Server) Close() {
	srv.mu.Lock()
	srv.closing = true
	for p := range srv.portals {
		p.listener.Close()
	}
	srv.mu.Unlock()
	srv.askToLogOut(-1)
	srv.mu.Lock()
	conns := slices.Collect(maps.Keys(srv.conns))
	srv.mu.Unlock()
	for _, c := range conns {
		c.fail(errShutdown)
	}
	srv.running.Wait()
}

// SessionInfo describes a normal session.
type SessionInfo struct {
	SID         uint64
	TID         int
	Initiator   string
	Alias       string // empty when the initiator has not sent one
	ISID        [6]byte
	Connections []ConnInfo // oldest first
}

// ConnInfo describes a connection.
type ConnInfo struct {
	CID   uint32
	Peer  netip.AddrPort
	Stats ConnStats
}

// ConnStats count what went over a connection since it was accepted, login included. Octets are all bytes
// of PDUs with padding and digests. (tgt shows 0 for DataInPDUs and ResponsePDUs whatever happens.)
type ConnStats struct {
	RxOctets, TxOctets        uint64
	CommandPDUs, ResponsePDUs uint64
	DataInPDUs, DataOutPDUs   uint64
}

func (c *conn) info() ConnInfo {
	return ConnInfo{CID: uint32(c.cid), Peer: c.addrs.remote, Stats: ConnStats{
		RxOctets:     c.stats.rxOctets.Load(),
		TxOctets:     c.stats.txOctets.Load(),
		CommandPDUs:  c.stats.commandPDUs.Load(),
		ResponsePDUs: c.stats.responsePDUs.Load(),
		DataInPDUs:   c.stats.dataInPDUs.Load(),
		DataOutPDUs:  c.stats.dataOutPDUs.Load(),
	}}
}

// Sessions lists the sessions of a target, oldest first; of all targets for a negative tid. Discovery
// sessions and sessions that are ending are left out.
func (srv *Server) Sessions(tid int) []SessionInfo {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	var list []SessionInfo
	for _, s := range srv.sessions {
		if s.state != sessionLoggedIn || tid >= 0 && s.tid != tid {
			continue
		}
		info := SessionInfo{SID: s.id, TID: s.tid, Initiator: s.initiator, Alias: s.alias, ISID: s.isid}
		for _, c := range s.conns {
			if !c.broken.Load() {
				info.Connections = append(info.Connections, c.info())
			}
		}
		if len(info.Connections) > 0 {
			list = append(list, info)
		}
	}
	slices.SortFunc(list, func(a, b SessionInfo) int {
		if a.SID < b.SID {
			return -1
		}
		return 1
	})
	return list
}

// CloseConnection closes one connection, at once: it is not in Sessions any more. It returns ErrNoSession
// or ErrNoConnection.
func (srv *Server) CloseConnection(tid int, sid uint64, cid uint32) error {
	srv.mu.Lock()
	s := srv.sessions[sid]
	if s == nil || s.tid != tid || s.state != sessionLoggedIn {
		srv.mu.Unlock()
		return fmt.Errorf("%w: %d of target %d", ErrNoSession, sid, tid)
	}
	var found *conn
	for _, c := range s.conns {
		if uint32(c.cid) == cid && !c.broken.Load() {
			found = c
		}
	}
	srv.mu.Unlock()
	if found == nil {
		return fmt.Errorf("%w: %d of session %d", ErrNoConnection, cid, sid)
	}
	found.fail(errAdmin)
	return nil
}

// CloseTarget ends all sessions of a target and returns when the target has forgotten them. The caller
// has made Directory.Admit refuse the target before; a login that is just being completed notices. It must not
// hold a lock that Admit takes.
func (srv *Server) CloseTarget(tid int) {
	srv.askToLogOut(tid)
	srv.mu.Lock()
	var ending []*session
	for _, s := range srv.sessions {
		if s.tid == tid {
			ending = append(ending, s)
		}
	}
	srv.mu.Unlock()
	for _, s := range ending {
		s.close(errAdmin, nil)
	}
	for _, s := range ending {
		<-s.done
	}
}

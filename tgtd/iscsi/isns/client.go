package isns

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Times and limits of a client.
const (
	period        = 300 * time.Second // after which a server forgets us when it hears nothing
	requestLimit  = 5 * time.Second   // for a request with its answer
	farewellLimit = 2 * time.Second   // for taking the registration back
	retryMin      = 500 * time.Millisecond
	retryMax      = 30 * time.Second
	maxInitiators = 65536 // names that are asked for, for each target
)

// State is what a server is told.
type State struct {
	Portals []netip.AddrPort // unspecified addresses stand for the one that the server is reached from
	Targets []string
}

// Options configure a Client.
type Options struct {
	Server string // HOST:PORT
	Entity string // under which name we register: one for each daemon
	// Access asks the server which initiators share a discovery domain with each target.
	Access bool
	Log    *slog.Logger
}

// Client keeps a server informed. Its methods may be called from any goroutine.
type Client struct {
	o       Options
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
	wake    chan struct{}

	mu      sync.Mutex
	state   State
	allowed map[string]map[string]struct{} // target to initiators, as last heard

	// The registrar's own.
	nc          net.Conn
	notices     *net.UDPConn // where inquiries and notifications come in
	transaction uint16
	registered  bool
	source      string          // the target in whose name we speak
	told        map[string]bool // targets that the server knows
}

// NewClient starts a client. It never fails: while the server can't be reached it is tried again.
func NewClient(o Options, s State) *Client {
	c := &Client{o: o, wake: make(chan struct{}, 1), told: make(map[string]bool)}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.state = s
	c.running.Go(c.run)
	return c
}

// Update tells the client of a change; it does not wait.
func (c *Client) Update(s State) {
	c.mu.Lock()
	c.state = s
	c.mu.Unlock()
	c.again()
}

// again has the server told, or asked, once more.
func (c *Client) again() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Allows says whether the server lets an initiator log in to a target: whether they share a discovery domain. Before
// it has answered nobody may.
func (c *Client) Allows(target, initiator string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.allowed[target][initiator]
	return ok
}

// Close takes the registration back, if the server answers within farewellLimit, and ends the client.
func (c *Client) Close() {
	c.cancel()
	c.running.Wait()
}

// run is the registrar.
func (c *Client) run() {
	defer c.farewell()
	pause := retryMin
	for {
		err := c.refresh()
		next := period / 3
		if err != nil {
			c.hangUp()
			if c.ctx.Err() != nil {
				return
			}
			c.o.Log.Warn("iSNS", "server", c.o.Server, "err", err, "again_in", pause)
			next = pause
			pause = min(2*pause, retryMax)
		} else {
			pause = retryMin
		}
		timer := time.NewTimer(next)
		select {
		case <-c.ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		case <-c.wake:
			timer.Stop()
		}
	}
}

// refresh brings the server, and what we know from it, up to date.
func (c *Client) refresh() error {
	c.mu.Lock()
	s := c.state
	c.mu.Unlock()
	if len(s.Targets) == 0 || len(s.Portals) == 0 {
		return c.deregister(c.ctx) // nothing to offer
	}
	if err := c.connect(c.ctx); err != nil {
		return err
	}
	if err := c.register(s); err != nil {
		return err
	}
	if !c.o.Access {
		return nil
	}
	allowed := make(map[string]map[string]struct{})
	for _, t := range s.Targets {
		names, err := c.initiators(t)
		if err != nil {
			return err
		}
		allowed[t] = names
	}
	c.mu.Lock()
	c.allowed = allowed
	c.mu.Unlock()
	return nil
}

// connect dials the server, unless there is a connection, and opens the socket for notices beside it.
func (c *Client) connect(ctx context.Context) error {
	if c.nc != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, requestLimit)
	defer cancel()
	var d net.Dialer
	nc, err := d.DialContext(ctx, "tcp", c.o.Server)
	if err != nil {
		return err
	}
	local := nc.LocalAddr().(*net.TCPAddr)
	notices, err := net.ListenUDP("udp", &net.UDPAddr{IP: local.IP, Zone: local.Zone})
	if err != nil {
		nc.Close()
		return fmt.Errorf("opening a socket for notifications: %w", err)
	}
	c.nc, c.notices = nc, notices
	from := nc.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	c.running.Go(func() { c.hear(notices, from) })
	return nil
}

func (c *Client) hangUp() {
	if c.nc != nil {
		c.nc.Close()
		c.notices.Close()
		c.nc, c.notices = nil, nil
		clear(c.told) // the next server may be another one, or have forgotten
	}
}

// request sends a request and returns the attributes of its answer.
func (c *Client) request(function uint16, flags uint16, payload []byte) ([]attribute, error) {
	c.transaction++
	nc := c.nc
	if err := nc.SetDeadline(time.Now().Add(requestLimit)); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(c.ctx, func() { nc.SetDeadline(time.Now().Add(farewellLimit)) })
	defer stop()
	m := message{function: function, flags: flagClient | flags, transaction: c.transaction, payload: payload}
	if _, err := nc.Write(m.appendTo(nil)); err != nil {
		return nil, err
	}
	a, err := readMessage(nc)
	switch {
	case err != nil:
		return nil, err
	case a.function != function|fnAnswer || a.transaction != c.transaction:
		return nil, fmt.Errorf("%w: function %04x answers %04x", errMessage, a.function, function)
	}
	return a.answer()
}

// register tells the server all we have, in place of what it knew (RFC 4171 5.6.5.1).
func (c *Client) register(s State) error {
	names := slices.Sorted(slices.Values(s.Targets))
	c.source = names[0]
	local := c.nc.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	notices := uint32(c.notices.LocalAddr().(*net.UDPAddr).Port) | portUDP
	b := appendText(nil, tagName, c.source)
	b = appendText(b, tagEntity, c.o.Entity)
	b = appendAttribute(b, tagDelimiter, nil)
	b = appendText(b, tagEntity, c.o.Entity)
	b = appendNumber(b, tagProtocol, protocolISCSI)
	b = appendNumber(b, tagPeriod, uint32(period/time.Second))
	portals := concrete(s.Portals, local)
	for i, p := range portals {
		b = appendAddr(b, tagPortalAddr, p.Addr())
		b = appendNumber(b, tagPortalPort, uint32(p.Port()))
		if i == 0 && p.Addr() == local { // where the notices come in must be an address of the portal
			b = appendNumber(b, tagESIPort, notices)
			b = appendNumber(b, tagSCNPort, notices)
		}
	}
	for _, name := range names {
		b = appendText(b, tagName, name)
		b = appendNumber(b, tagNodeType, nodeTarget)
	}
	for _, name := range names {
		for _, p := range portals {
			b = appendText(b, tagGroupName, name)
			b = appendAddr(b, tagGroupAddr, p.Addr())
			b = appendNumber(b, tagGroupPort, uint32(p.Port()))
			b = appendNumber(b, tagGroupTag, 1)
		}
	}
	if _, err := c.request(fnDevAttrReg, flagReplace, b); err != nil {
		return fmt.Errorf("registering %d targets: %w", len(names), err)
	}
	c.registered = true
	for name := range maps.Clone(c.told) {
		if !slices.Contains(names, name) {
			delete(c.told, name)
		}
	}
	for _, name := range names {
		if c.told[name] {
			continue
		}
		b := appendText(nil, tagName, name)
		b = appendText(b, tagName, name)
		b = appendAttribute(b, tagDelimiter, nil)
		b = appendNumber(b, tagSCNBitmap, scnWanted)
		if _, err := c.request(fnSCNReg, 0, b); err != nil {
			return fmt.Errorf("asking for notifications about %s: %w", name, err)
		}
		c.told[name] = true
	}
	return nil
}

// concrete puts the address that the server sees in the place of unspecified ones; that portal comes first.
func concrete(portals []netip.AddrPort, local netip.Addr) []netip.AddrPort {
	var list []netip.AddrPort
	for _, p := range portals {
		switch {
		case !p.Addr().IsUnspecified():
			p = netip.AddrPortFrom(p.Addr().Unmap().WithZone(""), p.Port())
		case p.Addr().Is4() == local.Is4():
			p = netip.AddrPortFrom(local, p.Port())
		default:
			continue // the other family: its addresses are not known here
		}
		if slices.Contains(list, p) {
			continue
		}
		if p.Addr() == local {
			list = slices.Insert(list, 0, p)
		} else {
			list = append(list, p)
		}
	}
	return list
}

// initiators asks which initiators a target shares a discovery domain with (RFC 4171 5.6.5.2).
func (c *Client) initiators(target string) (map[string]struct{}, error) {
	b := appendText(nil, tagName, target)
	b = appendNumber(b, tagNodeType, nodeInitiator)
	b = appendAttribute(b, tagDelimiter, nil)
	b = appendAttribute(b, tagName, nil)
	b = appendAttribute(b, tagNodeType, nil)
	list, err := c.request(fnDevAttrQry, 0, b)
	const noSuchEntry = StatusError(9)
	if errors.Is(err, noSuchEntry) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("asking for the initiators of %s: %w", target, err)
	}
	names := make(map[string]struct{})
	after := false
	last := ""
	for _, a := range list {
		switch a.tag {
		case tagDelimiter:
			after = true
		case tagName:
			last = a.text()
		case tagNodeType:
			if after && a.number()&nodeInitiator != 0 && last != "" && len(names) < maxInitiators {
				names[last] = struct{}{}
			}
		}
	}
	return names, nil
}

// deregister takes everything back (RFC 4171 5.6.5.4).
func (c *Client) deregister(ctx context.Context) error {
	if !c.registered {
		return nil
	}
	if err := c.connect(ctx); err != nil {
		return err
	}
	b := appendText(nil, tagName, c.source)
	b = appendAttribute(b, tagDelimiter, nil)
	b = appendText(b, tagEntity, c.o.Entity)
	if _, err := c.request(fnDevDereg, 0, b); err != nil {
		return fmt.Errorf("taking the registration back: %w", err)
	}
	c.registered = false
	clear(c.told)
	return nil
}

// farewell is the registrar's end.
func (c *Client) farewell() {
	ctx, cancel := context.WithTimeout(context.Background(), farewellLimit)
	defer cancel()
	if err := c.deregister(ctx); err != nil {
		c.o.Log.Warn("iSNS", "server", c.o.Server, "err", err)
	}
	c.hangUp()
}

// hear takes status inquiries, which it answers, and notifications, until the socket is closed. Datagrams of
// others than the server mean nothing.
func (c *Client) hear(socket *net.UDPConn, server netip.Addr) {
	b := make([]byte, headerSize+maxPayload)
	for {
		n, from, err := socket.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		if from.Addr().Unmap() != server {
			continue
		}
		m, err := readMessage(bytes.NewReader(b[:n]))
		if err != nil {
			c.o.Log.Debug("iSNS: a datagram", "from", from, "err", err)
			continue
		}
		switch m.function {
		case fnSCN:
			c.again()
		case fnESI:
		default:
			continue
		}
		a := message{function: m.function | fnAnswer, flags: flagClient, transaction: m.transaction,
			payload: append(binary.BigEndian.AppendUint32(nil, 0), m.payload...)}
		if len(a.payload) > maxPayload {
			continue
		}
		if _, err := socket.WriteToUDPAddrPort(a.appendTo(nil), from); err != nil {
			c.o.Log.Debug("iSNS: answering", "to", from, "err", err)
		}
	}
}

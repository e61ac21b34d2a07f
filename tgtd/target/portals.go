package target

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/mgmt"
)

const (
	defaultPort    = 3260            // RFC 7143 4.1
	resolveTimeout = 5 * time.Second // to look a portal's host name up
)

// driverState is the state of the iSCSI driver, as `tgtadm --op show --mode lld` prints it.
type driverState int

const (
	driverUninitialized driverState = iota
	driverReady
	driverStopped
)

func (s driverState) String() string {
	return [...]string{"uninitialized", "ready", "stopped"}[s]
}

// DriverReady says whether the iSCSI driver is ready; requests are refused while it is not.
func (m *Model) DriverReady() bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.driver == driverReady
}

// StartDriver opens the portals of the command line and, when none of them can be opened, the default
// ones. A portal that can't be opened is logged and left out. Starting a driver that is ready does
// nothing.
func (m *Model) StartDriver() {
	m.portalMu.Lock()
	defer m.portalMu.Unlock()
	if m.DriverReady() {
		return
	}
	opened := m.serveAll(m.o.Inherited)
	m.o.Inherited = nil // they are open once; a later start opens Portals
	if len(opened) == 0 {
		opened = m.openAll(m.o.Portals)
	}
	if len(opened) == 0 {
		opened = m.openAll(DefaultPortals[:])
	}
	m.update(func() error {
		m.driver = driverReady
		m.portals = append(m.portals, opened...)
		return nil
	})
	if len(opened) == 0 {
		m.log.Error("no portal is open: nobody can connect")
	}
}

// StopDriver closes all portals. It returns mgmt.ErrDriverBusy while there is a target. Stopping a driver that
// is not ready does nothing.
func (m *Model) StopDriver() error {
	m.portalMu.Lock()
	defer m.portalMu.Unlock()
	var portals []Portal
	err := m.update(func() error {
		if m.driver != driverReady {
			return nil
		}
		if len(m.targets) > 0 {
			return fmt.Errorf("%d targets are left: %w", len(m.targets), mgmt.ErrDriverBusy)
		}
		m.driver = driverStopped
		portals, m.portals = m.portals, nil
		return nil
	})
	closePortals(portals)
	return err
}

// AddPortals opens portals: HOST or HOST:PORT, IPv6 in brackets, port 3260 when none is given, port 0 for any free
// one; a host name stands for all its addresses. It returns mgmt.ErrInvalid when one can't be
// opened, and then opens none.
func (m *Model) AddPortals(texts []string) error {
	m.portalMu.Lock()
	defer m.portalMu.Unlock()
	m.mu.RLock()
	have := len(m.portals)
	m.mu.RUnlock()
	var opened []Portal
	for _, text := range texts {
		var more []Portal
		err := fmt.Errorf("there are %d portals: %w", MaxPortals, mgmt.ErrNoMemory)
		if have+len(opened) < MaxPortals {
			more, err = m.open(text)
		}
		if err != nil {
			closePortals(opened)
			return fmt.Errorf("new portal %.80q: %w", text, err)
		}
		opened = append(opened, more...)
	}
	return m.update(func() error {
		m.portals = append(m.portals, opened...)
		return nil
	})
}

// DeletePortals closes portals; sessions that came through them go on. It returns mgmt.ErrInvalid when one
// is not there, and then closes none.
func (m *Model) DeletePortals(texts []string) error {
	m.portalMu.Lock()
	defer m.portalMu.Unlock()
	addrs := make(map[netip.AddrPort]struct{})
	for _, text := range texts {
		at, err := resolvePortal(text)
		if err != nil {
			return fmt.Errorf("portal %.80q: %w", text, err)
		}
		at = slices.DeleteFunc(at, func(a netip.AddrPort) bool { return !m.hasPortal(a) })
		if len(at) == 0 {
			return Worded(fmt.Errorf("portal %.80q: no such portal: %w", text, mgmt.ErrInvalid),
				"iscsi_delete_portal", "delete_portal failed. No such portal found "+text)
		}
		for _, a := range at {
			addrs[a] = struct{}{}
		}
	}
	var closing []Portal
	err := m.update(func() error {
		left := make([]Portal, 0, len(m.portals))
		for _, p := range m.portals {
			if _, ok := addrs[p.Addr()]; ok {
				closing = append(closing, p)
			} else {
				left = append(left, p)
			}
		}
		m.portals = left
		return nil
	})
	closePortals(closing)
	return err
}

func (m *Model) hasPortal(a netip.AddrPort) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return slices.ContainsFunc(m.portals, func(p Portal) bool { return p.Addr() == a })
}

// openAll opens what can be opened and logs what can't.
func (m *Model) openAll(texts []string) []Portal {
	var opened []Portal
	for _, text := range texts {
		more, err := m.open(text)
		if err != nil {
			LogRefusal(m.log, "portal "+text, err)
			continue
		}
		opened = append(opened, more...)
	}
	return opened
}

// serveAll makes portals of listening sockets and logs those of which none can be made.
func (m *Model) serveAll(listeners []net.Listener) []Portal {
	var opened []Portal
	for _, l := range listeners {
		p, err := m.transport.Serve(l)
		if err != nil {
			m.log.Error("an inherited socket is no portal", "addr", l.Addr(), "err", err)
			l.Close()
			continue
		}
		opened = append(opened, p)
	}
	return opened
}

// open opens one portal at every address that its text stands for.
func (m *Model) open(text string) ([]Portal, error) {
	addrs, err := resolvePortal(text)
	if err != nil {
		return nil, err
	}
	var opened []Portal
	for _, a := range addrs {
		p, err := m.transport.Listen(a)
		if err != nil {
			closePortals(opened)
			err = Worded(mgmt.ErrInvalid.With(err), "iscsi_tcp_init_portal", "unable to bind server socket, "+osText(err))
			return nil, Worded(err, "iscsi_add_portal", "failed to create/bind to portal "+text)
		}
		opened = append(opened, p)
	}
	return opened, nil
}

// closePortals closes portals that nobody knows any more.
func closePortals(portals []Portal) {
	for _, p := range portals {
		p.Close()
	}
}

// resolvePortal finds the addresses of a portal. Errors carry mgmt.ErrInvalid.
func resolvePortal(text string) ([]netip.AddrPort, error) {
	host, port, err := parsePortal(text)
	if err != nil {
		return nil, err
	}
	if addr, ok := parseAddr(host); ok {
		return []netip.AddrPort{netip.AddrPortFrom(addr, port)}, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), resolveTimeout)
	defer cancel()
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, mgmt.ErrInvalid.With(err)
	}
	var addrs []netip.AddrPort
	for _, a := range found {
		if at := netip.AddrPortFrom(a.Unmap(), port); !slices.Contains(addrs, at) {
			addrs = append(addrs, at)
		}
	}
	return addrs, nil
}

// parsePortal takes HOST[:PORT] apart. A bare IPv6 address has no port. The port is read as C's
// atoi does: what is no number is 0.
func parsePortal(text string) (host string, port uint16, err error) {
	bad := func(why string) (string, uint16, error) {
		return "", 0, fmt.Errorf("%s: %w", why, mgmt.ErrInvalid)
	}
	var portText string
	hasPort := false
	if inner, ok := strings.CutPrefix(text, "["); ok {
		var rest string
		if host, rest, ok = strings.Cut(inner, "]"); !ok {
			return bad("the bracket is not closed")
		}
		if portText, hasPort = strings.CutPrefix(rest, ":"); rest != "" && !hasPort {
			return bad("something else than a port follows the bracket")
		}
	} else if strings.Count(text, ":") > 1 {
		host = text
		if _, err := netip.ParseAddr(host); err != nil {
			return bad("not an address")
		}
	} else {
		host, portText, hasPort = strings.Cut(text, ":")
	}
	if host == "" {
		return bad("no address")
	}
	if !hasPort {
		return host, defaultPort, nil
	}
	if portText == "" || digit(portText[0]) > 9 && !strings.ContainsRune(" +-", rune(portText[0])) {
		return host, 0, nil
	}
	n, _, ok := cNumber(portText, 10)
	if !ok || n < 0 || n > 65535 {
		return bad("the port is out of range")
	}
	return host, uint16(n), nil
}

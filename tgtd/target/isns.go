package target

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi/isns"
)

// iSNS: while it is on and iSNSServerIP is set, the server there is told of all targets and portals. With
// iSNSAccessControl it decides, too, who may log in, on top of the targets' own rules: whom the server has not
// named, or while it can't be reached has not named before, stays out.

// isnsAllows says whether the iSNS server, where it has a say, lets an initiator log in to a target. mu is held.
func (m *Model) isnsAllows(target, initiator string) bool {
	if !m.isns.on || !m.isns.control {
		return true
	}
	return m.naming != nil && m.naming.Allows(target, initiator)
}

// tellISNS tells the client of a change, if it is one for the server. mu is held.
func (m *Model) tellISNS() {
	if m.naming == nil {
		return
	}
	if s := m.isnsState(); !slices.Equal(s.Targets, m.named.Targets) || !slices.Equal(s.Portals, m.named.Portals) {
		m.named = s
		m.naming.Update(s)
	}
}

// isnsState is what the server is told. mu is held.
func (m *Model) isnsState() isns.State {
	var s isns.State
	for _, t := range m.created {
		if !t.deleting {
			s.Targets = append(s.Targets, t.name)
		}
	}
	for _, p := range m.portals {
		s.Portals = append(s.Portals, p.Addr())
	}
	return s
}

// followISNS starts, stops or replaces the client after a change of settings. A registration that is taken back
// holds the caller up for a moment.
func (m *Model) followISNS() {
	m.isnsMu.Lock()
	defer m.isnsMu.Unlock()
	m.mu.Lock()
	want := m.isns
	if m.stopping {
		want = isnsSettings{}
	}
	if want.address == "" {
		if want.on {
			m.log.Warn("iSNS is on, but no iSNSServerIP is set: targets are not registered, " +
				"and with iSNSAccessControl nobody can log in")
		}
		want.on = false
	}
	if want == m.follows || !want.on && !m.follows.on {
		m.follows = want
		m.mu.Unlock()
		return
	}
	m.follows = want
	old := m.naming
	m.naming = nil
	m.mu.Unlock()
	if old != nil {
		old.Close() // first: the same entity must not be taken back after it was registered anew
	}
	if !want.on {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.named = m.isnsState()
	m.naming = isns.NewClient(isns.Options{
		Server: net.JoinHostPort(strings.Trim(want.address, "[]"), strconv.Itoa(want.port)),
		Entity: entityName(m.named.Portals), Access: want.control, Log: m.log,
	}, m.named)
}

// entityName is the name under which this daemon registers: the same after a restart.
func entityName(portals []netip.AddrPort) string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "localhost"
	}
	port := uint16(defaultPort)
	if len(portals) > 0 {
		port = portals[0].Port()
	}
	return fmt.Sprintf("%s:tgtd:%d", host, port)
}

// stopISNS ends the client, for good.
func (m *Model) stopISNS() {
	m.update(func() error {
		m.isns.on = false
		m.stopping = true
		return nil
	})
	m.followISNS()
}

package target

import (
	"net/netip"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi"
)

var _ iscsi.Directory = (*Model)(nil)

// Welcome implements iscsi.Directory.
func (m *Model) Welcome() bool {
	return m.welcome.Load()
}

// Discover implements iscsi.Directory: the targets whose rules let the peer in, in order of
// creation, those that are offline too.
func (m *Model) Discover(peer netip.AddrPort, initiator string) []string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var names []string
	for _, t := range m.created {
		if !t.deleting && t.admits(peer.Addr(), initiator) && m.isnsAllows(t.name, initiator) {
			names = append(names, t.name)
		}
	}
	return names
}

// DiscoveryAccounts implements iscsi.Directory.
func (m *Model) DiscoveryAccounts() iscsi.Accounts {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.guard.resolved
}

// Admit implements iscsi.Directory. The order is tgt's: existence, redirection, state, rules; so
// a redirection holds for targets that are offline and for initiators that would not be let in.
func (m *Model) Admit(name, initiator string, peer, local netip.AddrPort) iscsi.Admission {
	m.mu.RLock()
	t := m.names[name]
	var r redirect
	if t != nil {
		r = t.redirect
	}
	m.mu.RUnlock()
	if t == nil {
		return iscsi.Admission{Status: iscsi.TargetNotFound}
	}
	var status iscsi.LoginStatus
	var to string
	if r.callback != "" {
		status, to = m.callback(r.callback, name, peer.Addr(), local.Addr())
	} else {
		status, to = r.apply(local.Addr())
	}
	if status != iscsi.LoginSuccess {
		return iscsi.Admission{Status: status, Redirect: to, TID: t.tid}
	}
	// The callback may have taken its time: look at the target as it is now.
	m.mu.RLock()
	defer m.mu.RUnlock()
	switch {
	case t.deleting || t.deleted:
		status = iscsi.TargetNotFound
	case t.offline:
		status = iscsi.TargetUnavailable
	case !t.admits(peer.Addr(), initiator), !m.isnsAllows(t.name, initiator):
		status = iscsi.TargetNotFound
	default:
		return iscsi.Admission{Status: iscsi.LoginSuccess, TID: t.tid, Params: t.params,
			Accounts: t.accounts.resolved, Target: t.device}
	}
	return iscsi.Admission{Status: status, TID: t.tid}
}

package target

import (
	"fmt"
	"slices"
	"strings"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/scsi"
)

// The texts below are tgt's, to the byte: scripts take them apart.

// ShowTargets is the text of `tgtadm --op show --mode target`: all targets by number, empty when there is
// none.
func (m *Model) ShowTargets() string {
	var b strings.Builder
	for _, t := range m.inOrder() {
		m.showTarget(&b, t)
	}
	return b.String()
}

// showTarget writes one target, unless it is gone.
func (m *Model) showTarget(b *strings.Builder, t *target) {
	m.mu.RLock()
	params, offline, accounts := t.params, t.offline, t.accounts
	accounts.incoming = slices.Clone(accounts.incoming)
	byAddr, byName, deleted := t.byAddr, t.byName, t.deleted
	m.mu.RUnlock()
	if deleted {
		return
	}
	fmt.Fprintf(b, "Target %d: %s\n", t.tid, t.name)
	b.WriteString("    System information:\n        Driver: iscsi\n")
	fmt.Fprintf(b, "        State: %s\n", readyOffline(offline))
	if params.NopInterval != 0 {
		fmt.Fprintf(b, "        Nop interval: %d\n        Nop count: %d\n", params.NopInterval, params.NopCount)
	}
	b.WriteString("    I_T nexus information:\n")
	for _, s := range m.transport.Sessions(t.tid) {
		showNexus(b, s)
	}
	b.WriteString("    LUN information:\n")
	for _, u := range t.device.Units() {
		showUnit(b, u.Show())
	}
	b.WriteString("    Account information:\n")
	showAccounts(b, "        ", accounts)
	b.WriteString("    ACL information:\n")
	for _, r := range byAddr {
		fmt.Fprintf(b, "        %s\n", r.text)
	}
	for _, name := range byName {
		fmt.Fprintf(b, "        %s\n", name)
	}
}

func readyOffline(offline bool) string {
	if offline {
		return "offline"
	}
	return "ready"
}

// showNexus writes a session with the connection it was made with.
func showNexus(b *strings.Builder, s iscsi.SessionInfo) {
	alias := s.Alias
	if alias == "" {
		alias = "none"
	}
	fmt.Fprintf(b, "        I_T nexus: %d\n            Initiator: %s alias: %s\n", s.SID, s.Initiator, alias)
	if len(s.Connections) > 0 {
		c := s.Connections[0]
		fmt.Fprintf(b, "            Connection: %d\n                IP Address: %s\n", c.CID, address(c))
	}
}

// address is a peer's address as show prints it.
func address(c iscsi.ConnInfo) string {
	return c.Peer.Addr().Unmap().String()
}

// showUnit writes one logical unit.
func showUnit(b *strings.Builder, u scsi.UnitInfo) {
	path := u.Path
	if path == "" {
		path = "None"
	}
	fmt.Fprintf(b, "        LUN: %d\n", u.LUN)
	for _, line := range [...]struct {
		name  string
		value any
	}{
		{"Type", u.Type},
		{"SCSI ID", u.SCSIID},
		{"SCSI SN", u.SCSISN},
		{"Size", fmt.Sprintf("%d MB, Block size: %d", megabytes(u.Bytes), u.BlockSize)},
		{"Online", yesNo(u.Online)},
		{"Removable media", yesNo(u.Removable)},
		{"Prevent removal", yesNo(u.PreventRemoval)},
		{"Readonly", yesNo(u.ReadOnly)},
		{"SWP", yesNo(u.SWP)},
		{"Thin-provisioning", yesNo(u.Thin)},
		{"Backing store type", u.StoreName},
		{"Backing store path", path},
		{"Backing store flags", u.Flags},
	} {
		fmt.Fprintf(b, "            %s: %v\n", line.name, line.value)
	}
	if u.Problem != "" { // tgt has nothing like it
		fmt.Fprintf(b, "            Problem: %s\n", u.Problem)
	}
}

// megabytes is a size as tgt prints it: about 10^6 bytes to the MB, in integers.
func megabytes(size int64) int64 {
	sectors := size / 512
	return (sectors - (sectors/625 - 974)) / 1950
}

func yesNo(v bool) string {
	if v {
		return "Yes"
	}
	return "No"
}

// showAccounts writes bound accounts, one a line.
func showAccounts(b *strings.Builder, indent string, accounts binding) {
	for _, user := range accounts.incoming {
		fmt.Fprintf(b, "%s%s\n", indent, user)
	}
	if accounts.hasOut {
		fmt.Fprintf(b, "%s%s (outgoing)\n", indent, accounts.outgoing)
	}
}

// ShowTarget is the text of `tgtadm --op show --mode target --tid N`: the parameters of one target, or its
// redirection. It returns mgmt.ErrNoTarget.
func (m *Model) ShowTarget(tid int) (string, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	t, err := m.find(tid)
	if err != nil {
		return "", err
	}
	if text := t.redirect.show(); text != "" {
		return text, nil
	}
	return t.params.Show(), nil
}

// ShowConnections is the text of `tgtadm --op show --mode conn --tid N`: the newest first. It
// returns mgmt.ErrNoTarget.
func (m *Model) ShowConnections(tid int) (string, error) {
	if _, err := m.device(tid); err != nil {
		return "", err
	}
	var b strings.Builder
	for _, s := range slices.Backward(m.transport.Sessions(tid)) {
		for _, c := range slices.Backward(s.Connections) {
			fmt.Fprintf(&b, "Session: %d\n    Connection: %d\n        Initiator: %s\n        IP Address: %s\n",
				s.SID, c.CID, s.Initiator, address(c))
		}
	}
	return b.String(), nil
}

// ShowAccounts is the text of `tgtadm --op show --mode account`: the newest first, empty when there
// is none.
func (m *Model) ShowAccounts() string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if len(m.users) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString("Account list:\n")
	for _, user := range slices.Backward(m.users) {
		fmt.Fprintf(&b, "    %s\n", user)
	}
	return b.String()
}

// ShowPortals is the text of `tgtadm --op show --mode portal`: the newest first. The portal group tag is always 1.
func (m *Model) ShowPortals() string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var b strings.Builder
	for _, p := range slices.Backward(m.portals) {
		fmt.Fprintf(&b, "Portal: %s,1\n", p.Addr())
	}
	return b.String()
}

// ShowDrivers is the text of `tgtadm --op show --mode lld`: the drivers with their targets in order of
// creation. There is no RDMA, so iser is always in error.
func (m *Model) ShowDrivers() string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var b strings.Builder
	fmt.Fprintf(&b, "LLDs:\n    iscsi: %s\n", m.driver)
	for _, t := range m.created {
		fmt.Fprintf(&b, "        Target %d: %s\n", t.tid, t.name)
	}
	b.WriteString("    iser: error\n")
	return b.String()
}

// ShowSystem is the text of `tgtadm --op show --mode sys`.
func (m *Model) ShowSystem() string {
	stores := m.o.Stores.Names()
	m.mu.RLock()
	defer m.mu.RUnlock()
	var b strings.Builder
	fmt.Fprintf(&b, "System:\n    State: %s\n    debug: %s\n", readyOffline(m.offline), onOff(m.debug, "on", "off"))
	fmt.Fprintf(&b, "LLDs:\n    iscsi: %s\n    iser: error\n", m.driver)
	b.WriteString("Backing stores:\n")
	for _, name := range stores {
		flags := ""
		if slices.Contains(flagStores[:], name) {
			flags = " (bsoflags sync:direct)"
		}
		fmt.Fprintf(&b, "    %s%s\n", name, flags)
	}
	b.WriteString("Device types:\n")
	for _, kind := range deviceKinds {
		fmt.Fprintf(&b, "    %v\n", kind.unit)
	}
	// An outgoing account alone is not shown.
	if len(m.guard.incoming) > 0 {
		b.WriteString("    Account information:\n\n")
		showAccounts(&b, "    ", m.guard)
	}
	fmt.Fprintf(&b, "iSNS:\n    iSNS=%s\n    iSNSServerIP=%s\n    iSNSServerPort=%d\n    iSNSAccessControl=%s\n",
		onOff(m.isns.on, "On", "Off"), m.isns.address, m.isns.port, onOff(m.isns.control, "On", "Off"))
	return b.String()
}

func onOff(v bool, on, off string) string {
	if v {
		return on
	}
	return off
}

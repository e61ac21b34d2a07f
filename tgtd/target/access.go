package target

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/mgmt"
)

// addressRule lets in the initiators of one address, of one net, or of all. Texts are kept as the operator
// wrote them; one that is no rule is kept too, as tgt does, and never matches.
type addressRule struct {
	text string
	all  bool
	net  netip.Prefix // invalid: never matches
}

// parseAddressRule reads a rule: ALL, an address, or a net as ADDRESS/LENGTH; IPv6 with or
// without brackets. Host bits of a net do not count.
func parseAddressRule(text string) addressRule {
	r := addressRule{text: text, all: text == "ALL"}
	host, length, isNet := strings.Cut(text, "/")
	if inner, ok := strings.CutPrefix(host, "["); ok {
		if inner, ok = strings.CutSuffix(inner, "]"); !ok || !strings.Contains(inner, ":") {
			return r
		}
		host = inner
	}
	addr, ok := parseAddr(host)
	if !ok || addr.Zone() != "" {
		return r
	}
	mapped := addr.Is4In6()
	addr = addr.Unmap()
	bits := addr.BitLen()
	if isNet {
		n, err := strconv.ParseUint(length, 10, 8)
		if err != nil {
			return r
		}
		bits = int(n)
		if mapped { // ::ffff:10.0.0.0/104 is 10.0.0.0/8
			bits -= 96
		}
	}
	if net, err := addr.Prefix(bits); err == nil {
		r.net = net
	}
	return r
}

// matches says whether the rule lets an address in. Zones are not compared.
func (r addressRule) matches(peer netip.Addr) bool {
	return r.all || r.net.IsValid() && r.net.Contains(peer.Unmap().WithZone(""))
}

// parseAddr reads an address: IPv6, or IPv4 in all forms of inet_aton, which tgt takes: 127.1 is 127.0.0.1.
func parseAddr(text string) (netip.Addr, bool) {
	if addr, err := netip.ParseAddr(text); err == nil {
		return addr, true
	}
	parts := strings.Split(text, ".")
	if len(parts) > 4 {
		return netip.Addr{}, false
	}
	var v uint64
	for i, part := range parts {
		if part == "" || strings.ContainsRune(part, '_') {
			return netip.Addr{}, false
		}
		n, err := strconv.ParseUint(part, 0, 32)
		// The last part fills all bytes that are left.
		last := i == len(parts)-1
		if err != nil || !last && n > 0xff || last && n >= 1<<(8*(4-i)) {
			return netip.Addr{}, false
		}
		if last {
			v = v<<(8*(4-i)) | n
		} else {
			v = v<<8 | n
		}
	}
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)}), true
}

// admits says whether the rules of a target let an initiator in: an address rule or a name rule, either
// is enough. mu is held.
func (t *target) admits(peer netip.Addr, initiator string) bool {
	return slices.Contains(t.byName, initiator) ||
		slices.ContainsFunc(t.byAddr, func(r addressRule) bool { return r.matches(peer) })
}

// Rule is what one request binds or unbinds: an address rule, a name rule, or one of each.
type Rule struct {
	Address, Name       string
	HasAddress, HasName bool
}

// Bind adds access rules to a target. It returns mgmt.ErrRuleExists when a text is there already,
// mgmt.ErrInvalid when there is neither an address nor a name.
func (m *Model) Bind(tid int, r Rule) error {
	return m.onTarget(tid, func(t *target) error {
		if !r.HasAddress && !r.HasName {
			return fmt.Errorf("no address and no name to bind: %w", mgmt.ErrInvalid)
		}
		if r.HasAddress && t.addressIndex(r.Address) >= 0 {
			return fmt.Errorf("address rule %.80q: %w", r.Address, mgmt.ErrRuleExists)
		}
		if r.HasName && slices.Contains(t.byName, r.Name) {
			return fmt.Errorf("name rule %.223q: %w", r.Name, mgmt.ErrRuleExists)
		}
		if r.HasAddress && len(t.byAddr) >= MaxRules || r.HasName && len(t.byName) >= MaxRules {
			return fmt.Errorf("there are %d rules of a kind: %w", MaxRules, mgmt.ErrNoMemory)
		}
		if r.HasAddress {
			t.byAddr = append(slices.Clip(t.byAddr), parseAddressRule(r.Address))
		}
		if r.HasName {
			t.byName = append(slices.Clip(t.byName), r.Name)
		}
		return nil
	})
}

// Unbind takes access rules from a target; sessions that they let in go on. It returns mgmt.ErrNoRule when a text
// is not there, mgmt.ErrInvalid when there is neither an address nor a name.
func (m *Model) Unbind(tid int, r Rule) error {
	return m.onTarget(tid, func(t *target) error {
		if !r.HasAddress && !r.HasName {
			return fmt.Errorf("no address and no name to unbind: %w", mgmt.ErrInvalid)
		}
		addr, name := t.addressIndex(r.Address), slices.Index(t.byName, r.Name)
		if r.HasAddress && addr < 0 {
			return fmt.Errorf("address rule %.80q: %w", r.Address, mgmt.ErrNoRule)
		}
		if r.HasName && name < 0 {
			return fmt.Errorf("name rule %.223q: %w", r.Name, mgmt.ErrNoRule)
		}
		if r.HasAddress {
			t.byAddr = slices.Delete(slices.Clone(t.byAddr), addr, addr+1)
		}
		if r.HasName {
			t.byName = slices.Delete(slices.Clone(t.byName), name, name+1)
		}
		return nil
	})
}

func (t *target) addressIndex(text string) int {
	return slices.IndexFunc(t.byAddr, func(r addressRule) bool { return r.text == text })
}

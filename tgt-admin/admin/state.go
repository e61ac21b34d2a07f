package admin

import (
	"slices"
	"strconv"
	"strings"

	"github.com/paxos-iscsi/paxos-iscsi/tgtadm/running"
)

// state is what the daemon says it has.
type state struct {
	targets  []*target // by number
	accounts map[string]bool

	isns      bool
	discovery []account // the accounts bound to discovery, as far as the daemon shows them
}

// target is one target of the daemon.
type target struct {
	tid      int
	name     string
	driver   string
	sessions []session
	stores   []string // the paths of the units that have one
	accounts []account
	rules    []string // addresses, then names
}

type session struct{ sid, cid string }

type account struct {
	name     string
	outgoing bool
}

func newState() *state { return &state{accounts: map[string]bool{}} }

// target returns the target of that name, nil if there is none.
func (s *state) target(name string) *target {
	for _, t := range s.targets {
		if t.name == name {
			return t
		}
	}
	return nil
}

// byTID returns the target of that number, nil if there is none.
func (s *state) byTID(tid string) *target {
	for _, t := range s.targets {
		if strconv.Itoa(t.tid) == tid {
			return t
		}
	}
	return nil
}

// forget takes out a target that was removed.
func (s *state) forget(t *target) {
	s.targets = slices.DeleteFunc(s.targets, func(other *target) bool { return other == t })
}

// hasTID says that a target has the number.
func (s *state) hasTID(tid int) bool {
	return slices.ContainsFunc(s.targets, func(t *target) bool { return t.tid == tid })
}

// hasDiscovery says that the account is shown as bound to discovery.
func (s *state) hasDiscovery(who account) bool { return slices.Contains(s.discovery, who) }

func (s *state) largestTID() int {
	largest := 0
	for _, t := range s.targets {
		largest = max(largest, t.tid)
	}
	return largest
}

// askTargets asks the daemon for its targets; what was known stays where it does not answer.
func (a *admin) askTargets() {
	if text, ok := a.ask("--op", "show", "--mode", "target"); ok {
		a.state.targets = parseTargets(text)
	}
}

// askAccounts asks the daemon for its accounts.
func (a *admin) askAccounts() {
	text, _ := a.ask("--op", "show", "--mode", "account")
	for line := range strings.Lines(text) {
		if name, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "    "); ok {
			a.state.accounts[name] = true
		}
	}
}

// askSystem asks the daemon whether iSNS is on and who may discover.
func (a *admin) askSystem() {
	text, _ := a.ask("--op", "show", "--mode", "sys")
	a.state.isns, a.state.discovery = parseSystem(text)
}

// askPortals asks the daemon for its portals, as ADDRESS:PORT.
func (a *admin) askPortals() []string {
	text, _ := a.ask("--op", "show", "--mode", "portal")
	var portals []string
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, "Portal: "); ok {
			portal, _, _ := strings.Cut(rest, ",")
			portals = append(portals, portal)
		}
	}
	return portals
}

// parseSystem reads the answer to show system: whether iSNS is on, and the accounts bound to discovery.
func parseSystem(text string) (isns bool, discovery []account) {
	running.ScanSystem(text, func(line string) { isns = isns || line == "iSNS=On" }, func(line string) {
		discovery = append(discovery, parseAccount(line))
	})
	return isns, discovery
}

func parseAccount(text string) account {
	name, outgoing := running.CutOutgoing(text)
	return account{name, outgoing}
}

// parseTargets reads the answer to show target.
func parseTargets(text string) []*target {
	var targets []*target
	running.ScanTargets(text, func(tid int, name string) {
		targets = append(targets, &target{tid: tid, name: name})
	}, func(part, line string) {
		targets[len(targets)-1].read(part, line)
	})
	slices.SortFunc(targets, func(x, y *target) int { return x.tid - y.tid })
	return targets
}

// read takes one line of a part, two levels of indent taken off.
func (t *target) read(part, line string) {
	content := strings.TrimLeft(line, " ")
	switch part {
	case running.PartSystem:
		if driver, ok := strings.CutPrefix(content, "Driver: "); ok {
			t.driver = driver
		}
	case running.PartNexus:
		if sid, ok := strings.CutPrefix(content, "I_T nexus: "); ok {
			t.sessions = append(t.sessions, session{sid: sid})
		}
		if cid, ok := strings.CutPrefix(content, "Connection: "); ok && len(t.sessions) > 0 {
			t.sessions[len(t.sessions)-1].cid = cid
		}
	case running.PartUnits:
		if path, ok := strings.CutPrefix(content, "Backing store path: "); ok && path != "None" {
			t.stores = append(t.stores, path)
		}
	case running.PartAccounts:
		t.accounts = append(t.accounts, parseAccount(line))
	case running.PartRules:
		t.rules = append(t.rules, line)
	}
}

package lio

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/paxos-iscsi/paxos-iscsi/tgt-admin/conf"
	"github.com/paxos-iscsi/paxos-iscsi/tgtadm/running"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/mgmt"
)

// access works out who gets in and what he sees, once all of the group is read.
func (g *group) access() {
	chosen := g.choose()
	view := g.view(chosen)
	g.units(view)
	if g.nopInterval > 0 {
		g.param("nop_interval", strconv.Itoa(g.nopInterval))
		g.param("nop_count", strconv.Itoa(max((g.nopAnswer+g.nopInterval-1)/g.nopInterval, 1)))
	}
	if g.demo {
		g.t.ByAddress = []string{"ALL"}
	}
	needs := g.auth && g.demo
	for _, n := range chosen {
		if n.auth == "1" || n.auth != "0" && g.auth {
			needs = true
		}
	}
	if needs {
		chosen = g.accounts(chosen)
	} else if slices.ContainsFunc(chosen, func(n *node) bool { return n.in.user != "" }) || g.own.user != "" {
		g.note("LIO has accounts for this target and does not ask for them (authentication=0): they are left out")
	}
	for _, n := range chosen {
		if slices.Contains(g.t.ByName, n.name) {
			g.lost("initiator %s is there twice", n.name)
			continue
		}
		g.t.ByName = append(g.t.ByName, n.name)
	}
	if needs && len(g.t.Accounts.Incoming) == 0 {
		g.t.Offline = true
		g.lost("no account is left, and without one nobody would be asked for a secret: the target is offline")
	}
	if len(g.t.ByName)+len(g.t.ByAddress) == 0 {
		g.note("nobody is let in: LIO lets nobody in either, or see above")
	}
}

// choose returns the initiators that see what the first one sees; the others are left out.
func (g *group) choose() []*node {
	var chosen []*node
	for _, n := range g.nodes {
		if len(chosen) > 0 && !slices.Equal(n.mapped, chosen[0].mapped) {
			g.lost("initiator %s is mapped other LUNs than %s (%s, not %s), and here all initiators of a target see "+
				"the same: it is left out; give it a target of its own", n.name, chosen[0].name,
				mappings(n.mapped), mappings(chosen[0].mapped))
			continue
		}
		chosen = append(chosen, n)
	}
	return chosen
}

// mappings are mapped LUNs in words.
func mappings(list []mapping) string {
	if len(list) == 0 {
		return "none"
	}
	var words []string
	for _, m := range list {
		word := fmt.Sprintf("%d", m.Index)
		if m.Index != m.LUN {
			word += fmt.Sprintf(" for %d", m.LUN)
		}
		if m.Protect {
			word += " read-only"
		}
		words = append(words, word)
	}
	return strings.Join(words, ", ")
}

// view is the units as initiators see them: those that are mapped to the ones with an entry, all units
// of the group where everybody is let in.
func (g *group) view(chosen []*node) []mapping {
	var all []mapping
	for index := range g.luns {
		all = append(all, mapping{Index: index, LUN: index, Protect: g.demo && g.demoReadOnly})
	}
	slices.SortFunc(all, func(a, b mapping) int { return a.Index - b.Index })
	switch {
	case len(chosen) == 0:
		return all
	case !g.demo:
		return chosen[0].mapped
	case !slices.Equal(chosen[0].mapped, all):
		g.lost("initiators without an entry are let in (generate_node_acls=1) and see other LUNs than those with "+
			"one (%s, not %s): only those with an entry are let in here", mappings(all), mappings(chosen[0].mapped))
		g.demo = false
		return chosen[0].mapped
	}
	return all
}

// units makes the units. LUN 0 is the controller here, so LIO's goes to the first free number.
func (g *group) units(view []mapping) {
	taken := map[int]bool{0: true}
	for _, m := range view {
		taken[m.Index] = true
	}
	for _, m := range view {
		s := g.luns[m.LUN]
		if s == nil {
			continue // refused, and said so
		}
		number := m.Index
		if number == 0 {
			for taken[number] {
				number++
			}
			taken[number] = true
			g.note("LUN 0 is LUN %d here: LUN 0 is the controller; initiators find the unit by its serial number", number)
		}
		s.used = true
		if why := g.refuses(s, m); why != "" {
			g.lost("LUN %d: %s %s", m.Index, s.made.Path, why)
			continue
		}
		made := s.made
		made.Updates = slices.Clone(s.made.Updates)
		if m.Protect && !slices.Contains(made.Updates, "readonly=1") {
			made.Updates = append(made.Updates, "readonly=1")
		}
		g.t.Units = append(g.t.Units, running.NewUnit(uint64(number), made))
	}
	g.t.Units = append(g.t.Units, running.NewUnit(0, running.Made{Device: mgmt.Controller}))
	slices.SortFunc(g.t.Units, func(a, b *running.Unit) int { return cmp.Compare(a.LUN, b.LUN) })
}

// refuses says why a store cannot be one more unit of the target.
func (g *group) refuses(s *store, m mapping) string {
	path := s.made.Path
	switch {
	case slices.ContainsFunc(g.t.Units, func(u *running.Unit) bool { return u.Path == path }):
		return "is another LUN of the target already, and targets.conf can't hold it twice"
	case !conf.IsName(path) || strings.Contains(path, ","):
		return "has characters that targets.conf or tgtadm can't hold: rename it"
	case m.Protect && s.made.Device == mgmt.Passthrough:
		return "was read-only, and what is passed through can't be"
	}
	return ""
}

// accounts binds the accounts of the initiators and returns those that have one.
func (g *group) accounts(chosen []*node) []*node {
	bound := &g.t.Accounts
	incoming := func(what string, k credentials) bool {
		if !g.account(what, k) {
			return false
		}
		if !slices.Contains(bound.Incoming, k.user) {
			bound.Incoming = append(bound.Incoming, k.user)
		}
		return true
	}
	outgoing := func(what string, k credentials) {
		switch {
		case k.user == "":
		case bound.HasOutgoing && bound.Outgoing == k.user && g.result.Config.Account(k.user).Secret == k.secret:
		case bound.HasOutgoing:
			g.lost("%s: mutual user %s: a target proves itself by one account, %s", what, k.user, bound.Outgoing)
		case g.account(what+" (mutual)", k):
			bound.Outgoing, bound.HasOutgoing = k.user, true
		}
	}
	var kept []*node
	for _, n := range chosen {
		what := "initiator " + n.name
		if n.auth == "0" || n.auth == "-1" && !g.auth {
			g.lost("%s: LIO asks it for no secret, but here a target asks all or none: it is left out", what)
			continue
		}
		if !incoming(what, n.in) {
			g.lost("%s is left out: it has no account", what)
			continue
		}
		outgoing(what, n.mutual)
		kept = append(kept, n)
	}
	if g.demo {
		if incoming("portal group", g.own) {
			outgoing("portal group", g.mutual)
		} else {
			g.demo, g.t.ByAddress = false, nil
			g.lost("initiators without an entry are not let in: there is no account for them")
		}
	}
	if len(bound.Incoming) > 1 {
		g.note("any of the accounts %s is taken from any initiator of the target: all see the same LUNs",
			strings.Join(bound.Incoming, ", "))
	}
	return kept
}

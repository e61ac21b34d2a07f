package running

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// Node is one line of a tree and what stands below it.
type Node struct {
	Name, Note string
	Below      []*Node
}

func (n *Node) add(name, format string, values ...any) *Node {
	child := &Node{Name: name, Note: fmt.Sprintf(format, values...)}
	n.Below = append(n.Below, child)
	return child
}

// treeWidth is where the notes of a tree end, in columns; longer lines are as long as they are.
const treeWidth = 100

// Print draws the tree in the manner of targetcli.
func (n *Node) Print(w io.Writer) error {
	var b strings.Builder
	n.print(&b, "", "  ")
	_, err := io.WriteString(w, b.String())
	return err
}

// print draws a node; lead stands in front of it, below in front of its children.
func (n *Node) print(b *strings.Builder, lead, below string) {
	text := lead + "o- " + clean(n.Name) + " "
	note := "[" + clean(n.Note) + "]"
	dots := max(treeWidth-len(text)-len(note)-1, 3)
	fmt.Fprintf(b, "%s%s %s\n", text, strings.Repeat(".", dots), note)
	for i, child := range n.Below {
		next := "| "
		if i == len(n.Below)-1 {
			next = "  "
		}
		child.print(b, below, below+next)
	}
}

// clean shows control characters, which a peer can put into its alias, as what they are.
func clean(text string) string {
	quoted := strconv.Quote(text)
	return strings.NewReplacer(`\"`, `"`, `\\`, `\`).Replace(quoted[1 : len(quoted)-1])
}

// count is a number of things in words.
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// Tree is the whole configuration: backing stores, targets with their units, rules, accounts,
// sessions, then accounts, discovery, portals, iSNS. Secrets are not in it.
func (c *Config) Tree() *Node {
	root := &Node{Name: "/", Note: state(c.Offline)}
	c.storesTree(root)
	targets := root.add("targets", "%s", count(len(c.Targets), "target"))
	for _, t := range c.Targets {
		targets.Below = append(targets.Below, t.Tree())
	}
	accounts := root.add("accounts", "%s", count(len(c.Accounts), "account"))
	for _, a := range c.Accounts {
		accounts.add(a.User, "%s", c.uses(a.User))
	}
	discovery := root.add("discovery", "%s", c.Discovery.note("no authentication"))
	c.Discovery.tree(discovery)
	portals := root.add("portals", "%s", count(len(c.Portals), "portal"))
	for _, p := range c.Portals {
		portals.add(p, "open")
	}
	if c.ISNS.On == "On" {
		root.add("isns", "%s:%s, access control %s", c.ISNS.Server, c.ISNS.Port, c.ISNS.AccessControl)
	}
	return root
}

func state(offline bool) string {
	if offline {
		return "offline"
	}
	return "ready"
}

// storesTree lists what units stand on, by type of backing store.
func (c *Config) storesTree(root *Node) {
	type store struct{ kind, path string }
	users := map[store][]string{}
	var order []store
	for _, t := range c.Targets {
		for _, u := range t.Units {
			if u.LUN == 0 {
				continue
			}
			s := store{u.Store, u.Path}
			if users[s] == nil {
				order = append(order, s)
			}
			users[s] = append(users[s], fmt.Sprintf("target %d LUN %d", t.TID, u.LUN))
		}
	}
	slices.SortStableFunc(order, func(a, b store) int { return strings.Compare(a.kind, b.kind) })
	stores := root.add("backstores", "%s", count(len(order), "store"))
	var kind *Node
	for _, s := range order {
		if kind == nil || kind.Name != s.kind {
			kind = stores.add(s.kind, "")
		}
		path := s.path
		if path == "" {
			path = "no medium"
		}
		kind.add(path, "%s", strings.Join(users[s], ", "))
		kind.Note = count(len(kind.Below), "store")
	}
}

// uses says where an account is bound.
func (c *Config) uses(user string) string {
	var at []string
	bound := func(b Bound, where string) {
		if slices.Contains(b.Incoming, user) {
			at = append(at, where)
		}
		if b.HasOutgoing && b.Outgoing == user {
			at = append(at, where+" (outgoing)")
		}
	}
	for _, t := range c.Targets {
		bound(t.Accounts, "target "+strconv.Itoa(t.TID))
	}
	bound(c.Discovery, "discovery")
	if len(at) == 0 {
		return "not bound"
	}
	return strings.Join(at, ", ")
}

// note says what the bound accounts amount to.
func (b Bound) note(none string) string {
	switch {
	case len(b.Incoming) > 0 && b.HasOutgoing:
		return "mutual CHAP"
	case len(b.Incoming) > 0:
		return "CHAP"
	}
	return none
}

func (b Bound) tree(n *Node) {
	for _, user := range b.Incoming {
		n.add(user, "incoming")
	}
	if b.HasOutgoing {
		n.add(b.Outgoing, "outgoing")
	}
}

// Tree is one target.
func (t *Target) Tree() *Node {
	n := &Node{Name: t.Name, Note: fmt.Sprintf("tid %d, %s, %s", t.TID, state(t.Offline), t.Driver)}
	luns := n.add("luns", "%s", count(len(t.Units), "LUN"))
	for _, u := range t.Units {
		luns.add(strconv.FormatUint(u.LUN, 10), "%s", u.note())
	}
	acls := n.add("acls", "%s", t.aclNote())
	for _, rule := range t.ByAddress {
		acls.add(rule, "address")
	}
	for _, rule := range t.ByName {
		acls.add(rule, "initiator name")
	}
	t.Accounts.tree(n.add("accounts", "%s", t.Accounts.note("no CHAP")))
	sessions := n.add("sessions", "%s", count(len(t.Sessions), "session"))
	for _, s := range t.Sessions {
		sessions.add(s.SID, "%s from %s", s.Initiator, s.Address)
	}
	return n
}

func (t *Target) aclNote() string {
	switch {
	case slices.Contains(t.ByAddress, "ALL"):
		return "everybody is let in"
	case len(t.ByAddress)+len(t.ByName) == 0:
		return "nobody is let in"
	}
	return count(len(t.ByAddress)+len(t.ByName), "rule")
}

// note is a unit in one line: type, size, store and what is out of the ordinary.
func (u *Unit) note() string {
	if u.Type == "controller" {
		return "controller"
	}
	words := []string{u.Type, u.Size}
	path := u.Path
	if path == "" {
		path = "no medium"
	}
	words = append(words, u.Store+" "+path)
	for _, w := range []struct {
		on   bool
		word string
	}{{u.ReadOnly, "read-only"}, {u.Removable, "removable"}, {u.Thin, "thin"}, {!u.Online, "offline"}} {
		if w.on {
			words = append(words, w.word)
		}
	}
	if u.Flags != "" {
		words = append(words, u.Flags)
	}
	return strings.Join(words, ", ")
}

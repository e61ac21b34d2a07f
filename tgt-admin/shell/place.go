package shell

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/paxos-iscsi/paxos-iscsi/tgtadm/running"
)

// kind is what a path leads to.
type kind int

const (
	root kind = iota
	backstores
	targets
	target
	luns
	lun
	acls
	acl
	bound // the accounts of a target
	boundUser
	sessions
	session
	accounts
	account
	discovery
	discoveryUser
	portals
	portal
	volumes
	volume
	nowhere
)

// folders are the fixed folders of the root and of a target.
func folders(k kind) []string {
	switch k {
	case root:
		return []string{"backstores", "targets", "accounts", "discovery", "portals", "volumes"}
	case target:
		return []string{"luns", "acls", "accounts", "sessions"}
	}
	return nil
}

// kindOf is what a path of elements leads to, if that exists.
func kindOf(path []string) kind {
	if len(path) == 0 {
		return root
	}
	if path[0] != "targets" {
		inner := map[string][2]kind{"backstores": {backstores, nowhere}, "accounts": {accounts, account},
			"discovery": {discovery, discoveryUser}, "portals": {portals, portal}, "volumes": {volumes, volume}}
		kinds, ok := inner[path[0]]
		if !ok || len(path) > 2 {
			return nowhere
		}
		return kinds[len(path)-1]
	}
	switch len(path) {
	case 1:
		return targets
	case 2:
		return target
	}
	inner := map[string][2]kind{"luns": {luns, lun}, "acls": {acls, acl}, "accounts": {bound, boundUser},
		"sessions": {sessions, session}}
	kinds, ok := inner[path[2]]
	if !ok || len(path) > 4 {
		return nowhere
	}
	return kinds[len(path)-3]
}

// holdsNames says that what stands in a folder has free names, in which a slash is a character: rules
// of nets, volumes in folders.
func holdsNames(k kind) bool {
	switch k {
	case luns, acls, bound, sessions, accounts, discovery, portals, volumes:
		return true
	}
	return false
}

// resolve reads a path, from the root or from where the shell is. What it leads to need not exist, but
// must be able to.
func (s *Shell) resolve(text string) ([]string, error) {
	path := slices.Clone(s.at)
	if strings.HasPrefix(text, "/") {
		path = nil
	}
	for rest := strings.TrimLeft(text, "/"); rest != ""; rest = strings.TrimLeft(rest, "/") {
		element, after, _ := strings.Cut(rest, "/")
		k := kindOf(path)
		switch {
		case element == ".":
		case element == "..":
			path = path[:max(len(path)-1, 0)]
		case k == root && element == "iscsi":
			path = append(path, "targets")
		case k == target && strings.HasPrefix(element, "tpg"):
		case holdsNames(k):
			path, after = append(path, strings.TrimRight(rest, "/")), ""
		default:
			path = append(path, element)
		}
		if kindOf(path) == nowhere {
			return nil, fmt.Errorf("no such path %s", join(path))
		}
		rest = after
	}
	return path, nil
}

// join writes a path.
func join(path []string) string { return "/" + strings.Join(path, "/") }

// list returns the names below a path, without asking the daemon for what is fixed. c is what the daemon
// has.
func (s *Shell) list(ctx context.Context, c *running.Config, path []string) ([]string, error) {
	k := kindOf(path)
	if fixed := folders(k); fixed != nil {
		return fixed, nil
	}
	var names []string
	switch k {
	case targets:
		for _, t := range c.Targets {
			names = append(names, t.Name)
		}
	case accounts:
		for _, a := range c.Accounts {
			names = append(names, a.User)
		}
	case discovery:
		names = users(c.Discovery)
	case portals:
		names = c.Portals
	case volumes:
		list, err := s.volumes(ctx)
		if err != nil {
			return nil, err
		}
		for _, v := range list {
			names = append(names, v.Name)
		}
	case luns, acls, bound, sessions:
		t := c.Target(path[1])
		if t == nil {
			return nil, fmt.Errorf("no target %s", path[1])
		}
		names = below(t, k)
	}
	return names, nil
}

func below(t *running.Target, k kind) []string {
	var names []string
	switch k {
	case luns:
		for _, u := range t.Units {
			names = append(names, strconv.FormatUint(u.LUN, 10))
		}
	case acls:
		names = slices.Concat(t.ByAddress, t.ByName)
	case bound:
		names = users(t.Accounts)
	case sessions:
		for _, s := range t.Sessions {
			names = append(names, s.SID)
		}
	}
	return names
}

func users(b running.Bound) []string {
	names := slices.Clone(b.Incoming)
	if b.HasOutgoing {
		names = append(names, b.Outgoing)
	}
	return names
}

// volumes lists the volumes of PSS.
func (s *Shell) volumes(ctx context.Context) ([]Volume, error) {
	if s.Volumes == nil {
		return nil, nil
	}
	list, err := s.Volumes.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing volumes: %w", err)
	}
	return list, nil
}

// exists makes sure that there is something at a path.
func (s *Shell) exists(ctx context.Context, path []string) error {
	if len(path) == 0 {
		return nil
	}
	c, err := s.config(ctx)
	if err != nil {
		return err
	}
	for i := range path {
		names, err := s.list(ctx, c, path[:i])
		if err != nil {
			return err
		}
		if !slices.Contains(names, path[i]) {
			return fmt.Errorf("no such path %s", join(path[:i+1]))
		}
	}
	return nil
}

// isInitiator says that a rule is the name of an initiator (RFC 7143 4.2.7), not an address.
func isInitiator(rule string) bool {
	for _, prefix := range []string{"iqn.", "eui.", "naa."} {
		if strings.HasPrefix(rule, prefix) {
			return net.ParseIP(rule) == nil
		}
	}
	return false
}

// Complete returns the words that the last word of a line may be completed to, head and tail being what
// stands around it. A daemon that does not answer completes nothing.
func (s *Shell) Complete(ctx context.Context, line string, pos int) (head string, completions []string, tail string) {
	head, tail = line[:pos], line[pos:]
	start := strings.LastIndexAny(head, " \t") + 1
	word := head[start:]
	head = head[:start]
	if first := strings.TrimSpace(head) == ""; first && !isPath(word) {
		for _, v := range verbs() {
			if strings.HasPrefix(v.name, word) {
				completions = append(completions, v.name+" ")
			}
		}
		return head, completions, tail
	}
	at := s.at
	words, err := split(head)
	if err != nil {
		return head, nil, tail
	}
	if len(words) > 0 && isPath(words[0]) {
		if at, err = s.resolve(words[0]); err != nil {
			return head, nil, tail
		}
		words = words[1:]
		if len(words) == 0 && !isPath(word) {
			for _, v := range verbs() {
				if strings.HasPrefix(v.name, word) {
					completions = append(completions, v.name+" ")
				}
			}
			return head, completions, tail
		}
	}
	inner := &Shell{Options: s.Options, at: at}
	return head, inner.completePath(ctx, word), tail
}

// completePath completes a path to what exists.
func (s *Shell) completePath(ctx context.Context, word string) []string {
	c, err := s.config(ctx)
	if err != nil {
		return nil
	}
	// The folder is the longest front of the word that ends with a slash and leads somewhere.
	for cut := len(word); cut >= 0; cut-- {
		if cut > 0 && word[cut-1] != '/' {
			continue
		}
		folder, err := s.resolve(word[:cut])
		if err != nil || strings.HasPrefix(word, "/") && cut == 0 {
			continue
		}
		names, err := s.list(ctx, c, folder)
		if err != nil {
			continue
		}
		var found []string
		for _, name := range names {
			if !strings.HasPrefix(name, word[cut:]) {
				continue
			}
			end := ""
			if k := kindOf(append(slices.Clone(folder), name)); folders(k) != nil || holdsNames(k) || k == targets {
				end = "/"
			}
			found = append(found, word[:cut]+name+end)
		}
		if len(found) > 0 {
			return found
		}
	}
	return nil
}

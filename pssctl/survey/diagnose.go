package survey

import (
	"fmt"
	"strings"

	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
)

// Problem is something that is not well: what it is, why, what may come of it, and the one command to run next.
type Problem struct {
	Server *cell.ID `json:"server,omitempty"` // null when it is the whole cell's
	What   string   `json:"what"`
	Cause  string   `json:"cause"`
	Risk   string   `json:"risk"`
	Next   string   `json:"next"`
}

// slack is how many entries a server may be behind without being called slow: about a second of load.
const slack = 50_000

// diagnose lists what is not well, the worst first.
func (c *Cell) diagnose() []Problem {
	var list []Problem
	if !c.Majority {
		list = append(list, c.lost())
	}
	for i := range c.Servers {
		s := &c.Servers[i]
		if p, bad := c.judge(s); bad {
			id := s.ID
			p.Server = &id
			list = append(list, p)
		}
	}
	return append(list, c.disagreements()...)
}

// lost is the problem of a cell without a majority.
func (c *Cell) lost() Problem {
	var waits []string
	for _, s := range c.Servers {
		if s.Status != nil && s.Status.State == admin.StateFresh {
			waits = append(waits, s.Status.WaitsFor...)
		}
	}
	if len(waits) > 0 {
		return Problem{
			What:  "the cell is not founded yet",
			Cause: "new servers found a cell when all core servers of server.conf are up; they wait for " + strings.Join(unique(waits), ", "),
			Risk:  "none: nothing was stored yet",
			Next:  "start the servers that are missing: /etc/init.d/pssd start on their machines",
		}
	}
	return Problem{
		What:  fmt.Sprintf("%d of %d voting servers are up", c.Alive, c.Voters),
		Cause: "a majority of the core servers must be up and reach each other",
		Risk:  "reads and writes wait; nothing that was acknowledged is lost",
		Next:  "start the core servers that are down: /etc/init.d/pssd start on their machines",
	}
}

// judge says what is not well with one server.
func (c *Cell) judge(s *Server) (Problem, bool) {
	st := s.Status
	switch {
	case st == nil:
		p := Problem{
			What: fmt.Sprintf("server %d does not answer", s.ID), Cause: s.Error,
			Next: fmt.Sprintf("/etc/init.d/pssd start on %s", s.Host),
		}
		if s.ID.Core() {
			p.Risk = fmt.Sprintf("the cell goes on while a majority is up: %d more may be lost", max(0, c.Alive-c.Voters/2-1))
		} else {
			p.Risk = "one copy of the data less; the cell goes on"
		}
		return p, true
	case st.State == admin.StateFresh:
		return Problem{
			What:  fmt.Sprintf("server %d is new and belongs to no cell", s.ID),
			Cause: waiting("its disk is new", st),
			Risk:  "it holds no data and has no vote",
			Next:  "start the servers it waits for",
		}, c.Majority // without one the cell's own problem says it
	case st.State == admin.StateJoining:
		return Problem{
			What:  fmt.Sprintf("server %d is being taken into the cell", s.ID),
			Cause: waiting("its disk was new, or it gave its data up", st),
			Risk:  "one copy of the data less until it is level",
			Next:  "pssctl status, until it is a " + map[bool]string{true: "voter", false: "learner"}[s.ID.Core()],
		}, true
	case st.CatchUp != nil:
		return Problem{
			What:  fmt.Sprintf("server %d is catching up from server %d", s.ID, st.CatchUp.From),
			Cause: "it missed more than the others keep in their logs",
			Risk:  "one copy of the data less until it is level",
			Next:  "pssctl status, until it is done",
		}, true
	case len(c.complaints(st)) > 0:
		words := c.complaints(st)
		return Problem{
			What:  fmt.Sprintf("server %d: %s", s.ID, words[0]),
			Cause: strings.Join(words, "; "),
			Risk:  "the cell goes on without this server; docs/operations.md explains the words",
			Next:  fmt.Sprintf("pssctl log %d", s.ID),
		}, true
	case c.Behind(st) > slack:
		return Problem{
			What:  fmt.Sprintf("server %d is %d entries behind", s.ID, c.Behind(st)),
			Cause: "its disk or its network is slower than the others'",
			Risk:  "it counts for no majority while it is behind",
			Next:  fmt.Sprintf("pssctl log %d", s.ID),
		}, true
	}
	return Problem{}, false
}

// waiting adds what a server waits for to why it does.
func waiting(why string, st *admin.Status) string {
	if len(st.WaitsFor) == 0 {
		return why
	}
	return why + "; it waits for " + strings.Join(st.WaitsFor, ", ")
}

// complaints are what a server finds not well, but what is a problem of its own here: servers that nobody can reach,
// and a cell without a majority.
func (c *Cell) complaints(st *admin.Status) []string {
	var words []string
	for _, w := range st.Health {
		var id cell.ID
		if n, _ := fmt.Sscanf(w, "server %d does not answer", &id); n == 1 && c.silent(id) ||
			!c.Majority && strings.HasPrefix(w, "no master is known") {
			continue
		}
		words = append(words, w)
	}
	return words
}

func (c *Cell) silent(id cell.ID) bool {
	for _, s := range c.Servers {
		if s.ID == id {
			return s.Status == nil
		}
	}
	return true
}

// disagreements are what servers tell differently that should be the same everywhere.
func (c *Cell) disagreements() []Problem {
	versions, cells, auths := map[string][]string{}, map[string][]string{}, map[string][]string{}
	for _, s := range c.Servers {
		if st := s.Status; st != nil {
			id := fmt.Sprint(s.ID)
			versions[st.Version] = append(versions[st.Version], id)
			auths[st.Auth.Mode] = append(auths[st.Auth.Mode], id)
			if st.Cell != "" {
				cells[st.Cell] = append(cells[st.Cell], id)
			}
		}
	}
	var list []Problem
	if len(cells) > 1 {
		list = append(list, Problem{What: "the servers belong to different cells", Cause: spread(cells),
			Risk: "only those of one cell hold the same data", Next: "/etc/init.d/pssd restart autonomic on those of the wrong one"})
	}
	if len(auths) > 1 {
		list = append(list, Problem{What: "not all servers have the cell key", Cause: spread(auths),
			Risk: "those with it and those without it don't talk to each other", Next: "copy /etc/pss/cell.key to all machines and restart their servers"})
	}
	if len(versions) > 1 {
		list = append(list, Problem{What: "the servers run different versions", Cause: spread(versions),
			Risk: "none during an upgrade", Next: "upgrade the others, one after the other"})
	}
	return list
}

func spread(m map[string][]string) string {
	var parts []string
	for what, ids := range m {
		parts = append(parts, fmt.Sprintf("%s on %s", what, strings.Join(ids, ", ")))
	}
	return strings.Join(sorted(parts), "; ")
}

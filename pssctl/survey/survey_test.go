package survey

import (
	"strings"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pss/auth"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
)

// picture is a cell of five core servers and a replica, all well, with 0 as master.
func picture() *Cell {
	c := &Cell{Problems: []Problem{}}
	zero := cell.ID(0)
	for _, id := range []cell.ID{0, 1, 2, 3, 4, 5} {
		st := &admin.Status{ID: id, State: admin.StateVoter, Master: &zero, Term: 7, Commit: 100, Applied: 100, Cell: "c", Auth: auth.Status{Mode: auth.ModeOpen}, Version: "2"}
		switch id {
		case 0:
			st.State, st.IsMaster = admin.StateMaster, true
		case 5:
			st.State = admin.StateLearner
		}
		c.Servers = append(c.Servers, Server{ID: id, Role: role(id), Host: "h", Status: st})
	}
	for id := range cell.ID(5) {
		c.Servers[0].Status.Members = append(c.Servers[0].Status.Members, admin.Member{ID: id, Voter: true, Active: true})
	}
	return c
}

func TestDiagnosis(t *testing.T) {
	kill := func(ids ...int) func(*Cell) {
		return func(c *Cell) {
			for _, id := range ids {
				c.Servers[id].Status, c.Servers[id].Error = nil, "no connection"
			}
		}
	}
	for name, x := range map[string]struct {
		change   func(*Cell)
		health   string
		problems int
		words    string // in the first problem
	}{
		"all is well":       {func(*Cell) {}, "all is well", 0, ""},
		"a follower is out": {kill(3), "serving; server 3 does not answer", 1, "1 more may be lost"},
		"two are out":       {kill(3, 4), "serving; server 3 does not answer", 2, "0 more may be lost"},
		"a replica is out":  {kill(5), "serving; server 5 does not answer", 1, "one copy of the data less"},
		"no majority": {func(c *Cell) {
			kill(0, 1, 2)(c)
		}, "no majority: I/O waits", 4, "reads and writes wait"},
		"nobody answers": {kill(0, 1, 2, 3, 4, 5), "no server answers", 7, "start the core servers"},
		"no master yet": {func(c *Cell) {
			c.Servers[0].Status.IsMaster = false
		}, "no master yet", 0, ""},
		"not founded": {func(c *Cell) {
			for i := range c.Servers {
				c.Servers[i].Status = nil
			}
			c.Servers[1].Status = &admin.Status{ID: 1, State: admin.StateFresh, WaitsFor: []string{"server 2", "server 0"}}
		}, "no majority: I/O waits", 6, "server 0, server 2"},
		"catching up": {func(c *Cell) {
			c.Servers[2].Status.CatchUp = &admin.CatchUp{From: 4}
		}, "serving; server 2 is catching up from server 4", 1, "missed more"},
		"joining": {func(c *Cell) {
			c.Servers[2].Status.State = admin.StateJoining
		}, "serving; server 2 is being taken into the cell", 1, "until it is a voter"},
		"behind": {func(c *Cell) {
			c.Servers[0].Status.Commit, c.Servers[0].Status.Applied = 90_000, 90_000
			c.Servers[1].Status.Applied, c.Servers[2].Status.Applied = 90_000, 80_000
			c.Servers[3].Status.Applied, c.Servers[4].Status.Applied, c.Servers[5].Status.Applied = 90_000, 90_000, 30_000
		}, "serving; server 5 is 60000 entries behind", 1, "slower"},
		"complains": {func(c *Cell) {
			c.Servers[1].Status.Health = []string{"its disk is slow"}
		}, "serving; server 1: its disk is slow", 1, "pssctl log 1"},
		"versions": {func(c *Cell) {
			c.Servers[1].Status.Version = "3"
		}, "serving; the servers run different versions", 1, "2 on 0, 2, 3, 4, 5; 3 on 1"},
		"keys": {func(c *Cell) {
			c.Servers[1].Status.Auth = auth.Status{Mode: auth.ModeKey}
		}, "serving; not all servers have the cell key", 1, "cell.key"},
		"two cells": {func(c *Cell) {
			c.Servers[1].Status.Cell = "d"
		}, "serving; the servers belong to different cells", 1, "c on 0, 2, 3, 4, 5; d on 1"},
	} {
		c := picture()
		x.change(c)
		c.sum()
		c.Problems = c.diagnose()
		if got := c.Health(); got != x.health {
			t.Errorf("%s: %q, want %q", name, got, x.health)
		}
		if len(c.Problems) != x.problems {
			t.Errorf("%s: %+v", name, c.Problems)
			continue
		}
		if x.problems > 0 {
			p := c.Problems[0]
			if all := p.What + p.Cause + p.Risk + p.Next; !strings.Contains(all, x.words) || p.Cause == "" || p.Risk == "" || p.Next == "" {
				t.Errorf("%s: %+v", name, p)
			}
		}
	}
}

// Package survey asks all servers of a cell how they are, and puts what they say together: who is master, whether
// there is a majority, and what an operator should do about what is not well.
package survey

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
)

// AnswerTimeout is how long a single server may take to answer; a server that hangs must not make a survey long.
const AnswerTimeout = 3 * time.Second

// Server is one record of server.conf and what its server says.
type Server struct {
	ID     cell.ID       `json:"id"`
	Role   string        `json:"role"`
	Host   string        `json:"host"`
	Status *admin.Status `json:"status"`          // null when it does not answer
	Error  string        `json:"error,omitempty"` // why there is no status
}

// Cell is all servers and what follows of their answers together.
type Cell struct {
	File     string    `json:"file"`
	Servers  []Server  `json:"servers"`
	Master   *cell.ID  `json:"master"`   // null while no server that answers is master
	Voters   int       `json:"voters"`   // core servers that the cell counts
	Alive    int       `json:"alive"`    // of them, those that answer and vote
	Majority bool      `json:"majority"` // the alive ones are one
	Problems []Problem `json:"problems"`
}

// Take asks every server of the cell at the same time, also those that server.conf does not have, or not where they are. It does not fail: what can't be reached is a part of the
// picture.
func Take(ctx context.Context, conf *cell.Config) *Cell {
	conf = admin.Follow(ctx, conf)
	c := &Cell{File: conf.File, Servers: make([]Server, len(conf.Servers)), Problems: []Problem{}}
	var asking sync.WaitGroup
	for i, s := range conf.Servers {
		asking.Go(func() {
			c.Servers[i] = ask(ctx, conf, s)
		})
	}
	asking.Wait()
	c.sum()
	c.Problems = append(c.Problems, c.diagnose()...)
	return c
}

func ask(ctx context.Context, conf *cell.Config, s cell.Server) Server {
	ctx, cancel := context.WithTimeout(ctx, AnswerTimeout)
	defer cancel()
	found := Server{ID: s.ID, Role: role(s.ID), Host: s.Host}
	var st admin.Status
	if err := admin.CallServer(ctx, conf, s.ID, admin.MethodStatus, nil, &st); err != nil {
		found.Error = err.Error()
		return found
	}
	found.Status = &st
	return found
}

func role(id cell.ID) string {
	if id.Core() {
		return "core"
	}
	return "replica"
}

// sum finds the master and counts the voters. The members are those the master knows; without a master those that
// server.conf names.
func (c *Cell) sum() {
	var master *admin.Status
	for i := range c.Servers {
		s := c.Servers[i].Status
		if s != nil && s.IsMaster && (master == nil || s.Term > master.Term) {
			master = s
		}
	}
	if master != nil {
		id := master.ID
		c.Master = &id
	}
	voters := map[cell.ID]bool{}
	if master != nil {
		for _, m := range master.Members {
			if m.Voter {
				voters[m.ID] = true
			}
		}
	}
	if len(voters) == 0 {
		for _, s := range c.Servers {
			if s.ID.Core() {
				voters[s.ID] = true
			}
		}
	}
	c.Voters = len(voters)
	for _, s := range c.Servers {
		if voters[s.ID] && s.Status != nil && (s.Status.State == admin.StateVoter || s.Status.State == admin.StateMaster) {
			c.Alive++
		}
	}
	c.Majority = c.Alive > c.Voters/2
}

// Behind is how many entries a server has still to apply to be where the newest commit is that any server knows of.
func (c *Cell) Behind(s *admin.Status) uint64 {
	var newest uint64
	for _, o := range c.Servers {
		if o.Status != nil {
			newest = max(newest, o.Status.Commit)
		}
	}
	return newest - min(newest, s.Applied)
}

// Health is the cell's state in a few words.
func (c *Cell) Health() string {
	answering := 0
	for _, s := range c.Servers {
		if s.Status != nil {
			answering++
		}
	}
	switch {
	case answering == 0:
		return "no server answers"
	case !c.Majority && c.Master == nil:
		return "no majority: I/O waits"
	case c.Master == nil:
		return "no master yet"
	case len(c.Problems) > 0:
		worst := c.Problems[0]
		return fmt.Sprintf("serving; %s", worst.What)
	}
	return "all is well"
}

package pss

import (
	"errors"

	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/wire"
)

// server.conf says where the servers are when a Cell begins. From then on the servers say so themselves, whenever a
// server is added, moved or removed: a client that runs for years follows them all. Only core servers are connected to.

// errMoved ends the connection to a server that is at another address, or out of the cell.
var errMoved = errors.New("the server is not there any more")

// learn takes from a server where all of them are, unless something newer is known.
func (c *Cell) learn(s *wire.Servers) {
	c.mu.Lock()
	defer c.unlock()
	if s.Index < c.table || c.ctx.Err() != nil {
		return
	}
	newer := s.Index > c.table
	c.table = s.Index
	for i := range s.Servers {
		c.place(&s.Servers[i], newer)
	}
	c.pick()
}

// place adjusts to where one server is. What the cell has not agreed on is what another server.conf says, and ours
// counts for more. In a table that is known already there is news only of servers that are not.
func (c *Cell) place(s *wire.Server, newer bool) {
	if !s.ID.Core() {
		return
	}
	at := -1
	for i, p := range c.peers {
		if p.server.ID == s.ID {
			at = i
		}
	}
	to := cell.Server{ID: s.ID, Host: s.Host, TCPPort: s.TCPPort, UDPPort: s.UDPPort}
	switch {
	case s.Removed:
		if newer && at >= 0 {
			c.opts.Logger.Info("a server was removed from the cell", "server", s.ID)
			c.forsake(at)
		}
	case s.Host == "":
	case at < 0:
		c.opts.Logger.Info("a server was added to the cell", "server", s.ID, "address", to.TCPAddr())
		c.reach(to)
	case newer && s.Agreed && c.peers[at].server.TCPAddr() != to.TCPAddr():
		c.opts.Logger.Info("a server has moved", "server", s.ID, "to", to.TCPAddr())
		c.forsake(at)
		c.reach(to)
	}
}

// reach begins to keep a connection to a server. c.mu is held.
func (c *Cell) reach(s cell.Server) {
	p := &peer{cell: c, server: s, view: wire.Master{Master: wire.None}, gone: make(chan struct{})}
	c.peers = append(c.peers, p)
	c.wg.Go(p.run)
}

// forsake ends the connection to a server for good. c.mu is held.
func (c *Cell) forsake(at int) {
	p := c.peers[at]
	c.peers = append(c.peers[:at:at], c.peers[at+1:]...)
	close(p.gone)
	if p.conn != nil {
		p.conn.close(errMoved)
	}
}

package iscsi

import (
	"errors"
	"io"
	"maps"
)

// Figures are what a server has done and holds.
type Figures struct {
	Connections int // at this moment, those in login included
	InLogin     int
	Bytes       int64 // held by the commands of all sessions

	// Logins that ended, by their status: a handful of codes. Discovery logins are among them.
	Logins map[LoginStatus]uint64
	// Abandoned logins got no status: time was up, too many were logging in, or the initiator went away or sent what
	// is no login. A connection without a single byte is no login.
	Abandoned uint64
	// TurnedAway connections were beyond MaxConnections.
	TurnedAway uint64
}

// Figures may be called at any time.
func (srv *Server) Figures() Figures {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	return Figures{
		Connections: len(srv.conns), InLogin: len(srv.logins), Bytes: srv.bytes.Load(),
		Logins: maps.Clone(srv.ended), Abandoned: srv.abandoned, TurnedAway: srv.turnedAway,
	}
}

// countLogin counts the login of a connection that is in login no more; err is how it ended.
func (srv *Server) countLogin(c *conn, err error) {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	switch {
	case err == nil, errors.Is(err, errRefused):
		srv.ended[c.verdict]++
	case !errors.Is(err, io.EOF), c.stats.rxOctets.Load() > 0:
		srv.abandoned++
	}
}

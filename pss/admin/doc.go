// Package admin is the channel through which tools look at a server of a cell and tell it what to do.
//
// A tool connects to a server's TCP port like a client, but introduces itself with wire.RoleAdmin. Then it
// sends requests, one after the other, and the server answers each in parts:
//
//	KindAdmin      u16 size of the method, the method, the arguments as JSON; all sealed
//	KindAdminPart  code more:   one item of a stream, JSON; others follow
//	               code last:   the reply, JSON; it may be empty
//	               code failed: an Error, JSON; it ends the request like last
//
// Conn is the tool's side; package replica has the server's, a table from method to handler. The names of the
// methods, their arguments and replies are in methods.go. Unknown members of a JSON object in a reply are
// passed over, so tools and servers of different versions understand each other; in arguments they are
// refused, since what a tool asks for must not be ignored.
package admin

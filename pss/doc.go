// Package pss is the client of a cell: what the target daemon and the operator's tools use to reach
// volumes and files that the servers of a cell agree on.
//
// A Cell keeps a connection to every core server and learns from each who it takes for the master. One
// connection, the one to the master, is active: it carries the requests. The way of one write is
//
//  1. Volume.Submit puts the request at the end of the backlog. It never waits for the network but to
//     write where nothing else is under way.
//  2. admit cuts requests into calls, one operation each, as far as the limits on operations and bytes
//     under way allow, and gives each its sequence number.
//  3. transmit takes all calls that wait, computes their block sums, seals their headers with the
//     session's epoch, and writes them with one system call. One goroutine at a time does this: the
//     connection's own, or a submitter that finds it idle.
//  4. The connection's reader takes the result, settles the call, and calls Request.Done when it was the
//     request's last. The data of a read goes from the socket to where the request wants it.
//
// # Exactly once, and in order
//
// Operations are numbered, and a server executes a number of a session once. A connection's
// operations are sent in the order of their numbers. When the active connection breaks, or another
// server says that it is master in a higher term, then the old connection is closed, its goroutines
// have ended before anything else happens, and on the next one the session is opened with a higher
// epoch before all that is unanswered is sent again, in order. What the old connection left behind has
// then taken effect before the session was reopened, or never will; and what took effect is known
// by its number. This holds under two conditions that servers keep:
//
//   - the proposals of one connection enter the log in the order in which they were sent, and once one
//     of them was refused with NotMaster, so are all later ones of this connection;
//   - the cell remembers a session until it is closed.
//
// The same barrier lets a request be given up that was sent and not answered (Volume.SetTimeout): it is
// not sent again, so it can't take effect after anything that is submitted later.
//
// # Who owns what
//
// Everything in a Cell is guarded by its one mutex, which is never held while waiting for the network or
// calling Done. Each server has a goroutine that dials, reads and cleans up, and a second one for
// each connection that writes; a third kind, one a Cell, watches for connections that fell silent.
// Close waits for all.
package pss

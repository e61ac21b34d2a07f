// Package iscsi is the target side of iSCSI over TCP, RFC 7143: portals, login with CHAP, discovery,
// sessions and their command window, data transfer, task management. It knows targets through a Directory
// and hands SCSI commands to a sam.Target; it knows no command's meaning. What initiators see is what tgt
// shows them, where tgt keeps to the RFC; a session may have several connections and, where the operator
// wants it, error recovery level 1.
//
// # The path of one write
//
//  1. A connection's reader goroutine (conn.go, reader.go) reads ahead and takes a header from its buffer
//     and a task from the pool (task.go). Immediate data is copied from the read-ahead buffer into the
//     task's buffer; larger data is read from the socket straight to it.
//  2. The command finds its turn in the session's command window (session.go). Data still missing is asked
//     for by R2Ts; Data-Out PDUs find the task in the connection's table of gathering commands.
//  3. With all data there the reader calls sam.Target.Execute, which does not wait.
//  4. Done, on whatever goroutine, puts the task into the connection's out queue (writer.go). If that
//     was within Execute, the reader sends it before it waits for the socket again; if no other command is
//     under way, Done sends it itself, without waiting; else the writer goroutine is woken and
//     takes with it what becomes ready until it runs.
//  5. One writev sends all that is ready. Whoever sends numbers the responses, gives the window's slots back,
//     and afterwards returns tasks and buffers to their pools. When the socket is full the
//     writer goroutine goes on where the other stopped.
//
// # Who owns what
//
// Server owns portals, connections and the table of sessions; each connection's reader goroutine waits for
// the connection's other goroutines, and the last connection of a session detaches it from its
// target. Locks are taken in the order session.deliver, Server.mu, conn.gatherMu, outQueue.mu; none of them
// is held while a socket is waited for.
//
// # Several connections
//
// Commands are executed in the order of their numbers, whatever connection they come by; each is answered where it
// came. A connection that ends takes its commands with it, and neither its logout is answered nor its successor let
// in before the target is done with them: no old write can come after its own repetition (multi.go).
//
// # Error recovery
//
// At level 0 a damaged PDU ends the connection. At level 1 it is discarded: data is asked for again by a recovery
// R2T, a command is repeated by the initiator under its old number, and what was sent is kept until the
// initiator has acknowledged it, so that a SNACK can have it repeated (recovery.go). Level 0 pays nothing for this but
// a comparison with nil. After a damaged header the length in it is believed once; a second one in a row ends the
// connection, since nobody knows where the next PDU begins.
//
// # What a peer can make us hold
//
// A connection holds a read-ahead buffer of 64 KiB, one batch of headers, and at most maxControl short
// answers; its login at most maxLoginText bytes for at most Options.LoginTimeout. The commands of a
// session are bounded by its window (MaxQueueCmd) and their data by Options.MaxSessionBytes; what is kept for error
// recovery counts as theirs, and its number is bounded by maxUnacknowledged. All sessions together are bounded by
// Options.MaxServerBytes. So that those who fill that up can't keep others out, a session may have fairSessionBytes
// all the same: with MaxConnections that is the whole bound.
package iscsi

// Package agreement keeps the agreed log of a cell: which entry stands at which index, who is
// master, and until when the master may answer reads by itself.
//
// The engine is go.etcd.io/raft, driven as a state machine: Node takes ticks, messages, proposals
// and finished appends, and Ready hands out messages to send, entries to append to the durable log
// and entries to apply. Node has no goroutine, no clock, no file and no socket, so the simulator
// drives the very code that a server runs.
//
// Raft's leader is the master, its term the ballot, a log index an instance.
//
// # One master in a term
//
// What a master appends goes to the others while its own disk still writes it, from the first entry of its term
// on. That is safe because its disk has the term: whatever it forgets in a crash, it stands for election in a later one
// afterwards. So a candidate asks for votes only behind the append that has its term and its own vote (askForVotes).
//
// # The lease
//
// A master may answer a read without asking anybody while no other server can have become master.
// Every heartbeat carries the master's clock; its response echoes it. A core server that took a
// heartbeat promises to refuse every vote for an election time-out less a tick, whatever it hears
// meanwhile, and a server that has just started refuses votes for an election time-out, since it may
// have forgotten a promise. So from the newest clock reading that a majority has echoed, no other
// master can be elected for so long on the followers' clocks, which may run faster than ours by at most
// MaxDrift. A hand-over of the mastership overrides the promise, so it voids the lease for the rest of
// the term; reads then wait for a majority to echo a heartbeat that was sent after they came.
package agreement

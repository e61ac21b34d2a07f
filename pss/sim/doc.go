// Package sim runs a whole cell in one goroutine: the replicas' own cores, logs and stores, over a
// simulated network, simulated disks and simulated clocks, all driven by one seeded source of chance.
// The same seed gives the same run to the last byte, so a failure that was seen once can be looked at
// for as long as it takes.
//
// A run has two phases. In the first, messages are lost, delayed, doubled and reordered, links break
// in one direction or both, servers stop, continue, die and lose power in the middle of a write, while
// clients write, read and compare-and-write a few sectors, some of them with several requests under way.
// In the second everything works again, and the cell has to answer every client within a bounded time.
//
// On top of these a seed chooses classes of Faults, and mixes them: servers that found their cell, lose their disks and
// join anew; older states of a core server's root, or of all of it but its memory of promises, that are put back; an
// operator who lets the cell grow and shrink; disks that return wrong bytes, fail, hang, or fill up; clocks that run as
// they like, or within the bound that leases are made for. Each class keeps to what the cell promises to bear (see wound),
// and each has a Flaw that breaks the rule it is to guard.
//
// In the second phase every server has to be a whole member again, with a clean disk (scrubbed), level with the others,
// and the members have to be those that the operator wants.
// Where disks hang, that of the master does so all the time while the clients wait, or answers no read. At the end package check verifies
// every root.
//
// What a run does not do: an older state of a root comes back only where so many other core servers have on their disks
// what the server promised since, that it meets one of them before it takes part (Rollback, rollback.go). A root that lost
// just what came after the last heartbeat that anybody heard who is still there, while the master is gone, is beyond what the
// cell promises (replica/recall.go). What is put back is of the same membership: the root of a member that the server was
// before it joined anew does not come back. Nor does that of a replica, which has no vote. Clocks beyond
// agreement.MaxDrift make leases unsafe, so there clients do not read.
//
// In every third run two more clients take a volume from each other or share it, change its attribute and go on to write
// under tokens that they have lost; and they want the same lock.
//
// In some runs clients write a chunk whole, in order, so that checkpoints adopt what the logs wrote (stream.go).
//
// Three oracles judge a run: the history of every sector has to be linearizable, and so has that of the volume with its
// token; servers that applied the same index have to hold the same bytes; and nobody gets a lock before the one who had
// it began to give it back. Besides, no operation may be refused that package
// pss relies on being taken: a session is never lost, and its epoch never overtaken.
package sim

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
// Two oracles judge a run: the history of every sector has to be linearizable, and servers that
// applied the same index have to hold the same bytes. Besides, no operation may be refused that package
// pss relies on being taken: a session is never lost, and its epoch never overtaken.
package sim

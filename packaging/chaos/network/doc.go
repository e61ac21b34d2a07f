// Package network is a small network between network namespaces on one machine, whose faults can be set for each
// direction of each pair of hosts: delay, jitter (and with it another order), loss, doubling, a rate, or nothing at all
// gets through. It does what veth pairs, a bridge and `tc netem` do together, for kernels that lack netem, and it can cut
// one direction, which netem at an interface can't do for one pair.
//
// Every host is a namespace with one TUN device, whose other end is a file of this process. One goroutine a host reads
// IP packets and hands each to the link to its destination; what is to be late waits in that link's queue, which has a
// goroutine of its own. Kernel TCP and UDP run on top and see real loss and real delay. A queue is bounded in bytes, and
// drops what comes when it is full, as a router does.
package network

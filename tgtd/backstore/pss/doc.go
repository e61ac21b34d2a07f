// Package pss is the backing store that puts a logical unit on a volume of the Paxos Storage Service.
//
// The unit's path is the volume's name. Opening a unit opens the volume, which takes it away from any other
// target that has it open: that one's writes fail from then on. All units of a daemon that name the same
// server.conf share one client of the cell, which is closed with the last of them.
//
// A request that completed is durable on a majority of the core servers, so Flush only waits for the
// requests before it. While the cell has no master requests wait, for ever or for the time that the
// option timeout gives; then they complete with backstore.ErrBusy, which initiators retry.
//
// Options (--bsopts) are separated by commas or semicolons; the management protocol itself separates its
// parameters by commas, so the semicolon is what works in targets.conf:
//
//	conf=FILE        the server.conf of the cell; the daemon's by default
//	timeout=SECONDS  how long a request waits for the cell; 0, the default, for ever
//
// The flags sync and direct ask for what is always the case, and change nothing.
package pss

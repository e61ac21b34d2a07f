// Package pss is the backing store that puts a logical unit on a volume of the Paxos Storage Service.
//
// The unit's path is the volume's name. Opening a unit opens the volume, which takes it away from any other
// target that has it open: that one's writes fail from then on. All units of a daemon that name the same
// server.conf share one client of the cell, which is closed with the last of them.
//
// With the option shared=1 several targets have the volume open at once, all of them with that option: each
// of its units shows the same identity, kept in the cell, so that an initiator sees one disk with several paths. A
// unit that is opened without it takes the volume away from all of them. In a shared volume a change of the unit's
// state, its reservations, moves the volume's token on in the same agreed step. What another target has under way
// then fails without effect; its unit loads the state, decides again, and submits the request anew or answers
// RESERVATION CONFLICT. Reads carry no token: after each the cell is asked whether the token is still current,
// which costs a shared volume one more round trip per read, and others nothing. A request is never submitted
// under a newer token than the state it was decided on by: requests say by which version of the state they
// were allowed, and while the token is being exchanged none is let through (store.enter).
//
// The unit's reservations are attributes of the volume, exclusive or shared, so that they outlive the daemon.
//
// A unit whose cell can't be reached when it is opened waits for it (M4): it is NOT READY, BECOMING READY and
// asks until the volume can be opened. A volume that does not exist, and bad options, are errors at once.
//
// A request that completed is durable on a majority of the core servers, so Flush only waits for the
// requests before it. While the cell has no master requests wait, for ever or for the time that the
// option timeout gives; then they complete with backstore.ErrBusy, which initiators retry.
//
// Options (--bsopts) are separated by commas or semicolons; the management protocol itself separates its
// parameters by commas, so the semicolon is what works in targets.conf:
//
//	conf=FILE        the server.conf of the cell; the daemon's by default
//	shared=1         together with other targets; 0, the default, for this one alone
//	timeout=SECONDS  how long a request waits for the cell; 0, the default, for ever
//
// The flags sync and direct ask for what is always the case, and change nothing.
package pss

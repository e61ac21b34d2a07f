package scsi

import (
	"sync/atomic"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/sam"
)

// nexus is the device server's state of one I_T nexus.
type nexus struct {
	sam *sam.Nexus
	// units is replaced as a whole when a unit comes or goes, so that Execute looks up without a lock.
	units atomic.Pointer[map[sam.LUN]*itl]
}

// itl is one I_T_L nexus: what a unit keeps for one session.
type itl struct {
	nexus *nexus
	unit  *Unit
	id    portID

	// Guarded by Unit.mu; pending mirrors len(attentions) for a look without the lock.
	attentions []senseCode
	pending    atomic.Int32
	prevents   bool    // PREVENT ALLOW MEDIUM REMOVAL
	closed     bool    // the session ends; no further task is admitted
	toldEmpty  bool    // of a drive: the session was told that there is no medium
	reported   *medium // of a drive: what GET EVENT STATUS NOTIFICATION has told of
	copies     []copyResult

	counters
}

// portID names an initiator port (RFC 7143 4.4: name and ISID) and the target port group it came
// through. Persistent reservations belong to it, so a session made again with the same ISID finds its own.
type portID struct {
	name   string
	isid   [6]byte
	tag    uint16
	target string // name of the target; other targets may serve the same medium
}

func (n *nexus) find(lun sam.LUN) *itl {
	return (*n.units.Load())[lun]
}

// attend queues a unit attention. Unit.mu is held.
func (it *itl) attend(code senseCode) {
	if len(it.attentions) == MaxUnitAttentions {
		it.attentions[len(it.attentions)-1] = code
		return
	}
	it.attentions = append(it.attentions, code)
	it.pending.Store(int32(len(it.attentions)))
}

// attention returns the oldest pending unit attention, or noSense, and drops it if take is set.
func (it *itl) attention(take bool) senseCode {
	if it.pending.Load() == 0 {
		return noSense
	}
	it.unit.mu.Lock()
	defer it.unit.mu.Unlock()
	if len(it.attentions) == 0 {
		return noSense
	}
	code := it.attentions[0]
	if take {
		it.attentions = append(it.attentions[:0], it.attentions[1:]...)
		it.pending.Store(int32(len(it.attentions)))
	}
	return code
}

// dropAttention removes every pending unit attention with the code.
func (it *itl) dropAttention(code senseCode) {
	if it.pending.Load() == 0 {
		return
	}
	it.unit.mu.Lock()
	defer it.unit.mu.Unlock()
	keep := it.attentions[:0]
	for _, a := range it.attentions {
		if a != code {
			keep = append(keep, a)
		}
	}
	it.attentions = keep
	it.pending.Store(int32(len(keep)))
}

// Stats counts what one session did on one unit, as `tgtadm --op stat` shows it. Bytes are those the
// initiator expected to move, submitted and done, in commands with data-in (Read) and data-out (Write).
type Stats struct {
	ReadSubmittedBytes, ReadSubmitted   uint64
	ReadDoneBytes, ReadDone             uint64
	WriteSubmittedBytes, WriteSubmitted uint64
	WriteDoneBytes, WriteDone           uint64
	Errors                              uint64 // commands that ended with another status than GOOD
}

type counters struct {
	readSubmittedBytes, readSubmitted   atomic.Uint64
	readDoneBytes, readDone             atomic.Uint64
	writeSubmittedBytes, writeSubmitted atomic.Uint64
	writeDoneBytes, writeDone           atomic.Uint64
	errors                              atomic.Uint64
}

// submitted counts a command that arrives.
func (n *counters) submitted(c *sam.Command) {
	if c.InBytes > 0 {
		n.readSubmittedBytes.Add(uint64(c.InBytes))
		n.readSubmitted.Add(1)
	}
	if c.OutBytes > 0 {
		n.writeSubmittedBytes.Add(uint64(c.OutBytes))
		n.writeSubmitted.Add(1)
	}
}

// count counts a command that ends; an aborted one stays submitted.
func (n *counters) count(t *task, aborted bool) {
	if t.absent || aborted {
		return
	}
	c := t.command
	if c.InBytes > 0 {
		n.readDoneBytes.Add(uint64(c.InBytes))
		n.readDone.Add(1)
	}
	if c.OutBytes > 0 {
		n.writeDoneBytes.Add(uint64(c.OutBytes))
		n.writeDone.Add(1)
	}
	if t.status != sam.Good {
		n.errors.Add(1)
	}
}

func (n *counters) stats() Stats {
	return Stats{
		ReadSubmittedBytes: n.readSubmittedBytes.Load(), ReadSubmitted: n.readSubmitted.Load(),
		ReadDoneBytes: n.readDoneBytes.Load(), ReadDone: n.readDone.Load(),
		WriteSubmittedBytes: n.writeSubmittedBytes.Load(), WriteSubmitted: n.writeSubmitted.Load(),
		WriteDoneBytes: n.writeDoneBytes.Load(), WriteDone: n.writeDone.Load(),
		Errors: n.errors.Load(),
	}
}

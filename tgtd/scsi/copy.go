package scsi

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/sam"
)

// Service actions of EXTENDED COPY and RECEIVE COPY RESULTS (SPC-4 6.3, 6.24), and descriptors (SPC-4 6.4).
const (
	copyLID1                = 0x00
	copyStatusLID1          = 0x00
	copyOperatingParameters = 0x03

	copyHeaderBytes    = 16
	copyTargetBytes    = 32   // an identification descriptor
	copySegmentBytes   = 28   // block to block
	identificationType = 0xe4 // target descriptor
	blockToBlock       = 0x02 // segment descriptor
)

// copying is the state of an EXTENDED COPY.
type copying struct {
	targets  []copyTarget
	segments []byte // what is left of the list
	from, to *copyTarget
	source   uint64 // next LBA
	target   uint64
	left     uint64 // bytes of the segment
	moved    uint64 // bytes of all segments
	segment  uint16 // segments that are done
	list     byte   // list identifier
	keep     bool   // the result can be asked for
	via      unitStore
}

// copyTarget is a unit that a copy reads or writes.
type copyTarget struct {
	lun       sam.LUN
	blockSize uint64
}

// copyResult is what RECEIVE COPY RESULTS tells of a copy that has ended (SPC-4 6.24.2).
type copyResult struct {
	list     byte
	failed   bool
	segments uint16
	bytes    uint64
}

// extendedCopy is EXTENDED COPY(LID1) (SPC-4 6.3) between units of this target. Reading and writing go through
// commands of the same session to those units, so that reservations, write protection, ranges and the order of
// tasks hold as if the initiator had sent them.
func extendedCopy(t *task) outcome {
	length := int64(binary.BigEndian.Uint32(t.command.CDB[10:]))
	if length == 0 {
		return t.good()
	}
	list := t.command.DataOut
	if length < copyHeaderBytes || length > MaxCopyListBytes || int64(len(list)) < length {
		return t.check(parameterListLength)
	}
	list = list[:length]
	targets, segments := int64(binary.BigEndian.Uint16(list[2:])), int64(binary.BigEndian.Uint32(list[8:]))
	inline := int64(binary.BigEndian.Uint32(list[12:]))
	switch {
	case targets+segments+copyHeaderBytes > length || targets%copyTargetBytes != 0:
		return t.check(parameterListLength)
	case targets/copyTargetBytes > MaxCopyTargets:
		return t.check(tooManyTargets)
	case inline != 0:
		return t.check(inlineDataLength)
	}
	c := &copying{list: list[0], keep: list[1]&0x18 != 0x18}
	if code := c.parseTargets(t, list[copyHeaderBytes:copyHeaderBytes+targets]); code != noSense {
		return t.check(code)
	}
	c.segments = list[copyHeaderBytes+targets:][:segments]
	if code := c.checkSegments(); code != noSense {
		return t.check(code)
	}
	t.copy, t.moved = c, uint64(length)
	c.via.task, t.via = t, &c.via
	return copySegment(t)
}

// parseTargets reads the target descriptors.
func (c *copying) parseTargets(t *task, list []byte) senseCode {
	for ; len(list) > 0; list = list[copyTargetBytes:] {
		d := list[:copyTargetBytes]
		if d[0] != identificationType {
			return unsupportedTarget
		}
		if d[1]>>6 != 0 { // LU ID TYPE: only logical unit numbers, which nothing looks at
			return invalidFieldInCDB
		}
		if d[1]&0x20 != 0 { // NUL: a unit that is not meant to be there
			return copyTargetUnreachable
		}
		u := t.target.byDesignator(d[4:4+4+min(20, int(d[7]))], t)
		if u == nil {
			return copyTargetUnreachable
		}
		if size := int64(d[29])<<16 | int64(d[30])<<8 | int64(d[31]); size != u.blockSize {
			return invalidFieldInParameters
		}
		c.targets = append(c.targets, copyTarget{u.lun, uint64(u.blockSize)})
	}
	return noSense
}

// byDesignator finds the unit that has a designator (SPC-4 7.8.6) of its own.
func (tg *Target) byDesignator(d []byte, t *task) *Unit {
	for _, u := range tg.Units() {
		if u.kind != Disk {
			continue
		}
		own := &task{unit: u, attrs: u.attrs.Load(), nexus: t.nexus, absent: true}
		for b := own.deviceIdentification(nil); len(b) >= 4; b = b[4+int(b[3]):] {
			if b[0]&0x0f == d[0]&0x0f && b[1]&0x3f == d[1]&0x3f && string(b[4:4+int(b[3])]) == string(d[4:]) {
				return u
			}
			// The descriptor holds 20 bytes of a longer one.
			if int(b[3]) > 20 && len(d) == 24 && b[1]&0x3f == d[1]&0x3f && string(b[4:24]) == string(d[4:]) {
				return u
			}
		}
	}
	return nil
}

// checkSegments looks at all segment descriptors before the first is carried out.
func (c *copying) checkSegments() senseCode {
	n := 0
	for list := c.segments; len(list) > 0; n++ {
		if list[0] != blockToBlock {
			return unsupportedSegment
		}
		if len(list) < copySegmentBytes || binary.BigEndian.Uint16(list[2:]) != copySegmentBytes-4 {
			return parameterListLength
		}
		if n == MaxCopySegments {
			return tooManySegments
		}
		for _, at := range []int{4, 6} {
			if int(binary.BigEndian.Uint16(list[at:])) >= len(c.targets) {
				return copyTargetUnreachable
			}
		}
		list = list[copySegmentBytes:]
	}
	return noSense
}

// copySegment begins the next segment.
func copySegment(t *task) outcome {
	c := t.copy
	for len(c.segments) > 0 {
		d := c.segments[:copySegmentBytes]
		c.from = &c.targets[binary.BigEndian.Uint16(d[4:])]
		c.to = &c.targets[binary.BigEndian.Uint16(d[6:])]
		// DC says in whose blocks the length counts.
		unit := c.from.blockSize
		if d[1]&0x02 != 0 {
			unit = c.to.blockSize
		}
		c.left = uint64(binary.BigEndian.Uint16(d[10:])) * unit
		c.source, c.target = binary.BigEndian.Uint64(d[12:]), binary.BigEndian.Uint64(d[20:])
		if c.left%c.from.blockSize != 0 || c.left%c.to.blockSize != 0 ||
			!t.target.holds(c.from.lun, c.source, c.left) || !t.target.holds(c.to.lun, c.target, c.left) {
			return t.copyFailed(copyAborted)
		}
		if t.target.Unit(uint64(c.to.lun)).protected() {
			return t.copyFailed(writeProtected)
		}
		if c.left > 0 {
			return copyRead(t)
		}
		c.segments = c.segments[copySegmentBytes:]
		c.segment++
	}
	t.keepCopy(false)
	return t.good()
}

// holds says whether a unit has so many bytes from a block on.
func (tg *Target) holds(lun sam.LUN, lba, bytes uint64) bool {
	u := tg.Unit(uint64(lun))
	if u == nil {
		return false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.medium == nil {
		return false
	}
	blocks := uint64(u.medium.bytes.Load() / u.blockSize)
	return lba <= blocks && bytes/uint64(u.blockSize) <= blocks-lba
}

func copyRead(t *task) outcome {
	c := t.copy
	n := int64(min(c.left, chunkBytes))
	if t.buffer == nil && t.allocate(chunkBytes) == nil {
		return finished
	}
	c.via.lun, c.via.blockSize, c.via.lba = c.from.lun, c.from.blockSize, c.source
	return t.submitIO(backstore.Read, 0, n, t.buffer.data[:n], false, copyWrite)
}

func copyWrite(t *task) outcome {
	if t.io.Err != nil {
		return t.copyFailed(thirdPartyFailure)
	}
	c := t.copy
	c.via.lun, c.via.blockSize, c.via.lba = c.to.lun, c.to.blockSize, c.target
	return t.submitIO(backstore.Write, 0, t.io.Length, t.io.Data, false, copyNext)
}

func copyNext(t *task) outcome {
	if t.io.Err != nil {
		return t.copyFailed(thirdPartyFailure)
	}
	c, n := t.copy, uint64(t.io.Length)
	c.left -= n
	c.moved += n
	c.source += n / c.from.blockSize
	c.target += n / c.to.blockSize
	if c.left > 0 {
		return copyRead(t)
	}
	c.segments = c.segments[copySegmentBytes:]
	c.segment++
	return copySegment(t)
}

// copyFailed ends the command after the copy could not go on: COPY ABORTED. What was written stays.
func (t *task) copyFailed(code senseCode) outcome {
	t.keepCopy(true)
	return t.check(code)
}

// keepCopy notes the result for RECEIVE COPY RESULTS.
func (t *task) keepCopy(failed bool) {
	c := t.copy
	if !c.keep {
		return
	}
	r := copyResult{c.list, failed, c.segment, c.moved}
	t.unit.mu.Lock()
	defer t.unit.mu.Unlock()
	it := t.nexus
	for i := range it.copies {
		if it.copies[i].list == r.list {
			it.copies[i] = r
			return
		}
	}
	if len(it.copies) == MaxCopyResults {
		it.copies = append(it.copies[:0], it.copies[1:]...)
	}
	it.copies = append(it.copies, r)
}

// receiveCopyStatus is RECEIVE COPY RESULTS with COPY STATUS (SPC-4 6.24.2). A copy's commands are
// answered when it has ended, so none is ever found in progress.
func receiveCopyStatus(t *task) outcome {
	cdb := t.command.CDB
	b := t.replyBuffer(16)
	if b == nil {
		return finished
	}
	t.unit.mu.Lock()
	var r *copyResult
	for i := range t.nexus.copies {
		if t.nexus.copies[i].list == cdb[2] {
			found := t.nexus.copies[i]
			r = &found
			t.nexus.copies = append(t.nexus.copies[:i], t.nexus.copies[i+1:]...) // told once
			break
		}
	}
	t.unit.mu.Unlock()
	if r == nil {
		return t.check(invalidFieldInCDB)
	}
	var status byte = 0x01 // completed without errors
	if r.failed {
		status = 0x02
	}
	b = append(b, 0, 0, 0, 8, status)
	b = binary.BigEndian.AppendUint16(b, r.segments)
	units, count := byte(0), r.bytes
	for ; count > math.MaxUint32; units++ {
		count >>= 10 // kilobytes, megabytes, …
	}
	b = append(b, units)
	b = binary.BigEndian.AppendUint32(b, uint32(count))
	return t.reply(b, uint64(binary.BigEndian.Uint32(cdb[10:])))
}

// receiveCopyParameters is RECEIVE COPY RESULTS with OPERATING PARAMETERS (SPC-4 6.24.4).
func receiveCopyParameters(t *task) outcome {
	b := t.replyBuffer(64)
	if b == nil {
		return finished
	}
	b = append(b, 0, 0, 0, 0, 1, 0, 0, 0) // SNLID
	b = binary.BigEndian.AppendUint16(b, MaxCopyTargets)
	b = binary.BigEndian.AppendUint16(b, MaxCopySegments)
	b = binary.BigEndian.AppendUint32(b, MaxCopyListBytes)
	b = binary.BigEndian.AppendUint32(b, math.MaxUint16*512) // longest segment, bytes
	b = append(b, make([]byte, 12)...)                       // no inline data, held data or streams
	b = append(b, 0, 0)
	b = append(b, 0, 1) // total concurrent copies; not limited beyond the task set
	b = append(b, 1, 9, 0, 0, 0, 0, 0)
	b = append(b, 2, blockToBlock, identificationType)
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return t.reply(b, uint64(binary.BigEndian.Uint32(t.command.CDB[10:])))
}

// errCopyCommand is a command of a copy that did not end well.
var errCopyCommand = errors.New("a command of an extended copy failed")

// unitStore carries a copy's requests out as commands to a unit of the same target. It runs them at the head of
// the queue: the copy has started, and what waits for the copy must not keep it from ending. They have the tag of
// the copy, so that an abort finds them too.
type unitStore struct {
	task      *task
	lun       sam.LUN
	blockSize uint64
	lba       uint64
}

// Submit implements backstore.Store for Read and Write.
func (s *unitStore) Submit(io *backstore.IO) {
	blocks := uint64(io.Length) / s.blockSize
	cdb := make([]byte, 16)
	binary.BigEndian.PutUint64(cdb[2:], s.lba)
	binary.BigEndian.PutUint32(cdb[10:], uint32(blocks))
	c := &sam.Command{Nexus: s.task.nexus.nexus.sam, LUN: s.lun, Tag: s.task.tag, Attribute: sam.HeadOfQueue, CDB: cdb,
		Server: s}
	if io.Op == backstore.Read {
		cdb[0], c.InBytes = 0x88, uint32(io.Length)
	} else {
		cdb[0], c.OutBytes, c.DataOut = 0x8a, uint32(io.Length), io.Data
	}
	c.Done = func(c *sam.Command) {
		io.Err = nil
		switch {
		case c.Aborted || c.Status != sam.Good:
			io.Err = fmt.Errorf("%w: status %02x, sense % x", errCopyCommand, byte(c.Status), c.Sense)
		case io.Op == backstore.Read:
			copy(io.Data, c.DataIn)
		}
		if c.Release != nil {
			c.Release(c)
		}
		io.Done(io)
	}
	s.task.target.Execute(c)
}

// Info implements backstore.Store; nobody asks.
func (s *unitStore) Info() backstore.Info { return backstore.Info{} }

// Close implements backstore.Store; there is nothing to close.
func (s *unitStore) Close() error { return nil }

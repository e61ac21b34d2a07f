package scsi

import (
	"errors"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore/ssc"
)

// READ and WRITE of a tape.

// transferLength works out how many bytes a READ(6) or WRITE(6) is about, and of what block size, 0 for one block of
// that length. When it says no, the result is set.
func (t *task) transferLength() (length, block int64, ok bool) {
	cdb := t.command.CDB
	length = int64(uint24(cdb[2:]))
	if cdb[1]&tapeFixed != 0 {
		if block = int64(t.attrs.fixedBlock); block == 0 || cdb[1]&tapeSuppress != 0 {
			t.check(invalidFieldInCDB)
			return 0, 0, false
		}
		length *= block
	}
	if length > MaxTransferBytes {
		t.check(invalidFieldInCDB)
		return 0, 0, false
	}
	return length, block, true
}

// readTape is READ(6) (SSC-3).
func readTape(t *task) outcome {
	length, block, ok := t.transferLength()
	switch {
	case !ok:
		return finished
	case length == 0:
		return t.good()
	}
	if t.data = t.allocate(length); t.data == nil {
		return finished
	}
	if block == 0 {
		return t.onTape(readVariable)
	}
	return t.onTape(readFixed)
}

// readVariable reads one block of whatever length.
func readVariable(t *task, tape *ssc.Tape) {
	room := int64(len(t.data))
	n, err := tape.Read(t.data)
	if err != nil {
		t.stopped(err, room)
		return
	}
	size := int64(n)
	t.moved = uint64(min(size, room))
	t.dataIn = t.data[:min(t.moved, uint64(t.command.InBytes))]
	suppressed := t.command.CDB[1]&tapeSuppress != 0 && (size < room || t.attrs.fixedBlock == 0)
	if size == room || suppressed {
		t.good()
		return
	}
	t.tapeCondition(noSense, senseIncorrectSize, room-size)
}

// readFixed reads blocks of the size that MODE SELECT set.
func readFixed(t *task, tape *ssc.Tape) {
	block := int(t.attrs.fixedBlock)
	left := int64(len(t.data) / block)
	for b := t.data; len(b) > 0; b = b[block:] {
		n, err := tape.Read(b[:block])
		switch {
		case err != nil:
			t.stopped(err, left)
			return
		case n != block:
			t.tapeCondition(noSense, senseIncorrectSize, left)
			return
		}
		left--
		t.moved += uint64(block)
		t.dataIn = t.data[:min(t.moved, uint64(t.command.InBytes))]
	}
	t.good()
}

// stopped completes a command that something on the tape has stopped.
func (t *task) stopped(err error, left int64) {
	switch {
	case errors.Is(err, ssc.ErrFilemark):
		t.tapeCondition(filemarkDetected, senseFilemark, left)
	case errors.Is(err, ssc.ErrBeginning):
		t.tapeCondition(beginningOfMedium, senseEndOfMedium, left)
	case errors.Is(err, ssc.ErrEnd) && t.row.op == 0x08:
		// As the reference has it: no information, and no additional code.
		sense := blankCheck.bytes(t.attrs.descriptorSense)
		if sense[0] == 0x70 {
			sense[2] |= senseEndOfMedium
		}
		data, moved := t.dataIn, t.moved
		t.checkSense(sense)
		t.dataIn, t.moved = data, moved
	case errors.Is(err, ssc.ErrEnd):
		t.tapeCondition(endOfData, 0, left)
	default:
		t.tapeError(err, unrecoveredReadError)
	}
}

// writeTape is WRITE(6) (SSC-3). Data that comes short writes nothing: part of a block is no block.
func writeTape(t *task) outcome {
	length, block, ok := t.transferLength()
	switch {
	case !ok:
		return finished
	case length == 0:
		return t.good()
	case block == 0 && length > ssc.MaxBlock, length > int64(len(t.command.DataOut)):
		return t.check(invalidFieldInCDB)
	}
	t.data = t.command.DataOut[:length]
	return t.onTape(writeBlocks)
}

func writeBlocks(t *task, tape *ssc.Tape) {
	block, unit := len(t.data), 1
	if t.command.CDB[1]&tapeFixed != 0 {
		block = int(t.attrs.fixedBlock)
		unit = block
	}
	for b := t.data; len(b) > 0; b = b[block:] {
		if err := tape.Write(b[:block]); err != nil {
			t.writeStopped(err, int64(len(b)/unit))
			return
		}
		t.moved += uint64(block)
	}
	t.written(tape)
}

// written completes a command that wrote, with a warning near the end of the tape.
func (t *task) written(tape *ssc.Tape) {
	if tape.Warned() {
		t.tapeCondition(endOfMedium, senseEndOfMedium, 0)
		return
	}
	t.good()
}

func (t *task) writeStopped(err error, left int64) {
	if errors.Is(err, ssc.ErrFull) {
		t.tapeCondition(volumeOverflow, senseEndOfMedium, left)
		return
	}
	t.tapeError(err, writeError)
}

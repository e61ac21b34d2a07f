package scsi

import (
	"encoding/binary"
	"errors"
	"syscall"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore/ssc"
)

// A tape drive (SSC-3). Its medium is an image of package ssc, and one worker executes what touches the tape, in
// the order in which the commands came.

// Sense codes of tapes (SSC-3).
const (
	filemarkDetected   senseCode = 0x000001
	endOfMedium        senseCode = 0x000002
	beginningOfMedium  senseCode = 0x000004
	cleaningCartridge  senseCode = 0x023003
	formatCorrupted    senseCode = 0x033100
	wormOverwrite      senseCode = 0x07300c
	blankCheck         senseCode = 0x080000
	endOfData          senseCode = 0x080005
	volumeOverflow     senseCode = 0x0d0002
	senseFilemark                = 0x80 // bits beside the sense key
	senseEndOfMedium             = 0x40
	senseIncorrectSize           = 0x20
)

// Bits of byte 1 of READ(6) and WRITE(6).
const (
	tapeFixed    = 0x01
	tapeSuppress = 0x02 // SILI
)

// tapeTable are the commands of a tape drive (SPC-4, SSC-3).
var tapeTable = newTable(sorted(append(
	shared(0x00, 0x03, 0x12, 0x15, 0x16, 0x17, 0x1a, 0x1d, 0x1e, 0x55, 0x5a, 0x5e, 0x5f, 0xa0, 0xa3),
	command{op: 0x01, service: none, name: "REWIND", usage: "01 01 00 00 00 07", handler: rewind, medium: true},
	command{op: 0x05, service: none, name: "READ BLOCK LIMITS", usage: "05 00 00 00 00 07",
		handler: readBlockLimits, access: accessFree},
	command{op: 0x08, service: none, name: "READ(6)", usage: "08 03 ff ff ff 07",
		handler: readTape, medium: true, access: accessRead},
	command{op: 0x0a, service: none, name: "WRITE(6)", usage: "0a 01 ff ff ff 07",
		handler: writeTape, medium: true, writes: true},
	command{op: 0x10, service: none, name: "WRITE FILEMARKS(6)", usage: "10 01 ff ff ff 07",
		handler: writeFilemarks, medium: true, writes: true},
	command{op: 0x11, service: none, name: "SPACE(6)", usage: "11 0f ff ff ff 07",
		handler: spaceTape, medium: true, access: accessRead},
	command{op: 0x19, service: none, name: "ERASE(6)", usage: "19 03 00 00 00 07",
		handler: eraseTape, medium: true, writes: true},
	command{op: 0x1b, service: none, name: "LOAD UNLOAD", usage: "1b 01 00 00 0f 07",
		handler: loadUnload, medium: true},
	command{op: 0x2b, service: none, name: "LOCATE(10)", usage: "2b 02 00 ff ff ff ff 00 ff 07",
		handler: locateTape, medium: true, access: accessRead},
	command{op: 0x34, service: none, name: "READ POSITION", usage: "34 1f 00 00 00 00 00 ff ff 07",
		handler: readPosition, medium: true, access: accessFree},
	command{op: 0x44, service: none, name: "REPORT DENSITY SUPPORT", usage: "44 01 00 00 00 00 00 ff ff 07",
		handler: reportDensity, access: accessFree},
	command{op: 0x4d, service: none, name: "LOG SENSE", usage: "4d 00 7f ff 00 00 00 ff ff 07",
		handler: tapeLogSense, medium: true, access: accessFree},
	command{op: 0x91, service: none, name: "SPACE(16)", usage: "91 0f 00 00 ff ff ff ff ff ff ff ff 00 00 00 07",
		handler: spaceTape, medium: true, access: accessRead},
	command{op: 0x92, service: none, name: "LOCATE(16)", usage: "92 3a 00 ff ff ff ff ff ff ff ff ff 00 00 00 07",
		handler: locateTape, medium: true, access: accessRead},
)))

// tapePages are the pages that a tape drive is born with, in order.
func tapePages() []modePage {
	return []modePage{
		newModePage(vendorPage, 0, nil, nil),
		newModePage(errorRecoveryPage, 0, []byte{0, 8, 0, 0, 0, 0, 8, 0, 0, 0}, nil),
		newModePage(disconnectPage, 0, []byte{0x80, 0x80, 0, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, nil),
		newModePage(controlPage, 0, []byte{0x02, 0, 0, 0, 0, 0, 0, 0, 0x02, 0}, nil),
		newModePage(controlPage, controlExtension, append([]byte{0x04}, make([]byte, 27)...), nil),
		newModePage(0x0f, 0, make([]byte, 14), nil),                                       // data compression
		newModePage(0x10, 0, []byte{0, 0, 0, 0x80, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0}, nil), // device configuration
		newModePage(exceptionsPage, 0, []byte{0x08, 0, 0, 0, 0, 0, 0, 0, 0, 0}, nil),
		newModePage(0x1d, 0, append([]byte{0x01}, make([]byte, 29)...), nil), // medium configuration
	}
}

// tape is the cartridge. When the image is none it sets the result and returns nil.
func (t *task) tape() *ssc.Tape {
	s, ok := t.medium.store.(*worker).Store.(interface{ Tape() (*ssc.Tape, error) })
	if !ok {
		t.check(manualIntervention) // the unit was made with another store
		return nil
	}
	tape, err := s.Tape()
	if err != nil {
		t.tapeError(err, unrecoveredReadError)
		return nil
	}
	return tape
}

// onTape has the worker do something with the cartridge.
func (t *task) onTape(f func(*task, *ssc.Tape)) outcome {
	return t.later(func(t *task) {
		if tape := t.tape(); tape != nil {
			f(t, tape)
		}
	})
}

// tapeError completes the command after a failure of the tape; other is the sense code for what has no own.
func (t *task) tapeError(err error, other senseCode) {
	var version *ssc.VersionError
	var damage *ssc.DamageError
	switch {
	case errors.Is(err, ssc.ErrCleaning):
		t.check(cleaningCartridge)
	case errors.Is(err, ssc.ErrWORM):
		t.check(wormOverwrite)
	case errors.Is(err, ssc.ErrReadOnly), errors.Is(err, syscall.EROFS):
		t.check(writeProtected)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		t.check(spaceAllocationFailed)
	case errors.As(err, &version), errors.As(err, &damage):
		t.check(formatCorrupted)
	default:
		t.check(other)
	}
}

// tapeCondition completes the command with CHECK CONDITION, the bits beside the sense key, and what is left to
// do. What moved stays moved: unlike on a disk, data comes with the condition.
func (t *task) tapeCondition(code senseCode, bits byte, left int64) {
	data, moved := t.dataIn, t.moved
	t.checkSense(tapeSense(code, bits, left, t.attrs.descriptorSense))
	t.dataIn, t.moved = data, moved
}

// tapeSense encodes sense data with an INFORMATION field, which may be negative, and bits beside the
// sense key (SPC-4; the stream commands descriptor is of SSC-3).
func tapeSense(code senseCode, bits byte, information int64, descriptor bool) []byte {
	if descriptor {
		b := code.bytesWithInformation(true, uint64(information))
		b[7] += 4
		return append(b, 0x04, 0x02, 0, bits)
	}
	b := code.bytesWithInformation(false, uint64(information))
	b[2] |= bits
	return b
}

func uint24(b []byte) int { return int(b[0])<<16 | int(b[1])<<8 | int(b[2]) }

// int24 is a number in two's complement.
func int24(b []byte) int64 { return int64(int32(uint32(uint24(b))<<8) >> 8) }

// writeFilemarks is WRITE FILEMARKS(6) (SSC-3). Without IMMED everything is durable when it completes.
func writeFilemarks(t *task) outcome {
	if t.command.CDB[1]&^0x01 != 0 {
		return t.check(invalidFieldInCDB) // setmarks are no more
	}
	return t.onTape(func(t *task, tape *ssc.Tape) {
		n := uint24(t.command.CDB[2:])
		if err := tape.WriteFilemarks(n); err != nil {
			t.writeStopped(err, int64(n))
			return
		}
		if t.command.CDB[1]&0x01 == 0 {
			if err := tape.Sync(); err != nil {
				t.tapeError(err, writeError)
				return
			}
		}
		t.written(tape)
	})
}

// eraseTape is ERASE(6) (SSC-3): the tape ends at the position. IMMED changes nothing.
func eraseTape(t *task) outcome {
	if t.command.CDB[1]&^0x03 != 0 {
		return t.check(invalidFieldInCDB)
	}
	return t.onTape(func(t *task, tape *ssc.Tape) {
		err := tape.Erase()
		if err == nil {
			err = tape.Sync()
		}
		if err != nil {
			t.writeStopped(err, 0)
			return
		}
		t.good()
	})
}

// rewind is REWIND (SSC-3).
func rewind(t *task) outcome { return t.onTape(syncAndRewind) }

func syncAndRewind(t *task, tape *ssc.Tape) {
	if err := tape.Sync(); err != nil {
		t.tapeError(err, writeError)
		return
	}
	tape.Rewind()
	t.good()
}

// loadUnload is LOAD UNLOAD (SSC-3). The cartridge stays in the drive, as in the reference: who took it out would
// have to be there to put it in. A changer, or tgtadm, exchanges it.
func loadUnload(t *task) outcome {
	const load, endOfTape = 0x01, 0x04
	bits := t.command.CDB[4]
	if bits&endOfTape != 0 {
		return t.check(invalidFieldInCDB)
	}
	if bits&load == 0 {
		u := t.unit
		u.mu.Lock()
		prevented := u.prevented()
		u.mu.Unlock()
		if prevented {
			return t.check(removalPrevented)
		}
	}
	return t.onTape(syncAndRewind)
}

// spaceTape is SPACE(6) and SPACE(16) (SSC-3) over blocks, filemarks, and to the end of data.
func spaceTape(t *task) outcome {
	if t.command.CDB[1]&0x0f > 3 || t.command.CDB[1]&0x0f == 2 {
		return t.check(invalidFieldInCDB)
	}
	return t.onTape(func(t *task, tape *ssc.Tape) {
		cdb := t.command.CDB
		n := int24(cdb[2:])
		if t.row.op == 0x91 {
			n = int64(binary.BigEndian.Uint64(cdb[4:]))
		}
		var left int64
		var err error
		switch cdb[1] & 0x0f {
		case 0:
			left, err = tape.SpaceBlocks(n)
		case 1:
			left, err = tape.SpaceFilemarks(n)
		case 3:
			err = tape.SpaceEnd()
		}
		if err != nil {
			t.stopped(err, left)
			return
		}
		t.good()
	})
}

// locateTape is LOCATE(10) and LOCATE(16) (SSC-3). There is one partition.
func locateTape(t *task) outcome {
	const changePartition = 0x02
	cdb := t.command.CDB
	number, partition, destination := uint64(binary.BigEndian.Uint32(cdb[3:])), cdb[8], byte(0)
	if t.row.op == 0x92 {
		number, partition, destination = binary.BigEndian.Uint64(cdb[4:]), cdb[3], cdb[1]>>3&7
	}
	if cdb[1]&changePartition != 0 && partition != 0 || destination == 2 || destination > 3 {
		return t.check(invalidFieldInCDB)
	}
	return t.onTape(func(t *task, tape *ssc.Tape) {
		var err error
		switch destination {
		case 0:
			err = tape.Locate(number)
		case 1:
			err = tape.LocateFile(number)
		case 3:
			err = tape.SpaceEnd()
		}
		if err != nil {
			t.stopped(err, 0)
			return
		}
		t.good()
	})
}

// readPosition is READ POSITION (SSC-3), short and long form.
func readPosition(t *task) outcome {
	form := t.command.CDB[1] & 0x1f
	if form != 0 && form != 1 && form != 6 {
		return t.check(invalidFieldInCDB)
	}
	b := t.replyBuffer(32)
	if b == nil {
		return finished
	}
	t.data = b
	return t.onTape(func(t *task, tape *ssc.Tape) {
		const beginning, end, unknown = 0x80, 0x40, 0x04
		var flags byte
		if tape.Number() == 0 {
			flags |= beginning
		}
		if tape.Warned() {
			flags |= end
		}
		b := t.data
		if form == 6 {
			b = append(b, flags, 0, 0, 0, 0, 0, 0, 0)
			b = binary.BigEndian.AppendUint64(b, tape.Number())
			b = binary.BigEndian.AppendUint64(b, tape.Marks())
			t.reply(append(b, 0, 0, 0, 0, 0, 0, 0, 0), 32)
			return
		}
		number := uint32(tape.Number())
		if tape.Number() > 1<<32-1 {
			number = 0
			flags |= unknown
		}
		b = append(b, flags, 0, 0, 0)
		b = binary.BigEndian.AppendUint32(b, number)
		b = binary.BigEndian.AppendUint32(b, number)
		t.reply(append(b, 0, 0, 0, 0, 0, 0, 0, 0), 20)
	})
}

package scsi

import (
	"encoding/binary"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore/ssc"
)

// What a tape drive tells of itself and of its cartridge.

// readBlockLimits is READ BLOCK LIMITS (SSC-3). The granularity and the smallest block are the reference's;
// smaller blocks are taken too.
func readBlockLimits(t *task) outcome {
	b := t.replyBuffer(6)
	if b == nil {
		return finished
	}
	return t.reply(append(b, 9, ssc.MaxBlock>>16, ssc.MaxBlock>>8&0xff, ssc.MaxBlock&0xff, 0, 4), 6)
}

// reportDensity is REPORT DENSITY SUPPORT (SSC-3): the one density there is, that of the cartridge if MEDIA
// is set.
func reportDensity(t *task) outcome {
	if t.command.CDB[1]&^0x01 != 0 {
		return t.check(invalidFieldInCDB)
	}
	media := t.command.CDB[1]&0x01 != 0
	if media && (t.medium == nil || !t.attrs.online) {
		return t.noMedium()
	}
	t.data = t.replyBuffer(64)
	if t.data == nil {
		return finished
	}
	if !media {
		return densityReply(t, 0)
	}
	return t.onTape(func(t *task, tape *ssc.Tape) { densityReply(t, tape.Memory().Capacity) })
}

func densityReply(t *task, capacity uint64) outcome {
	const writable, byDefault = 0x80, 0x20
	b := append(t.data, 0, 54, 0, 0, 0, 0, writable|byDefault, 0, 0, 0, 0, 0)
	b = append(b, 0, 127, 0, 1) // tenths of a millimetre wide, one track
	b = binary.BigEndian.AppendUint32(b, uint32(min(capacity/1e6, 1<<32-1)))
	b = appendPadded(b, t.attrs.vendor, 8, ' ')
	b = appendPadded(b, "IMAGE", 8, ' ')
	b = appendPadded(b, "tape image file", 20, ' ')
	return t.reply(b, uint64(binary.BigEndian.Uint16(t.command.CDB[7:])))
}

// Log pages of a tape drive (SSC-3).
const (
	logSupported = 0x00
	logSequence  = 0x0c
	logCapacity  = 0x31
)

// tapeLogSense is LOG SENSE (SPC-4): cumulative values.
func tapeLogSense(t *task) outcome {
	cdb := t.command.CDB
	page := cdb[2] & 0x3f
	if cdb[2]>>6 != 1 && cdb[2]>>6 != 0 || cdb[3] != 0 || cdb[1]&0x01 != 0 {
		return t.check(invalidFieldInCDB)
	}
	if page != logSupported && page != logSequence && page != logCapacity {
		return t.check(invalidFieldInCDB)
	}
	if t.data = t.replyBuffer(128); t.data == nil {
		return finished
	}
	return t.onTape(func(t *task, tape *ssc.Tape) {
		be := binary.BigEndian
		m := tape.Memory()
		b := append(t.data, page, 0, 0, 0)
		switch page {
		case logSupported:
			b = append(b, logSupported, logSequence, logCapacity)
		case logSequence: // bytes from the initiator, to the tape, from the tape, to the initiator
			for i, n := range [...]uint64{tape.BytesWritten, tape.BytesWritten, tape.BytesRead, tape.BytesRead} {
				b = append(b, 0, byte(i), 0x40, 8)
				b = be.AppendUint64(b, n)
			}
		case logCapacity: // MiB: remaining and at most, in the one partition
			for i, n := range [...]uint64{1: m.Remaining, 3: m.Capacity} {
				if i%2 == 1 {
					b = append(b, 0, byte(i), 0x40, 4)
					b = be.AppendUint32(b, uint32(n>>20))
				}
			}
		}
		be.PutUint16(b[2:], uint16(len(b)-4))
		t.reply(b, uint64(be.Uint16(cdb[7:])))
	})
}

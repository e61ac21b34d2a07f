package scsi

import "encoding/binary"

// Log pages (SPC-4 7.3).
const (
	supportedLogs    = 0x00
	informationalLog = 0x2f
)

// logSense is LOG SENSE (SPC-4 6.8) with the pages that monitors ask a disk for: the list of pages, and
// informational exceptions, which say that there are none and no thermometer. Nothing is ever saved or
// cleared, so every page control gives the same values.
func logSense(t *task) outcome {
	cdb := t.command.CDB
	page, subpage := cdb[2]&0x3f, cdb[3]
	if cdb[1]&0x03 != 0 || subpage != 0 && subpage != allSubpages { // PPC, SP
		return t.check(invalidFieldInCDB)
	}
	b := t.replyBuffer(64)
	if b == nil {
		return finished
	}
	switch {
	case page == supportedLogs && subpage == 0:
		b = append(b, supportedLogs, 0, 0, 2, supportedLogs, informationalLog)
	case page == supportedLogs:
		b = append(b, 0x40|supportedLogs, allSubpages, 0, 6,
			supportedLogs, 0, supportedLogs, allSubpages, informationalLog, 0)
	case page == informationalLog && subpage == 0:
		if binary.BigEndian.Uint16(cdb[5:]) > 0 {
			return t.check(invalidFieldInCDB) // no parameter from there on
		}
		// Parameter 0, a binary list of 8 bytes: no additional sense code, temperature unknown, and so its threshold
		// (which is a vendor's, but widely read).
		b = append(b, informationalLog, 0, 0, 12, 0, 0, 0x03, 8, 0, 0, 0xff, 0xff, 0, 0, 0, 0)
	default:
		return t.check(invalidFieldInCDB)
	}
	return t.reply(b, uint64(binary.BigEndian.Uint16(cdb[7:])))
}

// readDefectData10 is READ DEFECT DATA(10) (SBC-3 5.17): a store has no list of defects.
func readDefectData10(t *task) outcome {
	cdb := t.command.CDB
	return t.noDefects(4, cdb[2], uint64(binary.BigEndian.Uint16(cdb[7:])))
}

// readDefectData12 is READ DEFECT DATA(12) (SBC-3 5.18).
func readDefectData12(t *task) outcome {
	cdb := t.command.CDB
	return t.noDefects(8, cdb[1], uint64(binary.BigEndian.Uint32(cdb[6:])))
}

// noDefects answers with an empty list of the format that was asked for.
func (t *task) noDefects(header int, asked byte, allocation uint64) outcome {
	b := t.replyBuffer(header)
	if b == nil {
		return finished
	}
	b = b[:header]
	clear(b)
	b[1] = asked & 0x1f // REQ_PLIST, REQ_GLIST, DEFECT LIST FORMAT
	return t.reply(b, allocation)
}

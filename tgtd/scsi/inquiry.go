package scsi

import (
	"encoding/binary"
	"fmt"
)

// inquiry is INQUIRY (SPC-4). For a unit that does not exist it is LUN 0's with peripheral qualifier 3.
func inquiry(t *task) outcome {
	cdb := t.command.CDB
	allocation := binary.BigEndian.Uint16(cdb[3:])
	if uint32(allocation) > t.command.InBytes {
		return t.check(invalidFieldInCDB)
	}
	evpd, page := cdb[1]&1 != 0, cdb[2]
	b := t.replyBuffer(1024)
	if b == nil {
		return finished
	}
	switch {
	case !evpd && page == 0:
		b = t.standardInquiry(b)
	case !evpd:
		return t.check(invalidFieldInCDB)
	default:
		b = append(b, 0, page, 0, 0)
		if b = t.vitalProductData(b, page); b == nil {
			return t.check(invalidFieldInCDB)
		}
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)-4))
	}
	b[0] = t.unit.class.peripheral
	if t.absent {
		b[0] = 0x7f
	}
	return t.reply(b, uint64(allocation))
}

// standardInquiry appends the 66 bytes of SPC-4.
func (t *task) standardInquiry(b []byte) []byte {
	a := t.attrs
	var removable byte
	if a.removable {
		removable = 0x80
	}
	var portGroups byte
	if a.access != accessNone {
		portGroups = 0x30 // TPGS: implicit and explicit
	}
	b = append(b, 0, removable, 0x05, 0x12, 66-5, portGroups, 0, 0x02)
	b = appendPadded(b, a.vendor, 8, ' ')
	b = appendPadded(b, a.product, 16, ' ')
	b = appendPadded(b, a.revision, 4, ' ')
	b = append(b, make([]byte, 58-36)...)
	b = append(b, t.unit.class.versions[:]...)
	return append(b, 0, 0)
}

// appendPadded appends s cut or filled up to n bytes.
func appendPadded(b []byte, s string, n int, pad byte) []byte {
	s = s[:min(len(s), n)]
	b = append(b, s...)
	for range n - len(s) {
		b = append(b, pad)
	}
	return b
}

// vitalProductData appends the body of a page (SPC-4), or returns nil for a page that is not there.
// Every type of unit has the reference's; a disk has the extended inquiry data (86), the mode page policy (87)
// and third-party copy (8f) besides.
func (t *task) vitalProductData(b []byte, page byte) []byte {
	a := t.attrs
	switch page {
	case 0x00:
		b = append(b, 0x00, 0x80, 0x83)
		if t.unit.kind == Disk {
			b = append(b, 0x86, 0x87, 0x8f)
		}
		return append(b, 0xb0, 0xb1, 0xb2)
	case 0x80:
		for range 36 - min(len(a.scsiSN), 36) {
			b = append(b, ' ')
		}
		return append(b, a.scsiSN[:min(len(a.scsiSN), 36)]...)
	case 0x83:
		return t.deviceIdentification(b)
	case 0x86, 0x87, 0x8f:
		if t.unit.kind != Disk {
			return nil
		}
		switch page {
		case 0x86:
			return extendedInquiry(b)
		case 0x87:
			// Every mode page is shared by all nexuses (SPC-4 7.8.10).
			return append(b, 0x3f, 0xff, 0, 0)
		}
		return thirdPartyCopy(b)
	case 0xb0:
		return t.blockLimits(b)
	case 0xb1:
		b = binary.BigEndian.AppendUint16(b, a.rotationRate)
		b = append(b, make([]byte, 62)...)
		if a.thin {
			b[len(b)-61] = 0x40 // WABEREQ: reading after SANITIZE, BLOCK ERASE succeeds
		}
		return b
	case 0xb2:
		if a.thin {
			return append(b, 0, 0xe4, 0x02, 0) // LBPU, LBPWS, LBPWS10, LBPRZ; thin provisioned
		}
		return append(b, 0, 0, 0, 0)
	}
	return nil
}

// deviceIdentification appends three designators (SPC-4): T10 vendor identification, NAA 3 made of
// target and unit number, NAA 6 made of the digits of the SCSI id.
func (t *task) deviceIdentification(b []byte) []byte {
	id := t.attrs.scsiID
	b = append(b, 0x02, 0x01, 0, 36)
	b = appendPadded(b, id, 36, 0)
	if identity := t.attrs.identity; identity != "" {
		// NAA 6 made of the medium; numbers of target and unit may differ elsewhere.
		b = append(b, 0x01, 0x03, 0, 16, 6<<4|identity[0]&0x0f)
		b = append(b, identity[1:]...)
		return t.appendPort(b)
	}
	b = append(b, 0x01, 0x03, 0, 8)
	b = binary.BigEndian.AppendUint32(b, 3<<28|uint32(t.unit.tid)&0x0fffffff)
	b = binary.BigEndian.AppendUint32(b, uint32(t.unit.lun))
	b = append(b, 0x01, 0x03, 0, 16)
	var high, low uint64
	for _, c := range []byte(id) {
		high, low = high<<4|low>>60, low<<4|uint64(hexDigit(c))
	}
	high = high&(1<<60-1) | 6<<60
	b = binary.BigEndian.AppendUint64(b, high)
	b = binary.BigEndian.AppendUint64(b, low)
	return t.appendPort(b)
}

// appendPort appends the designators of the target port where the unit has target port groups.
func (t *task) appendPort(b []byte) []byte {
	if t.attrs.access == accessNone || t.absent {
		return b
	}
	return t.portIdentification(b)
}

// portIdentification appends the designators of the target port (SPC-4 7.8.6): relative port, group, name.
func (t *task) portIdentification(b []byte) []byte {
	port := t.nexus.nexus.sam
	const iscsi, ofPort = 0x50, 0x90 // protocol identifier; PIV and association with the target port
	b = append(b, iscsi|0x01, ofPort|0x04, 0, 4, 0, 0)
	b = binary.BigEndian.AppendUint16(b, port.TargetTag)
	b = append(b, iscsi|0x01, ofPort|0x05, 0, 4, 0, 0)
	b = binary.BigEndian.AppendUint16(b, t.group())
	name := fmt.Sprintf("%.223s,t,0x%04x", port.TargetName, port.TargetTag)
	n := (len(name) + 1 + 3) &^ 3
	b = append(b, iscsi|0x03, ofPort|0x08, 0, byte(n))
	return appendPadded(b, name, n, 0)
}

// extendedInquiry appends the extended INQUIRY data page (SPC-4 7.8.7): head of queue, ordered and simple
// tasks, and no volatile cache that outlives nothing is announced, as it depends on the store.
func extendedInquiry(b []byte) []byte {
	page := append(b, make([]byte, 60)...)
	page[len(b)+1] = 0x07 // HEADSUP, ORDSUP, SIMPSUP
	return page
}

// thirdPartyCopy appends the third-party copy page (SPC-4 7.8.17), with the mandatory descriptor of supported
// commands.
func thirdPartyCopy(b []byte) []byte {
	return append(b,
		0, 1, 0, 8, // supported commands, length of the descriptor
		7, // length of the list
		0x83, 1, copyLID1,
		0x84, 2, copyStatusLID1, copyOperatingParameters)
}

// hexDigit is the value of a hexadecimal digit, 0 for any other character.
func hexDigit(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10
	}
	return 0
}

// blockLimits appends the block limits page (SBC-3).
func (t *task) blockLimits(b []byte) []byte {
	a := t.attrs
	page := append(b, make([]byte, 60)...)
	body := page[len(b):]
	body[1] = MaxCompareBlocks
	binary.BigEndian.PutUint16(body[2:], a.optimalGranularity)
	binary.BigEndian.PutUint32(body[8:], a.optimalLength)
	if n := t.atomicBlocks(); n > 0 {
		binary.BigEndian.PutUint32(body[4:], uint32(MaxTransferBytes/t.unit.blockSize))
		binary.BigEndian.PutUint32(body[40:], uint32(n))
	}
	if a.thin {
		binary.BigEndian.PutUint32(body[16:], 0xffffffff)
		binary.BigEndian.PutUint32(body[20:], MaxUnmapDescriptors)
	}
	return page
}

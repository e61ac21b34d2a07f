package scsi

import "encoding/binary"

// testUnitReady is TEST UNIT READY (SPC-4).
func testUnitReady(t *task) outcome {
	switch {
	case !t.attrs.online && !t.attrs.removable:
		return t.check(becomingReady)
	case !t.attrs.online, t.unit.kind != Controller && t.medium == nil:
		return t.noMedium()
	}
	return t.good()
}

// requestSense is REQUEST SENSE (SPC-4) with no unit attention pending; dispatch answers it with
// CHECK CONDITION where there is one, as the reference does.
func requestSense(t *task) outcome {
	b := t.replyBuffer(64)
	if b == nil {
		return finished
	}
	sense := noSense.bytes(t.attrs.descriptorSense)
	if job := t.unit.sanitizing.Load(); job != nil {
		sense = job.sense(t.attrs.descriptorSense)
	}
	b = append(b, sense...)
	return t.reply(b, uint64(t.command.CDB[4]))
}

// reportLUNs is REPORT LUNS (SPC-4). SELECT REPORT is not looked at.
func reportLUNs(t *task) outcome {
	allocation := binary.BigEndian.Uint32(t.command.CDB[6:])
	if allocation < 16 {
		return t.check(invalidFieldInCDB)
	}
	for _, it := range *t.nexus.nexus.units.Load() {
		it.dropAttention(reportedLUNsChanged)
	}
	units := t.target.Units()
	b := t.replyBuffer(8 + 8*len(units))
	if b == nil {
		return finished
	}
	b = binary.BigEndian.AppendUint32(b, uint32(8*len(units)))
	b = append(b, 0, 0, 0, 0)
	for _, u := range units {
		// Peripheral addressing up to 255, flat addressing above (SAM-5 4.7).
		number := uint16(u.lun & 0x3fff)
		if u.lun > 0xff {
			number |= 0x4000
		}
		b = binary.BigEndian.AppendUint16(b, number)
		b = append(b, 0, 0, 0, 0, 0, 0)
	}
	return t.reply(b, uint64(allocation))
}

// reportSupported is REPORT SUPPORTED OPERATION CODES (SPC-4). No command has a time to announce.
func reportSupported(t *task) outcome {
	cdb := t.command.CDB
	timeouts := cdb[2]&0x80 != 0
	op, service := cdb[3], int(binary.BigEndian.Uint16(cdb[4:]))
	allocation := uint64(binary.BigEndian.Uint32(cdb[6:]))
	options := cdb[2] & 7
	if options == 0 {
		return reportAllSupported(t, timeouts, allocation)
	}
	if options > 3 {
		return t.check(invalidFieldInCDB)
	}
	var row *command
	rows := t.unit.table.byOp[op]
	for _, r := range rows {
		if (r.service == none || options != 1 && r.service == service) && t.there(r) {
			row = r
		}
	}
	hasServices := len(rows) > 0 && rows[0].service != none
	switch {
	case options == 1 && hasServices, options == 2 && len(rows) > 0 && !hasServices:
		return t.check(invalidFieldInCDB)
	case options == 3 && !hasServices && service != 0:
		row = nil
	}
	b := t.replyBuffer(64)
	if b == nil {
		return finished
	}
	if row == nil {
		return t.reply(append(b, 0, 1, 0, 0), allocation) // not supported
	}
	b = append(b, 0, 3, 0, byte(len(row.cdbUsage)))
	b = append(b, row.cdbUsage...)
	if timeouts {
		b[1] |= 0x80
		b = appendTimeouts(b)
	}
	return t.reply(b, allocation)
}

// reportAllSupported is the form with one descriptor a command (SPC-4).
func reportAllSupported(t *task, timeouts bool, allocation uint64) outcome {
	rows := t.unit.table.rows
	b := t.replyBuffer(4 + 20*len(rows))
	if b == nil {
		return finished
	}
	b = append(b, 0, 0, 0, 0)
	for _, row := range rows {
		if !t.there(row) {
			continue
		}
		var flags byte
		service := 0
		if row.service != none {
			flags, service = 1, row.service
		}
		if timeouts {
			flags |= 2
		}
		b = append(b, row.op, 0, byte(service>>8), byte(service), 0, flags, 0, byte(len(row.cdbUsage)))
		if timeouts {
			b = appendTimeouts(b)
		}
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return t.reply(b, allocation)
}

// appendTimeouts adds a command timeouts descriptor (SPC-4) without estimates.
func appendTimeouts(b []byte) []byte {
	return append(b, 0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
}

// reportTaskManagement is REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS (SPC-4 6.36): those of Target.Manage.
func reportTaskManagement(t *task) outcome {
	cdb := t.command.CDB
	allocation := binary.BigEndian.Uint32(cdb[6:])
	if allocation < 4 {
		return t.check(invalidFieldInCDB)
	}
	b := t.replyBuffer(16)
	if b == nil {
		return finished
	}
	const abortTask, abortTaskSet, logicalUnitReset = 0x80, 0x40, 0x08
	b = append(b, abortTask|abortTaskSet|logicalUnitReset, 0, 0, 0)
	if cdb[2]&0x80 != 0 { // REPD: the extended form, without times to announce
		b[3] = 12
		b = append(b, make([]byte, 12)...)
	}
	return t.reply(b, uint64(allocation))
}

// sendDiagnostic is SEND DIAGNOSTIC (SPC-4): the default self-test only.
func sendDiagnostic(t *task) outcome {
	if t.command.CDB[1]&0x04 == 0 {
		return t.check(invalidFieldInCDB)
	}
	return t.good()
}

// preventAllow is PREVENT ALLOW MEDIUM REMOVAL (SBC-3).
func preventAllow(t *task) outcome {
	u := t.unit
	u.mu.Lock()
	t.nexus.prevents = t.command.CDB[4]&3 != 0
	u.mu.Unlock()
	return t.good()
}

// startStopUnit is START STOP UNIT (SBC-3). Of its effects a unit of files knows loading and ejecting
// a removable medium.
func startStopUnit(t *task) outcome {
	bits := t.command.CDB[4]
	powerCondition, loej, start := bits>>4, bits&2 != 0, bits&1 != 0
	if !t.attrs.removable || !loej || powerCondition != 0 {
		return t.good()
	}
	u := t.unit
	u.mu.Lock()
	defer u.mu.Unlock()
	online := u.attrs.Load().online
	if u.prevented() {
		switch {
		case online && start: // loaded as it is
			return t.good()
		case !online && !start:
			return t.check(removalPreventedNoMedium)
		}
		return t.check(removalPrevented)
	}
	if start && u.medium == nil {
		return t.check(mediumNotPresent)
	}
	if online != start {
		u.changeLocked(func(a *attributes) { a.online = start })
		if start {
			u.announceMedium(t.nexus)
		}
	}
	return t.good()
}

// formatUnit is FORMAT UNIT (SBC-3) without parameters; there is nothing to format.
func formatUnit(t *task) outcome {
	if t.command.CDB[1]&0xd7 != 0 {
		return t.check(invalidFieldInCDB)
	}
	return t.good()
}

package scsi

import "encoding/binary"

// A media changer (SMC-3). Its elements are configured by parameters (smcelements.go); moving a cartridge into
// a drive gives the linked tape unit the file MEDIA_HOME/BARCODE as its medium. One worker executes what
// touches elements. Where the cartridges are is known to the daemon only: after a restart the elements are as
// the configuration fills them, as in the reference.

// Sense codes of changers (SMC-3).
const (
	positioningError    senseCode = 0x041500 // the drive could not take the cartridge
	invalidElement      senseCode = 0x052101
	destinationFull     senseCode = 0x053b0d
	sourceEmpty         senseCode = 0x053b0e
	elementAddressPage            = 0x1d
	transportPage                 = 0x1e
	capabilitiesPage              = 0x1f
	volumeTagBytes                = 36
	elementHeaderBytes            = 8
	elementDescriptorOf           = 16 // bytes of a descriptor without volume tag and identifier
)

// changerTable are the commands of a changer (SPC-4, SMC-3).
var changerTable = newTable(sorted(append(
	shared(0x00, 0x03, 0x12, 0x15, 0x1a, 0x1d, 0x1e, 0x55, 0x5a, 0xa0, 0xa3),
	command{op: 0x07, service: none, name: "INITIALIZE ELEMENT STATUS", usage: "07 00 00 00 00 07",
		handler: nothing, medium: true},
	command{op: 0x2b, service: none, name: "POSITION TO ELEMENT", usage: "2b 00 ff ff ff ff 00 00 01 07",
		handler: positionToElement, medium: true},
	command{op: 0x37, service: none, name: "INITIALIZE ELEMENT STATUS WITH RANGE",
		usage: "37 01 ff ff 00 00 ff ff 00 07", handler: nothing, medium: true},
	command{op: 0xa5, service: none, name: "MOVE MEDIUM", usage: "a5 00 ff ff ff ff ff ff 00 00 01 07",
		handler: moveMedium, medium: true},
	command{op: 0xb8, service: none, name: "READ ELEMENT STATUS", usage: "b8 1f ff ff ff ff 03 ff ff ff 00 07",
		handler: readElementStatus, medium: true, access: accessRead},
)))

// changerPages are the pages that a changer is born with; elements change the address page.
func changerPages() []modePage {
	return []modePage{
		newModePage(vendorPage, 0, nil, nil),
		newModePage(controlPage, 0, []byte{0x02, 0, 0, 0, 0, 0, 0, 0, 0x02, 0}, nil),
		newModePage(controlPage, controlExtension, append([]byte{0x04}, make([]byte, 27)...), nil),
		newModePage(powerPage, 0, []byte{0x08, 0, 0, 0, 0, 0, 0, 0, 0, 0}, nil),
		newModePage(exceptionsPage, 0, []byte{0x08, 0, 0, 0, 0, 0, 0, 0, 0, 0}, nil),
		newModePage(elementAddressPage, 0, make([]byte, 18), nil),
		newModePage(transportPage, 0, make([]byte, 2), nil),
		// Everything but the transport stores cartridges, and each of those can be moved to each.
		newModePage(capabilitiesPage, 0, []byte{0x0e, 0, 0, 0x0e, 0x0e, 0x0e, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, nil),
	}
}

// moveMedium is MOVE MEDIUM (SMC-3). Cartridges are not turned over.
func moveMedium(t *task) outcome {
	cdb := t.command.CDB
	if cdb[10]&0x01 != 0 {
		return t.check(invalidFieldInCDB)
	}
	return t.later(func(t *task) {
		be := binary.BigEndian
		code := t.unit.changer.move(be.Uint16(cdb[2:]), be.Uint16(cdb[4:]), be.Uint16(cdb[6:]))
		if code != noSense {
			t.check(code)
			return
		}
		t.good()
	})
}

// positionToElement is POSITION TO ELEMENT (SMC-3): the transport has no position; the addresses are checked.
func positionToElement(t *task) outcome {
	cdb := t.command.CDB
	if cdb[8]&0x01 != 0 {
		return t.check(invalidFieldInCDB)
	}
	return t.later(func(t *task) {
		c := t.unit.changer
		c.mu.Lock()
		defer c.mu.Unlock()
		if !c.isTransport(binary.BigEndian.Uint16(cdb[2:])) || c.find(binary.BigEndian.Uint16(cdb[4:])) == nil {
			t.check(invalidElement)
			return
		}
		t.good()
	})
}

// move carries a cartridge. The state changes only when the drives have followed.
func (c *changer) move(transport, from, to uint16) senseCode {
	c.mu.Lock()
	defer c.mu.Unlock()
	source, destination := c.find(from), c.find(to)
	switch {
	case !c.isTransport(transport), source == nil, destination == nil:
		return invalidElement
	case source.kind == transportElement, destination.kind == transportElement:
		return invalidElement // the transport carries only while it moves
	case !source.full:
		return sourceEmpty
	case source == destination:
		return noSense
	case destination.full:
		return destinationFull
	}
	if source.kind == driveElement {
		if code := c.eject(source); code != noSense {
			return code
		}
	}
	if destination.kind == driveElement {
		if code := c.insert(destination, source.barcode); code != noSense {
			if source.kind == driveElement {
				// It goes back where it was; if even that fails the drive is empty, and says so.
				if back := c.insert(source, source.barcode); back != noSense {
					return back
				}
			}
			return code
		}
	}
	destination.full, destination.barcode, destination.tag = true, source.barcode, source.tag
	destination.sides, destination.source, destination.hasSource = source.sides, from, true
	source.empty()
	return noSense
}

// insert gives the tape unit of a drive its medium.
func (c *changer) insert(drive *element, barcode string) senseCode {
	u := c.drive(drive)
	if u == nil || c.home == "" {
		return manualIntervention
	}
	return u.insertMedium(c.home + "/" + barcode)
}

// eject takes the medium from the tape unit of a drive.
func (c *changer) eject(drive *element) senseCode {
	u := c.drive(drive)
	if u == nil {
		return manualIntervention
	}
	return u.ejectMedium()
}

// drive is the tape unit of a drive, nil when there is none.
func (c *changer) drive(e *element) *Unit {
	if !e.linked || c.peer == nil {
		return nil
	}
	if u := c.peer(e.tid, e.lun); u != nil && u.kind == Tape {
		return u
	}
	return nil
}

// insertMedium opens path as the unit's medium, which must be empty.
func (u *Unit) insertMedium(path string) senseCode {
	u.update.Lock()
	defer u.update.Unlock()
	u.mu.Lock()
	removed, full := u.removed, u.medium != nil
	u.mu.Unlock()
	switch {
	case removed:
		return manualIntervention
	case full:
		return destinationFull
	}
	if err := u.setPath(path); err != nil {
		return positioningError
	}
	return noSense
}

// ejectMedium closes the unit's medium.
func (u *Unit) ejectMedium() senseCode {
	u.update.Lock()
	defer u.update.Unlock()
	u.mu.Lock()
	if u.prevented() {
		u.mu.Unlock()
		return removalPrevented
	}
	u.changeLocked(func(a *attributes) { a.online, a.path = false, "" })
	u.mu.Unlock()
	if err := u.replaceMedium(nil); err != nil {
		return writeError // what was written may not be on the cartridge
	}
	return noSense
}

// readElementStatus is READ ELEMENT STATUS (SMC-3).
func readElementStatus(t *task) outcome {
	const maxIdentifier = 64
	elements := t.unit.changer.snapshot()
	size := elementHeaderBytes + len(elements)*(elementDescriptorOf+volumeTagBytes+maxIdentifier) +
		4*elementHeaderBytes
	if t.data = t.replyBuffer(size); t.data == nil {
		return finished
	}
	return t.later(func(t *task) {
		cdb := t.command.CDB
		be := binary.BigEndian
		kind, tags, identifiers := elementKind(cdb[1]&0x0f), cdb[1]&0x10 != 0, cdb[6]&0x01 != 0
		if kind > driveElement {
			t.check(invalidFieldInCDB)
			return
		}
		start, number := be.Uint16(cdb[2:]), int(be.Uint16(cdb[4:]))
		chosen := make([]element, 0, len(elements))
		lowest := uint16(0xffff)
		for _, e := range t.unit.changer.snapshot() {
			if e.address >= start && (kind == 0 || kind == e.kind) && len(chosen) < min(number, len(elements)) {
				chosen = append(chosen, e)
				lowest = min(lowest, e.address)
			}
		}
		if len(chosen) == 0 {
			lowest = 0
		}
		b := be.AppendUint16(t.data, lowest)
		b = be.AppendUint16(b, uint16(len(chosen)))
		b = append(b, 0, 0, 0, 0)
		for k := transportElement; k <= driveElement; k++ {
			b = t.appendElements(b, k, chosen, tags, identifiers)
		}
		putUint24(b[5:], len(b)-elementHeaderBytes)
		t.reply(b, uint64(uint24(cdb[7:])))
	})
}

func putUint24(b []byte, n int) { b[0], b[1], b[2] = byte(n>>16), byte(n>>8), byte(n) }

// appendElements adds the status page of one type of element, if there are any.
func (t *task) appendElements(b []byte, kind elementKind, elements []element, tags, identifiers bool) []byte {
	const hasTag = 0x80
	page := len(b)
	size := elementDescriptorOf
	var flags byte
	if tags {
		size, flags = size+volumeTagBytes, hasTag
	}
	identifiers = identifiers && kind == driveElement
	if identifiers {
		size += 8 + 36 // vendor and serial number
	}
	b = append(b, byte(kind), flags, byte(size>>8), byte(size), 0, 0, 0, 0)
	for i := range elements {
		if elements[i].kind == kind {
			b = t.appendElement(b, &elements[i], tags, identifiers)
		}
	}
	if len(b) == page+elementHeaderBytes {
		return b[:page]
	}
	putUint24(b[page+5:], len(b)-page-elementHeaderBytes)
	return b
}

// appendElement adds one element descriptor.
func (t *task) appendElement(b []byte, e *element, tags, identifiers bool) []byte {
	const full, accessible, exports, imports, sourceValid = 0x01, 0x08, 0x10, 0x20, 0x80
	flags := flag(e.full) * full
	switch e.kind {
	case storageElement, driveElement:
		flags |= accessible
	case exchangeElement:
		flags |= accessible | exports | imports
	}
	b = binary.BigEndian.AppendUint16(b, e.address)
	b = append(b, flags, 0, 0, 0, 0, 0, 0, flag(e.hasSource)*sourceValid)
	b = binary.BigEndian.AppendUint16(b, e.source)
	if tags {
		text := e.tag
		if text == "" {
			text = e.barcode
		}
		if e.full {
			b = append(appendPadded(b, text, 32, ' '), 0, 0, 0, 0)
		} else {
			b = append(b, make([]byte, volumeTagBytes)...)
		}
	}
	var vendor, serial string
	if identifiers {
		if u := t.unit.changer.drive(e); u != nil {
			a := u.attrs.Load()
			vendor, serial = a.vendor, a.scsiSN
		}
	}
	switch {
	case !identifiers:
		return append(b, 0, 0, 0, 0)
	case serial == "":
		return append(append(b, 0, 0, 0, 0), make([]byte, 8+36)...)
	}
	b = append(b, 0x02, 0x01, 0, 8+36) // ASCII, by vendor
	return appendPadded(appendPadded(b, vendor, 8, ' '), serial, 36, ' ')
}

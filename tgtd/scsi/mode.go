package scsi

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"slices"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore/ssc"
)

// Mode pages of a disk (SPC-4, SBC-3).
const (
	vendorPage        = 0x00
	disconnectPage    = 0x02
	cachingPage       = 0x08
	controlPage       = 0x0a
	exceptionsPage    = 0x1c
	allPages          = 0x3f
	allSubpages       = 0xff
	pageSaveable      = 0x80 // PS
	controlExtension  = 0x01 // sub-page of controlPage
	cachingWCE        = 0x04 // in the first byte of the body
	controlSWP        = 0x08 // in the third byte of the body
	modeSavedValues   = 3    // page control
	modeDefaultValues = 2
	modeChangeable    = 1
)

// modePage is a mode page. The bodies come after the page's header and are never changed in place,
// because attributes are shared.
type modePage struct {
	code, subpage                 byte
	current, changeable, defaults []byte
	saved                         []byte // nil: never saved
}

func (p *modePage) is(code, subpage byte) bool { return p.code == code && p.subpage == subpage }

// newModePage makes a page whose changeable bits are those of mask, which may be short.
func newModePage(code, subpage byte, body, mask []byte) modePage {
	changeable := make([]byte, len(body))
	copy(changeable, mask)
	return modePage{code: code, subpage: subpage, current: body, changeable: changeable, defaults: body}
}

// diskPages are the pages that a disk is born with, in order.
func diskPages() []modePage {
	return []modePage{
		newModePage(vendorPage, 0, nil, nil),
		newModePage(disconnectPage, 0, []byte{0x80, 0x80, 0, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, nil),
		newModePage(cachingPage, 0,
			[]byte{0x14, 0, 0xff, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x80, 0x14, 0, 0, 0, 0, 0, 0},
			[]byte{cachingWCE}),
		newModePage(controlPage, 0, []byte{0x02, 0x10, 0, 0, 0, 0, 0, 0, 0x02, 0}, []byte{0, 0, controlSWP}),
		newModePage(controlPage, controlExtension, append([]byte{0x04}, make([]byte, 27)...), nil),
		newModePage(exceptionsPage, 0, []byte{0x08, 0, 0, 0, 0, 0, 0, 0, 0, 0}, nil),
	}
}

// setPage replaces or adds a page, in order of number; pages stays as it is.
func setPage(pages []modePage, page modePage) []modePage {
	pages = slices.Clone(pages)
	i := slices.IndexFunc(pages, func(p modePage) bool { return p.is(page.code, page.subpage) })
	if i >= 0 {
		pages[i] = page
		return pages
	}
	i, _ = slices.BinarySearchFunc(pages, page, func(a, b modePage) int {
		return cmp.Or(cmp.Compare(a.code, b.code), cmp.Compare(a.subpage, b.subpage))
	})
	return slices.Insert(pages, i, page)
}

// saveable says whether a page has anything that a unit which saves mode pages has to save.
func (p *modePage) saveable() bool {
	return len(p.current) <= maxKeptMode && !zeros(p.changeable)
}

// append adds the page with the values that the page control asks for (SPC-4). saves says whether the unit saves
// pages; of those that are not saved the saved values are zeros.
func (p *modePage) append(b []byte, control byte, saves bool) []byte {
	body, saveable := p.current, byte(0)
	switch control {
	case modeChangeable:
		body = p.changeable
	case modeDefaultValues:
		body = p.defaults
	case modeSavedValues:
		body = p.savedValues()
	}
	if saves && p.saveable() {
		saveable = pageSaveable
	}
	if p.subpage == 0 {
		b = append(b, saveable|p.code, byte(len(body)))
	} else {
		b = append(b, saveable|p.code|0x40, p.subpage)
		b = binary.BigEndian.AppendUint16(b, uint16(len(body)))
	}
	return append(b, body...)
}

// modeSense6 is MODE SENSE(6) (SPC-4).
func modeSense6(t *task) outcome {
	cdb := t.command.CDB
	return modeSense(t, 4, uint32(cdb[4]))
}

// modeSense10 is MODE SENSE(10) (SPC-4). Long LBAs are never needed: the block count is not given.
func modeSense10(t *task) outcome {
	return modeSense(t, 8, uint32(binary.BigEndian.Uint16(t.command.CDB[7:])))
}

func modeSense(t *task, header int, allocation uint32) outcome {
	cdb, a := t.command.CDB, t.attrs
	control, code, subpage := cdb[2]>>6, cdb[2]&0x3f, cdb[3]
	if allocation > t.command.InBytes {
		return t.check(invalidFieldInCDB)
	}
	saves := t.savesModes()
	switch {
	case control == modeSavedValues && !saves:
		return t.check(savingNotSupported)
	case saves && !t.fresh && t.medium.info.Shared:
		return t.loadAgain() // another target may have changed them
	}
	size := header + 8
	for i := range a.pages {
		size += 4 + len(a.pages[i].current)
	}
	b := t.replyBuffer(size)
	if b == nil {
		return finished
	}
	b = b[:header]
	clear(b)
	descriptor := t.unit.class.descriptor && cdb[1]&0x08 == 0 // not DBD
	if descriptor {
		size := t.unit.blockSize
		if t.unit.kind == Tape {
			size = int64(a.fixedBlock)
		}
		b = append(b, 0, 0, 0, 0, 0, byte(size>>16), byte(size>>8), byte(size))
	}
	found := false
	for i := range a.pages {
		p := &a.pages[i]
		if code == allPages && (subpage == 0 || subpage == allSubpages) ||
			code == p.code && (subpage == p.subpage || subpage == allSubpages) {
			b, found = p.append(b, control, saves), true
		}
	}
	if !found {
		return t.check(invalidFieldInCDB)
	}
	device := t.unit.class.modeDevice
	if t.writeProtected() {
		device |= 0x80
	}
	if header == 4 {
		b[0], b[2] = byte(min(len(b)-1, 0xff)), device
	} else {
		binary.BigEndian.PutUint16(b, uint16(min(len(b)-2, 0xffff)))
		b[3] = device
	}
	if descriptor {
		b[header-1] = 8
	}
	return t.reply(b, uint64(allocation))
}

// modeSelect6 is MODE SELECT(6) (SPC-4).
func modeSelect6(t *task) outcome {
	return modeSelect(t, 4, int(t.command.CDB[4]))
}

// modeSelect10 is MODE SELECT(10) (SPC-4).
func modeSelect10(t *task) outcome {
	return modeSelect(t, 8, int(binary.BigEndian.Uint16(t.command.CDB[7:])))
}

func modeSelect(t *task, header, length int) outcome {
	flags, saves := t.command.CDB[1], t.savesModes()
	save := flags&0x01 != 0
	if flags&0x10 == 0 || save && !saves {
		return t.check(invalidFieldInCDB) // PF is needed, SP where pages are saved
	}
	t.moved = uint64(length)
	if length == 0 && !save {
		return t.good()
	}
	list, fixedBlock, code := t.modeList(header, length)
	if code != noSense {
		return t.check(code)
	}
	u := t.unit
	u.mu.Lock()
	defer u.mu.Unlock()
	if saves && (!t.current(true) || t.medium.busy) {
		return u.awaitState(t, dispatch)
	}
	c := modeChange{by: t.nexus, fixedBlock: fixedBlock, pages: u.attrs.Load().pages}
	pages, code := selectPages(c.pages, list)
	if code != noSense {
		return t.check(code)
	}
	c.changed = pages != nil || fixedBlock != u.attrs.Load().fixedBlock
	if pages != nil {
		c.pages = pages
	}
	switch {
	case save || saves && c.changed && t.medium.info.Shared:
		return u.saveModes(t, c, save)
	case c.changed:
		u.commitModes(c)
	}
	return t.good()
}

// modeList takes header and block descriptor off a parameter list of MODE SELECT: the mode pages and, of a tape,
// the block size.
func (t *task) modeList(header, length int) (list []byte, fixedBlock uint32, code senseCode) {
	fixedBlock = t.attrs.fixedBlock
	if length == 0 {
		return nil, fixedBlock, noSense
	}
	if length < header {
		return nil, 0, invalidFieldInCDB
	}
	list = t.command.DataOut
	if len(list) < length {
		return nil, 0, parameterListLength
	}
	list = list[:length]
	descriptors := int(list[3])
	if header == 8 {
		if list[4]&1 != 0 {
			return nil, 0, invalidFieldInParameters // LONGLBA
		}
		descriptors = int(binary.BigEndian.Uint16(list[6:]))
	}
	list = list[header:]
	if descriptors == 0 {
		return list, fixedBlock, noSense
	}
	if descriptors != 8 {
		return nil, 0, invalidFieldInParameters
	}
	if len(list) < descriptors {
		return nil, 0, parameterListLength
	}
	size := int64(binary.BigEndian.Uint32(list[4:]) & 0xffffff)
	if t.unit.kind == Tape && size <= ssc.MaxBlock {
		fixedBlock = uint32(size)
	} else if size != t.unit.blockSize {
		return nil, 0, invalidFieldInParameters
	}
	return list[descriptors:], fixedBlock, noSense
}

// selectPages applies a list of mode pages. It returns nil pages when nothing changes, and a sense code,
// with nothing applied, when the list is bad.
func selectPages(pages []modePage, list []byte) ([]modePage, senseCode) {
	changed := false
	for len(list) > 0 {
		header, code, subpage := 2, list[0]&0x3f, byte(0)
		if list[0]&0x40 != 0 {
			header = 4
		}
		if len(list) < header {
			return nil, parameterListLength
		}
		length := int(list[1])
		if header == 4 {
			subpage, length = list[1], int(binary.BigEndian.Uint16(list[2:]))
		}
		i := slices.IndexFunc(pages, func(p modePage) bool { return p.is(code, subpage) })
		if i < 0 || length != len(pages[i].current) {
			return nil, invalidFieldInParameters
		}
		if len(list) < header+length {
			return nil, parameterListLength
		}
		body := list[header : header+length]
		for j, b := range body {
			if (b^pages[i].current[j])&^pages[i].changeable[j] != 0 {
				return nil, invalidFieldInParameters
			}
		}
		if !bytes.Equal(body, pages[i].current) {
			page := pages[i]
			page.current = bytes.Clone(body)
			pages, changed = setPage(pages, page), true
		}
		list = list[header+length:]
	}
	if !changed {
		return nil, noSense
	}
	return pages, noSense
}

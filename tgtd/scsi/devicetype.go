package scsi

import (
	"cmp"
	"slices"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore"
)

// class is what the units of one device type have in common.
type class struct {
	table      *table
	peripheral byte // PERIPHERAL DEVICE TYPE of INQUIRY (SPC-4)
	product    string
	versions   [6]byte // three version descriptors of INQUIRY (SPC-4)
	removable  bool
	// blockSize is the unit's in bytes; 0: what it was made with. Other types than disks show as 1.
	blockSize       int64
	descriptorSense bool
	pages           func() []modePage
	// descriptor says whether MODE SENSE has a block descriptor, modeDevice is its DEVICE-SPECIFIC PARAMETER.
	descriptor bool
	modeDevice byte
	// wrap is put around each medium; nil: nothing.
	wrap func(backstore.Store) backstore.Store
}

// classes are the types of units.
var classes = [...]class{
	Disk: {table: diskTable, product: "VIRTUAL-DISK", versions: [6]byte{0x04, 0xc0, 0x09, 0x60, 0x03, 0x00},
		pages: diskPages, descriptor: true, modeDevice: 0x10}, // DPOFUA
	Controller: {table: controllerTable, peripheral: 0x0c, product: "Controller",
		versions: [6]byte{0x04, 0xc0, 0x09, 0x60, 0x01, 0xfb}, pages: noPages, descriptor: true, modeDevice: 0x10},
	CD: {table: discTable, peripheral: 0x05, product: "VIRTUAL-CDROM",
		versions: [6]byte{0x02, 0xa0, 0x09, 0x60, 0x03, 0x00}, removable: true, blockSize: discBlock,
		pages: discPages, wrap: newDisc},
	Tape: {table: tapeTable, peripheral: 0x01, product: "VIRTUAL-TAPE",
		versions: [6]byte{0x02, 0x00, 0x09, 0x60, 0x03, 0x00}, removable: true, blockSize: 1,
		pages: tapePages, descriptor: true, modeDevice: 0x10, wrap: newWorker}, // buffered mode 1
	Changer: {table: changerTable, peripheral: 0x08, product: "VIRTUAL-CHANGER",
		versions: [6]byte{0x04, 0x80, 0x09, 0x60, 0x03, 0x00}, removable: true, blockSize: 1,
		pages: changerPages, wrap: newWorker},
	OSD: {table: objectTable, peripheral: 0x11, product: "OSD",
		versions: [6]byte{0x03, 0x40, 0x09, 0x60, 0x03, 0x00}, blockSize: 1, descriptorSense: true, pages: noPages},
	Passthrough: {table: passthroughTable, blockSize: 1, pages: noPages, wrap: newWorker},
}

func noPages() []modePage { return nil }

// objectTable is that of an object storage device, whose own commands nobody implements any more: it says
// what it is, and refuses the rest, as the reference target does.
var objectTable = newTable(shared(0x00, 0x03, 0x12, 0xa0))

// shared are the rows of a disk's table with these operation codes, for another type's table.
func shared(ops ...byte) []command {
	var rows []command
	for _, op := range ops {
		for _, row := range diskTable.byOp[op] {
			rows = append(rows, *row)
		}
	}
	return rows
}

// sorted puts the rows of a table in order of operation code and service action.
func sorted(rows []command) []command {
	slices.SortStableFunc(rows, func(a, b command) int {
		return cmp.Or(cmp.Compare(a.op, b.op), cmp.Compare(a.service, b.service))
	})
	return rows
}

// announceMedium tells all sessions but one (nil for none) that there is another medium. A session of a CD drive
// that was told that there is none needs no further word: it asks again before it reads, and the
// reference says nothing either. mu is held.
func (u *Unit) announceMedium(except *itl) {
	for it := range u.nexuses {
		told := u.kind == CD && it.toldEmpty
		it.toldEmpty = false
		if it != except && !told {
			it.attend(mediumMayHaveChanged)
		}
	}
}

// noMedium completes the command with MEDIUM NOT PRESENT and remembers that the session knows.
func (t *task) noMedium() outcome {
	u := t.unit
	u.mu.Lock()
	t.nexus.toldEmpty = true
	u.mu.Unlock()
	return t.check(mediumNotPresent)
}

package scsi

import (
	"encoding/binary"
	"sync/atomic"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore"
)

// A CD or DVD drive (MMC-5). A file with bytes is a finished DVD-ROM of one track; an empty one is a blank DVD+R,
// which is written from its beginning, without gaps, and becomes a DVD-ROM when its track or session is closed, or
// the file is opened again.

// discBlock is the size of a block, in bytes.
const discBlock = 2048

// recordableBlocks is the capacity of a DVD+R.
const recordableBlocks = 0x230540

// Sense codes of discs (MMC-5).
const (
	incompatibleRead    senseCode = 0x053002 // CANNOT READ MEDIUM - INCOMPATIBLE FORMAT
	incompatibleWrite   senseCode = 0x053005 // CANNOT WRITE MEDIUM - INCOMPATIBLE FORMAT
	invalidWriteAddress senseCode = 0x052102
	noPerformance       senseCode = 0x022400 // what the reference answers to GET PERFORMANCE
)

// Profiles (MMC-5).
const (
	profileNone  = 0x0000
	profileROM   = 0x0010
	profileBlank = 0x001b
)

// disc is a medium of a drive.
type disc struct {
	backstore.Store
	blank atomic.Bool  // a DVD+R that is not closed
	next  atomic.Int64 // where it is written next, in blocks; changed by one command at a time
}

func newDisc(s backstore.Store) backstore.Store {
	d := &disc{Store: s}
	d.blank.Store(s.Info().Bytes == 0 && !s.Info().ReadOnly)
	return d
}

// discTable are the commands of a drive (SPC-4, MMC-5).
var discTable = newTable(sorted(append(
	shared(0x00, 0x03, 0x12, 0x1b, 0x1e, 0xa0, 0xa3),
	command{op: 0x25, service: none, name: "READ CAPACITY(10)", usage: "25 00 ff ff ff ff 00 00 01 07",
		handler: discCapacity, medium: true, shared: true, access: accessFree},
	command{op: 0x28, service: none, name: "READ(10)", usage: "28 18 ff ff ff ff 00 ff ff 07",
		handler: readDisc, medium: true, extent: extent10, access: accessRead},
	command{op: 0x2a, service: none, name: "WRITE(10)", usage: "2a 18 ff ff ff ff 00 ff ff 07",
		handler: writeDisc, medium: true, writes: true, exclusive: always},
	command{op: 0x2f, service: none, name: "VERIFY(10)", usage: "2f 16 ff ff ff ff 00 ff ff 07",
		handler: verifyDisc, medium: true, extent: extent10, access: accessRead},
	command{op: 0x35, service: none, name: "SYNCHRONIZE CACHE(10)", usage: "35 02 ff ff ff ff 00 ff ff 07",
		handler: flush, medium: true},
	command{op: 0x43, service: none, name: "READ TOC/PMA/ATIP", usage: "43 02 0f 00 00 00 ff ff ff c7",
		handler: readContents, medium: true, access: accessRead},
	command{op: 0x46, service: none, name: "GET CONFIGURATION", usage: "46 03 ff ff 00 00 00 ff ff 07",
		handler: getConfiguration, access: accessFree},
	command{op: 0x4a, service: none, name: "GET EVENT STATUS NOTIFICATION", usage: "4a 01 00 00 ff 00 00 ff ff 07",
		handler: getEventStatus, access: accessFree},
	command{op: 0x51, service: none, name: "READ DISC INFORMATION", usage: "51 07 00 00 00 00 00 ff ff 07",
		handler: readDiscInformation, medium: true, access: accessRead},
	command{op: 0x52, service: none, name: "READ TRACK INFORMATION", usage: "52 03 ff ff ff ff 00 ff ff 07",
		handler: readTrackInformation, medium: true, access: accessRead},
	command{op: 0x55, service: none, name: "MODE SELECT(10)", usage: "55 11 00 00 00 00 00 ff ff 07",
		handler: modeSelectDisc, parameters: true},
	command{op: 0x5a, service: none, name: "MODE SENSE(10)", usage: "5a 08 ff ff 00 00 00 ff ff 07",
		handler: modeSense10, access: accessRead},
	command{op: 0x5b, service: none, name: "CLOSE TRACK/SESSION", usage: "5b 01 07 00 ff ff 00 00 00 07",
		handler: closeTrack, medium: true, writes: true, exclusive: always},
	command{op: 0x5c, service: none, name: "READ BUFFER CAPACITY", usage: "5c 00 00 00 00 00 00 ff ff 07",
		handler: readBufferCapacity, medium: true, access: accessRead},
	command{op: 0xa8, service: none, name: "READ(12)", usage: "a8 18 ff ff ff ff ff ff ff ff 80 07",
		handler: readDisc, medium: true, extent: extent12, access: accessRead},
	command{op: 0xaa, service: none, name: "WRITE(12)", usage: "aa 18 ff ff ff ff ff ff ff ff 80 07",
		handler: writeDisc, medium: true, writes: true, exclusive: always},
	command{op: 0xac, service: none, name: "GET PERFORMANCE", usage: "ac 1f ff ff ff ff 00 00 ff ff ff 07",
		handler: getPerformance, medium: true, access: accessRead},
	command{op: 0xad, service: none, name: "READ DISC STRUCTURE", usage: "ad 0f ff ff ff ff ff ff ff ff c0 07",
		handler: readDiscStructure, medium: true, access: accessRead},
	command{op: 0xb6, service: none, name: "SET STREAMING", usage: "b6 00 00 00 00 00 00 00 00 ff ff 07",
		handler: setSpeed, access: accessFree},
	command{op: 0xbb, service: none, name: "SET CD SPEED", usage: "bb 03 ff ff ff ff 00 00 00 00 00 07",
		handler: setSpeed, access: accessFree},
	command{op: 0xbd, service: none, name: "MECHANISM STATUS", usage: "bd 00 00 00 00 00 00 00 ff ff 00 07",
		handler: mechanismStatus, access: accessFree},
)))

// discPages are the pages that a drive is born with; write parameters stand last, as in the reference.
func discPages() []modePage {
	capabilities := []byte{
		0x3f, 0x37, 0xf3, 0xf3, 0x29, 0x23, // what it reads, writes, and how it takes discs
		0x10, 0x8a, 0x01, 0x00, 0x08, 0x00, 0x10, 0x8a, 0, 0, 0x10, 0x8a, 0x10, 0x8a, 0, 0x01, 0, 0, 0, 0,
		0x10, 0x8a, 0, 0x05, // write speed descriptors
		0, 0, 0x10, 0x8a, 0, 0, 0x0b, 0x06, 0, 0, 0x08, 0x45, 0, 0, 0x05, 0x83, 0, 0, 0x02, 0xc2,
	}
	return []modePage{
		newModePage(vendorPage, 0, nil, nil),
		newModePage(errorRecoveryPage, 0, []byte{0, 8, 0, 0, 0, 0, 8, 0, 0, 0}, nil),
		newModePage(0x03, 0, make([]byte, 6), nil), // MRW
		newModePage(cachingPage, 0, make([]byte, 10), nil),
		newModePage(controlPage, 0, []byte{0x02, 0, 0, 0, 0, 0, 0, 0, 0x02, 0}, nil),
		newModePage(controlPage, controlExtension, append([]byte{0x04}, make([]byte, 27)...), nil),
		newModePage(powerPage, 0, []byte{0x08, 0, 0, 0, 0, 0, 0, 0, 0, 0}, nil),
		newModePage(exceptionsPage, 0, []byte{0x08, 0, 0, 0, 0, 0, 0, 0, 0, 0}, nil),
		newModePage(0x1d, 0, []byte{0, 0, 7, 0, 0, 2, 0, 2, 0, 0x14}, nil), // time-outs and protection
		newModePage(0x2a, 0, append(capabilities, make([]byte, 62-len(capabilities))...), nil),
		newModePage(0x05, 0, append([]byte{0x62, 0x05, 0x08, 0x10, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0x96},
			make([]byte, 36)...), nil), // write parameters
	}
}

// Mode pages that several types have.
const (
	errorRecoveryPage = 0x01
	powerPage         = 0x1a
)

// disc is the medium of a command that needs one.
func (t *task) disc() *disc { return t.medium.store.(*disc) }

// present is the medium if it is in the drive.
func (t *task) present() *medium {
	if !t.attrs.online {
		return nil
	}
	return t.medium
}

// profile is the current one.
func (t *task) profile() uint16 {
	switch {
	case t.present() == nil:
		return profileNone
	case t.disc().blank.Load():
		return profileBlank
	}
	return profileROM
}

// replyFilled completes the command with data followed by zeros up to the allocation length, as the
// reference does.
func (t *task) replyFilled(data []byte, allocation int) outcome {
	b := t.replyBuffer(max(allocation, 1))
	if b == nil {
		return finished
	}
	b = b[:allocation]
	clear(b[copy(b, data):])
	return t.reply(b, uint64(allocation))
}

// allocation16 is the allocation length at byte 7 of a 10-byte CDB.
func (t *task) allocation16() int { return int(binary.BigEndian.Uint16(t.command.CDB[7:])) }

// readDisc is READ(10) and READ(12) (MMC-5). A blank disc can't be read before it is closed.
func readDisc(t *task) outcome {
	if t.disc().blank.Load() {
		return t.check(lbaOutOfRange)
	}
	return read(t)
}

// verifyDisc is VERIFY(10) (MMC-5).
func verifyDisc(t *task) outcome {
	if t.disc().blank.Load() {
		return t.check(lbaOutOfRange)
	}
	return verify(t)
}

// writeDisc is WRITE(10) and WRITE(12) (MMC-5): the next blocks of a blank disc. One such command runs at a
// time, so that a failed one leaves no gap.
func writeDisc(t *task) outcome {
	d := t.disc()
	if !d.blank.Load() {
		return t.check(incompatibleWrite)
	}
	lba, n := extent10(t.command.CDB)
	if t.row.op == 0xaa {
		lba, n = extent12(t.command.CDB)
	}
	next := d.next.Load()
	switch {
	case lba >= recordableBlocks || n > recordableBlocks-lba:
		return t.check(lbaOutOfRange)
	case int64(lba) != next:
		return t.check(invalidWriteAddress)
	case int64(len(t.command.DataOut)) < int64(n)*discBlock:
		return t.check(invalidFieldInCDB) // half a block is none
	}
	t.moved = n * discBlock
	if n == 0 {
		return t.good()
	}
	t.end = next + int64(n)
	return t.submitIO(backstore.Write, next*discBlock, int64(t.moved), t.command.DataOut[:t.moved], false, discWritten)
}

func discWritten(t *task) outcome {
	if t.io.Err != nil {
		return t.storeError(writeError)
	}
	t.disc().next.Store(t.end)
	return t.good()
}

// closeTrack is CLOSE TRACK/SESSION (MMC-5): a disc on which something was written is finished, and
// durable.
func closeTrack(t *task) outcome {
	d := t.disc()
	if !d.blank.Load() || d.next.Load() == 0 {
		return t.good()
	}
	return t.submitIO(backstore.Flush, 0, 0, nil, false, discClosed)
}

func discClosed(t *task) outcome {
	if t.io.Err != nil {
		return t.storeError(writeError)
	}
	t.disc().blank.Store(false)
	return t.good()
}

// discCapacity is READ CAPACITY(10) (MMC-5): one block for a blank disc.
func discCapacity(t *task) outcome {
	if !t.disc().blank.Load() {
		return readCapacity10(t)
	}
	b := t.replyBuffer(8)
	if b == nil {
		return finished
	}
	return t.reply(append(b, 0, 0, 0, 0, 0, 0, discBlock>>8, 0), 8)
}

// discBlocks is the size of a finished disc, and of a blank one what is written on it.
func (t *task) discBlocks() uint32 {
	d := t.disc()
	if d.blank.Load() {
		return uint32(d.next.Load())
	}
	t.unit.refresh(t.medium, t.nexus)
	return uint32(min(t.blocks(), 1<<32-1))
}

// minutes is a block address as minutes, seconds and frames (MMC-5).
func minutes(lba uint32) [4]byte {
	frames := lba + 150
	return [4]byte{0, byte(min(frames/(75*60), 255)), byte(frames / 75 % 60), byte(frames % 75)}
}

// readContents is READ TOC (MMC-5): one track in one session.
func readContents(t *task) outcome {
	const dataTrack, leadOut = 0x14, 0xaa
	cdb := t.command.CDB
	format := cdb[2] & 0x0f
	if format == 0 {
		format = cdb[9] >> 6 // where SFF-8020 had it
	}
	address := func(lba uint32) (b [4]byte) {
		if cdb[1]&0x02 != 0 {
			return minutes(lba)
		}
		binary.BigEndian.PutUint32(b[:], lba)
		return b
	}
	track := func(b []byte, number byte, lba uint32) []byte {
		a := address(lba)
		return append(b, 0, dataTrack, number, 0, a[0], a[1], a[2], a[3])
	}
	b := make([]byte, 0, 20)
	switch first := cdb[6]; {
	case format == 0 && first <= 1:
		b = append(b, 0, 18, 1, 1)
		b = track(track(b, 1, 0), leadOut, t.discBlocks())
	case format == 0 && first == leadOut:
		b = append(b, 0, 10, 1, 1)
		b = track(b, leadOut, t.discBlocks())
	case format == 1:
		b = append(b, 0, 10, 1, 1)
		b = track(b, 1, 0)
	default:
		return t.check(invalidFieldInCDB)
	}
	reply := t.replyBuffer(len(b))
	if reply == nil {
		return finished
	}
	return t.reply(append(reply, b...), uint64(t.allocation16()))
}

// feature is a feature of the drive (MMC-5).
type feature struct {
	code    uint16
	flags   byte // version and persistence
	current func(profile uint16) bool
	data    []byte
}

func forAll(uint16) bool         { return true }
func forNone(uint16) bool        { return false }
func forROM(profile uint16) bool { return profile == profileROM }
func forRecordable(profile uint16) bool {
	return profile == profileBlank
}

// features are those behind the profile list.
var features = [...]feature{
	{0x0001, 0x02, forAll, []byte{0, 0, 0, 2}},                     // core; ATAPI
	{0x0002, 0x02, forAll, []byte{0, 0, 0, 0}},                     // morphing
	{0x0003, 0x02, forAll, []byte{0x29, 0, 0, 0}},                  // removable medium: a tray that ejects and locks
	{0x0010, 0x00, forROM, []byte{0, 0, 0x08, 0, 0, 0x10, 1, 0}},   // random readable
	{0x001d, 0x00, forNone, nil},                                   // multi-read
	{0x001f, 0x00, forROM, nil},                                    // DVD read
	{0x002b, 0x00, forRecordable, []byte{1, 0, 0, 0}},              // DVD+R
	{0x0100, 0x02, forAll, nil},                                    // power management
	{0x0105, 0x02, forAll, nil},                                    // time-out
	{0x0107, 0x0c, forROM, []byte{0x1f, 0, 0, 0}},                  // real time streaming
	{0x0108, 0x02, forAll, make([]byte, 8)},                        // serial number
	{0x010a, 0x00, forRecordable, []byte("FDC\x00SDC\x00TOC\x00")}, // disc control blocks
}

// getConfiguration is GET CONFIGURATION (MMC-5).
func getConfiguration(t *task) outcome {
	const all, onlyCurrent, one = 0, 1, 2
	cdb := t.command.CDB
	form, first := cdb[1]&3, binary.BigEndian.Uint16(cdb[2:])
	if form > one {
		return t.check(invalidFieldInCDB)
	}
	wanted := func(code uint16, current bool) bool {
		switch form {
		case all:
			return code >= first
		case onlyCurrent:
			return code >= first && current
		}
		return code == first
	}
	profile := t.profile()
	b := make([]byte, 8, 128)
	binary.BigEndian.PutUint16(b[6:], profile)
	if wanted(0, true) {
		b = append(b, 0, 0, 0x03, 8)
		for _, p := range [...]uint16{profileROM, profileBlank} {
			b = append(binary.BigEndian.AppendUint16(b, p), flag(p == profile), 0)
		}
	}
	for i := range features {
		f := &features[i]
		if current := f.current(profile); wanted(f.code, current) {
			b = append(binary.BigEndian.AppendUint16(b, f.code), f.flags|flag(current), byte(len(f.data)))
			b = append(b, f.data...)
		}
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return t.replyFilled(b, t.allocation16())
}

func flag(b bool) byte {
	if b {
		return 1
	}
	return 0
}

// getEventStatus is GET EVENT STATUS NOTIFICATION (MMC-5), by polling: whether the medium has come or gone since
// this session asked before.
func getEventStatus(t *task) outcome {
	const mediaClass, noClass, newMedia, mediaRemoval = 4, 0x80, 2, 3
	cdb := t.command.CDB
	if cdb[1]&0x01 == 0 {
		return t.check(invalidFieldInCDB) // without polling it would wait
	}
	b := t.replyBuffer(8)
	if b == nil {
		return finished
	}
	if cdb[4]&(1<<mediaClass) == 0 {
		return t.reply(append(b, 0, 2, noClass, 1<<mediaClass), uint64(t.allocation16()))
	}
	var event byte
	present := t.present()
	u := t.unit
	u.mu.Lock()
	switch {
	case present == t.nexus.reported:
	case present == nil:
		event = mediaRemoval
	default:
		event = newMedia
	}
	t.nexus.reported = present
	u.mu.Unlock()
	b = append(b, 0, 6, mediaClass, 1<<mediaClass, event, flag(present != nil)<<1, 0, 0)
	return t.reply(b, uint64(t.allocation16()))
}

// readDiscInformation is READ DISC INFORMATION (MMC-5).
func readDiscInformation(t *task) outcome {
	const complete = 0x0e // disc and last session
	if t.command.CDB[1]&7 != 0 {
		return t.check(invalidFieldInCDB)
	}
	b := []byte{0, 32, complete, 1, 1, 1, 1, 0}
	b = append(b, make([]byte, 34-len(b))...)
	if d := t.disc(); d.blank.Load() {
		b[2], b[7] = 0, 0x10
		if d.next.Load() > 0 {
			b[2] = 0x05 // incomplete, and so the session
		}
		binary.BigEndian.PutUint32(b[20:], recordableBlocks) // the last possible lead-out
	}
	return t.replyFilled(b, t.allocation16())
}

// readTrackInformation is READ TRACK INFORMATION (MMC-5) of the only track, by whatever name.
func readTrackInformation(t *task) outcome {
	const dataTrack, blankTrack, mode1, nextValid, lastValid = 0x04, 0x40, 0x01, 0x01, 0x02
	b := make([]byte, 36)
	b[1], b[2], b[3], b[5], b[6] = 34, 1, 1, dataTrack, mode1
	be := binary.BigEndian
	be.PutUint32(b[20:], 0x10) // blocks of a packet
	size := t.discBlocks()
	if t.disc().blank.Load() {
		b[7] = nextValid
		if size == 0 {
			b[6] |= blankTrack
		}
		be.PutUint32(b[12:], size)
		be.PutUint32(b[16:], recordableBlocks-size)
		be.PutUint32(b[24:], recordableBlocks)
	} else {
		b[7] = lastValid
		be.PutUint32(b[24:], size)
		be.PutUint32(b[28:], max(size, 1)-1)
	}
	return t.replyFilled(b, t.allocation16())
}

// readDiscStructure is READ DISC STRUCTURE (MMC-5), the physical format only, with the reference's bytes.
func readDiscStructure(t *task) outcome {
	cdb := t.command.CDB
	if cdb[7] != 0 || cdb[1]&0x0f != 0 {
		return t.check(invalidFieldInCDB)
	}
	b := []byte{0x08, 0x01, 0, 0, 0x01, 0x02, 0x01, 0x10, 0, 0x03, 0, 0, 0x1b, 0xc1, 0x7f, 0}
	return t.replyFilled(b, int(binary.BigEndian.Uint16(cdb[8:])))
}

// modeSelectDisc is MODE SELECT(10) (SPC-4); an empty list needs no PF.
func modeSelectDisc(t *task) outcome {
	if t.allocation16() == 0 {
		return t.good()
	}
	return modeSelect10(t)
}

// readBufferCapacity is READ BUFFER CAPACITY (MMC-5), while a disc is written: nothing waits in this drive.
func readBufferCapacity(t *task) outcome {
	if !t.disc().blank.Load() {
		return t.check(incompatibleRead)
	}
	b := t.replyBuffer(12)
	if b == nil {
		return finished
	}
	b = append(b, 0, 10, 0, 0)
	b = binary.BigEndian.AppendUint32(b, discBufferBytes)
	b = binary.BigEndian.AppendUint32(b, discBufferBytes)
	return t.reply(b, uint64(t.allocation16()))
}

// discBufferBytes is the buffer that the drive announces, that of the capabilities page.
const discBufferBytes = 2 << 20

// getPerformance is GET PERFORMANCE (MMC-5): there is nothing to tell of a file's speed.
func getPerformance(t *task) outcome { return t.check(noPerformance) }

// setSpeed is SET STREAMING and SET CD SPEED (MMC-5): a file has the speed it has.
func setSpeed(t *task) outcome {
	t.moved = uint64(t.command.OutBytes)
	return t.good()
}

// mechanismStatus is MECHANISM STATUS (MMC-5): a drive without a changer, open when it is empty.
func mechanismStatus(t *task) outcome {
	b := t.replyBuffer(8)
	if b == nil {
		return finished
	}
	const doorOpen = 0x10
	b = append(b, 0, flag(t.present() == nil)*doorOpen, 0, 0, 0, 0, 0, 0)
	return t.reply(b, uint64(binary.BigEndian.Uint16(t.command.CDB[8:])))
}

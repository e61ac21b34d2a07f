package scsi

import (
	"bytes"
	"encoding/binary"
	"math/bits"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore"
)

// Bits of byte 1 of the block commands (SBC-3).
const (
	protectBits = 0xe0 // RDPROTECT, WRPROTECT, VRPROTECT: no protection information is kept
	fuaBit      = 0x08
	bytchkBits  = 0x06
	immedBit    = 0x02
)

// protected says whether the CDB asks for protection information; the 6-byte forms can't.
func protected(cdb []byte) bool {
	return cdb[0] >= 0x20 && cdb[1]&protectBits != 0
}

// forced says whether a write must be durable when it completes: FUA, or no write cache.
func (t *task) forced(cdb []byte) bool {
	return !t.attrs.writeCache || cdb[0] >= 0x20 && cdb[1]&fuaBit != 0
}

// inRange checks an extent against the medium (SBC-3): also an empty one must begin inside it.
// It asks the store once more before it says no, because the medium may have grown.
func (t *task) inRange(lba, n uint64) bool {
	fits := func(size uint64) bool { return lba < size && n <= size-lba }
	if fits(t.blocks()) {
		return true
	}
	t.unit.refresh(t.medium, t.nexus)
	return fits(t.blocks())
}

// extent decodes and checks the blocks that the command addresses. When it says no, the result is set.
func (t *task) extent() (offset, length int64, ok bool) {
	cdb := t.command.CDB
	if protected(cdb) {
		t.check(invalidFieldInCDB)
		return 0, 0, false
	}
	lba, n := t.row.extent(cdb)
	if !t.inRange(lba, n) {
		t.check(lbaOutOfRange)
		return 0, 0, false
	}
	return int64(lba) * t.unit.blockSize, int64(n) * t.unit.blockSize, true
}

// roundUp is n as whole blocks, in bytes.
func (u *Unit) roundUp(n int64) int64 { return (n + u.blockSize - 1) &^ (u.blockSize - 1) }

// roundDown is the whole blocks of n, in bytes.
func (u *Unit) roundDown(n int64) int64 { return n &^ (u.blockSize - 1) }

// read is READ(6), (10), (12) and (16) (SBC-3). What is not expected is not read. DPO is advice,
// and FUA has nothing to do: a store never returns older bytes than those on the medium.
func read(t *task) outcome {
	offset, length, ok := t.extent()
	if !ok {
		return finished
	}
	t.moved = uint64(length)
	want := t.unit.roundUp(min(length, int64(t.command.InBytes)))
	if want == 0 {
		return t.good()
	}
	b := t.allocate(want)
	if b == nil {
		return finished
	}
	return t.submitIO(backstore.Read, offset, want, b, false, readDone)
}

func readDone(t *task) outcome {
	if t.io.Err != nil {
		return t.storeError(unrecoveredReadError)
	}
	t.dataIn = t.io.Data[:min(t.moved, uint64(t.command.InBytes))]
	return t.good()
}

// dataOut is the whole blocks of an extent's data that the initiator sent.
func (t *task) dataOut(length int64) []byte {
	return t.command.DataOut[:t.unit.roundDown(min(length, int64(len(t.command.DataOut))))]
}

// write is WRITE(6), (10), (12) and (16) (SBC-3). The data goes to the store as it came.
func write(t *task) outcome {
	offset, length, ok := t.extent()
	if !ok {
		return finished
	}
	t.moved = uint64(length)
	data := t.dataOut(length)
	if len(data) == 0 {
		return t.good()
	}
	return t.submitIO(backstore.Write, offset, int64(len(data)), data, t.forced(t.command.CDB), writeDone)
}

// atomicBlocks is how many blocks WRITE ATOMIC writes at most; 0: the store can't.
func (t *task) atomicBlocks() int64 {
	if t.medium == nil {
		return 0
	}
	return t.medium.info.AtomicBytes / t.unit.blockSize
}

// writeAtomic is WRITE ATOMIC(16) (SBC-4 5.47): after any event all of the data is there or none. The store
// promises that for one request of AtomicBytes; atomic boundaries would allow several, and are not needed.
func writeAtomic(t *task) outcome {
	cdb := t.command.CDB
	offset, length, ok := t.extent()
	if !ok {
		return finished
	}
	if binary.BigEndian.Uint16(cdb[10:]) != 0 || length > t.medium.info.AtomicBytes ||
		int64(len(t.command.DataOut)) < length {
		return t.check(invalidFieldInCDB)
	}
	t.moved = uint64(length)
	if length == 0 {
		return t.good()
	}
	return t.submitIO(backstore.Write, offset, length, t.command.DataOut[:length], t.forced(cdb), writeDone)
}

// writeDone completes any command whose last request changed or flushed the medium.
func writeDone(t *task) outcome {
	if t.io.Err != nil {
		return t.storeError(writeError)
	}
	return t.good()
}

// writeAndVerify is WRITE AND VERIFY(10), (12) and (16) (SBC-3): a durable write, then what
// VERIFY does. Where it compares, no other write comes between.
func writeAndVerify(t *task) outcome {
	cdb := t.command.CDB
	if protected(cdb) || cdb[1]&bytchkBits > 0x02 {
		return t.check(invalidFieldInCDB)
	}
	offset, length, ok := t.extent()
	if !ok {
		return finished
	}
	t.moved = uint64(length)
	data := t.dataOut(length)
	if len(data) == 0 {
		return t.good()
	}
	t.offset, t.end = offset, offset+int64(len(data))
	return t.submitIO(backstore.Write, offset, int64(len(data)), data, true, writeAndVerifyWritten)
}

func writeAndVerifyWritten(t *task) outcome {
	if t.io.Err != nil {
		return t.storeError(writeError)
	}
	if t.command.CDB[1]&bytchkBits != 0 {
		t.data = t.io.Data
	}
	return verifyChunk(t)
}

// verify is VERIFY(10), (12) and (16) (SBC-3): it reads the medium, and compares it with the
// data (BYTCHK 1) or each block with the one block sent (BYTCHK 3).
func verify(t *task) outcome {
	cdb := t.command.CDB
	check := cdb[1] & bytchkBits >> 1
	if check == 2 {
		return t.check(invalidFieldInCDB)
	}
	offset, length, ok := t.extent()
	if !ok {
		return finished
	}
	t.offset, t.end = offset, offset+length
	switch check {
	case 0:
		t.moved = uint64(t.command.OutBytes) // whatever was sent has no meaning
	case 1:
		t.moved = uint64(length)
		t.data = t.dataOut(length)
		t.end = offset + int64(len(t.data))
	case 3:
		t.moved = uint64(min(length, t.unit.blockSize))
		if length > 0 && int64(len(t.command.DataOut)) < t.unit.blockSize {
			return t.check(parameterListLength)
		}
		t.data = t.command.DataOut[:t.moved]
	}
	return verifyChunk(t)
}

// chunk is how much to move at a time.
func (t *task) chunk() int64 {
	return min(t.end-t.offset, max(t.unit.blockSize, chunkBytes))
}

// verifyChunk reads the next piece of what is to be verified.
func verifyChunk(t *task) outcome {
	if t.offset == t.end {
		return t.good()
	}
	n := t.chunk()
	if t.buffer == nil && t.allocate(n) == nil {
		return finished
	}
	return t.submitIO(backstore.Read, t.offset, n, t.buffer.data[:n], false, verifyCompare)
}

func verifyCompare(t *task) outcome {
	if t.io.Err != nil {
		return t.storeError(unrecoveredReadError)
	}
	stored := t.io.Data
	start, _ := t.row.extent(t.command.CDB)
	base := t.offset - int64(start)*t.unit.blockSize
	t.offset += int64(len(stored))
	switch {
	case t.data == nil:
	case t.command.CDB[1]&bytchkBits == bytchkBits:
		for at := 0; at < len(stored); at += len(t.data) {
			if i := difference(stored[at:at+len(t.data)], t.data); i >= 0 {
				return t.miscompare(base + int64(at+i))
			}
		}
	default:
		if i := difference(stored, t.data[:len(stored)]); i >= 0 {
			return t.miscompare(base + int64(i))
		}
		t.data = t.data[len(stored):]
	}
	return verifyChunk(t)
}

// difference is the index of the first byte in which two slices of equal length differ, or −1.
func difference(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	i := 0
	for a[i] == b[i] {
		i++
	}
	return i
}

// miscompare completes the command with MISCOMPARE DURING VERIFY OPERATION and the offset, in bytes from the
// first block addressed, of the first difference (SBC-3).
func (t *task) miscompare(offset int64) outcome {
	return t.checkSense(miscompare.bytesWithInformation(t.attrs.descriptorSense, uint64(offset)))
}

// compareAndWrite is COMPARE AND WRITE (SBC-3). No other command of this unit changes the blocks
// meanwhile; a store that has the operation itself also guards against other writers.
func compareAndWrite(t *task) outcome {
	lba, n := extentCompare(t.command.CDB)
	if n > MaxCompareBlocks {
		return t.check(invalidFieldInCDB)
	}
	offset, length, ok := t.extent()
	if !ok {
		return finished
	}
	if int64(len(t.command.DataOut)) != 2*length || int64(t.command.OutBytes) != 2*length {
		return t.check(invalidFieldInCDB)
	}
	t.moved = 2 * uint64(length)
	if length == 0 {
		return t.good()
	}
	t.offset, t.end = int64(lba)*t.unit.blockSize, offset+length
	if t.medium.noCAW.Load() {
		return compareFirst(t)
	}
	return t.submitIO(backstore.CompareAndWrite, offset, length, t.command.DataOut, t.forced(t.command.CDB),
		compareAndWriteDone)
}

func compareAndWriteDone(t *task) outcome {
	switch err := t.io.Err; {
	case err == nil:
		return t.good()
	case isUnsupported(err):
		t.medium.noCAW.Store(true)
		return compareFirst(t)
	case isMiscompare(err):
		return t.miscompare(t.io.Miscompare)
	}
	return t.storeError(writeError)
}

// compareFirst reads what COMPARE AND WRITE compares, for a store without the operation.
func compareFirst(t *task) outcome {
	n := t.end - t.offset
	b := t.allocate(n)
	if b == nil {
		return finished
	}
	return t.submitIO(backstore.Read, t.offset, n, b, false, compareThenWrite)
}

func compareThenWrite(t *task) outcome {
	if t.io.Err != nil {
		return t.storeError(unrecoveredReadError)
	}
	n := len(t.io.Data)
	if i := difference(t.io.Data, t.command.DataOut[:n]); i >= 0 {
		return t.miscompare(int64(i))
	}
	return t.submitIO(backstore.Write, t.offset, int64(n), t.command.DataOut[n:2*n],
		t.forced(t.command.CDB), writeDone)
}

// orWrite is ORWRITE(16) (SBC-3): the data is ORed into what is stored.
func orWrite(t *task) outcome {
	offset, length, ok := t.extent()
	if !ok {
		return finished
	}
	t.moved = uint64(length)
	t.data = t.dataOut(length)
	if len(t.data) == 0 {
		return t.good()
	}
	if t.medium.info.Shared {
		t.offset, t.end = offset, offset+int64(len(t.data))
		return orWriteShared(t)
	}
	b := t.allocate(int64(len(t.data)))
	if b == nil {
		return finished
	}
	return t.submitIO(backstore.Read, offset, int64(len(b)), b, false, orWriteMerge)
}

// orWriteShared merges the next piece on a medium that other targets serve too: what it has read must still be there
// when it writes, else it reads again. Such a store has COMPARE AND WRITE.
func orWriteShared(t *task) outcome {
	if t.offset == t.end {
		return t.good()
	}
	if t.buffer == nil && t.allocate(2*mergeBytes) == nil {
		return finished
	}
	n := min(t.end-t.offset, max(t.unit.blockSize, mergeBytes))
	if int64(len(t.buffer.data)) < 2*n {
		return t.check(invalidFieldInCDB) // blocks that are larger than what can be compared
	}
	return t.submitIO(backstore.Read, t.offset, n, t.buffer.data[:n], false, orWriteSharedMerge)
}

func orWriteSharedMerge(t *task) outcome {
	if t.io.Err != nil {
		return t.storeError(unrecoveredReadError)
	}
	n := t.io.Length
	old, merged := t.buffer.data[:n], t.buffer.data[n:2*n]
	for i := range merged {
		merged[i] = old[i] | t.data[i]
	}
	return t.submitIO(backstore.CompareAndWrite, t.offset, n, t.buffer.data[:2*n], t.forced(t.command.CDB),
		orWriteSharedDone)
}

func orWriteSharedDone(t *task) outcome {
	switch {
	case isMiscompare(t.io.Err): // somebody else was faster
	case t.io.Err != nil:
		return t.storeError(writeError)
	default:
		t.offset += t.io.Length
		t.data = t.data[t.io.Length:]
	}
	return orWriteShared(t)
}

func orWriteMerge(t *task) outcome {
	if t.io.Err != nil {
		return t.storeError(unrecoveredReadError)
	}
	b := t.io.Data
	for i, d := range t.data {
		b[i] |= d
	}
	return t.submitIO(backstore.Write, t.io.Offset, int64(len(b)), b, t.forced(t.command.CDB), writeDone)
}

// preFetch is PRE-FETCH(10) and (16) (SBC-3). Caching is the store's business: only the extent is
// checked.
func preFetch(t *task) outcome {
	if _, _, ok := t.extent(); !ok {
		return finished
	}
	return t.good()
}

// synchronizeCache is SYNCHRONIZE CACHE(10) and (16) (SBC-3). It flushes the whole medium. IMMED
// is refused: an early status would tell nothing.
func synchronizeCache(t *task) outcome {
	if t.command.CDB[1]&immedBit != 0 {
		return t.check(invalidFieldInCDB)
	}
	if lba, n := t.row.extent(t.command.CDB); !t.inRange(lba, n) {
		return t.check(lbaOutOfRange)
	}
	return flush(t)
}

// flush ends a command with a flush of the medium.
func flush(t *task) outcome {
	return t.submitIO(backstore.Flush, 0, 0, nil, false, writeDone)
}

// readCapacity10 is READ CAPACITY(10) (SBC-3).
func readCapacity10(t *task) outcome {
	cdb := t.command.CDB
	if cdb[8]&1 != 0 || binary.BigEndian.Uint32(cdb[2:]) != 0 {
		return t.check(invalidFieldInCDB)
	}
	t.unit.refresh(t.medium, t.nexus)
	b := t.replyBuffer(8)
	if b == nil {
		return finished
	}
	last := min(t.blocks()-1, 0xffffffff) // an empty medium wraps round to the same
	b = binary.BigEndian.AppendUint32(b, uint32(last))
	b = binary.BigEndian.AppendUint32(b, uint32(t.unit.blockSize))
	return t.reply(b, 8)
}

// readCapacity16 is READ CAPACITY(16) (SBC-3).
func readCapacity16(t *task) outcome {
	t.unit.refresh(t.medium, t.nexus)
	a := t.attrs
	b := t.replyBuffer(32)
	if b == nil {
		return finished
	}
	b = binary.BigEndian.AppendUint64(b, t.blocks()-1)
	b = binary.BigEndian.AppendUint32(b, uint32(t.unit.blockSize))
	b = append(b, 0, t.logicalPerPhysical())
	lowest := a.lowestAligned
	if a.thin {
		lowest = lowest&0x3fff | 0xc000 // LBPME, LBPRZ
	}
	b = binary.BigEndian.AppendUint16(b, lowest)
	b = append(b, make([]byte, 16)...)
	return t.reply(b, uint64(binary.BigEndian.Uint32(t.command.CDB[10:])))
}

// logicalPerPhysical is the LOGICAL BLOCKS PER PHYSICAL BLOCK EXPONENT.
func (t *task) logicalPerPhysical() byte {
	if n := t.attrs.logicalPerPhysical; n >= 0 {
		return byte(n)
	}
	ratio := int64(t.medium.info.PhysicalSize) / t.unit.blockSize
	return byte(bits.Len64(uint64(max(ratio, 1))) - 1)
}

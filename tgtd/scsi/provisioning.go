package scsi

import (
	"encoding/binary"
	"errors"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore"
)

// isUnsupported: a store without an operation completes it with errors.ErrUnsupported.
func isUnsupported(err error) bool { return errors.Is(err, errors.ErrUnsupported) }

func isMiscompare(err error) bool { return errors.Is(err, backstore.ErrMiscompare) }

// Bits of byte 1 of WRITE SAME (SBC-3).
const (
	sameNDOB   = 0x01 // no data: zeros; WRITE SAME(16) only
	sameLBDATA = 0x02 // each block begins with its LBA, 4 bytes
	samePBDATA = 0x04 // each block begins with its physical address, 8 bytes
	sameUNMAP  = 0x08
	sameANCHOR = 0x10

	opWriteSame16 = 0x93
)

// writeSame is WRITE SAME(10) and (16). No blocks means all to the end. Zeros are given to the store as
// such, other data is written. With UNMAP the range is deallocated whatever the data: SBC-3 would
// have data that is not zero written, but the reference and the other targets in use don't, and
// initiators never ask for it.
func writeSame(t *task) outcome {
	cdb := t.command.CDB
	flags := cdb[1]
	address := flags & (samePBDATA | sameLBDATA)
	if protected(cdb) || flags&sameANCHOR != 0 || address == samePBDATA|sameLBDATA ||
		flags&sameUNMAP != 0 && !t.attrs.thin {
		return t.check(invalidFieldInCDB)
	}
	lba, n := t.row.extent(cdb)
	if !t.inRange(lba, n) {
		return t.check(lbaOutOfRange)
	}
	if n == 0 {
		n = t.blocks() - lba
	}
	size := t.unit.blockSize
	t.offset, t.end = int64(lba)*size, int64(lba+n)*size
	t.fua = !t.attrs.writeCache // there is no FUA bit
	if cdb[0] == opWriteSame16 && flags&sameNDOB != 0 {
		t.moved = uint64(t.command.OutBytes)
		return t.writeSameZeros(flags)
	}
	if int64(t.command.OutBytes) != size || int64(len(t.command.DataOut)) != size {
		return t.check(parameterListLength)
	}
	t.moved = uint64(size)
	t.data = t.command.DataOut
	if flags&sameUNMAP != 0 || address == 0 && zeros(t.data) {
		return t.writeSameZeros(flags)
	}
	if t.allocate(t.chunk()) == nil {
		return finished
	}
	for b := t.buffer.data[:t.chunk()]; len(b) > 0; b = b[len(t.data):] {
		copy(b, t.data)
	}
	return writeSameChunk(t)
}

func (t *task) writeSameZeros(flags byte) outcome {
	op, then := backstore.WriteZeroes, step(writeDone)
	if flags&sameUNMAP != 0 {
		op = backstore.Unmap
		if t.fua {
			then = unmapFlush
		}
	}
	return t.submitIO(op, t.offset, t.end-t.offset, nil, t.fua, then)
}

// writeSameChunk writes the next piece; the pattern is in the task's buffer.
func writeSameChunk(t *task) outcome {
	n := t.chunk()
	b := t.buffer.data[:n]
	if address := t.command.CDB[1] & (samePBDATA | sameLBDATA); address != 0 {
		size := t.unit.blockSize
		for at := int64(0); at < n; at += size {
			lba := uint64((t.offset + at) / size)
			var field [8]byte
			binary.BigEndian.PutUint64(field[:], lba)
			if address == sameLBDATA {
				copy(b[at:at+size], field[4:])
			} else {
				copy(b[at:at+size], field[:])
			}
		}
	}
	return t.submitIO(backstore.Write, t.offset, n, b, t.fua && t.offset+n == t.end && t.offset == t.start(),
		writeSameNext)
}

// start is where the command's extent begins, in bytes.
func (t *task) start() int64 {
	lba, _ := t.row.extent(t.command.CDB)
	return int64(lba) * t.unit.blockSize
}

func writeSameNext(t *task) outcome {
	if t.io.Err != nil {
		return t.storeError(writeError)
	}
	t.offset += t.io.Length
	switch {
	case t.offset < t.end:
		return writeSameChunk(t)
	case t.fua && !t.io.FUA:
		return flush(t) // several pieces are made durable by one flush
	}
	return t.good()
}

// zeros says whether b is all zeros.
func zeros(b []byte) bool {
	for len(b) >= 8 {
		if binary.LittleEndian.Uint64(b) != 0 {
			return false
		}
		b = b[8:]
	}
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// unmap is UNMAP (SBC-3). All descriptors are checked before the first takes effect. A list too
// short for a descriptor is empty, as in the reference.
func unmap(t *task) outcome {
	cdb := t.command.CDB
	if cdb[1]&1 != 0 {
		return t.check(invalidFieldInCDB) // ANCHOR
	}
	length := int(binary.BigEndian.Uint16(cdb[7:]))
	t.moved = uint64(length)
	list := t.command.DataOut[:min(length, len(t.command.DataOut))]
	if len(list) < 8 {
		return t.good()
	}
	n := min(int(binary.BigEndian.Uint16(list[2:])), len(list)-8) / 16
	if n > MaxUnmapDescriptors {
		return t.check(invalidFieldInParameters)
	}
	t.data = list[8 : 8+16*n]
	for d := t.data; len(d) > 0; d = d[16:] {
		lba, blocks := binary.BigEndian.Uint64(d), uint64(binary.BigEndian.Uint32(d[8:]))
		// An empty descriptor may stand at the end of the medium.
		if !t.inRange(lba, blocks) && (blocks != 0 || lba != t.blocks()) {
			return t.check(lbaOutOfRange)
		}
	}
	t.fua = !t.attrs.writeCache
	return unmapNext(t)
}

// unmapNext deallocates the next descriptor that is not empty, joined with those that continue it.
func unmapNext(t *task) outcome {
	size := t.unit.blockSize
	for len(t.data) > 0 {
		offset := int64(binary.BigEndian.Uint64(t.data)) * size
		length := int64(binary.BigEndian.Uint32(t.data[8:])) * size
		t.data = t.data[16:]
		for len(t.data) > 0 && int64(binary.BigEndian.Uint64(t.data))*size == offset+length {
			length += int64(binary.BigEndian.Uint32(t.data[8:])) * size
			t.data = t.data[16:]
		}
		if length > 0 {
			return t.submitIO(backstore.Unmap, offset, length, nil, false, unmapDone)
		}
	}
	if t.fua {
		return flush(t)
	}
	return t.good()
}

func unmapDone(t *task) outcome {
	if t.io.Err != nil {
		return t.storeError(writeError)
	}
	return unmapNext(t)
}

// unmapFlush makes a deallocation durable.
func unmapFlush(t *task) outcome {
	if t.io.Err != nil {
		return t.storeError(writeError)
	}
	return flush(t)
}

// getLBAStatus is GET LBA STATUS (SBC-3): extents from the one asked for to the end of the medium, or
// as many as fit.
func getLBAStatus(t *task) outcome {
	cdb := t.command.CDB
	lba, allocation := binary.BigEndian.Uint64(cdb[2:]), binary.BigEndian.Uint32(cdb[10:])
	if !t.inRange(lba, 0) {
		return t.check(lbaOutOfRange)
	}
	b := t.replyBuffer(8 + 16*maxStatusDescriptors)
	if b == nil {
		return finished
	}
	clear(b[:8])
	t.data = b[:8]
	room := max(1, (int64(allocation)-8)/16)
	t.room, t.queries = int(min(room, maxStatusDescriptors)), 0
	t.offset, t.end = int64(lba)*t.unit.blockSize, int64(t.blocks())*t.unit.blockSize
	return t.submitIO(backstore.Status, t.offset, t.end-t.offset, nil, false, getLBAStatusNext)
}

func getLBAStatusNext(t *task) outcome {
	if t.io.Err != nil {
		return t.storeError(unrecoveredReadError)
	}
	size := t.unit.blockSize
	mapped, length := t.io.Mapped, t.unit.roundDown(min(t.io.MappedLength, t.end-t.offset))
	if length == 0 {
		mapped, length = true, size // a block of which only a part is allocated
	}
	// A descriptor counts 32 bits of blocks; what is more is said by a further one.
	length = min(length, size*0xffffffff)
	full := !t.addStatus(mapped, length)
	t.offset += length
	if t.queries++; full || t.offset == t.end || t.queries == maxStatusQueries {
		binary.BigEndian.PutUint32(t.data, uint32(len(t.data)-4))
		return t.reply(t.data, uint64(binary.BigEndian.Uint32(t.command.CDB[10:])))
	}
	return t.submitIO(backstore.Status, t.offset, t.end-t.offset, nil, false, getLBAStatusNext)
}

// addStatus notes an extent in the reply, as part of the last one if it can be; false when there is no room.
func (t *task) addStatus(mapped bool, length int64) bool {
	var provisioning byte = 1 // deallocated
	if mapped {
		provisioning = 0
	}
	blocks := uint64(length / t.unit.blockSize)
	if n := len(t.data); n > 8 && t.data[n-4] == provisioning {
		if sum := uint64(binary.BigEndian.Uint32(t.data[n-8:])) + blocks; sum <= 0xffffffff {
			binary.BigEndian.PutUint32(t.data[n-8:], uint32(sum))
			return true
		}
	}
	if (len(t.data)-8)/16 == t.room {
		return false
	}
	t.data = binary.BigEndian.AppendUint64(t.data, uint64(t.offset/t.unit.blockSize))
	t.data = binary.BigEndian.AppendUint32(t.data, uint32(blocks))
	t.data = append(t.data, provisioning, 0, 0, 0)
	return true
}

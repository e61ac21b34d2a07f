package replica

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"slices"

	"github.com/paxos-iscsi/paxos-iscsi/pss/agreement"
	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
	"github.com/paxos-iscsi/paxos-iscsi/pss/wire"
)

// Memory is what a root keeps so that it is noticed when an older state of it, or of another server's, is put back:
// the starts of its own server, and what the others are known to have promised. It is in the file `promises`, in two
// slots of 4 KiB that are written in turn, in place, so that it takes no room on a full disk:
//
//	   0  u32  magic "PSSm"
//	   4  u32  version, 1
//	   8  u64  sequence; the slot with the higher one counts
//	  16  u64  number of the newest start
//	  24  u16  lives, then u16 promises, then u32 zero
//	  32       u64 for each of the newest starts, the newest last: its life, at most maxLives
//	           then the cell of the promises, 16 bytes
//	           then the promises, as agreement.AppendPromises writes them
//	4092  u32  CRC32C of everything before
//
// A file that is missing or damaged is one that knows nothing. If that is wrong the others know better: this server
// is then taken for one with an older disk, which it may be.
type Memory struct {
	root     disk.FS
	sequence uint64

	start uint64   // how often the server has started, this time included
	lives []uint64 // of the newest starts, this one last
	cell  wire.CellID
	// others is what was known at the start; the cell's members that it is about are those of cell.
	others []agreement.Promise
}

const (
	memoryName    = "promises"
	memoryMagic   = 0x6d535350 // "PSSm"
	memoryVersion = 1
	memorySlot    = 4096 // bytes
	memoryFixed   = 32   // bytes before the lives
	// maxLives is how many of its starts a server can tell from those that an older state of its root would have made.
	maxLives = 128
)

// OpenMemory notes, durably, that the server of a root starts, before it says anything to anybody. life tells this start
// from others: random, not 0.
func OpenMemory(root disk.FS, life uint64) (*Memory, error) {
	m, err := readMemory(root)
	fresh := errors.Is(err, fs.ErrNotExist)
	if err != nil && !fresh {
		return nil, fmt.Errorf("reading %s: %w", memoryName, err)
	}
	m.root = root
	m.start++
	m.lives = append(m.lives, life)
	m.lives = m.lives[max(0, len(m.lives)-maxLives):]
	if fresh {
		err = m.create()
	} else {
		err = m.Keep(m.cell, m.others)
	}
	return m, err
}

// readMemory reads the newer slot that is whole.
func readMemory(root disk.FS) (*Memory, error) {
	best := new(Memory)
	f, err := root.Open(memoryName, 0)
	if err != nil {
		return best, err
	}
	defer f.Close() // only read from
	for slot := range int64(2) {
		b := make([]byte, memorySlot)
		if n, err := f.ReadAt(b, slot*memorySlot); err != nil && !errors.Is(err, io.EOF) {
			return best, err
		} else if n < memorySlot {
			continue
		}
		if m, ok := parseMemory(b); ok && m.sequence > best.sequence {
			best = m
		}
	}
	return best, nil
}

// create makes the file with room for both slots. The newer is written last, and with it the name is durable.
func (m *Memory) create() error {
	err := writeWhole(m.root, memoryName, make([]byte, 2*memorySlot))
	if err == nil {
		err = m.Keep(m.cell, m.others)
	}
	if err == nil {
		err = m.root.SyncDir(".")
	}
	return err
}

// Keep makes durable what others promised, who are members of c, beside what the Memory has. One goroutine at a time
// may call it.
func (m *Memory) Keep(c wire.CellID, others []agreement.Promise) error {
	f, err := m.root.Open(memoryName, disk.Create)
	if err != nil {
		return fmt.Errorf("writing %s: %w", memoryName, err)
	}
	m.sequence++
	_, err = f.WriteAt(m.slot(c, others), int64(m.sequence%2)*memorySlot)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", memoryName, err)
	}
	return nil
}

func (m *Memory) slot(c wire.CellID, others []agreement.Promise) []byte {
	le := binary.LittleEndian
	b := make([]byte, 0, memorySlot)
	b = le.AppendUint32(b, memoryMagic)
	b = le.AppendUint32(b, memoryVersion)
	b = le.AppendUint64(b, m.sequence)
	b = le.AppendUint64(b, m.start)
	b = le.AppendUint16(b, uint16(len(m.lives)))
	b = le.AppendUint16(b, uint16(len(others)))
	b = le.AppendUint32(b, 0)
	for _, l := range m.lives {
		b = le.AppendUint64(b, l)
	}
	b = append(b, c[:]...)
	b = agreement.AppendPromises(b, others)
	b = b[:memorySlot-4]
	return le.AppendUint32(b, crc32.Checksum(b, identityTable))
}

func parseMemory(b []byte) (*Memory, bool) {
	le := binary.LittleEndian
	if len(b) != memorySlot || le.Uint32(b) != memoryMagic || le.Uint32(b[4:]) != memoryVersion ||
		le.Uint32(b[memorySlot-4:]) != crc32.Checksum(b[:memorySlot-4], identityTable) {
		return nil, false
	}
	m := &Memory{sequence: le.Uint64(b[8:]), start: le.Uint64(b[16:])}
	lives, others := int(le.Uint16(b[24:])), int(le.Uint16(b[26:]))
	if lives == 0 || lives > maxLives || others > agreement.MaxPromises || uint64(lives) > m.start {
		return nil, false
	}
	b = b[memoryFixed:]
	for range lives {
		m.lives = append(m.lives, le.Uint64(b))
		b = b[8:]
	}
	b = b[copy(m.cell[:], b):]
	size := len(agreement.AppendPromises(nil, make([]agreement.Promise, others)))
	var ok bool
	m.others, ok = agreement.ParsePromises(b[:size])
	return m, ok
}

// life tells this start from others.
func (m *Memory) life() uint64 { return m.lives[len(m.lives)-1] }

// knows says whether a start of this server that others have heard of is one of those that this root has seen. Of one
// that is too long ago nobody can tell.
func (m *Memory) knows(start, life uint64) bool {
	if start > m.start {
		return false
	}
	ago := m.start - start
	return start == 0 || ago >= uint64(len(m.lives)) || m.lives[uint64(len(m.lives))-1-ago] == life
}

// of is what is remembered of the members of a cell.
func (m *Memory) of(c wire.CellID) []agreement.Promise {
	if m.cell != c {
		return nil
	}
	return slices.Clone(m.others)
}

package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
)

// Records that were read or written are kept in memory, and who looks for damage by way of them does not see what
// has become of them on disk.

// VerifyRecords reads the records of a chunk that are in memory from disk once more. Where the disk has something else
// the record in memory is right, if it is whole: it was read when it was, or is what was written; the disk is given it
// again. It returns the first damage met, which is mended, or nil. Records that are not in memory are Verify's.
func (s *Store) VerifyRecords(object uint64, chunk uint32) (*DamageError, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	o, err := s.find(Checkpoint, object)
	if err != nil {
		return nil, err
	}
	if chunk >= MaxChunks {
		return nil, fmt.Errorf("%w: verifying the records of chunk %d", ErrRange, chunk)
	}
	g := s.gate(o, chunk)
	g.RLock()
	defer g.RUnlock()
	var first *DamageError
	for i := range uint32(pagesPerChunk) {
		d, err := s.reread(o, pageKey{o.number, chunk*pagesPerChunk + i})
		if err != nil {
			return first, err
		}
		if first == nil {
			first = d
		}
	}
	return first, nil
}

// reread compares a page with the disk if it is in memory. Who writes pages holds their locks, so the two
// differ only by damage.
func (s *Store) reread(o *object, k pageKey) (*DamageError, error) {
	sl := s.sums.pin(k)
	defer s.sums.unpin(sl)
	p := &sl.value
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.loaded {
		return nil, nil
	}
	key, off := k.sums()
	f, err := s.open(o, key, 0)
	if errors.Is(err, fs.ErrNotExist) && p.b == [pageSize]byte{} {
		return nil, nil // as it was read
	}
	if err != nil {
		return nil, err
	}
	defer s.files.unpin(f)
	var onDisk [pageSize]byte
	err = readFull(f.value.f, onDisk[:], off)
	if err != nil && !unreadable(err) {
		return nil, fmt.Errorf("reading %s: %w", key.name(o), err)
	}
	if err == nil && onDisk == p.b {
		return nil, nil
	}
	damage := p.merge(o, k, &onDisk)
	if damage.Err = err; onDisk == p.b {
		return damage, nil // it was the memory
	}
	if _, err := f.value.f.WriteAt(p.b[:], off); err != nil {
		p.loaded = false
		return damage, fmt.Errorf("writing %s again: %w", key.name(o), err)
	}
	if err := f.value.f.Sync(); err != nil {
		return damage, s.fail(fmt.Errorf("syncing %s: %w", key.name(o), err))
	}
	return damage, nil
}

// merge takes up those records of a page on disk whose counterparts in memory are damaged, and tells of the first
// record that differs.
func (p *page) merge(o *object, k pageKey, onDisk *[pageSize]byte) *DamageError {
	key, off := k.sums()
	var damage *DamageError
	for i := range blocksPerPage {
		mine, theirs := p.b[i*recordSize:(i+1)*recordSize], onDisk[i*recordSize:(i+1)*recordSize]
		if bytes.Equal(mine, theirs) {
			continue
		}
		block := blockNumber(k.chunk(), int(k.number%pagesPerChunk)*blocksPerPage+i)
		var r Record
		want, got, good := r.get(theirs, o.number, block)
		if damage == nil {
			damage = &DamageError{Object: o.number, Block: block, File: key.name(o), Offset: off + int64(i*recordSize),
				What: "record on disk", Want: want, Got: got}
		}
		if _, _, whole := r.get(mine, o.number, block); good && !whole {
			copy(mine, theirs)
		}
	}
	if damage == nil { // the disk gave no bytes
		damage = &DamageError{Object: o.number, Block: blockNumber(k.chunk(), int(k.number%pagesPerChunk)*blocksPerPage),
			File: key.name(o), Offset: off, What: "record on disk"}
	}
	return damage
}

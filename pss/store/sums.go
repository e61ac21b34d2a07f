package store

import (
	"errors"
	"fmt"
	"io/fs"
	"sync"
)

// page is a page of records: those of blocksPerPage blocks of one chunk, as they are on disk.
type page struct {
	mu     sync.RWMutex
	loaded bool
	b      [pageSize]byte
}

// pageKey stands for a page: number is the chunk's times pagesPerChunk, and which of its pages.
type pageKey struct {
	object uint64
	number uint32
}

func (k pageKey) hash() uint64 { return mix(k.object<<32 ^ uint64(k.number)) }

func (k pageKey) chunk() uint32 { return k.number / pagesPerChunk }

// sums is the key of the file the page is in, and off its place there.
func (k pageKey) sums() (key fileKey, off int64) {
	key = fileKey{object: k.object, number: k.chunk() / chunksPerDir, kind: fileSums}
	return key, int64(k.number%(chunksPerDir*pagesPerChunk)) * pageSize
}

// errStale says that a page of records is not the one that was written last.
var errStale = errors.New("the disk has an older version of these records")

// load reads the page from disk unless that was done, and unless trust is set checks that it is what was written last.
// The caller holds p.mu for writing. A file that is missing or short reads as zeros, which no record is valid with.
func (s *Store) load(o *object, k pageKey, p *page, trust bool) error {
	if p.loaded {
		return nil
	}
	key, off := k.sums()
	f, err := s.open(o, key, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		clear(p.b[:])
	case err != nil:
		return err
	default:
		err = readFull(f.value.f, p.b[:], off)
		s.files.unpin(f)
		if unreadable(err) {
			chunk := k.chunk()
			return &DamageError{Object: o.number, Block: blockNumber(chunk, int(k.number%pagesPerChunk)*blocksPerPage),
				What: "records", File: key.name(o), Offset: off, Err: err}
		}
		if err != nil {
			return fmt.Errorf("reading %s: %w", key.name(o), err)
		}
	}
	if now, next := o.pageSums(k); !trust && now != 0 {
		if got := pageSum(&p.b); got != now && got != next && stale(&p.b, o, k) {
			return &DamageError{Object: o.number, Block: blockNumber(k.chunk(), int(k.number%pagesPerChunk)*blocksPerPage),
				What: "records", File: key.name(o), Offset: off, Want: now, Got: got, Err: errStale}
		}
	}
	p.loaded = true
	return nil
}

// stale says that nothing else is wrong with a page whose sum is: each record is whole. A record that is not is noticed
// by itself, and explains the sum; the others on its page are as good as their checks say.
func stale(b *[pageSize]byte, o *object, k pageKey) bool {
	first := int(k.number%pagesPerChunk) * blocksPerPage
	for i := range blocksPerPage {
		var r Record
		if _, _, ok := r.get(b[i*recordSize:], o.number, blockNumber(k.chunk(), first+i)); !ok {
			return false
		}
	}
	return true
}

// records completes those cells whose kind is 0 with the records on disk of the blocks first,
// first+1, … of a chunk that has a file there.
func (s *Store) records(o *object, chunk uint32, first int, cells []cell) error {
	for len(cells) > 0 {
		n := min(len(cells), blocksPerPage-first%blocksPerPage)
		if err := s.recordsOfPage(o, chunk, first, cells[:n]); err != nil {
			return err
		}
		first, cells = first+n, cells[n:]
	}
	return nil
}

func (s *Store) recordsOfPage(o *object, chunk uint32, first int, cells []cell) error {
	if !anyOnDisk(cells) {
		return nil
	}
	k := pageKey{o.number, chunk*pagesPerChunk + uint32(first/blocksPerPage)}
	sl := s.sums.pin(k)
	defer s.sums.unpin(sl)
	p := &sl.value
	p.mu.RLock()
	if !p.loaded {
		p.mu.RUnlock()
		p.mu.Lock()
		err := s.load(o, k, p, false)
		p.mu.Unlock()
		if err != nil {
			return err
		}
		p.mu.RLock()
		if !p.loaded { // a failed write of the page came between
			p.mu.RUnlock()
			return s.recordsOfPage(o, chunk, first, cells)
		}
	}
	defer p.mu.RUnlock()
	for i := range cells {
		c := &cells[i]
		if c.kind != 0 {
			continue
		}
		var r Record
		at := (first + i) % blocksPerPage * recordSize
		block := blockNumber(chunk, first+i)
		want, got, ok := r.get(p.b[at:], o.number, block)
		if !ok || r.Kind > Zeros {
			key, off := k.sums()
			return &DamageError{Object: o.number, Block: block, File: key.name(o), Offset: off + int64(at),
				What: "record", Want: want, Got: got}
		}
		c.kind, c.sum, c.index = r.Kind, r.Sum, r.Index
	}
	return nil
}

func anyOnDisk(cells []cell) bool {
	for i := range cells {
		if cells[i].kind == 0 {
			return true
		}
	}
	return false
}

package log

import (
	"fmt"
	"hash/crc32"
	"io"
	"path"
)

// readBytes is how much Entries reads at once, unless a single entry is longer.
const readBytes = 1 << 20

// part is a run of entries in one segment.
type part struct {
	s      *segment
	places []place // a copy
}

// Entries returns the entries [lo, hi) from the files, each with its checksum checked: as many as have
// up to maxBytes of data together, and at least one if there is one. The caller owns the data; that
// of one call is one piece of memory.
//
// Errors satisfy errors.Is with ErrCompacted or ErrUnavailable, or errors.As with *DamageError. They
// do not break the log.
func (l *Log) Entries(lo, hi, maxBytes uint64) ([]Entry, error) {
	entries, parts, size, err := l.locate(lo, hi, maxBytes)
	if err != nil {
		return nil, fmt.Errorf("reading log entries %d to %d: %w", lo, hi-1, err)
	}
	defer l.release(parts)
	memory, rest := make([]byte, size), entries
	for _, p := range parts {
		if memory, err = l.readPart(p, rest[:len(p.places)], memory); err != nil {
			return nil, fmt.Errorf("reading log entries %d to %d: %w", lo, hi-1, err)
		}
		rest = rest[len(p.places):]
	}
	return entries, nil
}

// Kinds returns the entries [lo, hi) without their data, from memory. Its errors are those of Entries.
func (l *Log) Kinds(lo, hi uint64) ([]Entry, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	x := &l.index
	if err := l.within(x.base+1, lo, hi); err != nil {
		return nil, fmt.Errorf("kinds of log entries %d to %d: %w", lo, hi-1, err)
	}
	entries := make([]Entry, 0, hi-lo)
	for k := x.segmentOf(lo); lo < hi; k++ {
		s := x.segments[k]
		for ; lo < min(hi, s.end()); lo++ {
			entries = append(entries, Entry{Index: lo, Term: x.term(lo), Kind: s.places[lo-s.first].kind})
		}
	}
	return entries, nil
}

// within says why the entries [lo, hi) can't be had, if so, when first is the first one. mu is held.
func (l *Log) within(first, lo, hi uint64) error {
	switch {
	case l.broken != nil:
		return l.broken
	case lo > hi:
		return fmt.Errorf("the range is turned round")
	case lo < first:
		return ErrCompacted
	case hi > l.index.last+1:
		return ErrUnavailable
	}
	return nil
}

// locate finds the entries and their size in bytes, and holds their segments for reading.
func (l *Log) locate(lo, hi, maxBytes uint64) (entries []Entry, parts []part, size uint64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	x := &l.index
	if err := l.within(x.readable(), lo, hi); err != nil || lo == hi {
		return nil, nil, 0, err
	}
	for k := x.segmentOf(lo); lo < hi; k++ {
		s := x.segments[k]
		from := int(lo - s.first)
		to := from
		for ; to < len(s.places) && lo < hi; to++ {
			p := &s.places[to]
			if len(entries) > 0 && size+uint64(p.size) > maxBytes {
				hi = lo
				break
			}
			size += uint64(p.size)
			entries = append(entries, Entry{Index: lo, Term: x.term(lo), Kind: p.kind})
			lo++
		}
		if to > from {
			s.readers++
			parts = append(parts, part{s, append([]place(nil), s.places[from:to]...)})
		}
	}
	return entries, parts, size, nil
}

// release lets go of the segments.
func (l *Log) release(parts []part) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range parts {
		if p.s.readers--; p.s.readers == 0 {
			l.idle.Broadcast()
		}
	}
}

// readPart reads the data of entries from one segment into the front of memory and returns the rest.
func (l *Log) readPart(p part, entries []Entry, memory []byte) ([]byte, error) {
	for len(entries) > 0 {
		start := alignDown(int64(p.places[0].offset))
		n := 1
		for n < len(entries) && p.places[n].end()-start <= readBytes {
			n++
		}
		buffer := l.buffer(int(alignUp(p.places[n-1].end()) - start))
		err := l.readRun(p.s, *buffer, start, p.places[:n], entries[:n], &memory)
		l.buffers.Put(buffer)
		if err != nil {
			return nil, err
		}
		p.places, entries = p.places[n:], entries[n:]
	}
	return memory, nil
}

// end is where the data ends that is in the segment.
func (p *place) end() int64 { return int64(p.offset) + int64(p.inline()) }

// readRun reads entries with one read, checks them and copies their data to the front of memory.
func (l *Log) readRun(
	s *segment, buffer []byte, start int64, places []place, entries []Entry, memory *[]byte,
) error {
	buffer = buffer[:alignUp(places[len(places)-1].end())-start]
	got, err := s.file.ReadAt(buffer, start)
	if err != nil && err != io.EOF {
		return err
	}
	for i, p := range places {
		if p.end() > start+int64(got) {
			return &DamageError{File: l.fileOf(s), Offset: int64(p.offset), What: "bytes of the file",
				Want: uint64(p.end()), Got: uint64(start) + uint64(got)}
		}
		data := (*memory)[:p.size:p.size]
		*memory = (*memory)[p.size:]
		copy(data, buffer[int64(p.offset)-start:][:p.inline()])
		if err := l.readEnding(p.spot, data[p.inline():]); err != nil {
			return err
		}
		if sum := crc32.Checksum(data, castagnoli); sum != p.sum {
			if p.body != nil && l.lost(entries[i].Index) {
				return ErrCompacted
			}
			if p.body != nil { // that has most of it
				return &DamageError{File: l.bodyFile(p.body), Offset: p.spot.offset(), What: "checksum of an entry",
					Want: uint64(p.sum), Got: uint64(sum)}
			}
			return &DamageError{File: l.fileOf(s), Offset: int64(p.offset), What: "checksum of an entry",
				Want: uint64(p.sum), Got: uint64(sum)}
		}
		entries[i].Data = data
	}
	return nil
}

// readEnding reads the part of an entry that is in a body.
func (l *Log) readEnding(s spot, p []byte) error {
	if s.body == nil {
		return nil
	}
	buffer := l.buffer(len(p))
	defer l.buffers.Put(buffer)
	n, err := readBody(s.body, (*buffer)[:len(p)], s.offset())
	copy(p, (*buffer)[:n]) // what is missing has no right checksum
	return err
}

// lost notes that an entry's body has been written to by others, and reports whether it can be so.
func (l *Log) lost(index uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if index > l.superseded {
		return false
	}
	l.index.floor = max(l.index.floor, index)
	return true
}

// buffer returns an aligned buffer of at least n bytes.
func (l *Log) buffer(n int) *[]byte {
	b, ok := l.buffers.Get().(*[]byte)
	if !ok {
		b = new([]byte)
	}
	*b = grow(*b, n)
	return b
}

func (l *Log) fileOf(s *segment) string { return path.Join(l.dir, segmentName(s.number)) }

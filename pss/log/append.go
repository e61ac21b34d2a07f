package log

import (
	"errors"
	"fmt"

	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
)

// Append writes entries, and hs unless it is nil. They are not durable before Sync. The data is
// copied. Entries from entries[0].Index on that are in the log already are replaced; that index is at
// most Last()+1, and beyond First()-1 and the commit index.
//
// Up to a few MiB, and a segment's size, it all is one write and survives a crash as a whole or not
// at all. A longer one is several: a crash before Sync may leave the first of them, with the new term
// and vote, and without the new commit index.
//
// A commit index below the one before is raised to it: Recycle may know of a higher one. Other
// arguments that break the rules of Entry and HardState are refused. So is an append for which there is
// no space; that error satisfies errors.Is with disk.ErrNoSpace, and the append may be tried again.
// In both cases the log goes on. Any other error breaks it.
func (l *Log) Append(hs *HardState, entries []Entry) error {
	if err := l.failure(); err != nil {
		return err
	}
	if hs == nil && len(entries) == 0 {
		return nil
	}
	if err := l.admit(hs, entries); err != nil {
		return err
	}
	was := l.HardState()
	hard := was
	if hs != nil {
		hard = *hs
		hard.Commit = max(hard.Commit, was.Commit)
	}
	for {
		part, state := entries[:l.fit(entries)], hard
		entries = entries[len(part):]
		if len(entries) > 0 {
			state.Commit = was.Commit
		}
		prev := l.index.last
		if len(part) > 0 {
			prev = part[0].Index - 1
		}
		if err := l.writeFrame(0, prev, state, part); err != nil {
			return err
		}
		if len(entries) == 0 {
			return nil
		}
	}
}

// admit checks what is to be appended against what is there.
func (l *Log) admit(hs *HardState, entries []Entry) error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	x := &l.index
	last := x.last
	if len(entries) > 0 {
		first := entries[0].Index
		if first > last+1 || first <= x.base || first <= x.hardState.Commit {
			return fmt.Errorf("appending log entry %d: the log has %d to %d, of which %d is committed",
				first, x.base+1, last, x.hardState.Commit)
		}
		term := x.term(first - 1)
		for i := range entries {
			e := &entries[i]
			if e.Index != first+uint64(i) || e.Term < term || len(e.Data) > MaxEntryBytes {
				return fmt.Errorf("appending log entry %d of term %d with %d bytes as number %d from %d, after term %d",
					e.Index, e.Term, len(e.Data), i, first, term)
			}
			term = e.Term
		}
		last = entries[len(entries)-1].Index
	}
	if hs == nil {
		return nil
	}
	was := x.hardState
	if hs.Term < was.Term || hs.Commit > last || (hs.Term == was.Term && was.Vote != 0 && hs.Vote != was.Vote) {
		return fmt.Errorf("appending %+v to the log after %+v, with %d as last entry", *hs, was, last)
	}
	return nil
}

// fit returns how many entries the next frame takes: what stays below its limits, and at least one.
func (l *Log) fit(entries []Entry) int {
	limit := min(frameTarget, l.options.SegmentBytes)
	size := int64(headerSize)
	for i := range entries {
		size += rowSize + int64(len(entries[i].Data))
		if size > limit && i > 0 {
			return i
		}
	}
	return len(entries)
}

// writeFrame writes a frame behind the one before and takes it up in the index.
func (l *Log) writeFrame(flags uint32, prevIndex uint64, hs HardState, entries []Entry) error {
	l.mu.RLock()
	prevTerm := l.index.term(prevIndex)
	l.mu.RUnlock()
	return l.put(header{flags: flags, prevIndex: prevIndex, prevTerm: prevTerm, hard: hs}, entries)
}

// put writes a frame, in the next segment if the active one has no room for it, and takes it up in
// the index. The caller has set what does not follow from the frame's place.
func (l *Log) put(h header, entries []Entry) error {
	l.settle(entries)
	size := int64(alignUp(frameSize(entries, l.bodies.spots)))
	beside := endings(l.bodies.spots)
	if l.written+size > l.active.size || beside > 0 && l.beside > 0 && l.written+size+l.beside+beside > l.options.SegmentBytes {
		if err := l.roll(size); err != nil {
			return err
		}
	}
	h.segment, h.offset, h.synced = l.active.number, uint64(l.written), uint64(l.synced)
	h.before, h.epoch, h.identity = l.sum, l.epoch, l.identity
	if err := l.writeBodies(entries); err != nil {
		return err
	}
	l.stage = grow(l.stage, int(size))
	encodeFrame(l.stage, &h, entries, l.bodies.spots)
	if _, err := l.active.file.WriteAt(l.stage[:size], l.written); err != nil {
		return l.fail("appending", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.replacing = l.replacing || h.prevIndex < l.index.last
	l.index.take(&h, l.stage, l.bodies.all)
	l.bodies.dropEnded()
	l.index.raiseCommit()
	l.written += size
	l.beside += beside
	l.sum = h.sum
	l.stats.Frames++
	l.stats.Written += uint64(size + beside)
	return nil
}

// take takes up a frame that was written or read: h is its header, b the frame; bodies has those that it names.
func (x *index) take(h *header, b []byte, bodies map[uint64]*body) {
	x.hardState = h.hard
	if h.flags&flagReset != 0 || h.prevIndex < x.base {
		x.reset(h.prevIndex, h.prevTerm)
	}
	if h.count == 0 {
		return
	}
	x.cut(h.prevIndex)
	at := headerSize + rowSize*int(h.count)
	for i := range int(h.count) {
		r := decodeRow(b[headerSize+rowSize*i:])
		p := place{offset: uint32(int(h.offset) + at), size: r.size, sum: r.sum, kind: r.kind}
		if r.blocks > 0 {
			p.spot = spot{bodies[h.bodies+uint64(r.body)], r.block, r.blocks}
		}
		x.add(r.term, p)
		at += p.inline()
	}
}

// grow returns a buffer of at least n bytes, b if it is one.
func grow(b []byte, n int) []byte {
	if len(b) >= n {
		return b
	}
	size := max(blockSize, len(b))
	for size < n {
		size *= 2
	}
	return disk.Aligned(size)
}

// Sync makes durable what was appended. It is one fdatasync, and one for each body that was written to; none if there is
// nothing new.
func (l *Log) Sync() error {
	if err := l.failure(); err != nil {
		return err
	}
	if l.written == l.synced {
		return nil
	}
	if err := l.syncBodies(); err != nil {
		return l.fail("syncing a body", err)
	}
	if err := l.active.file.Sync(); err != nil {
		return l.fail("syncing", err)
	}
	l.synced = l.written
	l.mu.Lock()
	defer l.mu.Unlock()
	l.begun, l.replacing = true, false
	l.stats.Syncs++
	return nil
}

// roll goes on to the next segment, with room for a frame of the given size. All of the one before
// is synced first: what is not the newest segment must be whole.
func (l *Log) roll(size int64) error {
	if err := l.Sync(); err != nil {
		return err
	}
	next, err := l.next()
	if err == nil && next.size < size {
		err = next.file.Allocate(0, size)
	}
	if errors.Is(err, disk.ErrNoSpace) {
		return fmt.Errorf("beginning a log segment: %w", err)
	}
	if err != nil {
		return l.fail("beginning a segment", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	next.size = max(next.size, size)
	l.ready = append(l.ready[:0], l.ready[1:]...)
	l.activate(next)
	return nil
}

// activate makes a segment the active one. mu is held.
func (l *Log) activate(s *segment) {
	s.first, s.places = l.index.last+1, s.places[:0]
	l.index.segments = append(l.index.segments, s)
	l.active, l.written, l.beside, l.synced, l.begun = s, 0, 0, 0, false
}

// next returns the first ready segment, which stays where it is, and makes one if there is none.
func (l *Log) next() (*segment, error) {
	if s := l.firstReady(); s != nil {
		return s, nil
	}
	l.naming.Lock()
	defer l.naming.Unlock()
	if s := l.firstReady(); s != nil {
		return s, nil // Prepare or Recycle came first
	}
	size := l.options.SegmentBytes
	// Only a new log has the time to wait until its segment is prepared as it should be.
	if err := l.makeFile(rollName, size, l.active == nil, nil); err != nil {
		return nil, err
	}
	if err := l.makeReady(rollName, &segment{size: size}); err != nil {
		return nil, err
	}
	return l.firstReady(), nil
}

func (l *Log) firstReady() *segment {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if len(l.ready) == 0 {
		return nil
	}
	return l.ready[0]
}

// Reset forgets all entries: the next one follows index, whose term is given. A snapshot of the state up
// to there must be durable already. It is durable when Reset returns; a crash before leaves the log
// as it was. Of the HardState term and vote stay; commit becomes index, because what a
// snapshot holds is committed, and nothing else is there any more.
//
// Errors are those of Append.
func (l *Log) Reset(index, term uint64) error {
	if err := l.failure(); err != nil {
		return err
	}
	if err := l.roll(blockSize); err != nil {
		return err
	}
	hs := l.HardState()
	hs.Commit = index
	if err := l.put(header{flags: flagReset, prevIndex: index, prevTerm: term, hard: hs}, nil); err != nil {
		return err
	}
	if err := l.Sync(); err != nil {
		return err
	}
	return l.Recycle(index)
}

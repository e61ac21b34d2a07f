package log

import (
	"slices"
	"sort"

	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
)

// place is where the data of an entry lies in its segment.
type place struct {
	offset uint32 // bytes
	size   uint32 // bytes
	sum    uint32 // CRC32C of the data
	kind   uint8
	spot   // of its end; offset is that of what comes before, which is in the segment
}

// inline is how many bytes of the data are in the segment.
func (p *place) inline() int { return int(p.size) - p.bytes() }

// segment is one file of the log.
type segment struct {
	number  uint64
	file    disk.File
	size    int64   // bytes of the file
	first   uint64  // index of places[0], or of the next entry if there is none
	places  []place // of the entries that have not been replaced
	readers int     // calls of Entries that read the file
	bodies  []*body // that its entries refer to, or did
}

// hold notes that an entry of the segment refers to a body.
func (s *segment) hold(b *body) {
	if b != nil && !slices.Contains(s.bodies, b) {
		s.bodies = append(s.bodies, b)
		b.holders++
	}
}

// end is one beyond the last index of the segment.
func (s *segment) end() uint64 { return s.first + uint64(len(s.places)) }

// run is the term of the entries from an index on.
type run struct{ first, term uint64 }

// index is what a log knows in memory: where each entry lies, and its term. Segments are in order,
// and so are their first indices, which may be equal where a segment has no entries.
type index struct {
	segments  []*segment // in use, oldest first; the last one is written to
	base      uint64     // index before the first entry
	baseTerm  uint64
	floor     uint64 // entries up to here have lost data that a checkpoint has superseded, or come before such a one
	last      uint64
	runs      []run // where the term changes; before the first one it is baseTerm
	hardState HardState
}

// readable returns the first index whose entry can be read, if it is there.
func (x *index) readable() uint64 { return max(x.base, x.floor) + 1 }

// newest returns the number of the segment that is written to, 0 if there is none yet.
func (x *index) newest() uint64 {
	if len(x.segments) == 0 {
		return 0
	}
	return x.segments[len(x.segments)-1].number
}

// term returns the term of an index between base and last.
func (x *index) term(i uint64) uint64 {
	k := sort.Search(len(x.runs), func(k int) bool { return x.runs[k].first > i })
	if k == 0 {
		return x.baseTerm
	}
	return x.runs[k-1].term
}

// segmentOf returns the segment of an entry that is there, as a place in segments.
func (x *index) segmentOf(i uint64) int {
	return sort.Search(len(x.segments), func(k int) bool { return x.segments[k].first > i }) - 1
}

// cut forgets the entries after index to, which is not below base.
func (x *index) cut(to uint64) {
	for k := len(x.segments) - 1; k >= 0; k-- {
		s := x.segments[k]
		if s.first <= to {
			s.places = s.places[:min(uint64(len(s.places)), to-s.first+1)]
			break
		}
		s.first, s.places = to+1, s.places[:0]
	}
	for len(x.runs) > 0 && x.runs[len(x.runs)-1].first > to {
		x.runs = x.runs[:len(x.runs)-1]
	}
	x.last = to
}

// reset forgets all entries; the next one follows the given one.
func (x *index) reset(base, term uint64) {
	for _, s := range x.segments {
		s.first, s.places = base+1, s.places[:0]
	}
	x.base, x.baseTerm, x.last, x.runs, x.floor = base, term, base, x.runs[:0], 0
}

// add takes up the entry after the last one, at its place in the newest segment.
func (x *index) add(term uint64, p place) {
	if term != x.term(x.last) {
		x.runs = append(x.runs, run{x.last + 1, term})
	}
	x.last++
	s := x.segments[len(x.segments)-1]
	s.places = append(s.places, p)
	s.hold(p.body)
}

// raiseCommit draws the conclusion that what is not here any more was committed. The HardState that
// said so may have been lost, or never written: the index alone is not worth a write.
func (x *index) raiseCommit() {
	x.hardState.Commit = max(x.hardState.Commit, x.base)
}

// dropOldest forgets the oldest segment with its entries, and returns it.
func (x *index) dropOldest() *segment {
	s := x.segments[0]
	x.segments = append(x.segments[:0], x.segments[1:]...)
	base := x.segments[0].first - 1
	x.base, x.baseTerm = base, x.term(base)
	x.raiseCommit()
	keep := sort.Search(len(x.runs), func(k int) bool { return x.runs[k].first > base })
	x.runs = append(x.runs[:0], x.runs[keep:]...)
	return s
}

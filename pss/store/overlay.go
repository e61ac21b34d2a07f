package store

import (
	"slices"
	"sync"
)

// object is the store's side of a volume or file.
type object struct {
	number uint64
	label  string // sanitised
	born   uint64 // index of the entry that made it
	folder string // name of its folder

	mu     sync.RWMutex
	active *layer // changes since the last freeze; nil if there are none
	frozen *layer // changes that are being flushed; nil if there are none

	// What is on disk as of the checkpoint; changed only at the end of a flush.
	base    map[uint16]*folderIndex
	baseSum uint32                  // of the pages of base
	next    map[uint16]*folderIndex // pages that the flush under way is going to replace; nil: none
	onDisk  bool                    // its folder was made
}

// layer holds what changed of an object in one generation of the overlay.
type layer struct {
	blocks map[uint64]cell
	chunks map[uint32]note // for every chunk with blocks in it, and every chunk dropped as a whole
	bytes  int64           // what it counts in the overlay
}

// cell is one version of a block.
type cell struct {
	data  *[BlockSize]byte // nil unless kind is Data; never changed once it is here
	index uint64           // of the entry that wrote it
	sum   uint32           // CRC32C of data
	src   int32            // where data begins in the entry of that index, or inline
	kind  Kind             // 0 in an answer of look: what is on disk counts
}

// inline is the src of a cell whose data is in no entry of the log as a whole.
const inline = -1

// note is what is known of a chunk in a layer.
type note struct {
	newest uint64 // index of the last entry that changed the chunk
	wiped  uint64 // the index of blocks not in layer.blocks if kind is Zeros; holes in a dropped chunk have none
	kind   Kind   // 0: it was not dropped as a whole; else what it was filled with; then layers below do not count
	count  uint16 // blocks of the chunk in layer.blocks
}

// hasFile says whether the chunk has, or will have, a file.
func (n note) hasFile() bool { return n.count > 0 || n.kind != Hole }

// Costs in bytes that a block and a chunk add to the overlay besides their data, about.
const (
	cellBytes = 64
	noteBytes = 64
)

// layer sizes beyond which the maps are not kept for the next generation.
const maxKeptCells = 1 << 17

// reset empties the layer for use in another generation.
func (l *layer) reset() {
	if len(l.blocks) > maxKeptCells {
		l.blocks = make(map[uint64]cell)
	}
	clear(l.blocks)
	clear(l.chunks)
	l.bytes = 0
}

// put makes c the newest version of a block, and n what is known of its chunk so far.
func (l *layer) put(block uint64, c cell, n *note) {
	before := len(l.blocks)
	l.blocks[block] = c
	n.count += uint16(len(l.blocks) - before)
	n.newest = c.index
}

// wipe makes the chunk one that was dropped as a whole.
func (l *layer) wipe(chunk uint32, kind Kind, index uint64) {
	n := l.chunks[chunk]
	if n.count > 0 {
		for b := range uint64(BlocksPerChunk) {
			delete(l.blocks, blockNumber(chunk, int(b)))
		}
	}
	n = note{newest: index, kind: kind}
	if kind == Zeros {
		n.wiped = index
	}
	l.chunks[chunk] = n
}

// blockNumber is the number in the object of block i of chunk.
func blockNumber(chunk uint32, i int) uint64 { return uint64(chunk)*BlocksPerChunk + uint64(i) }

// View says which state to look at.
type View uint8

// The views.
const (
	Newest     View = iota // everything applied
	Checkpoint             // the state at the index of the last Freeze, or of the checkpoint since Open
)

// newer returns the object's layers that v looks at, newest first. The caller holds o.mu.
func (o *object) newer(v View) [2]*layer {
	if v == Checkpoint {
		return [2]*layer{o.frozen, nil}
	}
	return [2]*layer{o.active, o.frozen}
}

// look finds the newest versions of the blocks first, first+1, … of chunk. Cells of kind 0 are to
// be taken from the disk, where the chunk has a file.
func (o *object) look(v View, chunk uint32, first int, cells []cell) {
	clear(cells)
	o.mu.RLock()
	defer o.mu.RUnlock()
	missing := len(cells)
	for _, l := range o.newer(v) {
		if l == nil {
			continue
		}
		n, ok := l.chunks[chunk]
		if !ok {
			continue
		}
		for i := range cells {
			if cells[i].kind != 0 {
				continue
			}
			if n.count > 0 {
				cells[i] = l.blocks[blockNumber(chunk, first+i)]
			}
			if cells[i].kind == 0 && n.kind != 0 {
				cells[i] = cell{kind: n.kind, index: n.wiped}
			}
			if cells[i].kind != 0 {
				missing--
			}
		}
		if missing == 0 {
			return
		}
	}
	if o.baseChunk(chunk)&hasFile != 0 {
		return
	}
	for i := range cells {
		if cells[i].kind == 0 {
			cells[i].kind = Hole
		}
	}
}

// baseChunk is the chunk's entry in the index on disk. The caller holds o.mu.
func (o *object) baseChunk(chunk uint32) uint64 {
	x := o.base[uint16(chunk/chunksPerDir)]
	if x == nil {
		return 0
	}
	return x.entries[chunk%chunksPerDir]
}

// pageSums is what a page of records must have for a sum, now and when the flush under way has written it; 0 is not
// known.
func (o *object) pageSums(k pageKey) (now, next uint32) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	folder, chunk, i := uint16(k.chunk()/chunksPerDir), k.chunk()%chunksPerDir, k.number%pagesPerChunk
	if x := o.base[folder]; x != nil {
		now = x.sums[chunk][i]
	}
	next = now
	if x := o.next[folder]; x != nil {
		next = x.sums[chunk][i]
	}
	return now, next
}

// chunk is the index of the last entry that changed the chunk, with hasFile if it has or will have
// a file; 0 if nothing changed it ever. The caller holds o.mu.
func (o *object) chunk(v View, chunk uint32) uint64 {
	for _, l := range o.newer(v) {
		if l == nil {
			continue
		}
		if n, ok := l.chunks[chunk]; ok {
			if n.hasFile() {
				return n.newest | hasFile
			}
			return n.newest
		}
	}
	return o.baseChunk(chunk)
}

// entry is chunk for those who do not hold o.mu.
func (o *object) entry(v View, chunk uint32) uint64 {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return o.chunk(v, chunk)
}

// walk calls fn for every chunk from the given one on that was ever changed, in order, with its
// entry as o.chunk gives it, until fn returns false. The object may change meanwhile: each chunk is
// seen in a state that it had at some time during the walk.
func (o *object) walk(v View, from uint32, fn func(chunk uint32, entry uint64) bool) {
	for _, folder := range o.folders(v, from) {
		var entries [chunksPerDir]uint64
		o.mu.RLock()
		for i := range entries {
			entries[i] = o.chunk(v, uint32(folder)*chunksPerDir+uint32(i))
		}
		o.mu.RUnlock()
		for i, e := range entries {
			chunk := uint32(folder)*chunksPerDir + uint32(i)
			if e != 0 && chunk >= from && !fn(chunk, e) {
				return
			}
		}
	}
}

// folders lists the folders that have changed chunks, in order.
func (o *object) folders(v View, from uint32) []uint16 {
	o.mu.RLock()
	defer o.mu.RUnlock()
	var list []uint16
	add := func(f uint16) {
		if uint32(f) >= from/chunksPerDir {
			list = append(list, f)
		}
	}
	for f := range o.base {
		add(f)
	}
	last := -1
	for _, l := range o.newer(v) {
		if l == nil {
			continue
		}
		for c := range l.chunks {
			if f := int(c / chunksPerDir); f != last { // most neighbours are of one folder
				add(uint16(f))
				last = f
			}
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

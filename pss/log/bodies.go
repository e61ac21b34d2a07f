package log

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
)

// Limits of bodies.
const (
	// BodyBytes is the size of a body: that of a chunk.
	BodyBytes  = 4 << 20
	bodyBlocks = BodyBytes / blockSize

	maxOpenBodies = 8    // that are written to; whoever begins one more ends the one begun first
	maxBodyAge    = 1024 // bodies begun since that end an open one: the rows of a frame name theirs by 16 bits
	freshBodies   = 8    // are made when no file was given to be used again
)

const bodySuffix = ".body"

// Home is where the end of an entry's data belongs for good: the blocks of 4096 bytes from Block on of a chunk of an
// object. They are the last Blocks*4096 bytes of Data, and Sums, if it is there, has the CRC32C of each, 4 bytes
// little-endian, which somebody has checked. Without Blocks there is no home.
type Home struct {
	Object        uint64
	Chunk         uint32
	Block, Blocks uint16
	Sums          []byte
}

// Body tells where the end of an entry's data lies: from the offset At in Data on, it is in a file of its own, at
// Block*4096 bytes.
type Body struct {
	File  string // name in the FS of the log
	Block int
	At    int // bytes
}

// body is a file with the ends of entries' data, each at its place in the chunk. No byte of it is written twice by the
// log. Once a checkpoint has made it the file of its chunk (a second name, disk.FS.Link), it is written by others.
type body struct {
	number uint64
	file   disk.File // nil if it is not there, and all that was in it is superseded

	// Of the writing goroutine.
	chunk chunkKey
	used  [bodyBlocks / 64]uint64
	left  int // blocks that are not used
	dirty bool

	holders int // segments with entries in it, and one for being open; guarded by Log.mu
}

type chunkKey struct {
	object uint64
	chunk  uint32
}

// spot is a part of a body; the zero value is none.
type spot struct {
	body          *body
	block, blocks uint16
}

func (s spot) bytes() int { return int(s.blocks) * blockSize }

func (s spot) offset() int64 { return int64(s.block) * blockSize }

// endings is how many bytes lie in bodies.
func endings(spots []spot) (bytes int64) {
	for _, s := range spots {
		bytes += int64(s.bytes())
	}
	return bytes
}

// claim takes blocks for an entry, if none of them is taken yet.
func (b *body) claim(block, blocks uint16) bool {
	for i := block; i < block+blocks; i++ {
		if b.used[i/64]&(1<<(i%64)) != 0 {
			return false
		}
	}
	for i := block; i < block+blocks; i++ {
		b.used[i/64] |= 1 << (i % 64)
	}
	b.left -= int(blocks)
	return true
}

// bodies are those that the log knows.
type bodies struct {
	next uint64 // number of the next one that is made; guarded by naming

	// Of the writing goroutine.
	open   []*body  // in the order they were begun
	ended  []*body  // since the last frame was taken up
	dirty  []*body  // written to since the last sync
	spots  []spot   // of the entries of a frame, see settle
	pieces [][]byte // of writeBodies

	// Guarded by mu.
	all    map[uint64]*body // with a holder
	ready  []*body          // to be begun, in this order; their names are durable
	dead   []*body          // without a holder: their files are to be removed
	spares []string         // names of files that may be made bodies
	wanted bool             // one was to be begun, and too few were ready
}

func bodyName(number uint64) string { return fmt.Sprintf("%0*x%s", digits, number, bodySuffix) }

func parseBodyName(name string) (number uint64, ok bool) {
	hex, ok := strings.CutSuffix(name, bodySuffix)
	number, err := strconv.ParseUint(hex, 16, 64)
	return number, ok && err == nil && name == bodyName(number)
}

// settle decides where the end of each entry's data is going to lie: in l.bodies.spots.
func (l *Log) settle(entries []Entry) {
	l.bodies.spots = l.bodies.spots[:0]
	for i := range entries {
		l.bodies.spots = append(l.bodies.spots, l.spotFor(&entries[i]))
	}
}

// spotFor finds blocks of a body for an entry, or none. A body is begun with the first block of a chunk, or next to one
// that is being written: what comes in order fills it, and then its blocks need not be written again.
func (l *Log) spotFor(e *Entry) spot {
	h := &e.Home
	if h.Blocks == 0 || l.options.Bodies == 0 || int(h.Block)+int(h.Blocks) > bodyBlocks || int(h.Blocks)*blockSize > len(e.Data) {
		return spot{}
	}
	key := chunkKey{h.Object, h.Chunk}
	b := l.openBody(key)
	if b != nil && !b.claim(h.Block, h.Blocks) { // the chunk is written once more
		l.end(b)
		b = nil
	}
	if b == nil {
		before := chunkKey{h.Object, h.Chunk - 1}
		if h.Block != 0 && (h.Chunk == 0 || l.openBody(before) == nil) {
			return spot{}
		}
		if b = l.beginBody(key); b == nil {
			return spot{}
		}
		b.claim(h.Block, h.Blocks)
	}
	if b.left == 0 {
		l.end(b)
	}
	return spot{b, h.Block, h.Blocks}
}

func (l *Log) openBody(key chunkKey) *body {
	for _, b := range l.bodies.open {
		if b.chunk == key {
			return b
		}
	}
	return nil
}

// beginBody opens a ready body for a chunk; there may be none.
func (l *Log) beginBody(key chunkKey) *body {
	l.mu.Lock()
	l.bodies.wanted = len(l.bodies.ready) <= l.options.Bodies/2
	if len(l.bodies.ready) == 0 {
		l.mu.Unlock()
		return nil
	}
	b := l.bodies.ready[0]
	l.bodies.ready = slices.Delete(l.bodies.ready, 0, 1)
	l.bodies.all[b.number] = b
	b.holders = 1
	l.mu.Unlock()
	b.chunk, b.left = key, bodyBlocks
	for len(l.bodies.open) > 0 && (len(l.bodies.open) >= maxOpenBodies || l.bodies.open[0].number+maxBodyAge <= b.number) {
		l.end(l.bodies.open[0])
	}
	l.bodies.open = append(l.bodies.open, b)
	return b
}

// end makes b one that nothing is added to any more. The frame that is being put may refer to it, so it is held until
// that has been taken up.
func (l *Log) end(b *body) {
	l.bodies.open = slices.DeleteFunc(l.bodies.open, func(o *body) bool { return o == b })
	l.bodies.ended = append(l.bodies.ended, b)
}

// dropEnded gives up the bodies that were ended. mu is held.
func (bs *bodies) dropEnded() {
	for _, b := range bs.ended {
		bs.drop(b)
	}
	clear(bs.ended)
	bs.ended = bs.ended[:0]
}

// drop gives up one holder. mu is held.
func (bs *bodies) drop(b *body) {
	if b.holders--; b.holders == 0 {
		delete(bs.all, b.number)
		bs.dead = append(bs.dead, b)
	}
}

// vectorWriter is offered by files that can write many pieces at once (pwritev(2)).
type vectorWriter interface {
	WriteVAt(bufs [][]byte, off int64) error
}

// writeBodies writes the ends of entries' data that settle found spots for; what lies side by side with one write.
func (l *Log) writeBodies(entries []Entry) error {
	spots := l.bodies.spots
	for i := 0; i < len(spots); {
		first := spots[i]
		if first.body == nil {
			i++
			continue
		}
		l.bodies.pieces = l.bodies.pieces[:0]
		n := 0
		for ; i < len(spots) && spots[i].body == first.body && int(spots[i].block) == int(first.block)+n/blockSize; i++ {
			data := entries[i].Data
			l.bodies.pieces = append(l.bodies.pieces, data[len(data)-spots[i].bytes():])
			n += spots[i].bytes()
		}
		if err := first.body.write(l.bodies.pieces, first.offset()); err != nil {
			return l.fail("appending", err)
		}
		clear(l.bodies.pieces)
		if !first.body.dirty {
			first.body.dirty = true
			l.bodies.dirty = append(l.bodies.dirty, first.body)
		}
	}
	return nil
}

// write writes pieces one behind the other. It may change the list of them.
func (b *body) write(pieces [][]byte, off int64) error {
	if v, ok := b.file.(vectorWriter); ok {
		return v.WriteVAt(pieces, off)
	}
	for _, p := range pieces {
		if _, err := b.file.WriteAt(p, off); err != nil {
			return err
		}
		off += int64(len(p))
	}
	return nil
}

// syncBodies makes durable what was written to bodies.
func (l *Log) syncBodies() error {
	for _, b := range l.bodies.dirty {
		if err := b.file.Sync(); err != nil {
			return err
		}
		b.dirty = false
	}
	clear(l.bodies.dirty)
	l.bodies.dirty = l.bodies.dirty[:0]
	return nil
}

// Body says where the end of an entry's data lies, if in a file of its own.
func (l *Log) Body(index uint64) (Body, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	x := &l.index
	if l.broken != nil || index < x.readable() || index > x.last {
		return Body{}, false
	}
	s := x.segments[x.segmentOf(index)]
	p := &s.places[index-s.first]
	if p.body == nil || p.body.file == nil {
		return Body{}, false
	}
	return Body{File: l.bodyFile(p.body), Block: int(p.block), At: int(p.size) - p.bytes()}, true
}

func (l *Log) bodyFile(b *body) string { return path.Join(l.dir, bodyName(b.number)) }

// Supersede tells the log that a checkpoint holds what the entries up to an index led to. From then on their bodies
// may be files that others write to: an entry that has changed in one is compacted away, as it were, with all before it.
func (l *Log) Supersede(index uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.superseded = max(l.superseded, index)
}

// Spare offers the log a file of up to BodyBytes that nobody else needs any more, by its name in the FS, to be written
// over as a body: its space need not be allocated. It reports false if the log has enough of them; if it takes the
// file, nobody else may use that name again. The name must be durable, and be removed after a crash.
func (l *Log) Spare(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken != nil || len(l.bodies.spares)+len(l.bodies.ready) >= l.options.Bodies {
		return false
	}
	l.bodies.spares = append(l.bodies.spares, name)
	return true
}

// prepareBodies makes bodies ready if some are wanted. naming is held.
func (l *Log) prepareBodies() error {
	l.mu.Lock()
	wanted, spares, ready := l.bodies.wanted, l.bodies.spares, len(l.bodies.ready)
	l.bodies.spares, l.bodies.wanted = nil, false
	l.mu.Unlock()
	if !wanted && len(spares) == 0 {
		return nil
	}
	var made []*body
	var b *body
	err := error(nil)
	for i, name := range spares {
		if b, err = l.makeBody(name); err != nil {
			for _, name := range spares[i+1:] { // better given back, if it is for want of space
				err = errors.Join(err, l.fs.Remove(name))
			}
			break
		}
		made = append(made, b)
	}
	for err == nil && wanted && ready+len(made) < min(freshBodies, l.options.Bodies) {
		if b, err = l.makeBody(""); err == nil {
			made = append(made, b)
		}
	}
	// Before a body's name is durable nothing that matters may be written to it.
	dirs := map[string]struct{}{l.dir: {}}
	for _, name := range spares {
		dirs[path.Dir(name)] = struct{}{}
	}
	for _, dir := range slices.Sorted(maps.Keys(dirs)) {
		if e := l.fs.SyncDir(dir); e != nil {
			return errors.Join(l.fail("making a body ready", e), closeBodies(made))
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bodies.ready = append(l.bodies.ready, made...)
	if err != nil && !errors.Is(err, disk.ErrNoSpace) {
		return l.breakWith("making a body ready", err)
	}
	return err
}

// makeBody makes a body with all its space, of a file that is there if it is given the name of one. If there is no room
// nothing is left of it. naming is held.
func (l *Log) makeBody(from string) (b *body, err error) {
	b = &body{number: l.bodies.next}
	l.bodies.next++
	name := path.Join(l.dir, bodyName(b.number))
	flags := disk.Create
	if from != "" {
		flags = 0
		if err := l.fs.Rename(from, name); err != nil {
			return nil, err
		}
	}
	// The page cache keeps what is written, as it does for chunks: it may be read soon.
	if b.file, err = l.fs.Open(name, flags); err != nil {
		return nil, err
	}
	if err = b.file.Allocate(0, BodyBytes); err != nil {
		err = errors.Join(err, b.file.Close(), l.fs.Remove(name))
	}
	return b, err
}

// removeDead removes the files of bodies that nothing refers to. A name that comes back after a crash is removed by
// Open. naming is held.
func (l *Log) removeDead() error {
	l.mu.Lock()
	dead := l.bodies.dead
	l.bodies.dead = nil
	l.mu.Unlock()
	for _, b := range dead {
		if b.file == nil {
			continue
		}
		if err := errors.Join(b.file.Close(), l.fs.Remove(l.bodyFile(b))); err != nil {
			return l.fail("removing a body", err)
		}
	}
	return nil
}

// readBody reads a part of a body into p, which is aligned; it reports how much there is.
func readBody(b *body, p []byte, off int64) (int, error) {
	if b.file == nil {
		return 0, nil
	}
	n, err := b.file.ReadAt(p, off)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// closeBodies closes files.
func closeBodies(list []*body) error {
	var errs []error
	for _, b := range list {
		if b.file != nil {
			errs = append(errs, b.file.Close())
		}
	}
	return errors.Join(errs...)
}

// close closes all files. mu is held.
func (bs *bodies) close() error {
	return errors.Join(closeBodies(slices.Collect(maps.Values(bs.all))), closeBodies(bs.ready), closeBodies(bs.dead))
}

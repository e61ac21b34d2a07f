package log

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"path"
	"slices"
	"sync"

	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
)

// Open opens the log in the folder dir of fs, and makes one if there is none. What a power cut left
// torn at its end is cut off; damage is a *DamageError (errors.As), and nothing is changed. What Open
// found is durable when it returns.
func Open(fs disk.FS, dir string, o Options) (_ *Log, err error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	l := &Log{fs: fs, dir: dir, options: o, superseded: o.Superseded}
	l.bodies.all = map[uint64]*body{}
	l.idle = sync.NewCond(&l.mu)
	r := &recovery{Log: l}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("opening the log: %w", err), r.close())
		}
	}()
	// A killed process may have left names that are not durable. Syncing the folder makes them so
	// before a segment is written under one of them.
	if err := disk.MakeFolder(fs, dir); err != nil {
		return nil, err
	}
	if err := r.list(); err != nil {
		return nil, err
	}
	if err := r.replay(); err != nil {
		return nil, err
	}
	if err := r.takeReady(); err != nil {
		return nil, err
	}
	if err := r.settleBodies(); err != nil {
		return nil, err
	}
	if err := l.begin(r.vouched); err != nil {
		return nil, err
	}
	return l, nil
}

// rewrite writes the frames of the active segment from an offset on once more, as they were read. A process before
// this one may have ended after a failed sync: the operating system then shows what it did not bring to the disk, and
// holds it for done, so that a sync alone would make nothing of it durable. A power cut meanwhile leaves what was there:
// nobody heard of these frames yet, or they are on the disk already and stay as they are.
func (l *Log) rewrite(from int64) error {
	for from < l.written {
		n := min(l.written-from, readBytes)
		l.stage = grow(l.stage, int(n))
		got, err := l.active.file.ReadAt(l.stage[:n], from)
		if err != nil && err != io.EOF {
			return err
		}
		clear(l.stage[got:n]) // the file may end within the filling of the last frame
		if _, err := l.active.file.WriteAt(l.stage[:n], from); err != nil {
			return err
		}
		from += n
	}
	return nil
}

// begin starts a new epoch, in a new segment if the log is new. Up to vouched the active segment is known to be synced.
func (l *Log) begin(vouched int64) error {
	l.epoch++
	if l.active != nil {
		if err := l.rewrite(vouched); err != nil {
			return err
		}
		if err := l.syncBodies(); err != nil {
			return err
		}
		if err := l.active.file.Sync(); err != nil {
			return err
		}
		// A crash may have kept the segment and lost the space that was reserved for it.
		size := max(l.active.size, l.options.SegmentBytes)
		if err := l.active.file.Allocate(0, size); err != nil {
			return err
		}
		l.active.size = size
		l.synced, l.begun = l.written, true
		return l.mark()
	}
	if l.identity = l.options.Identity; l.identity == 0 {
		var b [8]byte
		rand.Read(b[:]) // never fails
		l.identity = binary.LittleEndian.Uint64(b[:])
	}
	if err := l.roll(blockSize); err != nil {
		return err
	}
	return l.mark()
}

// recovery is a Log that is being opened.
type recovery struct {
	*Log
	files []*segment // all that were found, by number; those that are not in use are removed from it
	scan  scanner

	vouched int64 // of the active segment, what its last frame says was synced

	bodyNumbers []uint64 // of all files of bodies that were found
	endings     []ending // that the frames of the active segment name
	lost        uint64   // the last index whose body is not what it was any more

	missing *DamageError // a file between others is not there
	behind  int          // of files, the first one behind the last gap
}

// close closes the files, those that were found and those that were made.
func (r *recovery) close() error {
	for _, s := range slices.Concat(r.index.segments, r.ready) {
		if !slices.Contains(r.files, s) {
			r.files = append(r.files, s)
		}
	}
	return errors.Join(closeAll(r.files), r.bodies.close())
}

// list opens the segments' files and removes what was in the making.
func (r *recovery) list() error {
	entries, err := r.fs.ReadDir(r.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name == prepareName || e.Name == rollName {
			if err := r.fs.Remove(path.Join(r.dir, e.Name)); err != nil {
				return err
			}
		}
		if number, ok := parseBodyName(e.Name); ok {
			r.bodyNumbers = append(r.bodyNumbers, number)
		}
		number, ok := parseName(e.Name)
		if !ok {
			continue
		}
		if n := len(r.files); n > 0 && number != r.files[n-1].number+1 {
			r.missing, r.behind = &DamageError{File: path.Join(r.dir, segmentName(r.files[n-1].number+1)),
				What: "next number of a file", Want: r.files[n-1].number + 1, Got: number}, n
		}
		// A crash can leave a file shorter than it was to be, but not within a sector.
		if rest := e.Bytes % disk.SectorSize; rest != 0 {
			return &DamageError{File: path.Join(r.dir, e.Name), Offset: e.Bytes - rest,
				What: "bytes of the file in whole sectors", Want: uint64(e.Bytes - rest), Got: uint64(e.Bytes)}
		}
		f, err := r.open(e.Name, 0)
		if err != nil {
			return err
		}
		r.files = append(r.files, &segment{number: number, file: f, size: e.Bytes})
	}
	return nil
}

// replay reads the frames of all segments in use. If some are damaged, and those behind them can stand alone
// because what comes before is superseded, it gives up the former. Each frame repeats the HardState, and those
// that are left are the newest, so no vote is forgotten.
func (r *recovery) replay() error {
	damage := r.missing
	if damage == nil {
		if err := r.replayFrom(r.files); err == nil || !errors.As(err, &damage) {
			return err
		}
	}
	for j := max(1, r.behind); j < len(r.files) && r.options.Superseded > 0; j++ {
		if alone, err := r.standsAlone(r.files[j]); err != nil {
			return err
		} else if !alone {
			continue
		}
		r.index, r.active, r.written, r.sum, r.epoch, r.identity = index{}, nil, 0, 0, 0, 0
		r.forgetHolders()
		var again *DamageError
		if err := r.replayFrom(r.files[j:]); errors.As(err, &again) {
			continue
		} else if err != nil {
			return err
		}
		r.healed = damage
		return r.giveUpFiles(j)
	}
	return damage
}

// standsAlone says whether everything before a segment is superseded, as far as its header tells.
func (r *recovery) standsAlone(s *segment) (bool, error) {
	r.scan.open(s.file, s.size)
	block, err := r.scan.peek(0, headerSize)
	if err != nil {
		return false, fmt.Errorf("reading %s: %w", r.fileOf(s), err)
	}
	var h header
	return h.decode(block) && h.segment == s.number && h.offset == 0 && h.prevIndex <= r.options.Superseded, nil
}

// giveUpFiles removes the first n files, the oldest first.
func (r *recovery) giveUpFiles(n int) error {
	for range n {
		s := r.files[0]
		r.files = r.files[1:]
		if err := errors.Join(s.file.Close(), r.remove(s.number)); err != nil {
			return err
		}
	}
	return nil
}

// replayFrom reads the frames of all of these segments that are in use.
func (r *recovery) replayFrom(files []*segment) error {
	for i, s := range files {
		stop, err := r.replaySegment(s)
		if err != nil {
			return err
		}
		if stop > 0 {
			continue
		}
		// This segment was not begun, so the one before it is the newest.
		if i == 0 && s.number != 1 {
			return &DamageError{File: r.fileOf(s), What: "number of a log's first segment", Want: 1, Got: s.number}
		}
		if err := r.checkEnd(); err != nil {
			return err
		}
		return r.checkNotBegun(files[i:])
	}
	return r.checkEnd()
}

// replaySegment reads the frames of one segment and returns where they end: 0 if there are none.
// If there are, it becomes the active segment.
func (r *recovery) replaySegment(s *segment) (int64, error) {
	r.scan.open(s.file, s.size)
	for at := int64(0); ; {
		block, err := r.scan.peek(at, headerSize)
		if err != nil {
			return at, fmt.Errorf("reading %s: %w", r.fileOf(s), err)
		}
		var h header
		c, damage := r.look(&h, s, at, block)
		if next := headerGood | here | follows; c&next == next {
			frame, err := r.scan.peek(at, int(h.size))
			if err != nil {
				return at, fmt.Errorf("reading %s: %w", r.fileOf(s), err)
			}
			whole, err := r.whole(&h, frame)
			if err != nil {
				return at, fmt.Errorf("reading what %s refers to: %w", r.fileOf(s), err)
			}
			c |= bodyBad
			if whole {
				c = c&^bodyBad | bodyGood
			}
			block = frame
		} else {
			c |= bodyGood // it is not looked at
		}
		switch decide(frameRules[:], c) {
		case stop:
			return at, nil
		case damaged:
			if at == 0 && c&(stale|broken) != 0 && r.written < r.active.size {
				r.scan.open(r.active.file, r.active.size)
				return at, r.whatIsWrong(r.active, r.written)
			}
			return at, damage
		}
		if at == 0 {
			r.activate(s)
			r.endings = nil
		}
		if err := r.accept(&h, s, block); err != nil {
			return at, err
		}
		at += int64(alignUp(int(h.size)))
		r.written = at
	}
}

// look compares a header with where it was found. The damage it returns is what is wrong if the
// rules call it damage.
func (r *recovery) look(h *header, s *segment, at int64, block []byte) (c condition, damage *DamageError) {
	c = inside
	if at == 0 {
		c = atStart
	}
	if !h.decode(block) {
		if len(block) < headerSize || bytes.Count(block[:headerSize], []byte{0}) == headerSize {
			return c | headerZero | here | follows, nil
		}
		return c | headerBad | here | follows, r.badHeader(s, at, block)
	}
	c |= headerGood
	file, first := r.fileOf(s), len(r.index.segments) == 0
	if first && r.identity == 0 {
		r.identity = h.identity
	}
	switch {
	case h.identity != r.identity:
		return c | elsewhere | follows, &DamageError{file, at, "identity of the log", r.identity, h.identity}
	case h.segment < s.number:
		return c | older | follows, nil
	case h.segment > s.number:
		return c | elsewhere | follows, &DamageError{file, at, "number of the segment", s.number, h.segment}
	case h.offset != uint64(at):
		return c | elsewhere | follows, &DamageError{file, at, "offset of a frame", uint64(at), h.offset}
	}
	c |= here
	if first || h.before == r.sum {
		return c | follows, nil
	}
	damage = &DamageError{file, at, "checksum of the frame before", uint64(h.before), uint64(r.sum)}
	if at == 0 { // what is missing is the end of the segment before
		damage.File, damage.Offset = r.fileOf(r.active), r.written
	}
	if h.epoch < r.epoch {
		return c | stale, damage
	}
	return c | broken, damage
}

// badHeader says what is wrong with a header that is not one.
func (r *recovery) badHeader(s *segment, at int64, block []byte) *DamageError {
	le := binary.LittleEndian
	if got := le.Uint32(block); got != magic {
		return &DamageError{r.fileOf(s), at, "mark and version of the format", magic, uint64(got)}
	}
	return &DamageError{r.fileOf(s), at, "checksum of a header",
		uint64(le.Uint32(block[4:])), uint64(crc32.Checksum(block[8:headerSize], castagnoli))}
}

// accept takes up a frame after a look at whether it makes sense after those before it. A checksum
// can't be wrong by chance here; but bytes that were written by a wrong program are found too.
func (r *recovery) accept(h *header, s *segment, frame []byte) error {
	x := &r.index
	wrong := func(what string, want, got uint64) error {
		return &DamageError{r.fileOf(s), int64(h.offset), what, want, got}
	}
	if len(x.segments) == 1 && h.offset == 0 {
		x.reset(h.prevIndex, h.prevTerm)
	}
	last := h.prevIndex + uint64(h.count)
	inPlace := h.flags&flagReset == 0 && h.prevIndex >= x.base
	switch {
	case h.flags&^flagReset != 0:
		return wrong("flags of a frame", flagReset, uint64(h.flags))
	case h.synced > h.offset:
		return wrong("synced part at most", h.offset, h.synced)
	case h.epoch < r.epoch:
		return wrong("epoch at least", r.epoch, h.epoch)
	case h.hard.Commit > last:
		return wrong("commit index at most", last, h.hard.Commit)
	case inPlace && h.prevIndex > x.last:
		return wrong("index before a frame at most", x.last, h.prevIndex)
	case inPlace && h.count == 0 && h.prevIndex != x.last:
		return wrong("index before an empty frame", x.last, h.prevIndex)
	case inPlace && h.prevTerm != x.term(h.prevIndex):
		return wrong("term before a frame", x.term(h.prevIndex), h.prevTerm)
	case h.flags&flagReset == 0 && h.count > 0 && h.prevIndex < x.hardState.Commit:
		return wrong("index before a frame at least", x.hardState.Commit, h.prevIndex)
	}
	term := h.prevTerm
	for i := range int(h.count) {
		next := decodeRow(frame[headerSize+rowSize*i:]).term
		if next < term {
			return wrong("term of an entry at least", term, next)
		}
		term = next
	}
	x.take(h, frame, r.bodies.all)
	r.noteEndings(h, frame)
	r.sum, r.epoch, r.vouched = h.sum, h.epoch, int64(h.synced)
	return nil
}

// checkEnd decides whether the newest segment ends where its frames do.
func (r *recovery) checkEnd() error {
	if r.active == nil {
		return nil
	}
	return r.checkStop(r.active, r.written)
}

// checkNotBegun makes sure that none of these segments has ever been in use.
func (r *recovery) checkNotBegun(files []*segment) error {
	for i, s := range files {
		if i == 0 {
			if err := r.checkStop(s, 0); err != nil {
				return err
			}
			continue
		}
		r.scan.open(s.file, s.size)
		block, err := r.scan.peek(0, headerSize)
		if err != nil {
			return fmt.Errorf("reading %s: %w", r.fileOf(s), err)
		}
		var h header
		c, damage := r.look(&h, s, 0, block)
		if begun := headerGood | here; c&begun == begun {
			return &DamageError{File: r.fileOf(files[0]), What: "segments that were not begun up to",
				Want: s.number, Got: files[0].number}
		}
		if decide(frameRules[:], c|bodyGood) == damaged {
			return damage
		}
	}
	return nil
}

// checkStop decides whether what is at an offset, and is no frame, is the torn tail of a power
// cut: it is damage if a frame behind it says that it was synced.
func (r *recovery) checkStop(s *segment, at int64) error {
	c := notVouched
	r.scan.open(s.file, s.size)
	for off := at + blockSize; off < s.size; off += blockSize {
		block, err := r.scan.peek(off, headerSize)
		if err != nil {
			return fmt.Errorf("reading %s: %w", r.fileOf(s), err)
		}
		var h header
		if h.decode(block) && (r.identity == 0 || h.identity == r.identity) &&
			h.segment == s.number && h.offset == uint64(off) && h.synced > uint64(at) {
			c = vouched
			break
		}
	}
	if decide(endRules[:], c) == stop {
		return nil
	}
	return r.whatIsWrong(s, at)
}

// whatIsWrong describes what is at an offset where a frame must be.
func (r *recovery) whatIsWrong(s *segment, at int64) error {
	block, err := r.scan.peek(at, headerSize)
	if err != nil {
		return fmt.Errorf("reading %s: %w", r.fileOf(s), err)
	}
	var h header
	if len(block) < headerSize {
		return &DamageError{r.fileOf(s), at, "bytes of a header", headerSize, uint64(len(block))}
	}
	if !h.decode(block) {
		return r.badHeader(s, at, block)
	}
	if _, damage := r.look(&h, s, at, block); damage != nil {
		return damage
	}
	if h.segment != s.number { // an older one, though this one was begun
		return &DamageError{r.fileOf(s), at, "number of the segment", s.number, h.segment}
	}
	frame, err := r.scan.peek(at, int(h.size))
	if err != nil {
		return fmt.Errorf("reading %s: %w", r.fileOf(s), err)
	}
	if len(frame) < int(h.size) {
		return &DamageError{r.fileOf(s), at, "bytes of a frame", uint64(h.size), uint64(len(frame))}
	}
	err = r.check(&h, frame)
	var damage *DamageError
	switch {
	case err == nil: // it was not whole when it was read before
		damage = &DamageError{What: "reads that agree", Want: 2, Got: 1}
	case !errors.As(err, &damage):
		return err
	}
	if damage.File == "" {
		damage.File, damage.Offset = r.fileOf(s), at+damage.Offset
	}
	return damage
}

// takeReady keeps the segments that are not in use, have the right size and space reserved for it, and
// removes the others: the last one first, so that a crash leaves no gap.
func (r *recovery) takeReady() error {
	rest := r.files[len(r.index.segments):]
	for len(rest) > 0 && rest[0].size == r.options.SegmentBytes {
		err := rest[0].file.Allocate(0, rest[0].size)
		if errors.Is(err, disk.ErrNoSpace) {
			break
		}
		if err != nil {
			return err
		}
		r.ready = append(r.ready, rest[0])
		rest = rest[1:]
	}
	for len(rest) > 0 {
		s := rest[len(rest)-1]
		rest, r.files = rest[:len(rest)-1], r.files[:len(r.files)-1]
		if err := errors.Join(s.file.Close(), r.remove(s.number)); err != nil {
			return err
		}
	}
	r.stage = r.scan.buffer
	return nil
}

// condition is what recovery sees at a place where a frame may be: one bit of each line. A rule
// has all the bits for which it holds.
type condition uint16

const (
	atStart condition = 1 << iota // the place is the start of the segment
	inside                        // or not

	headerZero // the header is zeros, or beyond the end of the file
	headerBad  // it is neither zeros nor whole
	headerGood // it is whole

	here      // it belongs to this segment and place
	older     // it is from an older segment that the file was
	elsewhere // it belongs to another place or log; it may be data of a client that stores a log

	follows // it repeats the checksum of the frame before
	stale   // it does not, and is from an older epoch: it survived a power cut behind one that did not
	broken  // it does not, and should

	bodyGood // table and data are whole
	bodyBad  // they are not

	vouched    // a frame behind this place says that it was synced
	notVouched // none does
)

// verdict is what recovery does.
type verdict uint8

const (
	accept  verdict = iota // take up the frame and go on
	stop                   // there are no more frames in this segment
	damaged                // refuse to open the log
)

// rule gives the verdict for each condition that has no bit beyond those of when.
type rule struct {
	when condition
	then verdict
}

const (
	anywhere  = atStart | inside
	anyPlace  = here | older | elsewhere
	anyLink   = follows | stale | broken
	anyBody   = bodyGood | bodyBad
	untouched = anyPlace | anyLink | anyBody
)

// frameRules decides about a place where the next frame may be. A header lies in one sector, so at the
// start of a segment there is the header of this segment, or of an older one, or zeros; further inside
// there may be anything that a former use of the file, or a torn write, left there.
var frameRules = [...]rule{
	{anywhere | headerZero | untouched, stop},
	{inside | headerBad | untouched, stop},
	{atStart | headerBad | untouched, damaged},
	{anywhere | headerGood | older | anyLink | anyBody, stop},
	{inside | headerGood | elsewhere | anyLink | anyBody, stop},
	{atStart | headerGood | elsewhere | anyLink | anyBody, damaged},
	{anywhere | headerGood | here | stale | anyBody, stop},
	{anywhere | headerGood | here | broken | anyBody, damaged},
	{anywhere | headerGood | here | follows | bodyBad, stop},
	{anywhere | headerGood | here | follows | bodyGood, accept},
}

// endRules decides about the place where the frames of the newest segment stopped. That of an older
// one is proved by the first frame of the next, which follows.
var endRules = [...]rule{
	{vouched, damaged},
	{notVouched, stop},
}

// decide applies the one rule that matches.
func decide(rules []rule, c condition) verdict {
	for _, r := range rules {
		if c&^r.when == 0 {
			return r.then
		}
	}
	panic(fmt.Sprintf("no rule for condition %#x", c)) // a test goes through all of them
}

// scanner reads a file in order, a large piece at a time.
type scanner struct {
	file   disk.File
	size   int64
	buffer []byte // aligned
	at     int64  // offset of buffer in the file
	n      int    // bytes in buffer
}

// open begins with another file.
func (s *scanner) open(f disk.File, size int64) {
	s.file, s.size, s.at, s.n = f, size, 0, 0
}

// peek returns n bytes at an offset that is a multiple of blockSize, fewer at the end of the file. They
// are valid until the next call.
func (s *scanner) peek(off int64, n int) ([]byte, error) {
	if off < s.at || off+int64(n) > s.at+int64(s.n) {
		want := min(max(alignUp(int64(n)), readBytes), alignUp(max(0, s.size-off)))
		s.buffer = grow(s.buffer, int(want))
		got, err := s.file.ReadAt(s.buffer[:want], off)
		if err != nil && err != io.EOF {
			return nil, err
		}
		s.at, s.n = off, got
	}
	b := s.buffer[off-s.at : s.n]
	return b[:min(n, len(b))], nil
}

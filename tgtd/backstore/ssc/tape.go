package ssc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// What stops a tape. They are conditions, not failures; the drive's sense data tell them.
var (
	ErrFilemark  = errors.New("a filemark")
	ErrEnd       = errors.New("the end of data")
	ErrBeginning = errors.New("the beginning of the tape")
	ErrFull      = errors.New("the end of the tape")
	ErrWORM      = errors.New("what is on a WORM cartridge can't be overwritten")
	ErrCleaning  = errors.New("a cleaning cartridge")
	ErrReadOnly  = errors.New("the image can be read only")
)

const (
	// MaxBlock is the largest block that is written, in bytes; a larger one can be read as far as there is room.
	MaxBlock = 1 << 20
	// EarlyWarning is how long before the end of the tape writing warns, in bytes, on tapes of at least four
	// times that: the room in which a backup program ends its volume.
	EarlyWarning = 1 << 20
	// markBatch is how many filemarks are written at a time.
	markBatch = 1024
)

// file is what a tape asks of the system; tests put faults in between.
type file interface {
	io.ReaderAt
	io.WriterAt
	Truncate(size int64) error
	Sync() error // data and what is needed to find it
	Close() error
}

// position is in front of an object.
type position struct {
	offset, previous int64
	number           uint64 // of the object behind it; the first is 1
	marks            uint64 // filemarks before it
}

var origin = position{offset: firstOffset, number: 1}

// Tape is a cartridge in a drive. It is not safe for use by several goroutines.
type Tape struct {
	file     file
	readOnly bool
	memory   Memory
	at       position
	here     Header // the object behind at, once known
	known    bool
	dirty    bool // there is something that was not synced
	lost     error
	buf      []byte
	// BytesRead and BytesWritten count the data of blocks since the tape was loaded.
	BytesRead, BytesWritten uint64
}

// load makes a Tape of an open image, at its beginning. It fails with a *VersionError or a *DamageError for what
// is no image.
func load(f file, readOnly bool) (*Tape, error) {
	_, m, err := readFront(f)
	if err != nil {
		return nil, err
	}
	return &Tape{file: f, readOnly: readOnly, memory: m, at: origin, buf: make([]byte, HeaderBytes)}, nil
}

// Memory describes the cartridge.
func (t *Tape) Memory() Memory { return t.memory }

// ReadOnly says whether the image could be opened for reading only.
func (t *Tape) ReadOnly() bool { return t.readOnly }

// Number is the position: how many blocks and filemarks lie before it.
func (t *Tape) Number() uint64 { return t.at.number - 1 }

// Marks is how many filemarks lie before the position.
func (t *Tape) Marks() uint64 { return t.at.marks }

// left is how many bytes fit behind the position.
func (t *Tape) left() int64 { return int64(t.memory.Capacity) - (t.at.offset - firstOffset) }

// Warned says whether the position is close to the end of the tape.
func (t *Tape) Warned() bool {
	return t.memory.Capacity >= 4*EarlyWarning && t.left() < EarlyWarning
}

// object reads the header behind the position.
func (t *Tape) object() (*Header, error) {
	if t.known {
		return &t.here, nil
	}
	h, err := t.header(t.at.offset)
	if err != nil {
		return nil, err
	}
	if h.Kind == Begin || h.Number != t.at.number || h.Previous != t.at.previous {
		return nil, &DamageError{t.at.offset, fmt.Sprintf("object %d instead of %d", h.Number, t.at.number)}
	}
	t.here, t.known = h, true
	return &t.here, nil
}

func (t *Tape) header(offset int64) (Header, error) {
	n, err := t.file.ReadAt(t.buf[:HeaderBytes], offset)
	if n < HeaderBytes {
		if err == io.EOF {
			return Header{}, &DamageError{offset, "the file ends"}
		}
		return Header{}, fmt.Errorf("read a tape header: %w", err)
	}
	return parseHeader(t.buf[:HeaderBytes], offset)
}

// forward goes behind the object h.
func (t *Tape) forward(h *Header) {
	if h.Kind == Filemark {
		t.at.marks++
	}
	t.at.previous, t.at.offset = t.at.offset, h.Next
	t.at.number++
	t.known = false
}

// back goes in front of the object before, and returns it. It fails with ErrBeginning.
func (t *Tape) back() (*Header, error) {
	if t.at.number == 1 {
		return nil, ErrBeginning
	}
	h, err := t.header(t.at.previous)
	if err != nil {
		return nil, err
	}
	if h.Number != t.at.number-1 || h.Next != t.at.offset {
		return nil, &DamageError{t.at.previous, fmt.Sprintf("object %d instead of %d", h.Number, t.at.number-1)}
	}
	if h.Kind == Filemark {
		t.at.marks--
	}
	t.at.offset, t.at.previous, t.at.number = h.Self, h.Previous, h.Number
	t.here, t.known = h, true
	return &t.here, nil
}

// usable refuses the cartridges that hold no data.
func (t *Tape) usable() error {
	if t.memory.Medium == CleaningMedium {
		return ErrCleaning
	}
	return nil
}

// Read reads the next block into b, as much of it as there is room for, and returns the block's size. It fails
// with ErrFilemark, behind which the tape then stands, ErrEnd, ErrCleaning, or a *DamageError.
func (t *Tape) Read(b []byte) (size int, err error) {
	if err := t.usable(); err != nil {
		return 0, err
	}
	h, err := t.object()
	if err != nil {
		return 0, err
	}
	switch h.Kind {
	case End:
		return 0, ErrEnd
	case Filemark:
		t.forward(h)
		return 0, ErrFilemark
	}
	size = int(h.Size)
	want := b[:min(len(b), size)]
	if n, err := t.file.ReadAt(want, h.Self+HeaderBytes); n < len(want) {
		if err == io.EOF {
			return 0, &DamageError{h.Self, fmt.Sprintf("the file ends %d bytes into a block of %d", n, size)}
		}
		return 0, fmt.Errorf("read a block of %d bytes at byte %d: %w", size, h.Self, err)
	}
	t.BytesRead += uint64(len(want))
	t.forward(h)
	return size, nil
}

// writable prepares for writing need bytes at the position: what is there now ends.
func (t *Tape) writable(need int64) error {
	switch {
	case t.lost != nil:
		return t.lost
	case t.readOnly:
		return ErrReadOnly
	case t.memory.Medium == CleaningMedium:
		return ErrCleaning
	case need > t.left():
		return ErrFull
	}
	h, err := t.object()
	var damage *DamageError
	if err != nil && !errors.As(err, &damage) {
		return err
	}
	if err == nil && h.Kind == End {
		return nil
	}
	if t.memory.Medium == WORMMedium {
		return ErrWORM
	}
	return t.cut()
}

// cut ends the tape at the position.
func (t *Tape) cut() error {
	end := t.end(t.at)
	end.put(t.buf)
	t.dirty = true
	t.known = false
	if _, err := t.file.WriteAt(t.buf[:HeaderBytes], t.at.offset); err != nil {
		return fmt.Errorf("end the tape at byte %d: %w", t.at.offset, err)
	}
	if err := t.file.Truncate(t.at.offset + HeaderBytes); err != nil {
		return fmt.Errorf("cut the tape at byte %d: %w", t.at.offset, err)
	}
	t.ends(t.at, end)
	return nil
}

// ends notes that the tape now ends at the position at, where it stands.
func (t *Tape) ends(at position, end Header) {
	t.at, t.here, t.known = at, end, true
	t.memory.Remaining = uint64(max(0, t.left()))
}

func (t *Tape) end(at position) Header {
	return Header{Kind: End, Number: at.number, Previous: at.previous, Self: at.offset, Next: at.offset}
}

// Write writes a block at the position and goes behind it. What was there and behind it is lost. It fails with
// ErrFull, ErrWORM, ErrCleaning, ErrReadOnly or the system's error; the tape then ends at the position at
// the latest.
func (t *Tape) Write(b []byte) error {
	if len(b) == 0 || len(b) > MaxBlock {
		return fmt.Errorf("a block of %d bytes is not in 1…%d", len(b), MaxBlock)
	}
	if err := t.writable(int64(HeaderBytes + len(b))); err != nil {
		return err
	}
	h := Header{
		OnMedium: uint32(len(b)), Size: uint32(len(b)), Kind: Data, Number: t.at.number,
		Previous: t.at.previous, Self: t.at.offset, Next: t.at.offset + HeaderBytes + int64(len(b)),
	}
	t.dirty = true
	if _, err := t.file.WriteAt(b, h.Self+HeaderBytes); err != nil {
		return fmt.Errorf("write a block at byte %d: %w", h.Self, err)
	}
	next := position{offset: h.Next, previous: h.Self, number: h.Number + 1, marks: t.at.marks}
	end := t.end(next)
	end.put(t.buf)
	if _, err := t.file.WriteAt(t.buf[:HeaderBytes], end.Self); err != nil {
		return fmt.Errorf("write an end of data at byte %d: %w", end.Self, err)
	}
	h.put(t.buf)
	if _, err := t.file.WriteAt(t.buf[:HeaderBytes], h.Self); err != nil {
		t.known = false
		return fmt.Errorf("write a header at byte %d: %w", h.Self, err)
	}
	t.ends(next, end)
	t.BytesWritten += uint64(len(b))
	return nil
}

// WriteFilemarks writes n filemarks at the position and goes behind them; it fails as Write does, and then
// none or a part of them is written.
func (t *Tape) WriteFilemarks(n int) error {
	if n == 0 {
		return nil
	}
	if err := t.writable(HeaderBytes * int64(n)); err != nil {
		return err
	}
	for n > 0 {
		batch := min(n, markBatch)
		if err := t.writeMarks(batch); err != nil {
			return err
		}
		n -= batch
	}
	return nil
}

func (t *Tape) writeMarks(n int) error {
	b := make([]byte, (n+1)*HeaderBytes)
	at := t.at
	for i := range n {
		h := Header{Kind: Filemark, Number: at.number, Previous: at.previous, Self: at.offset,
			Next: at.offset + HeaderBytes}
		h.put(b[i*HeaderBytes:])
		at = position{offset: h.Next, previous: h.Self, number: h.Number + 1, marks: at.marks + 1}
	}
	end := t.end(at)
	end.put(b[n*HeaderBytes:])
	t.dirty = true
	if _, err := t.file.WriteAt(b[HeaderBytes:], t.at.offset+HeaderBytes); err != nil {
		return fmt.Errorf("write filemarks at byte %d: %w", t.at.offset, err)
	}
	if _, err := t.file.WriteAt(b[:HeaderBytes], t.at.offset); err != nil {
		t.known = false
		return fmt.Errorf("write a filemark at byte %d: %w", t.at.offset, err)
	}
	t.ends(at, end)
	return nil
}

// Erase ends the tape at the position. It fails as Write does.
func (t *Tape) Erase() error {
	return t.writable(0)
}

// Rewind goes to the beginning.
func (t *Tape) Rewind() {
	t.at, t.known = origin, false
}

// SpaceBlocks moves over n blocks, backwards if n is negative. left is how many it did not move over: it stops
// behind a filemark (in front of it when going backwards) with ErrFilemark, and with ErrEnd or ErrBeginning.
func (t *Tape) SpaceBlocks(n int64) (left int64, err error) { return t.space(n, false) }

// SpaceFilemarks moves over n filemarks, backwards if n is negative. left is how many it did not move
// over: it stops with ErrEnd or ErrBeginning.
func (t *Tape) SpaceFilemarks(n int64) (left int64, err error) { return t.space(n, true) }

// space moves over n objects of the kind that is counted: filemarks, which blocks are passed over for, or blocks,
// which a filemark ends.
func (t *Tape) space(n int64, filemarks bool) (left int64, err error) {
	for n > 0 {
		h, err := t.object()
		switch {
		case err != nil:
			return n, err
		case h.Kind == End:
			return n, ErrEnd
		}
		t.forward(h)
		switch mark := h.Kind == Filemark; {
		case mark == filemarks:
			n--
		case mark:
			return n, ErrFilemark
		}
	}
	for n < 0 {
		h, err := t.back()
		if err != nil {
			return -n, err
		}
		switch mark := h.Kind == Filemark; {
		case mark == filemarks:
			n++
		case mark:
			return -n, ErrFilemark
		}
	}
	return 0, nil
}

// SpaceEnd moves to the end of data.
func (t *Tape) SpaceEnd() error {
	for {
		h, err := t.object()
		if err != nil {
			return err
		}
		if h.Kind == End {
			return nil
		}
		t.forward(h)
	}
}

// Locate moves to where n blocks and filemarks lie before the position. It fails with ErrEnd, at the
// end of data, when there are fewer.
func (t *Tape) Locate(n uint64) error {
	if n < t.Number()/2 {
		t.Rewind()
	}
	for t.Number() > n {
		if _, err := t.back(); err != nil {
			return err
		}
	}
	for t.Number() < n {
		h, err := t.object()
		switch {
		case err != nil:
			return err
		case h.Kind == End:
			return ErrEnd
		}
		t.forward(h)
	}
	return nil
}

// LocateFile moves behind the nth filemark, 0 being the beginning. It fails with ErrEnd when there are fewer.
func (t *Tape) LocateFile(n uint64) error {
	t.Rewind()
	for t.at.marks < n {
		if _, err := t.SpaceFilemarks(1); err != nil {
			return err
		}
	}
	return nil
}

// Sync makes everything written durable and brings the medium memory up to date. After it has failed, the
// state of what was written is unknown, and the cartridge can be written again only after it was loaded anew.
func (t *Tape) Sync() error {
	if t.lost != nil || !t.dirty {
		return t.lost
	}
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], t.memory.Remaining)
	if _, err := t.file.WriteAt(b[:], atRemaining); err != nil {
		return fmt.Errorf("write the medium memory: %w", err)
	}
	if err := t.file.Sync(); err != nil {
		t.lost = fmt.Errorf("sync the tape: %w", err)
		return t.lost
	}
	t.dirty = false
	return nil
}

// close syncs and gives the file back.
func (t *Tape) close() error {
	var err error
	if t.dirty {
		err = t.Sync()
	}
	return errors.Join(err, t.file.Close())
}

package store

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"

	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
)

// `checkpoint` and `prepared` have the same format: the latter becomes the former by its name.
//
//	file     "PSSCHKPT", u32 version 2, u32 0, sections
//	section  u32 type, u32 size of the payload, u32 CRC32C, payload
//
// A section's CRC covers the CRC before it, type, size and payload, so that no section can be lost,
// doubled or exchanged; the first one continues the CRC of the file's 16 bytes. Sections come in the
// order of their types. All integers are little-endian.
//
//	1 head     u64 sequence number, u64 index, u64 term, u64 bytes of meta, u32 objects, u32 0
//	2 objects  several times, in order of number: u64 number, u64 born, u32 index pages,
//	           u32 exclusive or of their sums, u8 size of the label, label
//	3 meta     a piece of it
//	4 chunk    what a flush changes in a chunk; see chunkChange
//	5 staged   a chunk that was staged: u64 object, u32 chunk, u32 flags, u64 index, 4 u32 sums of its records
//	6 end      u64 number of sections before
//
// Sections 4 and 5 are in order of object and chunk. They are of no interest once the file is
// called `checkpoint`. Version 1 had no sums of records in sections 4 and 5.
const (
	magic         = "PSSCHKPT"
	formatVersion = 2
	oldestVersion = 1 // that is understood

	// Sizes in bytes.
	fileHeadSize  = 16
	sectionHead   = 12
	headSize      = 40
	objectHead    = 25
	stagedSize    = 24 + sumsSize
	chunkHeadSize = 40 + sumsSize
	sumsSize      = 4 * pagesPerChunk // not in version 1
	listedSize    = 24                // of a block in section 4

	// Limits in bytes.
	maxSection   = chunkHeadSize + BlocksPerChunk*(listedSize+BlockSize) // of a payload
	metaPiece    = 256 << 10                                             // of meta in a section
	objectsPiece = 256 << 10                                             // of the object table in a section
	writeStep    = 1 << 20                                               // of what is written at once, about
)

const (
	sectionHeader = iota + 1
	sectionObjects
	sectionMeta
	sectionChunk
	sectionStaged
	sectionEnd
)

// objectEntry is an object in the table of a checkpoint.
type objectEntry struct {
	Object
	pages    uint32 // of its index
	indexSum uint32
}

// checkpoint is the content of a checkpoint file without its changes.
type checkpoint struct {
	seq     uint64
	index   uint64
	term    uint64
	meta    []byte
	objects []objectEntry
}

// chunkChange is what a flush does to a chunk:
//
//	 0  u64  object
//	 8  u32  chunk
//	12  u32  flags
//	16  u64  index of the last entry that changed the chunk
//	24  u32  4 sums of the pages of the chunk's records afterwards; see pageSum
//	40  u64  wiped: the index of blocks that are not listed, with changeKeep; else 0
//	48  u32  blocks listed
//	52  u32  0
//	56       blocks: u16 number in the chunk, u8 kind, u8 source, u32 sum, u64 index, u32 offset, u32 0
//	         the bytes of the blocks with source 2, in order
//
// Source 0 stands for no data, 1 for data at offset of the log entry with the block's index, 2 for
// data in this section.
type chunkChange struct {
	object uint64
	chunk  uint32
	flags  changeFlags
	index  uint64
	sums   [pagesPerChunk]uint32
	wiped  uint64
	blocks []blockChange
}

type blockChange struct {
	number uint16 // in the chunk
	cell
}

// changeFlags are part of the disk format.
type changeFlags uint32

const (
	changeEmpty  changeFlags = 1 << iota // whatever the chunk held is gone, or there was nothing
	changeFile                           // the chunk has a file afterwards
	changeKeep                           // with changeEmpty: blocks not listed are Zeros, not Hole
	changeStaged                         // the chunk is replaced by the staged one; only in section 5
	changeAll    = changeEmpty | changeFile | changeKeep
)

const (
	sourceNone = iota
	sourceEntry
	sourceInline
)

// sectionWriter writes sections to a file. After an error it does nothing more.
type sectionWriter struct {
	f     disk.File
	off   int64 // of buf in the file
	buf   []byte
	start int // of the section being made in buf
	sum   uint32
	count uint64
	err   error
}

func newSectionWriter(f disk.File, buf []byte) *sectionWriter {
	b := append(buf[:0], magic...)
	b = binary.LittleEndian.AppendUint32(b, formatVersion)
	b = binary.LittleEndian.AppendUint32(b, 0)
	return &sectionWriter{f: f, buf: b, sum: crc32.Checksum(b, castagnoli)}
}

// begin starts a section; its payload is appended to w.buf.
func (w *sectionWriter) begin() {
	w.start = len(w.buf)
	w.buf = append(w.buf, make([]byte, sectionHead)...)
}

// size is the size of the payload so far.
func (w *sectionWriter) size() int { return len(w.buf) - w.start - sectionHead }

// end completes a section.
func (w *sectionWriter) end(kind uint32) {
	b := w.buf[w.start:]
	binary.LittleEndian.PutUint32(b[0:], kind)
	binary.LittleEndian.PutUint32(b[4:], uint32(w.size()))
	w.sum = crc32.Update(crc32.Update(w.sum, castagnoli, b[:8]), castagnoli, b[sectionHead:])
	binary.LittleEndian.PutUint32(b[8:], w.sum)
	w.count++
	if len(w.buf) >= writeStep || kind == sectionEnd {
		w.write()
	}
}

func (w *sectionWriter) write() {
	if w.err == nil {
		_, w.err = w.f.WriteAt(w.buf, w.off)
	}
	w.off += int64(len(w.buf))
	w.buf = w.buf[:0]
}

// head writes everything of a checkpoint before its changes.
func (w *sectionWriter) head(c *checkpoint) {
	le := binary.LittleEndian
	w.begin()
	for _, v := range [...]uint64{c.seq, c.index, c.term, uint64(len(c.meta))} {
		w.buf = le.AppendUint64(w.buf, v)
	}
	w.buf = le.AppendUint32(w.buf, uint32(len(c.objects)))
	w.buf = le.AppendUint32(w.buf, 0)
	w.end(sectionHeader)
	for list := c.objects; len(list) > 0; {
		w.begin()
		for len(list) > 0 && w.size() <= objectsPiece-objectHead-maxLabel {
			x := &list[0]
			list = list[1:]
			w.buf = le.AppendUint64(w.buf, x.Number)
			w.buf = le.AppendUint64(w.buf, x.Born)
			w.buf = le.AppendUint32(w.buf, x.pages)
			w.buf = le.AppendUint32(w.buf, x.indexSum)
			w.buf = append(append(w.buf, byte(len(x.Label))), x.Label...)
		}
		w.end(sectionObjects)
	}
	for meta := c.meta; len(meta) > 0; {
		n := min(len(meta), metaPiece)
		w.begin()
		w.buf = append(w.buf, meta[:n]...)
		w.end(sectionMeta)
		meta = meta[n:]
	}
}

// change writes what a flush or an installation does to a chunk.
func (w *sectionWriter) change(c *chunkChange) {
	le := binary.LittleEndian
	w.begin()
	w.buf = le.AppendUint64(w.buf, c.object)
	w.buf = le.AppendUint32(w.buf, c.chunk)
	w.buf = le.AppendUint32(w.buf, uint32(c.flags))
	w.buf = le.AppendUint64(w.buf, c.index)
	for _, sum := range c.sums {
		w.buf = le.AppendUint32(w.buf, sum)
	}
	if c.flags&changeStaged != 0 {
		w.end(sectionStaged)
		return
	}
	w.buf = le.AppendUint64(w.buf, c.wiped)
	w.buf = le.AppendUint32(w.buf, uint32(len(c.blocks)))
	w.buf = le.AppendUint32(w.buf, 0)
	for i := range c.blocks {
		b := &c.blocks[i]
		source, offset := byte(sourceNone), uint32(0)
		switch {
		case b.data == nil:
		case b.src == inline:
			source = sourceInline
		default:
			source, offset = sourceEntry, uint32(b.src)
		}
		w.buf = le.AppendUint16(w.buf, b.number)
		w.buf = append(w.buf, byte(b.kind), source)
		w.buf = le.AppendUint32(w.buf, b.sum)
		w.buf = le.AppendUint64(w.buf, b.index)
		w.buf = le.AppendUint32(w.buf, offset)
		w.buf = le.AppendUint32(w.buf, 0)
	}
	for i := range c.blocks {
		if b := &c.blocks[i]; b.data != nil && b.src == inline {
			w.buf = append(w.buf, b.data[:]...)
		}
	}
	w.end(sectionChunk)
}

// finish writes the end section and returns the first error of all.
func (w *sectionWriter) finish() error {
	w.begin()
	w.buf = binary.LittleEndian.AppendUint64(w.buf, w.count)
	w.end(sectionEnd)
	return w.err
}

// errFormat is wrapped by what the decoder has to say about bytes that are no checkpoint.
var errFormat = errors.New("not a checkpoint")

// sectionReader reads what sectionWriter wrote.
type sectionReader struct {
	r     io.Reader
	off   int64
	size  int64 // of the file
	sum   uint32
	count uint64
	buf   []byte

	version uint32
}

func newSectionReader(r io.Reader, size int64) (*sectionReader, error) {
	var b [fileHeadSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return nil, tornOr(err)
	}
	if string(b[:8]) != magic || binary.LittleEndian.Uint32(b[12:]) != 0 {
		return nil, fmt.Errorf("%w: no magic", errFormat)
	}
	v := binary.LittleEndian.Uint32(b[8:])
	if v < oldestVersion || v > formatVersion {
		return nil, fmt.Errorf("%w: version %d", errFormat, v)
	}
	return &sectionReader{r: r, version: v, off: fileHeadSize, size: size, sum: crc32.Checksum(b[:], castagnoli)}, nil
}

// tornOr makes the end of the file a matter of format, and leaves other errors alone.
func tornOr(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it ends too early", errFormat)
	}
	return err
}

// next returns the next section. The payload is good until the call after.
func (r *sectionReader) next() (kind uint32, payload []byte, err error) {
	var h [sectionHead]byte
	if _, err := io.ReadFull(r.r, h[:]); err != nil {
		return 0, nil, tornOr(err)
	}
	le := binary.LittleEndian
	kind, size := le.Uint32(h[0:]), int64(le.Uint32(h[4:]))
	if size > maxSection || size > r.size-r.off-sectionHead {
		return 0, nil, fmt.Errorf("%w: a section of %d bytes at %d", errFormat, size, r.off)
	}
	if int64(cap(r.buf)) < size {
		r.buf = make([]byte, size)
	}
	payload = r.buf[:size]
	if _, err := io.ReadFull(r.r, payload); err != nil {
		return 0, nil, tornOr(err)
	}
	r.sum = crc32.Update(crc32.Update(r.sum, castagnoli, h[:8]), castagnoli, payload)
	if r.sum != le.Uint32(h[8:]) {
		return 0, nil, fmt.Errorf("%w: checksum of the section at %d", errFormat, r.off)
	}
	r.off += sectionHead + size
	r.count++
	return kind, payload, nil
}

// decodeCheckpoint reads a checkpoint of size bytes. If change is nil it stops before the changes;
// otherwise it calls change for each of them, whose data is set only where it is in the file, and is
// good until change returns. Errors that are about the bytes wrap errFormat.
func decodeCheckpoint(from io.Reader, size int64, change func(*chunkChange) error) (*checkpoint, error) {
	r, err := newSectionReader(from, size)
	if err != nil {
		return nil, err
	}
	c, err := r.head()
	if err != nil || change == nil {
		return c, err
	}
	var ch chunkChange
	var last *chunkChange
	for {
		kind, p, err := r.next()
		if err != nil {
			return nil, err
		}
		if kind == sectionEnd {
			if len(p) != 8 || binary.LittleEndian.Uint64(p) != r.count-1 {
				return nil, fmt.Errorf("%w: %d sections", errFormat, r.count)
			}
			return c, nil
		}
		before := ch
		if err := ch.decode(kind, p, r.version); err != nil {
			return nil, err
		}
		if last != nil && (ch.object < before.object || ch.object == before.object && ch.chunk <= before.chunk) {
			return nil, fmt.Errorf("%w: chunks out of order", errFormat)
		}
		if c.find(ch.object) == nil {
			return nil, fmt.Errorf("%w: a chunk of object %d, which is not in the table", errFormat, ch.object)
		}
		last = &ch
		if err := change(&ch); err != nil {
			return nil, err
		}
	}
}

// head reads everything before the changes.
func (r *sectionReader) head() (*checkpoint, error) {
	kind, p, err := r.next()
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	if kind != sectionHeader || len(p) != headSize || le.Uint32(p[36:]) != 0 {
		return nil, fmt.Errorf("%w: no head", errFormat)
	}
	c := &checkpoint{seq: le.Uint64(p[0:]), index: le.Uint64(p[8:]), term: le.Uint64(p[16:])}
	metaSize, objects := le.Uint64(p[24:]), int(le.Uint32(p[32:]))
	if metaSize > MaxMeta || objects > MaxObjects || c.index >= hasFile {
		return nil, fmt.Errorf("%w: %d bytes of meta, %d objects, index %d", errFormat, metaSize, objects, c.index)
	}
	for len(c.objects) < objects {
		kind, p, err := r.next()
		if err != nil {
			return nil, err
		}
		if kind != sectionObjects || len(p) == 0 {
			return nil, fmt.Errorf("%w: section %d instead of objects", errFormat, kind)
		}
		if err := c.decodeObjects(p, objects); err != nil {
			return nil, err
		}
	}
	for uint64(len(c.meta)) < metaSize {
		kind, p, err := r.next()
		if err != nil {
			return nil, err
		}
		if kind != sectionMeta || len(p) == 0 || uint64(len(p)) > metaSize-uint64(len(c.meta)) {
			return nil, fmt.Errorf("%w: section %d of %d bytes instead of meta", errFormat, kind, len(p))
		}
		c.meta = append(c.meta, p...)
	}
	return c, nil
}

// decodeObjects takes the objects from a section.
func (c *checkpoint) decodeObjects(p []byte, limit int) error {
	le := binary.LittleEndian
	for len(p) > 0 {
		if len(p) < objectHead || int(p[24]) > maxLabel || len(p) < objectHead+int(p[24]) || len(c.objects) == limit {
			return fmt.Errorf("%w: an object cut short", errFormat)
		}
		x := objectEntry{Object{le.Uint64(p[0:]), string(p[objectHead : objectHead+int(p[24])]), le.Uint64(p[8:])},
			le.Uint32(p[16:]), le.Uint32(p[20:])}
		p = p[objectHead+int(p[24]):]
		if sanitise(x.Label) != x.Label {
			return fmt.Errorf("%w: object %d is called %q", errFormat, x.Number, x.Label)
		}
		if n := len(c.objects); n > 0 && c.objects[n-1].Number >= x.Number {
			return fmt.Errorf("%w: objects out of order", errFormat)
		}
		c.objects = append(c.objects, x)
	}
	return nil
}

// find returns the entry of an object, or nil.
func (c *checkpoint) find(number uint64) *objectEntry {
	lo, hi := 0, len(c.objects)
	for lo < hi {
		if m := (lo + hi) / 2; c.objects[m].Number < number {
			lo = m + 1
		} else {
			hi = m
		}
	}
	if lo < len(c.objects) && c.objects[lo].Number == number {
		return &c.objects[lo]
	}
	return nil
}

// decode reads a section 4 or 5 of a version into c.
func (c *chunkChange) decode(kind uint32, p []byte, version uint32) error {
	le := binary.LittleEndian
	bad := fmt.Errorf("%w: section %d of %d bytes", errFormat, kind, len(p))
	if version == 1 && len(p) >= stagedSize-sumsSize {
		const at = stagedSize - sumsSize
		p = slices.Concat(p[:at], make([]byte, sumsSize), p[at:])
	}
	if kind != sectionChunk && kind != sectionStaged || len(p) < stagedSize {
		return bad
	}
	c.object, c.chunk, c.flags = le.Uint64(p[0:]), le.Uint32(p[8:]), changeFlags(le.Uint32(p[12:]))
	c.index, c.wiped, c.blocks = le.Uint64(p[16:]), 0, c.blocks[:0]
	for i := range c.sums {
		c.sums[i] = le.Uint32(p[24+4*i:])
	}
	if c.chunk >= MaxChunks || c.index == 0 || c.index >= hasFile {
		return bad
	}
	if kind == sectionStaged {
		if len(p) != stagedSize || c.flags&^changeFile != changeStaged|changeEmpty {
			return bad
		}
		return nil
	}
	if len(p) < chunkHeadSize {
		return bad
	}
	c.wiped = le.Uint64(p[24+sumsSize:])
	n := int(le.Uint32(p[32+sumsSize:]))
	if c.flags&^changeAll != 0 || n > BlocksPerChunk || len(p) < chunkHeadSize+n*listedSize ||
		c.flags&changeFile == 0 && (n > 0 || c.flags != changeEmpty) ||
		c.flags&changeKeep != 0 && c.flags&changeEmpty == 0 ||
		c.flags&changeKeep == 0 && c.wiped != 0 || le.Uint32(p[36+sumsSize:]) != 0 {
		return bad
	}
	entries, data := p[chunkHeadSize:chunkHeadSize+n*listedSize], p[chunkHeadSize+n*listedSize:]
	for ; len(entries) > 0; entries = entries[listedSize:] {
		var b blockChange
		var ok bool
		if data, ok = b.decode(entries, data); !ok {
			return bad
		}
		if i := len(c.blocks); i > 0 && c.blocks[i-1].number >= b.number {
			return bad
		}
		c.blocks = append(c.blocks, b)
	}
	if len(data) > 0 {
		return bad
	}
	return nil
}

// decode reads a block's entry, and takes its bytes off data if they are there.
func (b *blockChange) decode(p, data []byte) (rest []byte, ok bool) {
	le := binary.LittleEndian
	source := p[3]
	b.number, b.kind = le.Uint16(p[0:]), Kind(p[2])
	b.sum, b.index, b.src = le.Uint32(p[4:]), le.Uint64(p[8:]), inline
	offset := le.Uint32(p[16:])
	if b.number >= BlocksPerChunk || b.kind == 0 || b.kind > Zeros ||
		(b.kind == Data) != (source != sourceNone) ||
		b.kind != Data && b.sum != 0 || source != sourceEntry && offset != 0 || le.Uint32(p[20:]) != 0 {
		return nil, false
	}
	switch source {
	case sourceNone:
	case sourceEntry:
		if offset > op.MaxSize {
			return nil, false
		}
		b.src = int32(offset)
	case sourceInline:
		if len(data) < BlockSize {
			return nil, false
		}
		b.data = (*[BlockSize]byte)(data)
		data = data[BlockSize:]
	default:
		return nil, false
	}
	return data, true
}

// readCheckpoint decodes a checkpoint file. Bad bytes are a *DamageError.
func (s *Store) readCheckpoint(name string, change func(*chunkChange) error) (*checkpoint, error) {
	f, err := s.fs.Open(name, 0)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", name, err)
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	c, err := decodeCheckpoint(bufio.NewReader(io.NewSectionReader(f, 0, size)), size, change)
	if errors.Is(err, errFormat) {
		return nil, &DamageError{File: name, What: err.Error()}
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	return c, nil
}

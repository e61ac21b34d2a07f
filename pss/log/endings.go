package log

import (
	"errors"
	"hash/crc32"
	"io/fs"
	"maps"
	"path"
	"slices"

	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
)

// ending is the part of an entry that a frame of the active segment says is in a body.
type ending struct {
	frame int64 // its offset in the segment
	spot
}

// check compares a frame with its checksums, the parts of its entries in bodies included.
func (r *recovery) check(h *header, frame []byte) error {
	return checkFrame(h, frame, func(row *row, i int, sum uint32) (uint32, error) {
		return r.checkEnding(h, row, h.prevIndex+1+uint64(i), sum)
	})
}

// whole says whether a frame is what was written. An error is one of reading.
func (r *recovery) whole(h *header, frame []byte) (bool, error) {
	if len(frame) < int(h.size) {
		return false, nil
	}
	err := r.check(h, frame)
	var damage *DamageError
	if errors.As(err, &damage) {
		return false, nil
	}
	return err == nil, err
}

// checkEnding adds the part of an entry that is in a body to the sum of its beginning. The bodies of what a checkpoint has
// superseded may have been written to since: such an entry counts as whole, and can't be read any more.
func (r *recovery) checkEnding(h *header, row *row, index uint64, sum uint32) (uint32, error) {
	b, err := r.bodyOf(h.bodies + uint64(row.body))
	if err != nil {
		return 0, err
	}
	s := spot{b, row.block, row.blocks}
	buffer := r.buffer(s.bytes())
	defer r.buffers.Put(buffer)
	n, err := readBody(b, (*buffer)[:s.bytes()], s.offset())
	superseded := index <= r.options.Superseded
	if err != nil && (!superseded || errors.Is(err, disk.ErrCrashed)) {
		return 0, err
	}
	got := crc32.Update(sum, castagnoli, (*buffer)[:n])
	switch {
	case err == nil && got == row.sum:
		return got, nil
	case superseded:
		r.lost = max(r.lost, index)
		return row.sum, nil
	}
	return 0, &DamageError{File: r.bodyFile(b), Offset: s.offset(), What: "checksum of an entry",
		Want: uint64(row.sum), Got: uint64(got)}
}

// bodyOf opens a body that a frame names, unless it is open.
func (r *recovery) bodyOf(number uint64) (*body, error) {
	if b := r.bodies.all[number]; b != nil {
		return b, nil
	}
	b := &body{number: number}
	f, err := r.fs.Open(r.bodyFile(b), 0)
	if err == nil {
		b.file = f
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	r.bodies.all[number] = b
	return b, nil
}

// noteEndings notes what the frame has in bodies.
func (r *recovery) noteEndings(h *header, frame []byte) {
	for i := range int(h.count) {
		row := decodeRow(frame[headerSize+rowSize*i:])
		b := r.bodies.all[h.bodies+uint64(row.body)]
		if row.blocks > 0 && b.file != nil && h.prevIndex+1+uint64(i) > r.lost {
			r.endings = append(r.endings, ending{int64(h.offset), spot{b, row.block, row.blocks}})
		}
	}
}

// forgetHolders makes all bodies ones that no segment refers to.
func (r *recovery) forgetHolders() {
	for _, s := range r.files {
		s.bodies = nil
	}
	for _, b := range r.bodies.all {
		b.holders = 0
	}
	r.endings = nil
}

// settleBodies removes the files of bodies that nothing refers to, whatever they were to become, and writes those parts
// once more that no frame says were synced: see rewrite. None of them is added to.
func (r *recovery) settleBodies() error {
	r.index.floor = min(r.lost, r.index.last)
	r.bodies.next = 1
	for _, number := range r.bodyNumbers {
		r.bodies.next = max(r.bodies.next, number+1)
		if b := r.bodies.all[number]; b != nil && b.holders > 0 {
			continue
		}
		if err := r.fs.Remove(path.Join(r.dir, bodyName(number))); err != nil {
			return err
		}
	}
	for _, number := range slices.Sorted(maps.Keys(r.bodies.all)) {
		r.bodies.next = max(r.bodies.next, number+1)
		if b := r.bodies.all[number]; b.holders == 0 {
			delete(r.bodies.all, number)
			if err := closeBodies([]*body{b}); err != nil {
				return err
			}
		}
	}
	for _, e := range r.endings {
		r.beside += int64(e.bytes())
		if e.frame < r.vouched {
			continue
		}
		buffer := r.buffer(e.bytes())
		n, err := readBody(e.body, (*buffer)[:e.bytes()], e.offset())
		if err == nil {
			_, err = e.body.file.WriteAt((*buffer)[:n], e.offset())
		}
		r.buffers.Put(buffer)
		if err != nil {
			return err
		}
		if !e.body.dirty {
			e.body.dirty = true
			r.bodies.dirty = append(r.bodies.dirty, e.body)
		}
	}
	return nil
}

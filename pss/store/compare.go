package store

import "fmt"

// Differing compares the images of a chunk at two servers, and returns the blocks that must be equal and are not.
// An image whose chunk was changed last by the same entry is of the same state: everything must be equal. In other
// states blocks that the same entry changed last must be; the others say nothing. What an entry does depends on
// the log alone, so there is no false alarm. Data is not looked at: each server checks its own.
func (img *Image) Differing(other *Image) (d Blocks) {
	for i := range img.Records {
		if img.Records[i] != other.Records[i] && img.Comparable(other, i) {
			d.Add(i)
		}
	}
	return d
}

// Comparable says whether a block must be equal in two images of its chunk.
func (img *Image) Comparable(other *Image, block int) bool {
	index := img.Records[block].Index
	return img.Index == other.Index || index != 0 && index == other.Records[block].Index
}

// Replace makes blocks of an image the content of this server's, which a majority of servers found to be wrong, and
// returns those of want that it replaced. It does so only while the blocks here are of the same state as those of the
// image, as Differing has it. Like with Mend they keep their indexes, and the next flush brings them to disk. Apply side.
func (s *Store) Replace(img *Image, want *Blocks) (done Blocks, err error) {
	if img.Chunk >= MaxChunks || !img.File {
		return done, fmt.Errorf("%w: replacing chunk %d", ErrRange, img.Chunk)
	}
	o, err := s.find(Newest, img.Object)
	if err != nil {
		return done, err
	}
	newest := o.entry(Newest, img.Chunk)
	if newest&hasFile == 0 {
		return done, nil
	}
	m := mender{s: s, o: o, img: img, newest: newest &^ hasFile}
	sc := s.scratch.Get().(*scratch)
	defer s.give(sc)
	cells := sc.room(BlocksPerChunk)
	o.look(Newest, img.Chunk, 0, cells)
	inMemory := make([]bool, BlocksPerChunk)
	for i := range cells {
		inMemory[i] = cells[i].kind != 0
	}
	var bad Blocks
	if _, err := s.allRecords(o, img.Chunk, cells, &bad); err != nil {
		return done, err
	}
	data := img.Data
	for i := range cells {
		var b []byte
		if img.Has.Has(i) {
			b, data = data[:BlockSize], data[BlockSize:]
		}
		same := img.Index == m.newest || img.Records[i].Index != 0 && img.Records[i].Index == cells[i].index
		if want.Has(i) && !inMemory[i] && !bad.Has(i) && same && m.put(i, b) {
			done.Add(i)
		}
	}
	return done, nil
}

package wire

const (
	slabChunk = 1 << 20 // bytes
	// slabLargest is the largest piece taken from a chunk, in bytes: larger ones would leave much of
	// a chunk unused.
	slabLargest = slabChunk / 4
	slabAlign   = 8 // bytes
)

// Slab hands out memory for what is received, many pieces from one chunk. A piece is the
// caller's for as long as it wants: a chunk goes when the last piece of it is no longer referred to.
// So a small piece that is kept for ever keeps its neighbours: a Slab is for bytes that live and die
// about the same time. The zero value is ready; it is used by one goroutine at a time.
type Slab struct{ free []byte }

// Take returns n bytes, aligned to 8 bytes, that nobody else has. Their content is zero.
func (s *Slab) Take(n int) []byte {
	if n > slabLargest {
		return make([]byte, n)
	}
	if n > len(s.free) {
		s.free = make([]byte, slabChunk)
	}
	b := s.free[:n:n]
	s.free = s.free[min(len(s.free), (n+slabAlign-1)&^(slabAlign-1)):]
	return b
}

package wire

import "runtime"

const (
	// slabChunk is the size of a chunk in bytes: the largest operation, or a raft message that
	// carries it, fits.
	slabChunk = MaxEntry + 64<<10
	slabAlign = 8 // bytes
	// maxIdleChunks is how many chunks a SlabPool keeps that nobody refers to; more are freed.
	maxIdleChunks = 64
)

type chunk [slabChunk]byte

// SlabPool keeps the chunks of Slabs. A chunk that nobody refers to any more comes back here instead of
// being freed: memory that goes to the system and comes back costs a page fault and a cleared page for
// every 4 KiB that is received. The zero value is not ready: see NewSlabPool.
type SlabPool struct{ idle chan *chunk }

// NewSlabPool returns an empty pool. It may be used from any goroutine.
func NewSlabPool() *SlabPool { return &SlabPool{idle: make(chan *chunk, maxIdleChunks)} }

// get returns a chunk of any content.
func (p *SlabPool) get() *chunk {
	var c *chunk
	select {
	case c = <-p.idle:
	default:
		c = new(chunk)
	}
	// Pieces of a chunk are plain slices that travel far: the log's tail, the overlay, messages. Who
	// holds the last one only the garbage collector knows, so it gives the chunk back.
	runtime.SetFinalizer(c, p.put)
	return c
}

func (p *SlabPool) put(c *chunk) {
	select {
	case p.idle <- c:
	default:
	}
}

// Slab hands out memory for what is received, many pieces from one chunk. A piece is the
// caller's for as long as it wants: a chunk is used again when the last piece of it is no longer
// referred to. So a small piece that is kept for ever keeps its neighbours: a Slab is for bytes that
// live and die about the same time. It is used by one goroutine at a time.
type Slab struct {
	pool *SlabPool
	free []byte
}

// NewSlab returns a Slab that takes its chunks from pool.
func NewSlab(pool *SlabPool) *Slab { return &Slab{pool: pool} }

// Take returns n bytes, aligned to 8 bytes, that nobody else has. Their content is anything.
func (s *Slab) Take(n int) []byte {
	if n > slabChunk {
		return make([]byte, n)
	}
	if n > len(s.free) {
		s.free = s.pool.get()[:]
	}
	b := s.free[:n:n]
	s.free = s.free[min(len(s.free), (n+slabAlign-1)&^(slabAlign-1)):]
	return b
}

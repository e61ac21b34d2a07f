package scsi

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/sam"
)

// Buffers come in powers of two from 4 KiB to 16 MiB; larger ones are made and dropped. Every buffer
// starts at a multiple of bufferAlign, so that a store may use it for direct I/O.
const (
	bufferAlign    = 4096
	minBufferShift = 12
	maxBufferShift = 24
)

// buffer is memory for data-in, or for what a command needs while it works.
type buffer struct {
	data []byte // the whole of it
	pool *buffers
}

// buffers is the pool of one target, bounded by MaxBufferBytes.
type buffers struct {
	classes [maxBufferShift - minBufferShift + 1]sync.Pool
	inUse   atomic.Int64
}

// bufferShift is the size class for n bytes as a power of two.
func bufferShift(n int64) int {
	return max(minBufferShift, bits.Len64(uint64(max(n, 1)-1)))
}

// get returns a buffer of at least n bytes with undefined content, or nil when the target's limit is reached.
func (p *buffers) get(n int64) *buffer {
	shift := bufferShift(n)
	size := int64(1) << shift
	if p.inUse.Add(size) > MaxBufferBytes {
		p.inUse.Add(-size)
		return nil
	}
	if shift <= maxBufferShift {
		if b, ok := p.classes[shift-minBufferShift].Get().(*buffer); ok {
			return b
		}
	}
	raw := make([]byte, size+bufferAlign)
	skip := int(-uintptr(unsafe.Pointer(&raw[0])) & (bufferAlign - 1))
	return &buffer{data: raw[skip : skip+int(size) : skip+int(size)], pool: p}
}

// put gives a buffer back.
func (b *buffer) put() {
	p := b.pool
	p.inUse.Add(-int64(len(b.data)))
	if shift := bufferShift(int64(len(b.data))); shift <= maxBufferShift {
		p.classes[shift-minBufferShift].Put(b)
	}
}

// releaseDataIn is the Release of every command that has data-in.
func releaseDataIn(c *sam.Command) {
	b, ok := c.Server.(*buffer)
	if !ok {
		return // released before
	}
	c.Server, c.DataIn, c.Release = nil, nil, nil
	b.put()
}

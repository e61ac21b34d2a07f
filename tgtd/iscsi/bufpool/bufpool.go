// Package bufpool lends byte buffers in size classes, powers of two from 4 KiB up. A buffer that was
// given back is lent again without being cleared: its former content must never leave the process, so
// whoever borrows one fills every byte it will use. What is idle belongs to the garbage collector, which
// frees it under pressure.
package bufpool

import (
	"math/bits"
	"sync"
)

const (
	minShift = 12 // 4 KiB
	maxShift = 28 // 256 MiB
	classes  = maxShift - minShift + 1
)

// MaxSize is the largest buffer a Pool lends, in bytes.
const MaxSize = 1 << maxShift

// Buffer is a borrowed buffer. Data has the length asked for and may be resliced by the borrower.
type Buffer struct {
	Data []byte

	whole []byte
	class int
}

// Pool lends buffers. The zero value is ready; it may be used from any goroutine.
type Pool struct {
	class [classes]sync.Pool
}

// Get lends a buffer of n bytes, 0 < n <= MaxSize. It panics for any other n: sizes are checked where
// they enter the program.
func (p *Pool) Get(n int) *Buffer {
	if n <= 0 || n > MaxSize {
		panic("bufpool: size out of range")
	}
	class := max(bits.Len(uint(n-1)), minShift) - minShift
	b, _ := p.class[class].Get().(*Buffer)
	if b == nil {
		b = &Buffer{whole: make([]byte, 1<<(class+minShift)), class: class}
	}
	b.Data = b.whole[:n]
	return b
}

// Put gives a buffer back. The borrower must not touch it any more.
func (p *Pool) Put(b *Buffer) {
	b.Data = nil
	p.class[b.class].Put(b)
}

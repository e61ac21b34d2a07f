// Package latency counts how long commands took.
package latency

import (
	"math"
	"math/bits"
	"sync/atomic"
	"time"
)

// Histogram counts durations in classes that are at most 1/64 of their value wide, from 1 ns to centuries in one
// fixed table. The zero value is empty. Any goroutine may add; it is read when nobody adds any more.
type Histogram struct {
	classes [classCount]uint64
}

const (
	subBits    = 6
	classCount = (64 - subBits + 1) << subBits
)

func classOf(d time.Duration) int {
	v := uint64(max(d, 0))
	if v < 1<<subBits {
		return int(v)
	}
	exp := bits.Len64(v) - subBits - 1
	return (exp+1)<<subBits + int(v>>exp)&(1<<subBits-1)
}

// upper is the largest duration of a class.
func upper(class int) time.Duration {
	if class < 1<<subBits {
		return time.Duration(class)
	}
	exp := class>>subBits - 1
	v := uint64(1<<subBits + class&(1<<subBits-1))
	return time.Duration((v+1)<<exp - 1)
}

// Add counts a duration.
func (h *Histogram) Add(d time.Duration) { atomic.AddUint64(&h.classes[classOf(d)], 1) }

// Count is how many durations were added.
func (h *Histogram) Count() uint64 {
	var n uint64
	for _, in := range h.classes {
		n += in
	}
	return n
}

// Quantile is the least duration that at least the part q of all, 0 to 1, does not exceed (nearest rank), or up to
// 1/64 more; 0 if there are none.
func (h *Histogram) Quantile(q float64) time.Duration {
	rank := max(uint64(math.Ceil(q*float64(h.Count()))), 1)
	var seen uint64
	for class, in := range h.classes {
		if seen += in; seen >= rank {
			return upper(class)
		}
	}
	return 0
}

package verify

import (
	"math/bits"
	"time"
)

// Histogram counts durations in classes whose width is a sixteenth of their value, or less: from 1 ns to
// hours in one fixed table. The zero value is empty. It is not safe for use from several goroutines.
type Histogram struct {
	count   uint64
	classes [classCount]uint64
}

const (
	subBits    = 4
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
func (h *Histogram) Add(d time.Duration) {
	h.count++
	h.classes[classOf(d)]++
}

// Merge adds what another histogram counted.
func (h *Histogram) Merge(o *Histogram) {
	h.count += o.count
	for i, n := range o.classes {
		h.classes[i] += n
	}
}

// Count is how many durations were added.
func (h *Histogram) Count() uint64 { return h.count }

// Quantile is the duration that so big a part of all, 0 to 1, does not exceed; 0 of an empty histogram.
func (h *Histogram) Quantile(q float64) time.Duration {
	if h.count == 0 {
		return 0
	}
	rank := uint64(q * float64(h.count))
	if rank >= h.count {
		rank = h.count - 1
	}
	var seen uint64
	for class, n := range h.classes {
		if seen += n; seen > rank {
			return upper(class)
		}
	}
	panic("verify: the classes of a histogram do not add up")
}

package metrics

import (
	"math"
	"sync/atomic"
	"time"
)

// bounds are the upper bounds of a Histogram's buckets.
var bounds = [...]time.Duration{
	50 * time.Microsecond, 100 * time.Microsecond, 200 * time.Microsecond, 500 * time.Microsecond,
	time.Millisecond, 2 * time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond, 20 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second, 5 * time.Second,
}

// Histogram counts how long things took, in fixed buckets. Adding to it takes no lock and no memory, so that it may
// stand on the path of every read and write. The zero value is ready.
type Histogram struct {
	buckets [len(bounds) + 1]atomic.Uint64 // the last for what took longer
	nanos   atomic.Uint64
}

// Add counts one thing that took d.
func (h *Histogram) Add(d time.Duration) {
	d = max(0, d)
	i := 0
	for i < len(bounds) && d > bounds[i] {
		i++
	}
	h.buckets[i].Add(1)
	h.nanos.Add(uint64(d))
}

// Read returns what was counted: how many things, how many seconds in all, and for each bound in seconds
// how many took no longer.
func (h *Histogram) Read() (count uint64, seconds float64, buckets map[float64]uint64) {
	buckets = make(map[float64]uint64, len(bounds))
	for i := range h.buckets {
		count += h.buckets[i].Load()
		if i < len(bounds) {
			buckets[bounds[i].Seconds()] = count
		}
	}
	return count, float64(h.nanos.Load()) / float64(time.Second), buckets
}

// Quantile is an upper bound of the q-quantile, in seconds; infinite beyond the last bucket, and not a number when
// nothing was counted.
func (h *Histogram) Quantile(q float64) float64 {
	var counts [len(bounds) + 1]uint64
	var all uint64
	for i := range counts {
		counts[i] = h.buckets[i].Load()
		all += counts[i]
	}
	if all == 0 {
		return math.NaN()
	}
	rank, seen := uint64(math.Ceil(q*float64(all))), uint64(0)
	for i, n := range counts {
		if seen += n; seen >= rank && i < len(bounds) {
			return bounds[i].Seconds()
		}
	}
	return math.Inf(1)
}

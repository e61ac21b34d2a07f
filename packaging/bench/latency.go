package main

import (
	"math"
	"math/bits"
	"sync/atomic"
	"time"
)

// latencies counts durations in classes that are at most 1/64 of their value wide, from 1 ns to centuries in one
// fixed table. The zero value is empty. Any goroutine may add; it is read when nobody adds any more.
type latencies struct {
	classes [classCount]atomic.Uint64
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

// middle is the duration that stands for a class.
func middle(class int) time.Duration {
	if class < 1<<subBits {
		return time.Duration(class)
	}
	exp := class>>subBits - 1
	first := uint64(1<<subBits+class&(1<<subBits-1)) << exp
	return time.Duration(first + (1<<exp-1)/2)
}

func (l *latencies) add(d time.Duration) { l.classes[classOf(d)].Add(1) }

func (l *latencies) count() uint64 {
	var n uint64
	for i := range l.classes {
		n += l.classes[i].Load()
	}
	return n
}

// quantile is the least duration that at least the part q of all, 0 to 1, does not exceed (nearest rank); 0 if
// there are none.
func (l *latencies) quantile(q float64) time.Duration {
	rank := max(uint64(math.Ceil(q*float64(l.count()))), 1)
	var seen uint64
	for i := range l.classes {
		if seen += l.classes[i].Load(); seen >= rank {
			return middle(i)
		}
	}
	return 0
}

package latency

import (
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// A duration is within 1/64 of the one that stands for its class, and classes follow each other.
func TestClasses(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Min(0).Draw(t, "d"))
		m := upper(classOf(d))
		if diff := math.Abs(float64(m - d)); diff > float64(d)/64 {
			t.Fatalf("%d stands for %d", m, d)
		}
		if d < math.MaxInt64 && classOf(d+1)-classOf(d) > 1 {
			t.Fatalf("a class between %d and the next is empty", d)
		}
	})
	if classOf(-1) != 0 || classOf(math.MaxInt64) >= classCount {
		t.Fatal("the ends of the range are outside of the table")
	}
}

// Quantiles are those of the sorted durations, as exactly as classes are.
func TestQuantileModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfN(rapid.Int64Range(0, int64(time.Minute)), 1, 300).Draw(t, "durations")
		q := rapid.Float64Range(0, 1).Draw(t, "q")
		l := new(Histogram)
		for _, d := range all {
			l.Add(time.Duration(d))
		}
		slices.Sort(all)
		want := time.Duration(all[max(int(math.Ceil(q*float64(len(all)))), 1)-1])
		if have := l.Quantile(q); have != upper(classOf(want)) {
			t.Fatalf("quantile %g is %v, want %v", q, have, want)
		}
		if l.Count() != uint64(len(all)) {
			t.Fatalf("%d were counted, not %d", l.Count(), len(all))
		}
	})
}

func TestQuantileOfFew(t *testing.T) {
	l := new(Histogram)
	if l.Quantile(0.5) != 0 {
		t.Error("a quantile of nothing is not 0")
	}
	for d := range time.Duration(10) {
		l.Add(d + 1) // 1 to 10, each in a class of its own
	}
	for q, want := range map[float64]time.Duration{0: 1, 0.1: 1, 0.11: 2, 0.5: 5, 0.99: 10, 0.999: 10, 1: 10} {
		if have := l.Quantile(q); have != want {
			t.Errorf("quantile %g of 1 to 10 is %d, want %d", q, have, want)
		}
	}
}

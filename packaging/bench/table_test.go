package main

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
)

func TestMedian(t *testing.T) {
	for _, tt := range []struct {
		values []float64
		want   float64
	}{{[]float64{3}, 3}, {[]float64{4, 1}, 2.5}, {[]float64{9, 1, 2}, 2}, {[]float64{8, 1, 2, 4}, 3}} {
		if have := median(tt.values); have != tt.want {
			t.Errorf("median of %v: %g, want %g", tt.values, have, tt.want)
		}
	}
}

func TestFiguresOf(t *testing.T) {
	have := figuresOf(test{bytes: 1 << 20}, sample{
		count: 4000, elapsed: 2 * time.Second,
		p50: 1500 * time.Nanosecond, p99: time.Millisecond, p999: 2 * time.Millisecond, longest: 3 * time.Millisecond,
		servers: 400 * time.Millisecond, load: 100 * time.Millisecond, others: time.Second,
	})
	want := figures{PerSecond: 2000, MBps: 2097.152, P50: 1.5, P99: 1000, P999: 2000, Longest: 3000, CPU: 100,
		LoadCPU: 25, Others: 0.5}
	if have != want {
		t.Errorf("%+v, want %+v", have, want)
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{0: "0.00", 1.234: "1.23", 9.994: "9.99", 9.996: "10.0", 12.34: "12.3", 99.94: "99.9",
		99.96: "100", 123.4: "123", 1234567: "1234567"} {
		if have := number(v); have != want {
			t.Errorf("%g is written %s, want %s", v, have, want)
		}
	}
}

// pick returns a cell of the table.
func pick(t *testing.T, name string) pair {
	t.Helper()
	chosen, err := choose([]string{name}, columns(), tests())
	if err != nil || len(chosen) != 1 {
		t.Fatalf("%s: %v, %v", name, chosen, err)
	}
	return chosen[0]
}

// made is a sample of one second in which each I/O took as long on average as it must have.
func made(t *testing.T, cell string, perSecond uint64, cpu time.Duration) measured {
	p := pick(t, cell)
	latency := time.Second * time.Duration(p.test.depth) / time.Duration(perSecond)
	return measured{p, sample{
		count: perSecond, elapsed: time.Second, p50: latency, p99: 2 * latency, p999: 4 * latency, longest: 8 * latency,
		servers: cpu * time.Duration(perSecond), load: 4 * time.Microsecond * time.Duration(perSecond),
		others: 250 * time.Millisecond,
	}}
}

// someReport has two rounds of some cells, of which one lacks what it is compared with.
func someReport(t *testing.T) *report {
	const us = time.Microsecond
	r := &report{
		Machine: machine{"A processor", 2, "6.1", time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)},
		Seconds: 1, Rounds: 2, MiB: 1024, IdleCores: 0.08, LeftOut: []string{},
		Floors: []floor{{"disk", 1000, 70 * us, 90 * us}, {"loopback", 50000, 17500 * time.Nanosecond, time.Millisecond}},
	}
	r.evaluate([]measured{
		made(t, "tgt-rdwr/read-d1", 10000, 40*us), made(t, "our-rdwr/read-d1", 14000, 21*us),
		made(t, "pss-3/read-d1", 8000, 60*us), made(t, "pss-3/read-d1", 7000, 60*us),
		made(t, "our-rdwr/read-d1", 16000, 19*us), made(t, "tgt-rdwr/read-d1", 10000, 40*us),
		made(t, "our-null/read-d32", 240000, 3*us), made(t, "our-null/read-d32", 230000, 3*us),
		made(t, "tgt-durable/write-d1", 100, 0), made(t, "pss-3/write-d1", 200, 1500*us),
		made(t, "pss-3/write-d1", 200, 1500*us), made(t, "tgt-durable/write-d1", 100, 0),
		made(t, "tgt-durable/seqwrite-d4", 300, 900*us), made(t, "our-durable/seqwrite-d4", 330, 450*us),
		made(t, "our-durable/seqwrite-d4", 330, 450*us), made(t, "tgt-durable/seqwrite-d4", 300, 900*us),
	})
	return r
}

func TestReport(t *testing.T) {
	datadriven.RunTest(t, "testdata/report", func(t *testing.T, d *datadriven.TestData) string {
		r := someReport(t)
		if d.HasArg("without-tgt") {
			r.LeftOut = []string{"tgt is left out: tgtd is not installed"}
			r.evaluate([]measured{made(t, "our-rdwr/read-d1", 14000, 21*time.Microsecond)})
		}
		var b strings.Builder
		var err error
		switch d.Cmd {
		case "text":
			err = r.writeText(&b)
		case "json":
			err = r.writeJSON(&b)
		default:
			d.Fatalf(t, "unknown command %q", d.Cmd)
		}
		if err != nil {
			t.Error(err)
		}
		return b.String()
	})
}

// Ratios are those of the medians, to the right column.
func TestRatios(t *testing.T) {
	r := someReport(t)
	for _, tt := range []struct {
		target, test, against string
		rate, cpu, spread     float64
	}{
		{"our-rdwr", "read-d1", "tgt-rdwr", 1.5, 0.5, 1.0 / 15},
		{"pss-3", "read-d1", "tgt-rdwr", 0.75, 1.5, 1.0 / 15},
		{"pss-3", "write-d1", "tgt-durable", 2, 0, 0}, // a server that used nothing has no ratio
		{"our-durable", "seqwrite-d4", "tgt-durable", 1.1, 0.5, 0},
		{"our-null", "read-d32", "", 0, 0, 1.0 / 47},
		{"tgt-rdwr", "read-d1", "", 0, 0, 0},
	} {
		o := r.cell(tt.target, tt.test)
		if o == nil {
			t.Fatalf("%s/%s is missing", tt.target, tt.test)
		}
		near := func(a, b float64) bool { return math.Abs(a-b) < 1e-9 }
		if o.Against != tt.against || !near(o.RateRatio, tt.rate) || !near(o.CPURatio, tt.cpu) || !near(o.Spread, tt.spread) {
			t.Errorf("%s/%s: %q %g %g %g, want %+v", tt.target, tt.test, o.Against, o.RateRatio, o.CPURatio, o.Spread, tt)
		}
		if len(o.Rounds) != 2 {
			t.Errorf("%s/%s has %d rounds", tt.target, tt.test, len(o.Rounds))
		}
	}
}

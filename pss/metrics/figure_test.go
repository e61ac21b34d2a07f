package metrics

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// door is something with figures.
type door struct {
	open   bool
	passed int
}

type doors struct {
	Figures[door]
	all map[string]*door
}

func (d doors) Collect(to chan<- prometheus.Metric) {
	for name, x := range d.all {
		d.Figures.Collect(to, x, name)
	}
}

func TestFigures(t *testing.T) {
	desc := func(name, help string) *prometheus.Desc { return prometheus.NewDesc(name, help, []string{"door"}, nil) }
	d := doors{Figures[door]{
		Gauge(desc("open", "Whether it is open."), func(d *door) float64 { return Flag(d.open) }),
		Counter(desc("passed_total", "Who went through."), func(d *door) float64 { return float64(d.passed) }),
	}, map[string]*door{"back": {}, "front": {open: true, passed: 3}}}
	if err := testutil.CollectAndCompare(d, strings.NewReader(`# HELP open Whether it is open.
# TYPE open gauge
open{door="back"} 0
open{door="front"} 1
# HELP passed_total Who went through.
# TYPE passed_total counter
passed_total{door="back"} 0
passed_total{door="front"} 3
`)); err != nil {
		t.Error(err)
	}
}

package metrics

import "github.com/prometheus/client_golang/prometheus"

// Figures are the numbers that a collector reads, all of them, from one T for each scrape.
type Figures[T any] []Figure[T]

// Figure is one number of a T, and how it is shown.
type Figure[T any] struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	read func(*T) float64
}

// Gauge is a figure that goes up and down.
func Gauge[T any](desc *prometheus.Desc, read func(*T) float64) Figure[T] {
	return Figure[T]{desc, prometheus.GaugeValue, read}
}

// Counter is a figure that goes up only, from 0 at the start.
func Counter[T any](desc *prometheus.Desc, read func(*T) float64) Figure[T] {
	return Figure[T]{desc, prometheus.CounterValue, read}
}

// Describe is a part of a collector's.
func (fs Figures[T]) Describe(to chan<- *prometheus.Desc) {
	for _, f := range fs {
		to <- f.desc
	}
}

// Collect is a part of a collector's. There are as many labels as the descriptions have.
func (fs Figures[T]) Collect(to chan<- prometheus.Metric, of *T, labels ...string) {
	for _, f := range fs {
		to <- prometheus.MustNewConstMetric(f.desc, f.kind, f.read(of), labels...)
	}
}

// Flag is how a yes or no is shown.
func Flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/packaging/latency"
	"golang.org/x/sys/unix"
)

const (
	// warmUp is how long a load runs before it is measured.
	warmUp = 300 * time.Millisecond
	// drainTimeout is how long the I/Os under way may take at the end.
	drainTimeout = time.Minute
	// A house is quiet when its processes used no more than twice what they use idle, and quietShare of a
	// processor, for quietTime. After quietTimeout they are not waited for any more.
	quietTime    = 200 * time.Millisecond
	quietShare   = 0.05
	quietTimeout = 30 * time.Second
)

var errStuck = errors.New("the target does not answer any more")

// sample is one measurement of a cell of the table.
type sample struct {
	count                   uint64 // I/Os completed
	elapsed                 time.Duration
	p50, p99, p999, longest time.Duration
	servers, load, others   time.Duration // processor time
}

// measured is a sample and what it is of.
type measured struct {
	pair
	sample
}

// measure measures the chosen cells in turns. With an error come the samples from before it.
func (l *lab) measure(ctx context.Context, d time.Duration, rounds int) ([]measured, error) {
	order := schedule(l.chosen, rounds)
	seen := make(map[pair]uint64)
	var all []measured
	for i, p := range order {
		h := l.home(p.column)
		// The places that random I/O goes to are the same for all columns of a row.
		s, err := l.once(ctx, p, h, d, seen[p])
		if err != nil {
			return all, l.explain(h, err)
		}
		seen[p]++
		all = append(all, measured{p, s})
		l.say("%d/%d %s %s: %.0f/s, p50 %v", i+1, len(order), p.test.name, p.column.name,
			float64(s.count)/s.elapsed.Seconds(), s.p50)
		if p.test.writes() {
			if err := l.settle(ctx, h); err != nil {
				return all, err
			}
		}
	}
	return all, nil
}

// patience is how long a measurement goes on until the first I/O is completed.
const patience = 10 * time.Second

// once measures a cell of the table for so long.
func (l *lab) once(ctx context.Context, p pair, h *home, d time.Duration, seed uint64) (sample, error) {
	load, err := newLoad(ctx, p.test, l.units[p.column.name], seed)
	if err != nil {
		return sample{}, err
	}
	var before, after usage
	counted, uncounted := new(latency.Histogram), new(latency.Histogram)
	load.start(uncounted)
	err = load.wait(ctx, warmUp)
	if err == nil {
		before, err = usageNow(h.processes())
	}
	if err == nil {
		load.record(counted)
		err = load.wait(ctx, d)
		// A short time on a busy disk may see nothing completed. The rate is by the time that passed.
		for waited := d; err == nil && counted.Count() == 0 && waited < patience; waited += d {
			err = load.wait(ctx, d)
		}
		load.record(uncounted)
	}
	if err == nil {
		after, err = usageNow(h.processes())
	}
	if err := errors.Join(err, load.stop(ctx)); err != nil {
		return sample{}, err
	}
	s := sample{
		count: counted.Count(), p50: counted.Quantile(0.5), p99: counted.Quantile(0.99),
		p999: counted.Quantile(0.999), longest: counted.Quantile(1),
	}
	s.elapsed, s.servers, s.load, s.others = after.since(before)
	if s.count == 0 {
		return s, fmt.Errorf("%s on %s: no I/O was completed in %v", p.test.name, p.column.name, max(d, patience))
	}
	return s, nil
}

// settle waits until what a house put off is done: page cache that is not on the disk, changes that its
// servers will still apply or flush.
func (l *lab) settle(ctx context.Context, h *home) error {
	if err := syncDisk(l.dir); err != nil {
		return err
	}
	until := time.Now().Add(quietTimeout)
	limit := 2*h.idle.Seconds() + quietShare // processors
	for time.Now().Before(until) {
		before, err := processorTime(h.processes())
		if err != nil {
			return err
		}
		began := time.Now()
		if err := wait(ctx, quietTime); err != nil {
			return err
		}
		after, err := processorTime(h.processes())
		if err != nil {
			return err
		}
		// The wait may have taken longer than was asked for.
		if used := (after - before).Seconds() / time.Since(began).Seconds(); used <= limit {
			return syncDisk(l.dir)
		}
	}
	l.say("%s is still busy after %v; what is measured next may suffer", h.name, quietTimeout)
	return nil
}

// syncDisk writes all page cache of a folder's file system to its disk.
func syncDisk(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("write the page cache: %w", err)
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("write the page cache: %w", err)
	}
	return nil
}

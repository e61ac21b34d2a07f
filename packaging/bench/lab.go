package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/paxos-iscsi/paxos-iscsi/packaging/rig"
)

const (
	// startTimeout is how long a house may take to come up, and fillTimeout to be filled with one MiB.
	startTimeout = time.Minute
	fillTimeout  = time.Second
	// serverBytes is the room on disk that a server of a cell takes beside the data: its log, above all.
	serverBytes = 512 << 20
	// idleTime is how long idle servers are watched.
	idleTime = time.Second
)

// lab is everything that is measured: the houses that run, and the units in them.
type lab struct {
	dir      string
	bytes    int64
	key      bool // cells have a key
	programs rig.Programs
	chosen   []pair // whose houses run, after start
	houses   []*home
	units    map[string]unit                  // by the column's name
	leftOut  []string                         // what could not be measured, and why
	say      func(format string, args ...any) // tells of progress
}

// newLab makes a folder for what will be measured, on a disk with room for it. Nothing is started.
func newLab(s settings, chosen []pair, say func(string, ...any)) (*lab, error) {
	l := &lab{bytes: s.bytes, key: s.key, chosen: chosen, units: make(map[string]unit), say: say}
	var err error
	if l.programs, err = rig.Find(s.bin); err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(s.dir)
	if err != nil {
		return nil, err
	}
	if strings.Contains(dir, ",") {
		return nil, fmt.Errorf("--dir %s: tgtadm takes no path with a comma", dir)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return nil, fmt.Errorf("--dir %s: %w", dir, err)
	}
	if need, have := bytesNeeded(chosen, s.bytes), int64(st.Bavail)*st.Bsize; have < need {
		return nil, fmt.Errorf("--dir %s has %d MiB free and %d are needed: "+
			"name another folder, fewer --mib or fewer targets (--only)", dir, have>>20, need>>20)
	}
	if l.dir, err = os.MkdirTemp(dir, "paxos-iscsi-bench-"); err != nil {
		return nil, fmt.Errorf("--dir: %w", err)
	}
	return l, nil
}

// bytesNeeded is the room on disk that the stores of the chosen cells need.
func bytesNeeded(chosen []pair, bytes int64) int64 {
	need := int64(floorBytes)
	if hasFile(chosen) {
		need += bytes
	}
	for _, h := range housesOf(chosen) {
		need += int64(h.servers()) * (bytes + serverBytes)
	}
	return need
}

func hasFile(chosen []pair) bool {
	return slices.ContainsFunc(chosen, func(p pair) bool { return p.column.store == "rdwr" })
}

// columnsOf and housesOf are what the chosen cells need, each once and in order.
func columnsOf(chosen []pair) []column {
	return slices.DeleteFunc(columns(), func(c column) bool {
		return !slices.ContainsFunc(chosen, func(p pair) bool { return p.column == c })
	})
}

func housesOf(chosen []pair) []house {
	var all []house
	for _, c := range columnsOf(chosen) {
		if !slices.Contains(all, c.house) {
			all = append(all, c.house)
		}
	}
	return all
}

// close ends all processes and removes the folder.
func (l *lab) close() error {
	for _, h := range l.houses {
		h.close()
	}
	if err := os.RemoveAll(l.dir); err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	return nil
}

// start starts all houses and gives every store its content. The real tgt is left out if it can't be had.
func (l *lab) start(ctx context.Context) error {
	// One file for all columns: how its blocks lie on the disk and how the page cache holds them then is the same
	// for those that are compared.
	file := filepath.Join(l.dir, "file")
	if hasFile(l.chosen) {
		l.say("filling a file with %d MiB", l.bytes>>20)
		if err := writeContent(file, l.bytes); err != nil {
			return err
		}
	}
	for _, h := range housesOf(l.chosen) {
		l.say("starting %s", h.name)
		limited, cancel := context.WithTimeout(ctx, startTimeout)
		err := l.open(limited, h, file)
		cancel()
		if err != nil && h.tgt && ctx.Err() == nil {
			l.leaveOut(h, err)
			l.say("%s", l.leftOut[len(l.leftOut)-1])
			continue
		}
		if err != nil {
			return err
		}
	}
	if len(l.chosen) == 0 {
		return fmt.Errorf("nothing is left to measure: %s", strings.Join(l.leftOut, "; "))
	}
	if err := l.watchIdle(ctx); err != nil {
		return err
	}
	return l.fillVolumes(ctx)
}

// leaveOut drops a house.
func (l *lab) leaveOut(h house, why error) {
	l.leftOut = append(l.leftOut, fmt.Sprintf("%s is left out: %v", h.name, why))
	l.chosen = slices.DeleteFunc(l.chosen, func(p pair) bool { return p.column.house == h })
	l.houses = slices.DeleteFunc(l.houses, func(r *home) bool {
		if r.house != h {
			return false
		}
		r.close()
		return true
	})
}

// watchIdle measures what the houses use when nothing is asked of them.
func (l *lab) watchIdle(ctx context.Context) error {
	before := make([]time.Duration, len(l.houses))
	began := time.Now()
	var err error
	for i, h := range l.houses {
		if before[i], err = processorTime(h.processes()); err != nil {
			return err
		}
	}
	if err := wait(ctx, idleTime); err != nil {
		return err
	}
	for i, h := range l.houses {
		after, err := processorTime(h.processes())
		if err != nil {
			return err
		}
		h.idle = time.Duration(float64(after-before[i]) / time.Since(began).Seconds())
	}
	return nil
}

// idleCores is how many processors all houses keep busy when nothing is asked of them.
func (l *lab) idleCores() float64 {
	var sum time.Duration
	for _, h := range l.houses {
		sum += h.idle
	}
	return sum.Seconds()
}

// fillVolumes gives the volumes their content, through iSCSI.
func (l *lab) fillVolumes(ctx context.Context) error {
	for _, c := range columnsOf(l.chosen) {
		if c.store != storePSS {
			continue
		}
		l.say("filling the volume of %s with %d MiB", c.name, l.bytes>>20)
		h := l.home(c)
		limit := startTimeout + time.Duration(l.bytes>>20)*fillTimeout
		err := fill(ctx, l.units[c.name], limit)
		if err == nil {
			level, cancel := context.WithTimeout(ctx, limit)
			err = h.cell.Level(level)
			cancel()
		}
		if err != nil {
			return l.explain(h, fmt.Errorf("fill the volume of %s: %w", c.name, err))
		}
		if err := l.settle(ctx, h); err != nil {
			return err
		}
	}
	return nil
}

// home is where a column's unit is.
func (l *lab) home(c column) *home {
	i := slices.IndexFunc(l.houses, func(h *home) bool { return h.house == c.house })
	return l.houses[i]
}

// explain adds to an error which servers of a house have ended, and how.
func (l *lab) explain(h *home, err error) error {
	for _, p := range h.processes() {
		err = errors.Join(err, p.Failed())
	}
	return err
}

// wait waits for so long, or until the context ends.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/paxos-iscsi/paxos-iscsi/packaging/rig"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/initiator"
)

const (
	// startTimeout is how long a house may take to come up, and fillTimeout to be filled with one MiB.
	startTimeout = time.Minute
	fillTimeout  = time.Second
	// serverBytes is the room on disk that a server of a cell takes beside the data: its log, above all.
	serverBytes = 512 << 20
	// idleTime is how long idle servers are watched.
	idleTime = time.Second
	// Portals are looked for from a place in this range on; it is below what the kernel hands out.
	firstPort, lastPort = 12000, 30000
)

// lab is everything that is measured: the houses that run, and the units in them.
type lab struct {
	dir      string
	bytes    int64
	programs rig.Programs
	chosen   []pair // whose houses run, after start
	houses   []*home
	units    map[string]unit // by the column's name
	leftOut  []string        // what could not be measured, and why
}

// home is a house that runs.
type home struct {
	house
	dir    string
	target *rig.Target
	cell   *rig.Cell     // nil when its stores are local
	idle   time.Duration // of processor time per second when nothing is asked of it
}

// processes are all that serve the house's units.
func (h *home) processes() []*rig.Process {
	var all []*rig.Process
	if h.target != nil {
		all = append(all, h.target.Process)
	}
	if h.cell != nil {
		all = append(all, h.cell.Processes()...)
	}
	return all
}

func (h *home) close() {
	if h.target != nil {
		h.target.Close()
	}
	if h.cell != nil {
		h.cell.Close()
	}
}

// newLab makes a folder for what will be measured, on a disk with room for it. Nothing is started.
func newLab(s settings, chosen []pair) (*lab, error) {
	l := &lab{bytes: s.bytes, chosen: chosen, units: make(map[string]unit)}
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
		return nil, fmt.Errorf("--dir %s has %d MiB free; %d are needed: name another folder, or fewer --mib or targets (--only)",
			dir, have>>20, need>>20)
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
func (l *lab) start(ctx context.Context, say func(string, ...any)) error {
	// One file for all columns: how its blocks lie on the disk and how the page cache holds them then is the same
	// for those that are compared.
	file := filepath.Join(l.dir, "file")
	if hasFile(l.chosen) {
		say("filling a file with %d MiB", l.bytes>>20)
		if err := writeContent(file, l.bytes); err != nil {
			return err
		}
	}
	for _, h := range housesOf(l.chosen) {
		say("starting %s", h.name)
		limited, cancel := context.WithTimeout(ctx, startTimeout)
		err := l.open(limited, h, file)
		cancel()
		if err != nil && h.tgt && ctx.Err() == nil {
			l.leaveOut(h, err)
			say("%s", l.leftOut[len(l.leftOut)-1])
			continue
		}
		if err != nil {
			return err
		}
	}
	if err := l.watchIdle(ctx); err != nil {
		return err
	}
	return l.fillVolumes(ctx, say)
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

// open starts a house and makes its units.
func (l *lab) open(ctx context.Context, h house, file string) error {
	r := &home{house: h, dir: filepath.Join(l.dir, h.name)}
	if err := os.Mkdir(r.dir, 0o755); err != nil {
		return fmt.Errorf("start %s: %w", h.name, err)
	}
	l.houses = append(l.houses, r)
	options := rig.TargetOptions{Dir: r.dir, Programs: l.programs, Port: firstPort + rand.IntN(lastPort-firstPort)}
	var err error
	if h.tgt {
		if options.Programs, err = findTgt(); err != nil {
			return err
		}
	}
	if h.core > 0 {
		if r.cell, err = rig.NewCell(r.dir, l.programs, rig.Servers(h.core, h.replicas)); err != nil {
			return err
		}
		if err := r.cell.StartAll(ctx); err != nil {
			return err
		}
		options.Conf = r.cell.Conf
	}
	if r.target, err = rig.NewTarget(options); err != nil {
		return err
	}
	if err := r.target.Start(ctx); err != nil {
		return err
	}
	if h.tgt {
		if err := realTgt(ctx, r.target); err != nil {
			return err
		}
	}
	for i, c := range columnsOf(l.chosen) {
		if c.house == h {
			if err := l.addUnit(ctx, r, i+1, c, file); err != nil {
				return fmt.Errorf("make the unit %s: %w", c.name, err)
			}
		}
	}
	return nil
}

// findTgt looks for the programs of the real tgt.
func findTgt() (rig.Programs, error) {
	find := func(name string) (string, error) {
		for _, file := range []string{name, "/usr/sbin/" + name, "/usr/local/sbin/" + name} {
			if found, err := exec.LookPath(file); err == nil {
				return found, nil
			}
		}
		return "", fmt.Errorf("%s is not installed", name)
	}
	var p rig.Programs
	var err error
	if p.Tgtd, err = find("tgtd"); err != nil {
		return p, err
	}
	p.Tgtadm, err = find("tgtadm")
	return p, err
}

// realTgt makes sure that a target is not one of ours, installed in tgt's place.
func realTgt(ctx context.Context, t *rig.Target) error {
	shown, err := t.Admin(ctx, "--op", "show", "--mode", "system")
	if err != nil {
		return err
	}
	for line := range strings.Lines(shown) {
		if store, _, _ := strings.Cut(strings.TrimSpace(line), " "); store == storePSS {
			return errors.New("the installed tgtd is this project's own")
		}
	}
	return nil
}

// writeCacheOff is what tgt-admin makes of `write-cache off`: the caching mode page (SBC-3 6.4.5) without WCE.
const writeCacheOff = "mode_page=8:0:18:0x10:0:0xff:0xff:0:0:0xff:0xff:0xff:0xff:0x80:0x14:0:0:0:0:0:0"

// addUnit makes the unit of a column, as the only one of a target.
func (l *lab) addUnit(ctx context.Context, r *home, tid int, c column, file string) error {
	u := unit{portal: r.target.Portal, target: "iqn.2001-03.jp.tritech:bench-" + strconv.Itoa(tid), bytes: l.bytes, keeps: c.keeps}
	store, params := "null", ""
	switch c.store {
	case "rdwr":
		store = file
		if c.durable {
			params = writeCacheOff
		}
	case storePSS:
		store = "vol001"
		if err := r.cell.CreateVolume(ctx, store, strconv.FormatInt(l.bytes>>20, 10)+"M"); err != nil {
			return err
		}
	}
	if err := r.target.AddUnit(ctx, tid, u.target, theLUN, c.store, store, params); err != nil {
		return err
	}
	l.units[c.name] = u
	if c.store != "rdwr" {
		return nil
	}
	return checkWriteCache(ctx, u, !c.durable)
}

// checkWriteCache makes sure that a unit's write cache is on, or off: else the wrong thing would be measured.
func checkWriteCache(ctx context.Context, u unit, want bool) error {
	s, err := initiator.Login(ctx, initiator.Options{Portal: u.portal, Target: u.target, Initiator: initiatorName})
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.Ready(theLUN); err != nil {
		return err
	}
	// MODE SENSE(6) of the caching page alone (SPC-4 6.14), without block descriptors.
	t := &initiator.Task{LUN: theLUN, CDB: [16]byte{0: 0x1a, 1: 0x08, 2: 0x08, 4: 64}, In: make([]byte, 64)}
	if err := s.Do(t); err != nil {
		return fmt.Errorf("MODE SENSE of the caching page: %w", err)
	}
	if t.Moved < 7 || t.In[4]&0x3f != 0x08 {
		return fmt.Errorf("MODE SENSE of the caching page: % x", t.In[:t.Moved])
	}
	if have := t.In[6]&0x04 != 0; have != want {
		return fmt.Errorf("its write cache is on: %v, and should be: %v", have, want)
	}
	return nil
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
func (l *lab) fillVolumes(ctx context.Context, say func(string, ...any)) error {
	for _, c := range columnsOf(l.chosen) {
		if c.store != storePSS {
			continue
		}
		say("filling the volume of %s with %d MiB", c.name, l.bytes>>20)
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
		if err := l.settle(ctx, h, say); err != nil {
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

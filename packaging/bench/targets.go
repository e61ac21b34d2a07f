package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/packaging/rig"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/initiator"
)

// Portals are looked for from a place in this range on; it is below what the kernel hands out.
const firstPort, lastPort = 12000, 30000

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

// open starts a house and makes its units.
func (l *lab) open(ctx context.Context, h house, file string) error {
	r := &home{house: h, dir: filepath.Join(l.dir, h.name)}
	if err := os.Mkdir(r.dir, 0o755); err != nil {
		return fmt.Errorf("start %s: %w", h.name, err)
	}
	l.houses = append(l.houses, r)
	port := firstPort + rand.IntN(lastPort-firstPort)
	options := rig.TargetOptions{Dir: r.dir, Programs: l.programs, Port: port}
	var err error
	if h.tgt {
		if options.Programs, err = findTgt(); err != nil {
			return err
		}
	}
	if h.core > 0 {
		newCell := rig.NewOpenCell
		if l.key {
			newCell = rig.NewCell
		}
		if r.cell, err = newCell(r.dir, l.programs, rig.Servers(h.core, h.replicas)); err != nil {
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
	p := rig.Programs{Original: true}
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
	name := "iqn.2001-03.jp.tritech:bench-" + strconv.Itoa(tid)
	u := unit{portal: r.target.Portal, target: name, bytes: l.bytes, keeps: c.keeps}
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
	s, err := initiator.Login(ctx, u.options(1))
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

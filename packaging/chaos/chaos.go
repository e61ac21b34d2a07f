package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/packaging/rig"
	"github.com/paxos-iscsi/paxos-iscsi/packaging/verify"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/initiator"
)

// Sizes of a chaos run.
const (
	chaosDisk    = 2 << 30
	chaosVolume  = "256M"
	acksBetween  = 200 // acknowledgements after each round, before the next
	historyFile  = "history.txt"
	mixedRounds  = "mixes"
	acksAtBegin  = 500
	victimsRound = 2 // stream of the random numbers that choose victims
)

// chaos is one run: faults until the time is over, then the verdict.
type chaos struct {
	lab     *lab
	out     io.Writer
	seed    uint64
	plan    *plan
	random  *rand.Rand
	load    *verify.Load
	table   table
	history *history
	faults  int
}

// runChaos runs it. The error of a run that found something is about that.
func runChaos(ctx context.Context, s settings, p rig.Programs, classes []fault, out io.Writer) error {
	l, err := newLab(ctx, labOptions{dir: s.dir, programs: p, ids: rig.AllServers(), seed: s.seed, mtu: mtuLAN,
		diskBytes: chaosDisk, volume: chaosVolume, key: s.key})
	if err != nil {
		return err
	}
	defer l.close()
	c := &chaos{lab: l, out: out, seed: s.seed, plan: newPlan(s.seed, classes), history: newHistory(),
		random: rand.New(rand.NewPCG(s.seed, victimsRound))}
	return c.run(ctx, s.time)
}

// run has the loads and the faults go on for so long, and then looks at everything.
func (c *chaos) run(ctx context.Context, length time.Duration) (err error) {
	load, session, err := c.lab.load(ctx)
	if err != nil {
		return err
	}
	defer session.Close()
	c.load = load
	blockBytes := verify.BlockSize
	if _, blockBytes, err = session.Capacity(lun); err != nil {
		return err
	}
	workers, stopWorkers := context.WithCancel(ctx)
	contended := &contention{history: c.history, lun: lun, first: uint64(registersFrom / blockBytes), blockBytes: blockBytes,
		login: func(ctx context.Context) (*initiator.Session, error) { return c.lab.login(ctx, 1, 0) }}
	ended := make(chan struct{})
	go func() {
		contended.run(workers)
		close(ended)
	}()
	load.Start()
	err = c.rounds(ctx, length)
	stopWorkers()
	if err != nil {
		err = errors.Join(err, load.Err())
		session.Close() // a command that waits for the cell ends only with its session, and then as an error of ours
	}
	load.Stop()
	<-ended
	return errors.Join(err, c.verdict(ctx, err == nil))
}

// errFound ends the faults early; what was found is the load's to say.
var errFound = errors.New("the verifying load has found something")

// rounds is the time of faults.
func (c *chaos) rounds(ctx context.Context, length time.Duration) error {
	if err := c.acks(ctx, acksAtBegin); err != nil {
		return err
	}
	c.table.add("none", c.load.Mark())
	end := time.Now().Add(length)
	for time.Now().Before(end) {
		if err := c.round(ctx, c.plan.round()); err != nil {
			return err
		}
		if c.load.Err() != nil {
			return errFound
		}
	}
	if left := len(c.plan.classes) - c.plan.next; left > 0 {
		fmt.Fprintf(c.out, "LEFT OUT for want of time: %s\n", strings.Join(namesOf(c.plan.classes[c.plan.next:]), ", "))
	}
	return nil
}

// round has several faults begin, lets them be, ends them, and waits until the cell is whole again.
func (c *chaos) round(ctx context.Context, r round) error {
	name := strings.Join(namesOf(r.faults), "+")
	step, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	c.load.Mark()
	v := &victims{lab: c.lab, random: c.random, taken: make(map[cell.ID]bool)}
	var ends []func(context.Context) error
	begin := time.Now()
	for i, f := range r.faults {
		if i > 0 {
			wait(step, r.gaps[i-1])
		}
		// Whoever begins while the cell has no master yet waits for one.
		end, err := f.begin(step, c.lab, v)
		if errors.Is(err, errNobody) {
			continue
		}
		if err != nil {
			return fmt.Errorf("begin of %s: %w", f.name, err)
		}
		c.faults++
		ends = append(ends, end)
	}
	wait(step, r.hold)
	for _, end := range ends {
		if err := end(step); err != nil {
			return fmt.Errorf("end of %s: %w", name, err)
		}
	}
	over := time.Now()
	if err := c.acks(step, acksBetween); err != nil {
		return fmt.Errorf("after %s: %w", name, err)
	}
	w := c.load.Mark()
	if err := c.lab.whole(step); err != nil {
		return fmt.Errorf("after %s: %w", name, err)
	}
	fmt.Fprintf(c.out, "%-50s servers %-6s %5.1f s, longest pause %5.0f ms, whole again after %4.1f s\n", name,
		strings.Join(v.names, ","), over.Sub(begin).Seconds(), float64(w.Longest)/1e6, time.Since(over).Seconds())
	if len(r.faults) > 1 {
		name = mixedRounds
	}
	c.table.add(name, w)
	return nil
}

func (c *chaos) acks(ctx context.Context, n uint64) error {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	return c.load.WaitAcks(ctx, n)
}

// verdict judges what was written, by every oracle there is, and prints the figures. What went wrong before leaves
// only what needs no working cell.
func (c *chaos) verdict(ctx context.Context, working bool) error {
	var errs []error
	commands, unknown := c.history.size()
	if working {
		step, cancel := context.WithTimeout(ctx, stepTimeout)
		defer cancel()
		errs = append(errs, c.load.ReadBack(step))
		if err := c.sameBytes(step); err != nil {
			errs = append(errs, err)
		}
		errs = append(errs, c.load.Err())
	}
	if err := c.history.check(); err != nil {
		errs = append(errs, err, c.keepHistory())
	}
	fmt.Fprintf(c.out, "\n%d faults; %d commands of the verifying load; %d contended commands on %d registers, %d of unknown outcome\n\n",
		c.faults, c.load.Acks(), commands, len(c.history.registers), unknown)
	return errors.Join(append(errs, c.table.print(c.out))...)
}

// sameBytes stops the cell and compares the servers.
func (c *chaos) sameBytes(ctx context.Context) error {
	if err := c.lab.cell.Level(ctx); err != nil {
		return err
	}
	index, err := c.lab.shutDown(ctx)
	if err != nil {
		return err
	}
	files, bytes, err := compare(c.lab.cell.Config)
	if err != nil {
		return err
	}
	fmt.Fprintf(c.out, "all %d servers are sound and hold the same %d chunks, %d MiB, at entry %d\n", len(c.lab.cell.IDs()), files, bytes>>20, index)
	return nil
}

// keepHistory writes the history beside the servers' folders.
func (c *chaos) keepHistory() error {
	f, err := os.Create(filepath.Join(c.lab.dir, historyFile))
	if err != nil {
		return fmt.Errorf("keep the history: %w", err)
	}
	if err := errors.Join(c.history.print(f), f.Close()); err != nil {
		return fmt.Errorf("keep the history: %w", err)
	}
	fmt.Fprintf(c.out, "the history is in %s\n", f.Name())
	return nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/packaging/rig"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
)

// calmTime is for how long the pauses before each restart are watched, with nothing going on: those are the machine's
// own, on which all servers share processors and a disk.
const calmTime = time.Second

// runRolling restarts all servers in order, one after the other, under a verifying load, and prints the longest pause
// that each brings: one table with the servers as they come, of whom one is master at its turn.
func runRolling(ctx context.Context, s settings, p rig.Programs, out io.Writer) error {
	l, err := newLab(ctx, labOptions{dir: s.dir, programs: p, ids: rig.AllServers(), seed: s.seed, mtu: mtuLAN,
		volume: chaosVolume, key: s.key})
	if err != nil {
		return err
	}
	defer l.close()
	load, session, err := l.load(ctx)
	if err != nil {
		return err
	}
	defer load.Stop()
	defer session.Close() // first: a command that waits for the cell ends only with its session
	load.Start()
	if err := load.WaitAcks(ctx, acksAtBegin); err != nil {
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "restarted\twas master\tpause before\tpause of the stop\tpause of the return\tdown")
	for _, id := range l.cell.IDs() {
		step, cancel := context.WithTimeout(ctx, stepTimeout)
		err := l.restart(step, id, func() (time.Duration, error) {
			err := load.WaitAcks(step, acksBetween)
			return load.Mark().Longest, err
		}, w)
		cancel()
		if err != nil {
			return errors.Join(fmt.Errorf("restart server %d: %w", id, err), w.Flush())
		}
	}
	load.Stop()
	if err := load.ReadBack(ctx); err != nil {
		return err
	}
	if err := load.Err(); err != nil {
		return err
	}
	return w.Flush()
}

// restart stops a server as an operator does, starts it, and waits until the cell is whole. pause tells the longest
// pause since it was called last.
func (l *lab) restart(ctx context.Context, id cell.ID, pause func() (time.Duration, error), w io.Writer) error {
	master, err := l.cell.Master(ctx)
	if err != nil {
		return err
	}
	if _, err := pause(); err != nil {
		return err
	}
	wait(ctx, calmTime)
	calm, err := pause()
	if err != nil {
		return err
	}
	p, begin := l.cell.Server(id), time.Now()
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.Exited():
	case <-ctx.Done():
		return fmt.Errorf("%w; %s", ctx.Err(), p.Tail(10))
	}
	stop, err := pause()
	if err != nil {
		return err
	}
	if err := l.cell.Start(ctx, id); err != nil {
		return err
	}
	down := time.Since(begin)
	if err := l.whole(ctx); err != nil {
		return err
	}
	back, err := pause()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "server %d\t%v\t%.0f ms\t%.0f ms\t%.0f ms\t%.1f s\n", id, id == master, float64(calm)/1e6, float64(stop)/1e6, float64(back)/1e6, down.Seconds())
	return err
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/packaging/chaos/network"
	"github.com/paxos-iscsi/paxos-iscsi/packaging/rig"
	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/initiator"
)

// The cell of the WAN table: three data centres with a server each; the target and the first server share one.
const (
	wanServers   = 3
	wanRate      = 12_500_000 // bytes a second in each direction of each pair: 100 Mbit/s
	wanVolume    = "1G"
	wanDepth     = 32
	wanLarge     = 256 << 10
	wanSmall     = 4 << 10
	wanReach     = 512 << 20 // that the commands reach
	wanWarmUp    = 4 * time.Second
	wanMeasure   = 8 * time.Second
	wanHeartbeat = "100ms"
	wanElection  = "1500ms"
)

// wanCase is a row of the table.
type wanCase struct {
	roundTrip time.Duration
	loss      float64
	away      bool // the master is in another data centre than the target
}

func wanCases() []wanCase {
	return []wanCase{
		{}, {roundTrip: 50 * time.Millisecond}, {roundTrip: 50 * time.Millisecond, loss: 0.01},
		{roundTrip: 100 * time.Millisecond}, {roundTrip: 100 * time.Millisecond, loss: 0.01},
		{roundTrip: 100 * time.Millisecond, loss: 0.01, away: true},
	}
}

// runWAN measures a cell across data centres, and prints the table.
func runWAN(ctx context.Context, s settings, p rig.Programs, out io.Writer) error {
	l, err := newLab(ctx, labOptions{dir: s.dir, programs: p, ids: rig.Servers(wanServers, 0), seed: s.seed, mtu: mtuWAN,
		volume: wanVolume, key: s.key, congestion: s.congestion, serverArgs: []string{"--heartbeat", wanHeartbeat, "--election", wanElection}})
	if err != nil {
		return err
	}
	defer l.close()
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(out, "%d data centres, %d Mbit/s between each two, heartbeat %s, election %s, %d commands under way, TCP with %s\n",
		wanServers, wanRate*8/1_000_000, wanHeartbeat, wanElection, wanDepth, s.congestion)
	fmt.Fprintln(w, "round trip\tloss\tmaster\tsequential write\tof the link\t4 KiB random write\tof depth/round trip")
	for _, c := range wanCases() {
		if err := l.wanRow(ctx, c, w); err != nil {
			return errors.Join(fmt.Errorf("%v round trip, %g loss: %w", c.roundTrip, c.loss, err), w.Flush())
		}
	}
	return w.Flush()
}

// wanRow sets the links, puts the master where it belongs, and measures both loads.
func (l *lab) wanRow(ctx context.Context, c wanCase, w io.Writer) error {
	l.dataCentres(c)
	where, master := "beside the target", cell.ID(0)
	if c.away {
		where, master = "away", 1
	}
	if err := l.handOver(ctx, master); err != nil {
		return err
	}
	large, err := l.throughput(ctx, wanLarge, false)
	if err != nil {
		return err
	}
	small, err := l.throughput(ctx, wanSmall, true)
	if err != nil {
		return err
	}
	ofDepth := "-"
	if c.roundTrip > 0 {
		trips := c.roundTrip
		if c.away {
			trips *= 2 // from the target to the master, from there to a majority
		}
		ofDepth = fmt.Sprintf("%.0f %%", 100*small*trips.Seconds()/wanDepth)
	}
	if now, err := l.cell.Master(ctx); err != nil || now != master {
		where += fmt.Sprintf(" (moved to server %d: %v)", now, err)
	}
	_, err = fmt.Fprintf(w, "%v\t%g %%\t%s\t%.1f MB/s\t%.0f %%\t%.0f/s\t%s\n", c.roundTrip, 100*c.loss, where,
		large*wanLarge/1e6, 100*large*wanLarge/wanRate, small, ofDepth)
	return err
}

// dataCentres sets the links of a case. The target's data centre is that of server 0.
func (l *lab) dataCentres(c wanCase) {
	far := network.Condition{Delay: c.roundTrip / 2, Loss: c.loss, Rate: wanRate}
	l.wire(far)
	l.net.SetBoth(address(targetHost), serverAddress(0), network.Condition{})
}

// handOver makes a server master.
func (l *lab) handOver(ctx context.Context, id cell.ID) error {
	step, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	for {
		now, err := l.cell.Master(step)
		if err != nil || now == id {
			return err
		}
		// It fails while a server does not answer the master, or lags; then it is asked for again.
		err = admin.CallMaster(step, l.cell.Config, admin.MethodHandOver, admin.HandOverArgs{ID: &id}, nil)
		if err != nil && step.Err() != nil {
			return fmt.Errorf("make server %d master: %w", id, err)
		}
		wait(step, askAgain)
	}
}

// throughput writes commands of one size, one after the other or all over, and returns how many a second were done.
func (l *lab) throughput(ctx context.Context, size int, scattered bool) (float64, error) {
	s, err := l.login(ctx, wanDepth, stepTimeout)
	if err != nil {
		return 0, err
	}
	// What is under way is waited for, so that it does not burden the next measurement; unless everything is to end.
	running := context.AfterFunc(ctx, func() { s.Close() })
	defer func() {
		if running() {
			s.Close()
		}
	}()
	_, blockBytes, err := s.Capacity(lun)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next, done atomic.Uint64
	var workers sync.WaitGroup
	for range wanDepth {
		workers.Go(func() {
			buf := make([]byte, size)
			t := initiator.Task{LUN: lun}
			for ctx.Err() == nil {
				at := next.Add(1) % uint64(wanReach/size)
				if scattered {
					at = rand.Uint64N(uint64(wanReach / size))
				}
				paint(buf, next.Load())
				t.SetWrite(at*uint64(size/blockBytes), uint32(size/blockBytes), buf)
				if err := s.Do(&t); err != nil && ctx.Err() == nil {
					cancel(fmt.Errorf("write %d bytes: %w", size, err))
				}
				done.Add(1)
			}
		})
	}
	wait(ctx, wanWarmUp)
	begin, before := time.Now(), done.Load()
	wait(ctx, wanMeasure)
	rate := float64(done.Load()-before) / time.Since(begin).Seconds()
	err = context.Cause(ctx)
	cancel(nil)
	workers.Wait()
	return rate, err
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/paxos-iscsi/paxos-iscsi/packaging/rig"
	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/initiator"
)

// What the catch-up figures are of: a thin volume that holds something everywhere, and what changes while a server is
// away.
const (
	catchVolume    = "64G"
	catchBytes     = 64 << 30
	catchHeld      = 1 << 30   // written before, in pieces all over the volume
	catchChanged   = 100 << 20 // written while the server is away
	catchPiece     = 256 << 10
	catchDepth     = 8
	catchServer    = cell.ID(4)
	catchCalm      = 5 * time.Second // of load, for the comparison
	catchLoad      = 4 << 10         // bytes of its commands
	catchLoadDepth = 8
	logFiller      = 16 << 20 // written between two looks at the log
)

// runCatchUp measures what it costs that a server was away for longer than the log reaches, and that one lost its disk.
func runCatchUp(ctx context.Context, s settings, p rig.Programs, out io.Writer) error {
	l, err := newLab(ctx, labOptions{dir: s.dir, programs: p, ids: rig.Servers(cell.CoreIDs, 0), seed: s.seed, mtu: mtuLAN,
		volume: catchVolume, key: s.key})
	if err != nil {
		return err
	}
	defer l.close()
	session, err := l.login(ctx, catchDepth, stepTimeout)
	if err != nil {
		return err
	}
	defer session.Close()
	if err := spread(ctx, session, catchHeld, 0); err != nil {
		return err
	}
	server, _ := l.cell.Config.Server(catchServer)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(out, "a volume of %s that holds %d MiB, all over\n", catchVolume, catchHeld>>20)
	fmt.Fprintln(w, "server\tmissed\tfetched\tseconds\tMB/s\twrites/s before\tmeanwhile")
	var left uint64 // the last entry that the server had
	away := func() error {
		st, err := l.cell.Status(catchServer)
		if err != nil {
			return err
		}
		left = st.Last
		// What its log holds beyond the checkpoint would be fetched with what it misses.
		if err := l.ask(ctx, catchServer, admin.MethodCheckpoint, nil); err != nil {
			return err
		}
		return l.cell.Server(catchServer).Kill()
	}
	change := func() error {
		// From another offset, so that chunks which hold something change in part.
		if err := spread(ctx, session, catchChanged, catchPiece/2); err != nil {
			return err
		}
		return l.dropLog(ctx, session, left)
	}
	wiped := func() error { return os.RemoveAll(server.Root()) }
	err = l.catchUp(ctx, "was away", fmt.Sprintf("%d MiB", catchChanged>>20), []func() error{away, change}, w)
	if err == nil {
		err = l.catchUp(ctx, "lost its disk", "all", []func() error{away, wiped}, w)
	}
	if err := errors.Join(err, w.Flush()); err != nil {
		return err
	}
	return l.perTiB(out)
}

// spread writes so many bytes in pieces at even distances all over the volume.
func spread(ctx context.Context, s *initiator.Session, bytes int64, shift int64) error {
	_, blockBytes, err := s.Capacity(lun)
	if err != nil {
		return err
	}
	pieces := bytes / catchPiece
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var workers sync.WaitGroup
	for range catchDepth {
		workers.Go(func() {
			buf := make([]byte, catchPiece)
			t := initiator.Task{LUN: lun}
			for ctx.Err() == nil {
				i := next.Add(1) - 1
				if i >= pieces {
					return
				}
				paint(buf, uint64(i)<<20|uint64(shift)+1)
				at := i*(catchBytes/pieces)/catchPiece*catchPiece + shift
				t.SetWrite(uint64(at)/uint64(blockBytes), uint32(catchPiece/blockBytes), buf)
				if err := s.Do(&t); err != nil {
					cancel(fmt.Errorf("write at %d: %w", at, err))
				}
			}
		})
	}
	workers.Wait()
	return context.Cause(ctx)
}

// dropLog writes one piece over and over, and has the running servers take checkpoints, until no log reaches back to an
// entry: what a server without it has missed stays the same.
func (l *lab) dropLog(ctx context.Context, s *initiator.Session, entry uint64) error {
	for {
		reaches := false
		for _, id := range l.cell.IDs() {
			if id == catchServer {
				continue
			}
			var st admin.Status
			if err := l.ask(ctx, id, admin.MethodStatus, &st); err != nil {
				return err
			}
			if st.LogFirst <= entry {
				reaches = true
				if err := l.ask(ctx, id, admin.MethodCheckpoint, nil); err != nil {
					return err
				}
			}
		}
		if !reaches {
			return nil
		}
		if err := again(ctx, s, logFiller/catchPiece); err != nil {
			return err
		}
	}
}

// again writes the volume's first piece so often.
func again(ctx context.Context, s *initiator.Session, times int) error {
	_, blockBytes, err := s.Capacity(lun)
	if err != nil {
		return err
	}
	buf := make([]byte, catchPiece)
	t := initiator.Task{LUN: lun}
	for range times {
		t.SetWrite(0, uint32(catchPiece/blockBytes), buf)
		if err := s.Do(&t); err != nil {
			return fmt.Errorf("write the first piece again: %w", err)
		}
		if ctx.Err() != nil {
			return fmt.Errorf("waiting until the log is cut: %w", ctx.Err())
		}
	}
	return nil
}

// catchUp does what takes the server out, measures the load without it, starts it, and measures until it is level.
func (l *lab) catchUp(ctx context.Context, what, missed string, before []func() error, w io.Writer) error {
	for _, do := range before {
		if err := do(); err != nil {
			return fmt.Errorf("a server that %s: %w", what, err)
		}
	}
	n, stop, err := l.smallWrites(ctx)
	if err != nil {
		return err
	}
	defer stop()
	at := n()
	wait(ctx, catchCalm)
	calm := float64(n()-at) / catchCalm.Seconds()
	step, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	begin, at := time.Now(), n()
	if err := l.cell.Start(step, catchServer); err != nil {
		return err
	}
	if err := l.whole(step); err != nil {
		return err
	}
	took := time.Since(begin)
	meanwhile := float64(n()-at) / took.Seconds()
	var st admin.Status
	if err := l.ask(step, catchServer, admin.MethodStatus, &st); err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s\t%s\t%.1f MiB\t%.1f\t%.1f\t%.0f\t%.0f (%+.0f %%)\n", what, missed, float64(st.Fetched)/(1<<20), took.Seconds(),
		float64(st.Fetched)/1e6/took.Seconds(), calm, meanwhile, 100*(meanwhile/calm-1))
	return err
}

// smallWrites is a load of small writes at the volume's beginning; n tells how many are done.
func (l *lab) smallWrites(ctx context.Context) (n func() uint64, stop func(), err error) {
	s, err := l.login(ctx, catchLoadDepth, stepTimeout)
	if err != nil {
		return nil, nil, err
	}
	_, blockBytes, err := s.Capacity(lun)
	if err != nil {
		s.Close()
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var done atomic.Uint64
	var workers sync.WaitGroup
	for i := range catchLoadDepth {
		workers.Go(func() {
			buf := make([]byte, catchLoad)
			t := initiator.Task{LUN: lun}
			const reach = 1 << 7 // blocks of each: what is written while the server is away adds 4 MiB to what it misses
			for at := 0; ctx.Err() == nil; at = (at + 1) % reach {
				lba := (i*reach + at) * catchLoad / blockBytes
				t.SetWrite(uint64(lba), uint32(catchLoad/blockBytes), buf)
				if s.Do(&t) != nil {
					return // the count stands still then, and shows it
				}
				done.Add(1)
			}
		})
	}
	return done.Load, func() {
		cancel()
		workers.Wait()
		s.Close()
	}, nil
}

// perTiB prints what a server needs for what it holds.
func (l *lab) perTiB(out io.Writer) error {
	server, _ := l.cell.Config.Server(0)
	var chunks, beside int64
	err := filepath.WalkDir(filepath.Join(server.Root(), "data"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			return err
		}
		const block = 512 // of st_blocks
		if e.Name() == "sums" || e.Name() == "index" {
			beside += st.Blocks * block
		} else {
			chunks += st.Blocks * block
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("what server 0 needs: %w", err)
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", l.cell.Server(0).PID()))
	if err != nil {
		return fmt.Errorf("what server 0 needs: %w", err)
	}
	memory := "?"
	for _, line := range strings.Split(string(b), "\n") {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			memory = strings.TrimSpace(rest)
		}
	}
	const tib, gib = 1 << 40, 1 << 30
	_, err = fmt.Fprintf(out, "server 0: %.2f GiB in chunks, %.2f GiB of records and indexes beside, which is %.1f GiB for each TiB written so scattered; memory at most %s\n",
		float64(chunks)/gib, float64(beside)/gib, float64(beside)/float64(chunks)*tib/gib, memory)
	return err
}

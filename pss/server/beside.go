package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"

	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/metrics"
	"github.com/paxos-iscsi/paxos-iscsi/pss/replica"
)

// metricsBase plus a server's id is the port that its metrics are on, unless told otherwise.
const metricsBase = 4020

// metricsAddress is where the metrics of a server are shown unless told otherwise: to this machine only.
func metricsAddress(id cell.ID) string { return fmt.Sprintf("127.0.0.1:%d", metricsBase+int(id)) }

// beside is what runs beside a server in its process: metrics, and signs of life for systemd.
type beside struct {
	cancel  context.CancelFunc
	tasks   sync.WaitGroup
	metrics *metrics.Server // nil when they are off, or the port is taken
	pidFile string
}

// accompany starts what runs beside r. Metrics that can't be served are told in the log: they are no reason not to
// serve data.
func accompany(s settings, r *replica.Replica, logger *slog.Logger) (*beside, error) {
	b := &beside{pidFile: s.pidFile}
	var ctx context.Context
	ctx, b.cancel = context.WithCancel(context.Background())
	if b.pidFile != "" {
		if err := os.WriteFile(b.pidFile, fmt.Appendln(nil, os.Getpid()), 0o644); err != nil {
			b.cancel()
			return nil, fmt.Errorf("write the process's number: %w", err)
		}
	}
	if s.metrics != metrics.Off {
		m, err := metrics.Serve(s.metrics, logger, r.Collector())
		if err != nil {
			logger.Warn("no metrics are shown", "error", err)
		}
		b.metrics = m
	}
	if interval, err := sd.SdWatchdogEnabled(false); err == nil && interval > 0 {
		b.tasks.Go(func() { feedWatchdog(ctx, r, interval) })
	}
	return b, nil
}

func (b *beside) close() {
	b.cancel()
	b.tasks.Wait()
	if b.metrics != nil {
		_ = b.metrics.Close() // a scrape that was cut short
	}
	if b.pidFile != "" {
		_ = os.Remove(b.pidFile) // whoever reads it looks whether the process lives
	}
}

// feedWatchdog tells systemd that the server lives, as long as it really does: its lock can be taken and its
// clock goes on. It also tells in a line what the server is doing.
func feedWatchdog(ctx context.Context, r *replica.Replica, interval time.Duration) {
	t := time.NewTicker(interval / 3)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		st := r.Status() // waits for the lock: a server that hangs does not come back from here
		if !r.Ticked(interval) {
			continue
		}
		state := fmt.Sprintf("%s\nSTATUS=%s, entry %d of %d", sd.SdNotifyWatchdog, st.State, st.Applied, st.Commit)
		if _, err := sd.SdNotify(false, state); err != nil && !errors.Is(err, os.ErrNotExist) {
			continue // systemd will notice by itself
		}
	}
}

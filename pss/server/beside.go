package main

import (
	"fmt"
	"log/slog"
	"os"

	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/metrics"
	"github.com/paxos-iscsi/paxos-iscsi/pss/replica"
)

// metricsBase plus a server's id is the port that its metrics are on, unless told otherwise.
const metricsBase = 4020

// metricsAddress is where the metrics of a server are shown unless told otherwise: to this machine only.
func metricsAddress(id cell.ID) string { return fmt.Sprintf("127.0.0.1:%d", metricsBase+int(id)) }

// beside is what is there beside a server in its process: its metrics, and a file with the process's number.
type beside struct {
	metrics *metrics.Server // nil when they are off, or the port is taken
	pidFile string
}

// accompany starts what runs beside r. Metrics that can't be served are told in the log: they are no reason not to
// serve data.
func accompany(s settings, r *replica.Replica, logger *slog.Logger) (*beside, error) {
	b := &beside{pidFile: s.pidFile}
	if b.pidFile != "" {
		if err := os.WriteFile(b.pidFile, fmt.Appendln(nil, os.Getpid()), 0o644); err != nil {
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
	return b, nil
}

func (b *beside) close() {
	if b.metrics != nil {
		_ = b.metrics.Close() // a scrape that was cut short
	}
	if b.pidFile != "" {
		_ = os.Remove(b.pidFile) // whoever reads it looks whether the process lives
	}
}

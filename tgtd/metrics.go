package main

import (
	"fmt"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/paxos-iscsi/paxos-iscsi/pss/metrics"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/scsi"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/target"
)

// metricsBase plus the control port is the port that the metrics are on, unless told otherwise. (Those of PFSserver
// are on 4020 to 4027.)
const metricsBase = 4030

// metricsAddress is where the metrics are shown unless told otherwise: to this machine only.
func metricsAddress(controlPort int) string {
	return fmt.Sprintf("127.0.0.1:%d", metricsBase+controlPort)
}

// serveMetrics shows the model's figures. That they can't be shown is told in the log: it is no reason not to serve
// data. What it returns ends that.
func serveMetrics(address string, m *target.Model, log *logger) (stop func()) {
	if address == metrics.Off {
		return func() {}
	}
	s, err := metrics.Serve(address, log.Logger, newCollector(m.Figures))
	if err != nil {
		log.Warn("no metrics are shown", "err", err)
		return func() {}
	}
	return func() { _ = s.Close() } // an error is that of a scrape that was cut short
}

// collector shows the daemon to Prometheus. There is a label for each target, unit and result of a login, and none
// that an initiator could make up.
type collector struct {
	figures func() target.Figures

	daemon                      metrics.Figures[target.Figures]
	unit                        metrics.Figures[target.UnitFigures]
	info, logins                *prometheus.Desc
	sessions, connections       *prometheus.Desc // of targets
	bytes, commands, storeBytes *prometheus.Desc // of units, by direction; commands as a histogram
	store                       *prometheus.Desc // the same
}

func newCollector(figures func() target.Figures) *collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("tgtd_"+name, help, labels, nil)
	}
	unit := func(name, help string, labels ...string) *prometheus.Desc {
		return desc("unit_"+name, help, append([]string{"target", "tid", "lun", "type"}, labels...)...)
	}
	return &collector{figures: figures,
		info:        desc("info", "Always 1; the label tells the version of tgt that the daemon stands for.", "version"),
		logins:      desc("logins_total", "Logins that ended, discovery included, by what came of them.", "result"),
		sessions:    desc("target_sessions", "Sessions of a target.", "target", "tid"),
		connections: desc("target_connections", "Connections of a target's sessions.", "target", "tid"),
		bytes:       unit("bytes_total", "Bytes that commands were to move, by direction.", "direction"),
		commands:    unit("command_duration_seconds", "Time from a command's arrival to its status; direction none: it moves no data.", "direction"),
		storeBytes:  unit("store_bytes_total", "Bytes that the backing store was asked to move.", "direction"),
		store: unit("store_duration_seconds", "Time that the backing store took for a request: for pss, the cell's and the network's.",
			"direction"),
		daemon: metrics.Figures[target.Figures]{
			metrics.Gauge(desc("serving", "Whether the daemon is ready and not offline."), func(f *target.Figures) float64 { return metrics.Flag(f.Serving) }),
			metrics.Gauge(desc("portals", "Portals that are open."), func(f *target.Figures) float64 { return float64(f.Portals) }),
			metrics.Gauge(desc("connections", "Connections, those in login included."), func(f *target.Figures) float64 { return float64(f.Transport.Connections) }),
			metrics.Gauge(desc("connections_in_login", "Connections in login."), func(f *target.Figures) float64 { return float64(f.Transport.InLogin) }),
			metrics.Gauge(desc("command_bytes", "Memory that commands under way hold."), func(f *target.Figures) float64 { return float64(f.Transport.Bytes) }),
			metrics.Counter(desc("connections_refused_total", "Connections turned away, since there were too many."),
				func(f *target.Figures) float64 { return float64(f.Transport.TurnedAway) }),
		},
		unit: metrics.Figures[target.UnitFigures]{
			metrics.Counter(unit("errors_total", "Commands that ended with another status than GOOD."),
				func(u *target.UnitFigures) float64 { return float64(u.Load.Errors.Load()) }),
			metrics.Counter(unit("aborted_total", "Commands that task management ended."),
				func(u *target.UnitFigures) float64 { return float64(u.Load.Aborted.Load()) }),
			metrics.Gauge(unit("commands", "Commands under way."),
				func(u *target.UnitFigures) float64 { return float64(u.Waiting.Commands) }),
			metrics.Gauge(unit("store_requests", "Requests that the backing store has not answered."),
				func(u *target.UnitFigures) float64 { return float64(u.Waiting.Requests) }),
			metrics.Gauge(unit("store_waiting_seconds", "How long the oldest of these has waited; 0 without any."),
				func(u *target.UnitFigures) float64 { return u.Waiting.Longest.Seconds() }),
			metrics.Gauge(unit("ready", "Whether the backing store can be used."),
				func(u *target.UnitFigures) float64 { return metrics.Flag(!u.Waiting.NotReady) }),
		},
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(to chan<- *prometheus.Desc) {
	c.daemon.Describe(to)
	c.unit.Describe(to)
	for _, d := range []*prometheus.Desc{c.info, c.logins, c.sessions, c.connections, c.bytes, c.commands, c.storeBytes, c.store} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(to chan<- prometheus.Metric) {
	f := c.figures()
	c.daemon.Collect(to, &f)
	to <- prometheus.MustNewConstMetric(c.info, prometheus.GaugeValue, 1, version)
	for result, n := range loginResults(&f.Transport) {
		to <- prometheus.MustNewConstMetric(c.logins, prometheus.CounterValue, float64(n), result)
	}
	for _, t := range f.Targets {
		labels := []string{t.Name, strconv.Itoa(t.TID)}
		to <- prometheus.MustNewConstMetric(c.sessions, prometheus.GaugeValue, float64(t.Sessions), labels...)
		to <- prometheus.MustNewConstMetric(c.connections, prometheus.GaugeValue, float64(t.Connections), labels...)
		for _, u := range t.Units {
			c.collectUnit(to, &u, append(labels[:2:2], strconv.FormatUint(u.LUN, 10), u.Store))
		}
	}
}

// collectUnit shows one unit, whose labels are given.
func (c *collector) collectUnit(to chan<- prometheus.Metric, u *target.UnitFigures, labels []string) {
	c.unit.Collect(to, u, labels...)
	for _, k := range []struct {
		bytes, duration *prometheus.Desc
		direction       string
		traffic         *scsi.Traffic
	}{
		{c.bytes, c.commands, "read", &u.Load.Reads},
		{c.bytes, c.commands, "write", &u.Load.Writes},
		{c.bytes, c.commands, "none", &u.Load.Others},
		{c.storeBytes, c.store, "read", &u.Load.StoreReads},
		{c.storeBytes, c.store, "write", &u.Load.StoreWrites},
	} {
		with := append(labels[:len(labels):len(labels)], k.direction)
		count, seconds, buckets := k.traffic.Duration.Read()
		to <- prometheus.MustNewConstHistogram(k.duration, count, seconds, buckets, with...)
		to <- prometheus.MustNewConstMetric(k.bytes, prometheus.CounterValue, float64(k.traffic.Bytes.Load()), with...)
	}
}

// loginResults are the logins by the words of the label result, all of which are always there.
func loginResults(f *iscsi.Figures) map[string]uint64 {
	results := map[string]uint64{"abandoned": f.Abandoned}
	for _, word := range []string{"success", "redirected", "authentication", "no_target", "initiator_error", "target_error"} {
		results[word] = 0
	}
	for status, n := range f.Logins {
		results[loginResult(status)] += n
	}
	return results
}

func loginResult(s iscsi.LoginStatus) string {
	switch s {
	case iscsi.AuthFailure:
		return "authentication"
	case iscsi.TargetNotFound, iscsi.TargetRemoved, iscsi.LoginForbidden:
		return "no_target" // or one that access rules hide
	}
	switch s.Class() {
	case 0:
		return "success"
	case 1:
		return "redirected"
	case 2:
		return "initiator_error"
	}
	return "target_error"
}

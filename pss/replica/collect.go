package replica

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pss/metrics"
)

// collector shows a Replica to Prometheus.
type collector struct {
	r       *Replica
	figures metrics.Figures[admin.Status]

	info, active, lag          *prometheus.Desc // of the server, and of members as the master sees them
	operations, bytes, seconds *prometheus.Desc // of objects by kind; seconds of all, as a histogram
}

// Collector shows the server's figures to Prometheus. It takes the server's lock once a scrape, briefly.
func (r *Replica) Collector() prometheus.Collector {
	labels := prometheus.Labels{"server": strconv.Itoa(int(r.opts.ID))}
	desc := func(name, help string, variable ...string) *prometheus.Desc {
		return prometheus.NewDesc("pss_"+name, help, variable, labels)
	}
	gauge := func(name, help string, read func(st *admin.Status) float64) metrics.Figure[admin.Status] {
		return metrics.Gauge(desc(name, help), read)
	}
	counter := func(name, help string, read func(st *admin.Status) float64) metrics.Figure[admin.Status] {
		return metrics.Counter(desc(name, help), read)
	}
	return &collector{r: r,
		info:       desc("server_info", "Always 1; the labels tell the server's state, version and cell.", "state", "version", "cell", "auth"),
		active:     desc("member_active", "Whether a member answers, as the master sees it; only there.", "member", "voter"),
		lag:        desc("member_lag_entries", "Log entries a member has not, as the master sees it; only there.", "member", "voter"),
		operations: desc("operations_total", "Operations answered, by object and direction.", "object", "direction"),
		bytes:      desc("operation_bytes_total", "Bytes of the operations answered, by object and direction.", "object", "direction"),
		seconds:    desc("operation_duration_seconds", "Time from an operation's arrival to its answer.", "direction"),
		figures: metrics.Figures[admin.Status]{
			gauge("is_master", "Whether this server is master.", func(st *admin.Status) float64 { return metrics.Flag(st.IsMaster) }),
			gauge("has_master", "Whether this server knows of a master.", func(st *admin.Status) float64 { return metrics.Flag(st.Master != nil) }),
			counter("term_total", "The term of the agreement: elections there were.", func(st *admin.Status) float64 { return float64(st.Term) }),
			counter("committed_entries_total", "Index up to which entries are agreed on.", func(st *admin.Status) float64 { return float64(st.Commit) }),
			counter("applied_entries_total", "Index up to which entries are applied.", func(st *admin.Status) float64 { return float64(st.Applied) }),
			counter("checkpointed_entries_total", "Index of the last checkpoint.", func(st *admin.Status) float64 { return float64(st.Checkpoint) }),
			gauge("log_bytes", "Size of the durable log.", func(st *admin.Status) float64 { return float64(st.LogBytes) }),
			gauge("overlay_bytes", "Changes in memory that are not in chunk files yet.", func(st *admin.Status) float64 { return float64(st.OverlaySize) }),
			counter("chunks_written_once_total", "Chunks that became of what the log wrote, so that a checkpoint did not write them again.", func(st *admin.Status) float64 { return float64(st.WrittenOnce) }),
			gauge("clients", "Connected clients.", func(st *admin.Status) float64 { return float64(st.Clients) }),
			gauge("catching_up", "Whether the server takes over what it missed from another.", func(st *admin.Status) float64 { return metrics.Flag(st.CatchUp != nil) }),
			gauge("complaints", "Things the server finds not well.", func(st *admin.Status) float64 { return float64(len(st.Health)) }),
			counter("strangers_total", "Messages dropped that came from other cells or former members.", func(st *admin.Status) float64 { return float64(st.Strangers) }),
			gauge("uptime_seconds", "Time since the server started.", func(st *admin.Status) float64 { return st.UptimeSecs }),
		},
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(to chan<- *prometheus.Desc) {
	c.figures.Describe(to)
	for _, d := range []*prometheus.Desc{c.info, c.active, c.lag, c.operations, c.bytes, c.seconds} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(to chan<- prometheus.Metric) {
	st := c.r.Status()
	c.figures.Collect(to, &st)
	to <- prometheus.MustNewConstMetric(c.info, prometheus.GaugeValue, 1, st.State, st.Version, st.Cell, st.Auth.Mode)
	for _, m := range st.Members {
		labels := []string{strconv.Itoa(int(m.ID)), strconv.FormatBool(m.Voter)}
		to <- prometheus.MustNewConstMetric(c.active, prometheus.GaugeValue, metrics.Flag(m.Active), labels...)
		to <- prometheus.MustNewConstMetric(c.lag, prometheus.GaugeValue, float64(m.Lag), labels...)
	}
	c.objects(to)
	for direction, h := range map[string]*metrics.Histogram{"read": &c.r.loads.reads, "write": &c.r.loads.writes} {
		count, seconds, buckets := h.Read()
		to <- prometheus.MustNewConstHistogram(c.seconds, count, seconds, buckets, direction)
	}
}

func (c *collector) objects(to chan<- prometheus.Metric) {
	c.r.loads.mu.RLock()
	defer c.r.loads.mu.RUnlock()
	for object, n := range c.r.loads.byObject {
		name, k := strconv.FormatUint(object, 10), n.snapshot()
		to <- prometheus.MustNewConstMetric(c.operations, prometheus.CounterValue, float64(k.Reads), name, "read")
		to <- prometheus.MustNewConstMetric(c.operations, prometheus.CounterValue, float64(k.Writes), name, "write")
		to <- prometheus.MustNewConstMetric(c.bytes, prometheus.CounterValue, float64(k.ReadBytes), name, "read")
		to <- prometheus.MustNewConstMetric(c.bytes, prometheus.CounterValue, float64(k.WriteBytes), name, "write")
	}
}

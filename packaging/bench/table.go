package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// report is the outcome of a run. Its JSON form is an interface: fields are added, never renamed.
type report struct {
	Machine   machine   `json:"machine"`
	Seconds   float64   `json:"seconds"` // of one measurement
	Rounds    int       `json:"rounds"`
	MiB       int64     `json:"mib"` // that each store holds
	Floors    []floor   `json:"floors"`
	IdleCores float64   `json:"idle_cores"` // processors that all servers keep busy when nothing is asked of them
	LeftOut   []string  `json:"left_out"`
	Cells     []outcome `json:"cells"`
}

// machine is where it was measured.
type machine struct {
	Processor string    `json:"processor"`
	Count     int       `json:"processors"`
	Kernel    string    `json:"kernel"`
	Time      time.Time `json:"time"`
}

func thisMachine() machine {
	now := time.Now().UTC().Truncate(time.Second)
	m := machine{Processor: "unknown", Count: runtime.NumCPU(), Kernel: "unknown", Time: now}
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				m.Processor = strings.TrimSpace(value)
				break
			}
		}
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	return m
}

// MarshalJSON implements json.Marshaler.
func (f floor) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Name  string  `json:"name"`
		Count uint64  `json:"count"`
		P50   float64 `json:"p50_us"`
		P99   float64 `json:"p99_us"`
	}{f.name, f.count, micros(f.p50), micros(f.p99)})
}

// figures are what is told of a measurement.
type figures struct {
	PerSecond float64 `json:"per_second"` // I/Os
	MBps      float64 `json:"mb_per_second"`
	P50       float64 `json:"p50_us"`
	P99       float64 `json:"p99_us"`
	P999      float64 `json:"p999_us"`
	Longest   float64 `json:"longest_us"`
	CPU       float64 `json:"server_cpu_us_per_io"` // of all processes that serve the unit
	LoadCPU   float64 `json:"load_cpu_us_per_io"`
	Others    float64 `json:"other_cores"` // processors that others kept busy, kernel threads among them
}

func figuresOf(t test, s sample) figures {
	n, seconds := float64(s.count), s.elapsed.Seconds()
	return figures{
		PerSecond: n / seconds, MBps: n * float64(t.bytes) / 1e6 / seconds,
		P50: micros(s.p50), P99: micros(s.p99), P999: micros(s.p999), Longest: micros(s.longest),
		CPU: micros(s.servers) / n, LoadCPU: micros(s.load) / n, Others: s.others.Seconds() / seconds,
	}
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// outcome is a cell of the table: the median of each figure over the rounds.
type outcome struct {
	Target string `json:"target"`
	Test   string `json:"test"`
	figures
	// Spread is half the distance between the best and the worst round's rate, relative to the median.
	Spread float64   `json:"spread"`
	Rounds []figures `json:"rounds"`
	// LoadBound: the load generator used nearly all of the one processor it takes; the target could do more.
	LoadBound bool `json:"load_bound"`
	// Against names the column that the ratios are to; without it there are none.
	Against   string  `json:"against,omitempty"`
	RateRatio float64 `json:"rate_ratio,omitempty"` // above 1: quicker
	CPURatio  float64 `json:"cpu_ratio,omitempty"`  // below 1: cheaper

	pair pair
}

// loadLimit is the part of a processor beyond which the load generator is what limits a cell.
const loadLimit = 0.9

// evaluate makes the cells of the table from all measurements.
func (r *report) evaluate(all []measured) {
	r.Cells = nil
	for _, m := range all {
		i := slices.IndexFunc(r.Cells, func(o outcome) bool { return o.pair == m.pair })
		if i < 0 {
			i = len(r.Cells)
			r.Cells = append(r.Cells, outcome{Target: m.column.name, Test: m.test.name, pair: m.pair})
		}
		r.Cells[i].Rounds = append(r.Cells[i].Rounds, figuresOf(m.test, m.sample))
	}
	for i := range r.Cells {
		o := &r.Cells[i]
		o.figures = medians(o.Rounds)
		var rates []float64
		for _, f := range o.Rounds {
			rates = append(rates, f.PerSecond)
		}
		o.LoadBound = o.LoadCPU*o.PerSecond > loadLimit*1e6
		o.Spread = (slices.Max(rates) - slices.Min(rates)) / 2 / o.PerSecond
	}
	for i := range r.Cells {
		o := &r.Cells[i]
		if base := r.cell(o.pair.column.against(o.pair.test), o.Test); base != nil {
			o.Against = base.Target
			o.RateRatio, o.CPURatio = o.PerSecond/base.PerSecond, ratio(o.CPU, base.CPU)
		}
	}
}

// ratio is a/b, and 0, which stands for none, if b is nothing.
func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

// cell finds a cell; it is nil if there is none.
func (r *report) cell(target, test string) *outcome {
	for i := range r.Cells {
		if r.Cells[i].Target == target && r.Cells[i].Test == test {
			return &r.Cells[i]
		}
	}
	return nil
}

// medians is the median of each figure.
func medians(all []figures) figures {
	of := func(get func(figures) float64) float64 {
		values := make([]float64, len(all))
		for i, f := range all {
			values[i] = get(f)
		}
		return median(values)
	}
	return figures{
		PerSecond: of(func(f figures) float64 { return f.PerSecond }),
		MBps:      of(func(f figures) float64 { return f.MBps }),
		P50:       of(func(f figures) float64 { return f.P50 }),
		P99:       of(func(f figures) float64 { return f.P99 }),
		P999:      of(func(f figures) float64 { return f.P999 }),
		Longest:   of(func(f figures) float64 { return f.Longest }),
		CPU:       of(func(f figures) float64 { return f.CPU }),
		LoadCPU:   of(func(f figures) float64 { return f.LoadCPU }),
		Others:    of(func(f figures) float64 { return f.Others }),
	}
}

// median is the middle value, or the mean of the two in the middle. It sorts values.
func median(values []float64) float64 {
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}

// writeJSON prints the report as JSON.
func (r *report) writeJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// writeText prints the report as a table.
func (r *report) writeText(w io.Writer) error {
	b := bufio.NewWriter(w)
	fmt.Fprintf(b, "%s, %d processors, Linux %s, %s\n", r.Machine.Processor, r.Machine.Count, r.Machine.Kernel,
		r.Machine.Time.Format(time.RFC3339))
	fmt.Fprintf(b, "Medians of %d rounds, measured in turns, %g s each; every store holds %d MiB.\n",
		r.Rounds, r.Seconds, r.MiB)
	for _, f := range r.Floors {
		fmt.Fprintf(b, "Floor: %-48s p50 %s µs, p99 %s µs\n", f.name, number(micros(f.p50)), number(micros(f.p99)))
	}
	fmt.Fprintf(b, "All servers, idle, keep %.2f processors busy.\n", r.IdleCores)
	for _, left := range r.LeftOut {
		fmt.Fprintf(b, "NOT MEASURED: %s\n", left)
	}
	last := ""
	for _, o := range r.Cells {
		if o.Test != last {
			last = o.Test
			r.writeHead(b, o.pair.test)
		}
		writeCell(b, o)
	}
	r.writeRatios(b)
	fmt.Fprint(b, notes)
	return b.Flush()
}

const notes = `
CPU: processor time of all processes that serve the unit, for one I/O; load: of the load generator, which shares
the machine. ±: half the distance between the best and the worst round. others: processors kept busy by other
processes and by the kernel's own threads. durable: write cache off; pss is always durable. All servers of a cell
share this one machine and its disk. What a store puts off (page cache, overlay) is waited for when the
measurement is over, and not counted.
`

// columnWidth is that of the targets' names.
const columnWidth = 18

func (r *report) writeHead(w io.Writer, t test) {
	unit := "IOPS"
	if t.sequential {
		unit = "MB/s"
	}
	fmt.Fprintf(w, "\n%s (%s)\n%-*s %8s %5s %9s %9s %9s %9s %9s %6s  %s\n", t.title, t.name, columnWidth, "", unit, "±",
		"p50 µs", "p99 µs", "p99.9 µs", "CPU µs", "load µs", "others", "rate and CPU, relative to")
}

func writeCell(w io.Writer, o outcome) {
	rate := o.PerSecond
	if o.pair.test.sequential {
		rate = o.MBps
	}
	fmt.Fprintf(w, "%-*s %8s %4.0f%% %9s %9s %9s %9s %9s %6.2f", columnWidth, o.pair.column.title,
		number(rate), 100*o.Spread, number(o.P50), number(o.P99), number(o.P999), number(o.CPU), number(o.LoadCPU), o.Others)
	if o.Against != "" {
		cpu := "-"
		if o.CPURatio > 0 {
			cpu = fmt.Sprintf("%.2f", o.CPURatio)
		}
		fmt.Fprintf(w, "  %5.2f %5s  %s", o.RateRatio, cpu, o.Against)
	}
	if o.LoadBound {
		fmt.Fprint(w, "  limited by the load")
	}
	fmt.Fprintln(w)
}

// number writes three significant digits or more, without an exponent.
func number(v float64) string {
	switch {
	case v < 9.995:
		return fmt.Sprintf("%.2f", v)
	case v < 99.95:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

// writeRatios prints all ratios of rates once more, close together.
func (r *report) writeRatios(w io.Writer) {
	var compared []pair
	for _, o := range r.Cells {
		if o.Against != "" {
			compared = append(compared, o.pair)
		}
	}
	if len(compared) == 0 {
		return
	}
	fmt.Fprintf(w, "\nRates relative to tgt (local stores: the same store; pss: reads to rdwr, others to rdwr durable)\n")
	fmt.Fprintf(w, "%-*s", columnWidth, "")
	for _, c := range columnsOf(compared) {
		fmt.Fprintf(w, " %11s", c.name)
	}
	fmt.Fprintln(w)
	last := ""
	for _, p := range compared {
		if p.test.name == last {
			continue
		}
		last = p.test.name
		fmt.Fprintf(w, "%-*s", columnWidth, last)
		for _, c := range columnsOf(compared) {
			text := "-"
			if o := r.cell(c.name, last); o != nil && o.Against != "" {
				text = fmt.Sprintf("%.2f", o.RateRatio)
			}
			fmt.Fprintf(w, " %11s", text)
		}
		fmt.Fprintln(w)
	}
}

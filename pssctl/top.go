package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/paxos-iscsi/paxos-iscsi/pss"
	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pssctl/console"
	"github.com/paxos-iscsi/paxos-iscsi/pssctl/survey"
)

func topCommand() *cli.Command {
	return command("top", "what the cell is doing now: IOPS, throughput and latency of each volume and client", " ", top, console.JSONFlag(),
		&cli.DurationFlag{Name: "interval", Aliases: []string{"d"}, Value: 2 * time.Second, Usage: "between two looks, `TIME`"},
		&cli.IntFlag{Name: "count", Aliases: []string{"n"}, Usage: "how many looks, `N`; until interrupted by default"})
}

// leastInterval keeps looking from being a load of its own.
const leastInterval = 200 * time.Millisecond

// sample is one look at the cell.
type sample struct {
	at     time.Time
	survey *survey.Cell
	load   *admin.Load // the master's; nil without one
}

// flow is what happened between two looks.
type flow struct {
	Name       string  `json:"name"`
	ReadIOPS   float64 `json:"read_iops"`
	ReadMBs    float64 `json:"read_mb_per_s"`
	ReadMS     float64 `json:"read_ms"` // mean, in the server
	WriteIOPS  float64 `json:"write_iops"`
	WriteMBs   float64 `json:"write_mb_per_s"`
	WriteMS    float64 `json:"write_ms"`
	difference admin.Counts
}

func top(c *cli.Context) error {
	if err := arguments(c, 0, 0); err != nil {
		return err
	}
	conf, err := console.Conf(c)
	if err != nil {
		return err
	}
	interval := c.Duration("interval")
	if interval < leastInterval {
		return console.Usagef("--interval %v: %v at least", interval, leastInterval)
	}
	client, err := pss.Open(conf, pss.Options{Software: "pssctl top"})
	if err != nil {
		return err
	}
	defer client.Close()
	ctx := c.Context
	before := look(ctx, conf)
	ticks := time.NewTicker(interval)
	defer ticks.Stop()
	clear := isTerminal(c.App.Writer) && !c.Bool("json")
	for n := 0; c.Int("count") == 0 || n < c.Int("count"); n++ {
		select {
		case <-ctx.Done():
			return nil
		case <-ticks.C:
		}
		now := look(ctx, conf)
		names, err := volumeNames(ctx, client)
		if err != nil && ctx.Err() == nil {
			names = nil // without a master; numbers will do
		}
		err = show(c, before, now, names, clear)
		if err != nil {
			return err
		}
		before = now
	}
	return nil
}

func look(ctx context.Context, conf *cell.Config) sample {
	s := sample{survey: survey.Take(ctx, conf)}
	if s.survey.Master != nil {
		ctx, cancel := context.WithTimeout(ctx, survey.AnswerTimeout)
		defer cancel()
		if conn, err := admin.Dial(ctx, conf, *s.survey.Master); err == nil {
			defer conn.Close()
			var l admin.Load
			if conn.Call(ctx, admin.MethodLoad, nil, &l) == nil {
				s.load = &l
			}
		}
	}
	s.at = time.Now()
	return s
}

// volumeNames are the paths of the volumes by their objects.
func volumeNames(ctx context.Context, client *pss.Cell) (map[uint64]string, error) {
	ctx, cancel := context.WithTimeout(ctx, survey.AnswerTimeout)
	defer cancel()
	names := map[uint64]string{}
	err := walk(ctx, client, "/", func(_ int, e entry) error {
		if e.Kind == "volume" {
			names[e.object] = strings.TrimPrefix(e.Path, "/")
		}
		return nil
	})
	return names, err
}

func show(c *cli.Context, before, now sample, names map[uint64]string, clear bool) error {
	volumes, clients := flows(before, now, names)
	w := c.App.Writer
	if c.Bool("json") {
		return console.JSON(w, struct {
			At      time.Time `json:"at"`
			Health  string    `json:"health"`
			Master  *cell.ID  `json:"master"`
			Volumes []flow    `json:"volumes"`
			Clients []flow    `json:"clients"`
		}{now.at, now.survey.Health(), now.survey.Master, volumes, clients})
	}
	if clear {
		fmt.Fprint(w, "\x1b[H\x1b[2J")
	}
	fmt.Fprintf(w, "%s  %s  %d of %d votes up", now.at.Format(time.TimeOnly), now.survey.Health(), now.survey.Alive, now.survey.Voters)
	if now.survey.Master != nil {
		fmt.Fprintf(w, ", master is %d", *now.survey.Master)
	}
	fmt.Fprint(w, "\n\n")
	if err := printFlows(w, "VOLUME", volumes); err != nil {
		return err
	}
	fmt.Fprintln(w)
	if err := printFlows(w, "CLIENT", clients); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w)
	return err
}

// flows are the rates between two looks at the same master, the busiest first.
func flows(before, now sample, names map[uint64]string) (volumes, clients []flow) {
	volumes, clients = []flow{}, []flow{}
	if before.load == nil || now.load == nil || *before.survey.Master != *now.survey.Master ||
		now.load.UptimeSecs < before.load.UptimeSecs {
		return volumes, clients // another master counts from its own start
	}
	seconds := now.load.UptimeSecs - before.load.UptimeSecs
	if seconds <= 0 {
		return volumes, clients
	}
	old := map[uint64]admin.Counts{}
	for _, v := range before.load.Volumes {
		old[v.Object] = v.Counts
	}
	for _, v := range now.load.Volumes {
		name := names[v.Object]
		if name == "" {
			name = fmt.Sprintf("object %d", v.Object)
		}
		volumes = append(volumes, rate(name, old[v.Object], v.Counts, seconds))
	}
	oldClients := map[string]admin.Counts{}
	for _, k := range before.load.Clients {
		oldClients[k.Remote] = k.Counts
	}
	for _, k := range now.load.Clients {
		clients = append(clients, rate(strings.TrimSpace(k.Remote+" "+k.Software), oldClients[k.Remote], k.Counts, seconds))
	}
	busiest := func(a, b flow) int {
		return cmp.Or(cmp.Compare(b.ReadIOPS+b.WriteIOPS, a.ReadIOPS+a.WriteIOPS), strings.Compare(a.Name, b.Name))
	}
	slices.SortFunc(volumes, busiest)
	slices.SortFunc(clients, busiest)
	return volumes, clients
}

func rate(name string, before, now admin.Counts, seconds float64) flow {
	const mega = 1e6
	d := admin.Counts{
		Reads: now.Reads - before.Reads, ReadBytes: now.ReadBytes - before.ReadBytes, ReadNanos: now.ReadNanos - before.ReadNanos,
		Writes: now.Writes - before.Writes, WriteBytes: now.WriteBytes - before.WriteBytes, WriteNanos: now.WriteNanos - before.WriteNanos,
	}
	mean := func(nanos, n uint64) float64 {
		if n == 0 {
			return 0
		}
		return float64(nanos) / float64(n) / 1e6
	}
	return flow{Name: name, difference: d,
		ReadIOPS: float64(d.Reads) / seconds, ReadMBs: float64(d.ReadBytes) / mega / seconds, ReadMS: mean(d.ReadNanos, d.Reads),
		WriteIOPS: float64(d.Writes) / seconds, WriteMBs: float64(d.WriteBytes) / mega / seconds, WriteMS: mean(d.WriteNanos, d.Writes)}
}

func printFlows(w io.Writer, what string, list []flow) error {
	var rows [][]string
	for _, f := range list {
		rows = append(rows, []string{f.Name,
			fmt.Sprintf("%.0f", f.ReadIOPS), fmt.Sprintf("%.1f", f.ReadMBs), fmt.Sprintf("%.2f", f.ReadMS),
			fmt.Sprintf("%.0f", f.WriteIOPS), fmt.Sprintf("%.1f", f.WriteMBs), fmt.Sprintf("%.2f", f.WriteMS)})
	}
	return console.Table(w, []string{what, "READ/S", "MB/S", "MS", "WRITE/S", "MB/S", "MS"}, rows, 1, 2, 3, 4, 5, 6)
}

// isTerminal says whether w is one.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

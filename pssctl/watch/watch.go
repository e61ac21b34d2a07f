// Package watch looks at a cell again and again, and tells what it did between two looks.
package watch

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss"
	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
	"github.com/paxos-iscsi/paxos-iscsi/pssctl/survey"
)

// Watcher remembers the last look. It is used by one goroutine at a time.
type Watcher struct {
	conf   *cell.Config
	client *pss.Cell
	last   sample
}

// New makes a Watcher. Close it.
func New(conf *cell.Config, software string) (*Watcher, error) {
	client, err := pss.Open(conf, pss.Options{Software: software})
	if err != nil {
		return nil, err
	}
	return &Watcher{conf: conf, client: client}, nil
}

// Close ends the Watcher's session.
func (w *Watcher) Close() { w.client.Close() }

// sample is one look at the cell.
type sample struct {
	survey *survey.Cell
	load   *admin.Load // the master's; nil without one
}

// View is what there is to see: the cell as it is, and what it did since the last look.
type View struct {
	At      time.Time    `json:"at"`
	Health  string       `json:"health"`
	Cell    *survey.Cell `json:"cell"`
	Volumes []Volume     `json:"volumes"`
	Flows   []Flow       `json:"flows"`   // of volumes, the busiest first
	Clients []Flow       `json:"clients"` // likewise
	Total   Flow         `json:"total"`
}

// Volume is a volume of the cell.
type Volume struct {
	Name   string `json:"name"`
	Bytes  uint64 `json:"bytes"`
	object uint64
}

// Flow is what happened between two looks. Latencies are means, as the server sees them.
type Flow struct {
	Name      string  `json:"name"`
	ReadIOPS  float64 `json:"read_iops"`
	ReadMBs   float64 `json:"read_mb_per_s"`
	ReadMS    float64 `json:"read_ms"`
	WriteIOPS float64 `json:"write_iops"`
	WriteMBs  float64 `json:"write_mb_per_s"`
	WriteMS   float64 `json:"write_ms"`
}

// Look takes a look. What can't be reached is a part of the picture.
func (w *Watcher) Look(ctx context.Context) View {
	now := sample{survey: survey.Take(ctx, w.conf)}
	v := View{Cell: now.survey, Health: now.survey.Health(), Volumes: []Volume{}, Flows: []Flow{}, Clients: []Flow{}}
	if now.survey.Master != nil {
		now.load = w.load(ctx, *now.survey.Master)
		if volumes, err := w.volumes(ctx); err == nil {
			v.Volumes = volumes
		}
	}
	v.At = time.Now()
	w.compare(&v, now)
	w.last = now
	return v
}

func (w *Watcher) load(ctx context.Context, master cell.ID) *admin.Load {
	ctx, cancel := context.WithTimeout(ctx, survey.AnswerTimeout)
	defer cancel()
	var l admin.Load
	if admin.CallServer(ctx, w.conf, master, admin.MethodLoad, nil, &l) != nil {
		return nil
	}
	return &l
}

// volumes lists all volumes by name.
func (w *Watcher) volumes(ctx context.Context) ([]Volume, error) {
	ctx, cancel := context.WithTimeout(ctx, survey.AnswerTimeout)
	defer cancel()
	list := []Volume{}
	var descend func(folder string) error
	descend = func(folder string) error {
		nodes, err := w.client.ReadDir(ctx, "/"+folder)
		if err != nil {
			return err
		}
		for _, n := range nodes {
			name := strings.TrimPrefix(folder+"/"+n.Name, "/")
			switch n.Kind {
			case op.KindVolume:
				list = append(list, Volume{Name: name, Bytes: n.Bytes, object: n.Object})
			case op.KindDir:
				if err := descend(name); err != nil {
					return err
				}
			}
		}
		return nil
	}
	err := descend("")
	slices.SortFunc(list, func(a, b Volume) int { return strings.Compare(a.Name, b.Name) })
	return list, err
}

// compare fills in the rates since the last look at the same master: another one counts from its own start.
func (w *Watcher) compare(v *View, now sample) {
	before := w.last
	if before.load == nil || now.load == nil || *before.survey.Master != *now.survey.Master ||
		now.load.UptimeSecs <= before.load.UptimeSecs {
		return
	}
	seconds := now.load.UptimeSecs - before.load.UptimeSecs
	names := map[uint64]string{}
	for _, x := range v.Volumes {
		names[x.object] = x.Name
	}
	old := map[uint64]admin.Counts{}
	for _, x := range before.load.Volumes {
		old[x.Object] = x.Counts
	}
	var all admin.Counts
	for _, x := range now.load.Volumes {
		name := cmp.Or(names[x.Object], fmt.Sprintf("object %d", x.Object))
		d := difference(old[x.Object], x.Counts)
		add(&all, d)
		v.Flows = append(v.Flows, rate(name, d, seconds))
	}
	v.Total = rate("total", all, seconds)
	oldClients := map[string]admin.Counts{}
	for _, x := range before.load.Clients {
		oldClients[x.Remote] = x.Counts
	}
	for _, x := range now.load.Clients {
		v.Clients = append(v.Clients, rate(strings.TrimSpace(x.Remote+" "+x.Software), difference(oldClients[x.Remote], x.Counts), seconds))
	}
	busiest := func(a, b Flow) int {
		return cmp.Or(cmp.Compare(b.ReadIOPS+b.WriteIOPS, a.ReadIOPS+a.WriteIOPS), strings.Compare(a.Name, b.Name))
	}
	slices.SortFunc(v.Flows, busiest)
	slices.SortFunc(v.Clients, busiest)
}

func difference(before, now admin.Counts) admin.Counts {
	return admin.Counts{
		Reads: now.Reads - before.Reads, ReadBytes: now.ReadBytes - before.ReadBytes, ReadNanos: now.ReadNanos - before.ReadNanos,
		Writes: now.Writes - before.Writes, WriteBytes: now.WriteBytes - before.WriteBytes, WriteNanos: now.WriteNanos - before.WriteNanos,
	}
}

func add(to *admin.Counts, d admin.Counts) {
	to.Reads, to.ReadBytes, to.ReadNanos = to.Reads+d.Reads, to.ReadBytes+d.ReadBytes, to.ReadNanos+d.ReadNanos
	to.Writes, to.WriteBytes, to.WriteNanos = to.Writes+d.Writes, to.WriteBytes+d.WriteBytes, to.WriteNanos+d.WriteNanos
}

func rate(name string, d admin.Counts, seconds float64) Flow {
	const mega = 1e6
	mean := func(nanos, n uint64) float64 {
		if n == 0 {
			return 0
		}
		return float64(nanos) / float64(n) / 1e6
	}
	return Flow{Name: name,
		ReadIOPS: float64(d.Reads) / seconds, ReadMBs: float64(d.ReadBytes) / mega / seconds, ReadMS: mean(d.ReadNanos, d.Reads),
		WriteIOPS: float64(d.Writes) / seconds, WriteMBs: float64(d.WriteBytes) / mega / seconds, WriteMS: mean(d.WriteNanos, d.Writes)}
}

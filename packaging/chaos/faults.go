package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/packaging/chaos/network"
	"github.com/paxos-iscsi/paxos-iscsi/packaging/rig"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
)

// fault is a class of faults.
type fault struct {
	name string
	// core is how many core servers it takes from the cell at most. Faults that come together take no majority.
	core int
	// alone: it does not go together with others.
	alone bool
	// wire: it sets conditions of the network as a whole, of which there is one at a time.
	wire bool
	// begin does it, and returns what ends it.
	begin func(ctx context.Context, l *lab, v *victims) (end func(context.Context) error, err error)
}

// victims chooses who a fault is for. Faults that come together share it, so that nobody is chosen twice.
type victims struct {
	lab    *lab
	random *rand.Rand
	taken  map[cell.ID]bool
	names  []string // for the report: what happened to whom
}

// errNobody is a fault that nobody is left for.
var errNobody = errors.New("no server is left for the fault")

// master is whoever is master at this moment.
func (v *victims) master(ctx context.Context) (cell.ID, error) {
	id, err := v.lab.cell.Master(ctx)
	if err != nil {
		return 0, err
	}
	if v.taken[id] {
		return 0, errNobody
	}
	return id, v.take(id)
}

// follower is a core server of chance that is not master.
func (v *victims) follower(ctx context.Context) (cell.ID, error) {
	master, err := v.lab.cell.Master(ctx)
	if err != nil {
		return 0, err
	}
	return v.of(func(id cell.ID) bool { return id.Core() && id != master })
}

// replica is a replica of chance.
func (v *victims) replica(context.Context) (cell.ID, error) {
	return v.of(func(id cell.ID) bool { return !id.Core() })
}

func (v *victims) of(good func(cell.ID) bool) (cell.ID, error) {
	var ids []cell.ID
	for _, id := range v.lab.cell.IDs() {
		if good(id) && !v.taken[id] {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return 0, errNobody
	}
	id := ids[v.random.IntN(len(ids))]
	return id, v.take(id)
}

func (v *victims) take(id cell.ID) error {
	v.taken[id] = true
	v.names = append(v.names, fmt.Sprint(id))
	return nil
}

// who is one of the methods above.
type who func(*victims, context.Context) (cell.ID, error)

// onServer makes a fault of one server.
func onServer(choose who, do func(context.Context, *lab, cell.ID) (func(context.Context) error, error)) func(
	context.Context, *lab, *victims) (func(context.Context) error, error) {
	return func(ctx context.Context, l *lab, v *victims) (func(context.Context) error, error) {
		id, err := choose(v, ctx)
		if err != nil {
			return nil, err
		}
		return do(ctx, l, id)
	}
}

// faults is every class, in the order of the report.
func faults() []fault {
	master, follower, replica := (*victims).master, (*victims).follower, (*victims).replica
	all := []fault{
		{name: "kill-follower", core: 1, begin: onServer(follower, kill)},
		{name: "kill-master", core: 1, begin: onServer(master, kill)},
		{name: "kill-replica", begin: onServer(replica, kill)},
		{name: "stop-follower", core: 1, begin: onServer(follower, freeze)},
		{name: "stop-master", core: 1, begin: onServer(master, freeze)},
		{name: "cut-follower", core: 1, begin: onServer(follower, cut)},
		{name: "cut-master", core: 1, begin: onServer(master, cut)},
		{name: "cut-master-from-servers", core: 1, begin: onServer(master, cutFromServers)},
		{name: "cut-replica", begin: onServer(replica, cut)},
		{name: "deaf-follower", core: 1, begin: onServer(follower, deaf)},
		{name: "deaf-master", core: 1, begin: onServer(master, deaf)},
		{name: "mute-follower", core: 1, begin: onServer(follower, mute)},
		{name: "mute-master", core: 1, begin: onServer(master, mute)},
		{name: "delay", wire: true, begin: onWire(network.Condition{Delay: 30 * time.Millisecond, Jitter: 20 * time.Millisecond})},
		{name: "loss", wire: true, begin: onWire(network.Condition{Loss: 0.05, Double: 0.02})},
		{name: "disk-full-follower", core: 1, begin: onServer(follower, fillDisk)},
		{name: "disk-full-master", core: 1, begin: onServer(master, fillDisk)},
		{name: "disk-wiped-follower", core: 1, begin: onServer(follower, wipe)},
		{name: "disk-wiped-master", core: 1, begin: onServer(master, wipe)},
		{name: "disk-wiped-replica", begin: onServer(replica, wipe)},
		{name: "disk-slow-follower", core: 1, begin: onServer(follower, slowDisk)},
		{name: "disk-slow-master", core: 1, begin: onServer(master, slowDisk)},
		{name: "kill-target", begin: killTarget},
		{name: "majority-killed", core: 3, alone: true, begin: killMajority},
		{name: "power-cut", core: 5, alone: true, begin: powerCut},
	}
	return all
}

func kill(_ context.Context, l *lab, id cell.ID) (func(context.Context) error, error) {
	return func(ctx context.Context) error { return l.cell.Start(ctx, id) }, l.cell.Server(id).Kill()
}

func freeze(_ context.Context, l *lab, id cell.ID) (func(context.Context) error, error) {
	p := l.cell.Server(id)
	return func(context.Context) error { return p.Thaw() }, p.Freeze()
}

// links sets the conditions between a server and the other servers, and the target if withTarget, and takes them away
// again. in is towards the server.
func links(l *lab, id cell.ID, in, out network.Condition, withTarget bool) (func(context.Context) error, error) {
	set := func(in, out network.Condition) {
		own := serverAddress(id)
		for _, other := range l.cell.IDs() {
			if other != id {
				l.net.Set(serverAddress(other), own, in)
				l.net.Set(own, serverAddress(other), out)
			}
		}
		if withTarget {
			l.net.Set(address(targetHost), own, in)
			l.net.Set(own, address(targetHost), out)
		}
	}
	set(in, out)
	return func(context.Context) error {
		set(network.Condition{}, network.Condition{})
		return nil
	}, nil
}

var (
	through = network.Condition{}
	nothing = network.Condition{Cut: true}
)

func cut(_ context.Context, l *lab, id cell.ID) (func(context.Context) error, error) {
	return links(l, id, nothing, nothing, true)
}

func cutFromServers(_ context.Context, l *lab, id cell.ID) (func(context.Context) error, error) {
	return links(l, id, nothing, nothing, false)
}

func deaf(_ context.Context, l *lab, id cell.ID) (func(context.Context) error, error) {
	return links(l, id, nothing, through, false)
}

func mute(_ context.Context, l *lab, id cell.ID) (func(context.Context) error, error) {
	return links(l, id, through, nothing, false)
}

// onWire sets one condition between all servers, and between them and the target.
func onWire(c network.Condition) func(context.Context, *lab, *victims) (func(context.Context) error, error) {
	return func(_ context.Context, l *lab, _ *victims) (func(context.Context) error, error) {
		l.wire(c)
		return func(context.Context) error {
			l.wire(network.Condition{})
			return nil
		}, nil
	}
}

func fillDisk(_ context.Context, l *lab, id cell.ID) (func(context.Context) error, error) {
	d := l.disks[id]
	return func(context.Context) error { return d.empty() }, d.fill()
}

// wipe takes a server's disk from it, and starts it again at once: its return is part of the fault.
func wipe(ctx context.Context, l *lab, id cell.ID) (func(context.Context) error, error) {
	if err := l.cell.Server(id).Kill(); err != nil {
		return nil, err
	}
	server, _ := l.cell.Config.Server(id)
	if err := os.RemoveAll(server.Root()); err != nil {
		return nil, fmt.Errorf("wipe the disk of server %d: %w", id, err)
	}
	return func(ctx context.Context) error { return l.member(ctx, id) }, l.cell.Start(ctx, id)
}

func slowDisk(_ context.Context, l *lab, id cell.ID) (func(context.Context) error, error) {
	p := l.cell.Server(id)
	s, err := slow(l.disks[id], p.PID())
	if err != nil {
		return nil, err
	}
	l.slowed = append(l.slowed, s)
	return func(context.Context) error { return s.release(p.PID()) }, nil
}

func killTarget(ctx context.Context, l *lab, _ *victims) (func(context.Context) error, error) {
	if err := l.target.Kill(); err != nil {
		return nil, err
	}
	return func(context.Context) error { return nil }, l.serve(ctx)
}

// killMajority kills three core servers, the master among them.
func killMajority(ctx context.Context, l *lab, v *victims) (func(context.Context) error, error) {
	id, err := v.master(ctx)
	if err != nil {
		return nil, err
	}
	ids := []cell.ID{id}
	for range 2 {
		id, err := v.of(cell.ID.Core)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return l.killAll(ids)
}

func powerCut(_ context.Context, l *lab, _ *victims) (func(context.Context) error, error) {
	return l.killAll(l.cell.IDs())
}

func (l *lab) killAll(ids []cell.ID) (func(context.Context) error, error) {
	var ps []*rig.Process
	for _, id := range ids {
		ps = append(ps, l.cell.Server(id))
	}
	return func(ctx context.Context) error { return l.cell.Start(ctx, ids...) }, rig.KillAll(ps...)
}

// match finds the classes that patterns name: a class matches by its name or the beginning of it.
func match(all []fault, patterns []string) ([]fault, error) {
	if len(patterns) == 0 {
		return all, nil
	}
	var some []fault
	used := make(map[string]bool)
	for _, f := range all {
		for _, p := range patterns {
			if strings.HasPrefix(f.name, p) {
				some = append(some, f)
				used[p] = true
				break
			}
		}
	}
	for _, p := range patterns {
		if !used[p] {
			return nil, fmt.Errorf("--only %s: no class of faults begins so; there are %s", p, strings.Join(namesOf(all), ", "))
		}
	}
	return some, nil
}

func namesOf(fs []fault) []string {
	var names []string
	for _, f := range fs {
		names = append(names, f.name)
	}
	return names
}

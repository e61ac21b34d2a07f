package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/packaging/chaos/network"
	"github.com/paxos-iscsi/paxos-iscsi/packaging/rig"
	"github.com/paxos-iscsi/paxos-iscsi/packaging/verify"
	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pss/auth"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/initiator"
)

// What the lab serves.
const (
	volumeName = "vol001"
	targetName = "iqn.2026-11.example:chaos"
	ownName    = "iqn.2026-11.example:initiator"
	lun        = 1
	targetPort = 3260
)

// The unit's parts: the verifying load has the first, the contended registers the second.
const (
	loadBytes     = 64 << 20
	loadDepth     = 16
	loadIOBlocks  = 8
	loadReadPart  = 25
	registersFrom = 128 << 20
	askAgain      = 50 * time.Millisecond
	stepTimeout   = 2 * time.Minute // for anything that must come about once faults are over
)

// lab is the system under test: the network, the servers on their disks, the target.
type lab struct {
	dir      string
	programs rig.Programs
	net      *network.Network
	disks    map[cell.ID]*serverDisk
	cell     *rig.Cell
	target   *rig.Target
	slowed   []*slower // so far; close leaves none behind
}

// labOptions say what a lab is made of.
type labOptions struct {
	dir        string
	programs   rig.Programs
	ids        []cell.ID
	seed       uint64
	mtu        int
	diskBytes  int64 // of each server's file system; 0: plain folders in dir
	volume     string
	key        bool     // with a cell key
	congestion string   // how TCP answers to loss, as the kernel names it; empty: as it does anyway
	serverArgs []string // for each server
}

// newLab makes everything and starts the servers and the target.
func newLab(ctx context.Context, o labOptions) (*lab, error) {
	l := &lab{dir: o.dir, programs: o.programs, disks: make(map[cell.ID]*serverDisk)}
	if err := l.begin(ctx, o); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

// begin is newLab, of which an error leaves what is there already.
func (l *lab) begin(ctx context.Context, o labOptions) error {
	places, err := l.places(o)
	if err != nil {
		return err
	}
	if o.key {
		if _, err := auth.Generate(filepath.Join(o.dir, auth.FileName)); err != nil {
			return fmt.Errorf("make the cell's key: %w", err)
		}
	}
	if l.cell, err = rig.NewCellAt(o.dir, o.programs, places); err != nil {
		return err
	}
	if l.net, err = connect(o.seed, o.ids, o.mtu); err != nil {
		return err
	}
	if o.congestion != "" {
		if err := congestion(o.congestion, o.ids); err != nil {
			return err
		}
	}
	l.target, err = rig.NewTarget(rig.TargetOptions{Dir: o.dir, Programs: o.programs, Conf: l.cell.Conf, Port: targetPort,
		Host: address(targetHost).String(), Namespace: targetSpace})
	if err != nil {
		return err
	}
	if err := l.cell.StartAll(ctx); err != nil {
		return err
	}
	if err := l.cell.CreateVolume(ctx, volumeName, o.volume); err != nil {
		return err
	}
	return l.serve(ctx)
}

// places makes the servers' disks or folders.
func (l *lab) places(o labOptions) ([]rig.Place, error) {
	var all []rig.Place
	for _, id := range o.ids {
		path := filepath.Join(o.dir, serverSpace(id))
		if o.diskBytes > 0 {
			d, err := newDisk(o.dir, serverSpace(id), o.diskBytes)
			if err != nil {
				return nil, err
			}
			l.disks[id] = d
		} else if err := os.MkdirAll(path, 0o755); err != nil {
			return nil, fmt.Errorf("make a folder for server %d: %w", id, err)
		}
		all = append(all, rig.Place{ID: id, Host: serverAddress(id).String(), Path: path, Namespace: serverSpace(id),
			UDPPort: cell.FirstUDP + int(id), TCPPort: cell.FirstTCP + int(id), Args: o.serverArgs})
	}
	return all, nil
}

// serve starts the target with its unit.
func (l *lab) serve(ctx context.Context) error {
	if err := l.target.Start(ctx); err != nil {
		return err
	}
	const tid = 1
	n := strconv.Itoa(tid)
	for _, args := range [][]string{
		{"--op", "new", "--mode", "target", "--tid", n, "-T", targetName},
		{"--op", "new", "--mode", "logicalunit", "--tid", n, "--lun", strconv.Itoa(lun), "-b", volumeName, "-E", "pss"},
		{"--op", "bind", "--mode", "target", "--tid", n, "-I", "ALL"},
	} {
		if _, err := l.target.Admin(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

// close ends everything that newLab started.
func (l *lab) close() {
	if l.target != nil {
		l.target.Close()
	}
	if l.cell != nil {
		l.cell.Close()
	}
	for _, s := range l.slowed {
		_ = s.remove() // it is gone, unless a run ended before its fault did
	}
	if l.net != nil {
		_ = l.net.Close() // the devices go with the namespaces anyway
	}
}

// wire sets one condition between all servers, and between them and the target.
func (l *lab) wire(c network.Condition) {
	hosts := []int{targetHost}
	for _, id := range l.cell.IDs() {
		hosts = append(hosts, int(id)+1)
	}
	for i, a := range hosts {
		for _, b := range hosts[i+1:] {
			l.net.SetBoth(address(a), address(b), c)
		}
	}
}

// login opens a session with the target; one that outlives its connection if it is given time for that.
func (l *lab) login(ctx context.Context, depth int, reconnect time.Duration) (*initiator.Session, error) {
	s, err := initiator.Login(ctx, initiator.Options{Portal: l.target.Portal, Target: targetName, Initiator: ownName,
		Depth: depth, Reconnect: reconnect})
	if err != nil {
		return nil, err
	}
	for {
		err := s.Ready(lun)
		var status *initiator.StatusError
		if err == nil {
			return s, nil
		}
		if !errors.As(err, &status) || ctx.Err() != nil {
			s.Close()
			return nil, fmt.Errorf("wait for the unit: %w", err)
		}
		wait(ctx, askAgain)
	}
}

// load is a verifying load on the unit, and its session.
func (l *lab) load(ctx context.Context) (*verify.Load, *initiator.Session, error) {
	s, err := l.login(ctx, loadDepth, stepTimeout)
	if err != nil {
		return nil, nil, err
	}
	_, blockBytes, err := s.Capacity(lun)
	if err == nil {
		var v *verify.Load
		if v, err = verify.New(verify.Options{Device: s, LUN: lun, BlockBytes: blockBytes, Blocks: loadBytes / verify.BlockSize,
			Depth: loadDepth, IOBlocks: loadIOBlocks, ReadPart: loadReadPart, Streams: 1, Fresh: true}); err == nil {
			return v, s, nil
		}
	}
	s.Close()
	return nil, nil, err
}

// whole waits until every server runs, has its place in the cell, and is level.
func (l *lab) whole(ctx context.Context) error {
	for _, id := range l.cell.IDs() {
		if err := l.member(ctx, id); err != nil {
			return err
		}
	}
	return l.cell.Level(ctx)
}

// member waits until a server has its place in the cell: a vote, or the data if it is a replica.
func (l *lab) member(ctx context.Context, id cell.ID) error {
	good := []string{admin.StateVoter, admin.StateMaster}
	if !id.Core() {
		good = []string{admin.StateLearner}
	}
	for {
		var st admin.Status
		err := l.ask(ctx, id, admin.MethodStatus, &st)
		if err == nil && slices.Contains(good, st.State) {
			return nil
		}
		if over := l.cell.Server(id).Failed(); over != nil {
			return over
		}
		if ctx.Err() != nil {
			return fmt.Errorf("waiting until server %d has its place in the cell: %w; it is %q, waits for %q (%w)",
				id, ctx.Err(), st.State, st.WaitsFor, errors.Join(err, errors.New(l.cell.Server(id).Tail(5))))
		}
		wait(ctx, askAgain)
	}
}

// ask calls a method without arguments.
func (l *lab) ask(ctx context.Context, id cell.ID, method string, reply any) error {
	const patience = 5 * time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c, err := admin.Dial(ctx, l.cell.Config, id)
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Call(ctx, method, nil, reply)
}

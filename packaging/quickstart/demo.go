package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/packaging/rig"
	"github.com/paxos-iscsi/paxos-iscsi/packaging/verify"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/initiator"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi"
)

// What is shown. Names and secrets are those of etc/tgt/targets.conf.
const (
	targetsConf   = "etc/tgt/targets.conf"
	targetName    = "iqn.2001-03.jp.tritech:tgtd-pss"
	user, secret  = "iscsi_pss", "iscsi_pss000"
	initiatorName = "iqn.2001-03.jp.tritech:quickstart"
	volume, size  = "vol001", "1G"
	lun           = 1
)

const (
	stepTimeout  = time.Minute // for any one step; what takes longer has gone wrong
	checkedBytes = 64 << 20    // of the volume, which the load writes to
	loadDepth    = 16
	loadBlocks   = 8    // of 4 KiB, in one command at most
	actsPerPart  = 1000 // commands before, and after, the master is killed
)

// settings are what the environment says.
type settings struct {
	dir, bin string
	once     bool
}

// demo is the quick start.
type demo struct {
	settings
	out    io.Writer
	keep   bool // the folder is the user's
	cell   *rig.Cell
	target *rig.Target
	step   int
}

func newDemo(s settings, out io.Writer) (*demo, error) {
	if _, err := os.Stat(targetsConf); err != nil {
		return nil, fmt.Errorf("%s is not here: start the quick start by `make run`, or from the project's top folder", targetsConf)
	}
	programs, err := rig.Find(s.bin)
	if err != nil {
		return nil, err
	}
	d := &demo{settings: s, out: out, keep: s.dir != ""}
	if d.keep {
		if d.dir, err = filepath.Abs(s.dir); err == nil {
			err = os.MkdirAll(d.dir, 0o755)
		}
	} else {
		d.dir, err = os.MkdirTemp("", "paxos-iscsi-")
	}
	if err != nil {
		return nil, fmt.Errorf("a folder for the data: %w", err)
	}
	if d.cell, err = rig.NewCell(d.dir, programs, rig.AllServers()); err == nil {
		d.target, err = rig.NewTarget(rig.TargetOptions{Dir: d.dir, Programs: programs, Conf: d.cell.Conf, Port: iscsi.DefaultPort})
	}
	if err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

// close ends all processes and removes the folder, unless it is the user's.
func (d *demo) close() error {
	if d.target != nil {
		d.target.Close()
	}
	if d.cell != nil {
		d.cell.Close()
	}
	if d.keep {
		return nil
	}
	return os.RemoveAll(d.dir)
}

// say prints a numbered step.
func (d *demo) say(format string, args ...any) {
	d.step++
	fmt.Fprintf(d.out, "%2d. %s\n", d.step, fmt.Sprintf(format, args...))
}

// within runs a step that may not take for ever.
func within[T any](ctx context.Context, step func(context.Context) (T, error)) (T, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	begin := time.Now()
	v, err := step(ctx)
	return v, time.Since(begin), err
}

func (d *demo) run(ctx context.Context) error {
	if d.keep {
		fmt.Fprintf(d.out, "Paxos iSCSI on this machine. Everything is in %s.\n\n", d.dir)
	} else {
		fmt.Fprintf(d.out, "Paxos iSCSI on this machine. Everything is in %s, until the end.\n\n", d.dir)
	}
	if err := d.serve(ctx); err != nil {
		return err
	}
	if err := d.check(ctx); err != nil {
		return err
	}
	if err := d.show(ctx); err != nil {
		return err
	}
	if d.once {
		return nil
	}
	return d.stay(ctx)
}

// serve brings up the cell, the volume and the target.
func (d *demo) serve(ctx context.Context) error {
	master, took, err := within(ctx, func(ctx context.Context) (cell.ID, error) {
		if err := d.cell.Start(ctx, d.cell.IDs()...); err != nil {
			return 0, err
		}
		return d.cell.Master(ctx)
	})
	if err != nil {
		return err
	}
	all := d.cell.Config.Servers
	first, last := all[0], all[len(all)-1]
	d.say("%d servers run on %s (UDP %d-%d, TCP %d-%d): 5 core servers, which vote, and 3 replicas.\n"+
		"    After %s they had agreed on server %d as their master.", len(all), rig.Host, first.UDPPort, last.UDPPort,
		first.TCPPort, last.TCPPort, round(took), master)

	_, took, err = within(ctx, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, d.cell.CreateVolume(ctx, volume, size)
	})
	if err != nil {
		return err
	}
	d.say("createISCSIVol %s %s took %s.", volume, size, round(took))

	_, _, err = within(ctx, func(ctx context.Context) (struct{}, error) {
		if err := d.target.Start(ctx); err != nil {
			return struct{}{}, err
		}
		if err := d.target.Load(ctx, targetsConf); err != nil {
			return struct{}{}, fmt.Errorf("%w\n%s", err, d.target.Tail(10))
		}
		return struct{}{}, nil
	})
	if err != nil {
		return err
	}
	d.say("tgtd runs with the portal %s, and `tgt-admin -e -c %s` told it what to serve.", d.target.Portal, targetsConf)
	return nil
}

// login opens the initiator's session and finds the unit ready.
func (d *demo) login(ctx context.Context) (*initiator.Session, int, error) {
	s, err := initiator.Login(ctx, initiator.Options{
		Portal: d.target.Portal, Target: targetName, Initiator: initiatorName, User: user, Secret: secret,
		Depth: loadDepth, Reconnect: stepTimeout,
	})
	if err != nil {
		return nil, 0, fmt.Errorf("%w\n%s", err, d.target.Tail(10))
	}
	blocks, blockBytes, err := capacity(s)
	if err != nil {
		s.Close()
		return nil, 0, fmt.Errorf("unit %d of %s: %w\n%s", lun, targetName, err, d.target.Tail(10))
	}
	d.say("Logged in to %s with CHAP as %s; unit %d has %.1f GiB.", targetName, user, lun,
		float64(blocks)*float64(blockBytes)/(1<<30))
	return s, blockBytes, nil
}

func capacity(s *initiator.Session) (blocks uint64, blockBytes int, err error) {
	if err := s.Ready(lun); err != nil {
		return 0, 0, err
	}
	return s.Capacity(lun)
}

// check writes and verifies while the master is killed.
func (d *demo) check(ctx context.Context) error {
	s, blockBytes, err := d.login(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	load, err := verify.New(verify.Options{Device: s, LUN: lun, BlockBytes: blockBytes,
		Blocks: checkedBytes / verify.BlockSize, Depth: loadDepth, IOBlocks: loadBlocks, ReadPart: 25, Fresh: !d.keep})
	if err != nil {
		return err
	}
	// Commands that wait for the cell end only with their session. So on a failure the session goes first.
	defer load.Stop()
	defer s.Close()
	load.Start()
	before, err := d.part(ctx, load)
	if err != nil {
		return err
	}
	d.say("It writes and verifies in %d MiB of the unit, with %d commands of up to %d KiB under way: %d commands\n"+
		"    so far, half of them within %s, 99 %% within %s.", checkedBytes>>20, loadDepth, loadBlocks*verify.BlockSize>>10,
		before.Latency.Count(), round(before.Latency.Quantile(0.5)), round(before.Latency.Quantile(0.99)))

	old, _, err := within(ctx, d.cell.Master)
	if err != nil {
		return err
	}
	load.Mark()
	if err := d.cell.Server(old).Kill(); err != nil {
		return err
	}
	d.say("Killed the master, server %d, with SIGKILL.", old)
	during, err := d.part(ctx, load)
	if err != nil {
		return err
	}
	master, _, err := within(ctx, d.cell.Master)
	if err != nil {
		return err
	}
	d.say("Server %d is master now. The initiator saw a pause of %s, and %d errors.", master, round(during.Longest), during.Errors)

	_, took, err := within(ctx, func(ctx context.Context) (struct{}, error) {
		if err := d.cell.Start(ctx, old); err != nil {
			return struct{}{}, err
		}
		return struct{}{}, d.cell.Level(ctx)
	})
	if err != nil {
		return err
	}
	d.say("Started server %d again; after %s it was level with the others.", old, round(took))
	if _, err := d.part(ctx, load); err != nil {
		return err
	}
	return d.judge(ctx, load)
}

// part has the load go on for a while, and measures it.
func (d *demo) part(ctx context.Context, load *verify.Load) (verify.Window, error) {
	_, _, err := within(ctx, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, load.WaitAcks(ctx, actsPerPart)
	})
	if err != nil {
		err = fmt.Errorf("the unit does not answer: %w\n%s", err, d.target.Tail(10))
		if master, why := d.cell.Master(ctx); why == nil {
			err = fmt.Errorf("%w\nthe master, %s", err, d.cell.Server(master).Tail(10))
		}
	}
	return load.Mark(), err
}

// judge reads everything back.
func (d *demo) judge(ctx context.Context, load *verify.Load) error {
	load.Stop()
	_, _, err := within(ctx, func(ctx context.Context) (struct{}, error) { return struct{}{}, load.ReadBack(ctx) })
	if err := errors.Join(err, load.Err()); err != nil {
		return fmt.Errorf("THE CHECK HAS FAILED: %w", err)
	}
	acked, _ := load.Acked()
	d.say("Read everything back: all %d blocks that were acknowledged are there and right. %d commands, no errors.", acked, load.Acks())
	return nil
}

// show prints what is served, and how to use it.
func (d *demo) show(ctx context.Context) error {
	text, _, err := within(ctx, func(ctx context.Context) (string, error) {
		return d.target.Admin(ctx, "--op", "show", "--mode", "target")
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(d.out, "\nWhat `tgtadm --lld iscsi --op show --mode target` says:\n\n%s\n", indent(text))
	host, port, err := net.SplitHostPort(d.target.Portal)
	if err != nil {
		return err
	}
	portal := d.target.Portal
	fmt.Fprintf(d.out, "To connect with open-iscsi on this machine, as root:\n\n"+
		"    iscsiadm -m discovery -t sendtargets -p %[1]s\n"+
		"    iscsiadm -m node -T %[2]s -p %[1]s -o update -n node.session.auth.authmethod -v CHAP\n"+
		"    iscsiadm -m node -T %[2]s -p %[1]s -o update -n node.session.auth.username -v %[3]s\n"+
		"    iscsiadm -m node -T %[2]s -p %[1]s -o update -n node.session.auth.password -v %[4]s\n"+
		"    iscsiadm -m node -T %[2]s -p %[1]s --login\n\n"+
		"or, without root, with libiscsi's tools or qemu:\n\n"+
		"    iscsi-ls iscsi://%[3]s%%%[4]s@%[5]s:%[6]s\n"+
		"    qemu-img info iscsi://%[3]s%%%[4]s@%[5]s:%[6]s/%[2]s/%[7]d\n\n",
		portal, targetName, user, secret, host, port, lun)
	fmt.Fprintf(d.out, "To talk to this daemon and this cell with the tools in %s:\n\n", d.bin)
	for _, e := range d.target.Env() {
		fmt.Fprintf(d.out, "    export %s\n", e)
	}
	fmt.Fprintf(d.out, "\nLogs: %s/*.log\n", d.dir)
	return nil
}

func indent(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString("    " + line)
	}
	return b.String()
}

// stay waits for Ctrl-C, and tells of processes that end by themselves.
func (d *demo) stay(ctx context.Context) error {
	fmt.Fprintln(d.out, "\nIt stays up until you press Ctrl-C.")
	ended := make(chan *rig.Process)
	var watchers sync.WaitGroup
	defer watchers.Wait()
	for _, p := range append(d.cell.Processes(), d.target.Process) {
		watchers.Go(func() {
			select {
			case <-ctx.Done():
				return
			case <-p.Exited():
			}
			select {
			case <-ctx.Done():
			case ended <- p:
			}
		})
	}
	for {
		select {
		case p := <-ended:
			fmt.Fprintf(d.out, "%v\n", p.Failed())
		case <-ctx.Done():
			fmt.Fprintln(d.out, "\nStopping.")
			return nil
		}
	}
}

// round shortens a duration for people.
func round(d time.Duration) time.Duration {
	switch {
	case d > 10*time.Second:
		return d.Round(time.Second)
	case d > time.Second:
		return d.Round(100 * time.Millisecond)
	case d > time.Millisecond:
		return d.Round(100 * time.Microsecond)
	}
	return d.Round(time.Microsecond)
}

// chaos runs a cell of eight PFSserver processes with their own disks, a tgtd and an initiator, each in a network
// namespace, and makes faults of all classes: at first each alone, so that its pause is known, then mixes of chance.
//
//	chaos [--time T] [--seed N] [--only CLASS,…] [--key] [--dir DIR] [--bin DIR]
//	chaos [--key] [--dir DIR] [--bin DIR] wan [--congestion NAME] | rolling | catchup
//
// Two loads run meanwhile. One writes blocks that say who wrote them and verifies what it reads (package verify); the
// other has several sessions read, write and compare the same few blocks, and keeps the history, for which there must
// be an order that explains it (porcupine). In the end every block is read back, the servers are stopped, their roots
// checked (package check), and all must hold the same bytes.
//
// The program needs root. It runs itself again in namespaces of its own, so that nothing stays behind; the network
// between is package network, since kernels without netem are common. Clocks can't be made to jump for single processes
// on one machine; package sim has that, and what a power cut does to unsynced writes.
//
// The seed decides which faults come and how long they last. Real processes answer in real time, so a seed does
// not repeat a run to the last event, as it does in package sim.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/paxos-iscsi/paxos-iscsi/packaging/rig"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	status := run(ctx, os.Args, os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// Exit statuses.
const (
	exitFailed = 1
	exitUsage  = 2
)

// maxTime is how long a run may last.
const maxTime = 24 * time.Hour

// settings are the command line.
type settings struct {
	time time.Duration
	seed uint64
	only []string
	key  bool
	dir  string
	bin  string
	// congestion is TCP's answer to loss for a cell across data centres.
	congestion string
}

// usageError is a mistake on the command line.
type usageError struct{ error }

func badUsage(_ *cli.Context, err error, _ bool) error { return usageError{err} }

// run is the program with its surroundings as arguments; it returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	status := 0
	app := &cli.App{
		Name: "chaos", Usage: "make faults under a verifying load", HideHelpCommand: true,
		Description: "Classes of faults: " + strings.Join(namesOf(faults()), ", "),
		Flags: []cli.Flag{
			&cli.DurationFlag{Name: "time", Value: 2 * time.Minute, Usage: "begin faults for so long"},
			&cli.Uint64Flag{Name: "seed", Usage: "choose the faults by `N`; without it by chance, and it is printed"},
			&cli.StringSliceFlag{Name: "only", Usage: "only the classes that begin with `CLASS`; several with commas"},
			&cli.BoolFlag{Name: "key", Usage: "with a cell key: everything between servers and target is encrypted"},
			&cli.StringFlag{Name: "dir", Value: "/var/tmp", Usage: "make the servers' disks in a folder in `DIR`, which stays if something is found"},
			&cli.StringFlag{Name: "bin", Value: "bin", Usage: "the programs are in `DIR`"},
		},
		ErrWriter:    stderr,
		Writer:       stdout,
		OnUsageError: badUsage,
		Action: func(c *cli.Context) (err error) {
			status, err = begin(c, stdout, nil)
			return err
		},
		Commands:       commands(stdout, &status),
		ExitErrHandler: func(*cli.Context, error) {},
	}
	err := app.RunContext(ctx, args)
	if err == nil {
		return status
	}
	fmt.Fprintf(stderr, "chaos: %v\n", err)
	if errors.As(err, new(usageError)) {
		return exitUsage
	}
	return exitFailed
}

// measurement is one of the other things that can be done with the lab.
type measurement func(context.Context, settings, rig.Programs, io.Writer) error

// commands are the measurements. Options stand before them.
func commands(out io.Writer, status *int) []*cli.Command {
	var all []*cli.Command
	for _, m := range []struct {
		name, usage string
		do          measurement
		flags       []cli.Flag
	}{
		{"wan", "measure a cell across data centres: 0, 50 and 100 ms of round trip, with and without loss", runWAN, []cli.Flag{
			&cli.StringFlag{Name: "congestion", Value: "bbr", Usage: "how TCP answers to loss: `NAME` is bbr, cubic or what else the kernel has"}}},
		{"rolling", "restart all servers, one after the other, and tell the longest pause of each", runRolling, nil},
		{"catchup", "measure the return of a server that was away, and of one that lost its disk", runCatchUp, nil},
	} {
		all = append(all, &cli.Command{Name: m.name, Usage: m.usage, Flags: m.flags, HideHelpCommand: true, OnUsageError: badUsage, Action: func(c *cli.Context) (err error) {
			*status, err = begin(c, out, m.do)
			return err
		}})
	}
	return all
}

// begin reads the command line, and does what it says inside namespaces: a measurement, or without one the chaos run.
func begin(c *cli.Context, out io.Writer, do measurement) (status int, err error) {
	s := settings{time: c.Duration("time"), seed: c.Uint64("seed"), only: c.StringSlice("only"), key: c.Bool("key"),
		dir: c.String("dir"), bin: c.String("bin"), congestion: c.String("congestion")}
	classes, err := match(faults(), s.only)
	switch {
	case c.NArg() > 0:
		return 0, usageError{fmt.Errorf("unexpected argument %q", c.Args().First())}
	case err != nil:
		return 0, usageError{err}
	case do != nil && (c.IsSet("time") || c.IsSet("only")):
		return 0, usageError{errors.New("--time and --only are for the run of faults")}
	case s.time <= 0 || s.time > maxTime:
		return 0, usageError{fmt.Errorf("--time %v: up to %v is possible", s.time, maxTime)}
	}
	if os.Getenv(insideEnv) == "" {
		return reexec(c.Context)
	}
	if err := settle(); err != nil {
		return 0, err
	}
	if !c.IsSet("seed") {
		s.seed = rand.Uint64()
	}
	return 0, inside(c.Context, s, classes, do, out)
}

// inside is the run, in a folder of its own.
func inside(ctx context.Context, s settings, classes []fault, do measurement, out io.Writer) error {
	p, err := rig.Find(s.bin)
	if err != nil {
		return err
	}
	if s.dir, err = os.MkdirTemp(s.dir, "chaos-"); err != nil {
		return fmt.Errorf("make a folder: %w", err)
	}
	if do != nil {
		if err := do(ctx, s, p, out); err != nil {
			fmt.Fprintf(out, "FAILED; everything stays in %s\n", s.dir)
			return err
		}
		return removeAll(s.dir)
	}
	classes = leaveOut(classes, out)
	fmt.Fprintf(out, "seed %d, %v of faults, in %s\n", s.seed, s.time, s.dir)
	if err := runChaos(ctx, s, p, classes, out); err != nil {
		fmt.Fprintf(out, "FAILED with seed %d; everything stays in %s, the disks as .img files\n", s.seed, s.dir)
		return err
	}
	if err := removeAll(s.dir); err != nil {
		return err
	}
	fmt.Fprintln(out, "nothing was lost, and nothing is wrong")
	return nil
}

// leaveOut says loudly which classes can't be had here.
func leaveOut(classes []fault, out io.Writer) []fault {
	if canSlow() {
		return classes
	}
	var rest []fault
	for _, f := range classes {
		if strings.HasPrefix(f.name, "disk-slow") {
			fmt.Fprintf(out, "LEFT OUT: %s, as %s can't limit writes\n", f.name, throttleRoot)
			continue
		}
		rest = append(rest, f)
	}
	return rest
}

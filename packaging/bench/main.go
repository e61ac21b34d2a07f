// bench measures the target through iSCSI, beside the real tgt where that is installed: random and sequential
// I/O on stores that keep nothing, on a file, and on volumes of cells with 3 and with 5+3 servers, all on this
// machine.
//
//	bench [--seconds N] [--rounds N] [--only PATTERN] [--dir DIR] [--bin DIR] [--mib N] [--key] [--json]
//
// What is compared is measured in turns, so that a machine that changes its speed treats all alike; before it,
// the floors are taken that no target can go below: an fdatasync, a round trip on loopback. A cell of the table
// goes through these steps:
//
//  1. log in with as many commands under way as the test has, and clear the unit attentions: load.go
//  2. load the unit; after the warm-up, count completions and their latency, and read the processor clocks of
//     all processes that serve the unit, at the beginning and at the end: measure.go, cpu.go
//  3. stop, and wait until what was put off is done, so that nobody else pays for it: measure.go
//
// What is measured and in which order is plan.go, who serves it lab.go and targets.go, the outcome table.go.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"
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

// Limits of the options.
const (
	maxSeconds = 3600
	maxRounds  = 100
	minMiB     = 16
	maxMiB     = 1 << 20
)

// settings are the command line.
type settings struct {
	seconds time.Duration // of one cell of the table in one round
	rounds  int
	only    []string
	dir     string
	bin     string
	bytes   int64 // that each store holds and the tests reach
	key     bool  // the cells have a key: everything between servers and targets is encrypted
	json    bool
}

// usageError is a mistake on the command line.
type usageError struct{ error }

// run is the program with its surroundings as arguments; it returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	app := &cli.App{
		Name: "bench", Usage: "measure the target beside the real tgt",
		HideHelpCommand: true,
		Description:     "Targets: " + names(columns()) + "\nTests:   " + names(tests()),
		Flags: []cli.Flag{
			&cli.Float64Flag{Name: "seconds", Value: 3, Usage: "measure each cell of the table for `N` seconds in each round"},
			&cli.IntFlag{Name: "rounds", Value: 2, Usage: "measure everything `N` times, in turns, and take the median"},
			&cli.StringSliceFlag{Name: "only", Usage: "leave out all but `PATTERN`: the name of a target, of a test, or " +
				"TARGET/TEST; * and ? are wildcards; several with commas"},
			&cli.StringFlag{Name: "dir", Value: "/var/tmp", Usage: "make the stores in `DIR`, on the disk to be measured"},
			&cli.StringFlag{Name: "bin", Value: "bin", Usage: "find the programs in `DIR`"},
			&cli.Int64Flag{Name: "mib", Value: 1024, Usage: "fill each store with `N` MiB and reach all of it"},
			&cli.BoolFlag{Name: "key", Usage: "give the cells a key, which encrypts everything between servers and targets"},
			&cli.BoolFlag{Name: "json", Usage: "print JSON instead of the table"},
		},
		Writer: stdout, ErrWriter: stderr,
		OnUsageError:   func(_ *cli.Context, err error, _ bool) error { return usageError{err} },
		ExitErrHandler: func(*cli.Context, error) {},
		Action: func(c *cli.Context) error {
			s, err := parse(c)
			if err != nil {
				return err
			}
			return bench(c.Context, s, stdout, stderr)
		},
	}
	if err := app.RunContext(ctx, args); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("interrupted: %w", err)
		}
		fmt.Fprintln(stderr, "bench:", err)
		if errors.As(err, new(usageError)) {
			return exitUsage
		}
		return exitFailed
	}
	return 0
}

func parse(c *cli.Context) (settings, error) {
	seconds := c.Float64("seconds")
	s := settings{
		seconds: time.Duration(seconds * float64(time.Second)), rounds: c.Int("rounds"), only: c.StringSlice("only"),
		dir: c.String("dir"), bin: c.String("bin"), bytes: c.Int64("mib") << 20, key: c.Bool("key"), json: c.Bool("json"),
	}
	switch {
	case c.NArg() > 0:
		return s, usageError{fmt.Errorf("%q: no arguments are taken, only options", c.Args().First())}
	case !(seconds > 0 && seconds <= maxSeconds):
		return s, usageError{fmt.Errorf("--seconds %g: more than 0 and at most %d", seconds, maxSeconds)}
	case s.rounds < 1 || s.rounds > maxRounds:
		return s, usageError{fmt.Errorf("--rounds %d: 1 to %d", s.rounds, maxRounds)}
	case c.Int64("mib") < minMiB || c.Int64("mib") > maxMiB:
		return s, usageError{fmt.Errorf("--mib %d: %d to %d", c.Int64("mib"), minMiB, maxMiB)}
	}
	if _, err := choose(s.only, columns(), tests()); err != nil {
		return s, usageError{err}
	}
	return s, nil
}

// bench takes the floors, starts what is to be measured, measures, and prints. When something fails on the way,
// what was measured until then is printed all the same.
func bench(ctx context.Context, s settings, stdout, stderr io.Writer) (err error) {
	chosen, err := choose(s.only, columns(), tests())
	if err != nil {
		return err
	}
	say := func(format string, args ...any) { fmt.Fprintf(stderr, format+"\n", args...) }
	lab, err := newLab(s, chosen, say)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lab.close()) }()
	say("measuring the floors")
	r := &report{Machine: thisMachine(), Seconds: s.seconds.Seconds(), Rounds: s.rounds, MiB: s.bytes >> 20}
	if r.Floors, err = takeFloors(ctx, lab.dir, min(s.seconds, maxFloorTime)); err != nil {
		return err
	}
	if err := lab.start(ctx); err != nil {
		return err
	}
	r.LeftOut, r.IdleCores = lab.leftOut, lab.idleCores()
	// The load is one goroutine that reads, and at times one that writes. With more than one processor Go
	// would look for work on the others whenever it waits, and take them from the servers.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	measured, err := lab.measure(ctx, s.seconds, s.rounds)
	r.evaluate(measured)
	if s.json {
		return errors.Join(err, r.writeJSON(stdout))
	}
	return errors.Join(err, r.writeText(stdout))
}

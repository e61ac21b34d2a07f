package main

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/paxos-iscsi/paxos-iscsi/pss/metrics"
)

// options are the command line.
type options struct {
	foreground  bool // stay, log to stderr
	noDaemonize bool // stay, log to syslog
	controlPort int
	threads     int // of a unit
	debug       bool
	pidFile     string
	metrics     string // address, or metrics.Off
	iscsi       driverOptions
	done        bool // help or version was printed, there is nothing left to do
}

// Limits of numbers on the command line.
const (
	maxControlPort = math.MaxInt16
	defaultThreads = 16
)

// usageError is a command line that is refused: a text for stderr and an exit status.
type usageError struct {
	text   string
	status int
}

func (e *usageError) Error() string { return e.text + tryHelp }

const tryHelp = "Try `tgtd --help' for more information.\n"

// Exit statuses of a refused command line: those of tgt, which are errno numbers for numbers.
const (
	statusUsage   = 1
	statusInvalid = 22
	statusRange   = 34
)

// number is the range of an option's value.
type number struct{ min, max int64 }

var numbers = map[string]number{
	"control-port": {0, maxControlPort},
	"nr_iothreads": {1, math.MaxInt32},
	"debug":        {0, 1},
}

// application is the definition of the command line; the options in it are found by canonical, which
// also accepts all that getopt_long does.
func application(o *options, stdout io.Writer) *cli.App {
	app := &cli.App{
		Name: "tgtd", Usage: "Linux SCSI Target framework daemon", Version: version,
		HideHelp: true, HideVersion: true, HideHelpCommand: true,
		Writer: stdout, ErrWriter: io.Discard,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "foreground", Aliases: []string{"f"},
				Usage: "make the program run in the foreground", Destination: &o.foreground},
			&cli.BoolFlag{Name: "nodaemonize", Aliases: []string{"D"},
				Usage: "make the program run in the foreground with logger", Destination: &o.noDaemonize},
			&cli.IntFlag{Name: "control-port", Aliases: []string{"C"},
				Usage: "use port `NNNN` for the mgmt channel", Destination: &o.controlPort},
			&cli.IntFlag{Name: "nr_iothreads", Aliases: []string{"t"}, Value: defaultThreads,
				Usage: "specify the number of I/O threads: `NNNN`", Destination: &o.threads},
			&cli.StringFlag{Name: "pid-file", Aliases: []string{"p"},
				Usage: "specify the pid file: `filename`", Destination: &o.pidFile},
			&cli.IntFlag{Name: "debug", Aliases: []string{"d"}, Usage: "print debugging information: `debuglevel`"},
			&cli.BoolFlag{Name: "version", Aliases: []string{"V"}, Usage: "print version and exit"},
			&cli.BoolFlag{Name: "help", Aliases: []string{"h"}, Usage: "display this help and exit"},
			&cli.StringFlag{Name: "metrics",
				Usage: "show metrics at `ADDRESS`, or off (default: 127.0.0.1:4030)", Destination: &o.metrics},
			&cli.StringFlag{Name: driverOption,
				Usage: "portals to open, and the NOP-In settings of new targets: " +
					"`portal=ADDR[:PORT],nop_interval=SEC,nop_count=N`"},
		},
	}
	app.CustomAppHelpTemplate = helpText(app.Flags)
	app.Action = func(c *cli.Context) error {
		o.debug = c.Int("debug") == 1
		o.metrics = cmp.Or(o.metrics, metricsAddress(o.controlPort))
		err := metrics.CheckAddress(o.metrics)
		if err != nil {
			return err
		}
		if o.iscsi, err = parseDriverOptions(c.String(driverOption)); err != nil {
			return err
		}
		if c.Bool("version") {
			fmt.Fprintln(stdout, version)
		}
		return nil // help is printed by the library, and this is not called then
	}
	return app
}

// driverOption is the one option that belongs to the driver and not to getopt: it can't be cut short,
// takes no equals sign, and its value is the next word.
const driverOption = "iscsi"

// helpText lays the options out as tgt does. A value's name stands in backquotes in the usage text.
func helpText(flags []cli.Flag) string {
	const column = 24
	var b strings.Builder
	fmt.Fprintf(&b, "Linux SCSI Target framework daemon, version %s\n\nUsage: tgtd [OPTION]\n", version)
	for _, f := range flags {
		left := "--" + f.Names()[0]
		if len(f.Names()) > 1 {
			left = "-" + f.Names()[1] + ", " + left
		}
		usage := f.(cli.DocGenerationFlag).GetUsage()
		if parts := strings.Split(usage, "`"); len(parts) == 3 {
			left += " " + parts[1]
			// A value named at the end, behind a colon, is named for this column only.
			usage = strings.TrimSuffix(parts[0], ": ")
			if usage == parts[0] {
				usage += parts[1] + parts[2]
			}
		}
		if len(left) >= column {
			left += "\n" + strings.Repeat(" ", column-1)
		}
		fmt.Fprintf(&b, "%-23s %s\n", left, usage)
	}
	return b.String()
}

// parseOptions reads the command line. Help and version are printed to stdout.
func parseOptions(args []string, stdout io.Writer) (options, *usageError) {
	var o options
	app := application(&o, stdout)
	words, done, err := canonical(args[1:], app.Flags)
	if err != nil {
		return options{}, err
	}
	o.done = done
	if err := app.Run(append([]string{args[0]}, words...)); err != nil {
		return options{}, &usageError{err.Error() + "\n", statusUsage}
	}
	return o, nil
}

// canonical rewrites the words of a command line, as getopt_long takes them, into --name=value and --name:
// long options may be cut short, short ones bundled, words that are no options are ignored. It
// stops behind --help and --version, which do not care for what follows, and says so by done.
func canonical(words []string, flags []cli.Flag) (out []string, done bool, err *usageError) {
	p := getopt{words: words, flags: flags}
	for !p.over && len(p.words) > 0 {
		word := p.words[0]
		p.words = p.words[1:]
		var err *usageError
		switch {
		case word == "--":
			return p.out, false, nil
		case strings.HasPrefix(word, "--"):
			err = p.long(word[2:])
		case len(word) > 1 && word[0] == '-':
			err = p.short(word[1:])
		}
		if err != nil {
			return nil, false, err
		}
	}
	return p.out, p.over, nil
}

// getopt is the state of canonical.
type getopt struct {
	words []string // not looked at yet
	flags []cli.Flag
	out   []string
	over  bool // help or version
}

// long takes an option in its long form.
func (p *getopt) long(word string) *usageError {
	unknown := &usageError{fmt.Sprintf("'%s' is an unknown option\n", word), statusUsage}
	name, value, hasValue := strings.Cut(word, "=")
	if name == driverOption && !hasValue {
		if len(p.words) > 0 {
			// The word stays: should it be an option itself, it is one, too.
			p.out = append(p.out, "--"+driverOption+"="+p.words[0])
		}
		return nil
	}
	f := p.find(name)
	if f == nil {
		return unknown
	}
	if !takesValue(f) {
		if hasValue {
			return unknown
		}
		p.set(f, "")
		return nil
	}
	if !hasValue {
		if len(p.words) == 0 {
			return unknown
		}
		value, p.words = p.words[0], p.words[1:]
	}
	return p.setValue(f, value)
}

// find looks a long option up, by its name or by a beginning that only it has.
func (p *getopt) find(name string) cli.Flag {
	var found []cli.Flag
	for _, f := range p.flags {
		long := f.Names()[0]
		if long == driverOption {
			continue
		}
		if long == name {
			return f
		}
		if strings.HasPrefix(long, name) {
			found = append(found, f)
		}
	}
	if len(found) != 1 {
		return nil
	}
	return found[0]
}

// short takes a bundle of short options.
func (p *getopt) short(bundle string) *usageError {
	for bundle != "" && !p.over {
		letter := bundle[:1]
		bundle = bundle[1:]
		i := slices.IndexFunc(p.flags, func(f cli.Flag) bool {
			return len(f.Names()) > 1 && f.Names()[1] == letter
		})
		if i < 0 {
			return &usageError{"", statusUsage}
		}
		f := p.flags[i]
		if !takesValue(f) {
			p.set(f, "")
			continue
		}
		value := bundle
		if value == "" {
			if len(p.words) == 0 {
				return &usageError{"", statusUsage}
			}
			value, p.words = p.words[0], p.words[1:]
		}
		return p.setValue(f, value)
	}
	return nil
}

func takesValue(f cli.Flag) bool {
	return f.(cli.DocGenerationFlag).TakesValue()
}

// set puts an option out.
func (p *getopt) set(f cli.Flag, value string) {
	name := f.Names()[0]
	p.out = append(p.out, "--"+name+value)
	p.over = name == "help" || name == "version"
}

// setValue puts an option with a value out; numbers are looked at.
func (p *getopt) setValue(f cli.Flag, value string) *usageError {
	if limits, ok := numbers[f.Names()[0]]; ok {
		n, ok := parseNumber(value)
		if !ok {
			return &usageError{fmt.Sprintf("-%s argument value '%s' invalid\n", f.Names()[1], value), statusInvalid}
		}
		if n < limits.min || n > limits.max {
			return &usageError{fmt.Sprintf("-%s argument value '%s' out of range\n", f.Names()[1], value), statusRange}
		}
		value = fmt.Sprint(n)
	}
	p.set(f, "="+value)
	return nil
}

// parseNumber reads a number as strtoull with base 0 does, sign and junk behind it included, but no
// negative one.
func parseNumber(s string) (int64, bool) {
	s = strings.TrimLeft(s, " \t\n\v\f\r")
	s = strings.TrimPrefix(s, "+")
	base := int64(10)
	if lower := strings.ToLower(s); strings.HasPrefix(lower, "0x") && len(s) > 2 && digit(s[2]) < 16 {
		base, s = 16, s[2:]
	} else if strings.HasPrefix(s, "0") {
		base = 8
	}
	var n int64
	i := 0
	for ; i < len(s) && digit(s[i]) < base; i++ {
		if n > (math.MaxInt64-15)/base {
			return 0, false
		}
		n = n*base + digit(s[i])
	}
	return n, i > 0
}

// digit is the value of a digit, 99 when it is none.
func digit(c byte) int64 {
	switch {
	case '0' <= c && c <= '9':
		return int64(c - '0')
	case 'a' <= c && c <= 'f':
		return int64(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int64(c-'A') + 10
	}
	return 99
}

// atoi reads a number as C's atoi does; what is none, or too big, is 0.
func atoi(s string) int {
	s = strings.TrimLeft(s, " \t\n\v\f\r")
	sign := 1
	if strings.HasPrefix(s, "-") {
		sign = -1
	}
	s = strings.TrimLeft(strings.TrimLeft(s, "+-"), "0")
	n, ok := parseNumber(s)
	if !ok || n > math.MaxInt32 {
		return 0
	}
	return sign * int(n)
}

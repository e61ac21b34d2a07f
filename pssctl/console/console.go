// Package console is what the operator's commands have in common: options, exit statuses, and how they print.
package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/paxos-iscsi/paxos-iscsi/pss"
	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/release"
)

// The exit statuses of every command.
const (
	ExitFailed      = 1   // refused, gone wrong, or what was looked at is not well
	ExitUsage       = 2   // a mistake on the command line
	ExitUnreachable = 255 // no server could be reached, or there is no majority
)

// ExitText explains the exit statuses in a command's help.
const ExitText = "Exit status: 0 success, 1 refused or failed, 2 wrong usage, 255 not reachable or no majority."

// DefaultTimeout is how long a command waits for an answer.
const DefaultTimeout = 10 * time.Second

// UsageError is a mistake on the command line.
type UsageError struct{ error }

// Usagef makes a UsageError.
func Usagef(format string, args ...any) error { return UsageError{fmt.Errorf(format, args...)} }

// Status is an error with an exit status of its own; with no text nothing is printed for it.
type Status struct {
	Code int
	Text string
}

func (s Status) Error() string { return s.Text }

// Flags are the options that every command has: --conf, --timeout.
func Flags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "conf", Usage: "`FILE` that lists the servers; by default what $" +
			cell.EnvFile + " names, or " + cell.DefaultFile},
		&cli.GenericFlag{Name: "timeout", Value: new(wait), Usage: "`SECONDS` to wait for the cell, 10 by default; also 500ms"},
	}
}

// JSONFlag is --json.
func JSONFlag() cli.Flag { return &cli.BoolFlag{Name: "json", Usage: "print JSON, for programs"} }

// Conf loads the server.conf that --conf, the environment or the default names.
func Conf(c *cli.Context) (*cell.Config, error) { return cell.Load(cell.File(c.String("conf"))) }

// Timeout is the command's --timeout.
func Timeout(c *cli.Context) time.Duration {
	if w, ok := c.Generic("timeout").(*wait); ok && *w > 0 {
		return time.Duration(*w)
	}
	return DefaultTimeout
}

// Bound is the command's context with its --timeout.
func Bound(c *cli.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(c.Context, Timeout(c))
}

// wait is the value of --timeout: a number of seconds, or a duration with its unit. 0: not given.
type wait time.Duration

// Set implements flag.Value.
func (w *wait) Set(text string) error {
	d, err := Seconds(text)
	if err != nil || d == 0 {
		return fmt.Errorf("--timeout %q is no time to wait, in seconds", text)
	}
	*w = wait(d)
	return nil
}

// Seconds reads a number of seconds, or a duration with its unit. It is not negative.
func Seconds(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if n, e := strconv.ParseUint(text, 10, 31); e == nil {
		d, err = time.Duration(n)*time.Second, nil
	}
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%q is no time, in seconds", text)
	}
	return d, nil
}

// String implements flag.Value.
func (w *wait) String() string {
	if w == nil || *w == 0 {
		return ""
	}
	return time.Duration(*w).String()
}

// ID parses a server id and finds its record.
func ID(conf *cell.Config, text string) (cell.Server, error) {
	id, err := cell.ParseID(text)
	if err != nil {
		return cell.Server{}, UsageError{err}
	}
	s, ok := conf.Server(id)
	if !ok {
		return s, fmt.Errorf("%s has no record of server %d", conf.File, id)
	}
	return s, nil
}

// Server is the server that the command's first argument names, and the cell it belongs to. One that server.conf does not
// have may have been added since: then the cell is asked.
func Server(c *cli.Context) (*cell.Config, cell.Server, error) {
	if c.NArg() == 0 {
		return nil, cell.Server{}, Usagef("the id of a server is wanted")
	}
	conf, err := Conf(c)
	if err != nil {
		return nil, cell.Server{}, err
	}
	s, err := ID(conf, c.Args().First())
	if err == nil || errors.As(err, new(UsageError)) {
		return conf, s, err
	}
	ctx, cancel := Bound(c)
	defer cancel()
	if s, now := ID(admin.Follow(ctx, conf), c.Args().First()); now == nil {
		return conf, s, nil
	}
	return conf, s, err
}

// OnServer does something over a connection to the server that the command's first argument names; ctx has the
// command's --timeout.
func OnServer(c *cli.Context, do func(ctx context.Context, conn *admin.Conn) error) error {
	conf, s, err := Server(c)
	if err != nil {
		return err
	}
	ctx, cancel := Bound(c)
	defer cancel()
	return admin.With(ctx, conf, s.ID, func(conn *admin.Conn) error { return do(ctx, conn) })
}

// NewApp is an App with the manners of all commands. Its Action and Commands are the caller's.
func NewApp(name, usage string, stdout, stderr io.Writer) *cli.App {
	return &cli.App{
		Name: name, Usage: usage, Version: release.Version, HideHelpCommand: true,
		Writer: stdout, ErrWriter: stderr, Reader: os.Stdin,
		ExitErrHandler: func(*cli.Context, error) {},
		OnUsageError:   func(_ *cli.Context, err error, _ bool) error { return UsageError{err} },
	}
}

// Main runs an App as a program does: until it is done, or a signal ends it. It returns the exit status.
func Main(app *cli.App, args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return Run(ctx, app, args)
}

// Run runs an App, prints its error, and returns the exit status.
func Run(ctx context.Context, app *cli.App, args []string) int {
	err := app.RunContext(ctx, OptionsFirst(app, args))
	if err == nil {
		return 0
	}
	if text := err.Error(); text != "" {
		fmt.Fprintf(app.ErrWriter, "%s: %s\n", app.Name, text)
	}
	var own Status
	switch {
	case errors.As(err, &own):
		return own.Code
	case errors.As(err, new(UsageError)):
		if app.UsageText != "" {
			fmt.Fprintf(app.ErrWriter, "usage: %s\n", app.UsageText)
		} else {
			fmt.Fprintf(app.ErrWriter, "Try %s --help.\n", app.Name)
		}
		return ExitUsage
	case Unreachable(err):
		return ExitUnreachable
	}
	return ExitFailed
}

// Unreachable says whether err means that no server, or no majority, could be reached.
func Unreachable(err error) bool {
	var refusal *admin.Error
	if errors.As(err, &refusal) {
		return refusal.Code == admin.NotMaster
	}
	for _, e := range []error{admin.ErrUnreachable, pss.ErrUnreachable, pss.ErrNoMaster, context.DeadlineExceeded} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// OptionsFirst moves the options of a command before its arguments, where package flag wants them, so that they may
// be written in any place. What follows "--" is arguments.
func OptionsFirst(app *cli.App, args []string) []string {
	if len(args) == 0 {
		return args
	}
	head, rest, flags := args[:1:1], args[1:], app.Flags
	commands := app.Commands
	for len(commands) > 0 {
		// Options before a sub-command are the app's own, which stay where they are.
		n := 0
		for n < len(rest) && isOption(rest[n]) {
			n += optionLength(flags, rest[n:]) // beyond the end if the value is missing
		}
		if n >= len(rest) {
			return args
		}
		i := slices.IndexFunc(commands, func(c *cli.Command) bool { return c.HasName(rest[n]) })
		if i < 0 {
			return args
		}
		head, rest = append(head, rest[:n+1]...), rest[n+1:]
		flags, commands = append(slices.Clone(flags), commands[i].Flags...), commands[i].Subcommands
	}
	var options, arguments []string
	for len(rest) > 0 {
		if rest[0] == "--" {
			arguments = append(arguments, rest[1:]...)
			break
		}
		if !isOption(rest[0]) {
			arguments, rest = append(arguments, rest[0]), rest[1:]
			continue
		}
		n := optionLength(flags, rest)
		if n > len(rest) {
			return append(append(head, options...), rest...) // its value is missing: for package flag to complain of
		}
		options, rest = append(options, rest[:n]...), rest[n:]
	}
	if len(arguments) > 0 {
		options = append(append(options, "--"), arguments...)
	}
	return append(head, options...)
}

func isOption(a string) bool { return len(a) > 1 && a[0] == '-' && a != "--" }

// optionLength is how many arguments the option in front of args takes up, itself included.
func optionLength(flags []cli.Flag, args []string) int {
	name := strings.TrimLeft(args[0], "-")
	if strings.Contains(name, "=") {
		return 1
	}
	for _, f := range flags {
		if !slices.Contains(f.Names(), name) {
			continue
		}
		if d, ok := f.(cli.DocGenerationFlag); ok && d.TakesValue() {
			return 2
		}
	}
	return 1
}

// JSON prints v, indented.
func JSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// Table prints rows in columns that are as wide as their widest cell; a last empty cell leaves no blanks
// behind. A row's cells beyond the head's are printed too. right says which columns are numbers.
func Table(w io.Writer, head []string, rows [][]string, right ...int) error {
	widths := []int{}
	all := append([][]string{head}, rows...)
	for _, row := range all {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], len([]rune(cell)))
		}
	}
	for _, row := range all {
		var line strings.Builder
		for i, cell := range row {
			if i > 0 {
				line.WriteString("  ")
			}
			blank := strings.Repeat(" ", widths[i]-len([]rune(cell)))
			if slices.Contains(right, i) {
				line.WriteString(blank + cell)
			} else {
				line.WriteString(cell + blank)
			}
		}
		if _, err := fmt.Fprintln(w, strings.TrimRight(line.String(), " ")); err != nil {
			return err
		}
	}
	return nil
}

// Bytes writes a size for people: 1536 is 1.5K.
func Bytes(n int64) string {
	const units = "KMGTPE"
	if n < 0 {
		return "-" + Bytes(-n)
	}
	if n < 1<<10 {
		return fmt.Sprintf("%dB", n)
	}
	v, i := float64(n)/(1<<10), 0
	for v >= 1023.95 && i < len(units)-1 {
		v, i = v/(1<<10), i+1
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0") + units[i:i+1]
}

// Span writes a time span for people: its two largest units.
func Span(d time.Duration) string {
	d = d.Round(time.Second)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd%02dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
}

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/paxos-iscsi/paxos-iscsi/pss"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
)

// The exit status.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitUnreachable = 255
)

const (
	defaultTimeout = 10 * time.Second
	maxAnswer      = 1024 // bytes read of the answer
)

// usageError is a mistake in the command.
type usageError struct{ error }

// run is the command with its surroundings as arguments. It returns the exit status.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	app := &cli.App{
		Name:      "deleteISCSIVol",
		Usage:     "remove a volume and all that is on it",
		ArgsUsage: "VOLUME",
		UsageText: "deleteISCSIVol [--conf FILE] [--timeout SECONDS] [-y] VOLUME",
		Description: "Asks first, unless -y is given. A target that offers the volume gets errors from then on.\n" +
			"Exit status: 0 success, 1 refused by the cell, 2 wrong usage, 255 cell not reachable.",
		HideHelpCommand: true,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "conf", Usage: "`FILE` that lists the servers; by default what $" +
				cell.EnvFile + " names, or " + cell.DefaultFile},
			&cli.BoolFlag{Name: "y", Usage: "do not ask"},
			&cli.StringFlag{Name: "timeout", Usage: "`SECONDS` to wait for the cell, 10 by default; also 500ms"},
		},
		Writer: stdout, ErrWriter: stderr,
		ExitErrHandler: func(*cli.Context, error) {},
		OnUsageError:   func(_ *cli.Context, err error, _ bool) error { return usageError{err} },
		Action:         func(c *cli.Context) error { return remove(c, stdin) },
	}
	err := app.RunContext(ctx, optionsFirst(args))
	if err == nil {
		return 0
	}
	fmt.Fprintf(stderr, "deleteISCSIVol: %v\n", err)
	switch {
	case errors.As(err, new(usageError)):
		fmt.Fprintf(stderr, "usage: %s\n", app.UsageText)
		return exitUsage
	case errors.Is(err, pss.ErrUnreachable), errors.Is(err, pss.ErrNoMaster), errors.Is(err, context.DeadlineExceeded):
		return exitUnreachable
	}
	return exitFailed
}

// optionsFirst moves the options in front of the arguments, where package flag wants them. --conf and --timeout
// take a value.
func optionsFirst(args []string) []string {
	options := []string{"deleteISCSIVol"}
	var rest []string
	for i := 1; i < len(args); i++ {
		a := args[i]
		if a == "--" {
			rest = append(rest, args[i+1:]...)
			break
		}
		if !strings.HasPrefix(a, "-") || a == "-" {
			rest = append(rest, a)
			continue
		}
		options = append(options, a)
		if name := strings.TrimLeft(a, "-"); name == "conf" || name == "timeout" {
			if i++; i == len(args) {
				return options // for package flag to complain of
			}
			options = append(options, args[i])
		}
	}
	return append(append(options, "--"), rest...)
}

// errRefused says that the answer was not yes.
var errRefused = errors.New("nothing was removed")

func remove(c *cli.Context, stdin io.Reader) error {
	if c.NArg() != 1 {
		return usageError{fmt.Errorf("a volume is wanted, not %d arguments", c.NArg())}
	}
	name := c.Args().First()
	if err := checkName(name); err != nil {
		return usageError{err}
	}
	timeout, err := parseTimeout(c.String("timeout"))
	if err != nil {
		return usageError{err}
	}
	conf, err := cell.Load(cell.File(c.String("conf")))
	if err != nil {
		return err
	}
	if !c.Bool("y") {
		fmt.Fprintf(c.App.Writer, "Remove volume %s and all data on it? [yes/no] ", name)
		line, err := bufio.NewReader(io.LimitReader(stdin, maxAnswer)).ReadString('\n')
		if err != nil && err != io.EOF {
			return fmt.Errorf("read the answer: %w", err)
		}
		if strings.TrimSpace(line) != "yes" {
			return errRefused
		}
	}
	ctx, cancel := context.WithTimeout(c.Context, timeout)
	defer cancel()
	client, err := pss.Open(conf, pss.Options{Software: "deleteISCSIVol"})
	if err != nil {
		return err
	}
	err = client.DeleteVolume(ctx, name)
	// Whether the session could be closed in time does not change what became of the volume.
	client.Close()
	return err
}

// checkName refuses what can't be the name of a volume.
func checkName(name string) error {
	for element := range strings.SplitSeq(strings.TrimPrefix(name, "/"), "/") {
		if element == "" || element == "." || element == ".." ||
			len(element) > op.MaxName || strings.ContainsRune(element, 0) {
			return fmt.Errorf("%q is no name for a volume", name)
		}
	}
	if len(name) > op.MaxPath {
		return fmt.Errorf("a volume's name has at most %d bytes, not %d", op.MaxPath, len(name))
	}
	return nil
}

// parseTimeout reads a number of seconds, or a duration with its unit.
func parseTimeout(text string) (time.Duration, error) {
	if text == "" {
		return defaultTimeout, nil
	}
	d, err := time.ParseDuration(text)
	if n, e := strconv.ParseUint(text, 10, 31); e == nil {
		d, err = time.Duration(n)*time.Second, nil
	}
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("--timeout %q is no time to wait, in seconds", text)
	}
	return d, nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/bits"
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

const defaultTimeout = 10 * time.Second

// units are the letters a size may end in, each 1024 times the one before, from 1024 bytes.
const units = "KMGT"

// usageError is a mistake in the command.
type usageError struct{ error }

// run is the command with its surroundings as arguments. It returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	app := &cli.App{
		Name:      "extendISCSIVol",
		Usage:     "make a volume larger",
		ArgsUsage: "VOLUME SIZE",
		UsageText: "extendISCSIVol [--conf FILE] [--timeout SECONDS] VOLUME SIZE",
		Description: "SIZE is a number and one of the letters K, M, G and T, up to 64T, as in\n" +
			"extendISCSIVol vol001 1T\n" +
			"SIZE is what the volume shall have in all. What is added reads as zeros and takes no space.\n" +
			"Exit status: 0 success, 1 refused by the cell, 2 wrong usage, 255 cell not reachable.",
		HideHelpCommand: true,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "conf", Usage: "`FILE` that lists the servers; by default what $" +
				cell.EnvFile + " names, or " + cell.DefaultFile},
			&cli.StringFlag{Name: "timeout", Usage: "`SECONDS` to wait for the cell, 10 by default; also 500ms"},
		},
		Writer: stdout, ErrWriter: stderr,
		ExitErrHandler: func(*cli.Context, error) {},
		OnUsageError:   func(_ *cli.Context, err error, _ bool) error { return usageError{err} },
		Action:         extend,
	}
	err := app.RunContext(ctx, optionsFirst(args))
	if err == nil {
		return 0
	}
	fmt.Fprintf(stderr, "extendISCSIVol: %v\n", err)
	switch {
	case errors.As(err, new(usageError)):
		fmt.Fprintf(stderr, "usage: %s\n", app.UsageText)
		return exitUsage
	case errors.Is(err, pss.ErrUnreachable), errors.Is(err, pss.ErrNoMaster), errors.Is(err, context.DeadlineExceeded):
		return exitUnreachable
	}
	return exitFailed
}

// optionsFirst moves the options in front of the arguments, where package flag wants them. All options but
// help take a value.
func optionsFirst(args []string) []string {
	options := []string{"extendISCSIVol"}
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

func extend(c *cli.Context) error {
	if c.NArg() != 2 {
		return usageError{fmt.Errorf("a volume and its size are wanted, not %d arguments", c.NArg())}
	}
	name := c.Args().Get(0)
	if err := checkName(name); err != nil {
		return usageError{err}
	}
	size, err := parseSize(c.Args().Get(1))
	if err != nil {
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
	ctx, cancel := context.WithTimeout(c.Context, timeout)
	defer cancel()
	client, err := pss.Open(conf, pss.Options{Software: "extendISCSIVol"})
	if err != nil {
		return err
	}
	err = client.GrowVolume(ctx, name, size)
	if errors.Is(err, op.Invalid) {
		if n, statErr := client.Stat(ctx, name); statErr == nil && n.Kind == op.KindVolume && int64(n.Bytes) > size {
			err = fmt.Errorf("volume %q has %s, and %s would be less: %w", name, sizeText(int64(n.Bytes)), sizeText(size), err)
		}
	}
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

// parseSize reads num{K|M|G|T}: 1K to 64T.
func parseSize(text string) (bytes int64, err error) {
	number, unit := text, -1
	if n := len(text); n > 0 {
		number, unit = text[:n-1], strings.IndexByte(units, text[n-1]&^0x20)
	}
	n, err := strconv.ParseUint(number, 10, 64)
	if unit < 0 || err != nil || n == 0 || number[0] == '+' {
		return 0, fmt.Errorf("%q is no size: a number and one of K, M, G and T are wanted, as in 1T", text)
	}
	shift := 10 * (unit + 1)
	if bits.Len64(n)+shift > 63 || n<<shift > op.MaxVolume {
		return 0, fmt.Errorf("%q is too large: a volume has at most %s", text, sizeText(op.MaxVolume))
	}
	return int64(n << shift), nil
}

// sizeText writes a size the way parseSize reads it, and in bytes where it can't.
func sizeText(bytes int64) string {
	for i := len(units); i > 0; i-- {
		if unit := int64(1) << (10 * i); bytes%unit == 0 && bytes > 0 {
			return fmt.Sprintf("%d%c", bytes/unit, units[i-1])
		}
	}
	return fmt.Sprintf("%d bytes", bytes)
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

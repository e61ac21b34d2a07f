package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/paxos-iscsi/paxos-iscsi/tgtadm/getopt"
)

// name is what the command calls itself, and version that of tgt whose interface this is.
const (
	name    = "tgtimg"
	version = "1.0.85"
)

// The exit statuses besides 0.
const (
	statusFailed   = 1 // an unknown operation; an image that can't be listed
	statusCreate   = 2 // the file can't be made
	statusCapacity = 3 // the size is nothing, or there is no space
	statusUsage    = 22
)

// command is one run.
type command struct {
	out, err io.Writer
	now      func() time.Time

	op, device    string
	barcode, size *string // nil: not given
	kind, file    *string
	thin, help    bool
	notYetRead    int   // options of the command line
	bad           error // the first value that can't be used
}

// refusal is a command line that can't be used. It has been said to the user.
type refusal int

// Error implements error.
func (r refusal) Error() string { return "exit status " + strconv.Itoa(int(r)) }

// refuse says what is wrong; usage: followed by the line that points to --help.
func (c *command) refuse(status int, usage bool, format string, values ...any) error {
	fmt.Fprintf(c.err, name+": "+format+"\n", values...)
	if usage {
		fmt.Fprintf(c.err, "Try `%s --help' for more information.\n", name)
	}
	return refusal(status)
}

// devices are the types that --device-type takes.
var devices = [...]string{"tape", "cd", "disk"}

// option is an option with a value, which is looked at when it is read.
type option struct {
	c   *command
	set func(string) error
}

// String is the default.
func (o *option) String() string { return "" }

// Set implements cli.Generic. urfave/cli sets each flag again under its other names: that is no reading.
func (o *option) Set(value string) error {
	if o.c.notYetRead == 0 {
		return nil
	}
	o.c.notYetRead--
	o.c.bad = o.set(value)
	return o.c.bad
}

// toggle is an option without a value.
type toggle struct {
	option
	on *bool
}

// IsBoolFlag tells package flag that there is no value.
func (*toggle) IsBoolFlag() bool { return true }

// app defines the command line.
func (c *command) app() *cli.App {
	valued := func(letter, name string, set func(string) error) cli.Flag {
		return &cli.GenericFlag{Name: name, Aliases: []string{letter}, Value: &option{c, set}}
	}
	text := func(letter, name string, to **string) cli.Flag {
		return valued(letter, name, func(v string) error { *to = &v; return nil })
	}
	alone := func(on *bool, names ...string) cli.Flag {
		o := &toggle{on: on}
		o.option = option{c, func(string) error { *on = true; return nil }}
		return getopt.Switch{GenericFlag: &cli.GenericFlag{Name: names[0], Aliases: names[1:], Value: o}}
	}
	return &cli.App{
		Name: name, HideHelp: true, HideHelpCommand: true, HideVersion: true, Writer: c.out, ErrWriter: c.err,
		OnUsageError:   func(_ *cli.Context, err error, _ bool) error { return err },
		ExitErrHandler: func(*cli.Context, error) {},
		Flags: []cli.Flag{
			alone(&c.help, "help", "h"), valued("o", "op", c.setOp), valued("Y", "device-type", c.setDevice),
			text("b", "barcode", &c.barcode), text("s", "size", &c.size), text("t", "type", &c.kind),
			text("f", "file", &c.file), alone(&c.thin, "thin-provisioning"),
		},
		Action: func(*cli.Context) error { return nil },
	}
}

func (c *command) setOp(v string) error {
	if v != "new" && v != "show" {
		return c.refuse(statusFailed, false, "unknown operation: %s", v)
	}
	c.op = v
	return nil
}

func (c *command) setDevice(v string) error {
	if !slices.Contains(devices[:], v) {
		return c.refuse(statusUsage, false, "unknown target type: %s", v)
	}
	c.device = v
	return nil
}

// run executes a command line, the arguments without the program's name, and returns the exit status.
func (c *command) run(args []string) int {
	err := c.parse(args)
	if err == nil {
		err = c.execute()
	}
	var status refusal
	switch {
	case err == nil:
		return 0
	case errors.As(err, &status):
		return int(status)
	}
	fmt.Fprintf(c.err, "%s: %v\n", name, err)
	return statusFailed
}

// parse reads the command line. Values are checked as they are read, so a bad one in front of a mistake in the line
// comes first.
func (c *command) parse(args []string) error {
	app := c.app()
	table := getopt.Options(app.Flags)
	for i := range table {
		table[i].Stop = table[i].Name == "help"
	}
	flags, words, bad := getopt.GNU(table, args, false)
	c.notYetRead, c.device = len(flags), devices[0]
	if err := app.Run(append([]string{name}, flags...)); c.bad != nil {
		return c.bad
	} else if err != nil {
		return fmt.Errorf("read the command line: %w", err)
	}
	switch {
	case c.help:
		return nil
	case bad != nil:
		// The original goes on to complain of a word that is not there.
		fmt.Fprintf(c.err, "%s: %v\n", name, bad)
		return c.refuse(statusUsage, true, "unrecognized option '(null)'")
	case len(words) > 0:
		return c.refuse(statusUsage, true, "unrecognized option '%s'", words[0])
	}
	return nil
}

// execute does what the options ask for.
func (c *command) execute() error {
	switch {
	case c.help:
		_, err := io.WriteString(c.out, usage)
		return err
	case c.op == "":
		return c.refuse(statusUsage, true, "specify the operation type")
	case c.file == nil:
		return c.refuse(statusUsage, true, "specify a newly created file")
	case c.op == "show" && c.device != "tape":
		return c.refuse(statusUsage, true, "unknown the operation type")
	case c.op == "show":
		return c.show()
	}
	switch c.device {
	case "disk":
		return c.newDisk()
	case "cd":
		return c.newDisc()
	}
	return c.newTape()
}

// medium checks --type against what the device type knows and returns its place in the list.
func (c *command) medium(device, words string, known ...string) (int, error) {
	if c.kind == nil {
		return 0, c.refuse(statusUsage, true, "Missing media type: %s", words)
	}
	for i, k := range known {
		if strings.EqualFold(*c.kind, k) {
			return i, nil
		}
	}
	return 0, c.refuse(statusUsage, true, "Media type must be %s for %s devices", words, device)
}

// megabytes reads --size as C's atoi does; what is no number is 0.
func (c *command) megabytes() (int64, error) {
	if c.size == nil {
		return 0, c.refuse(statusUsage, true, "Missing the capacity param")
	}
	text := strings.TrimLeft(*c.size, " \t\n\v\f\r")
	digits := strings.TrimLeft(text, "+-")
	end := 0
	for end < len(digits) && digits[end] >= '0' && digits[end] <= '9' {
		end++
	}
	if len(text)-len(digits) > 1 || end == 0 {
		return 0, nil
	}
	n, err := strconv.ParseInt(text[:len(text)-len(digits)+end], 10, 64)
	if err != nil {
		return 0, c.refuse(statusUsage, true, "the size %.40s is too big", *c.size)
	}
	return n, nil
}

const usage = `Usage: tgtimg [OPTION]
Linux SCSI Target Framework Image File Utility, version ` + version + `

  --op new --device-type tape --barcode CODE --size MB --type data|clean|worm --file PATH
                        make a tape cartridge of MB megabytes (0: 8000)
  --op new --device-type cd --type dvd+r --file PATH
                        make a blank recordable DVD
  --op new --device-type disk --type disk --size MB [--thin-provisioning] --file PATH
                        make a blank disk; its space is allocated unless it is thin
  --op show --device-type tape --file PATH
                        list what is on a tape
  --help                display this help and exit

Short forms: -o op, -Y device-type (tape), -b barcode, -s size, -t type, -f file, -h help.
A file that exists is replaced.
`

package command

import (
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/paxos-iscsi/paxos-iscsi/tgtadm/getopt"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/mgmt"
)

// options is a command line as it was read.
type options struct {
	sysfs string // where --bus looks

	op             mgmt.Op
	mode           mgmt.Mode
	hasOp, hasMode bool
	tree           bool // the mode that tgt does not have

	tid           int32 // mgmt.NoTID: not given
	sid, lun      uint64
	cid, host     uint64
	port          uint64
	device        mgmt.DeviceType
	text          map[byte]*string // the options with free text, by letter; absent: not given
	portalParams  bool             // --params stood behind --mode portal
	outgoing      bool
	force         bool
	debug         bool
	help, version bool
	given         []byte // the letters of the options in the order they were given
	left          int    // how many options of the command line are still to be read
	bad           error  // the first value that cannot be used
}

func newOptions(sysfs string) *options {
	return &options{sysfs: sysfs, tid: mgmt.NoTID, lun: mgmt.NoLUN, text: map[byte]*string{}}
}

// has says that the option with free text was given, be it empty.
func (o *options) has(letter byte) bool { return o.text[letter] != nil }

// value is one option that takes a value; it implements cli.Generic.
type value struct {
	o      *options
	letter byte
	set    func(string) error
}

// String is the default, which the help text does not show.
func (v *value) String() string { return "" }

// read notes that the option is given. It is false for what is no part of the command line: once
// that is parsed, urfave/cli sets each flag again under its other names.
func (v *value) read() bool {
	if v.o.left == 0 {
		return false
	}
	v.o.left--
	v.o.given = append(v.o.given, v.letter)
	return true
}

// Set takes the value of the option; it is called in the order of the command line.
func (v *value) Set(text string) error {
	if !v.read() {
		return nil
	}
	err := v.set(text)
	if err != nil {
		v.o.bad = err
	}
	return err
}

// switchValue is one option without a value.
type switchValue struct {
	value
	on *bool
}

// IsBoolFlag tells package flag that the option takes no value.
func (v *switchValue) IsBoolFlag() bool { return true }

// Set turns the option on; it is called in the order of the command line.
func (v *switchValue) Set(string) error {
	if v.read() {
		*v.on = true
	}
	return nil
}

// newApp defines the command line. The order is that of getopt's table in tgtadm, which shows where
// it lists what an abbreviation could mean.
func newApp(o *options, env Env) *cli.App {
	option := func(letter byte, name string, set func(string) error, usage string) cli.Flag {
		return &cli.GenericFlag{Name: name, Aliases: []string{string(letter)},
			Value: &value{o, letter, set}, Usage: usage}
	}
	alone := func(letter byte, name string, on *bool, usage string) cli.Flag {
		return getopt.Switch{GenericFlag: &cli.GenericFlag{Name: name, Aliases: []string{string(letter)},
			Value: &switchValue{value{o: o, letter: letter}, on}, Usage: usage}}
	}
	text := func(letter byte, name, usage string) cli.Flag {
		return option(letter, name, func(v string) error { o.text[letter] = &v; return nil }, usage)
	}
	number := func(letter byte, name string, to *uint64, limit uint64, usage string) cli.Flag {
		return option(letter, name, func(v string) (err error) {
			*to, err = parseNumber(letter, v, limit)
			return err
		}, usage)
	}
	host := number('H', "host", &o.host, maxUint32, "host `NUMBER` for bind and unbind").(*cli.GenericFlag)
	host.Aliases = append(host.Aliases, "hostno")
	return &cli.App{
		Name: Name, Version: Version,
		Usage:    "Linux SCSI Target administration utility",
		HideHelp: true, HideHelpCommand: true, HideVersion: true,
		Writer: env.Stdout, ErrWriter: env.Stderr,
		OnUsageError:   func(_ *cli.Context, err error, _ bool) error { return err },
		ExitErrHandler: func(*cli.Context, error) {},
		Flags: []cli.Flag{
			alone('d', "debug", &o.debug, "say on standard error what is sent"),
			alone('h', "help", &o.help, "display this help and exit"),
			alone('V', "version", &o.version, "display the version and exit"),
			text('L', "lld", "`DRIVER` of the target (iscsi)"),
			option('o', "op", o.setOp, "`OPERATION`: "+strings.Join(opWords(), " ")),
			option('m', "mode", o.setMode, "`MODE`: system target logicalunit portal session connection account lld tree"),
			option('t', "tid", o.setTID, "`NUMBER` of the target"),
			number('s', "sid", &o.sid, mgmt.NoLUN-1, "`NUMBER` of the session"),
			number('c', "cid", &o.cid, maxUint32, "`NUMBER` of the connection"),
			option('l', "lun", o.setLUN, "`NUMBER` of the logical unit"),
			text('n', "name", "`NAME` of a parameter"),
			text('v', "value", "`VALUE` of the parameter"),
			text('b', "backing-store", "`PATH` of the file, the device or the volume"),
			text('E', "bstype", "`TYPE` of the backing store (rdwr)"),
			text('S', "bsopts", "`OPTIONS` of the backing store"),
			text('f', "bsoflags", "`FLAGS` to open it with: sync, direct, sync:direct"),
			text('y', "blocksize", "`BYTES` of a block (512)"),
			text('T', "targetname", "`NAME` of the target"),
			text('I', "initiator-address", "`ADDRESS` rule"),
			text('Q', "initiator-name", "`NAME` rule"),
			text('u', "user", "`NAME` of the account"),
			text('p', "password", "`SECRET` of the account"),
			host,
			alone('F', "force", &o.force, "delete a target although it has sessions"),
			option('P', "params", o.setParams, "`NAME=VALUE,...` of a logical unit or a portal"),
			option('B', "bus", o.setBus, "`BUS,DEVICE` whose host number is meant"),
			option('Y', "device-type", o.setDeviceType, "`TYPE`: disk tape cd changer osd ssc pt (disk)"),
			alone('O', "outgoing", &o.outgoing, "the account the target proves itself by"),
			number('C', "control-port", &o.port, maxInt16, "`PORT` of the daemon (0)"),
		},
	}
}

// optionTable is what getopt needs to know of the flags. The letters of two options that take no
// value are declared in tgt's own table as if they did: they eat a word.
func optionTable(flags []cli.Flag) []getopt.Option {
	table := getopt.Options(flags)
	for i := range table {
		switch table[i].Name {
		case "outgoing", "force":
			table[i].ShortArg = true
		case "help", "version":
			table[i].Stop = true
		}
	}
	return table
}

func (o *options) setOp(word string) error {
	op, ok := opOf(word)
	if !ok {
		return unknownWord("operation", word, opWords())
	}
	o.op, o.hasOp = op, true
	return nil
}

func (o *options) setMode(word string) error {
	if o.tree = word == modeTree; o.tree {
		o.hasMode = true
		return nil
	}
	mode, ok := modeOf(word)
	if !ok {
		return unknownWord("mode", word, modeWords())
	}
	o.mode, o.hasMode = mode, true
	return nil
}

// unknownWord refuses a misspelt operation or mode and, where one is close, names it on a second line.
func unknownWord(what, word string, known []string) error {
	text := fmt.Sprintf("unknown %s: %s", what, word)
	if like := closest(word, known); like != "" {
		text += fmt.Sprintf("\n%s: did you mean '%s'?", Name, like)
	}
	return &refusal{text: text, status: statusUnknownWord}
}

func (o *options) setTID(text string) error {
	n, err := parseNumber('t', text, maxInt32)
	o.tid = int32(n)
	return err
}

func (o *options) setLUN(text string) (err error) {
	o.lun, err = parseNumber('l', text, mgmt.NoLUN-1)
	return err
}

// setParams notes whether the mode was portal when the option was read: what comes before
// --mode portal is taken for the parameters of a unit.
func (o *options) setParams(text string) error {
	o.text['P'] = &text
	o.portalParams = o.hasMode && o.mode == mgmt.ModePortal
	return nil
}

func (o *options) setDeviceType(word string) error {
	device, ok := deviceOf(word)
	if !ok {
		return refuse("unknown target type: %s", word)
	}
	o.device = device
	return nil
}

func (o *options) setBus(text string) (err error) {
	o.host, err = hostOfBus(o.sysfs, text)
	return err
}

// printHelp writes the usage, the options as they are defined, and the common requests.
func printHelp(app *cli.App, w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, version %s\n\nUsage: %s [OPTION]\n\nOptions:\n", app.Usage, app.Version, app.Name)
	for _, f := range app.Flags {
		d := f.(cli.DocGenerationFlag)
		names := f.Names()
		placeholder, usage := splitUsage(d.GetUsage())
		name := fmt.Sprintf("  -%s, --%s", names[1], names[0])
		if placeholder != "" {
			name += " " + placeholder
		}
		fmt.Fprintf(&b, "%-36s %s\n", name, usage)
	}
	b.WriteString(helpRequests)
	_, err := io.WriteString(w, b.String())
	return err
}

// splitUsage takes the placeholder, the word in backquotes, out of a usage text.
func splitUsage(text string) (placeholder, usage string) {
	before, rest, ok := strings.Cut(text, "`")
	if !ok {
		return "", text
	}
	placeholder, after, _ := strings.Cut(rest, "`")
	return placeholder, before + placeholder + after
}

const helpRequests = `
Requests, each with --lld DRIVER where a target is meant:
  --mode target      --op new --tid N --targetname NAME
                     --op delete --tid N [--force]
                     --op show [--tid N]      --op stat --tid N
                     --op update --tid N --name PARAMETER --value VALUE
                     --op bind|unbind --tid N --initiator-address ADDRESS
                     --op bind|unbind --tid N --initiator-name NAME
  --mode logicalunit --op new --tid N --lun N [--backing-store PATH] [--bstype TYPE]
                       [--bsopts OPTIONS] [--bsoflags FLAGS] [--blocksize BYTES]
                       [--device-type TYPE]
                     --op update --tid N --lun N --params NAME=VALUE,...
                     --op delete|stat --tid N --lun N
  --mode account     --op new --user NAME --password SECRET
                     --op delete --user NAME  --op show
                     --op bind|unbind --user NAME [--tid N] [--outgoing]
                       without --tid the account is for discovery
  --mode portal      --op new|delete --params portal=HOST[:PORT]
                     --op show
  --mode session     --op stat --tid N --sid N
  --mode connection  --op show --tid N
                     --op delete|stat --tid N --sid N --cid N
  --mode lld         --op show|start|stop
  --mode system      --op show|stat|delete
                     --op update --name PARAMETER --value VALUE
  --mode tree        --op show
                       the whole configuration: stores, targets, units, access, accounts, portals
`

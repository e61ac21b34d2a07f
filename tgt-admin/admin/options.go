package admin

import (
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/paxos-iscsi/paxos-iscsi/tgtadm/getopt"
)

// options is what the command line asks for.
type options struct {
	help, execute, show, dump bool

	delete, update, offline, ready *string // nil: not given

	file         string
	fileGiven    bool
	port         string
	portGiven    bool
	force        bool
	pretend      bool
	verbose      bool
	ignoreErrors bool
	nothing      bool // there were no arguments at all

	// What tgt's tgt-admin does not have.
	diff, save, strict bool
	importLIO          *string
	saveFile           string // the word behind --save
}

// newApp defines the command line.
func newApp(env Env, help *bool) *cli.App {
	on := func(usage, name string, aliases ...string) cli.Flag {
		return &cli.BoolFlag{Name: name, Aliases: aliases, Usage: usage}
	}
	value := func(usage, name string, aliases ...string) cli.Flag {
		return &cli.StringFlag{Name: name, Aliases: aliases, Usage: usage}
	}
	// urfave/cli must not know what --help means, it has its own idea of an answer
	helpFlag := getopt.Switch{GenericFlag: &cli.GenericFlag{Name: "help", Aliases: []string{"h"},
		Value: getopt.On(help), Usage: "show this help"}}
	return &cli.App{
		Name: Name, HideHelp: true, HideHelpCommand: true, HideVersion: true,
		Writer: env.Stdout, ErrWriter: env.Stderr,
		OnUsageError:   func(_ *cli.Context, err error, _ bool) error { return err },
		ExitErrHandler: func(*cli.Context, error) {},
		Flags: []cli.Flag{
			on("make the daemon's targets those of the configuration file", "execute", "e"),
			value("delete targets: ALL, tid=N, a name, or help", "delete"),
			value("take targets offline: ALL, tid=N, a name, or help", "offline"),
			value("make targets ready: ALL, tid=N, a name, or help", "ready"),
			value("remake targets from the file: ALL, tid=N, a name, or help", "update"),
			on("show the daemon's targets", "show", "s"),
			value("talk to the daemon of this control port", "control-port", "C"),
			value("read this file and not "+defaultConf, "conf", "c"),
			on("go on after a tgtadm command that fails", "ignore-errors"),
			on("act on targets and devices that are in use too", "force", "f"),
			on("show the tgtadm commands and do not run them", "pretend", "p"),
			on("write the daemon's targets as a configuration, without parameters", "dump"),
			on("show the tgtadm commands and run them", "verbose", "v"),
			helpFlag,
			on("with --update or -e: show what would change, in words, and change nothing", "diff"),
			on("write the daemon's configuration to the file, the old one kept as a dated backup", "save"),
			value("write the targets.conf that is equal to a saveconfig.json of LIO", "import-lio"),
			on("with --import-lio: fail where something has no equivalent", "strict"),
		},
	}
}

// optionTable is what reading the command line needs to know of the flags. The names that tgt does not
// have must be given in full, lest abbreviations of the others come to be ambiguous.
func optionTable(flags []cli.Flag) []getopt.Option {
	table := getopt.Options(flags)
	for i := range table {
		switch table[i].Name {
		case "diff", "save", "import-lio", "strict":
			table[i].Exact = true
		}
	}
	return table
}

// parseOptions reads the command line. What is wrong with it is said, and the rest used, as ever.
func parseOptions(argv []string, env Env) (options, error) {
	o := options{file: defaultConf, port: "0", nothing: len(argv) == 1}
	app := newApp(env, &o.help)
	flags, words, complaints := getopt.Perl(optionTable(app.Flags), argv[1:])
	for _, c := range complaints {
		fmt.Fprintln(env.Stderr, c)
	}
	app.Action = func(c *cli.Context) error {
		given := func(name string) *string {
			if !c.IsSet(name) {
				return nil
			}
			v := c.String(name)
			return &v
		}
		o.execute, o.show, o.dump = c.Bool("execute"), c.Bool("show"), c.Bool("dump")
		o.delete, o.update, o.offline, o.ready = given("delete"), given("update"), given("offline"), given("ready")
		o.force, o.pretend, o.verbose = c.Bool("force"), c.Bool("pretend"), c.Bool("verbose")
		o.ignoreErrors = c.Bool("ignore-errors")
		o.diff, o.save, o.strict, o.importLIO = c.Bool("diff"), c.Bool("save"), c.Bool("strict"), given("import-lio")
		if o.save && len(words) > 0 {
			o.saveFile = words[0]
		}
		if f := given("conf"); f != nil {
			o.file, o.fileGiven = *f, true
		}
		if p := given("control-port"); p != nil {
			o.port, o.portGiven = *p, true
		}
		return nil
	}
	if err := app.Run(append([]string{Name}, flags...)); err != nil {
		return o, fmt.Errorf("reading the command line: %w", err)
	}
	return o, nil
}

// usage answers command lines that only want to be told something, or say nothing that could be done.
// It is false where there is something to do.
func (a *admin) usage() (done bool, err error) {
	verbs := []struct {
		value      *string
		name, note string
	}{
		{a.delete, "delete", inUseNote("deleted")},
		{a.update, "update", inUseNote("updated")},
		{a.offline, "offline", ""},
		{a.ready, "ready", ""},
	}
	switch {
	case a.help || a.nothing:
		_, err := io.WriteString(a.env.Stdout, help)
		return true, err
	case a.show || a.execute || a.save || a.importLIO != nil:
		return false, nil
	}
	if a.dump && a.delete == nil && a.update == nil {
		return false, nil
	}
	if a.offline != nil && a.ready != nil && a.delete == nil && a.update == nil {
		return true, a.fail("Invalid value (you can't use both ready and offline)!")
	}
	for _, v := range verbs {
		if v.value == nil {
			continue
		}
		if *v.value == "help" {
			text := strings.NewReplacer("VERB", v.name, "NOTE", v.note).Replace(verbHelp)
			_, err := io.WriteString(a.env.Stdout, text)
			return true, err
		}
		return false, nil
	}
	a.print("No action specified.")
	return true, nil
}

func inUseNote(done string) string {
	return "\t\t\t\tA target that is in use (an initiator is connected)\n" +
		"\t\t\t\tis only " + done + " with \"--force\".\n"
}

const verbHelp = `      --VERB <value>		VERB all or selected targets
NOTE
Example usage:
      --VERB help	      - display this help
      --VERB ALL	      - VERB all targets
      --VERB tid=4	      - VERB target 4 (target with tid 4)
      --VERB iqn.2008-08.com.example:some.target - VERB this target

`

const help = `Usage:
tgt-admin [OPTION]...
Makes tgtd's targets those of a configuration file.

  -e, --execute			make the targets of /etc/tgt/targets.conf that tgtd
				lacks and remove those that the file lacks
      --update <value>		remake all or selected targets from the file
				(see "--update help")
      --delete <value>		delete all or selected targets
				(see "--delete help")
      --offline <value>		take all or selected targets offline
				(see "--offline help")
      --ready <value>		make all or selected targets ready
				(see "--ready help")
  -s, --show			show all targets
      --dump			write the targets as a configuration
				(without their parameters and secrets)
  -c, --conf <file>		read this configuration file
  -C, --control-port <N>	talk to the tgtd of this control port
  -f, --force			act on targets and devices that are in use too
  -p, --pretend			show the tgtadm commands, run none
  -v, --verbose			show the tgtadm commands, run them
      --ignore-errors		go on after a command that fails
      --diff			with --update or -e: show in words what would
				change, and change nothing; status 3 if something would
      --save [file]		write the running configuration to the file, default
				/etc/tgt/targets.conf; the old file is kept beside it
				in backup/, the last ten
      --import-lio <file>	write the targets.conf that is equal to a
				saveconfig.json of LIO (targetcli); with -c to that
				file; --strict: fail where something has no equivalent
  shell [-c <commands>]		a shell over targets, units, accounts, access
  -h, --help			show this help

`

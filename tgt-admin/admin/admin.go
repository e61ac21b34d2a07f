// Package admin is tgt-admin as a function: it reads targets.conf and the state of the daemon and makes
// the one like the other, or puts out what would have to be done. Each step is a tgtadm command line,
// shown as the original shows it and carried out within this process, over the management socket; no
// shell and no other program comes between, so every value means itself.
package admin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/tgt-admin/conf"
	"github.com/paxos-iscsi/paxos-iscsi/tgtadm/command"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/mgmt"
)

// Name is what the command calls itself.
const Name = "tgt-admin"

// defaultConf is read where -c names no other file.
const defaultConf = "/etc/tgt/targets.conf"

// The exit statuses besides those of tgtadm.
const (
	statusError   = 1   // something in the configuration or on the command line
	statusNoFile  = 2   // the configuration is not there
	statusDiffers = 3   // --diff: something would change
	statusRefused = 255 // it does not parse; not root
)

// Env is what a run sees of the world.
type Env struct {
	command.Env
	// Tgtadm carries out a tgtadm command line, as command.Run does.
	Tgtadm func(ctx context.Context, argv []string, env command.Env) int

	UID   func() int                         // the effective user
	Users func(path string) (bool, error)    // whether a process has the file open
	Files conf.Files                         // where configurations come from
	Tool  func(argv ...string) (string, int) // runs a program of sg3-utils: output and exit status
	Now   func() time.Time                   // the date of what is saved
}

// System is the environment of this process.
func System() Env {
	env := Env{Env: command.System(), Tgtadm: command.Run, UID: os.Geteuid, Files: conf.System{}}
	env.Users = func(path string) (bool, error) { return hasUsers("/proc", path) }
	env.Tool = runTool
	env.Now = time.Now
	return env
}

// exit ends a run with a status; what there is to say has been said.
type exit int

func (e exit) Error() string { return "exit status " + strconv.Itoa(int(e)) }

// admin is one run.
type admin struct {
	ctx context.Context
	env Env
	options
	singleQuotes bool
	conf         *conf.Section
	state        *state
	port         string       // as it was given; it is shown so
	tid          int          // of the target made last
	reserved     map[int]bool // the numbers that targets of the file ask for
	globalsDone  bool
	imagined     bool   // nothing is asked of the world: devices count as there, and as not in use
	driver       string // of targets that name none
}

// Run runs the command with argv, the name of the program and its arguments, and returns the exit
// status. ctx ends a wait for the daemon.
func Run(ctx context.Context, argv []string, env Env) int {
	o, err := parseOptions(argv, env)
	a := &admin{ctx: ctx, env: env, options: o, port: o.port, singleQuotes: quotesSingly(argv[0])}
	if err == nil {
		err = a.run()
	}
	var status exit
	var bad *conf.Error
	switch {
	case err == nil:
		return 0
	case errors.As(err, &status):
		return int(status)
	case errors.As(err, &bad):
		fmt.Fprintln(env.Stderr, err)
		return bad.Status
	}
	fmt.Fprintf(env.Stderr, "%s: %v\n", Name, err)
	return statusError
}

// quotesSingly tells by the name of the program, as a packager installs it beside the plain one, which
// version's quotes its reader expects: 1.0.96 and later show values in single quotes.
func quotesSingly(program string) bool {
	version, ok := strings.CutPrefix(filepath.Base(program), Name+"-1.0.")
	n, err := strconv.Atoi(version)
	return ok && err == nil && n >= 96
}

// run does the first of the actions that were asked for.
func (a *admin) run() error {
	if done, err := a.usage(); done {
		return err
	}
	if a.show {
		return a.do(a.line().add("--op", "show", "--mode", "target"))
	}
	if a.importLIO != nil {
		return a.doImport(*a.importLIO)
	}
	if a.diff && !a.execute && a.update == nil {
		a.print("--diff goes with --update or --execute.")
		return exit(statusError)
	}
	if a.execute || a.update != nil && a.delete == nil {
		if _, err := a.env.Files.Kind(a.file); err != nil {
			fmt.Fprintf(a.env.Stderr, "Config file %s not found. Exiting...\n", a.file)
			return exit(statusNoFile)
		}
	}
	// A socket that the environment names may belong to anybody: its permissions and the daemon decide.
	if _, own := a.env.LookupEnv(mgmt.BaseEnv); a.env.UID() != 0 && !own {
		fmt.Fprintln(a.env.Stderr, "You must be root to run this program.")
		return exit(statusRefused)
	}
	switch {
	case a.diff:
		return a.doDiff()
	case a.save:
		return a.doSave()
	}
	a.state = newState()
	a.askTargets()
	a.tid = a.state.largestTID()
	switch {
	case a.execute:
		return a.doExecute()
	case a.delete != nil:
		return a.doDelete(*a.delete)
	case a.update != nil:
		return a.doUpdate(*a.update)
	case a.dump:
		return a.doDump()
	case a.offline != nil:
		return a.doState(*a.offline, "offline")
	}
	return a.doState(*a.ready, "ready")
}

// load reads the configuration.
func (a *admin) load() error {
	if a.fileGiven {
		a.remark("# Using %s as configuration file\n", a.file)
	}
	c, err := conf.Parse(a.file, a.env.Files, func(text string) { fmt.Fprintln(a.env.Stderr, text) })
	if err != nil {
		return err
	}
	a.conf = c
	a.reserveTIDs()
	return nil
}

// print writes a line that is always shown.
func (a *admin) print(format string, values ...any) {
	fmt.Fprintf(a.env.Stdout, format+"\n", values...)
}

// remark writes a line that is shown where commands are.
func (a *admin) remark(format string, values ...any) {
	if a.pretend || a.verbose {
		a.print(format, values...)
	}
}

// fail writes the lines of an error in the configuration and ends the run.
func (a *admin) fail(format string, values ...any) error {
	a.print(format, values...)
	return exit(statusError)
}

// targetNames returns the names of the targets of the file in ASCII order.
func (a *admin) targetNames() []string { return a.conf.Names("target") }

// doExecute makes the targets that the daemon lacks and removes those that the file lacks. Targets
// that both have are left alone, even where they differ.
func (a *admin) doExecute() error {
	a.askAccounts()
	if err := a.load(); err != nil {
		return err
	}
	if err := a.globals(); err != nil {
		return err
	}
	names := a.targetNames()
	for _, name := range names {
		if a.state.target(name) != nil {
			a.remark("# Target %s already exists!", name)
			continue
		}
		if err := a.addTarget(name, 0); err != nil {
			return err
		}
	}
	if len(names) > 0 {
		a.remark("")
	}
	a.askTargets()
	if len(names) == 0 {
		return nil // an empty file is more likely a mistake than an order to remove everything
	}
	return a.removeOthers("deleted")
}

// removeOthers removes the daemon's targets that the file does not have.
func (a *admin) removeOthers(verb string) error {
	for _, t := range slices.Clone(a.state.targets) {
		if a.conf.Blocks["target"][t.name] != nil {
			continue
		}
		if _, err := a.removeTarget(t, verb); err != nil {
			return err
		}
	}
	return nil
}

func (a *admin) doDelete(which string) error {
	if which == "ALL" {
		for _, t := range slices.Clone(a.state.targets) {
			if _, err := a.removeTarget(t, "deleted"); err != nil {
				return err
			}
		}
		return nil
	}
	t := a.state.target(which)
	if tid, ok := byTID(which); ok {
		if t = a.state.byTID(tid); t == nil {
			a.remark("# Target with tid %s does not exist!", tid)
		}
	} else if t == nil {
		a.remark("# Target with name %s does not exist!", which)
	}
	if t == nil {
		return nil
	}
	_, err := a.removeTarget(t, "deleted")
	return err
}

// byTID takes tid=N apart.
func byTID(which string) (tid string, ok bool) {
	tid, ok = strings.CutPrefix(which, "tid=")
	return tid, ok && tid != ""
}

func (a *admin) doUpdate(which string) error {
	a.askAccounts()
	if err := a.load(); err != nil {
		return err
	}
	if which == "ALL" {
		if err := a.removeOthers("updated"); err != nil {
			return err
		}
		for _, name := range a.targetNames() {
			if err := a.remake(name); err != nil {
				return err
			}
		}
		return nil
	}
	name := which
	if tid, ok := byTID(which); ok {
		t := a.state.byTID(tid)
		if t == nil {
			return a.fail("There is no target with tid %s, can't continue!", tid)
		}
		name = t.name
	}
	if t := a.state.target(name); t != nil && a.conf.Blocks["target"][name] == nil {
		_, err := a.removeTarget(t, "updated")
		return err
	}
	return a.remake(name)
}

// remake removes a target of the file, if the daemon has it, and makes it anew under its number.
func (a *admin) remake(name string) error {
	if err := a.globals(); err != nil {
		return err
	}
	t := a.state.target(name)
	switch {
	case a.conf.Blocks["target"][name] == nil:
		return a.fail("Target %s is currently not configured\n"+
			"and does not exist in the config file - can't continue!", name)
	case t == nil:
		a.remark("# Target with name %s does not exist!", name)
		if err := a.addTarget(name, 0); err != nil {
			return err
		}
	default:
		gone, err := a.removeTarget(t, "updated")
		if err != nil {
			return err
		}
		if gone {
			if err := a.addTarget(name, t.tid); err != nil {
				return err
			}
		}
	}
	a.remark("")
	return nil
}

// removeTarget deletes a target. One with sessions is left as it is, and gone is false, unless --force
// was given: then its rules are taken away, so that nobody comes back, and its sessions closed.
func (a *admin) removeTarget(t *target, verb string) (gone bool, err error) {
	tid := strconv.Itoa(t.tid)
	if len(t.sessions) > 0 && !a.force {
		a.remark("# Target with tid %s (%s) is in use, it won't be %s.", tid, t.name, verb)
		return false, nil
	}
	a.remark("# Removing target: %s", t.name)
	var lines []*line
	if len(t.sessions) > 0 {
		for _, rule := range t.rules {
			lines = append(lines, a.line().add("--op", "unbind", "--mode", "target", "--tid", tid, "-I", rule))
		}
		for _, s := range t.sessions {
			lines = append(lines, a.line().
				add("--op", "delete", "--mode", "conn", "--tid", tid, "--sid", s.sid, "--cid", s.cid))
		}
	}
	for _, l := range append(lines, a.line().add("--mode", "target", "--op", "delete", "--tid="+tid)) {
		if err := a.do(l); err != nil {
			return false, err
		}
	}
	a.state.forget(t)
	a.remark("")
	return true, nil
}

// doState takes targets offline or makes them ready.
func (a *admin) doState(which, word string) error {
	set := func(tid string) *line { return a.line().add("--op", "update", "--mode", "target", "--tid="+tid) }
	if which == "ALL" {
		for _, t := range a.state.targets {
			if err := a.do(set(strconv.Itoa(t.tid)).add("-n", "state", "-v", word)); err != nil {
				return err
			}
		}
		return nil
	}
	if tid, ok := byTID(which); ok {
		return a.do(set(tid).add("-n", "state", "-v", word))
	}
	t := a.state.target(which)
	if t == nil {
		return a.fail("There is no target with name \"%s\", can't %s it!", which, word)
	}
	return a.do(set(strconv.Itoa(t.tid)).doubleQuoted("--name=", t.name).add("-n", "state", "-v", word))
}

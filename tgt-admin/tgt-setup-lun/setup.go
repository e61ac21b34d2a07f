package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/paxos-iscsi/paxos-iscsi/tgtadm/command"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/mgmt"
)

// setup is one run.
type setup struct {
	env      command.Env
	in       *bufio.Reader
	asks     bool // somebody sits at the other end of in
	program  string
	hostname func() (string, error)

	name, device, store, blockSize string
	transport                      string
	port                           *string
	addresses                      []string
}

// options are the letters that take a value.
const options = "ndbBtCh"

const usage = `usage:
	tgt-setup-lun -n tgt_name -d dev -b bs_name -B block_size -t transport -C control_port [initiator_IP1 initiator_IP2 ...]

defaults:
	backing store: rdwr
	transport: iscsi
	initiators: all, if none are given

A name that does not begin with iqn becomes iqn.2001-04.com.HOSTNAME-NAME. The target gets the smallest free number, and so
does the unit. If there is a target of that name, it is asked whether the unit is to be added to it.

examples:
	tgt-setup-lun -n tgt-1 -d /dev/sdb1 192.168.1.2
	tgt-setup-lun -n tgt-2 -d /var/lib/tgt/disk -b aio -B 4096
	tgt-setup-lun -n tgt-3 -d NAME -b null
`

func (s *setup) say(format string, values ...any) {
	fmt.Fprintf(s.env.Stdout, format+"\n", values...)
}

// parse reads the options as getopts of a POSIX shell does: what is wrong with one is said, and the others still count.
func (s *setup) parse(args []string) {
	values := map[byte]*string{
		'n': &s.name, 'd': &s.device, 'b': &s.store, 'B': &s.blockSize, 't': &s.transport,
	}
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' && args[0] != "--" {
		word := args[0][1:]
		args = args[1:]
		for word != "" {
			letter := word[0]
			word = word[1:]
			if strings.IndexByte(options, letter) < 0 {
				fmt.Fprintf(s.env.Stderr, "%s: illegal option -- %c\n", s.program, letter)
				continue
			}
			value := word
			if value == "" {
				if len(args) == 0 {
					fmt.Fprintf(s.env.Stderr, "%s: option requires an argument -- %c\n", s.program, letter)
					break
				}
				value, args = args[0], args[1:]
			}
			word = ""
			if letter == 'C' {
				s.port = &value
			} else if to := values[letter]; to != nil {
				*to = value
			}
		}
	}
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	s.addresses = args
}

// run executes a command line, the arguments without the program's name, and returns the exit status.
func (s *setup) run(ctx context.Context, args []string) int {
	if len(args) == 0 {
		fmt.Fprint(s.env.Stdout, usage)
		return 1
	}
	s.transport = "iscsi"
	s.parse(args)
	if s.device == "" && s.store == "" {
		s.say("Error: a device is mandatory")
		return 1
	}
	if !s.running() {
		s.say("tgtd is not running\nExiting...")
		return 1
	}
	if !strings.HasPrefix(s.name, "iqn") {
		host, err := s.hostname()
		if err != nil {
			s.say("Error: the name of this host: %v", err)
			return 1
		}
		s.name = "iqn.2001-04.com." + host + "-" + s.name
	}
	if s.port != nil {
		s.say("Control port: %s", *s.port)
	}
	s.say("Using transport: %s", s.transport)
	if !s.setUp(ctx) {
		return 1
	}
	return 0
}

// running says whether any daemon listens on a management socket.
func (s *setup) running() bool {
	path, err := mgmt.SocketPath(s.env.LookupEnv, 0)
	if err != nil {
		return false
	}
	base := strings.TrimSuffix(path, ".0")
	dir, name := filepath.Split(base)
	paths, err := filepath.Glob(escapeGlob(dir) + escapeGlob(name) + ".*")
	if err != nil {
		return false
	}
	for _, p := range paths {
		if _, err := strconv.Atoi(strings.TrimPrefix(p, base+".")); err != nil {
			continue // a lock
		}
		if c, err := net.Dial("unix", p); err == nil {
			c.Close()
			return true
		}
	}
	return false
}

// escapeGlob makes a pattern that matches the text alone.
func escapeGlob(text string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(text)
}

// tgtadm makes one request; what it prints on standard output is returned.
func (s *setup) tgtadm(ctx context.Context, args ...string) (string, bool) {
	argv := []string{command.Name}
	if s.port != nil {
		argv = append(argv, "-C", *s.port)
	}
	argv = append(argv, "--lld", s.transport)
	env := s.env
	var out bytes.Buffer
	env.Stdout = &out
	status := command.Run(ctx, append(argv, args...), env)
	return out.String(), status == 0
}

// state is a daemon's targets: the units of each by number of the target, and the numbers by name.
type state struct {
	units map[int]map[uint64]bool
	named map[string]int
}

var (
	targetLine = regexp.MustCompile(`^Target (\d+): (.*)$`)
	unitLine   = regexp.MustCompile(`^ {8}LUN: (\d+)$`)
)

// targets asks the daemon. Without an answer there are none; tgtadm has said why.
func (s *setup) targets(ctx context.Context) state {
	st := state{units: map[int]map[uint64]bool{}, named: map[string]int{}}
	text, _ := s.tgtadm(ctx, "--op", "show", "--mode", "target")
	tid := 0
	for line := range strings.SplitSeq(text, "\n") {
		if m := targetLine.FindStringSubmatch(line); m != nil {
			if n, err := strconv.Atoi(m[1]); err == nil {
				tid = n
				st.units[tid], st.named[m[2]] = map[uint64]bool{}, tid
			}
		} else if m := unitLine.FindStringSubmatch(line); m != nil && tid != 0 {
			if n, err := strconv.ParseUint(m[1], 10, 64); err == nil {
				st.units[tid][n] = true
			}
		}
	}
	return st
}

// setUp does the work.
func (s *setup) setUp(ctx context.Context) bool {
	st := s.targets(ctx)
	if tid, found := st.named[s.name]; found {
		s.say("Error: target named %s already exists", s.name)
		if !s.confirm() || !s.addUnit(ctx, tid, st.units[tid]) {
			return false
		}
		return len(s.addresses) == 0 || s.letIn(ctx, tid)
	}
	st = s.targets(ctx) // a target may have come meanwhile: its number is taken
	tid := 1
	for st.units[tid] != nil {
		tid++
	}
	number := strconv.Itoa(tid)
	s.say("Creating new target (name=%s, tid=%d)", s.name, tid)
	if _, ok := s.tgtadm(ctx, "--op", "new", "--mode", "target", "--tid", number, "--targetname", s.name); !ok {
		s.say("Error: failed to create target (name=%s, tid=%d)", s.name, tid)
		return false
	}
	if s.addUnit(ctx, tid, map[uint64]bool{0: true}) && s.letIn(ctx, tid) {
		return true
	}
	s.say("Deleting new target, tid=%d", tid)
	s.tgtadm(ctx, "--op", "delete", "--mode", "target", "--tid", number) // what it fails with it says
	return false
}

// confirm asks whether the unit is to be added to a target that is there. Only yes means yes.
func (s *setup) confirm() bool {
	if s.asks {
		fmt.Fprint(s.env.Stderr, "Add a new lun to the existing target? (yes/NO): ")
	}
	answer, _ := s.in.ReadString('\n') // the end of the input is an answer too
	return strings.TrimSpace(answer) == "yes"
}

// addUnit makes the unit under the smallest free number.
func (s *setup) addUnit(ctx context.Context, tid int, taken map[uint64]bool) bool {
	s.say("Adding a logical unit (%s) to target, tid=%d", s.device, tid)
	lun := uint64(1)
	for taken[lun] {
		lun++
	}
	args := []string{"--op", "new", "--mode", "logicalunit", "--tid", strconv.Itoa(tid),
		"--lun", strconv.FormatUint(lun, 10), "--backing-store"}
	if s.device != "" { // without one the option takes the next word, as ever, and tgtadm refuses the rest
		args = append(args, s.device)
	}
	if s.store != "" {
		s.say("Setting backing store type: %s", s.store)
		args = append(args, "--bstype", s.store)
	}
	if s.blockSize != "" {
		args = append(args, "--blocksize", s.blockSize)
	}
	if _, ok := s.tgtadm(ctx, args...); !ok {
		s.say("Error: failed to add a logical unit (%s) to target, tid=%d", s.device, tid)
		return false
	}
	return true
}

// letIn binds the addresses, or all.
func (s *setup) letIn(ctx context.Context, tid int) bool {
	addresses := slices.Clone(s.addresses)
	if len(addresses) == 0 {
		s.say("Accepting connections from all initiators")
		addresses = []string{"ALL"}
	} else {
		s.say("Accepting connections from %s", strings.Join(addresses, " "))
	}
	for _, a := range addresses {
		_, ok := s.tgtadm(ctx, "--op", "bind", "--mode", "target", "--tid", strconv.Itoa(tid), "--initiator-address", a)
		if !ok {
			s.say("Error: could not assign initiator %s to the target", a)
			return false
		}
	}
	return true
}

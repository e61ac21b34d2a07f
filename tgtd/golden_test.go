package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The transcripts of testdata/golden are sessions recorded with tgt 1.0.85; its README in the reference describes
// their form. TestGolden plays each against this daemon in namespaces of its own, driven by tgtadm and
// ordinary initiators, and compares outputs and statuses to the byte.

// notPlayed names the transcripts that are not played here, and why.
var notPlayed = []struct{ names, why string }{
	{"003", "a matter of tgtadm alone"},
	{"013 043 044", "show the reference dying; TestScenarios and TestRedirectCallback ask the same and want answers"},
	{"045", "shows the reference dying of commands without data; TestNoData in package scsi sends them"},
	{"090 091 093 094 097 098 099", "are the login and full feature phase: package iscsi plays them"},
	{"120 121 130 2xx 3xx", "belong to tgtimg, tgt-setup-lun and tgt-admin"},
	{"140 141 143 144", "are SCSI: package scsi plays them"},
}

// absent are lines of `tgtadm --op show --mode sys` that this daemon does not have: types of backing stores and
// devices that are not there. A line that comes to be must be taken out here.
var absent = []string{
	"    sheepdog",
}

// foreign are lines of it that tgt does not have.
var foreign = []string{"    pss (bsoflags sync:direct)"}

// skipped are commands within played transcripts that are not compared, and why.
var skipped = []struct{ transcript, command, why string }{
	{"001", `\btgtimg|\btgt-admin|\btgt-setup-lun`, "another program"},
	{"002", `\btgt-admin|\btgt-setup-lun`, "another program"},
	{"037", `inq:1:b0`, "the limit of UNMAP descriptors differs on purpose"},
	{"112", `setpriv`, "whether a refused client sees a reset, a broken pipe or the end is a race"},
}

// differing are commands whose outcome must not be the recorded one, and why. They count as better.
var differing = []struct{ transcript, command, why string }{
	{"146", `ops:1$`, "there are GET EVENT STATUS NOTIFICATION, MECHANISM STATUS and REPORT SUPPORTED OPERATION CODES"},
	{"146", `cmd:1:4300000000000000ff00`, "the table of contents is whole, and reading past the end is refused as such"},
	{"147", `sup:1$`, "there are more commands: LOCATE, ERASE, LOG SENSE, RESERVE, …"},
	{"147", `cmd:1:050000000000`, "the drive knows its position, and of a block that is too long comes what fits"},
	{"147", `ops:1$`, "there are more commands"},
	{"149", `sup:[12]$`, "there are more commands"},
	{"149", ` rs:1 `, "no data comes with CHECK CONDITION"},
	{"149", `cmd:9:a0`, "no data comes with CHECK CONDITION"},
	{"147", `tgtimg --op show`, "ERASE has erased what stood behind the position"},
}

// record is one thing done in a transcript.
type record struct {
	line     int
	kind     byte // & spawn, $ run, | log, ~ deed, @ file
	text     string
	out, err string
	rc       string
	file     string
}

// parseTranscript reads a transcript.
func parseTranscript(path string) ([]record, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var records []record
	var last *record
	add := func(n int, kind byte, text string) {
		records = append(records, record{line: n, kind: kind, text: text})
		last = &records[len(records)-1]
	}
	stream := func(s *string, line string) {
		if line[1:] == `\` {
			*s = strings.TrimSuffix(*s, "\n")
		} else {
			*s += strings.TrimPrefix(line[1:], " ") + "\n"
		}
	}
	_, body, _ := strings.Cut(string(b), "\n\n")
	first := strings.Count(string(b), "\n") - strings.Count(body, "\n") + 1
	for i, line := range strings.Split(strings.TrimSuffix(body, "\n"), "\n") {
		n := first + i
		if line == "" {
			return nil, fmt.Errorf("%s:%d: an empty line", path, n)
		}
		text := strings.TrimPrefix(line[1:], " ")
		switch {
		case line[0] == '#':
			last = nil
		case line[0] == '$', line[0] == '&', line[0] == '~', strings.HasPrefix(line, "@ "):
			add(n, line[0], text)
		case line[0] == '|' && (last == nil || last.kind != '|'):
			add(n, '|', "")
			stream(&last.out, line)
		case last == nil:
			return nil, fmt.Errorf("%s:%d: %q belongs to nothing", path, n, line)
		case line[0] == '+':
			last.text += "\n" + text
		case line[0] == '>', line[0] == '|':
			stream(&last.out, line)
		case line[0] == '!':
			stream(&last.err, line)
		case line[0] == '=':
			last.rc, last = text, nil
		case strings.HasPrefix(line, "@|"):
			last.file += strings.TrimPrefix(line[2:], " ") + "\n"
		default:
			return nil, fmt.Errorf("%s:%d: %q", path, n, line)
		}
	}
	return records, nil
}

// verdict is what came of a transcript.
type verdict struct {
	Equal, Better, Total int // Better: not as recorded, where the reference is wrong
	Skipped              []string
	Different            []string
	Trouble              string
}

// Where a scenario lives in its namespaces.
const (
	goldenHome = "/run/golden"
	goldenDir  = goldenHome + "/run"
	goldenBin  = goldenHome + "/bin"
)

// goldenEnv tells the test binary to play a transcript, as process 1 of new namespaces.
const (
	goldenEnv     = "TGTD_TEST_TRANSCRIPT"
	goldenToolEnv = "TGTD_TEST_TOOLS" // folder with tgtd and tgtadm
)

// commandLimit is given to a command that does not end by itself.
const commandLimit = 60 * time.Second

// TestGolden plays the transcripts and counts.
func TestGolden(t *testing.T) {
	for _, n := range notPlayed {
		t.Logf("not played: %s: %s", n.names, n.why)
	}
	paths, err := filepath.Glob("testdata/golden/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	if testing.Short() {
		t.Skipf("NOT RUN: %d transcripts: they take a while, and nothing of this process runs in them", len(paths))
	}
	if os.Geteuid() != 0 {
		t.Skipf("NOT RUN: all %d transcripts need root, for their namespaces", len(paths))
	}
	tools := goldenTools(t)
	equal, better, total, scenarios := 0, 0, 0, 0
	for _, path := range paths {
		name := strings.TrimSuffix(filepath.Base(path), ".txt")
		t.Run(name, func(t *testing.T) {
			v := playTranscript(t, path, tools)
			for _, s := range v.Skipped {
				t.Logf("not compared: %s", s)
			}
			for _, d := range v.Different {
				t.Error(d)
			}
			equal, better, total = equal+v.Equal, better+v.Better, total+v.Total
			if v.Equal+v.Better == v.Total {
				scenarios++
			}
		})
	}
	t.Logf("%d of %d transcripts equal; %d of %d commands equal, %d better", scenarios, len(paths), equal, total, better)
}

// goldenTools makes a folder with this daemon and a tgtadm: the one of this project when it builds, else the
// installed one.
func goldenTools(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command("go", "build", "-o", filepath.Join(dir, "tgtd"), ".").CombinedOutput(); err != nil {
		t.Fatalf("building tgtd: %v\n%s", err, out)
	}
	tgtadm := filepath.Join(dir, "tgtadm")
	if installed, err := exec.LookPath("/usr/sbin/tgtadm"); err == nil {
		if err := os.Symlink(installed, tgtadm); err != nil {
			t.Fatal(err)
		}
		t.Log("driven by the installed tgtadm")
	} else if out, err := exec.Command("go", "build", "-o", tgtadm, "../tgtadm").CombinedOutput(); err != nil {
		t.Fatalf("no tgtadm is installed, and ours does not build: %v\n%s", err, out)
	}
	tgtimg := filepath.Join(dir, "tgtimg")
	if out, err := exec.Command("go", "build", "-o", tgtimg, "../tgtadm/tgtimg").CombinedOutput(); err != nil {
		t.Fatalf("building tgtimg: %v\n%s", err, out)
	}
	return dir
}

// playTranscript runs this test binary in new namespaces and returns what it found.
func playTranscript(t *testing.T, path, tools string) verdict {
	t.Helper()
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), goldenEnv+"="+path, goldenToolEnv+"="+tools)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC |
			syscall.CLONE_NEWPID,
		Pdeathsig: syscall.SIGKILL,
	}
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if err := cmd.Run(); err != nil {
		t.Fatalf("playing %s: %v\n%s%s", path, err, out.String(), complaints.String())
	}
	var v verdict
	if err := json.Unmarshal(out.Bytes(), &v); err != nil {
		t.Fatalf("playing %s: %v\n%s%s", path, err, out.String(), complaints.String())
	}
	if v.Trouble != "" {
		t.Fatal(v.Trouble)
	}
	return v
}

// playInside is the whole program when goldenEnv is set.
func playInside(path string) int {
	v := verdict{}
	p := &player{path: path, number: filepath.Base(path)[:3], v: &v}
	if err := p.play(); err != nil {
		v.Trouble = err.Error()
	}
	if err := json.NewEncoder(os.Stdout).Encode(v); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0 // and with process 1 all others end
}

// furnish makes the namespaces a place to play in: loopback up, a private /run, no name service.
func furnish(tools, isc string) error {
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	mount := func(source, at, kind string, flags uintptr, data string) {
		if err == nil {
			if err = unix.Mount(source, at, kind, flags, data); err != nil {
				err = fmt.Errorf("mounting %s on %s: %w", source, at, err)
			}
		}
	}
	mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	mount("proc", "/proc", "proc", 0, "")
	mount("tmpfs", "/run", "tmpfs", 0, "mode=755")
	if target, linkErr := filepath.EvalSymlinks("/var/run"); err == nil && linkErr == nil && target != "/run" {
		mount("/run", target, "", unix.MS_BIND|unix.MS_REC, "")
	}
	if err != nil {
		return err
	}
	for _, dir := range []string{"/run/tgtd", goldenDir, goldenBin} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{"/etc/hosts": "127.0.0.1 localhost\n", "/etc/resolv.conf": ""} {
		own := filepath.Join(goldenHome, filepath.Base(name))
		if err := os.WriteFile(own, []byte(text), 0o644); err != nil {
			return err
		}
		mount(own, name, "", unix.MS_BIND, "")
	}
	for _, name := range []string{"tgtd", "tgtadm", "tgtimg"} {
		if linkErr := os.Symlink(filepath.Join(tools, name), filepath.Join(goldenBin, name)); err == nil {
			err = linkErr
		}
	}
	script := fmt.Sprintf("#!/bin/sh\nexec python3 -B %s \"$@\"\n", isc)
	return errors.Join(err, os.WriteFile(filepath.Join(goldenBin, "isc"), []byte(script), 0o755),
		unix.Sethostname([]byte("goldhost")))
}

// player plays one transcript.
type player struct {
	path, number string
	v            *verdict
	spawned      []*spawned
	access       accessRule
	settle       bool // a client was started: what it does may take a moment to be seen
}

// spawned is a background command.
type spawned struct {
	text, log string
	cmd       *exec.Cmd
	ended     chan struct{}
}

func (p *player) play() error {
	tools := os.Getenv(goldenToolEnv)
	if err := furnish(tools, filepath.Join(filepath.Dir(p.path), "isc.py")); err != nil {
		return err
	}
	records, err := parseTranscript(p.path)
	if err != nil {
		return err
	}
	unix.Umask(0o022)
	for _, r := range records {
		var err error
		switch r.kind {
		case '$':
			p.run(r)
		case '&':
			err = p.spawn(r)
		case '|':
			p.log(r)
		case '@':
			err = os.WriteFile(filepath.Join(goldenDir, r.text), []byte(real(r.file)), 0o644)
		case '~':
			err = p.deed(r)
		}
		if err != nil {
			return fmt.Errorf("line %d: %w", r.line, err)
		}
	}
	return nil
}

func real(text string) string { return strings.ReplaceAll(text, "@DIR@", goldenDir) }

// shell is a command of the transcript, ready to run.
func shell(text string) *exec.Cmd {
	cmd := exec.Command("/bin/sh", "-c", real(text))
	cmd.Dir = goldenDir
	cmd.Env = []string{"PATH=" + goldenBin + ":/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C", "TZ=UTC"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd
}

// outcome is what a command did.
type outcome struct{ out, err, rc string }

// execute runs a command to its end.
func execute(text string) outcome {
	cmd := shell(text)
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	cmd.WaitDelay = commandLimit // for what keeps its outputs open
	if err := cmd.Start(); err != nil {
		return outcome{err: err.Error(), rc: "-"}
	}
	limit := time.AfterFunc(commandLimit, func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	defer limit.Stop()
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return outcome{err: err.Error(), rc: "-"}
	}
	return outcome{out.String(), complaints.String(), strconv.Itoa(cmd.ProcessState.ExitCode())}
}

var (
	daemonFunction = regexp.MustCompile(`(?m)^(\S+: \w+)\((?:\d+|<line>)\) `)
	daemonMachine  = regexp.MustCompile(`(?m)^.*(?:oom_score_adj|nr_open|RDMA|timer_fd|signalfd).*\n`)
	onlyLooks      = regexp.MustCompile(`--op (show|stat) |^(cmp|od|ls) `)
)

// normalise takes out what differs from run to run and from machine to machine.
func normalise(text string, daemon bool) string {
	text = strings.ReplaceAll(text, goldenDir, "@DIR@")
	if daemon {
		text = daemonFunction.ReplaceAllString(text, "$1(<line>) ")
		text = daemonMachine.ReplaceAllString(text, "")
	}
	return text
}

// withoutLines drops lines of a listing of the system.
func withoutLines(text string, lines []string) string {
	return strings.Join(slices.DeleteFunc(strings.Split(text, "\n"), func(l string) bool {
		return slices.Contains(lines, l)
	}), "\n")
}

// expected brings a recorded and a new outcome into the form in which they are compared.
func expected(r record, got outcome) (want, have outcome) {
	daemon := strings.Contains(r.text, "tgtd")
	want = outcome{normalise(r.out, daemon), normalise(r.err, daemon), r.rc}
	have = outcome{normalise(got.out, daemon), normalise(got.err, daemon), got.rc}
	if strings.Contains(r.text, "show --mode sys") {
		if strings.Contains(r.text, "tail") {
			// What is cut off depends on how many lines there are: compare what stands below the types.
			_, want.out, _ = strings.Cut(want.out, "iSNS:\n")
			_, have.out, _ = strings.Cut(have.out, "iSNS:\n")
		}
		want.out = withoutLines(want.out, absent)
		have.out = withoutLines(have.out, foreign)
	}
	return want, have
}

var timeLimit = regexp.MustCompile(`\btimeout \d+ `)

// patient is the command of r. What ended by itself when it was recorded has all the time it needs here: the machine
// may be busy, and a time limit that strikes tells nothing.
func patient(r record) string {
	if r.rc == "124" {
		return r.text
	}
	return timeLimit.ReplaceAllString(r.text, fmt.Sprintf("timeout %d ", int(commandLimit.Seconds())-1))
}

// run does one command and compares.
func (p *player) run(r record) {
	for _, s := range skipped {
		if s.transcript == p.number && regexp.MustCompile(s.command).MatchString(r.text) {
			p.v.Skipped = append(p.v.Skipped, fmt.Sprintf("line %d: %s: %s", r.line, r.text, s.why))
			return
		}
	}
	if tool := missingTool(r.text); tool != "" {
		p.v.Skipped = append(p.v.Skipped, fmt.Sprintf("line %d: %s: %s is not installed", r.line, r.text, tool))
		return
	}
	p.v.Total++
	var want, got outcome
	look := func() bool {
		want, got = expected(r, execute(patient(r)))
		return want == got
	}
	equal := look()
	p.access.note(r.text)
	better := !equal && (p.number == "074" && forcedDelete(r, got) || p.number == "095" && p.access.right(r.text, got))
	if !equal && !better && p.settle && onlyLooks.MatchString(r.text) {
		equal = until(look)
	}
	for _, d := range differing {
		if d.transcript == p.number && regexp.MustCompile(d.command).MatchString(r.text) {
			if better = !equal; !better {
				p.v.Different = append(p.v.Different, fmt.Sprintf("line %d: %s: as recorded, but should differ: %s",
					r.line, r.text, d.why))
			}
			equal = false
		}
	}
	if better {
		p.v.Better++
	} else if equal {
		p.v.Equal++
	} else {
		p.v.Different = append(p.v.Different, fmt.Sprintf("line %d: %s\nwant status %s\n%s! %s\ngot status %s\n%s! %s",
			r.line, r.text, want.rc, want.out, want.err, got.rc, got.out, got.err))
	}
	if got.rc == "0" && strings.Contains(r.text, "--op delete --mode sys") {
		p.awaitDaemons(r.text)
	}
}

// forcedDelete allows 074 to go better than recorded: whether a command is on the unit at the instant of the
// forced deletion was chance in the reference, and here it never hinders.
func forcedDelete(r record, got outcome) bool {
	if strings.Contains(r.text, "--force") {
		return got == outcome{"status 0\n", "", "0"}
	}
	return strings.Contains(r.text, "grep ^Target") && got == outcome{"Target 2: iqn.2001-04.com.example:b\n", "", "0"}
}

// accessRule is the one address rule in force in 095, where the reference compares wrongly: nets of one address,
// nets with host bits, the net of all, and rules of the other family.
type accessRule struct{ text string }

var (
	bindsRule = regexp.MustCompile(`--op (bind|unbind) --mode target .*-I '([^']*)'`)
	logsIn    = regexp.MustCompile(`^isc (127\.0\.0\.1|\[::1\]):\d+ --quiet --target \S+$`)
)

// note follows the rule.
func (a *accessRule) note(command string) {
	if m := bindsRule.FindStringSubmatch(command); m != nil {
		a.text = ""
		if m[1] == "bind" {
			a.text = m[2]
		}
	}
}

// right says whether a login was answered as the rule means.
func (a *accessRule) right(command string, got outcome) bool {
	m := logsIn.FindStringSubmatch(command)
	text := strings.NewReplacer("[", "", "]", "").Replace(a.text)
	if m == nil || text == "" {
		return false
	}
	if !strings.Contains(text, "/") {
		text += map[bool]string{true: "/128", false: "/32"}[strings.Contains(text, ":")]
	}
	_, subnet, err := net.ParseCIDR(text)
	if err != nil {
		return false
	}
	if subnet.Contains(net.ParseIP(strings.Trim(m[1], "[]"))) {
		return got == outcome{"logged in\n", "", "0"}
	}
	return got == outcome{"", "", "2"}
}

// missingTool names a program that a command needs and that is not installed.
func missingTool(text string) string {
	for _, tool := range []string{"iscsi-ls", "iscsi-inq", "iscsi-readcapacity16", "iscsi-perf", "qemu-io", "ss",
		"isc", "setpriv"} {
		if !regexp.MustCompile(`(^|\| |; )` + tool + ` `).MatchString(text) {
			continue
		}
		if tool == "isc" {
			tool = "python3"
		}
		if _, err := exec.LookPath(tool); err != nil {
			return tool
		}
	}
	return ""
}

// spawn starts a background command and waits until it does what it was started for.
func (p *player) spawn(r record) error {
	if tool := missingTool(r.text); tool != "" {
		return fmt.Errorf("%s needs %s, which is not installed", r.text, tool)
	}
	s := &spawned{text: r.text, log: fmt.Sprintf("%s/log%d", goldenHome, len(p.spawned)), ended: make(chan struct{})}
	out, err := os.Create(s.log)
	if err != nil {
		return err
	}
	defer out.Close()
	before := established()
	s.cmd = shell("exec " + r.text)
	s.cmd.Stdout, s.cmd.Stderr = out, out
	if s.cmd.Stdin, err = holdOpen(); err != nil {
		return err
	}
	if err := s.cmd.Start(); err != nil {
		return err
	}
	go func() {
		defer close(s.ended)
		s.cmd.Wait() // how it ends shows in what follows
	}()
	p.spawned = append(p.spawned, s)
	ready := func() bool { return established() > before }
	switch program, _, _ := strings.Cut(r.text, " "); program {
	case "tgtd":
		ready = func() bool { return listening(s.text) }
	case "isc":
		p.settle = true
		ready = func() bool {
			log, _ := os.ReadFile(s.log)
			return bytes.Contains(log, []byte("logged in\n"))
		}
	default:
		p.settle = true
	}
	done := func() bool {
		select {
		case <-s.ended:
			return true
		default:
			return ready()
		}
	}
	if !until(done) {
		return fmt.Errorf("%s did not get going", r.text)
	}
	return nil
}

// holdOpen is a standard input that says nothing and does not end.
func holdOpen() (*os.File, error) {
	r, _, err := os.Pipe()
	return r, err
}

// listening says whether the daemon of a command line serves its management socket. A daemon that listens does not
// serve yet, but whoever connects waits until it does.
func listening(text string) bool {
	port := "0"
	if m := regexp.MustCompile(` -C (\d+)`).FindStringSubmatch(text); m != nil {
		port = m[1]
	}
	b, _ := os.ReadFile("/proc/net/unix")
	return regexp.MustCompile(`(?m)^\S+ \S+ \S+ 00010000 .*/socket\.` + port + `$`).Match(b)
}

// established counts the TCP connections of this namespace.
func established() int {
	n := 0
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		b, _ := os.ReadFile(table)
		for _, line := range strings.Split(string(b), "\n") {
			if f := strings.Fields(line); len(f) > 3 && f[3] == "01" {
				n++
			}
		}
	}
	return n
}

// awaitDaemons waits until the daemon that a command told to end has ended.
func (p *player) awaitDaemons(text string) {
	for _, s := range p.spawned {
		same := strings.HasPrefix(s.text, "tgtd") && strings.Contains(s.text, "-C ") == strings.Contains(text, "-C ")
		if same {
			until(func() bool { return ended(s) })
		}
	}
}

func ended(s *spawned) bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

// log compares what the last background command has printed so far.
func (p *player) log(r record) {
	s := p.spawned[len(p.spawned)-1]
	daemon := strings.HasPrefix(s.text, "tgtd")
	want, got := normalise(r.out, daemon), ""
	p.v.Total++
	if until(func() bool {
		b, _ := os.ReadFile(s.log)
		got = normalise(string(b), daemon)
		return got == want
	}) {
		p.v.Equal++
		return
	}
	p.v.Different = append(p.v.Different, fmt.Sprintf("line %d: output of %s\nwant\n%sgot\n%s", r.line, s.text, want, got))
}

var sendsSignal = regexp.MustCompile(`^signal (SIG\w+) to the background command started last$`)

// deed does what a line with ~ says. Times to wait are passed over: what they waited for is waited for here.
func (p *player) deed(r record) error {
	if m := regexp.MustCompile(`^file (.*): (\d+) zero bytes$`).FindStringSubmatch(r.text); m != nil {
		path := filepath.Join(goldenDir, m[1])
		size, err := strconv.ParseInt(m[2], 10, 64)
		return errors.Join(err, os.WriteFile(path, nil, 0o644), os.Truncate(path, size))
	}
	if m := sendsSignal.FindStringSubmatch(r.text); m != nil {
		s := p.spawned[len(p.spawned)-1]
		number := unix.SignalNum(m[1])
		if err := s.cmd.Process.Signal(number); err != nil {
			return err
		}
		if number == unix.SIGHUP || number == unix.SIGINT {
			if !until(func() bool { return ended(s) }) {
				return fmt.Errorf("%s lives on", s.text)
			}
		}
		return nil
	}
	if strings.HasPrefix(r.text, "sleep ") {
		return nil
	}
	return fmt.Errorf("unknown: %s", r.text)
}

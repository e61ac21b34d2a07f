package admin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/paxos-iscsi/paxos-iscsi/tgt-admin/conf"
	"github.com/paxos-iscsi/paxos-iscsi/tgtadm/command"
	"github.com/paxos-iscsi/paxos-iscsi/tgtadm/daemontest"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/mgmt"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lab is a daemon and a file system for the scenarios.
type lab struct {
	*daemontest.Daemon
	dir   string
	shows map[mgmt.Mode]string // the answers to show
	fails []failure
	used  map[string]bool   // files that processes have open
	tools map[string]string // outputs of the programs of sg3-utils, by command line
}

// failure is an error that the daemon answers to some requests.
type failure struct {
	mode, op, params string
	number           mgmt.Errno
}

func newLab(t *testing.T) *lab {
	l := &lab{dir: t.TempDir(), shows: map[mgmt.Mode]string{}, used: map[string]bool{}, tools: map[string]string{}}
	l.Daemon = daemontest.Start(t, l.answer)
	return l
}

func (l *lab) answer(r mgmt.Request) mgmt.Response {
	if r.Op == mgmt.OpShow {
		return mgmt.Response{Text: l.shows[r.Mode]}
	}
	for _, f := range l.fails {
		if f.mode == r.Mode.String() && f.op == r.Op.String() && strings.Contains(r.Params, f.params) {
			return mgmt.Response{Err: f.number}
		}
	}
	return mgmt.Response{}
}

// strangerUID is a user whose environment names no management socket.
const strangerUID = 1001

// run runs a command line, split at blanks, and shows all that came of it: outputs, status, and the
// requests that change something.
func (l *lab) run(t *testing.T, name, line string, uid int) string {
	var out, stderr bytes.Buffer
	env := System()
	env.Stdout, env.Stderr = &out, &stderr
	env.LookupEnv = func(name string) (string, bool) {
		if uid == strangerUID {
			return "", false
		}
		return l.Base, name == mgmt.BaseEnv
	}
	env.UID = func() int { return uid }
	env.Users = func(path string) (bool, error) { return l.used[filepath.Base(path)], nil }
	env.Tool = func(argv ...string) (string, int) {
		text, ok := l.tools[strings.Join(argv[:len(argv)-1], " ")]
		if !ok {
			return "", toolMissing
		}
		return text, 0
	}
	argv := []string{name}
	for _, word := range strings.Fields(strings.ReplaceAll(line, "@DIR@", l.dir)) {
		argv = append(argv, strings.ReplaceAll(word, `""`, ""))
	}
	status := Run(t.Context(), argv, env)
	text := out.String()
	for line := range strings.Lines(stderr.String()) {
		text += "! " + line
	}
	text += fmt.Sprintf("= %d\n", status)
	for _, r := range l.Requests() {
		if r.Op != mgmt.OpShow {
			text += "> " + describe(r) + "\n"
		}
	}
	return strings.ReplaceAll(text, l.dir, "@DIR@")
}

// describe shows a request, the fields that were set.
func describe(r mgmt.Request) string {
	text := fmt.Sprintf("%v %v", r.Mode, r.Op)
	add := func(name string, value any, set bool) {
		if set {
			text += fmt.Sprintf(" %s=%v", name, value)
		}
	}
	add("driver", r.Driver, r.Driver != "")
	add("tid", r.TID, r.TID != mgmt.NoTID)
	add("lun", r.LUN, r.LUN != mgmt.NoLUN)
	add("sid", r.SID, r.Mode == mgmt.ModeConnection)
	add("cid", r.CID, r.Mode == mgmt.ModeConnection)
	add("device", r.Device, r.Device != mgmt.Disk)
	add("outgoing", true, r.Direction == mgmt.Outgoing)
	add("force", true, r.Force)
	if r.HasParams {
		text += fmt.Sprintf(" %q", r.Params)
	}
	return text
}

// TestScenarios: `file NAME` writes a file, `show MODE` sets what the daemon shows, `fail` makes it
// answer errors (`MODE OP ERRNO [PARAMS]`), `used NAME...` are files in use, `tool COMMAND` is what a
// program says, `run` runs a command line; `run user` does as somebody who is not root, with a socket
// that the environment names, `run stranger` as one without, `run NAME` under another name.
func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata/scenarios", func(t *testing.T, path string) {
		l := newLab(t)
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			var words []string
			for _, a := range d.CmdArgs {
				words = append(words, a.String())
			}
			switch d.Cmd {
			case "file":
				text := strings.ReplaceAll(d.Input, "@DIR@", l.dir) + "\n"
				if err := os.WriteFile(filepath.Join(l.dir, words[0]), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			case "show":
				for n := range mgmt.ModeCount {
					if mode := mgmt.Mode(n); mode.String() == words[0] {
						l.shows[mode] = strings.ReplaceAll(d.Input, "@DIR@", l.dir) + "\n"
					}
				}
			case "fail":
				l.fails = nil
				for line := range strings.Lines(d.Input) {
					f := append(strings.Fields(line), "")
					number, err := strconv.Atoi(f[2])
					if err != nil {
						t.Fatal(err)
					}
					l.fails = append(l.fails, failure{f[0], f[1], f[3], mgmt.Errno(number)})
				}
			case "used":
				clear(l.used)
				for _, name := range words {
					l.used[name] = true
				}
			case "tool":
				l.tools[strings.Join(words, " ")] = d.Input + "\n"
			case "run":
				name, uid := Name, 0
				if len(words) > 0 && words[0] == "user" {
					uid = 1000
				} else if len(words) > 0 && words[0] == "stranger" {
					uid = strangerUID
				} else if len(words) > 0 {
					name = words[0]
				}
				return l.run(t, name, d.Input, uid)
			default:
				t.Fatalf("unknown command %s", d.Cmd)
			}
			return ""
		})
	})
}

// TestManual: the configuration of the product's manual makes its target.
func TestManual(t *testing.T) {
	l := newLab(t)
	text := `
include /nowhere/conf.d/*.conf
<target iqn.2001-03.jp.tritech:tgtd-pss>
    <backing-store vol001>
        bs-type pss
        lun 1
    </backing-store>
    incominguser iscsi_pss iscsi_pss000
</target>
`
	if err := os.WriteFile(l.dir+"/targets.conf", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	want := `= 0
> target new driver=iscsi tid=1 "targetname=iqn.2001-03.jp.tritech:tgtd-pss"
> logicalunit new driver=iscsi tid=1 lun=1 "path=vol001,bstype=pss"
> account new driver=iscsi "user=iscsi_pss,password=iscsi_pss000"
> account bind driver=iscsi tid=1 "user=iscsi_pss"
> target bind driver=iscsi tid=1 "initiator-address=ALL"
`
	if got := l.run(t, Name, "-e -c @DIR@/targets.conf", 0); got != want {
		t.Errorf("%s", got)
	}
}

// TestInstalledConf: the file that is installed as /etc/tgt/targets.conf can be used as it is.
func TestInstalledConf(t *testing.T) {
	path := filepath.Join("..", "..", "etc", "tgt", "targets.conf")
	if _, err := os.Stat(path); err != nil {
		t.Logf("NOT RUN: there is no %s yet", path)
		return
	}
	l := newLab(t)
	got := l.run(t, Name, "-e -c "+path, 0)
	if !strings.HasPrefix(got, "= 0\n> target new") || !strings.Contains(got, "path=vol001,bstype=pss") {
		t.Errorf("%s", got)
	}
}

func TestNoDaemon(t *testing.T) {
	l := newLab(t)
	l.Stop()
	gone := "! tgtadm: failed to send request hdr to tgt daemon, Transport endpoint is not connected\n"
	want := "Command:\n\ttgtadm -C 0 --op show --mode target\nexited with code: 107.\n" + gone + "= 107\n"
	if got := l.run(t, Name, "-s", 0); got != want {
		t.Errorf("%s", got)
	}
	if got := l.run(t, Name, "--delete ALL", 0); got != gone+"= 0\n" {
		t.Errorf("%s", got)
	}
}

func TestQuotesSingly(t *testing.T) {
	for program, want := range map[string]bool{
		"tgt-admin": false, "/usr/sbin/tgt-admin": false, "tgt-admin-1.0.85": false, "/opt/tgt-admin-1.0.96": true,
		"tgt-admin-1.0.97": true, "tgt-admin-1.0.x": false, "tgtadm-1.0.97": false,
	} {
		if got := quotesSingly(program); got != want {
			t.Errorf("%s: %v", program, got)
		}
	}
}

// TestHasUsers: the ways in which this very process uses files.
func TestHasUsers(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	check := func(path string, want bool) {
		t.Helper()
		if got, err := hasUsers("/proc", path); err != nil || got != want {
			t.Errorf("%s: %v, %v, want %v", path, got, err, want)
		}
	}
	check(file, false)
	check(dir, false)
	check(filepath.Join(dir, "none"), false)
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	check(file, true)
	link := filepath.Join(dir, "link")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	check(link, true)
	f.Close()
	check(file, false)
	t.Chdir(dir)
	check(dir, true)
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	check(program, true)
}

// TestHasUsersOfAnotherProcess: a program that waits with the file as its standard input.
func TestHasUsersOfAnotherProcess(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sleep", "600")
	cmd.Stdin = f
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if used, err := hasUsers("/proc", file); err != nil || !used {
		t.Errorf("%v, %v", used, err)
	}
	cmd.Process.Kill()
	cmd.Wait() // it was killed
	if used, err := hasUsers("/proc", file); err != nil || used {
		t.Errorf("afterwards %v, %v", used, err)
	}
}

// TestHasMapped: a mapping counts although the file was closed.
func TestHasMapped(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	n, _, err := nodeOf(file)
	if err != nil {
		t.Fatal(err)
	}
	line := "7f0000000000-7f0000001000 r--s 00000000 %02x:%02x %d                   /x/file\n"
	for _, c := range []struct {
		major, minor uint32
		inode        uint64
		want         bool
	}{
		{major(n), minor(n), n.inode, true},
		{major(n), minor(n) + 1, n.inode, false},
		{major(n), minor(n), n.inode + 1, false},
	} {
		maps := "7f0000000000-7f0000001000 rw-p 00000000 00:00 0 \n" + fmt.Sprintf(line, c.major, c.minor, c.inode)
		if err := os.WriteFile(filepath.Join(dir, "maps"), []byte(maps), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := hasMapped(dir, n); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

func TestParseTargets(t *testing.T) {
	targets := parseTargets(`Target 2: iqn.x:b
    System information:
        Driver: iscsi
    I_T nexus information:
        I_T nexus: 3
            Initiator: iqn.i alias: none
            Connection: 1
                IP Address: 127.0.0.1
        I_T nexus: 5
            Initiator: Connection: 9
            Connection: 0
    LUN information:
        LUN: 1
            Backing store path: None
        LUN: 2
            Backing store path: /with space/x
    Account information:
        joe
        tgt (outgoing)
    ACL information:
        ALL
        iqn.i
Target 1: iqn.x:a
Target x: broken
    ACL information:
        lost
`)
	if len(targets) != 2 || targets[0].name != "iqn.x:a" {
		t.Fatalf("%+v", targets)
	}
	want := target{tid: 2, name: "iqn.x:b", driver: "iscsi", sessions: []session{{"3", "1"}, {"5", "0"}},
		stores: []string{"/with space/x"}, accounts: []account{{"joe", false}, {"tgt", true}}, rules: []string{"ALL", "iqn.i"}}
	if got := fmt.Sprintf("%+v", *targets[1]); got != fmt.Sprintf("%+v", want) {
		t.Errorf("\n got %s\nwant %+v", got, want)
	}
}

// TestRunTool: the output and the status of a program, and what there is when it is missing.
func TestRunTool(t *testing.T) {
	if text, status := runTool("sh", "-c", "echo $0; exit 3", "a;b"); text != "a;b\n" || status != 3 {
		t.Errorf("%q, %d", text, status)
	}
	if _, status := runTool("no-such-program"); status != toolMissing {
		t.Errorf("missing: %d", status)
	}
}

// FuzzExecute: no configuration makes the run panic or end with a status that is not its own, and all
// it carries out are command lines for its port.
func FuzzExecute(f *testing.F) {
	f.Add("<target a>\n<backing-store /dev/null>\nlun 1\n</backing-store>\nincominguser a b\n</target>\ndefault-driver x\n")
	f.Add("<target>\nbacking-store x\n</target>\ncontrol-port 1\niSNS On\n")
	f.Add("<target a>\nbacking-store\n<backing-store b/>\n</target>\noutgoingdiscoveryuser x y\n")
	f.Add("<target a>\ndirect-store /dev/zero\nstate x\ncontroller_tid 99999999999\n</target>\n")
	f.Fuzz(func(t *testing.T, text string) {
		env := System()
		var out bytes.Buffer
		env.Stdout, env.Stderr = &out, &out
		env.UID = func() int { return 0 }
		env.Users = func(string) (bool, error) { return false, nil }
		env.Tool = func(...string) (string, int) { return "", 1 }
		env.Files = oneFile(text)
		env.Tgtadm = func(_ context.Context, argv []string, _ command.Env) int {
			if len(argv) < 4 || argv[0] != command.Name || argv[1] != "-C" {
				t.Errorf("%q", argv)
			}
			return 0
		}
		a := &admin{ctx: t.Context(), env: env, port: "0", options: options{execute: true, verbose: true, file: "/t.conf"}}
		err := a.run()
		var status exit
		var bad *conf.Error
		switch {
		case err == nil, errors.As(err, &bad):
		case errors.As(err, &status) && status == statusError:
		default:
			t.Errorf("%v: %s", err, out.String())
		}
	})
}

// FuzzState: no answer of a daemon makes a state that cannot be asked for.
func FuzzState(f *testing.F) {
	f.Add("Target 1: a\n    System information:\n        Driver: iscsi\n    LUN information:\n            Backing store path: /x\n")
	f.Add("Target 1: a\n    I_T nexus information:\n        Connection: 1\n        I_T nexus: 2\n")
	f.Add("    Account information:\n\n    x (outgoing)\niSNS:\n    iSNS=On\n")
	f.Fuzz(func(t *testing.T, text string) {
		s := &state{targets: parseTargets(text)}
		_, s.discovery = parseSystem(text)
		for _, x := range s.targets {
			if s.target(x.name) == nil || s.byTID(strconv.Itoa(x.tid)) == nil || !s.hasTID(x.tid) || s.largestTID() < x.tid {
				t.Errorf("%q: %+v", text, x)
			}
		}
	})
}

// oneFile is a file system of one file.
type oneFile string

func (oneFile) Kind(path string) (conf.Kind, error) {
	if path != "/t.conf" {
		return 0, os.ErrNotExist
	}
	return conf.Plain, nil
}
func (f oneFile) Read(string, int) (string, error) { return string(f), nil }
func (oneFile) List(string) ([]string, error)      { return nil, os.ErrNotExist }

func major(n node) uint32 { return unix.Major(n.number) }
func minor(n node) uint32 { return unix.Minor(n.number) }

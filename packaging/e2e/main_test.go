package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/paxos-iscsi/paxos-iscsi/packaging/rig"
	"github.com/paxos-iscsi/paxos-iscsi/packaging/verify"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/initiator"
)

// The target and account of etc/tgt/targets.conf.
const (
	targetsConf   = "../../etc/tgt/targets.conf"
	targetName    = "iqn.2001-03.jp.tritech:tgtd-pss"
	user, secret  = "iscsi_pss", "iscsi_pss000"
	initiatorName = "iqn.2001-03.jp.tritech:e2e"
)

// stepTimeout bounds every wait: what takes longer has gone wrong. It is generous, since nothing is
// asserted about time.
const stepTimeout = 2 * time.Minute

// suite is what the tests share.
var suite struct {
	programs rig.Programs
	mu       sync.Mutex
	left     []string // tests that were left out, with the reason
}

func TestMain(m *testing.M) {
	flag.Parse()
	status, err := runSuite(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		status = 1
	}
	os.Exit(status)
}

func runSuite(m *testing.M) (status int, err error) {
	bin := os.Getenv("E2E_BIN")
	if bin == "" {
		if bin, err = os.MkdirTemp("", "e2e-bin-"); err != nil {
			return 1, err
		}
		defer os.RemoveAll(bin)
		if err := os.Chmod(bin, 0o755); err != nil { // one test runs them as nobody
			return 1, err
		}
		if err := build(bin); err != nil {
			return 1, err
		}
	}
	if suite.programs, err = rig.Find(bin); err != nil {
		return 1, err
	}
	status = m.Run()
	if len(suite.left) == 0 {
		fmt.Println("e2e: no test was left out")
	} else {
		fmt.Printf("e2e: %d tests were LEFT OUT:\n", len(suite.left))
		for _, why := range suite.left {
			fmt.Println("    " + why)
		}
	}
	if status == 0 {
		if err := goleak.Find(); err != nil {
			return 1, err
		}
	}
	return status, nil
}

// build builds the programs into a folder.
func build(bin string) error {
	for name, pkg := range map[string]string{
		"PFSserver": "pss/server", "createISCSIVol": "pssctl/createISCSIVol",
		"tgtd": "tgtd", "tgtadm": "tgtadm", "tgt-admin": "tgt-admin", "quickstart": "packaging/quickstart",
	} {
		cmd := exec.Command("go", "build", "-o", filepath.Join(bin, name), "./"+pkg)
		cmd.Dir = "../.."
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", name, err, out)
		}
	}
	return nil
}

// leaveOut skips a test, and has it counted.
func leaveOut(t *testing.T, why string) {
	t.Helper()
	suite.mu.Lock()
	suite.left = append(suite.left, t.Name()+": "+why)
	suite.mu.Unlock()
	t.Skip(why)
}

// tool finds a program of a Debian package, or leaves the test out.
func tool(t *testing.T, name, debian string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		for _, dir := range []string{"/usr/sbin", "/sbin"} {
			if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
				return filepath.Join(dir, name)
			}
		}
		leaveOut(t, fmt.Sprintf("%s is not installed (Debian package %s)", name, debian))
	}
	return path
}

// limit is a context for one step of a test.
func limit(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), stepTimeout)
	t.Cleanup(cancel)
	return ctx
}

// must ends the test on an error.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tempDir is a folder with a short name, which stays when the test fails.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "e2e-")
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("logs and data stay in %s", dir)
			return
		}
		os.RemoveAll(dir)
	})
	return dir
}

// system is a cell with a target on it.
type system struct {
	t      *testing.T
	dir    string
	cell   *rig.Cell
	target *rig.Target
}

// newSystem starts a cell with these servers, makes the volume, and starts tgtd with targets.conf.
func newSystem(t *testing.T, ids []cell.ID) *system {
	t.Helper()
	s := &system{t: t, dir: tempDir(t)}
	var err error
	s.cell, err = rig.NewCell(s.dir, suite.programs, ids)
	must(t, err)
	t.Cleanup(s.cell.Close)
	s.target, err = rig.NewTarget(rig.TargetOptions{Dir: s.dir, Programs: suite.programs, Conf: s.cell.Conf})
	must(t, err)
	t.Cleanup(s.target.Close)
	t.Cleanup(s.tails)
	ctx := limit(t)
	must(t, s.cell.StartAll(ctx))
	must(t, s.cell.CreateVolume(ctx, "vol001", "1G"))
	s.serve()
	return s
}

// serve starts tgtd and gives it its targets.
func (s *system) serve() {
	s.t.Helper()
	ctx := limit(s.t)
	must(s.t, s.target.Start(ctx))
	must(s.t, s.target.Load(ctx, targetsConf))
}

// tails shows the logs of a test that has failed.
func (s *system) tails() {
	if !s.t.Failed() {
		return
	}
	for _, p := range append(s.cell.Processes(), s.target.Process) {
		s.t.Logf("%s (running: %v): %s", p.Name(), p.Running(), p.Tail(15))
	}
}

func (s *system) master() cell.ID {
	s.t.Helper()
	id, err := s.cell.Master(limit(s.t))
	must(s.t, err)
	return id
}

// followers are the running core servers that are not master, in an order of chance.
func (s *system) followers() []cell.ID {
	s.t.Helper()
	master := s.master()
	var ids []cell.ID
	for _, id := range s.cell.IDs() {
		if id.Core() && id != master && s.cell.Server(id).Responsive() {
			ids = append(ids, id)
		}
	}
	shuffle(ids)
	return ids
}

// start starts servers again and waits until they are level.
func (s *system) start(ids ...cell.ID) {
	s.t.Helper()
	ctx := limit(s.t)
	must(s.t, s.cell.Start(ctx, ids...))
	must(s.t, s.cell.Level(ctx))
}

// login opens a session as targets.conf wants it.
func (s *system) login(depth int) *initiator.Session {
	s.t.Helper()
	session, err := initiator.Login(limit(s.t), initiator.Options{
		Portal: s.target.Portal, Target: targetName, Initiator: initiatorName, User: user, Secret: secret,
		Depth: depth, Reconnect: stepTimeout,
	})
	must(s.t, err)
	s.t.Cleanup(func() { session.Close() })
	must(s.t, session.Ready(1))
	return session
}

// load is a verifying load on unit 1, which is not started yet.
func (s *system) load() *verify.Load {
	s.t.Helper()
	const depth = 16
	session := s.login(depth)
	_, blockBytes, err := session.Capacity(1)
	must(s.t, err)
	l, err := verify.New(verify.Options{Device: session, LUN: 1, BlockBytes: blockBytes,
		Blocks: 32 << 20 / verify.BlockSize, Depth: depth, IOBlocks: 8, ReadPart: 25, Streams: 1, Fresh: true})
	must(s.t, err)
	s.t.Cleanup(l.Stop)
	// A command that waits for the cell ends only with its session: on a failure that goes first.
	s.t.Cleanup(func() { session.Close() })
	return l
}

// acks waits for n more acknowledgements.
func (s *system) acks(l *verify.Load, n uint64) {
	s.t.Helper()
	must(s.t, l.WaitAcks(limit(s.t), n))
}

// judge reads everything back and ends the test if something is wrong.
func (s *system) judge(l *verify.Load) {
	s.t.Helper()
	l.Stop()
	must(s.t, errors.Join(l.ReadBack(limit(s.t)), l.Err()))
}

// all is the processes of several servers.
func (s *system) all(ids ...cell.ID) []*rig.Process {
	var ps []*rig.Process
	for _, id := range slices.Compact(ids) {
		ps = append(ps, s.cell.Server(id))
	}
	return ps
}

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/packaging/rig"
)

// quickstart is the program, or leaves the test out.
func quickstart(t *testing.T) (program, bin string) {
	t.Helper()
	bin = filepath.Dir(suite.programs.Tgtd)
	program = filepath.Join(bin, "quickstart")
	if _, err := os.Stat(program); err != nil {
		leaveOut(t, "E2E_BIN has no quickstart")
	}
	t.Chdir("../..")
	return program, bin
}

func checkOutput(t *testing.T, out string) {
	t.Helper()
	for _, want := range []string{"Killed the master", "and 0 errors", "are there and right", "Backing store path: vol001", "iscsiadm"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

// TestQuickstart runs the quick start to its end, twice in one folder: the second time it finds its data.
func TestQuickstart(t *testing.T) {
	program, bin := quickstart(t)
	dir := filepath.Join(tempDir(t), "a-folder-with-a-long-name", strings.Repeat("x", 80))
	for range 2 {
		out, err := rig.Run(limit(t), []string{"ONCE=1", "BIN=" + bin, "DIR=" + dir}, program)
		must(t, err)
		checkOutput(t, out)
	}
}

// TestQuickstartInterrupted runs it as nobody, presses Ctrl-C, and finds nothing left over.
func TestQuickstartInterrupted(t *testing.T) {
	program, bin := quickstart(t)
	tmp := tempDir(t)
	args := []string{program}
	if os.Geteuid() == 0 {
		const nobody = "65534"
		must(t, os.Chown(tmp, 65534, 65534))
		args = append([]string{tool(t, "setpriv", "util-linux"), "--reuid", nobody, "--regid", nobody, "--clear-groups"}, args...)
	}
	p := rig.NewProcess(rig.Command{Name: "quickstart", Program: args[0], Args: args[1:],
		Env: []string{"ONCE=", "DIR=", "BIN=" + bin, "TMPDIR=" + tmp}, Log: filepath.Join(tempDir(t), "log")})
	t.Cleanup(p.Close)
	must(t, p.Start())
	const ready = "press Ctrl-C"
	ctx := limit(t)
	for !strings.Contains(p.Tail(100), ready) {
		must(t, p.Failed())
		must(t, ctx.Err())
		time.Sleep(10 * time.Millisecond)
	}
	must(t, p.Signal(syscall.SIGINT))
	select {
	case <-p.Exited():
	case <-ctx.Done():
		t.Fatalf("it does not end: %s", p.Tail(100))
	}
	if how := p.Failed().Error(); !strings.Contains(how, "exit status 0") {
		t.Error(how)
	}
	checkOutput(t, p.Tail(100))
	left, err := os.ReadDir(tmp)
	must(t, err)
	if len(left) > 0 {
		t.Errorf("%v is left over", left)
	}
}

// TestQuickstartErrors has it fail, with a text that helps.
func TestQuickstartErrors(t *testing.T) {
	program, bin := quickstart(t)
	_, err := rig.Run(limit(t), []string{"ONCE=1", "BIN=" + t.TempDir()}, program)
	if err == nil || !strings.Contains(err.Error(), "make build") {
		t.Errorf("without programs: %v", err)
	}
	broken := t.TempDir()
	for _, name := range []string{"createISCSIVol", "tgtd", "tgtadm", "tgt-admin"} {
		must(t, os.Symlink(filepath.Join(bin, name), filepath.Join(broken, name)))
	}
	must(t, os.WriteFile(filepath.Join(broken, "PFSserver"), []byte("#!/bin/sh\necho the disk is broken\nexit 4\n"), 0o755))
	_, err = rig.Run(limit(t), []string{"ONCE=1", "BIN=" + broken}, program)
	if err == nil || !strings.Contains(err.Error(), "exit status 4") || !strings.Contains(err.Error(), "the disk is broken") {
		t.Errorf("with a server that ends: %v", err)
	}
	t.Chdir(t.TempDir())
	_, err = rig.Run(limit(t), []string{"ONCE=1", "BIN=" + bin}, program)
	if err == nil || !strings.Contains(err.Error(), "make run") {
		t.Errorf("in another folder: %v", err)
	}
}

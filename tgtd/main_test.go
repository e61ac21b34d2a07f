package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/paxos-iscsi/paxos-iscsi/pss/metrics"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/mgmt"
)

// asProgram makes the test binary the daemon itself.
const asProgram = "TGTD_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if path := os.Getenv(goldenEnv); path != "" {
		// What this process ignores its children ignore as well, and whoever ran the tests may have
		// ignored these (nohup does). Signals that are caught have their default action after exec.
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP, syscall.SIGINT)
		os.Exit(playInside(path))
	}
	if os.Getenv(asProgram) != "" {
		main()
	}
	if os.Getenv(asActivated) != "" {
		os.Exit(activated())
	}
	goleak.VerifyTestMain(m)
}

// call sends a request that must be answered.
func call(t *testing.T, path string, r mgmt.Request) mgmt.Response {
	t.Helper()
	answer, err := mgmt.Call(t.Context(), path, r)
	if err != nil {
		t.Fatalf("%v %v: %v", r.Op, r.Mode, err)
	}
	return answer
}

// lockedBuffer is written to by the log's goroutine and by the daemon itself.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestRun runs the daemon in this process, from its start to its orderly end; goleak sees that nothing is left.
func TestRun(t *testing.T) {
	base := filepath.Join(t.TempDir(), "s")
	t.Setenv(mgmt.BaseEnv, base)
	var complaints lockedBuffer
	o := options{foreground: true, controlPort: 5, threads: 2, metrics: metrics.Off, iscsi: driverOptions{portals: []string{"127.0.0.1:0"}}}
	status := make(chan int)
	go func() { status <- run(o, &complaints, nil) }()
	path := base + ".5"
	if !until(func() bool { _, err := os.Stat(path); return err == nil }) {
		t.Fatal("no management socket")
	}
	portals := call(t, path, mgmt.Request{Mode: mgmt.ModePortal, Op: mgmt.OpShow})
	if !strings.HasPrefix(portals.Text, "Portal: 127.0.0.1:") {
		t.Errorf("portals: %+v", portals)
	}
	newTarget := mgmt.Request{Mode: mgmt.ModeTarget, Op: mgmt.OpNew, TID: 1, Params: "targetname=iqn.x:a"}
	unit := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(unit, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, r := range []mgmt.Request{
		newTarget,
		{Mode: mgmt.ModeUnit, Op: mgmt.OpNew, TID: 1, LUN: 1, Params: "path=" + unit},
	} {
		if a := call(t, path, r); a.Err != mgmt.Success {
			t.Errorf("%v %v: %v", r.Op, r.Mode, a.Err)
		}
	}
	stop := mgmt.Request{Mode: mgmt.ModeSystem, Op: mgmt.OpDelete}
	if a := call(t, path, stop); a.Err != mgmt.ErrInvalid {
		t.Errorf("stop with a target: %v", a.Err)
	}
	call(t, path, mgmt.Request{Mode: mgmt.ModeTarget, Op: mgmt.OpDelete, TID: 1})
	if a := call(t, path, stop); a.Err != mgmt.Success {
		t.Errorf("stop: %v", a.Err)
	}
	if s := <-status; s != 0 {
		t.Errorf("status %d\n%s", s, complaints.String())
	}
	if _, err := mgmt.Call(t.Context(), path, stop); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("after the end: %v, want a socket that refuses", err)
	}
}

func TestRunRefusals(t *testing.T) {
	for base, want := range map[string]string{
		"/nonexistent/dir/s":           "(null): ipc_init(0) failed to open lock file for management IPC\n",
		"/" + strings.Repeat("a", 107): "(null): ipc_init(0) managment path too long: /" + strings.Repeat("a", 107) + ".0\n",
	} {
		t.Setenv(mgmt.BaseEnv, base)
		var complaints lockedBuffer
		if status := run(options{foreground: true}, &complaints, nil); status != 1 || complaints.String() != want {
			t.Errorf("%s: status %d, %q", base, status, complaints.String())
		}
	}
}

// TestBackground starts the daemon as users do: the command returns when the daemon serves, and a second
// one says why it can't start.
func TestBackground(t *testing.T) {
	dir := t.TempDir()
	pidFile, path := filepath.Join(dir, "pid"), filepath.Join(dir, "s.0")
	command := func() (*exec.Cmd, *bytes.Buffer) {
		cmd := exec.Command(os.Args[0], "--pid-file", pidFile, "--metrics", "off", "--iscsi", "portal=127.0.0.1:0")
		cmd.Env = append(os.Environ(), asProgram+"=1", mgmt.BaseEnv+"="+filepath.Join(dir, "s"))
		var complaints bytes.Buffer
		cmd.Stderr = &complaints
		return cmd, &complaints
	}
	first, complaints := command()
	if err := first.Run(); err != nil {
		t.Fatalf("%v\n%s", err, complaints)
	}
	t.Cleanup(func() { // should the test fail before the daemon has ended
		if pid, err := os.ReadFile(pidFile); err == nil {
			if n, err := strconv.Atoi(string(pid)); err == nil {
				syscall.Kill(n, syscall.SIGKILL)
			}
		}
	})
	if complaints.Len() != 0 {
		t.Errorf("complaints: %s", complaints)
	}
	call(t, path, mgmt.Request{Mode: mgmt.ModeSystem, Op: mgmt.OpShow}) // at once
	text, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(string(text)) // no newline
	if err != nil || pid == first.Process.Pid {
		t.Errorf("pid file %q, %v", text, err)
	}
	if cwd, err := os.Readlink("/proc/" + string(text) + "/cwd"); err != nil || cwd != "/" {
		t.Errorf("the daemon is in %q, %v", cwd, err)
	}

	second, complaints := command()
	err = second.Run()
	if second.ProcessState.ExitCode() != 1 || !strings.Contains(complaints.String(), "another tgtd is using "+path+".lock") {
		t.Errorf("second daemon: %v\n%s", err, complaints)
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil { // ignored
		t.Error(err)
	}
	if a := call(t, path, mgmt.Request{Mode: mgmt.ModeSystem, Op: mgmt.OpDelete}); a.Err != mgmt.Success {
		t.Errorf("stop: %v", a.Err)
	}
	gone := func() bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) || zombie(pid) }
	if !until(gone) {
		t.Errorf("process %d lives on", pid)
	}
	if _, err := os.Stat(pidFile); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("pid file: %v", err)
	}
}

// zombie says whether a process has ended and nobody asks how: where process 1 does not.
func zombie(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && bytes.Contains(b, []byte(") Z "))
}

// until waits for a condition; it is false after the limit.
func until(condition func() bool) bool {
	for end := time.Now().Add(commandLimit / 2); ; time.Sleep(20 * time.Millisecond) {
		if condition() {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}

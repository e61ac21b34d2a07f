package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
	"github.com/paxos-iscsi/paxos-iscsi/pss/psstest/port"
)

// patience bounds what a test waits for; nothing is expected to take so long.
const patience = 60 * time.Second

// binary builds PFSserver once for all tests.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "pfsserver")
	if err != nil {
		return "", err
	}
	name := filepath.Join(dir, "PFSserver")
	if out, err := exec.Command("go", "build", "-o", name, ".").CombinedOutput(); err != nil {
		return "", fmt.Errorf("building: %w: %s", err, out)
	}
	return name, nil
})

// removeBinary removes what binary built.
func removeBinary() {
	if name, err := binary(); err == nil {
		os.RemoveAll(filepath.Dir(name))
	}
}

// site is a server.conf with three servers, of which tests start the first.
type site struct {
	t    *testing.T
	conf string
	root string
	tcp  int
}

func newSite(t *testing.T) *site {
	t.Helper()
	dir := t.TempDir()
	s := &site{t: t, conf: filepath.Join(dir, "server.conf"), root: filepath.Join(dir, "PFS-0")}
	var text strings.Builder
	ports, err := port.Free(6)
	check(t, err)
	for id := range 3 {
		fmt.Fprintf(&text, "%d %s %d %d %s\n", id, port.Host, ports[2*id], ports[2*id+1], dir)
	}
	s.tcp = ports[1]
	check(t, os.WriteFile(s.conf, []byte(text.String()), 0o600))
	return s
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (s *site) command(args ...string) *exec.Cmd {
	s.t.Helper()
	name, err := binary()
	check(s.t, err)
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), cell.EnvFile+"="+s.conf)
	return cmd
}

// run runs PFSserver to its end and returns its exit status and what it complained of.
func (s *site) run(args ...string) (int, string) {
	s.t.Helper()
	cmd := s.command(args...)
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), complaints.String()
}

// pid is the process that holds the root.
func (s *site) pid() int {
	s.t.Helper()
	b, err := os.ReadFile(filepath.Join(s.root, "lock"))
	check(s.t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	check(s.t, err)
	return pid
}

// ended waits until nobody holds the root.
func (s *site) ended() {
	s.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		l, err := disk.Lock(s.root)
		if err == nil {
			check(s.t, l.Close())
			return
		}
		if !errors.Is(err, disk.ErrLocked) || time.Now().After(end) {
			s.t.Fatal(err)
		}
	}
}

func TestMistakesOnTheCommandLine(t *testing.T) {
	s := newSite(t)
	for _, c := range []struct {
		args   []string
		status int
		words  string
	}{
		{nil, exitUsage, "no ID: want PFSserver"},
		{[]string{"0", "/a", "/b"}, exitUsage, `"/b" is no way to start a server`},
		{[]string{"8"}, exitUsage, `id "8": ids are 0 to 7`},
		{[]string{"zero"}, exitUsage, `id "zero"`},
		{[]string{"--frobnicate", "0"}, exitUsage, "frobnicate"},
		{[]string{"--conf"}, exitUsage, "conf"},
		{[]string{"--catch-up-floor", "0", "0"}, exitUsage, "--catch-up-floor 0: 1 to"},
		{[]string{"--catch-up-rate", "x", "0"}, exitUsage, "catch-up-rate"},
		{[]string{"--conf", "/nowhere/server.conf", "0"}, exitFailed, "/nowhere/server.conf: no such file or directory"},
		{[]string{"5"}, exitFailed, s.conf + " has no record of server 5"},
		{[]string{"--foreground", "0", "/nowhere/root"}, exitFailed, "/nowhere/root: no such file or directory"},
		{[]string{"0", "/nowhere/root"}, exitFailed, "/nowhere/root: no such file or directory"},
	} {
		status, words := s.run(c.args...)
		if status != c.status || !strings.HasPrefix(words, "PFSserver: ") || !strings.Contains(words, c.words) {
			t.Errorf("%q: status %d, %q", c.args, status, words)
		}
	}
	check(t, os.WriteFile(s.conf, []byte("0 here\n"), 0o600))
	if status, words := s.run("0"); status != exitFailed || !strings.Contains(words, s.conf+":1: ") {
		t.Errorf("a bad server.conf: status %d, %q", status, words)
	}
}

func TestBackground(t *testing.T) {
	s := newSite(t)
	if status, words := s.run("0"); status != 0 || words != "" {
		t.Fatalf("status %d, %q", status, words)
	}
	pid := s.pid()
	defer func() {
		if t.Failed() && pid > 0 {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may be there still
		}
	}()
	// It serves by the time the command ends.
	nc, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.tcp))
	check(t, err)
	nc.Close()

	status, words := s.run("0")
	if want := fmt.Sprintf("%s: the folder is in use by process %d (PFSserver)", s.root, pid); status != exitFailed ||
		!strings.Contains(words, want) {
		t.Errorf("a second one: status %d, %q", status, words)
	}
	if status, words := s.run("--foreground", "0", t.TempDir()); status != exitFailed ||
		!strings.Contains(words, "TCP port of clients and peers") {
		t.Errorf("one with another root: status %d, %q", status, words)
	}

	check(t, syscall.Kill(pid, syscall.SIGTERM))
	s.ended()
	pid = 0
	if status, words := s.run("0"); status != 0 {
		t.Fatalf("started again: status %d, %q", status, words)
	}
	pid = s.pid()
	check(t, syscall.Kill(pid, syscall.SIGTERM))
	s.ended()
}

func TestBackgroundThatCanNotStart(t *testing.T) {
	s := newSite(t)
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", s.tcp))
	check(t, err)
	defer l.Close()
	if status, words := s.run("0"); status != exitFailed || !strings.Contains(words, "address already in use") {
		t.Fatalf("status %d, %q", status, words)
	}
	s.ended()
}

func TestForegroundEndsWithASignal(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		s := newSite(t)
		cmd := s.command("--foreground", "0")
		out, err := cmd.StderrPipe()
		check(t, err)
		check(t, cmd.Start())
		said := make([]byte, 0, 4096)
		for !bytes.Contains(said, []byte("server runs")) {
			n, err := out.Read(said[len(said):cap(said)])
			check(t, err)
			said = said[:len(said)+n]
		}
		check(t, cmd.Process.Signal(sig))
		if err := cmd.Wait(); err != nil {
			t.Fatalf("%v: %v", sig, err)
		}
		s.ended()
	}
}

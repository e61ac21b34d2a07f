package rig

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func shell(t *testing.T, script string) *Process {
	t.Helper()
	p := NewProcess(Command{Name: "a shell", Program: "/bin/sh", Args: []string{"-c", script}, Env: []string{"WORD=hello"},
		Log: filepath.Join(t.TempDir(), "log")})
	t.Cleanup(p.Close)
	return p
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// waitFor waits until a process has written a text to its log.
func waitFor(t *testing.T, p *Process, text string) {
	t.Helper()
	for !strings.Contains(p.Tail(100), text) {
		if t.Context().Err() != nil {
			t.Fatalf("no %q: %s", text, p.Tail(100))
		}
		time.Sleep(time.Millisecond)
	}
}

func TestProcess(t *testing.T) {
	p := shell(t, `echo "$WORD $$"; exec sleep 1000`)
	if p.Running() || p.Kill() == nil || p.Freeze() == nil {
		t.Error("a process that was not started takes signals")
	}
	must(t, p.Start())
	if err := p.Start(); err == nil {
		t.Error("a process that runs is started again")
	}
	waitFor(t, p, "hello")
	if p.Failed() != nil || !p.Responsive() || p.Killed() {
		t.Error("a running process has failed, is frozen or was killed")
	}
	must(t, p.Freeze())
	if p.Responsive() || !p.Running() {
		t.Error("a frozen process runs and does not respond")
	}
	must(t, p.Thaw())
	if !p.Responsive() {
		t.Error("a thawed process responds")
	}
	first := p.PID()
	must(t, p.Freeze())
	must(t, p.Kill()) // frozen or not
	if p.Running() || !p.Killed() {
		t.Error("it was killed")
	}
	if err := p.Failed(); err == nil || !strings.Contains(err.Error(), "signal: killed") || !strings.Contains(err.Error(), "hello") {
		t.Errorf("how it ended: %v", err)
	}
	must(t, p.Start())
	if p.PID() == first || p.Killed() || !p.Responsive() {
		t.Error("it was started anew")
	}
	must(t, KillAll(p))
	if KillAll(p) == nil {
		t.Error("a process that is gone is killed again")
	}
}

func TestProcessThatEnds(t *testing.T) {
	p := shell(t, `i=0; while [ $i -lt 30 ]; do i=$((i+1)); echo line $i; done; exit 3`)
	must(t, p.Start())
	<-p.Exited()
	err := p.Failed()
	if err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "line 30") ||
		strings.Contains(err.Error(), "line 20\n") {
		t.Errorf("%v; want the status and the last ten lines", err)
	}
	if p.Killed() {
		t.Error("it ended by itself")
	}
	bad := NewProcess(Command{Name: "nothing", Program: "/no/such/program", Log: filepath.Join(t.TempDir(), "log")})
	if err := bad.Start(); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "start nothing") {
		t.Errorf("%v", err)
	}
}

// TestCPU has a process use up some processor time.
func TestCPU(t *testing.T) {
	p := shell(t, `while :; do :; done`)
	must(t, p.Start())
	for {
		d, err := CPU(p)
		must(t, err)
		if d > 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	must(t, p.Kill())
	after, err := p.CPU()
	must(t, err)
	if after <= 0 {
		t.Errorf("the time of a process that is gone is %v", after)
	}
	must(t, p.Start())
	if more, err := p.CPU(); err != nil || more < after {
		t.Errorf("started again it has %v, after %v: %v", more, after, err)
	}
}

func TestRun(t *testing.T) {
	out, err := Run(t.Context(), []string{"WORD=x"}, "/bin/sh", "-c", "echo out $WORD; echo err >&2")
	if out != "out x\n" || err != nil {
		t.Errorf("%q, %v", out, err)
	}
	var exit *ExitError
	out, err = Run(t.Context(), nil, "/bin/sh", "-c", "echo out; echo err >&2; exit 7")
	if out != "out\n" || !errors.As(err, &exit) || exit.Status != 7 || !strings.Contains(exit.Output, "out") || !strings.Contains(err.Error(), "err") {
		t.Errorf("%q, %v", out, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = Run(ctx, nil, "sleep", "1000"); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err = Run(t.Context(), nil, "/no/such/program"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestFind(t *testing.T) {
	dir := t.TempDir()
	if _, err := Find(dir); err == nil || !strings.Contains(err.Error(), "PFSserver, createISCSIVol, tgtd, tgtadm, tgt-admin") {
		t.Errorf("%v; want all names", err)
	}
}

func TestPorts(t *testing.T) {
	l, err := net.Listen("tcp", Host+":0")
	must(t, err)
	defer l.Close()
	taken := l.Addr().(*net.TCPAddr).Port
	port, err := FreePort(taken)
	if err != nil || port == taken {
		t.Errorf("port %d, %v; %d is taken", port, err, taken)
	}
}

// TestCell makes a cell of processes that are no servers: what is said when one does not come up.
func TestCell(t *testing.T) {
	dir := t.TempDir()
	fake := filepath.Join(dir, "fake")
	must(t, os.WriteFile(fake, []byte("#!/bin/sh\necho \"no disk: $*\"\nexit 1\n"), 0o755))
	c, err := NewCell(dir, Programs{PFSserver: fake, CreateISCSIVol: "/bin/false"}, Servers(3, 1))
	must(t, err)
	defer c.Close()
	conf, err := cell.Load(c.Conf)
	must(t, err)
	if len(conf.Core()) != 3 || len(conf.Replicas()) != 1 || len(c.Processes()) != 4 {
		t.Errorf("%d core servers, %d replicas", len(conf.Core()), len(conf.Replicas()))
	}
	for _, s := range conf.Servers {
		if s.TCPPort != s.UDPPort+10 || s.Host != Host {
			t.Errorf("server %d is at %s UDP %d TCP %d", s.ID, s.Host, s.UDPPort, s.TCPPort)
		}
	}
	if err := c.StartAll(t.Context()); err == nil || !strings.Contains(err.Error(), "no disk: --foreground --metrics off --conf "+c.Conf) {
		t.Errorf("%v; want the server's log", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.CreateVolume(ctx, "v", "1G"); err == nil {
		t.Error("createISCSIVol that fails made a volume")
	}
	if _, err := c.Status(7); err == nil {
		t.Error("a server that the cell does not have answers")
	}
}

// TestTarget has a daemon that does not come up, in a folder with a long name.
func TestTarget(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("x", 100))
	must(t, os.Mkdir(dir, 0o755))
	fake := filepath.Join(dir, "fake")
	must(t, os.WriteFile(fake, []byte("#!/bin/sh\necho \"no port: $* $PSS_CONF\"\nexit 1\n"), 0o755))
	target, err := NewTarget(TargetOptions{Dir: dir, Programs: Programs{Tgtd: fake, Tgtadm: "/bin/false"}, Conf: "/the/conf", Args: []string{"-d", "1"}})
	must(t, err)
	if len(target.Socket) > maxSocketBase {
		t.Errorf("socket %s", target.Socket)
	}
	want := "no port: -f --metrics off --iscsi portal=" + target.Portal + " -d 1 /the/conf"
	if err := target.Start(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v; want %q", err, want)
	}
	target.Close()
	if _, err := os.Stat(filepath.Dir(target.Socket)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket's folder stays: %v", err)
	}
}

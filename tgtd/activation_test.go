package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/initiator"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/mgmt"
)

// asActivated makes the test binary what systemd starts: the daemon, with the socket that was handed over.
const asActivated = "TGTD_TEST_AS_ACTIVATED"

// activated does what systemd does between fork and exec: LISTEN_PID names the process that the sockets are for.
func activated() int {
	os.Unsetenv(asActivated)
	os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid()))
	os.Setenv(asProgram, "1")
	err := syscall.Exec("/proc/self/exe", os.Args, os.Environ())
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// TestSocketActivation restarts the daemon behind a socket that stays open: an initiator that comes between the two
// is not refused, but waits for the second.
func TestSocketActivation(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	socket, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	base := filepath.Join(t.TempDir(), "s")
	start := func() *exec.Cmd {
		cmd := exec.Command(os.Args[0], "-f", "--metrics", "off")
		cmd.Env = append(os.Environ(), asActivated+"=1", "LISTEN_FDS=1", mgmt.BaseEnv+"="+base)
		cmd.ExtraFiles = []*os.File{socket}
		var complaints strings.Builder
		cmd.Stderr = &complaints
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if cmd.ProcessState == nil {
				cmd.Process.Kill()
				cmd.Wait()
			}
			if t.Failed() {
				t.Log(complaints.String())
			}
		})
		if !until(func() bool {
			_, err := mgmt.Call(t.Context(), base+".0", mgmt.Request{Mode: mgmt.ModeSystem, Op: mgmt.OpShow})
			return err == nil
		}) {
			t.Fatal("the daemon does not serve")
		}
		portals := call(t, base+".0", mgmt.Request{Mode: mgmt.ModePortal, Op: mgmt.OpShow})
		if want := "Portal: " + l.Addr().String() + ",1\n"; portals.Text != want {
			t.Errorf("portals %q, want %q", portals.Text, want)
		}
		return cmd
	}
	stop := func(cmd *exec.Cmd) {
		if a := call(t, base+".0", mgmt.Request{Mode: mgmt.ModeSystem, Op: mgmt.OpDelete}); a.Err != mgmt.Success {
			t.Errorf("stop: %v", a.Err)
		}
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	stop(start())

	found := make(chan error, 1)
	var targets []initiator.Found
	go func() {
		var err error
		targets, err = initiator.Discover(t.Context(), initiator.Options{Portal: l.Addr().String(), Initiator: "iqn.x:i"})
		found <- err
	}()
	// With a target before the portal is served the second daemon would take the connection at once; without one it
	// hangs up on whoever comes, as tgt does. So what is shown is that the connection was kept, not refused.
	second := start()
	if err := <-found; err == nil || strings.Contains(err.Error(), "refused") {
		t.Errorf("discovery between two daemons: %v, %v", targets, err)
	}
	if a := call(t, base+".0", mgmt.Request{Mode: mgmt.ModeTarget, Op: mgmt.OpNew, TID: 1, Params: "targetname=iqn.x:a"}); a.Err != mgmt.Success {
		t.Error(a.Err)
	}
	if a := call(t, base+".0", mgmt.Request{Mode: mgmt.ModeTarget, Op: mgmt.OpBind, TID: 1, Params: "initiator-address=ALL"}); a.Err != mgmt.Success {
		t.Error(a.Err)
	}
	targets, err = initiator.Discover(t.Context(), initiator.Options{Portal: l.Addr().String(), Initiator: "iqn.x:i"})
	if err != nil || len(targets) != 1 || targets[0].Name != "iqn.x:a" {
		t.Errorf("discovery at the second daemon: %v, %v", targets, err)
	}
	call(t, base+".0", mgmt.Request{Mode: mgmt.ModeTarget, Op: mgmt.OpDelete, TID: 1})
	stop(second)
}

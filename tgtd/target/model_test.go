package target

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/mgmt"
)

func TestDeleteTargetWithSessions(t *testing.T) {
	b := newBench(t, nil)
	must(t, b.NewTarget(1, "iqn.x:a"))
	must(t, b.NewUnit(1, 1, UnitSpec{Store: "null", Path: "x"}))
	must(t, b.BindHost(1, 3))
	b.transport.login(1, 1, 0)
	wantErrno(t, "with a session", b.DeleteTarget(1, false), mgmt.ErrTargetActive)
	if text, _ := b.ShowConnections(1); !strings.Contains(text, "Session: 1\n") {
		t.Errorf("a refused deletion closed the session: %q", text)
	}
	refused := false
	b.transport.closing = func() {
		refused = refused || b.Admit("iqn.x:a", "iqn.q:i", peer4, here).Status == iscsi.TargetNotFound
		b.ShowTargets() // must not wait
	}
	must(t, b.DeleteTarget(1, true))
	if !refused {
		t.Error("a target that was being deleted let an initiator in")
	}
	wantErrno(t, "deleted twice", b.DeleteTarget(1, true), mgmt.ErrNoTarget)
	must(t, b.NewTarget(2, "iqn.x:a"))
	must(t, b.BindHost(2, 3)) // the binding of the deleted target is gone
}

// A failed forced deletion leaves a target that lets initiators in again.
func TestForcedDeleteThatFails(t *testing.T) {
	b := newBench(t, nil)
	must(t, b.NewTarget(1, "iqn.x:a"))
	must(t, b.Bind(1, Rule{Address: "ALL", HasAddress: true}))
	b.transport.login(1, 1, 0)
	b.Model.transport = stubbornTransport{b.transport}
	wantErrno(t, "a session that stays", b.DeleteTarget(1, true), mgmt.ErrTargetActive)
	if a := b.Admit("iqn.x:a", "iqn.q:i", peer4, here); a.Status != iscsi.LoginSuccess {
		t.Errorf("after the failure: login %v", a.Status)
	}
}

// stubbornTransport keeps its sessions.
type stubbornTransport struct{ *fakeTransport }

func (stubbornTransport) CloseTarget(int) {}

func TestWaitingOpenHoldsUpNobody(t *testing.T) {
	b := newBench(t, nil)
	must(t, b.NewTarget(1, "iqn.x:a"))
	must(t, b.Bind(1, Rule{Address: "ALL", HasAddress: true}))
	made := make(chan error, 1)
	go func() { made <- b.NewUnit(1, 7, UnitSpec{Store: "slow", Path: "vol"}) }()
	if path := <-b.slow.entered; path != "vol" {
		t.Errorf("opened %q", path)
	}
	// All of this must go on while the store opens.
	wantErrno(t, "the same number", b.NewUnit(1, 7, UnitSpec{Store: "null", Path: "x"}), mgmt.ErrUnitExists)
	must(t, b.NewUnit(1, 8, UnitSpec{Store: "null", Path: "x"}))
	must(t, b.NewTarget(2, "iqn.x:b"))
	if text := b.ShowTargets(); strings.Contains(text, "LUN: 7") || !strings.Contains(text, "LUN: 8") {
		t.Errorf("shown meanwhile:\n%s", text)
	}
	if a := b.Admit("iqn.x:a", "iqn.q:i", peer4, here); a.Status != iscsi.LoginSuccess {
		t.Errorf("login meanwhile: %v", a.Status)
	}
	wantErrno(t, "deleting what is not there yet", b.DeleteUnit(1, 7), mgmt.ErrNoUnit)
	b.slow.release <- nil
	must(t, <-made)
	must(t, b.DeleteUnit(1, 7))
	<-b.slow.closed
}

func TestFailedOpenFreesTheNumber(t *testing.T) {
	b := newBench(t, nil)
	must(t, b.NewTarget(1, "iqn.x:a"))
	made := make(chan error, 1)
	go func() { made <- b.NewUnit(1, 7, UnitSpec{Store: "slow", Path: "vol"}) }()
	<-b.slow.entered
	unreachable := errors.New("no server of the cell answers")
	b.slow.release <- unreachable
	err := <-made
	wantErrno(t, "unreachable", err, mgmt.ErrInvalid)
	if !errors.Is(err, unreachable) || !strings.Contains(err.Error(), "vol") {
		t.Errorf("the log would not say why: %v", err)
	}
	must(t, b.NewUnit(1, 7, UnitSpec{Store: "null", Path: "x"}))
}

func TestTargetDeletedWhileAStoreOpens(t *testing.T) {
	b := newBench(t, nil)
	must(t, b.NewTarget(1, "iqn.x:a"))
	made := make(chan error, 1)
	go func() { made <- b.NewUnit(1, 7, UnitSpec{Store: "slow", Path: "vol"}) }()
	<-b.slow.entered
	must(t, b.DeleteTarget(1, false))
	must(t, b.NewTarget(1, "iqn.x:a")) // another one of the same name
	b.slow.release <- nil
	wantErrno(t, "the target is gone", <-made, mgmt.ErrNoTarget)
	<-b.slow.closed
	if text := b.ShowTargets(); strings.Contains(text, "LUN: 7") {
		t.Errorf("the unit came to the new target:\n%s", text)
	}
}

func TestPlan(t *testing.T) {
	b := newBench(t, func(o *Options) {
		for _, name := range []string{"ssc", "mmc", "sg"} {
			o.Stores.Add(backstore.Type{Name: name, Open: nil})
		}
	})
	for _, c := range []struct {
		spec  UnitSpec
		want  mgmt.Errno
		store string
		block int
		flags string
	}{
		{UnitSpec{}, mgmt.Success, "rdwr", 512, ""},
		{UnitSpec{Flags: "direct:sync", BlockSize: "4096"}, mgmt.Success, "rdwr", 4096, "sync:direct"},
		{UnitSpec{Flags: "syncxyz", BlockSize: "0x1000"}, mgmt.Success, "rdwr", 4096, "sync"},
		{UnitSpec{Flags: " direct", BlockSize: "1"}, mgmt.Success, "rdwr", 512, "direct"},
		{UnitSpec{BlockSize: "2"}, mgmt.Success, "rdwr", 2, ""},
		{UnitSpec{BlockSize: "-512"}, mgmt.Success, "rdwr", 512, ""},
		{UnitSpec{BlockSize: "010"}, mgmt.Success, "rdwr", 8, ""},
		{UnitSpec{BlockSize: "99999999999999999999999"}, mgmt.Success, "rdwr", 512, ""},
		{UnitSpec{Store: "null"}, mgmt.Success, "null", 512, ""},
		{UnitSpec{Store: "NULL"}, mgmt.ErrInvalid, "", 0, ""},
		{UnitSpec{Store: "null", Flags: "sync"}, mgmt.ErrInvalid, "", 0, ""},
		{UnitSpec{Store: "ssc"}, mgmt.ErrInvalid, "", 0, ""},
		{UnitSpec{Flags: "sync:"}, mgmt.ErrInvalid, "", 0, ""},
		{UnitSpec{Device: mgmt.Tape, Store: "rdwr"}, mgmt.Success, "ssc", 512, ""},
		{UnitSpec{Device: mgmt.Tape, Flags: "sync"}, mgmt.ErrInvalid, "", 0, ""},
		{UnitSpec{Device: mgmt.CD, Flags: "sync"}, mgmt.Success, "mmc", 512, "sync"},
		{UnitSpec{Device: mgmt.Changer}, mgmt.ErrInvalid, "", 0, ""}, // without its store type
		{UnitSpec{Device: mgmt.OSD}, mgmt.Success, "rdwr", 512, ""},
		{UnitSpec{Device: mgmt.OSD, Store: "ssc"}, mgmt.ErrInvalid, "", 0, ""},
		{UnitSpec{Device: mgmt.Passthrough}, mgmt.ErrInvalid, "", 0, ""},
		{UnitSpec{Device: mgmt.Passthrough, Store: "rdwr"}, mgmt.ErrInvalid, "", 0, ""},
		{UnitSpec{Device: mgmt.Passthrough, Store: "sg"}, mgmt.Success, "sg", 512, ""},
		{UnitSpec{Store: "sg"}, mgmt.ErrInvalid, "", 0, ""},
		{UnitSpec{Device: mgmt.Controller}, mgmt.ErrInvalid, "", 0, ""},
		{UnitSpec{Device: 0x42}, mgmt.ErrInvalid, "", 0, ""},
	} {
		p, err := b.plan(c.spec)
		wantErrno(t, fmt.Sprintf("%+v", c.spec), err, c.want)
		if p.store != c.store || p.blockSize != c.block || p.flags() != c.flags {
			t.Errorf("%+v: store %q, block size %d, flags %q", c.spec, p.store, p.blockSize, p.flags())
		}
	}
}

func TestMegabytes(t *testing.T) {
	for size, want := range map[int64]int64{0: 0, 511: 0, 512 << 10: 1, 1 << 20: 1, 10 << 20: 10, 100 << 20: 105,
		1 << 30: 1074, 1 << 40: 1099512} {
		if got := megabytes(size); got != want {
			t.Errorf("%d bytes: %d MB, want %d", size, got, want)
		}
	}
}

func TestPortals(t *testing.T) {
	busy := netip.MustParseAddrPort("127.0.0.1:3270")
	b := newBench(t, func(o *Options) { o.Portals = []string{"127.0.0.1:3271", "[::1]:3272", "[::1"} })
	b.transport.refuse[busy] = errInUse
	show := func(what, want string) {
		t.Helper()
		if got := b.ShowPortals(); got != want {
			t.Errorf("%s:\n%swant\n%s", what, got, want)
		}
	}
	started := "Portal: [::1]:3272,1\nPortal: 127.0.0.1:3271,1\n"
	show("at the start", started)
	wantErrno(t, "the second is busy", b.AddPortals([]string{"127.0.0.2:1", "127.0.0.1:3270"}), mgmt.ErrInvalid)
	show("after a failure", started)
	if len(b.transport.open) != 2 {
		t.Errorf("a failed request left portals open: %v", b.transport.open)
	}
	must(t, b.AddPortals([]string{"127.0.0.2", "127.1:abc"}))
	show("added", "Portal: 127.0.0.1:50001,1\nPortal: 127.0.0.2:3260,1\n"+started)
	wantErrno(t, "one is not there", b.DeletePortals([]string{"127.0.0.2", "127.0.0.9"}), mgmt.ErrInvalid)
	must(t, b.DeletePortals([]string{"127.0.0.2", "127.0.0.1:50001", "[::1]:3272"}))
	show("deleted", "Portal: 127.0.0.1:3271,1\n")

	must(t, b.NewTarget(1, "iqn.x:a"))
	wantErrno(t, "stop with a target", b.StopDriver(), mgmt.ErrDriverBusy)
	must(t, b.DeleteTarget(1, false))
	must(t, b.StopDriver())
	show("stopped", "")
	if b.DriverReady() || len(b.transport.open) != 0 {
		t.Errorf("after the stop: ready %v, open %v", b.DriverReady(), b.transport.open)
	}
	must(t, b.StopDriver())
	b.StartDriver()
	b.StartDriver()
	show("started again", started)
}

func TestDefaultPortals(t *testing.T) {
	b := newBench(t, func(o *Options) { o.Portals = []string{"[::1", "127.0.0.1:99999"} })
	if got, want := b.ShowPortals(), "Portal: [::]:3260,1\nPortal: 0.0.0.0:3260,1\n"; got != want {
		t.Errorf("no portal could be opened, so the default ones should be; got\n%s", got)
	}
}

func TestParsePortal(t *testing.T) {
	for _, c := range []struct {
		text, host string
		port       uint16
		ok         bool
	}{
		{"1.2.3.4", "1.2.3.4", 3260, true}, {"1.2.3.4:5", "1.2.3.4", 5, true}, {"h:0", "h", 0, true},
		{"h:", "h", 0, true}, {"h:abc", "h", 0, true}, {"h:12x", "h", 12, true}, {"h:65535", "h", 65535, true},
		{"h:65536", "", 0, false}, {"h:-1", "", 0, false}, {"h:99999999999999999999", "", 0, false},
		{"[::1]", "::1", 3260, true}, {"[::1]:7", "::1", 7, true}, {"[::1]x", "", 0, false}, {"[::1", "", 0, false},
		{"::1", "::1", 3260, true}, {"1:2:3", "", 0, false}, {"", "", 0, false}, {":3260", "", 0, false},
		{"[]:1", "", 0, false},
	} {
		host, port, err := parsePortal(c.text)
		if host != c.host || port != c.port || (err == nil) != c.ok {
			t.Errorf("%q: %q %d %v", c.text, host, port, err)
		}
		if err != nil {
			wantErrno(t, c.text, err, mgmt.ErrInvalid)
		}
	}
}

func TestStat(t *testing.T) {
	b := newBench(t, nil)
	must(t, b.NewTarget(1, "iqn.x:a"))
	must(t, b.NewUnit(1, 2, UnitSpec{Store: "null", Path: "x"}))
	b.transport.login(1, 1, 0, 3)
	b.transport.login(1, 2, 0)
	const zeros = "           0      0            0      0            0      0            0      0    0\n"
	want := unitStatHead + "  1   0   1 " + zeros + "  1   0   2 " + zeros + "  1   2   1 " + zeros + "  1   2   2 " + zeros
	if got := b.StatSystem(); got != want {
		t.Errorf("system:\n%swant\n%s", got, want)
	}
	if got, err := b.StatTarget(1); got != want || err != nil {
		t.Errorf("target:\n%s%v", got, err)
	}
	got, err := b.StatSession(1)
	want = unitStatHead + "  1   2   1 " + zeros + "  1   0   1 " + zeros + "\n" + connStatHead +
		"  1   3          2540          4628            0           0        6        0\n" +
		"  1   0          2540          4628            0           0        6        0\n"
	if got != want || err != nil {
		t.Errorf("session:\n%swant\n%s%v", got, want, err)
	}
	if got, err := b.StatUnit(1, 2, 2); got != unitStatHead+"  1   2   2 "+zeros || err != nil {
		t.Errorf("unit of a session:\n%s%v", got, err)
	}
	got, err = b.ShowConnections(1)
	const conn = "    Connection: %d\n        Initiator: iqn.2000-01.probe:i\n        IP Address: 10.0.0.1\n"
	want = fmt.Sprintf("Session: 2\n"+conn+"Session: 1\n"+conn+"Session: 1\n"+conn, 0, 3, 0)
	if got != want || err != nil {
		t.Errorf("connections:\n%swant\n%s%v", got, want, err)
	}
	for what, c := range map[string]struct {
		err  error
		want mgmt.Errno
	}{
		"no such session":             {second(b.StatSession(9)), mgmt.ErrNoSession},
		"no such connection":          {second(b.StatConnection(1, 9)), mgmt.ErrNoConnection},
		"no such connection to close": {b.CloseConnection(1, 1, 9), mgmt.ErrNoConnection},
		"no such session to close":    {b.CloseConnection(1, 9, 0), mgmt.ErrNoSession},
		"no such target to close":     {b.CloseConnection(9, 1, 0), mgmt.ErrNoTarget},
		"closed":                      {b.CloseConnection(1, 1, 3), mgmt.Success},
	} {
		wantErrno(t, what, c.err, c.want)
	}
	if got, _ := b.StatConnection(1, 3); got != "" {
		t.Errorf("the closed connection is still there: %s", got)
	}
}

func second(_ string, err error) error { return err }

// TestNopDefaults: those of the daemon's command line hold for targets made by tgtadm.
func TestNopDefaults(t *testing.T) {
	b := newBench(t, func(o *Options) { o.NopInterval, o.NopCount = 30, 6 })
	must(t, b.NewTarget(1, "iqn.x:a"))
	if text := b.ShowTargets(); !strings.Contains(text, "        Nop interval: 30\n        Nop count: 6\n") {
		t.Error(text)
	}
}

func TestRedirectCallback(t *testing.T) {
	b := newBench(t, nil)
	must(t, b.NewTarget(1, "iqn.x:a"))
	must(t, b.Bind(1, Rule{Address: "ALL", HasAddress: true}))
	dir := t.TempDir()
	for _, c := range []struct {
		name, script string
		status       iscsi.LoginStatus
		redirect     string
	}{
		{"good", `[ "$*" = "iqn.x:a 10.0.0.1" ] && echo 10.0.0.7:3261:Temporary`, iscsi.TargetMovedTemp, "10.0.0.7:3261"},
		{"IPv6", "echo [fe80::7]:3261:Permanent", iscsi.TargetMovedPerm, "[fe80::7]:3261"},
		{"here already", "echo 10.0.0.9:3260:Permanent", iscsi.LoginSuccess, ""},
		{"nonsense", "echo hello", iscsi.LoginSuccess, ""},
		{"nothing", "true", iscsi.LoginSuccess, ""},
		{"failing", "echo 10.0.0.7:3261:Temporary; exit 1", iscsi.LoginSuccess, ""},
		{"talkative", "echo 10.0.0.7:3261:Temporary; head -c 1000000 /dev/zero", iscsi.TargetMovedTemp, "10.0.0.7:3261"},
		{"endless", "exec sleep 1000", iscsi.LoginSuccess, ""},
	} {
		path := filepath.Join(dir, c.name)
		must(t, os.WriteFile(path, []byte("#!/bin/sh\n"+c.script+"\n"), 0o700))
		must(t, b.SetTargetParam(1, "RedirectCallback", path))
		a := b.Admit("iqn.x:a", "iqn.q:i", peer4, here)
		if a.Status != c.status || a.Redirect != c.redirect {
			t.Errorf("%s: %v %q, want %v %q", c.name, a.Status, a.Redirect, c.status, c.redirect)
		}
	}
	must(t, b.SetTargetParam(1, "RedirectCallback", filepath.Join(dir, "missing")))
	if a := b.Admit("iqn.x:a", "iqn.q:i", peer4, here); a.Status != iscsi.LoginSuccess {
		t.Errorf("missing: %v", a.Status)
	}
}

func TestLimits(t *testing.T) {
	b := newBench(t, nil)
	must(t, b.NewTarget(1, "iqn.x:a"))
	for i := range MaxRules {
		must(t, b.Bind(1, Rule{Address: fmt.Sprint(i), HasAddress: true}))
	}
	wantErrno(t, "one rule too many", b.Bind(1, Rule{Address: "ALL", HasAddress: true}), mgmt.ErrNoMemory)
	must(t, b.Bind(1, Rule{Name: "iqn.q:i", HasName: true}))
	for i := range MaxBindings + 1 {
		must(t, b.NewAccount(fmt.Sprint("u", i), "x"))
	}
	for i := range MaxBindings {
		must(t, b.BindAccount(1, fmt.Sprint("u", i), false))
	}
	wantErrno(t, "one account too many", b.BindAccount(1, fmt.Sprint("u", MaxBindings), false), mgmt.ErrTooManyAccounts)
}

// TestConcurrency lets logins, listings and changes run at the same moment, for the race detector
// and for deadlocks; in the end the model is empty again.
func TestConcurrency(t *testing.T) {
	b := newBench(t, nil)
	var wg sync.WaitGroup
	for worker := range 4 {
		tid := worker + 1
		name := fmt.Sprintf("iqn.x:w%d", worker)
		wg.Go(func() {
			for round := range 50 {
				user := fmt.Sprintf("u%d-%d", worker, round)
				for _, err := range []error{
					b.NewTarget(tid, name),
					b.Bind(tid, Rule{Address: "ALL", HasAddress: true}),
					b.NewUnit(tid, 1, UnitSpec{Store: "null", Path: "x"}),
					b.NewAccount(user, "secret"),
					b.BindAccount(tid, user, false),
					b.UpdateUnit(tid, 1, "vendor_id=A"),
					b.DeleteAccount(user),
					b.DeleteTarget(tid, round%2 == 0),
				} {
					if err != nil {
						t.Errorf("worker %d: %v", worker, err)
					}
				}
			}
		})
		wg.Go(func() {
			for range 200 {
				if b.Welcome() {
					b.Discover(peer4, "iqn.q:i")
				}
				b.Admit(name, "iqn.q:i", peer4, here)
				b.ShowTargets()
				b.StatSystem()
			}
		})
	}
	wg.Wait()
	if text := b.ShowTargets() + b.ShowAccounts(); text != "" {
		t.Errorf("left over:\n%s", text)
	}
}

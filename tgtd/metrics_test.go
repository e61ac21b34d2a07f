package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/paxos-iscsi/paxos-iscsi/pss/psstest/port"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/initiator"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/mgmt"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/target"
)

// TestDashboards: every metric of the daemon that the alert rules and the dashboard ask for is one that it shows, and
// they ask for some.
func TestDashboards(t *testing.T) {
	descs := make(chan *prometheus.Desc, 100)
	newCollector(nil).Describe(descs)
	close(descs)
	var names []string
	for d := range descs {
		names = append(names, regexp.MustCompile(`fqName: "([a-z_]+)"`).FindStringSubmatch(d.String())[1])
	}
	for _, file := range []string{"../etc/prometheus/paxos-iscsi.rules.yml", "../etc/grafana/paxos-iscsi.json"} {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(file, ".json") && !json.Valid(b) {
			t.Errorf("%s is no JSON", file)
		}
		asked := regexp.MustCompile(`\btgtd_[a-z_]+`).FindAllString(string(b), -1)
		if len(asked) < 4 {
			t.Errorf("%s asks for %q", file, asked)
		}
		for _, name := range asked {
			if !slices.Contains(names, strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_count")) {
				t.Errorf("%s asks for %s, which the daemon does not show", file, name)
			}
		}
	}
}

// TestLoginResults: each status has a word, and each word is shown from the beginning, or a rate would miss the first.
func TestLoginResults(t *testing.T) {
	got := loginResults(&iscsi.Figures{Abandoned: 5, Logins: map[iscsi.LoginStatus]uint64{
		iscsi.LoginSuccess: 1, iscsi.TargetMovedTemp: 2, iscsi.TargetMovedPerm: 3, iscsi.AuthFailure: 4,
		iscsi.TargetNotFound: 6, iscsi.TargetRemoved: 7, iscsi.MissingParameter: 8, iscsi.ServiceUnavailable: 9,
		iscsi.TargetUnavailable: 10,
	}})
	want := map[string]uint64{"success": 1, "redirected": 5, "authentication": 4, "no_target": 13, "initiator_error": 8,
		"target_error": 19, "abandoned": 5}
	if !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	none := loginResults(&iscsi.Figures{})
	for word := range want {
		if n, ok := none[word]; !ok || n != 0 {
			t.Errorf("%s is not shown before the first", word)
		}
	}
}

// TestBesideServing: a daemon tells systemd when it is ready, that it lives and what it does, and that it ends; and it
// shows what it has done for an initiator.
func TestBesideServing(t *testing.T) {
	notify := filepath.Join(t.TempDir(), "notify")
	systemd, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notify, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer systemd.Close()
	heard := func(prefix string) {
		t.Helper()
		systemd.SetReadDeadline(time.Now().Add(commandLimit))
		b, last := make([]byte, 4096), ""
		for !strings.HasPrefix(last, prefix) {
			n, err := systemd.Read(b)
			if err != nil {
				t.Fatalf("no message %q, last %q: %v", prefix, last, err)
			}
			last = string(b[:n])
		}
	}
	ports, err := port.Free(2)
	if err != nil {
		t.Fatal(err)
	}
	address, portal := fmt.Sprintf("127.0.0.1:%d", ports[0]), fmt.Sprintf("127.0.0.1:%d", ports[1])
	base := filepath.Join(t.TempDir(), "s")
	cmd := exec.Command(os.Args[0], "-f", "--metrics", address, "--iscsi", "portal="+portal)
	cmd.Env = append(os.Environ(), asProgram+"=1", mgmt.BaseEnv+"="+base, "NOTIFY_SOCKET="+notify, "WATCHDOG_USEC=30000", "WATCHDOG_PID=")
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
	heard("READY=1")
	heard("WATCHDOG=1\nSTATUS=0 targets, 0 logical units, 0 sessions")
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(disk, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, r := range []mgmt.Request{
		{Mode: mgmt.ModeTarget, Op: mgmt.OpNew, TID: 1, Params: "targetname=iqn.x:a"},
		{Mode: mgmt.ModeTarget, Op: mgmt.OpBind, TID: 1, Params: "initiator-address=ALL"},
		{Mode: mgmt.ModeUnit, Op: mgmt.OpNew, TID: 1, LUN: 1, Params: "path=" + disk},
	} {
		if a := call(t, base+".0", r); a.Err != mgmt.Success {
			t.Fatalf("%v %v: %v", r.Op, r.Mode, a.Err)
		}
	}
	i, err := initiator.Login(t.Context(), initiator.Options{Portal: portal, Initiator: "iqn.x:i", Target: "iqn.x:a"})
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	if err := i.Ready(1); err != nil {
		t.Fatal(err)
	}
	write := initiator.Task{LUN: 1}
	write.SetWrite(0, 4, make([]byte, 2048))
	if err := i.Do(&write); err != nil {
		t.Fatal(err)
	}
	heard("WATCHDOG=1\nSTATUS=1 targets, 1 logical units, 1 sessions")
	unit := `lun="1",target="iqn.x:a",tid="1",type="rdwr"`
	wants := []string{
		`tgtd_serving 1`, `tgtd_portals 1`, `tgtd_connections 1`, `tgtd_connections_in_login 0`,
		`tgtd_target_sessions{target="iqn.x:a",tid="1"} 1`, `tgtd_logins_total{result="success"} 1`,
		`tgtd_logins_total{result="authentication"} 0`,
		`tgtd_unit_bytes_total{direction="write",` + unit + `} 2048`,
		`tgtd_unit_command_duration_seconds_count{direction="write",` + unit + `} 1`,
		`tgtd_unit_store_bytes_total{direction="write",` + unit + `} 2048`,
		`tgtd_unit_store_waiting_seconds{` + unit + `} 0`, `tgtd_unit_ready{` + unit + `} 1`,
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := client.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(r.Body)
	r.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range wants {
		if !strings.Contains(string(body), "\n"+want+"\n") {
			t.Errorf("not shown: %s", want)
		}
	}
	if t.Failed() {
		t.Logf("%s", body)
	}
	i.Close()
	for _, r := range []mgmt.Request{
		{Mode: mgmt.ModeTarget, Op: mgmt.OpDelete, TID: 1, Force: true},
		{Mode: mgmt.ModeSystem, Op: mgmt.OpDelete},
	} {
		if a := call(t, base+".0", r); a.Err != mgmt.Success {
			t.Fatalf("%v %v: %v", r.Op, r.Mode, a.Err)
		}
	}
	heard("STOPPING=1")
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// TestMetricsPortTaken: a daemon whose metrics can't be shown says so and serves data.
func TestMetricsPortTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := &memorySink{}
	m := target.New(target.Options{Transport: func(iscsi.Directory) target.Transport { return nil }})
	log := newLogger(s, false)
	defer log.close()
	serveMetrics(l.Addr().String(), m, log)()
	if len(s.lines) != 1 || !strings.Contains(s.lines[0], "no metrics are shown") {
		t.Errorf("%q", s.lines)
	}
}

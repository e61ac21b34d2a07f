package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestBadOptions(t *testing.T) {
	for _, tt := range []struct{ line, want string }{
		{"--seconds 0", "--seconds 0: "}, {"--seconds -1", "--seconds -1: "}, {"--seconds NaN", "--seconds NaN: "},
		{"--seconds x", "-seconds"}, {"--rounds 0", "--rounds 0: "}, {"--mib 1", "--mib 1: "},
		{"--only nobody", `--only "nobody" picks nothing`},
		{"--what", "-what"}, {"word", `"word": no arguments`},
	} {
		var stdout, stderr bytes.Buffer
		if status := run(t.Context(), append([]string{"bench"}, strings.Fields(tt.line)...), &stdout, &stderr); status != exitUsage {
			t.Errorf("%s: status %d", tt.line, status)
		}
		if !strings.Contains(stderr.String(), tt.want) {
			t.Errorf("%s: %q lacks %q", tt.line, stderr.String(), tt.want)
		}
	}
}

// What is wrong with a folder is said before anything is started.
func TestBadFolders(t *testing.T) {
	bin := t.TempDir()
	for _, tt := range []struct{ bin, dir, want string }{
		{filepath.Join(bin, "none"), t.TempDir(), "make build"},
		{programs(t), filepath.Join(bin, "none"), "no such file"},
		{programs(t), "a,b", "comma"},
	} {
		var stdout, stderr bytes.Buffer
		if status := run(t.Context(), []string{"bench", "--bin", tt.bin, "--dir", tt.dir}, &stdout, &stderr); status != exitFailed {
			t.Errorf("%+v: status %d", tt, status)
		}
		if !strings.Contains(stderr.String(), tt.want) {
			t.Errorf("%q lacks %q", stderr.String(), tt.want)
		}
	}
	if _, err := newLab(settings{bin: programs(t), dir: bin, bytes: 1 << 60}, []pair{{columns()[3], tests()[0]}}, t.Logf); err == nil ||
		!strings.Contains(err.Error(), "are needed") {
		t.Errorf("a disk that is too small: %v", err)
	}
}

// programs is a folder with files under the names of the programs.
func programs(t *testing.T) string {
	dir := t.TempDir()
	for _, name := range []string{"PFSserver", "createISCSIVol", "tgtd", "tgtadm", "tgt-admin"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// build compiles the programs.
func build(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, pkg := range map[string]string{"PFSserver": "pss/server", "createISCSIVol": "pssctl/createISCSIVol",
		"tgtd": "tgtd", "tgtadm": "tgtadm", "tgt-admin": "tgt-admin"} {
		cmd := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(dir, name),
			"github.com/paxos-iscsi/paxos-iscsi/"+pkg)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", name, err, out)
		}
	}
	return dir
}

// The whole program, with real servers.
func TestBench(t *testing.T) {
	bin := build(t)
	t.Run("all", func(t *testing.T) { testAll(t, bin) })
	t.Run("interrupt", func(t *testing.T) { testInterrupt(t, bin) })
	t.Run("not tgt", func(t *testing.T) { testNotTgt(t, bin) })
}

// Every store is measured and nothing stays behind. Beside the real tgt if that is installed; its absence is told.
func testAll(t *testing.T, bin string) {
	dir, err := os.MkdirTemp("/var/tmp", "bench-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	args := []string{"bench", "--bin", bin, "--dir", dir, "--seconds", "0.1", "--mib", "16",
		"--only", "*/read-d1,pss-3,our-durable/write-d32"}
	var stdout, stderr bytes.Buffer
	if status := run(t.Context(), append(args, "--json", "--rounds", "2"), &stdout, &stderr); status != 0 {
		t.Fatalf("status %d\n%s\n%s", status, stderr.String(), stdout.String())
	}
	var r report
	if err := json.Unmarshal(stdout.Bytes(), &r); err != nil {
		t.Fatalf("%v\n%s", err, stdout.String())
	}
	have := make(map[string]outcome)
	for _, o := range r.Cells {
		have[o.Target+"/"+o.Test] = o
		if o.PerSecond <= 0 || o.P50 <= 0 || o.P999 < o.P99 || o.P99 < o.P50 || o.CPU <= 0 || o.LoadCPU <= 0 ||
			len(o.Rounds) != 2 {
			t.Errorf("%+v", o)
		}
	}
	want := []string{"our-null/read-d1", "our-rdwr/read-d1", "our-durable/read-d1", "pss-5+3/read-d1", "our-durable/write-d32"}
	for _, row := range tests() {
		want = append(want, "pss-3/"+row.name)
	}
	switch {
	case len(r.LeftOut) == 0:
		want = append(want, "tgt-null/read-d1", "tgt-rdwr/read-d1", "tgt-durable/read-d1")
		if o := have["pss-3/read-d1"]; o.Against != "tgt-rdwr" || o.RateRatio <= 0 {
			t.Errorf("compared with %q: %g", o.Against, o.RateRatio)
		}
	case len(r.LeftOut) > 1 || !strings.HasPrefix(r.LeftOut[0], "tgt is left out: "):
		t.Errorf("left out: %q", r.LeftOut)
	}
	for _, cell := range want {
		if _, ok := have[cell]; !ok {
			t.Errorf("%s was not measured", cell)
		}
	}
	if len(have) != len(want) || r.IdleCores <= 0 || len(r.Floors) != 4 {
		t.Errorf("%d cells, want %d; %g cores, %d floors", len(have), len(want), r.IdleCores, len(r.Floors))
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// An interrupt ends it, with what was measured until then, and nothing stays behind.
func testInterrupt(t *testing.T, bin string) {
	dir, err := os.MkdirTemp("/var/tmp", "bench-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var stdout bytes.Buffer
	stderr := &interrupter{after: "1/4 ", cancel: cancel}
	args := []string{"bench", "--bin", bin, "--dir", dir, "--seconds", "0.1", "--mib", "16",
		"--rounds", "4", "--only", "our-null/read-d1"}
	if status := run(ctx, args, &stdout, stderr); status != exitFailed {
		t.Errorf("status %d", status)
	}
	if !strings.Contains(stderr.said.String(), "bench: interrupted") || strings.Contains(stderr.said.String(), "4/4 ") {
		t.Errorf("it goes on: %s", stderr.said.String())
	}
	if !strings.Contains(stdout.String(), "our null") {
		t.Errorf("what was measured is lost: %q", stdout.String())
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// interrupter cancels when it is written a certain text.
type interrupter struct {
	after  string
	cancel context.CancelFunc
	said   bytes.Buffer
}

func (i *interrupter) Write(b []byte) (int, error) {
	if strings.Contains(string(b), i.after) {
		i.cancel()
	}
	return i.said.Write(b)
}

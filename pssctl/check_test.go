package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/pss"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/psstest"
	"github.com/paxos-iscsi/paxos-iscsi/pssctl/console"
)

func TestCheckRoot(t *testing.T) {
	c := psstest.StartReal(t, 0, 1, 2)
	client, err := pss.Open(c.Conf, pss.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.WriteFile(t.Context(), "/file", strings.NewReader(strings.Repeat("content", 10000))); err != nil {
		t.Fatal(err)
	}
	client.Close()
	s, _ := c.Conf.Server(1)
	if _, stderr, status := pssctl(t, c, "check "+s.Root()); status != console.ExitFailed || !strings.Contains(stderr, "stop the server first") {
		t.Errorf("a server that runs: status %d, %s", status, stderr)
	}
	chunks := filepath.Join(s.Root(), "data", "*", "00", "00", "00")
	written := []string(nil)
	for tries := 1; len(written) == 0; tries++ { // the server may lag: what it has not applied is in no checkpoint
		if tries > 1000 {
			t.Fatal("no checkpoint of it writes the file")
		}
		if stdout, stderr, status := pssctl(t, c, "checkpoint 1"); status != 0 {
			t.Fatalf("%s%s", stdout, stderr)
		}
		written, _ = filepath.Glob(chunks)
	}
	c.Stop(1)
	stdout, stderr, status := pssctl(t, c, "check "+s.Root())
	if status != 0 || !strings.Contains(stdout, ": clean: checkpoint at ") {
		t.Errorf("status %d, %s%s", status, stdout, stderr)
	}
	found, err := filepath.Glob(chunks)
	if err != nil || len(found) == 0 {
		t.Fatalf("%v, no chunk", err)
	}
	f, err := os.OpenFile(found[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("rot"), 5000); err != nil {
		t.Fatal(err)
	}
	f.Close()
	stdout, _, status = pssctl(t, c, "check "+s.Root())
	if status != console.ExitFailed || !strings.Contains(stdout, "DAMAGED in 1 places") || !strings.Contains(stdout, "/00/00/00") {
		t.Errorf("status %d, %s", status, stdout)
	}
	stdout, _, status = pssctl(t, c, "check --json "+s.Root())
	if status != console.ExitFailed || !json.Valid([]byte(stdout)) || !strings.Contains(stdout, `"ok": false`) {
		t.Errorf("status %d, %s", status, stdout)
	}
	if _, _, status = pssctl(t, c, "check /nonsense"); status != console.ExitFailed {
		t.Errorf("no such root: status %d", status)
	}
}

func TestCheckCell(t *testing.T) {
	c := psstest.StartReal(t, 0, 1, 2)
	stdout, stderr, status := pssctl(t, c, "check --cell")
	if status != 0 || strings.Count(stdout, "clean") != 3 {
		t.Errorf("status %d, %s%s", status, stdout, stderr)
	}
	stdout, _, status = pssctl(t, c, "scrub status")
	if status != 0 || strings.Contains(stdout, "never") || strings.Count(stdout, "waits") != 3 {
		t.Errorf("status %d, %s", status, stdout)
	}
	for _, line := range []string{"scrub start 1", "scrub stop 1"} {
		if _, stderr, status = pssctl(t, c, line); status != 0 {
			t.Errorf("%s: status %d, %s", line, status, stderr)
		}
	}
	m := c.Master()
	c.Stop((m + 1) % 3)
	stdout, _, status = pssctl(t, c, "check --cell --json")
	if status != console.ExitFailed || !json.Valid([]byte(stdout)) || strings.Count(stdout, `"error"`) != 1 {
		t.Errorf("status %d, %s", status, stdout)
	}
	c.Stop(m)
	c.Stop((m + 2) % 3)
	if _, _, status = pssctl(t, c, "check --cell"); status != console.ExitUnreachable {
		t.Errorf("status %d", status)
	}
}

func TestKeygen(t *testing.T) {
	c := psstest.DescribeReal(t, 0, 1, 2)
	file := filepath.Join(filepath.Dir(c.File), "cell.key")
	for _, x := range []struct {
		line string
		want int
		text string
	}{
		{"keygen --roll add", console.ExitFailed, "cell.key"},
		{"keygen", 0, "Next: copy it"},
		{"keygen", console.ExitFailed, "exist"},
		{"keygen --roll use", console.ExitFailed, "the next step is to add"},
		{"keygen --roll add", 0, "--roll use"},
		{"keygen --roll use", 0, "--roll drop"},
		{"keygen --roll drop", 0, "shut out"},
		{"keygen --roll nonsense", console.ExitUsage, "add, use and drop"},
	} {
		stdout, stderr, status := pssctl(t, c, x.line)
		if status != x.want || !strings.Contains(stdout+stderr, x.text) {
			t.Errorf("%s: status %d, %s%s", x.line, status, stdout, stderr)
		}
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm()&0o077 != 0 {
		t.Errorf("%v, %v", info, err)
	}
	if conf, err := cell.Load(c.File); err != nil || conf.Auth == nil {
		t.Errorf("the key is not taken up: %v", err)
	}
}

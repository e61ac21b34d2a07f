package main

import (
	"bufio"
	"bytes"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/tgtadm/command"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/mgmt"
)

// newSetup is a run that looks for its daemon at base.
func newSetup(base string) (s *setup, out, complaints *bytes.Buffer) {
	out, complaints = &bytes.Buffer{}, &bytes.Buffer{}
	lookup := func(name string) (string, bool) { return base, name == mgmt.BaseEnv }
	return &setup{
		env:      command.Env{Stdout: out, Stderr: complaints, LookupEnv: lookup},
		in:       bufio.NewReader(strings.NewReader("")),
		program:  "setup",
		hostname: func() (string, error) { return "host", nil },
	}, out, complaints
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		args       string
		device     string
		addresses  string
		port       string
		complaints string
	}{
		{"-n a -d /dev/x 10.0.0.1 10.0.0.2", "/dev/x", "10.0.0.1 10.0.0.2", "", ""},
		{"-na -d/dev/x -C7", "/dev/x", "", "7", ""},
		{"-d x -- -y", "x", "-y", "", ""},
		{"-d $(x) ;y", "$(x)", ";y", "", ""},
		{"-xd x", "x", "", "", "setup: illegal option -- x\n"},
		{"-d", "", "", "", "setup: option requires an argument -- d\n"},
	} {
		s, _, complaints := newSetup("")
		s.parse(strings.Fields(c.args))
		port := ""
		if s.port != nil {
			port = *s.port
		}
		if s.device != c.device || !slices.Equal(s.addresses, strings.Fields(c.addresses)) || port != c.port ||
			complaints.String() != c.complaints {
			t.Errorf("%q: device %q, addresses %q, port %q, %q", c.args, s.device, s.addresses, port, complaints)
		}
	}
}

// TestRunning: a socket nobody listens on, and files beside it, are no daemon.
func TestRunning(t *testing.T) {
	base := filepath.Join(t.TempDir(), "s[1]*")
	for _, name := range []string{base + ".0", base + ".0.lock"} {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, out, _ := newSetup(base)
	if status := s.run(t.Context(), []string{"-d", "x"}); status != 1 || out.String() != "tgtd is not running\nExiting...\n" {
		t.Errorf("status %d, %q", status, out)
	}
	l, err := net.Listen("unix", base+".3")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if !s.running() {
		t.Error("a daemon is not found")
	}
}

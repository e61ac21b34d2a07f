package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/paxos-iscsi/paxos-iscsi/pss/psstest"
	"github.com/paxos-iscsi/paxos-iscsi/pssctl/console"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// run runs the command with these arguments.
func run(t *testing.T, c *psstest.RealCell, line string) (stdout, stderr string, status int) {
	t.Helper()
	var out, errs bytes.Buffer
	status = console.Run(t.Context(), newApp(&out, &errs), append([]string{"PSSShutdown", "--conf", c.File}, strings.Fields(line)...))
	return out.String(), errs.String(), status
}

func TestShutdown(t *testing.T) {
	c := psstest.StartReal(t, 0, 1, 2)
	m := c.Master()
	if out, stderr, status := run(t, c, fmt.Sprintf("%d planned maintenance", m)); status != 0 || out+stderr != "" {
		t.Fatalf("status %d, %s%s", status, out, stderr)
	}
	c.Ended(m)
	c.Stop(m)
	next := c.Master()
	if _, stderr, status := run(t, c, fmt.Sprintf("%d", m)); status != console.ExitUnreachable || stderr == "" {
		t.Errorf("a stopped one: status %d, %s", status, stderr)
	}
	if _, stderr, status := run(t, c, fmt.Sprintf("%d ABORT", next)); status != 0 {
		t.Errorf("status %d, %s", status, stderr)
	}
	c.Ended(next)
	for line, want := range map[string]int{"": console.ExitUsage, "x": console.ExitUsage, "7": console.ExitFailed} {
		if _, stderr, status := run(t, c, line); status != want || stderr == "" {
			t.Errorf("%q: status %d, %s", line, status, stderr)
		}
	}
}

package main

import (
	"bytes"
	"fmt"
	"regexp"
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
	status = console.Run(t.Context(), newApp(&out, &errs), append([]string{"PSSAdmin", "--conf", c.File}, strings.Fields(line)...))
	return out.String(), errs.String(), status
}

// TestControl looks at the layout: scripts cut it to pieces.
func TestControl(t *testing.T) {
	c := psstest.StartReal(t, 0, 1, 2, 5)
	m := c.Master()
	out, stderr, status := run(t, c, fmt.Sprintf("%d control", m))
	if status != 0 || stderr != "" {
		t.Fatalf("status %d, %s", status, stderr)
	}
	s, _ := c.Conf.Server(m)
	for _, want := range []string{
		fmt.Sprintf(`(?m)^MyId\[%d\] IamMaster\[1\] MyRnd\[1\] epoch\[\d+\]$`, m),
		fmt.Sprintf(`(?m)^ Elected\[%d\] Reader\[%d\] Vote\[%d\] Birth\[\d{10}\]  Suppress\[0\]$`, m, m, m),
		`(?m)^NextSeq\[\d+\]$`,
		fmt.Sprintf(`(?m)^%d:\[%s\] 0x3 Leader\[%d\] Epoch\[\d+\] Birth\[\d{10}\] Load\[\d+\]$`, m, s.UDPAddr(), m),
		fmt.Sprintf(`(?m)^5:\[127.0.0.1:\d+\] 0x[13] Leader\[%d\]`, m),
		`(?m)^  NextDecide\[\d+\] BackPage\[\d+\] Auto\[0\]$`,
		`(?m)^  Alive\[\d\d \d\d \d\d\]$`,
	} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("no line matches %s in\n%s", want, out)
		}
	}
	if n := strings.Count(out, "\n"); n != 3+3*4 {
		t.Errorf("%d lines:\n%s", n, out)
	}
}

func TestPaxos(t *testing.T) {
	c := psstest.StartReal(t, 0, 1, 2)
	m := c.Master()
	out, stderr, status := run(t, c, fmt.Sprintf("%d paxos", m))
	if status != 0 || !regexp.MustCompile(`(?m)^=== Page \d+ ===\n\d: \d+ Mode\[6-1\] Ballot\[\d+\] Len\[0\] Op\[new master\]$`).MatchString(out) ||
		!strings.Contains(out, "IamMaster[1] MyRnd[1] Mode[4] Cur[") {
		t.Errorf("status %d, %s\n%s", status, stderr, out)
	}
	if again, _, status := run(t, c, fmt.Sprintf("%d paxos 0", m)); status != 0 || !strings.Contains(again, "=== Page 0 ===") {
		t.Errorf("status %d\n%s", status, again)
	}
	if _, stderr, status := run(t, c, fmt.Sprintf("%d paxos 999", m)); status != console.ExitFailed || !strings.Contains(stderr, "page 999") {
		t.Errorf("status %d, %s", status, stderr)
	}
	if _, _, status := run(t, c, fmt.Sprintf("%d paxos x", m)); status != console.ExitUsage {
		t.Errorf("status %d", status)
	}
}

func TestVerbs(t *testing.T) {
	c := psstest.StartReal(t, 0, 1, 2)
	m := c.Master()
	other := (m + 1) % 3
	for _, x := range []struct {
		line string
		want int
	}{
		{fmt.Sprintf("%d is_active", m), 0},
		{fmt.Sprintf("%d is_leader", m), 0},
		{fmt.Sprintf("%d is_leader", other), console.ExitFailed},
		{fmt.Sprintf("%d log", m), 0},
		{"0 nonsense", console.ExitUsage},
		{"0", console.ExitUsage},
		{"", console.ExitUsage},
		{"9 control", console.ExitUsage},
		{"7 control", console.ExitFailed},
		{"0 control 1", console.ExitUsage},
		{"0 stop 1", console.ExitUsage},          // without --debug
		{"--debug 0 stop", console.ExitUsage},    // to whom?
		{"--debug 0 stop x", console.ExitUsage},  // the same
		{"--debug 0 stop 1", console.ExitFailed}, // the server runs without --debug
		{"--debug 0 restart 1", console.ExitFailed},
		{"0 removepage", console.ExitFailed},
		{"0 recvstop 3 0", console.ExitFailed},
	} {
		if out, stderr, status := run(t, c, x.line); status != x.want || status != 0 && x.want != console.ExitFailed && stderr == "" {
			t.Errorf("%q: status %d, want %d: %s%s", x.line, status, x.want, out, stderr)
		}
	}
	for line, want := range map[string]string{
		"0 suppress 5":     "PSSAdmin: suppress is refused: votes can't be held back: stop a server with down, or cut it off with stop\n",
		"--debug 0 stop 1": "PSSAdmin: server 0: server 0 runs without --debug, and injects no faults\n",
	} {
		if _, stderr, _ := run(t, c, line); stderr != want {
			t.Errorf("%s: %q, want %q", line, stderr, want)
		}
	}
	out, stderr, status := run(t, c, fmt.Sprintf("%d birth", m))
	if next := c.Master(); status != 0 || next == m || out != fmt.Sprintf("Master is %d.\n", next) {
		t.Errorf("birth: status %d, %s%s", status, out, stderr)
	}
	if _, stderr, status = run(t, c, fmt.Sprintf("%d down", m)); status != 0 {
		t.Errorf("down: status %d, %s", status, stderr)
	}
	c.Ended(m)
	c.Stop(m)
	if _, _, status = run(t, c, fmt.Sprintf("%d is_active", m)); status != console.ExitUnreachable {
		t.Errorf("is_active of a dead server: status %d", status)
	}
}

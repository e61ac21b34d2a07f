package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/psstest"
	"github.com/paxos-iscsi/paxos-iscsi/pssctl/console"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pssctl runs the command and returns what it printed and its status.
func pssctl(t *testing.T, c *psstest.RealCell, line string, stdin ...string) (stdout, stderr string, status int) {
	t.Helper()
	var out, errs bytes.Buffer
	app := newApp(&out, &errs)
	app.Reader = strings.NewReader(strings.Join(stdin, "\n"))
	words := strings.Fields(line)
	status = console.Run(t.Context(), app, append([]string{"pssctl"}, append(words, "--conf", c.File)...))
	return out.String(), errs.String(), status
}

// same are the values that differ from run to run, and what stands for them in the golden files.
func same(c *psstest.RealCell, text string) string {
	text = strings.ReplaceAll(text, filepath.Dir(c.File), "DIR")
	for _, s := range c.Conf.Servers {
		for _, p := range []struct {
			port int
			name string
		}{{s.UDPPort, "UDP"}, {s.TCPPort, "TCP"}} {
			text = regexp.MustCompile(`:`+jsonNumber(p.port)+`\b *`).ReplaceAllString(text, ":"+p.name+jsonNumber(int(s.ID))+" ")
		}
	}
	for _, r := range [][2]string{
		{`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?`, "TIME"},
		{`(?m)^pssctl: server \d: `, "pssctl: server M: "},
		{`(?m)^ *\d+ \?        \S+ +\d+:\d\d`, "PID ?        Sl TIME"},
	} {
		text = regexp.MustCompile(r[0]).ReplaceAllString(text, r[1])
	}
	return text
}

func jsonNumber(n int) string {
	b, _ := json.Marshal(n)
	return string(b)
}

// golden compares with a file in testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *rewrite {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s:\n%swant:\n%s", name, got, want)
	}
}

func TestOnACell(t *testing.T) {
	c := psstest.StartReal(t, 0, 1, 2, 5)
	var transcript strings.Builder
	do := func(line string, stdin ...string) {
		stdout, stderr, status := pssctl(t, c, line, stdin...)
		transcript.WriteString("$ pssctl " + line + "\n" + stdout + stderr)
		if status != 0 {
			transcript.WriteString("status " + jsonNumber(status) + "\n")
		}
		transcript.WriteString("\n")
	}
	do("volume create vol001 1G")
	do("volume create vol001 1G")
	do("volume create vol001 2G")
	do("volume create db/vol002 64T")
	do("volume create vol003 nonsense")
	do("volume create vol003")
	do("volume grow vol001 2G")
	do("volume grow vol001 1G")
	do("volume list")
	do("volume show vol001")
	do("volume show vol009")
	do("tree")
	do("volume delete vol001", "no")
	do("volume delete vol001", "yes")
	do("volume delete vol001 -y")
	do("processes")
	do("master 5")
	do("master 9")
	do("master nonsense")
	do("shutdown 7")
	do("log nonsense")
	do("nonsense")
	do("volume nonsense")
	golden(t, "cell.txt", same(c, transcript.String()))
}

func TestStatus(t *testing.T) {
	c := psstest.StartReal(t, 0, 1, 2, 5)
	master := c.Master()
	stdout, stderr, status := pssctl(t, c, "status")
	if status != 0 || stderr != "" || !strings.Contains(stdout, "all is well") || strings.Count(stdout, "\n") != 8 {
		t.Errorf("status %d\n%s%s", status, stdout, stderr)
	}
	stdout, _, status = pssctl(t, c, "explain")
	if status != 0 || !strings.HasPrefix(stdout, "All is well: 3 of 3 votes up") {
		t.Errorf("status %d\n%s", status, stdout)
	}
	stdout, _, status = pssctl(t, c, "master")
	if status != 0 || strings.TrimSpace(stdout) != jsonNumber(int(master)) {
		t.Errorf("status %d, master %s, not %d", status, stdout, master)
	}

	c.Stop(5)
	stdout, _, status = pssctl(t, c, "explain")
	if status != 0 || !strings.Contains(stdout, "server 5 does not answer\n  cause  ") || !strings.Contains(stdout, "  next   ") {
		t.Errorf("status %d\n%s", status, stdout)
	}
	other := (master + 1) % 3
	c.Stop(other)
	c.Stop((master + 2) % 3)
	stdout, _, status = pssctl(t, c, "status --timeout 5s")
	if status != console.ExitFailed || !strings.Contains(stdout, "1 of 3 votes up") || strings.Count(stdout, "does not answer") < 3 {
		t.Errorf("status %d\n%s", status, stdout)
	}
	c.Stop(master)
	if stdout, _, status = pssctl(t, c, "status"); status != console.ExitUnreachable || !strings.Contains(stdout, "no server answers") {
		t.Errorf("status %d\n%s", status, stdout)
	}
	if _, stderr, status = pssctl(t, c, "volume list --timeout 300ms"); status != console.ExitUnreachable || stderr == "" {
		t.Errorf("status %d\n%s", status, stderr)
	}
}

// TestJSON: whatever takes --json prints JSON.
func TestJSON(t *testing.T) {
	c := psstest.StartReal(t, 0, 1, 2)
	if _, stderr, status := pssctl(t, c, "volume create vol001 1G"); status != 0 {
		t.Fatal(stderr)
	}
	for _, line := range []string{"status", "explain", "volume list", "volume show vol001", "tree", "checkpoint 0", "master", "processes", "sockets", "sockets 1", "top -n 1 -d 200ms"} {
		stdout, stderr, status := pssctl(t, c, line+" --json")
		if status != 0 || stderr != "" || !json.Valid([]byte(stdout)) {
			t.Errorf("%s: status %d, %s, %s", line, status, stderr, stdout)
		}
	}
	stdout, stderr, status := pssctl(t, c, "log 1 --json -n 3")
	if status != 0 || stderr != "" {
		t.Fatalf("log: status %d, %s", status, stderr)
	}
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	var last admin.LogLine
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil || len(lines) != 3 || last.Text == "" || last.UnixNano == 0 {
		t.Errorf("%v, %q", err, lines)
	}
}

func TestHandOverAndShutdown(t *testing.T) {
	c := psstest.StartReal(t, 0, 1, 2)
	to := (c.Master() + 1) % 3
	stdout, stderr, status := pssctl(t, c, "master "+jsonNumber(int(to)))
	if status != 0 || strings.TrimSpace(stdout) != jsonNumber(int(to)) {
		t.Errorf("status %d, %s%s", status, stdout, stderr)
	}
	if _, stderr, status = pssctl(t, c, "shutdown "+jsonNumber(int(to))); status != 0 {
		t.Errorf("status %d, %s", status, stderr)
	}
	c.Ended(to)
	c.Stop(to)
	if m := c.Master(); m == to {
		t.Errorf("server %d is master", m)
	}
	if _, stderr, status = pssctl(t, c, "shutdown "+jsonNumber(int(to))); status != console.ExitUnreachable {
		t.Errorf("stopped twice: status %d, %s", status, stderr)
	}
}

// TestSocketsOfTheDead: for a server that does not answer the machine's own tables are read.
func TestSocketsOfTheDead(t *testing.T) {
	c := psstest.DescribeReal(t, 0, 1, 2)
	stdout, stderr, status := pssctl(t, c, "sockets 0")
	if status != 0 || stdout != "" || stderr != "" {
		t.Errorf("status %d, %s%s", status, stdout, stderr)
	}
	c.Run(0)
	stdout, _, status = pssctl(t, c, "sockets 0")
	s, _ := c.Conf.Server(cell.ID(0))
	if status != 0 || !strings.Contains(stdout, s.TCPAddr()) || !strings.Contains(stdout, "LISTEN") || !strings.Contains(stdout, s.UDPAddr()) {
		t.Errorf("status %d, %s", status, stdout)
	}
}

func TestTop(t *testing.T) {
	c := psstest.StartReal(t, 0, 1, 2)
	stdout, stderr, status := pssctl(t, c, "top -n 2 --interval 200ms")
	if status != 0 || strings.Count(stdout, "VOLUME") != 2 || strings.Count(stdout, "all is well") != 2 || !strings.Contains(stdout, "pssctl top") {
		t.Errorf("status %d, %s%s", status, stdout, stderr)
	}
	if _, _, status = pssctl(t, c, "top -d 1ms"); status != console.ExitUsage {
		t.Errorf("status %d", status)
	}
}

func TestCompletion(t *testing.T) {
	for shell := range completions() {
		var out bytes.Buffer
		if status := console.Run(t.Context(), newApp(&out, &out), []string{"pssctl", "completion", shell}); status != 0 || !strings.Contains(out.String(), "pssctl") {
			t.Errorf("%s: status %d, %s", shell, status, &out)
		}
	}
	var out bytes.Buffer
	if status := console.Run(t.Context(), newApp(&out, &out), []string{"pssctl", "completion", "csh"}); status != console.ExitUsage {
		t.Errorf("status %d, %s", status, &out)
	}
}

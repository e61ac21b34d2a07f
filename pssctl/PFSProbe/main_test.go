package main

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/paxos-iscsi/paxos-iscsi/pss"
	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
	"github.com/paxos-iscsi/paxos-iscsi/pss/psstest"
	"github.com/paxos-iscsi/paxos-iscsi/pssctl/console"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// run runs the command with these arguments.
func run(t *testing.T, c *psstest.RealCell, line string) (stdout, stderr string, status int) {
	t.Helper()
	var out, errs bytes.Buffer
	status = console.Run(t.Context(), newApp(&out, &errs), append([]string{"PFSProbe", "--conf", c.File}, strings.Fields(line)...))
	return out.String(), errs.String(), status
}

func TestProbe(t *testing.T) {
	c := psstest.StartReal(t, 0, 1, 2)
	m := c.Master()
	client, err := pss.Open(c.Conf, pss.Options{Software: "a test"})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.WriteFile(t.Context(), "/a", strings.NewReader("content")); err != nil {
		t.Fatal(err)
	}
	for kind, want := range map[string]string{
		"accept":    `### Accept ###\nClientId \[127.0.0.1:\d+\] Session=[0-9a-f]{16} Seq=\d+ Reuse=1\nCnt=\d+ Opened=2 Start=\d+ End=\d+ Reply=\d+ Bytes=\d+ Software=a test\n=== Accept\(END\) ===\n`,
		"outbound":  `### OUT_OF_BAND Cnt=\d+ Mem=\d+\(\d+\) ###\n=== Overlay Mem=\d+\(\d+\) ===\n=== OUT_OF_BAND\(END\) ===\n`,
		"outofband": `### OUT_OF_BAND Cnt=`,
		"fd":        `### FdCache Cnt=\d+ FdMax=\d+ ###\n(e_Cnt=\d+ Name\[a\] Path\[data/.*\] Object=\d+\n)*=== FdCache\(END\) ===\n`,
		"meta":      `### FdMetaCache Cnt=\d+ FdMax=\d+ ###\n`,
		"block":     `### BlockCache Cnt=\d+ Max=\d+ SegSize=4096 bCksum=1 ###\n=== BlockCache\(END\) ===\n`,
	} {
		out, stderr, status := run(t, c, fmt.Sprintf("%d %s", m, kind))
		if status != 0 || !regexp.MustCompile("^"+want).MatchString(out) {
			t.Errorf("%s: status %d, %s\n%s", kind, status, stderr, out)
		}
	}
	if _, stderr, status := run(t, c, "0 ras"); status != console.ExitUnreachable || !strings.Contains(stderr, "no monitoring cell") {
		t.Errorf("ras: status %d, %s", status, stderr)
	}
	// On another server the session is known, and not connected.
	if out, _, status := run(t, c, fmt.Sprintf("%d accept", (m+1)%3)); status != 0 || !strings.Contains(out, "Opened=") {
		t.Errorf("status %d\n%s", status, out)
	}
	for line, want := range map[string]int{"0": console.ExitUsage, "0 nonsense": console.ExitUsage, "8 fd": console.ExitUsage, "7 fd": console.ExitFailed} {
		if _, stderr, status := run(t, c, line); status != want || stderr == "" {
			t.Errorf("%q: status %d, %s", line, status, stderr)
		}
	}
}

// TestProbeCoordination: what clients hold, wait for and watch shows on every server.
func TestProbeCoordination(t *testing.T) {
	c := psstest.StartReal(t, 0, 1, 2)
	open := func() *pss.Cell {
		client, err := pss.Open(c.Conf, pss.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { client.Close() })
		return client
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	client := open()
	ctx := t.Context()
	must(client.Mkdir(ctx, "/d"))
	must(client.Watch(ctx, op.EventDir, "/d"))
	must(client.Watch(ctx, op.EventQueue, "later"))
	_, err := client.Lock(ctx, "L", pss.WriteLock)
	must(err)
	_, err = client.Lock(ctx, "R", pss.ReadLock)
	must(err)
	for _, text := range []string{"four", "seven.."} {
		_, err = client.Post(ctx, "Q", []byte(text))
		must(err)
	}
	_, err = client.Take(ctx, "Q")
	must(err)
	session := `Session=[0-9a-f]{16}`
	for kind, want := range map[string]string{
		"path": `### Path ###\n=== Path\[/d\] Flags=0x0 RefCnt=0 ===\n->Event Waiters\n` + session + `\n=== Path\(END\) ===\n`,
		"lock": `### Lock ###\n=== LOCK \[L\] Cnt=-1 Ver=\d+ ===\n->Holders\n` + session + ` Handle=\d+ W\n->Waiters\n->Event Waiters\n` +
			`=== LOCK \[R\] Cnt=1 Ver=\d+ ===\n->Holders\n` + session + ` Handle=\d+\n->Waiters\n->Event Waiters\n=== Lock\(END\) ===\n`,
		"queue": `### Queue ###\n=== QUEUE \[Q\] Cnt=2 Peek=1===\n->Data\n\[0\] \d+: v_Len=4 ` + session + ` Handle=\d+\n\[1\] \d+: v_Len=7\n` +
			`->Waiters\n->Event Waiters\n=== QUEUE \[later\] Cnt=0 Peek=0===\n->Data\n->Waiters\n->Event Waiters\n` + session +
			`\n=== Queue\(END\) ===\n`,
	} {
		out, stderr, status := run(t, c, fmt.Sprintf("%d %s", c.Master(), kind))
		if status != 0 || !regexp.MustCompile("^"+want+"$").MatchString(out) {
			t.Errorf("%s: status %d, %s\n%s", kind, status, stderr, out)
		}
	}
}

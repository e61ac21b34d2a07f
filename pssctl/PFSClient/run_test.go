package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"go.uber.org/goleak"

	"github.com/paxos-iscsi/paxos-iscsi/pss"
	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/psstest"
	"github.com/paxos-iscsi/paxos-iscsi/pssctl/console"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// call runs the command and returns its exit status and what it printed.
func call(ctx context.Context, args ...string) (code int, stdout, stderr string) {
	var out, err bytes.Buffer
	code = console.Run(ctx, newApp(&out, &err), append([]string{"PFSClient"}, args...))
	return code, out.String(), err.String()
}

// varying is what differs from run to run.
var varying = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`PID\[\d+\]`), "PID[4711]"},
	{regexp.MustCompile(`/e/\d+\]`), "/e/4711]"},
	{regexp.MustCompile(`mtime=\d{9,}`), "mtime=1313560800"},
	{regexp.MustCompile(`Master is \d`), "Master is 2"},
	{regexp.MustCompile(`[^ ]*/Test[^ ]*/`), "DIR/"},
}

func normalize(text string) string {
	for _, v := range varying {
		text = v.pattern.ReplaceAllString(text, v.with)
	}
	return text
}

// start makes a real cell and a folder that the commands run in.
func start(t *testing.T) *psstest.RealCell {
	f := psstest.StartReal(t, 0, 1, 2)
	t.Setenv(cell.EnvFile, f.File)
	t.Chdir(t.TempDir())
	return f
}

// TestTranscript runs the commands of testdata/transcript against real servers. Each line is a command; a line
// "local NAME" shows a local file.
func TestTranscript(t *testing.T) {
	file, err := filepath.Abs("testdata/transcript")
	if err != nil {
		t.Fatal(err)
	}
	start(t)
	if err := os.WriteFile("f", []byte("twelve bytes"), 0o644); err != nil {
		t.Fatal(err)
	}
	datadriven.RunTest(t, file, func(t *testing.T, d *datadriven.TestData) string {
		var out strings.Builder
		for line := range strings.Lines(d.Input) {
			fields := strings.Fields(line)
			fmt.Fprintf(&out, "$ %s\n", strings.Join(fields, " "))
			if fields[0] == "local" {
				b, err := os.ReadFile(fields[1])
				if err != nil {
					b = []byte("none")
				}
				fmt.Fprintf(&out, "%s\n", b)
				continue
			}
			code, stdout, stderr := call(t.Context(), fields...)
			fmt.Fprintf(&out, "%s", normalize(stdout))
			if stderr != "" {
				fmt.Fprintf(&out, "! %s", strings.ReplaceAll(normalize(strings.TrimSuffix(stderr, "\n")), "\n", "\n! ")+"\n")
			}
			fmt.Fprintf(&out, "exit %d\n", code)
		}
		// Blank lines are part of the layout, and would end the expected output.
		return strings.ReplaceAll(out.String(), "\n\n", "\n(blank)\n")
	})
	left, err := filepath.Glob(".*")
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// lines is what a command printed, for those who wait for some of it.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) await(t *testing.T, what string) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		l.mu.Lock()
		found := strings.Contains(l.text.String(), what)
		l.mu.Unlock()
		if found {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %q in %q", what, l.text.String())
		}
	}
}

// background runs the command and returns what it prints, and its exit status when it ends.
func background(ctx context.Context, args ...string) (*lines, <-chan int) {
	out, done := &lines{}, make(chan int, 1)
	go func() { done <- console.Run(ctx, newApp(out, io.Discard), append([]string{"PFSClient"}, args...)) }()
	return out, done
}

// wantEnd checks how a command in the background ended, and all it printed.
func wantEnd(t *testing.T, out *lines, done <-chan int, code int, text string) {
	t.Helper()
	if got := <-done; got != code {
		t.Errorf("exit status %d, not %d", got, code)
	}
	if got := normalize(out.text.String()); got != text {
		t.Errorf("printed\n%s\nnot\n%s", got, text)
	}
}

// One holds the lock until he is interrupted, the next gets it then, and the one who is to give it back when
// somebody waits does so.
func TestLocksPass(t *testing.T) {
	start(t)
	ctx, interrupt := context.WithCancel(t.Context())
	first, firstDone := background(ctx, "lockW", "L")
	first.await(t, "sleep 50")
	second, secondDone := background(t.Context(), "eventlockW", "L", "1")
	second.await(t, "EventLockSet")
	interrupt()
	wantEnd(t, first, firstDone, 0, "SessionOpen EXT: Ret[0].\nPFSLockW EXT: Ret[0].\nMaster is 2.\nsleep 50\n"+
		"Master is 2.\nPFSUnlock EXT: Ret[0].\nSessionClose EXT: Ret[0].\n")
	second.await(t, "Wait Event")
	third, thirdDone := background(t.Context(), "lockR2", "L", "0")
	wantEnd(t, second, secondDone, 0, "EventLockSet:Ret[0] errno[0] lock_name[L]\n\n*** (1) Wait Event ***\n"+
		"PFSEventLock: Mode=0 [L]\nPFSEventLock: Mode=1 [L]\n") // the first is its own waiting
	wantEnd(t, third, thirdDone, 0, "SessionOpen EXT: Ret[0].\nPFSLockR EXT: Ret[0].\nMaster is 2.\nsleep 0\n"+
		"Master is 2.\nPFSUnlock EXT: Ret[0].\nSessionClose EXT: Ret[0].\n")
}

func TestEventsAndQueues(t *testing.T) {
	f := start(t)
	if err := os.WriteFile("f", []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := call(t.Context(), "mkdir", "d"); code != 0 {
		t.Fatal(stderr)
	}
	dir, dirDone := background(t.Context(), "eventdir2", "d", "0", "2")
	dir.await(t, "*** (1)")
	c, err := pss.Open(f.Conf, pss.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i, do := range []func() error{
		func() error { _, err := c.Create(t.Context(), "d/x"); return err },
		func() error { return c.Truncate(t.Context(), "d/x", 5) },
	} {
		if err := do(); err != nil {
			t.Fatal(err)
		}
		dir.await(t, fmt.Sprintf("Total Count[%d]", i+1))
	}
	wantEnd(t, dir, dirDone, 0, "EventDirSet:Ret[0] errno[0] dir_name[d]\n\n*** (1) Wait Event ***\n"+
		"PFSEventDir: Mode=0 [x] [d]\nEventGet:Total Count[1] Cre/Del[1] Updt[0] Ret[0] errno[0] events=1 omit=0\n"+
		"\n*** (2) Wait Event ***\nPFSEventDir: Mode=2 [x] [d]\n"+
		"EventGet:Total Count[2] Cre/Del[1] Updt[1] Ret[0] errno[0] events=1 omit=0\n")

	queue, queueDone := background(t.Context(), "eventQueue", "Q", "1")
	queue.await(t, "*** (1)")
	reader, readerDone := background(t.Context(), "wait", "Q")
	wantEnd(t, queue, queueDone, 0, "EventQueueSet:Ret[0] errno[0] queue_name[Q]\n\n*** (1) Wait Event ***\n"+
		"PFSEventQueue: Mode=1 [Q]\nEventGet:Total Count[1] Cre/Del[1] Updt[0] Ret[0] errno[0] events=1 omit=0\n")
	if code, stdout, _ := call(t.Context(), "post", "Q", "hi"); code != 0 || stdout != "SessionOpen:Ret[0]\nPost:Ret[0]\nSessionPost:Ret[0]\n" {
		t.Errorf("post: %d, %s", code, stdout)
	}
	wantEnd(t, reader, readerDone, 0, "SessionOpen:Ret[0]\nPFSWait:Ret[0] [hi]\n")
}

// An ephemeral file is there while the command holds it, and no longer.
func TestEphemeral(t *testing.T) {
	start(t)
	if err := os.WriteFile("f", []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprint(os.Getpid())
	ctx, interrupt := context.WithCancel(t.Context())
	out, done := background(ctx, "ephemeral", "f", "d", "--hold", "600")
	out.await(t, "PFSWrite:Ret[0]")
	if code, stdout, _ := call(t.Context(), "readdir", "d"); code != 0 || stdout != "0 ["+name+"]\n" {
		t.Errorf("%d, %s", code, stdout)
	}
	if code, _, stderr := call(t.Context(), "read", "d/"+name, "copy"); code != 0 {
		t.Error(stderr)
	}
	interrupt()
	if code := <-done; code != 0 {
		t.Errorf("exit status %d", code)
	}
	if code, stdout, _ := call(t.Context(), "readdir", "d"); code != 0 || stdout != "" {
		t.Errorf("%d, %s", code, stdout)
	}
}

func TestUnreachable(t *testing.T) {
	f := start(t)
	f.Stop(0)
	f.Stop(1)
	if code, _, stderr := call(t.Context(), "--timeout", "300ms", "session"); code != 255 || !strings.Contains(stderr, "no majority") {
		t.Errorf("%d, %s", code, stderr)
	}
	f.Stop(2)
	if code, _, stderr := call(t.Context(), "--timeout", "300ms", "session"); code != 255 || !strings.Contains(stderr, "no server of the cell answers") {
		t.Errorf("%d, %s", code, stderr)
	}
	if code, _, stderr := call(t.Context(), "--conf", "/does/not/exist", "session"); code != 1 || !strings.Contains(stderr, "/does/not/exist") {
		t.Errorf("%d, %s", code, stderr)
	}
}

func TestUsage(t *testing.T) {
	t.Setenv(cell.EnvFile, psstest.New(t, 3).ConfFile())
	for args, text := range map[string]string{
		"":                        "a sub-command is wanted",
		"wrong":                   `there is no sub-command "wrong"`,
		"stat":                    "0 arguments",
		"stat a b":                "2 arguments",
		"truncate f x":            `"x" is no size`,
		"truncate f -- -1":        `"-1" is no size`,
		"lockW2 L x":              `"x" is no number of seconds`,
		"eventdir d 0 0":          `"0" is no number of deliveries`,
		"eventlockW L x":          `"x" is no number of deliveries`,
		"lockwriteloop f p 10000": `"10000" is no number of files`,
		"session --timeout x":     `--timeout "x"`,
		"session --timeout 0":     `--timeout "0"`,
		"lockW L --hold -1s":      `--hold "-1s"`,
		"session --wrong":         "-wrong",
		"session --conf":          "conf",
	} {
		code, _, stderr := call(t.Context(), strings.Fields(args)...)
		if code != 2 || !strings.Contains(stderr, text) || !strings.Contains(stderr, "usage: PFSClient [--conf FILE]") {
			t.Errorf("%q: %d, %q", args, code, stderr)
		}
	}
	code, stdout, stderr := call(t.Context(), "--help")
	for _, s := range subcommands() {
		if s.usage != "" && !strings.Contains(stdout, s.name) {
			t.Errorf("--help does not know %s", s.name)
		}
	}
	if code != 0 || stderr != "" {
		t.Errorf("--help: %d, %q", code, stderr)
	}
}

// TestAbort: the session that abort opened is left to its lease, where others close theirs.
func TestAbort(t *testing.T) {
	f := start(t)
	sessions := func() int {
		t.Helper()
		var p admin.Probe
		err := admin.CallServer(t.Context(), f.Conf, f.Master(), admin.MethodProbe, admin.ProbeArgs{Kind: admin.ProbeAccept}, &p)
		if err != nil {
			t.Fatal(err)
		}
		return len(p.Sessions)
	}
	if code, _, stderr := call(t.Context(), "session"); code != 0 || sessions() != 0 {
		t.Errorf("session: %d, %s, and %d sessions are left", code, stderr, sessions())
	}
	code, stdout, stderr := call(t.Context(), "abort", "--hold", "0")
	if want := "SessionOpen:Ret[0] Master is 2.\n"; code != 0 || normalize(stdout) != want || sessions() != 1 {
		t.Errorf("abort: %d, %q, %s, and %d sessions are left", code, stdout, stderr, sessions())
	}
}

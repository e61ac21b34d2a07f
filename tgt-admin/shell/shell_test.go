package shell

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"go.uber.org/goleak"

	"github.com/paxos-iscsi/paxos-iscsi/tgtadm/modeltest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shelf is volumes in memory.
type shelf []Volume

func (s *shelf) List(context.Context) ([]Volume, error) { return *s, nil }

func (s *shelf) Create(_ context.Context, name, size string) error {
	if size != "1K" {
		return fmt.Errorf("%q is no size", size)
	}
	*s = append(*s, Volume{name, 1024})
	return nil
}

func (s *shelf) Delete(_ context.Context, name string) error {
	*s = slices.DeleteFunc(*s, func(v Volume) bool { return v.Name == name })
	return nil
}

type lab struct {
	*modeltest.Daemon
	dir string
	out bytes.Buffer
	Options
}

func newLab(t *testing.T) *lab {
	l := &lab{Daemon: modeltest.Start(t), dir: t.TempDir()}
	l.Options = Options{Out: &l.out, Err: &l.out, Call: l.Daemon.Call, Volumes: &shelf{},
		Save: func(_ context.Context, file string, force bool) (string, error) {
			if file == "bad" {
				return "", errors.New("nothing saved")
			}
			return fmt.Sprintf("saved to %q, force %v\n", file, force), nil
		}}
	return l
}

// TestScenarios: `sh` carries out lines one by one in one shell, `complete` shows what lines are completed
// to, `main` runs a shell with the arguments -c and the text below, `stdin` one with it as its input.
func TestScenarios(t *testing.T) {
	scenarios, err := filepath.Abs("testdata/scenarios")
	if err != nil {
		t.Fatal(err)
	}
	datadriven.Walk(t, scenarios, func(t *testing.T, path string) {
		l := newLab(t)
		t.Chdir(l.dir) // a drawing is as wide as the paths in it
		if err := os.WriteFile(filepath.Join(l.dir, "disk"), make([]byte, 1<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		places := strings.NewReplacer("@PORTAL@", l.Portal)
		back := strings.NewReplacer(l.Portal, "@PORTAL@")
		s := New(l.Options)
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			l.out.Reset()
			input := places.Replace(d.Input)
			switch d.Cmd {
			case "sh":
				for line := range strings.SplitSeq(input, "\n") {
					if err := s.Do(t.Context(), line); err != nil {
						fmt.Fprintf(&l.out, "! %s: %v\n", line, err)
					}
				}
			case "complete":
				for line := range strings.SplitSeq(input, "\n") {
					head, words, tail := s.Complete(t.Context(), line, len(line))
					fmt.Fprintf(&l.out, "%s -> %q + %q%s\n", line, head, words, tail)
				}
			case "main":
				status := Main(t.Context(), []string{"-c", input}, nil, l.Options)
				fmt.Fprintf(&l.out, "= %d\n", status)
			case "stdin":
				status := Main(t.Context(), nil, pipe(t, input), l.Options)
				fmt.Fprintf(&l.out, "= %d\n", status)
			case "usage":
				fmt.Fprintf(&l.out, "= %d\n", Main(t.Context(), strings.Fields(input), nil, l.Options))
			default:
				d.Fatalf(t, "unknown command")
			}
			return back.Replace(l.out.String())
		})
	})
}

// pipe is an input that is no terminal.
func pipe(t *testing.T, text string) *os.File {
	path := filepath.Join(t.TempDir(), "stdin")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestNoDaemon(t *testing.T) {
	l := newLab(t)
	l.Options.Call = nil
	s := New(l.Options)
	if err := s.Do(t.Context(), "pwd"); err != nil {
		t.Errorf("pwd needs no daemon: %v", err)
	}
}

// FuzzDo: no line does harm, and none changes anything but through the daemon: whatever is typed, the
// shell stands at a place that exists or can.
func FuzzDo(f *testing.F) {
	for _, line := range []string{"cd /targets/iqn.x:a/luns", `create "a b" 'c'`, "../.. ls", "set a=b", "/iscsi/x/tpg1/acls create 10.0.0.0/8",
		"delete", "get x", `\`, "ls /volumes/a/b/../c"} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		l := newLab(t)
		s := New(l.Options)
		s.Do(t.Context(), line)
		if kindOf(s.at) == nowhere {
			t.Errorf("%q leads to %q", line, s.at)
		}
		s.Complete(t.Context(), line, len(line))
	})
}

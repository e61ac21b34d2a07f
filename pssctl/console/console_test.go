package console

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/paxos-iscsi/paxos-iscsi/pss"
	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
)

func TestOptionsFirst(t *testing.T) {
	sub := &cli.Command{Name: "one", Flags: []cli.Flag{&cli.BoolFlag{Name: "yes", Aliases: []string{"y"}}, &cli.StringFlag{Name: "name"}}}
	app := &cli.App{Flags: []cli.Flag{&cli.StringFlag{Name: "conf"}},
		Commands: []*cli.Command{{Name: "group", Subcommands: []*cli.Command{sub}}, {Name: "flat", Flags: sub.Flags}}}
	plain := &cli.App{Flags: sub.Flags}
	for _, x := range []struct {
		app      *cli.App
		in, want string
	}{
		{plain, "p a -y b", "p -y -- a b"},
		{plain, "p a --name x b", "p --name x -- a b"},
		{plain, "p a --name=x b", "p --name=x -- a b"},
		{plain, "p -- -y", "p -- -y"},
		{plain, "p a -- -y", "p -- a -y"},
		{plain, "p a --name", "p --name"},
		{plain, "p -y", "p -y"},
		{plain, "p -", "p -- -"},
		{app, "p --conf f group one a -y", "p --conf f group one -y -- a"},
		{app, "p flat a --name n", "p flat --name n -- a"},
		{app, "p nonsense a -y", "p nonsense a -y"},
		{app, "p", "p"},
	} {
		if got := strings.Join(OptionsFirst(x.app, strings.Fields(x.in)), " "); got != x.want {
			t.Errorf("%q becomes %q, want %q", x.in, got, x.want)
		}
	}
}

func TestExitStatus(t *testing.T) {
	for _, x := range []struct {
		err  error
		want int
		text string
	}{
		{nil, 0, ""},
		{errors.New("gone wrong"), ExitFailed, "x: gone wrong\n"},
		{Usagef("what?"), ExitUsage, "x: what?\nTry x --help.\n"},
		{fmt.Errorf("asking: %w", admin.ErrUnreachable), ExitUnreachable, "x: asking: no connection to the server\n"},
		{pss.ErrNoMaster, ExitUnreachable, ""},
		{fmt.Errorf("x: %w", context.DeadlineExceeded), ExitUnreachable, ""},
		{admin.Errorf(admin.NotMaster, "no master"), ExitUnreachable, "x: no master\n"},
		{admin.Errorf(admin.Refused, "no"), ExitFailed, "x: no\n"},
		{Status{Code: 7}, 7, ""},
		{Status{Code: 7, Text: "seven"}, 7, "x: seven\n"},
	} {
		var stderr bytes.Buffer
		app := NewApp("x", "", io.Discard, &stderr)
		app.Action = func(*cli.Context) error { return x.err }
		if got := Run(t.Context(), app, []string{"x"}); got != x.want {
			t.Errorf("%v: status %d, want %d", x.err, got, x.want)
		}
		if x.text != "" && stderr.String() != x.text {
			t.Errorf("%v: printed %q, want %q", x.err, &stderr, x.text)
		}
	}
	var stderr bytes.Buffer
	app := NewApp("x", "", io.Discard, &stderr)
	if got := Run(t.Context(), app, []string{"x", "--nonsense"}); got != ExitUsage || !strings.Contains(stderr.String(), "nonsense") {
		t.Errorf("unknown option: status %d, %s", got, &stderr)
	}
}

func TestTable(t *testing.T) {
	var b bytes.Buffer
	if err := Table(&b, []string{"NAME", "N", "LAST"}, [][]string{{"a", "1", ""}, {"länger", "100", "x"}}, 1); err != nil {
		t.Fatal(err)
	}
	want := "NAME      N  LAST\na         1\nlänger  100  x\n"
	if b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
}

func TestBytes(t *testing.T) {
	for n, want := range map[int64]string{0: "0B", 1023: "1023B", 1024: "1K", 1536: "1.5K", 1<<20 - 1: "1M", 1 << 40: "1T", -2048: "-2K",
		1<<63 - 1: "8E"} {
		if got := Bytes(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{0: "0s", 59400 * time.Millisecond: "59s", time.Minute: "1m00s", 3*time.Hour + 5*time.Minute: "3h05m",
		49 * time.Hour: "2d01h"} {
		if got := Span(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{"1K": 1 << 10, "1t": 1 << 40, "64T": 64 << 40, "3G": 3 << 30, "512M": 512 << 20} {
		if got, err := ParseSize(text); err != nil || got != want {
			t.Errorf("%s: %d, %v", text, got, err)
		}
		if got := SizeText(want); !strings.EqualFold(got, text) {
			t.Errorf("%d: %s, want %s", want, got, text)
		}
	}
	for _, text := range []string{"", "1", "K", "0G", "+1G", "-1G", "65T", "1P", "99999999999T", "1.5G", "1GG"} {
		if n, err := ParseSize(text); err == nil {
			t.Errorf("%q is %d", text, n)
		}
	}
}

func FuzzSize(f *testing.F) {
	f.Add("1T")
	f.Fuzz(func(t *testing.T, text string) {
		n, err := ParseSize(text)
		if err == nil && (n <= 0 || n > op.MaxVolume) {
			t.Fatalf("%q is %d", text, n)
		}
		if again, e := ParseSize(SizeText(n)); err == nil && (e != nil || again != n) {
			t.Fatalf("%q is %d is %q", text, n, SizeText(n))
		}
	})
}

package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// roleEnv makes the test binary a background half that does what the value says.
const roleEnv = "DAEMON_TEST_ROLE"

func TestMain(m *testing.M) {
	if role := os.Getenv(roleEnv); role != "" {
		os.Exit(play(role))
	}
	goleak.VerifyTestMain(m)
}

// deaf is the status of a background half that does not know that it is one.
const deaf = 9

// play is the background half; it returns its exit status.
func play(role string) int {
	news := TakeNews()
	if news == nil {
		return deaf
	}
	switch role {
	case "serve":
		fmt.Fprintln(news, "a warning")
		if news.Ready() != nil {
			return 1
		}
		fmt.Fprintln(news, "too late")
		news.Fail(errors.New("too late as well"))
	case "complain":
		fmt.Fprintln(news, "first")
		fmt.Fprintln(news, "second")
		return 1
	case "fail":
		news.Fail(errors.New("no such server"))
		return 1
	case "talk":
		for range 4 {
			fmt.Fprint(news, strings.Repeat("x", maxNews/3))
		}
		return 1
	case "die":
		return 3
	case "end":
	case "describe":
		fmt.Fprint(news, describe(news.w))
		return 1
	}
	return 0
}

// describe says what this process got from the one that started it.
func describe(w *os.File) string {
	dir, _ := os.Getwd()
	session, _ := unix.Getsid(0)
	_, env := os.LookupEnv(newsEnv)
	flags, _ := unix.FcntlInt(w.Fd(), unix.F_GETFD, 0)
	return fmt.Sprintf("dir %s, args %q, own session %v, told again %v, inherited on %v",
		dir, os.Args, session == os.Getpid(), env || TakeNews() != nil, flags&unix.FD_CLOEXEC == 0)
}

func TestStart(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	description := func(dir string) string {
		return fmt.Sprintf(`dir %s, args ["name" "--flag"], own session true, told again false, inherited on false`, dir)
	}
	for _, c := range []struct {
		role, dir, want string
		refusal         bool
	}{
		{role: "serve"},
		{role: "complain", want: "first\nsecond\n", refusal: true},
		{role: "fail", want: "no such server", refusal: true},
		{role: "talk", want: strings.Repeat("x", maxNews), refusal: true},
		{role: "die", want: "the server ended while it started: exit status 3"},
		{role: "end", want: "the server ended while it started: exit status 0"},
		{role: "describe", dir: "/", want: description("/"), refusal: true},
		{role: "describe", want: description(here), refusal: true},
	} {
		t.Setenv(roleEnv, c.role)
		err := Start([]string{"name", "--flag"}, c.dir)
		var refusal *Refusal
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.role, err)
		case c.want != "" && (err == nil || err.Error() != c.want):
			t.Errorf("%s: %v, want %s", c.role, err, c.want)
		case errors.As(err, &refusal) != c.refusal:
			t.Errorf("%s: %T", c.role, err)
		}
	}
}

func TestStartInNoFolder(t *testing.T) {
	if err := Start(os.Args[:1], "/nonexistent"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestNobodyWaits(t *testing.T) {
	var none *News
	if _, err := none.Write([]byte("a complaint")); err != nil {
		t.Error(err)
	}
	if err := none.Ready(); err != nil {
		t.Error(err)
	}
	none.Fail(errors.New("a reason"))
}

// TestForegroundHalfKilled: that is the foreground half's trouble only.
func TestForegroundHalfKilled(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	if err := newNews(w).Ready(); err != nil {
		t.Error(err)
	}
}

// TestNothingBehindTheMark: a line that is logged at the moment of Ready must not hide that the daemon serves.
func TestNothingBehindTheMark(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	news := newNews(w)
	fmt.Fprint(news, "early")
	for range 2 { // again is harmless
		if err := news.Ready(); err != nil {
			t.Error(err)
		}
	}
	if _, err := news.Write([]byte("late")); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a late complaint: %v", err)
	}
	news.Fail(errors.New("late"))
	if said, err := io.ReadAll(r); err != nil || !bytes.Equal(said, []byte("early"+readyMark)) {
		t.Errorf("%q, %v", said, err)
	}
}

func TestTakeNewsNeedsAPipe(t *testing.T) {
	f, err := os.Create(t.TempDir() + "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, value := range []string{"", "three", "-1", "999999", fmt.Sprint(f.Fd())} {
		t.Setenv(newsEnv, value)
		if TakeNews() != nil {
			t.Errorf("%q is taken for a pipe", value)
		}
		if _, still := os.LookupEnv(newsEnv); still {
			t.Errorf("%q stays for the next", value)
		}
	}
}

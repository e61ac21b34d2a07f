package mgmt

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if path := os.Getenv("MGMT_TEST_LOCK"); path != "" {
		os.Exit(tryLock(path))
	}
	goleak.VerifyTestMain(m)
}

// tryLock is what a second daemon does, in a process of its own: locks belong to processes.
func tryLock(path string) int {
	s, err := Listen(path, Options{Log: slog.New(slog.DiscardHandler)})
	switch {
	case errors.Is(err, ErrLocked):
		return 3
	case err != nil:
		return 4
	}
	s.Close()
	return 0
}

// start serves a handler on a socket of its own until the test ends.
func start(t *testing.T, o Options) (*Server, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s.0")
	o.Log = slog.New(slog.DiscardHandler)
	s, err := Listen(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	s.Serve()
	return s, path
}

func echo(_ context.Context, r Request) Response {
	if r.Op == OpDelete {
		return Response{Err: ErrNoTarget}
	}
	return Response{Text: r.Params}
}

func TestCall(t *testing.T) {
	_, path := start(t, Options{Handler: echo})
	long := strings.Repeat("x", MaxParams-1)
	for _, c := range []struct {
		r    Request
		want Response
	}{
		{Request{Params: "hello"}, Response{Text: "hello"}},
		{Request{}, Response{}},
		{Request{Op: OpDelete, Params: "hello"}, Response{Err: ErrNoTarget}},
		{Request{Params: long}, Response{Text: long}},
	} {
		got, err := Call(t.Context(), path, c.r)
		if err != nil || got != c.want {
			t.Errorf("%+v: %.80v, %v; want %.80v", c.r.Op, got, err, c.want)
		}
	}
}

func TestCallNoDaemon(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.0")
	if _, err := Call(t.Context(), path, Request{}); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("no socket: %v", err)
	}
	s, err := Listen(path, Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	if _, err := Call(t.Context(), path, Request{}); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a socket that is left behind: %v", err)
	}
	for _, name := range []string{path, path + ".lock"} {
		if _, err := os.Stat(name); err != nil {
			t.Errorf("Close took a file away: %v", err)
		}
	}
}

func TestCallContext(t *testing.T) {
	entered := make(chan struct{})
	_, path := start(t, Options{Handler: func(ctx context.Context, _ Request) Response {
		close(entered)
		<-ctx.Done()
		return Response{}
	}})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-entered; cancel() }()
	if _, err := Call(ctx, path, Request{}); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled call: %v", err)
	}
}

func TestRefusedPeer(t *testing.T) {
	_, path := start(t, Options{Handler: echo, Allow: func(p Peer) bool {
		if p.UID != uint32(os.Getuid()) || p.GID != uint32(os.Getgid()) {
			t.Errorf("peer %+v", p)
		}
		return false
	}})
	// Whether the answer's end or the reset is seen first is a race.
	_, err := Call(t.Context(), path, Request{Params: "x"})
	if !errors.Is(err, ErrNoAnswer) && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("a peer that may not speak got %v", err)
	}
	if sameUser(Peer{UID: uint32(os.Getuid()), GID: uint32(os.Getgid()) + 1}) ||
		sameUser(Peer{UID: uint32(os.Getuid()) + 1, GID: uint32(os.Getgid())}) {
		t.Error("another user or group is let in")
	}
}

// send writes raw bytes and returns what comes back until the server hangs up.
func send(t *testing.T, path string, b []byte) []byte {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Fatal(err)
	}
	return got
}

func TestMalformedIsHungUpOn(t *testing.T) {
	_, path := start(t, Options{Handler: echo})
	ok := Request{Params: "x"}
	b, err := ok.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	short, long := append([]byte(nil), b...), append([]byte(nil), b...)
	short[offLen] = 119
	long[offLen+1] = 0xff
	for _, in := range [][]byte{short, long} {
		if got := send(t, path, in); len(got) != 0 {
			t.Errorf("answered %x", got)
		}
	}
	if got := send(t, path, b); len(got) != ResponseHeaderSize+2 {
		t.Errorf("a good request after bad ones: %x", got)
	}
}

func TestHalfRequestTimesOutAndHindersNobody(t *testing.T) {
	_, path := start(t, Options{Handler: echo, RequestTimeout: 50 * time.Millisecond})
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(make([]byte, HeaderSize/2)); err != nil {
		t.Fatal(err)
	}
	if r, err := Call(t.Context(), path, Request{Params: "x"}); err != nil || r.Text != "x" {
		t.Errorf("beside half a request: %+v, %v", r, err)
	}
	if n, err := c.Read(make([]byte, 1)); err == nil {
		t.Errorf("half a request was answered with %d bytes", n)
	}
}

func TestWaitingRequestHindersNobody(t *testing.T) {
	release, entered := make(chan struct{}), make(chan struct{})
	_, path := start(t, Options{Handler: func(ctx context.Context, r Request) Response {
		if r.Op == OpNew {
			close(entered)
			<-release
		}
		return Response{Text: r.Op.String()}
	}})
	slow := make(chan error, 1)
	go func() {
		_, err := Call(context.Background(), path, Request{Op: OpNew})
		slow <- err
	}()
	<-entered
	if r, err := Call(t.Context(), path, Request{Op: OpShow}); err != nil || r.Text != "show" {
		t.Errorf("show beside a waiting new: %+v, %v", r, err)
	}
	close(release)
	if err := <-slow; err != nil {
		t.Error(err)
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	release, entered := make(chan struct{}), make(chan struct{}, MaxConnections+8)
	_, path := start(t, Options{Handler: func(context.Context, Request) Response {
		entered <- struct{}{}
		<-release
		return Response{}
	}})
	done := make(chan error)
	const calls = MaxConnections + 8
	for range calls {
		go func() {
			_, err := Call(context.Background(), path, Request{})
			done <- err
		}()
	}
	for range MaxConnections {
		<-entered
	}
	select {
	case <-entered:
		t.Errorf("more than %d requests at a time", MaxConnections)
	default:
	}
	close(release)
	for range calls {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestCloseAnswersWhatIsUnderWay(t *testing.T) {
	entered := make(chan struct{})
	s, path := start(t, Options{Handler: func(ctx context.Context, _ Request) Response {
		close(entered)
		<-ctx.Done()
		return Response{Text: "done\n"}
	}})
	idle, err := net.Dial("unix", path) // never sends a request: Close must not wait for it
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	answer := make(chan Response, 1)
	go func() {
		r, err := Call(context.Background(), path, Request{})
		if err != nil {
			t.Error(err)
		}
		answer <- r
	}()
	<-entered
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if r := <-answer; r.Text != "done\n" {
		t.Errorf("answer %+v", r)
	}
	if err := s.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

func TestSecondDaemonIsRefused(t *testing.T) {
	s, path := start(t, Options{Handler: echo})
	second := func() int {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "MGMT_TEST_LOCK="+path)
		err := cmd.Run()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return cmd.ProcessState.ExitCode()
	}
	if code := second(); code != 3 {
		t.Errorf("beside a living daemon: status %d, want 3", code)
	}
	s.Close()
	if code := second(); code != 0 {
		t.Errorf("after the first has ended: status %d, want 0", code)
	}
}

func TestListenFails(t *testing.T) {
	_, err := Listen(filepath.Join(t.TempDir(), "none", "s.0"), Options{Log: slog.New(slog.DiscardHandler)})
	if !errors.Is(err, ErrLockFile) || !errors.Is(err, syscall.ENOENT) {
		t.Errorf("no folder: %v", err)
	}
}

package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// newsEnv tells a process that it is a background half: it holds the number of the pipe for its news.
const newsEnv = "DAEMON_NEWS_FD"

// newsFD is that number: the first of exec.Cmd.ExtraFiles.
const newsFD = 3

// readyMark is the last that a background half writes, when it serves. What comes before are its complaints.
const readyMark = "\x00ready"

// maxNews is how many bytes of complaints a background half writes; the rest is cut. With the mark they fit a
// pipe's buffer, so that nobody waits for a foreground half that does not read.
const maxNews = 1<<16 - len(readyMark)

// Refusal is the error of Start when the background half ended and said why.
type Refusal struct{ Words string } // to the byte

// Error returns the words.
func (r *Refusal) Error() string { return r.Words }

// Start runs the program again as a background half: in a session of its own, in folder dir ("" for this one's),
// without a terminal. args are its arguments, the program's name first. Start returns nil once that half serves,
// and an error once it has ended without: a *Refusal if it said why.
func Start(args []string, dir string) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	cmd := &exec.Cmd{
		Path: program, Args: args, Dir: dir,
		Env:         append(os.Environ(), newsEnv+"="+strconv.Itoa(newsFD)),
		ExtraFiles:  []*os.File{w},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return err
	}
	said, err := io.ReadAll(r)
	if err != nil {
		return fmt.Errorf("waiting for news of process %d: %w", cmd.Process.Pid, err)
	}
	words, ready := bytes.CutSuffix(said, []byte(readyMark))
	if ready {
		return cmd.Process.Release()
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	switch {
	case err != nil && !errors.As(err, &exit):
		return err
	case len(words) > 0:
		return &Refusal{string(words)}
	}
	// It died without a word: killed, or by a panic.
	return fmt.Errorf("the server ended while it started: %v", cmd.ProcessState)
}

// News is a background half's way to the half in the foreground. A nil *News is that of a process that nobody
// started so: it may be told anything.
type News struct {
	mu   sync.Mutex
	w    *os.File // nil when all is said
	left int      // bytes of complaints that may still be written
}

// TakeNews returns the way to the foreground half, or nil if this process isn't a background half. It works once:
// processes that this one starts are none of the foreground half's business.
func TakeNews() *News {
	text, ok := os.LookupEnv(newsEnv)
	os.Unsetenv(newsEnv)
	fd, err := strconv.Atoi(text)
	if !ok || err != nil || fd < 0 {
		return nil
	}
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil || stat.Mode&unix.S_IFMT != unix.S_IFIFO {
		return nil // the variable came from somewhere else
	}
	unix.CloseOnExec(fd)
	return newNews(os.NewFile(uintptr(fd), "news"))
}

func newNews(w *os.File) *News { return &News{w: w, left: maxNews} }

// Write takes a complaint, which the user sees if the daemon does not come to serve. After Ready or Fail it returns
// os.ErrClosed.
func (n *News) Write(complaint []byte) (int, error) {
	if n == nil {
		return len(complaint), nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.w == nil {
		return 0, os.ErrClosed
	}
	fits := min(len(complaint), n.left)
	n.left -= fits
	if m, err := n.w.Write(complaint[:fits]); err != nil {
		return m, err
	}
	return len(complaint), nil
}

// Ready tells the foreground half that the daemon serves. That nobody listens any more is no error.
func (n *News) Ready() error {
	if err := n.end(readyMark); err != nil {
		return fmt.Errorf("reporting readiness: %w", err)
	}
	return nil
}

// Fail tells the foreground half why the daemon ends, if it has not heard that the daemon serves.
func (n *News) Fail(why error) {
	if n == nil {
		return
	}
	_, _ = io.WriteString(n, why.Error()) // an error here has nowhere to go
	_ = n.end("")
}

// end writes the last word and closes the pipe, once.
func (n *News) end(word string) error {
	if n == nil {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.w == nil {
		return nil
	}
	_, err := n.w.WriteString(word)
	if errors.Is(err, syscall.EPIPE) {
		err = nil // the foreground half was killed, which is not our trouble
	}
	err = errors.Join(err, n.w.Close())
	n.w = nil
	return err
}

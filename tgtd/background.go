package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// readyEnv tells a daemon that was started by background the number of the pipe to report on.
const readyEnv = "TGTD_READY_FD"

// readyMark is what a daemon writes when it serves. What it wrote before are its complaints.
const readyMark = "\x00ready"

// readyPipe is the daemon's end.
type readyPipe struct{ w *os.File }

// takeReadyPipe returns the pipe to the process that waits for this one, and the writer for messages up to
// then: the pipe, or stderr when there is none.
func takeReadyPipe(stderr io.Writer) (*readyPipe, io.Writer) {
	fd, err := strconv.Atoi(os.Getenv(readyEnv))
	os.Unsetenv(readyEnv)
	if err != nil {
		return nil, stderr
	}
	unix.CloseOnExec(fd)
	w := os.NewFile(uintptr(fd), "ready")
	return &readyPipe{w}, w
}

// report tells the waiting process, if there is one, that the daemon serves.
func (p *readyPipe) report() error {
	if p == nil {
		return nil
	}
	_, err := p.w.WriteString(readyMark)
	// EPIPE: it was killed, which is not our trouble.
	if err != nil && !errors.Is(err, syscall.EPIPE) {
		return fmt.Errorf("reporting readiness: %w", err)
	}
	return p.w.Close()
}

// background runs the program again as a daemon: own session, folder /, no terminal. It returns once that daemon
// serves, with status 0, or has ended, with status 1 and its complaint on stderr. (The original returns 0 at
// once, and a daemon that can't start dies unheard.)
func background(args []string, stderr io.Writer) int {
	fail := func(err error) int {
		fmt.Fprintf(stderr, "tgtd: can't go to the background: %v\n", err)
		return 1
	}
	program, err := os.Executable()
	if err != nil {
		return fail(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return fail(err)
	}
	defer r.Close()
	const fd = 3 // the first of ExtraFiles
	cmd := &exec.Cmd{
		Path: program, Args: args, Dir: "/",
		Env:         append(os.Environ(), fmt.Sprintf("%s=%d", readyEnv, fd)),
		ExtraFiles:  []*os.File{w},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return fail(err)
	}
	said, err := io.ReadAll(r)
	if err != nil {
		return fail(err)
	}
	complaint, ready := bytes.CutSuffix(said, []byte(readyMark))
	if ready {
		return 0
	}
	if err := cmd.Wait(); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			return fail(err)
		}
	}
	stderr.Write(complaint)
	return 1
}

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxOpenFiles is how many descriptors the daemon would like to have.
const maxOpenFiles = 1048576

// raiseLimits makes the daemon one of the last victims of the out-of-memory killer and lets it open many files.
// Where it may not, it says so and goes on.
func raiseLimits(stderr io.Writer) {
	const score = "/proc/self/oom_score_adj"
	if err := os.WriteFile(score, []byte("-1000"), 0); err != nil {
		fmt.Fprintf(stderr, "can't adjust oom-killer's pardon %s, %s\n", score, cause(err))
	}
	if err := raiseOpenFiles(); err != nil {
		fmt.Fprintf(stderr, "can't adjust nr_open %d %s\n", maxOpenFiles, cause(err))
	}
}

// raiseOpenFiles raises the system's limit, if need be, and then the process's. When that is refused, the process
// gets all that its hard limit allows.
func raiseOpenFiles() error {
	const limit = "/proc/sys/fs/nr_open"
	text, err := os.ReadFile(limit)
	if err != nil {
		return err
	}
	have, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return fmt.Errorf("%s: %w", limit, err)
	}
	if have < maxOpenFiles {
		err = os.WriteFile(limit, []byte(strconv.Itoa(maxOpenFiles)), 0)
	}
	var now unix.Rlimit
	if getErr := unix.Getrlimit(unix.RLIMIT_NOFILE, &now); getErr != nil {
		return getErr
	}
	want := unix.Rlimit{Cur: max(maxOpenFiles, now.Cur), Max: max(maxOpenFiles, now.Max)}
	if err == nil {
		err = unix.Setrlimit(unix.RLIMIT_NOFILE, &want)
	}
	if err != nil {
		now.Cur = now.Max
		return errors.Join(err, unix.Setrlimit(unix.RLIMIT_NOFILE, &now))
	}
	return nil
}

// cause is the operating system's text for an error, as C's strerror writes it.
func cause(err error) string {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return err.Error()
	}
	text := errno.Error()
	return strings.ToUpper(text[:1]) + text[1:]
}

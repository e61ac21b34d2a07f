package disk

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// lockName is the file in a server's folder that Lock holds.
const lockName = "lock"

// ErrLocked reports that another process works in the folder.
var ErrLocked = errors.New("the folder is in use")

// Lock takes the folder root for this process alone, until the result is closed or the process
// ends. The error of a folder taken already satisfies errors.Is with ErrLocked and names the
// process that holds it. The file stays behind; what counts is the lock on it, not that it exists.
func Lock(root string) (io.Closer, error) {
	name := filepath.Join(root, lockName)
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC|unix.O_NOFOLLOW, fileMode)
	if err != nil {
		return nil, fmt.Errorf("locking the storage folder: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = fmt.Errorf("%s: %w by %s", root, ErrLocked, holder(f))
	} else if err != nil {
		err = fmt.Errorf("locking %s: %w", name, err)
	} else {
		err = sign(f)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// sign writes this process's id into the lock file, for the error of whoever comes next. It is
// written over the one before, so that a full disk does not keep a server from starting again.
func sign(f *os.File) error {
	if _, err := f.WriteAt(fmt.Appendf(nil, "%-20d\n", os.Getpid()), 0); err != nil {
		return fmt.Errorf("signing the lock file: %w", err)
	}
	return nil
}

// holder names the process that signed the lock file, as well as it can be known.
func holder(f *os.File) string {
	text := make([]byte, 32)
	n, err := f.ReadAt(text, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return "another process"
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text[:n])))
	if err != nil {
		return "another process"
	}
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return fmt.Sprintf("another process (it was %d that locked it)", pid)
	}
	return fmt.Sprintf("process %d (%s)", pid, strings.TrimSpace(string(comm)))
}

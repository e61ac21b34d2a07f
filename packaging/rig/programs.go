package rig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

// Programs are the files of the programs, with their paths.
type Programs struct {
	PFSserver, CreateISCSIVol string
	Tgtd, Tgtadm, TgtAdmin    string
	Original                  bool // tgtd and its tools are those of tgt, which take fewer options
}

// Find looks for the project's programs in a folder. The error names all that are missing.
func Find(folder string) (Programs, error) {
	folder, err := filepath.Abs(folder)
	if err != nil {
		return Programs{}, err
	}
	p := Programs{
		PFSserver: filepath.Join(folder, "PFSserver"), CreateISCSIVol: filepath.Join(folder, "createISCSIVol"),
		Tgtd: filepath.Join(folder, "tgtd"), Tgtadm: filepath.Join(folder, "tgtadm"), TgtAdmin: filepath.Join(folder, "tgt-admin"),
	}
	var missing []string
	for _, f := range []string{p.PFSserver, p.CreateISCSIVol, p.Tgtd, p.Tgtadm, p.TgtAdmin} {
		if _, err := os.Stat(f); err != nil {
			missing = append(missing, filepath.Base(f))
		}
	}
	if len(missing) > 0 {
		return Programs{}, fmt.Errorf("%s has no %s: `make build` makes them", folder, strings.Join(missing, ", "))
	}
	return p, nil
}

// ExitError is a program that ended with another status than 0. Output is all that it said, on both
// channels.
type ExitError struct {
	Command string
	Status  int // -1: ended by a signal
	Output  string
}

// Error implements error.
func (e *ExitError) Error() string {
	return fmt.Sprintf("`%s` ends with status %d: %s", e.Command, e.Status, strings.TrimSpace(e.Output))
}

// Run runs a program to its end and returns what it wrote to standard output. env is added to the
// environment. A status other than 0 is an *ExitError. A program that is not done when ctx ends is killed.
func Run(ctx context.Context, env []string, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), env...)
	var stdout bytes.Buffer
	var both transcript
	cmd.Stdout = io.MultiWriter(&stdout, &both)
	cmd.Stderr = &both
	err := cmd.Run()
	line := strings.Join(append([]string{filepath.Base(program)}, args...), " ")
	var exit *exec.ExitError
	switch {
	case err == nil:
		return stdout.String(), nil
	case ctx.Err() != nil:
		return stdout.String(), fmt.Errorf("`%s` was not done in time: %w: %s", line, ctx.Err(), strings.TrimSpace(both.String()))
	case errors.As(err, &exit):
		return stdout.String(), &ExitError{line, exit.ExitCode(), both.String()}
	}
	return "", fmt.Errorf("run `%s`: %w", line, err)
}

// transcript is what a program writes to both channels, each of which has its own goroutine.
type transcript struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (t *transcript) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.Write(b)
}

func (t *transcript) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.String()
}

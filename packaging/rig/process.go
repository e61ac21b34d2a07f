package rig

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// tailBytes is how much of a log is looked at for its last lines.
const tailBytes = 16 << 10

// Command says what a Process runs.
type Command struct {
	Name    string // for messages: "server 3"
	Program string
	Args    []string
	Env     []string // added to the environment
	Log     string   // file that standard output and error are appended to
	// Namespace is the network namespace that it runs in, by the name that `ip netns` knows it by; empty: the rig's own.
	Namespace string
}

// Process is a program that may be started, killed, frozen and started again. Its methods may be called from
// any goroutine.
type Process struct {
	cmd Command

	mu     sync.Mutex
	proc   *os.Process
	pid    int           // of the latest start
	exited chan struct{} // closed when the latest start is over; nil before the first
	state  *os.ProcessState
	frozen bool
	killed bool          // the latest start was ended by us
	cpu    time.Duration // of the starts that are over
}

// NewProcess returns a process that is not started yet.
func NewProcess(c Command) *Process { return &Process{cmd: c} }

// Name is what messages call the process.
func (p *Process) Name() string { return p.cmd.Name }

// Log is the file that the process writes to.
func (p *Process) Log() string { return p.cmd.Log }

// Start starts the process. It is an error if it runs already.
func (p *Process) Start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running() {
		return fmt.Errorf("start %s: it runs already", p.cmd.Name)
	}
	log, err := os.OpenFile(p.cmd.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("start %s: %w", p.cmd.Name, err)
	}
	argv := append([]string{p.cmd.Program}, p.cmd.Args...)
	if p.cmd.Namespace != "" {
		// ip becomes the program, with the same process id.
		argv = append([]string{"ip", "netns", "exec", p.cmd.Namespace}, argv...)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), p.cmd.Env...)
	cmd.Stdout, cmd.Stderr = log, log
	// A process group of its own: a Ctrl-C at the terminal is for us, who then end it in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	exited := make(chan struct{})
	go func() {
		// Pdeathsig is sent when the thread ends that has started the process, so the thread stays for it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		log.Close()
		started <- err
		if err != nil {
			return
		}
		_ = cmd.Wait() // what matters of it is in ProcessState
		p.mu.Lock()
		p.state = cmd.ProcessState
		p.cpu += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
		p.mu.Unlock()
		close(exited)
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", p.cmd.Name, err)
	}
	p.proc, p.pid, p.exited, p.state, p.frozen, p.killed = cmd.Process, cmd.Process.Pid, exited, nil, false, false
	return nil
}

// running is whether the latest start is not over. The process is locked.
func (p *Process) running() bool {
	if p.exited == nil {
		return false
	}
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// Running says whether the process runs; a frozen one does.
func (p *Process) Running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.running()
}

// Killed says whether the latest start was ended, or is being ended, by a signal from here.
func (p *Process) Killed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.killed
}

// Responsive says whether the process runs and is not frozen.
func (p *Process) Responsive() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.running() && !p.frozen
}

// PID is the process id of the latest start, 0 before the first.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pid
}

// Signal sends a signal. It is an error if the process does not run.
func (p *Process) Signal(s syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.running() {
		return fmt.Errorf("%v to %s: it does not run%s", s, p.cmd.Name, p.how())
	}
	if err := p.proc.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("%v to %s: %w", s, p.cmd.Name, err)
	}
	switch s {
	case syscall.SIGSTOP:
		p.frozen = true
	case syscall.SIGCONT:
		p.frozen = false
	case syscall.SIGKILL, syscall.SIGTERM, syscall.SIGINT:
		p.killed = true
	}
	return nil
}

// how tells how the latest start ended. The process is locked.
func (p *Process) how() string {
	if p.state == nil {
		return ""
	}
	return " (" + p.state.String() + ")"
}

// Kill ends the process with SIGKILL and waits until it is gone. It is an error if it does not run.
func (p *Process) Kill() error {
	if err := p.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-p.Exited()
	return nil
}

// KillAll ends several processes in one instant with SIGKILL, and then waits until all are gone. It is an error
// if one of them does not run; the others are killed all the same.
func KillAll(all ...*Process) error {
	var errs []error
	for _, p := range all {
		errs = append(errs, p.Signal(syscall.SIGKILL))
	}
	for i, p := range all {
		if errs[i] == nil {
			<-p.Exited()
		}
	}
	return errors.Join(errs...)
}

// Freeze stops the process where it is (SIGSTOP): its sockets stay open and nobody answers.
func (p *Process) Freeze() error { return p.Signal(syscall.SIGSTOP) }

// Thaw lets a frozen process go on.
func (p *Process) Thaw() error { return p.Signal(syscall.SIGCONT) }

// Close kills the process if it runs, and waits until it is gone.
func (p *Process) Close() {
	if p.Running() {
		_ = p.Kill() // it may have ended by itself meanwhile
	}
}

// Exited is closed when the latest start is over; it is nil before the first.
func (p *Process) Exited() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.exited
}

// Failed is nil while the process runs; then it says how it ended, with the end of its log.
func (p *Process) Failed() error {
	p.mu.Lock()
	over, how := !p.running(), p.how()
	p.mu.Unlock()
	if !over {
		return nil
	}
	return fmt.Errorf("%s has ended%s; %s", p.cmd.Name, how, p.Tail(10))
}

// Tail is the end of the process's log, ready to be shown below an error.
func (p *Process) Tail(lines int) string { return Tail(p.cmd.Log, lines) }

// Tail is the end of a file, with a line that names the file.
func Tail(file string, lines int) string {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Sprintf("its log can't be read: %v", err)
	}
	defer f.Close()
	b := make([]byte, tailBytes)
	var n int
	if info, err := f.Stat(); err == nil {
		n, _ = f.ReadAt(b, max(0, info.Size()-tailBytes))
	}
	all := strings.Split(strings.TrimRight(string(b[:n]), "\n"), "\n")
	all = all[max(0, len(all)-lines):]
	return fmt.Sprintf("%s ends with\n    %s", file, strings.Join(all, "\n    "))
}

// ticksPerSecond is the unit of /proc/PID/stat's times on Linux (USER_HZ).
const ticksPerSecond = 100

// CPU is the processor time, user and system, that all starts of the process have used so far. Its
// resolution is 10 ms.
func (p *Process) CPU() (time.Duration, error) {
	p.mu.Lock()
	running, pid, before := p.running(), p.pid, p.cpu
	p.mu.Unlock()
	if !running {
		return before, nil
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("processor time of %s: %w", p.cmd.Name, err)
	}
	// The name, in parentheses, may hold anything; utime and stime are the 12th and 13th field behind it.
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < 13 {
		return 0, fmt.Errorf("processor time of %s: %q", p.cmd.Name, b)
	}
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(string(f), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("processor time of %s: %w", p.cmd.Name, err)
		}
		ticks += n
	}
	return before + time.Duration(ticks)*(time.Second/ticksPerSecond), nil
}

// CPU is the processor time of several processes together.
func CPU(all ...*Process) (time.Duration, error) {
	var sum time.Duration
	for _, p := range all {
		d, err := p.CPU()
		if err != nil {
			return 0, err
		}
		sum += d
	}
	return sum, nil
}

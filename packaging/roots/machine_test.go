package roots

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// stepTimeout bounds every command and every wait: what takes longer has gone wrong. Nothing is asserted about time.
const stepTimeout = 2 * time.Minute

// machineEnv makes this test program the first process of a machine. It holds the machine's host name, its base
// and its folder, parted by lines.
const machineEnv = "PACKAGES_TEST_MACHINE"

// machine is a system of its own: a root that starts as the base, its own processes, host name and network.
type machine struct {
	t      *testing.T
	name   string
	folder string // of what is its own: changes to the base, and the disk on /pss
	pid    int    // of its first process
}

// boot starts a machine. It is gone, with all of its processes, at the end of the test.
func boot(t *testing.T, name, base string) *machine {
	t.Helper()
	folder := t.TempDir()
	for _, sub := range []string{"changes", "work", "root", "pss"} {
		if err := os.Mkdir(filepath.Join(folder, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	first := exec.Command("/proc/self/exe")
	first.Env = append(os.Environ(), machineEnv+"="+strings.Join([]string{name, base, folder}, "\n"))
	first.Stderr = os.Stderr
	first.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
		Pdeathsig:  syscall.SIGKILL,
	}
	stdin, err := first.StdinPipe() // its end is the machine's
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := first.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Start(); err != nil {
		t.Fatalf("machine %s: %v", name, err)
	}
	t.Cleanup(func() {
		stdin.Close()
		_ = first.Wait() // the kernel ends its processes before it
	})
	if word, err := io.ReadAll(io.LimitReader(stdout, int64(len(bootedMark)))); string(word) != bootedMark {
		t.Fatalf("machine %s did not boot: %v", name, err)
	}
	m := &machine{t, name, folder, first.Process.Pid}
	// Packages start and stop services here, as they do where an init system runs.
	m.put("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 0\n")
	if r := m.run("chmod +x /usr/sbin/policy-rc.d"); r.status != 0 {
		t.Fatal(r.output)
	}
	return m
}

const bootedMark = "booted\n"

// firstProcess is the life of a machine's first process: it makes the root, and then ends processes' ghosts until
// its standard input ends.
func firstProcess(what string) error {
	parts := strings.Split(what, "\n")
	if len(parts) != 3 {
		return fmt.Errorf("%s is not that of this test", machineEnv)
	}
	name, base, folder := parts[0], parts[1], parts[2]
	root := filepath.Join(folder, "root")
	layers := fmt.Sprintf("lowerdir=%s,upperdir=%s/changes,workdir=%s/work", base, folder, folder)
	if err := errors.Join(
		unix.Sethostname([]byte(name)),
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount("overlay", root, "overlay", 0, layers),
		unix.Mount("proc", filepath.Join(root, "proc"), "proc", 0, ""),
		unix.Mount("tmpfs", filepath.Join(root, "run"), "tmpfs", 0, "mode=755"),
		os.MkdirAll(filepath.Join(root, "pss"), 0o755),
		// The mounted file system that the manual wants.
		unix.Mount(filepath.Join(folder, "pss"), filepath.Join(root, "pss"), "", unix.MS_BIND, ""),
		unix.Chroot(root), unix.Chdir("/"),
	); err != nil {
		return fmt.Errorf("machine %s: %w", name, err)
	}
	dead := make(chan os.Signal, 1)
	signal.Notify(dead, unix.SIGCHLD)
	over := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(over)
	}()
	fmt.Print(bootedMark)
	for {
		select {
		case <-over:
			return nil
		case <-dead:
			for {
				if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); pid <= 0 || err != nil {
					break
				}
			}
		}
	}
}

// result is what a command said, on both channels, and how it ended.
type result struct {
	line   string
	output string
	status int
}

// run runs a shell command in the machine.
func (m *machine) run(command string) result {
	m.t.Helper()
	return m.enter(command, "--mount", "--root", "--wd", "--uts", "--ipc", "--pid", "--net", "--", "/bin/sh", "-c", command)
}

// runHost runs a program of this system on the machine's network.
func (m *machine) runHost(program ...string) result {
	m.t.Helper()
	return m.enter(strings.Join(program, " "), append([]string{"--net", "--"}, program...)...)
}

func (m *machine) enter(line string, args ...string) result {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), stepTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--target", strconv.Itoa(m.pid)}, args...)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8", "TERM=dumb", "DEBIAN_FRONTEND=noninteractive"}
	// A file, not a pipe: a daemon that the command leaves behind may keep it open.
	output, err := os.CreateTemp(m.folder, "output-")
	if err != nil {
		m.t.Fatal(err)
	}
	defer os.Remove(output.Name())
	defer output.Close()
	cmd.Stdout, cmd.Stderr = output, output
	err = cmd.Run()
	said, readErr := os.ReadFile(output.Name())
	if readErr != nil {
		m.t.Fatal(readErr)
	}
	r := result{line, string(said), cmd.ProcessState.ExitCode()}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		m.t.Fatalf("%s# %s: %v\n%s", m.name, line, err, r.output)
	}
	return r
}

// do runs a command that must succeed, and shows it as an operator sees it.
func (m *machine) do(command string) string {
	m.t.Helper()
	r := m.run(command)
	m.t.Logf("%s# %s\n%s", m.name, command, r.output)
	if r.status != 0 {
		m.t.Fatalf("%s# %s: status %d", m.name, command, r.status)
	}
	return r.output
}

// fails runs a command that must end with a status other than 0.
func (m *machine) fails(command string) string {
	m.t.Helper()
	r := m.run(command)
	m.t.Logf("%s# %s\n%s(status %d)", m.name, command, r.output, r.status)
	if r.status == 0 {
		m.t.Fatalf("%s# %s: did not fail", m.name, command)
	}
	return r.output
}

// eventually runs a command until it succeeds and its output passes.
func (m *machine) eventually(command string, passes func(output string) bool) string {
	m.t.Helper()
	end := time.Now().Add(stepTimeout)
	for {
		r := m.run(command)
		if r.status == 0 && (passes == nil || passes(r.output)) {
			m.t.Logf("%s# %s\n%s", m.name, command, r.output)
			return r.output
		}
		if time.Now().After(end) {
			m.t.Fatalf("%s# %s: not in time; status %d:\n%s", m.name, command, r.status, r.output)
		}
		time.Sleep(100 * time.Millisecond) // between questions
	}
}

// put writes a file of the machine.
func (m *machine) put(file, text string) {
	m.t.Helper()
	m.copyIn(file, []byte(text))
}

// copyFile puts a file of this system on the machine.
func (m *machine) copyFile(file, from string) {
	m.t.Helper()
	content, err := os.ReadFile(from)
	if err != nil {
		m.t.Fatal(err)
	}
	m.copyIn(file, content)
}

func (m *machine) copyIn(file string, content []byte) {
	m.t.Helper()
	full := filepath.Join("/proc", strconv.Itoa(m.pid), "root", file)
	if err := errors.Join(os.MkdirAll(filepath.Dir(full), 0o755), os.WriteFile(full, content, 0o644)); err != nil {
		m.t.Fatal(err)
	}
}

// network puts machines on one wire, which is a machine of its own. Addresses are 10.99.0.1 and up.
func network(t *testing.T, base string, machines ...*machine) {
	t.Helper()
	wire := boot(t, "wire", base)
	must := func(m *machine, words string) {
		t.Helper()
		if r := m.runHost(strings.Fields(words)...); r.status != 0 {
			t.Fatalf("%s: %s", r.line, r.output)
		}
	}
	must(wire, "ip link add wire type bridge")
	must(wire, "ip link set wire up")
	for i, m := range machines {
		must(wire, fmt.Sprintf("ip link add port%d type veth peer name eth0 netns %d", i, m.pid))
		must(wire, fmt.Sprintf("ip link set port%d master wire up", i))
		must(m, fmt.Sprintf("ip address add %s/24 dev eth0", address(i)))
		must(m, "ip link set eth0 up")
		must(m, "ip link set lo up")
	}
}

func address(i int) string { return fmt.Sprintf("10.99.0.%d", i+1) }

// all does something on several machines at the same time.
func all(machines []*machine, do func(m *machine)) {
	done := make(chan struct{}, len(machines))
	for _, m := range machines {
		go func() {
			defer func() { done <- struct{}{} }() // t.Fatal ends the goroutine
			do(m)
		}()
	}
	for range machines {
		<-done
	}
	if t := machines[0].t; t.Failed() {
		t.FailNow()
	}
}

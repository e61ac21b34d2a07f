package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/paxos-iscsi/paxos-iscsi/packaging/rig"
)

// processClock reads the clock of the processor time that a process has used, user and system, with its threads
// that have ended (clock_getcpuclockid(3)). It counts nanoseconds; /proc/PID/stat has the same figure in units
// of 10 ms, too coarse for a server that mostly waits for a disk.
func processClock(pid int) (time.Duration, error) {
	const scheduler = 2 // CPUCLOCK_SCHED
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|scheduler), &ts); err != nil {
		return 0, fmt.Errorf("processor clock of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// processorTime is what processes have used together.
func processorTime(all []*rig.Process) (time.Duration, error) {
	var sum time.Duration
	for _, p := range all {
		if err := p.Failed(); err != nil {
			return 0, err
		}
		d, err := processClock(p.PID())
		if err != nil {
			return 0, fmt.Errorf("%s: %w", p.Name(), err)
		}
		sum += d
	}
	return sum, nil
}

// ownTime is what this program, the load, has used.
func ownTime() (time.Duration, error) { return processClock(os.Getpid()) }

// userHZ is the unit of /proc/stat on Linux.
const userHZ = 100

// machineTime is what everything on this machine has used, and what the hypervisor took away.
func machineTime() (time.Duration, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, fmt.Errorf("processor time of the machine: %w", err)
	}
	return parseStat(string(b))
}

// parseStat reads the first line of /proc/stat (proc_stat(5)): cpu user nice system idle iowait irq softirq
// steal; guest times are in user and nice already.
func parseStat(text string) (time.Duration, error) {
	line, _, _ := strings.Cut(text, "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0, fmt.Errorf("processor time of the machine: /proc/stat begins with %q", line)
	}
	var ticks int64
	for i, f := range fields[1:9] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("processor time of the machine: %w", err)
		}
		if i != 3 && i != 4 { // idle, iowait
			ticks += n
		}
	}
	return time.Duration(ticks) * (time.Second / userHZ), nil
}

// usage is processor time, of all since some moment.
type usage struct {
	at                     time.Time
	servers, load, machine time.Duration
}

// usageNow reads all clocks.
func usageNow(servers []*rig.Process) (usage, error) {
	u := usage{at: time.Now()}
	var err error
	if u.servers, err = processorTime(servers); err != nil {
		return u, err
	}
	if u.load, err = ownTime(); err != nil {
		return u, err
	}
	u.machine, err = machineTime()
	return u, err
}

// since is what was used between two readings; others is what neither the servers nor the load used: other
// processes, and work that the kernel does for nobody in particular.
func (u usage) since(before usage) (elapsed, servers, load, others time.Duration) {
	elapsed = u.at.Sub(before.at)
	servers, load = u.servers-before.servers, u.load-before.load
	return elapsed, servers, load, max(0, u.machine-before.machine-servers-load)
}

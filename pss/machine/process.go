package machine

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
)

// Self is this process as ps shows it, but for the command.
func Self() (admin.Process, error) {
	b, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return admin.Process{}, fmt.Errorf("read this process's state: %w", err)
	}
	return parseStat(string(b))
}

// The kernel's units in /proc/PID/stat (proc(5)).
const (
	clockTicks = 100 // a second, USER_HZ on every architecture that Go knows
	pageBytes  = 4096
)

// parseStat reads a line of /proc/PID/stat (proc(5)).
func parseStat(line string) (admin.Process, error) {
	end := strings.LastIndexByte(line, ')') // the name before it may have blanks and brackets
	if end < 0 {
		return admin.Process{}, fmt.Errorf("%q is no state of a process", line)
	}
	fields := strings.Fields(line[end+1:])
	if len(fields) < 22 {
		return admin.Process{}, fmt.Errorf("%q is no state of a process", line)
	}
	number := func(i int) int64 { // fields are numbered from 3 in proc(5), the first after the name
		n, err := strconv.ParseInt(fields[i-3], 10, 64)
		if err != nil {
			return 0
		}
		return n
	}
	p := admin.Process{PID: os.Getpid(), TTY: "?", State: fields[0], CPUSecs: (number(14) + number(15)) / clockTicks,
		RSS: number(24) * pageBytes}
	if number(7) != 0 {
		p.TTY = fmt.Sprintf("tty%d", number(7))
	}
	if number(19) > 0 {
		p.State += "N"
	}
	if number(6) == number(5) && number(6) == int64(p.PID) {
		p.State += "s"
	}
	if number(20) > 1 {
		p.State += "l"
	}
	return p, nil
}

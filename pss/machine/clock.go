package machine

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// SinceBoot is the time since the machine started, the time it was suspended included: a master that was
// suspended must not believe a lease that ran out meanwhile, and Go's monotonic clock stands still then.
func SinceBoot() time.Duration {
	var ts unix.Timespec
	if _, _, errno := unix.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_BOOTTIME, uintptr(unsafe.Pointer(&ts)), 0); errno != 0 {
		panic("machine: no clock that counts suspension: " + errno.Error()) // every Linux since 2.6.39 has it
	}
	return time.Duration(ts.Nano())
}

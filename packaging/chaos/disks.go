package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// serverDisk is a server's own file system: an ext4 in a file, mounted through a loop device. It can be filled and slowed.
type serverDisk struct {
	path   string // where it is mounted
	device string // of the loop device, MAJOR:MINOR
}

// ballast is the file that fills a disk.
const ballast = "ballast"

// slowWrites is how many writes a second a slowed disk does. fdatasync waits for them.
const slowWrites = 20

// newDisk makes a disk of so many bytes. It is gone with the mount namespace, its file stays in dir.
func newDisk(dir, name string, bytes int64) (*serverDisk, error) {
	file, d := filepath.Join(dir, name+".img"), &serverDisk{path: filepath.Join(dir, name)}
	if err := os.MkdirAll(d.path, 0o755); err != nil {
		return nil, fmt.Errorf("make the disk %s: %w", name, err)
	}
	f, err := os.Create(file)
	if err == nil {
		err = errors.Join(f.Truncate(bytes), f.Close())
	}
	if err != nil {
		return nil, fmt.Errorf("make the disk %s: %w", name, err)
	}
	for _, argv := range [][]string{
		{"mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=0,nodiscard", file},
		{"mount", "-o", "loop,noatime", file, d.path},
	} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("make the disk %s: %s: %w: %s", name, argv[0], err, strings.TrimSpace(string(out)))
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(d.path, &st); err != nil {
		return nil, fmt.Errorf("make the disk %s: %w", name, err)
	}
	d.device = fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
	return d, os.Remove(filepath.Join(d.path, "lost+found"))
}

// fill takes all space that is left but a little.
func (d *serverDisk) fill() error {
	var st unix.Statfs_t
	if err := unix.Statfs(d.path, &st); err != nil {
		return fmt.Errorf("fill %s: %w", d.path, err)
	}
	f, err := os.Create(filepath.Join(d.path, ballast))
	if err != nil {
		return fmt.Errorf("fill %s: %w", d.path, err)
	}
	defer f.Close()
	const left = 4 << 20
	if size := int64(st.Bavail)*st.Bsize - left; size > 0 {
		if err := unix.Fallocate(int(f.Fd()), 0, 0, size); err != nil && !errors.Is(err, unix.ENOSPC) {
			return fmt.Errorf("fill %s: %w", d.path, err)
		}
	}
	return nil
}

// empty gives the space back.
func (d *serverDisk) empty() error {
	if err := os.Remove(filepath.Join(d.path, ballast)); err != nil {
		return fmt.Errorf("empty %s: %w", d.path, err)
	}
	return nil
}

// throttleRoot is the cgroup (version 1) whose limits slow a process's writes to one device.
const throttleRoot = "/sys/fs/cgroup/blkio"

// canSlow says whether this machine can slow a disk: dm-delay is in few kernels, this cgroup in more.
func canSlow() bool {
	_, err := os.Stat(filepath.Join(throttleRoot, "blkio.throttle.write_iops_device"))
	return err == nil
}

// slower slows one server's writes to its disk.
type slower struct{ group string }

// slow makes the writes of a process to a disk slow, until release. The group is named after the device, which no
// other run has at this time.
func slow(d *serverDisk, pid int) (*slower, error) {
	s := &slower{group: filepath.Join(throttleRoot, "chaos-"+strings.ReplaceAll(d.device, ":", "-"))}
	if err := os.Mkdir(s.group, 0o755); err != nil {
		return nil, fmt.Errorf("slow %s: %w", d.path, err)
	}
	if err := s.write("blkio.throttle.write_iops_device", fmt.Sprintf("%s %d", d.device, slowWrites)); err != nil {
		return nil, errors.Join(err, os.Remove(s.group))
	}
	if err := s.write("cgroup.procs", strconv.Itoa(pid)); err != nil {
		return nil, errors.Join(err, os.Remove(s.group))
	}
	return s, nil
}

func (s *slower) write(file, text string) error {
	if err := os.WriteFile(filepath.Join(s.group, file), []byte(text), 0o644); err != nil {
		return fmt.Errorf("slow a disk: %w", err)
	}
	return nil
}

// release lets the process write at full speed again. The process may have ended meanwhile.
func (s *slower) release(pid int) error {
	err := os.WriteFile(filepath.Join(throttleRoot, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644)
	if errors.Is(err, unix.ESRCH) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("let a disk go: %w", err)
	}
	return s.remove()
}

// remove takes the limit away once no process is under it.
func (s *slower) remove() error {
	if err := os.Remove(s.group); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("let a disk go: %w", err)
	}
	return nil
}

// removeAll removes a run's folder with the disks that are mounted below it.
func removeAll(dir string) error {
	mounts, err := filepath.Glob(filepath.Join(dir, "*.img"))
	if err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	for _, m := range mounts {
		if err := unix.Unmount(strings.TrimSuffix(m, ".img"), 0); err != nil {
			return fmt.Errorf("clean up: unmount %s: %w", m, err)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	return nil
}

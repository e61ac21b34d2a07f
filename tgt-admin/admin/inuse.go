package admin

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/paxos-iscsi/paxos-iscsi/tgt-admin/conf"
)

// mayUse says that the unit's file or device is free, or may be used although it is not.
func (u *unit) mayUse() bool {
	allowed := func(s *conf.Section) bool { return firstText(s.Values["allow-in-use"]) == "yes" }
	if u.force || allowed(u.section) || allowed(u.block) {
		return true
	}
	if isHeld(u.path) {
		u.remark("# Device %s is used by the system (mounted, used by swap?).", u.path)
	} else {
		used, err := u.env.Users(u.path)
		if err != nil {
			u.remark("# Can't reliably check if device is not in use: %v.", err)
		}
		if !used {
			return true
		}
		u.remark("# Device %s is used (already tgtd target?).", u.path)
		u.remark("# Run 'lsof %s' to see the details.", u.path)
	}
	u.remark("# Skipping device %s - it is in use.", u.path)
	u.remark("# You can override it with --force or 'allow-in-use yes' config option.")
	u.remark("# Note - do so only if you know what you're doing, you may damage your data.")
	return false
}

// exists says that there is something to make a unit of.
func (u *unit) exists() bool {
	if info, err := os.Stat(u.path); err == nil && !info.IsDir() {
		return true
	}
	u.remark("# Skipping device: %s", u.path)
	u.remark("# %s does not exist - please check the configuration file", u.path)
	return false
}

// isHeld says that the kernel has claimed a block device for itself, for a mount or for swap: then it
// cannot be opened exclusively.
func isHeld(path string) bool {
	info, err := os.Stat(path)
	if err != nil || info.Mode()&os.ModeDevice == 0 || info.Mode()&os.ModeCharDevice != 0 {
		return false
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_EXCL|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return errors.Is(err, unix.EBUSY)
	}
	unix.Close(fd)
	return false
}

// node identifies a file: a device by its number, anything else by its place on its file system.
type node struct {
	device bool
	number uint64 // of the device, else of the file system
	inode  uint64
}

// nodeOf returns the node that path leads to and its file system. It takes what the kernel knows at
// hand, so that a server of a network file system that does not answer cannot hold it up.
func nodeOf(path string) (n node, filesystem uint64, err error) {
	var s unix.Statx_t
	err = unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE|unix.STATX_INO, &s)
	if err != nil {
		return node{}, 0, err
	}
	filesystem = unix.Mkdev(s.Dev_major, s.Dev_minor)
	if s.Mode&unix.S_IFMT == unix.S_IFBLK {
		return node{device: true, number: unix.Mkdev(s.Rdev_major, s.Rdev_minor)}, filesystem, nil
	}
	return node{number: filesystem, inode: s.Ino}, filesystem, nil
}

// hasUsers says that some process has the file open or mapped, runs it, or has the directory as its
// working directory or root. Of a mount point every file on the file system counts. proc is where
// procfs is mounted. Processes that may not be looked into and those that end meanwhile do not count.
func hasUsers(proc, path string) (bool, error) {
	want, filesystem, err := nodeOf(path)
	if err != nil {
		return false, nil // what is not there has no users
	}
	mounted := isMountPoint(path, filesystem)
	entries, err := os.ReadDir(proc)
	if err != nil {
		return false, fmt.Errorf("looking through processes: %w", err)
	}
	is := func(link string) bool {
		n, fs, err := nodeOf(link)
		return err == nil && (n == want || mounted && fs == filesystem)
	}
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		dir := filepath.Join(proc, e.Name())
		if is(dir+"/cwd") || is(dir+"/root") || is(dir+"/exe") || !want.device && hasMapped(dir, want) {
			return true, nil
		}
		open, err := os.ReadDir(dir + "/fd")
		if err != nil {
			continue
		}
		for _, fd := range open {
			if is(dir + "/fd/" + fd.Name()) {
				return true, nil
			}
		}
	}
	return false, nil
}

// isMountPoint says that a directory is on another file system than the one it stands in.
func isMountPoint(path string, filesystem uint64) bool {
	info, err := os.Stat(path)
	if err != nil || !info.IsDir() {
		return false
	}
	_, above, err := nodeOf(path + "/..")
	return err == nil && above != filesystem
}

// hasMapped says that the process of that directory of procfs has the file mapped.
func hasMapped(dir string, want node) bool {
	f, err := os.Open(dir + "/maps")
	if err != nil {
		return false
	}
	defer f.Close()
	device := fmt.Sprintf("%02x:%02x", unix.Major(want.number), unix.Minor(want.number))
	inode := strconv.FormatUint(want.inode, 10)
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// address perms offset device inode path
		if fields := strings.Fields(lines.Text()); len(fields) > 4 && fields[4] == inode && fields[3] == device {
			return true
		}
	}
	return false
}

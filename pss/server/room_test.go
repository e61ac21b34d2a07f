package main

import (
	"errors"
	"os"
	"syscall"
	"testing"
)

// onSmallDisk puts a site's root on a disk of 8 MiB, and returns what makes it larger.
func onSmallDisk(t *testing.T) (s *site, enlarge func()) {
	s = newSite(t)
	check(t, os.Mkdir(s.root, 0o750))
	if err := syscall.Mount("none", s.root, "tmpfs", 0, "size=8m"); errors.Is(err, os.ErrPermission) {
		t.Skip("mounting a small disk needs root")
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { check(t, syscall.Unmount(s.root, 0)) })
	return s, func() { check(t, syscall.Mount("none", s.root, "tmpfs", syscall.MS_REMOUNT, "size=512m")) }
}

// TestWaitsForRoom: a server whose disk has no room for what it has to write at its start waits, says so to whoever
// looks after it, and runs as soon as there is room.
func TestWaitsForRoom(t *testing.T) {
	s, enlarge := onSmallDisk(t)
	said := systemd(t)
	cmd := s.command("--foreground", "--metrics", "off", "0", s.root)
	check(t, cmd.Start())
	said.await(t, "READY=1", 1)
	said.await(t, "WATCHDOG=1\nSTATUS=waits for room on its disk", 3)
	enlarge()
	said.await(t, "WATCHDOG=1\nSTATUS=fresh, entry 0 of 0", 3)
	check(t, cmd.Process.Signal(os.Interrupt))
	said.await(t, "STOPPING=1", 1)
	check(t, cmd.Wait())
}

// TestStopsWhileItWaitsForRoom: a signal ends a server that waits for room.
func TestStopsWhileItWaitsForRoom(t *testing.T) {
	s, _ := onSmallDisk(t)
	said := systemd(t)
	cmd := s.command("--foreground", "--metrics", "off", "0", s.root)
	check(t, cmd.Start())
	said.await(t, "WATCHDOG=1\nSTATUS=waits for room on its disk", 1)
	check(t, cmd.Process.Signal(os.Interrupt))
	check(t, cmd.Wait())
}

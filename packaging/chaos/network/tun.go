package network

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Attach makes a TUN device with an address in a network namespace that `ip netns` knows; an empty name is the
// namespace of this process. The host reaches every address of the prefix through it. It needs root.
func Attach(namespace, device string, addr netip.Prefix, mtu int) (*os.File, error) {
	dev, err := openTUN(device)
	if err != nil {
		return nil, fmt.Errorf("attach %v to namespace %q: %w", addr, namespace, err)
	}
	steps := [][]string{
		{"link", "set", "lo", "up"},
		{"addr", "add", addr.String(), "dev", device},
		{"link", "set", device, "mtu", strconv.Itoa(mtu), "txqueuelen", "5000", "up"},
	}
	if namespace != "" {
		for i := range steps {
			steps[i] = append([]string{"-n", namespace}, steps[i]...)
		}
		steps = append([][]string{{"link", "set", device, "netns", namespace}}, steps...)
	}
	for _, s := range steps {
		if err := ip(s...); err != nil {
			dev.Close()
			return nil, fmt.Errorf("attach %v to namespace %q: %w", addr, namespace, err)
		}
	}
	return dev, nil
}

// AddNamespace makes a network namespace.
func AddNamespace(name string) error { return ip("netns", "add", name) }

// SetCongestion chooses TCP's congestion control, cubic, bbr or what else the kernel has, for what a namespace sends through
// a device. It is the route's, since the kernel lets namespaces set few of them by sysctl. It holds for connections made later.
func SetCongestion(namespace, device string, addr netip.Prefix, algorithm string) error {
	err := ip("-n", namespace, "route", "replace", addr.Masked().String(), "dev", device, "proto", "kernel", "scope", "link",
		"src", addr.Addr().String(), "congctl", algorithm)
	if err != nil {
		return fmt.Errorf("set TCP's congestion control in namespace %q: %w", namespace, err)
	}
	return nil
}

func openTUN(device string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	req, err := unix.NewIfreq(device)
	if err == nil {
		req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err == nil {
		// Not waiting, so that the runtime's poller takes the file and Close ends a read.
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make the TUN device %s: %w", device, err)
	}
	return os.NewFile(uintptr(fd), device), nil
}

func ip(args ...string) error {
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/paxos-iscsi/paxos-iscsi/packaging/chaos/network"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
)

// insideEnv tells the program that it runs in namespaces of its own already.
const insideEnv = "CHAOS_INSIDE"

// errNotRoot is why nothing can be done here.
var errNotRoot = errors.New("network namespaces, TUN devices and loop file systems need root")

// reexec runs this program again in a network, mount and process namespace of its own: whatever happens to it, no
// process, mount or device stays behind, and this machine's network never sees any of it.
func reexec(ctx context.Context) (status int, err error) {
	if os.Geteuid() != 0 {
		return 0, errNotRoot
	}
	cmd := exec.CommandContext(ctx, "/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = nil, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID,
		Setpgid:    true, Pdeathsig: syscall.SIGKILL,
	}
	// The first signal asks it to stop and to tell what it has.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		return exit.ExitCode(), nil
	}
	if err != nil {
		return 0, fmt.Errorf("run in namespaces of its own: %w", err)
	}
	return 0, nil
}

// settle makes the mounts that a fresh mount namespace needs: its own /proc, and an empty /run for `ip netns`.
func settle() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := unix.Mount("run", "/run", "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	return nil
}

// The hosts' addresses. The client is this process, which also asks the servers for their status; its links to the
// servers never have a fault.
const (
	prefixBits  = 24
	targetHost  = 100
	clientHost  = 101
	mtuLAN      = 9000 // fewer packets through one process
	mtuWAN      = 1500
	targetSpace = "target"
)

func address(host int) netip.Addr { return netip.AddrFrom4([4]byte{10, 77, 0, byte(host)}) }

func serverAddress(id cell.ID) netip.Addr { return address(int(id) + 1) }

func serverSpace(id cell.ID) string { return "server" + strconv.Itoa(int(id)) }

// connect makes the namespaces of the servers and the target, and the network between them.
func connect(seed uint64, ids []cell.ID, mtu int) (*network.Network, error) {
	type place struct {
		space, device string
		addr          netip.Addr
	}
	places := []place{{"", "client", address(clientHost)}, {targetSpace, targetSpace, address(targetHost)}}
	for _, id := range ids {
		places = append(places, place{serverSpace(id), serverSpace(id), serverAddress(id)})
	}
	var ports []network.Port
	closeAll := func() {
		for _, p := range ports {
			p.Dev.Close()
		}
	}
	for _, p := range places {
		if p.space != "" {
			if err := network.AddNamespace(p.space); err != nil {
				closeAll()
				return nil, err
			}
		}
		dev, err := network.Attach(p.space, p.device, netip.PrefixFrom(p.addr, prefixBits), mtu)
		if err != nil {
			closeAll()
			return nil, err
		}
		ports = append(ports, network.Port{Addr: p.addr, Dev: dev})
	}
	return network.New(seed, ports)
}

// congestion sets how TCP answers to loss in the namespaces of the servers and the target.
func congestion(algorithm string, ids []cell.ID) error {
	set := func(space string, addr netip.Addr) error {
		return network.SetCongestion(space, space, netip.PrefixFrom(addr, prefixBits), algorithm)
	}
	err := set(targetSpace, address(targetHost))
	for _, id := range ids {
		err = errors.Join(err, set(serverSpace(id), serverAddress(id)))
	}
	return err
}

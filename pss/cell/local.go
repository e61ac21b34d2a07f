package cell

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink"
)

// Addresses tells which addresses this machine has.
type Addresses interface {
	Addresses() ([]netip.Addr, error)
}

// Resolver turns host names into addresses. *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Netlink asks the kernel for the addresses of all its interfaces.
type Netlink struct{}

// dumpTries is how often a list of addresses that changed while it was read is read again.
const dumpTries = 5

// Addresses lists the addresses of all interfaces.
func (Netlink) Addresses() ([]netip.Addr, error) {
	var list []netlink.Addr
	var err error
	for range dumpTries {
		list, err = netlink.AddrList(nil, netlink.FAMILY_ALL)
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("ask the kernel for this machine's addresses: %w", err)
	}
	addrs := make([]netip.Addr, 0, len(list))
	for _, l := range list {
		if l.IPNet == nil {
			continue
		}
		if a, ok := netip.AddrFromSlice(l.IP); ok {
			addrs = append(addrs, a.Unmap())
		}
	}
	return addrs, nil
}

// Local lists the servers that live on this machine: those whose host is, or resolves to, one of
// its addresses or a loopback address. Hosts that do not resolve are left out and come back as
// warnings, because one unreachable name server must not stop what concerns the others. The error is
// that of asking for the addresses.
func (c *Config) Local(ctx context.Context, machine Addresses, names Resolver) (local []Server, warnings []error, err error) {
	addrs, err := machine.Addresses()
	if err != nil {
		return nil, nil, err
	}
	mine := make(map[netip.Addr]bool, len(addrs))
	for _, a := range addrs {
		mine[a.Unmap().WithZone("")] = true
	}
	resolved := make([][]netip.Addr, len(c.Servers))
	failed := make([]error, len(c.Servers))
	var lookups sync.WaitGroup
	for i, s := range c.Servers {
		if a, err := netip.ParseAddr(s.Host); err == nil {
			resolved[i] = []netip.Addr{a}
			continue
		}
		lookups.Go(func() { resolved[i], failed[i] = names.LookupNetIP(ctx, "ip", s.Host) })
	}
	lookups.Wait()
	for i, s := range c.Servers {
		if failed[i] != nil {
			warnings = append(warnings, fmt.Errorf("%s: server %d: %w", c.File, s.ID, failed[i]))
		}
		for _, a := range resolved[i] {
			if a = a.Unmap().WithZone(""); a.IsLoopback() || mine[a] {
				local = append(local, s)
				break
			}
		}
	}
	return local, warnings, nil
}

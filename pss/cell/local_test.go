package cell

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
)

type fakeMachine struct {
	addrs []string
	err   error
}

func (m fakeMachine) Addresses() ([]netip.Addr, error) {
	var list []netip.Addr
	for _, a := range m.addrs {
		list = append(list, netip.MustParseAddr(a))
	}
	return list, m.err
}

type fakeNames map[string][]string

func (n fakeNames) LookupNetIP(_ context.Context, network, host string) ([]netip.Addr, error) {
	if network != "ip" {
		return nil, fmt.Errorf("network %s", network)
	}
	if n[host] == nil {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return fakeMachine{addrs: n[host]}.Addresses()
}

func mustParse(t *testing.T, text string) *Config {
	t.Helper()
	c, err := Parse("server.conf", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestLocal(t *testing.T) {
	machine := fakeMachine{addrs: []string{"127.0.0.1", "192.0.2.1", "fe80::1%eth0", "2001:db8::7"}}
	names := fakeNames{
		"here":      {"198.51.100.1", "192.0.2.1"},
		"there":     {"192.0.2.2", "2001:db8::8"},
		"loop":      {"127.0.1.1"},
		"mapped":    {"::ffff:192.0.2.1"},
		"linklocal": {"fe80::1"},
	}
	c := mustParse(t, `0 here /p
		1 there /p
		2 gone.example /p
		3 192.0.2.1 /p
		4 192.0.2.9 /p
		5 loop /p
		6 mapped /p
		7 linklocal /p`)
	local, warnings, err := c.Local(t.Context(), machine, names)
	if err != nil {
		t.Fatal(err)
	}
	var ids []ID
	for _, s := range local {
		ids = append(ids, s.ID)
	}
	if fmt.Sprint(ids) != "[0 3 5 6 7]" {
		t.Errorf("local servers %v", ids)
	}
	if len(warnings) != 1 || warnings[0].Error() != "server.conf: server 2: lookup gone.example: no such host" {
		t.Errorf("warnings %v", warnings)
	}
}

func TestLocalNeedsAddresses(t *testing.T) {
	broken := errors.New("broken")
	c := mustParse(t, threeServers)
	if _, _, err := c.Local(t.Context(), fakeMachine{err: broken}, fakeNames{}); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
}

// The kernel's own answer holds the loopback address, and finds servers that live there.
func TestNetlink(t *testing.T) {
	addrs, err := Netlink{}.Addresses()
	if err != nil {
		t.Fatal(err)
	}
	loopback := netip.MustParseAddr("127.0.0.1")
	found := false
	for _, a := range addrs {
		found = found || a == loopback
	}
	if !found {
		t.Errorf("no %v among %v", loopback, addrs)
	}
	c := mustParse(t, "0 127.0.0.1 /a\n1 192.0.2.77 /b\n2 localhost /c\n")
	local, warnings, err := c.Local(t.Context(), Netlink{}, &net.Resolver{})
	if err != nil || len(warnings) != 0 || len(local) != 2 || local[0].ID != 0 || local[1].ID != 2 {
		t.Errorf("local %v, warnings %v, error %v", local, warnings, err)
	}
}

// Package machine asks the kernel what the storage service wants to know of this machine and its own process: the time
// since the machine started, how the process looks to ps, and the sockets of its ports as netstat shows them.
package machine

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
)

// dumpTries is how often a list that changed while it was read is read again.
const dumpTries = 5

// maxSockets is how many sockets Sockets returns at most; a server has some hundreds.
const maxSockets = 4096

// states are the names of TCP's states by the kernel's numbers, in netstat's spelling.
var states = [...]string{1: "ESTABLISHED", 2: "SYN_SENT", 3: "SYN_RECV", 4: "FIN_WAIT1", 5: "FIN_WAIT2", 6: "TIME_WAIT",
	7: "CLOSE", 8: "CLOSE_WAIT", 9: "LAST_ACK", 10: "LISTEN", 11: "CLOSING", 12: "SYN_RECV"}

// Sockets lists the sockets of this machine that are bound to a TCP port or a UDP port: first those that listen, then
// the others in order of their addresses, then UDP.
func Sockets(tcpPort, udpPort int) ([]admin.Socket, error) {
	found := []admin.Socket{}
	for _, kind := range []struct {
		proto  string
		family uint8
		port   int
		list   func(uint8) ([]*netlink.Socket, error)
	}{
		{"tcp", unix.AF_INET, tcpPort, netlink.SocketDiagTCP},
		{"tcp6", unix.AF_INET6, tcpPort, netlink.SocketDiagTCP},
		{"udp", unix.AF_INET, udpPort, netlink.SocketDiagUDP},
		{"udp6", unix.AF_INET6, udpPort, netlink.SocketDiagUDP},
	} {
		list, err := dump(kind.list, kind.family)
		if err != nil {
			return nil, fmt.Errorf("ask the kernel for its %s sockets: %w", kind.proto, err)
		}
		var some []admin.Socket
		for _, s := range list {
			if int(s.ID.SourcePort) == kind.port && len(some) < maxSockets {
				some = append(some, describe(kind.proto, s))
			}
		}
		slices.SortFunc(some, order)
		found = append(found, some...)
	}
	return found, nil
}

func dump(list func(uint8) ([]*netlink.Socket, error), family uint8) (found []*netlink.Socket, err error) {
	for range dumpTries {
		found, err = list(family)
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return found, err
}

func describe(proto string, s *netlink.Socket) admin.Socket {
	k := admin.Socket{Proto: proto, RecvQ: s.RQueue, SendQ: s.WQueue,
		Local: address(s.ID.Source, s.ID.SourcePort), Remote: address(s.ID.Destination, s.ID.DestinationPort)}
	if strings.HasPrefix(proto, "tcp") {
		k.State = fmt.Sprintf("STATE_%d", s.State)
		if int(s.State) < len(states) && states[s.State] != "" {
			k.State = states[s.State]
		}
		if k.State == "LISTEN" {
			k.SendQ = 0 // the kernel tells the length of the backlog there
		}
	}
	return k
}

// address writes an address as netstat does: without brackets, and * for no port.
func address(ip net.IP, port uint16) string {
	text := "*"
	if port != 0 {
		text = strconv.Itoa(int(port))
	}
	a, ok := netip.AddrFromSlice(ip)
	if !ok {
		return "?:" + text
	}
	return a.Unmap().String() + ":" + text
}

func order(a, b admin.Socket) int {
	listens := func(k admin.Socket) int {
		if k.State == "LISTEN" {
			return 0
		}
		return 1
	}
	if d := listens(a) - listens(b); d != 0 {
		return d
	}
	if d := strings.Compare(a.Local, b.Local); d != 0 {
		return d
	}
	return strings.Compare(a.Remote, b.Remote)
}

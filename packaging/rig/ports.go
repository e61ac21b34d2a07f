package rig

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"

	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
)

// Host is where everything listens.
const Host = "127.0.0.1"

// Ports are taken from below the range that the kernel hands out for outgoing connections: a port of that range
// could be gone when a server that was killed wants it back, and a client that dials it meanwhile can even
// connect to itself.
const (
	lowestPort  = 10240
	highestPort = 32000
	portTries   = 200
)

// errNoPorts is an error that only a machine full of servers can bring.
var errNoPorts = errors.New("no free ports were found")

// FreePort returns a TCP port on which nobody listens: the wanted one if it can be had, else another.
func FreePort(wanted int) (int, error) {
	for range portTries {
		if portIsFree("tcp", wanted) {
			return wanted, nil
		}
		wanted = lowestPort + rand.IntN(highestPort-lowestPort)
	}
	return 0, fmt.Errorf("%w: TCP", errNoPorts)
}

// cellPorts returns the UDP and the TCP port of server 0; those of the others follow as in the manual (M7).
// The manual's own ports are used if all of them are free.
func cellPorts(ids []cell.ID) (udp, tcp int, err error) {
	udp = cell.FirstUDP
	for range portTries {
		tcp = udp + cell.FirstTCP - cell.FirstUDP
		free := true
		for _, id := range ids {
			free = free && portIsFree("udp", udp+int(id)) && portIsFree("tcp", tcp+int(id))
		}
		if free {
			return udp, tcp, nil
		}
		udp = lowestPort + rand.IntN(highestPort-lowestPort)
	}
	return 0, 0, fmt.Errorf("%w: for %d servers", errNoPorts, len(ids))
}

func portIsFree(network string, port int) bool {
	addr := net.JoinHostPort(Host, strconv.Itoa(port))
	if network == "udp" {
		c, err := net.ListenPacket(network, addr)
		if err != nil {
			return false
		}
		c.Close()
		return true
	}
	l, err := net.Listen(network, addr)
	if err != nil {
		return false
	}
	l.Close()
	return true
}

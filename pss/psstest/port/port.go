// Package port finds ports for servers in tests. It takes them from below the range that the kernel hands out for
// outgoing connections: a port of that range could be gone when a server that was stopped wants it back, and a client
// that dials it meanwhile can even connect to itself.
package port

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
)

// Host is where the ports are free.
const Host = "127.0.0.1"

const (
	lowest  = 10240
	highest = 32000 // net.ipv4.ip_local_port_range begins at 32768
	tries   = 200
)

// ErrNone is an error that only a machine full of servers can bring.
var ErrNone = errors.New("no free ports were found")

// Free returns count different ports on which nobody listens, neither on TCP nor on UDP.
func Free(count int) ([]int, error) {
	var ports []int
	for range tries + count {
		if len(ports) == count {
			return ports, nil
		}
		if p := Random(); !slices.Contains(ports, p) && IsFree("tcp", p) && IsFree("udp", p) {
			ports = append(ports, p)
		}
	}
	return nil, fmt.Errorf("%w: %d of %d", ErrNone, len(ports), count)
}

// Random is a port of the range.
func Random() int { return lowest + rand.IntN(highest-lowest) }

// IsFree says whether nobody listens on a port of network "tcp" or "udp".
func IsFree(network string, port int) bool {
	addr := net.JoinHostPort(Host, strconv.Itoa(port))
	if network == "udp" {
		c, err := net.ListenPacket(network, addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	}
	l, err := net.Listen(network, addr)
	if err == nil {
		l.Close()
	}
	return err == nil
}

// Package port finds ports for servers in tests. It takes them from below the range that the kernel hands out for
// outgoing connections: a port of that range could be gone when a server that was stopped wants it back, and a client
// that dials it meanwhile can even connect to itself. And it takes them from blocks that this process alone has: the
// tests of another one could else take the port of a server that is stopped for a moment.
package port

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"sync"
)

// Host is where the ports are free.
const Host = "127.0.0.1"

const (
	lowest  = 10240 // of Random
	blocked = 16384 // from here on ports are given out by the block
	highest = 32000 // net.ipv4.ip_local_port_range begins at 32768
	tries   = 200

	blockPorts = 64 // the first of them is the guard
	maxBlocks  = 16 // of a process: then their ports are given out again
)

// own is what this process has: as long as it lives, for its servers come and go.
var own struct {
	sync.Mutex
	guards []net.Listener // on the first port of each block: nobody else has it then
	blocks []int          // the first port of each
	given  int            // ports so far
}

// ErrNone is an error that only a machine full of servers can bring.
var ErrNone = errors.New("no free ports were found")

// Free returns count different ports on which nobody listens, neither on TCP nor on UDP.
func Free(count int) ([]int, error) {
	var ports []int
	for range tries + count {
		if len(ports) == count {
			return ports, nil
		}
		p, err := next()
		if err != nil {
			return nil, err
		}
		if !slices.Contains(ports, p) && IsFree("tcp", p) && IsFree("udp", p) {
			ports = append(ports, p)
		}
	}
	return nil, fmt.Errorf("%w: %d of %d", ErrNone, len(ports), count)
}

// next is the next port of this process's blocks.
func next() (int, error) {
	own.Lock()
	defer own.Unlock()
	block := own.given / (blockPorts - 1) % maxBlocks
	if block >= len(own.blocks) {
		if err := reserve(); err != nil {
			return 0, err
		}
	}
	port := own.blocks[block] + 1 + own.given%(blockPorts-1)
	own.given++
	return port, nil
}

// reserve takes one more block for this process.
func reserve() error {
	for range tries {
		first := blocked + rand.IntN((highest-blocked)/blockPorts)*blockPorts
		if guard, err := net.Listen("tcp", net.JoinHostPort(Host, strconv.Itoa(first))); err == nil {
			own.guards, own.blocks = append(own.guards, guard), append(own.blocks, first)
			return nil
		}
	}
	return fmt.Errorf("%w: all blocks are taken", ErrNone)
}

// Random is a port that Free gives to nobody.
func Random() int { return lowest + rand.IntN(blocked-lowest) }

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

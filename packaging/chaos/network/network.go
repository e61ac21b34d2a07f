package network

import (
	"fmt"
	"io"
	"net/netip"
	"sync"
	"time"
)

// maxPacket is the largest IP packet.
const maxPacket = 64 << 10

// Network carries packets between hosts. Its methods may be called from any goroutine.
type Network struct {
	hosts []host
	index map[netip.Addr]int
	links [][]*link // [from][to]
	stop  chan struct{}
	tasks sync.WaitGroup
}

type host struct {
	addr netip.Addr
	dev  io.ReadWriteCloser
}

// Port is a host's device: a read is a packet that the host sends, a write one that it gets.
type Port struct {
	Addr netip.Addr
	Dev  io.ReadWriteCloser
}

// New begins to carry packets between these ports, which Close closes. What is lost by chance follows from seed.
func New(seed uint64, ports []Port) (*Network, error) {
	n := &Network{index: make(map[netip.Addr]int), stop: make(chan struct{})}
	for i, p := range ports {
		if _, twice := n.index[p.Addr]; twice {
			return nil, fmt.Errorf("a network: two hosts have the address %v", p.Addr)
		}
		n.index[p.Addr] = i
		n.hosts = append(n.hosts, host{p.Addr, p.Dev})
	}
	for from := range n.hosts {
		n.links = append(n.links, make([]*link, len(n.hosts)))
		for to := range n.hosts {
			dev := n.hosts[to].dev
			// A device takes whole packets or, while its host's queue is full, none: a loss like any other.
			deliver := func(packet []byte) { _, _ = dev.Write(packet) }
			l := newLink(seed+uint64(from*len(n.hosts)+to), deliver, time.Now)
			n.links[from][to] = l
			n.tasks.Go(func() { l.run(n.stop) })
		}
	}
	for from := range n.hosts {
		n.tasks.Go(func() { n.read(from) })
	}
	return n, nil
}

// read carries what a host sends, until its device is closed.
func (n *Network) read(from int) {
	b := make([]byte, maxPacket)
	for {
		size, err := n.hosts[from].dev.Read(b)
		if err != nil {
			return
		}
		if to, ok := n.destination(b[:size]); ok {
			n.links[from][to].send(b[:size])
		}
	}
}

// destination finds the host of an IPv4 packet; other packets, such as IPv6's router solicitations, are dropped.
func (n *Network) destination(packet []byte) (int, bool) {
	const header, at = 20, 16
	if len(packet) < header || packet[0]>>4 != 4 {
		return 0, false
	}
	to, ok := n.index[netip.AddrFrom4([4]byte(packet[at:header]))]
	return to, ok
}

// Set makes the direction from one host to another be as c says. It panics for addresses that are no hosts'.
func (n *Network) Set(from, to netip.Addr, c Condition) { n.link(from, to).set(c) }

// SetBoth is Set for both directions.
func (n *Network) SetBoth(a, b netip.Addr, c Condition) {
	n.Set(a, b, c)
	n.Set(b, a, c)
}

// Heal takes every condition away.
func (n *Network) Heal() {
	for _, row := range n.links {
		for _, l := range row {
			l.set(Condition{})
		}
	}
}

// Counts are the packets from one host to another so far.
func (n *Network) Counts(from, to netip.Addr) Counts {
	l := n.link(from, to)
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.counts
}

func (n *Network) link(from, to netip.Addr) *link {
	f, okFrom := n.index[from]
	t, okTo := n.index[to]
	if !okFrom || !okTo {
		panic(fmt.Sprintf("network: no hosts %v and %v", from, to))
	}
	return n.links[f][t]
}

// Close closes the devices and waits until nothing is carried any more.
func (n *Network) Close() error {
	close(n.stop)
	var first error
	for _, h := range n.hosts {
		if err := h.dev.Close(); err != nil && first == nil {
			first = fmt.Errorf("close the network: %w", err)
		}
	}
	n.tasks.Wait()
	return first
}

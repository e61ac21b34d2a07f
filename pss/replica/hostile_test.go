package replica

import (
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
	"github.com/paxos-iscsi/paxos-iscsi/pss/wire"
)

// housesOf are an open and a closed cell.
var housesOf = map[string]func(*testing.T, func(*Options)) *house{"open": newHouse, "closed": newClosedHouse}

// from dials a server from one of loopback's many addresses.
func (h *house) from(i int, address string) net.Conn {
	h.t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
	nc, err := d.DialContext(h.context(), "tcp", h.conf.Servers[i].TCPAddr())
	check(h.t, err)
	h.t.Cleanup(func() { nc.Close() })
	return nc
}

// half are the beginnings of connections that never get anywhere.
var half = [][]byte{nil, {0x16}, {0x16, 0x03, 0x01, 0x40, 0x00, 0x01}, {0x10, 0, 0, 0, 1, 1}, make([]byte, 31)}

// TestHalfOpen: 2,000 connections that never greet, from one address and from many, while clients come and go on.
func TestHalfOpen(t *testing.T) {
	for name, newHouse := range housesOf {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, nil)
			v := h.volume(h.client(), 64<<10)
			v.write(5)
			m := h.master()
			goroutines, memory := runtime.NumGoroutine(), heap()
			for n := range 2000 {
				address := "127.0.0.1"
				if n%2 == 1 {
					address = netip.AddrFrom4([4]byte{127, 0, 1, byte(n / 2 % 250)}).String()
				}
				nc := h.from(m, address)
				_, _ = nc.Write(half[n%len(half)]) // it may be closed already
				if n%400 == 399 {
					v.write(5) // one that was there goes on
					_, err := h.client().Stat(h.context(), "/vol")
					check(t, err) // and one that comes is served
				}
			}
			// Two goroutines for each that is kept, and those of the clients above.
			if now := runtime.NumGoroutine() - goroutines; now > 2*maxGreetings+200 {
				t.Errorf("%d goroutines more", now)
			}
			if now := heap(); now > memory+maxGreetings*(256<<10) {
				t.Errorf("%d MiB more", (now-memory)>>20)
			}
			if rep := h.servers[m].report(); rep.Refused.Crowded == 0 {
				t.Errorf("counted: %+v", rep.Refused)
			}
			eventually(t, "all gone", func() bool {
				return runtime.NumGoroutine() <= goroutines+200 && h.servers[m].report().Refused.Connections >= 2000-50
			})
			v.write(5)
			v.verify()
		})
	}
}

// heap is the memory in use, in bytes.
func heap() uint64 {
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return s.HeapAlloc
}

// TestGreetings: the oldest goes first, of one address when it has too many, else of the one that has most.
func TestGreetings(t *testing.T) {
	g := newGreetings()
	var conns []net.Conn
	admit := func(host int) (evicted int) {
		c := &addressed{from: netip.AddrFrom4([4]byte{10, 0, byte(host >> 8), byte(host)})}
		conns = append(conns, c)
		gone := g.admit(c)
		for i := range conns {
			if conns[i] == gone {
				return i
			}
		}
		return -1
	}
	expect := func(what string, got, want int) {
		t.Helper()
		if got != want {
			t.Errorf("%s: connection %d had to go, not %d", what, got, want)
		}
	}
	expect("the first", admit(9), -1)
	for range maxGreetingsAddress {
		expect("of one address", admit(1), -1)
	}
	expect("one more", admit(1), 1)
	for n := len(g.all); n < maxGreetings; n++ {
		expect("of many", admit(10+n), -1)
	}
	expect("full", admit(2), 2)
	expect("full again", admit(2), 3)
	g.done(conns[0])
	g.done(conns[1]) // long gone
	expect("one greeted", admit(2), -1)
	if len(g.all) != maxGreetings {
		t.Errorf("%d connections", len(g.all))
	}
	if !conns[1].(*addressed).closed || conns[0].(*addressed).closed {
		t.Error("what had to go is closed, and nothing else")
	}
}

type addressed struct {
	pipeTo
	from   netip.Addr
	closed bool
}

func (a *addressed) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(a.from, 1))
}
func (a *addressed) Close() error { a.closed = true; return nil }

// TestIdleClients: clients that greet and then say nothing, or send one frame byte by byte, are dropped. One that
// pings is served on.
func TestIdleClients(t *testing.T) {
	t.Parallel()
	h := newHouse(t, func(o *Options) { o.ClientIdle = 2 * time.Second })
	v := h.volume(h.client(), 64<<10)
	m := h.master()
	silent, slow := h.greet(m), h.greet(m)
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		frame := oversized()
		binary.LittleEndian.PutUint32(frame, op.MaxSize)
		binary.LittleEndian.PutUint32(frame[28:], op.Sum(frame[:28]))
		for b := frame; ; b = []byte{0} {
			if _, err := slow.nc.Write(b); err != nil {
				return
			}
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	for name, k := range map[string]*raw{"silent": silent, "slow": slow} {
		var err error
		for err == nil {
			_, err = k.r.Next() // past the notices
		}
		if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
			t.Errorf("the %s one was kept: %v", name, err)
		}
	}
	if rep := h.servers[m].report(); rep.Refused.Idle < 2 { // a starved machine may drop the pinging one, which comes back
		t.Errorf("counted: %+v", rep.Refused)
	}
	v.write(5)
	v.verify()
}

// TestNoiseClosed throws random bytes at the ports of a cell with a key: at TCP in clear and behind the first bytes of
// a TLS record, at UDP in clear and behind the head of a sealed datagram.
func TestNoiseClosed(t *testing.T) {
	t.Parallel()
	h := newClosedHouse(t, nil)
	v := h.volume(h.client(), 64<<10)
	rng := rand.New(rand.NewPCG(3, 3))
	r := h.servers[0]
	before := r.report().Refused
	const count = 100
	for n := range count {
		b := make([]byte, 1+rng.IntN(1300))
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		if n%2 == 0 {
			b = append([]byte{0x16, 0x03, 0x01}, b...)
		}
		nc := h.from(0, "127.0.0.1")
		_, err := nc.Write(b)
		check(t, err)
		check(t, nc.(*net.TCPConn).CloseWrite())
		_, _ = io.Copy(io.Discard, nc) // until the server closes it
		if n%2 == 0 {
			b = append([]byte("PSSs\x01\x00\x01\x00"), b[3:]...)
		}
		h.datagram(0, b)
	}
	eventually(t, "all counted", func() bool {
		now := r.report().Refused
		return now.Connections >= before.Connections+count && now.Datagrams >= before.Datagrams+count
	})
	v.write(5)
	v.verify()
	if err := r.Err(); err != nil {
		t.Error(err)
	}
}

// TestOversizedLengths: a length beyond its limit costs the server no memory.
func TestOversizedLengths(t *testing.T) {
	h := newHouse(t, nil)
	h.master()
	memory := heap()
	for range 100 {
		k := h.greet(0)
		_, err := k.nc.Write(oversized())
		check(t, err)
		for err == nil {
			_, err = k.r.Next()
		}
		k.nc.Close()
	}
	if now := heap(); now > memory+(32<<20) {
		t.Errorf("%d MiB more", (now-memory)>>20)
	}
	if err := h.servers[0].Err(); err != nil {
		t.Error(err)
	}
}

// TestPeerConnections: whoever calls itself a server takes no place from clients, nor from that server for ever.
func TestPeerConnections(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	v := h.volume(h.client(), 64<<10)
	m := h.master()
	other := (m + 1) % 3
	for range 10 * maxPeerConnections {
		k := h.dial(m)
		check(t, k.w.Hello(wire.Hello{Role: wire.RolePeer, To: uint8(m), Protocol: wire.Protocol, From: uint64(other)}))
		check(t, k.w.Flush())
		k.next(wire.KindHelloReply)
	}
	d := &h.servers[m].dialled
	d.mu.Lock()
	n := len(d.all[other])
	d.mu.Unlock()
	if n > maxPeerConnections {
		t.Errorf("%d connections of one server", n)
	}
	v.write(5)
	v.verify()
	h.level(v.object) // the server whose name it was has connected again, or was never cut off
}

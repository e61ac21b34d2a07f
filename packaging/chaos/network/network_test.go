package network

import (
	"bytes"
	"encoding/binary"
	"io"
	"net/netip"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// device is a host's end in memory.
type device struct {
	sends chan []byte
	gets  chan []byte
}

func newDevice() *device { return &device{make(chan []byte), make(chan []byte, 1000)} }

func (d *device) Read(b []byte) (int, error) {
	p, ok := <-d.sends
	if !ok {
		return 0, os.ErrClosed
	}
	return copy(b, p), nil
}

func (d *device) Write(b []byte) (int, error) {
	d.gets <- bytes.Clone(b)
	return len(b), nil
}

func (d *device) Close() error {
	close(d.sends)
	return nil
}

var _ io.ReadWriteCloser = (*device)(nil)

var (
	one = netip.MustParseAddr("10.0.0.1")
	two = netip.MustParseAddr("10.0.0.2")
)

// packet is an IPv4 packet with a number in it.
func packet(to netip.Addr, number int, size int) []byte {
	p := make([]byte, size)
	p[0] = 4 << 4
	a := to.As4()
	copy(p[16:], a[:])
	binary.BigEndian.PutUint32(p[20:], uint32(number))
	return p
}

func number(p []byte) int { return int(binary.BigEndian.Uint32(p[20:])) }

// pair is a network of two hosts, inside of a bubble.
func pair(t *testing.T) (n *Network, a, b *device) {
	t.Helper()
	a, b = newDevice(), newDevice()
	n, err := New(1, []Port{{one, a}, {two, b}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n, a, b
}

func received(d *device) (all []int) {
	synctest.Wait()
	for {
		select {
		case p := <-d.gets:
			all = append(all, number(p))
		default:
			return all
		}
	}
}

func TestCutsOneDirection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := pair(t)
		n.Set(one, two, Condition{Cut: true})
		a.sends <- packet(two, 1, 100)
		b.sends <- packet(one, 2, 100)
		if got := received(b); len(got) != 0 {
			t.Errorf("the cut direction carried %v", got)
		}
		if got := received(a); len(got) != 1 || got[0] != 2 {
			t.Errorf("the other direction carried %v", got)
		}
		n.Heal()
		a.sends <- packet(two, 3, 100)
		if got := received(b); len(got) != 1 || got[0] != 3 {
			t.Errorf("the healed direction carried %v", got)
		}
		if c := n.Counts(one, two); c != (Counts{Passed: 1, Lost: 1}) {
			t.Errorf("counted %+v", c)
		}
	})
}

func TestDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := pair(t)
		n.Set(one, two, Condition{Delay: 50 * time.Millisecond})
		for i := range 3 {
			a.sends <- packet(two, i, 100)
		}
		begin := time.Now()
		for i := range 3 {
			if p := <-b.gets; number(p) != i {
				t.Errorf("packet %d came as number %d", number(p), i)
			}
		}
		if took := time.Since(begin); took != 50*time.Millisecond {
			t.Errorf("packets took %v", took)
		}
	})
}

// TestEndOfDelay: what comes after a delay has ended does not overtake what is still late.
func TestEndOfDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := pair(t)
		n.Set(one, two, Condition{Delay: time.Second})
		a.sends <- packet(two, 1, 100)
		synctest.Wait()
		n.Heal()
		time.Sleep(999 * time.Millisecond)
		if got := received(b); len(got) != 0 {
			t.Fatalf("%v came too early", got)
		}
		time.Sleep(time.Millisecond)
		if got := received(b); len(got) != 1 {
			t.Fatalf("%v came", got)
		}
	})
}

func TestJitterReorders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := pair(t)
		n.Set(one, two, Condition{Jitter: 10 * time.Millisecond})
		for i := range 100 {
			a.sends <- packet(two, i, 100)
		}
		time.Sleep(10 * time.Millisecond)
		got, overtaken := received(b), 0
		for i := 1; i < len(got); i++ {
			if got[i] < got[i-1] {
				overtaken++
			}
		}
		if len(got) != 100 || overtaken == 0 {
			t.Errorf("%d packets came, %d out of order", len(got), overtaken)
		}
	})
}

func TestLossAndDoubles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := pair(t)
		n.Set(one, two, Condition{Loss: 0.5})
		for i := range 1000 {
			a.sends <- packet(two, i, 100)
		}
		if got := len(received(b)); got < 400 || got > 600 {
			t.Errorf("of 1000 packets %d came with a loss of one half", got)
		}
		n.Set(one, two, Condition{Double: 1})
		a.sends <- packet(two, 7, 100)
		if got := received(b); len(got) != 2 {
			t.Errorf("%v came with everything doubled", got)
		}
	})
}

func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b := pair(t)
		n.Set(one, two, Condition{Rate: 100_000, Delay: 20 * time.Millisecond})
		begin := time.Now()
		for i := range 100 {
			a.sends <- packet(two, i, 1000)
		}
		for range 100 {
			<-b.gets
		}
		if took := time.Since(begin); took != time.Second+20*time.Millisecond {
			t.Errorf("100 kB at 100 kB/s took %v", took)
		}
	})
}

func TestQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, _ := pair(t)
		n.Set(one, two, Condition{Delay: time.Hour})
		const size = 60000
		for i := range 2 * QueueBytes / size {
			a.sends <- packet(two, i, size)
		}
		synctest.Wait()
		if c := n.Counts(one, two); c.Overflowed == 0 {
			t.Errorf("a queue of %d bytes took %d: %+v", QueueBytes, 2*QueueBytes, c)
		}
	})
}

func TestForeignPackets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b := pair(t)
		a.sends <- []byte{}
		a.sends <- []byte{4 << 4, 0, 0}
		a.sends <- packet(netip.MustParseAddr("10.0.0.77"), 1, 100)
		six := packet(two, 1, 100)
		six[0] = 6 << 4
		a.sends <- six
		if got := received(b); len(got) != 0 {
			t.Errorf("%v came", got)
		}
	})
}

func TestSameAddressTwice(t *testing.T) {
	if _, err := New(1, []Port{{one, newDevice()}, {one, newDevice()}}); err == nil {
		t.Error("two hosts with one address were taken")
	}
}

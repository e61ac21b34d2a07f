package isns

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is an iSNS server for one client: it knows one entity, and prints what it is told.
type server struct {
	t       *testing.T
	l       net.Listener
	running sync.WaitGroup

	mu      sync.Mutex
	heard   []string
	members map[string][]string // initiators of targets
	notices netip.AddrPort
	refuse  uint32
	conns   []net.Conn
}

func newServer(t *testing.T) *server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, l: l, members: map[string][]string{}}
	s.running.Go(s.accept)
	t.Cleanup(func() {
		l.Close()
		s.cut()
		s.running.Wait()
	})
	return s
}

func (s *server) accept() {
	for {
		nc, err := s.l.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.conns = append(s.conns, nc)
		s.mu.Unlock()
		s.running.Go(func() { s.serve(nc) })
	}
}

func (s *server) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, nc := range s.conns {
		nc.Close()
	}
	s.conns = nil
}

func (s *server) serve(nc net.Conn) {
	defer nc.Close()
	for {
		m, err := readMessage(nc)
		if err != nil {
			return
		}
		a := message{function: m.function | fnAnswer, flags: flagServer, transaction: m.transaction, payload: s.answer(m)}
		if _, err := nc.Write(a.appendTo(nil)); err != nil {
			return
		}
	}
}

// show prints an attribute.
func show(a attribute) string {
	switch a.tag {
	case tagDelimiter:
		return "|"
	case tagPortalAddr, tagGroupAddr:
		addr, _ := netip.AddrFromSlice(a.value)
		return fmt.Sprintf("%d=%v", a.tag, addr.Unmap())
	case tagESIPort, tagSCNPort:
		return fmt.Sprintf("%d=udp:%v", a.tag, a.number()&portUDP != 0)
	case tagEntity, tagName, tagGroupName:
		return fmt.Sprintf("%d=%s", a.tag, a.text())
	}
	return fmt.Sprintf("%d=%d", a.tag, a.number())
}

func (s *server) answer(m *message) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	list, err := parseAttributes(m.payload)
	if err != nil {
		s.t.Error(err)
	}
	line := fmt.Sprintf("%04x", m.function)
	if m.flags&flagReplace != 0 {
		line += " replace"
	}
	for _, a := range list {
		line += " " + show(a)
		if a.tag == tagSCNPort {
			s.notices = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(a.number()))
		}
	}
	s.heard = append(s.heard, line)
	out := []byte{0, 0, 0, byte(s.refuse)}
	if m.function == fnDevAttrQry && s.refuse == 0 {
		out = append(out, m.payload...)
		for _, name := range s.members[list[0].text()] {
			out = appendText(out, tagName, name)
			out = appendNumber(out, tagNodeType, nodeInitiator)
		}
	}
	return out
}

func (s *server) said() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.heard)
}

func (s *server) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never: ", what)
		}
	}
}

func client(t *testing.T, s *server, access bool, targets ...string) *Client {
	c := NewClient(Options{Server: s.l.Addr().String(), Entity: "host:tgtd", Access: access, Log: slog.New(slog.DiscardHandler)},
		State{Portals: []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:3260"), netip.MustParseAddrPort("[::]:3260"),
			netip.MustParseAddrPort("[2001:db8::1]:3261")}, Targets: targets})
	t.Cleanup(c.Close)
	return c
}

// TestRegister: what a server hears of two targets, of a change, and in the end.
func TestRegister(t *testing.T) {
	s := newServer(t)
	c := client(t, s, false, "iqn.x:b", "iqn.x:a")
	portals := "16=127.0.0.1 17=3260 20=udp:true 23=udp:true 16=2001:db8::1 17=3261"
	group := func(name string) string {
		return fmt.Sprintf(" 48=%s 49=127.0.0.1 50=3260 51=1 48=%s 49=2001:db8::1 50=3261 51=1", name, name)
	}
	head := "0001 replace 32=iqn.x:a 1=host:tgtd | 1=host:tgtd 2=2 6=300 " + portals
	want := []string{
		head + " 32=iqn.x:a 33=1 32=iqn.x:b 33=1" + group("iqn.x:a") + group("iqn.x:b"),
		"0005 32=iqn.x:a 32=iqn.x:a | 35=159",
		"0005 32=iqn.x:b 32=iqn.x:b | 35=159",
	}
	expect := func(what string) {
		t.Helper()
		eventually(t, what, func() bool { return len(s.said()) >= len(want) })
		if got := s.said(); !slices.Equal(got, want) {
			t.Fatalf("%s:\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	expect("registered")
	c.Update(State{Portals: c.state.Portals, Targets: []string{"iqn.x:a"}})
	want = append(want, head+" 32=iqn.x:a 33=1"+group("iqn.x:a"))
	expect("one target less")
	c.Update(State{Portals: c.state.Portals})
	bye := "0004 32=iqn.x:a | 1=host:tgtd"
	want = append(want, bye)
	expect("no target left")
	c.Update(State{Portals: c.state.Portals, Targets: []string{"iqn.x:a"}})
	want = append(want, head+" 32=iqn.x:a 33=1"+group("iqn.x:a"), want[1])
	expect("back again")
	c.Close()
	want = append(want, bye)
	expect("the end")
}

// TestAccess: who may log in is asked for, and asked for again after a notification.
func TestAccess(t *testing.T) {
	s := newServer(t)
	s.change(func() { s.members["iqn.x:a"] = []string{"iqn.i:1"} })
	c := client(t, s, true, "iqn.x:a", "iqn.x:b")
	eventually(t, "the first is allowed", func() bool { return c.Allows("iqn.x:a", "iqn.i:1") })
	if c.Allows("iqn.x:b", "iqn.i:1") || c.Allows("iqn.x:a", "iqn.i:2") || c.Allows("iqn.x:a", "iqn.x:a") {
		t.Error("somebody is let in whom the server did not name")
	}
	s.change(func() { s.members["iqn.x:a"] = []string{"iqn.i:2"} })
	nc, err := net.Dial("udp", s.notices.String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	for _, function := range []uint16{fnESI, fnSCN} {
		m := message{function: function, flags: flagServer, transaction: 77, payload: appendText(nil, tagName, "iqn.x:a")}
		if _, err := nc.Write(m.appendTo(nil)); err != nil {
			t.Fatal(err)
		}
		if err := nc.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 1024)
		n, err := nc.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		a, err := readMessage(bytes.NewReader(b[:n]))
		if err != nil || a.function != function|fnAnswer || a.transaction != 77 || !bytes.Equal(a.payload[4:], m.payload) {
			t.Errorf("function %04x: %+v, %v", function, a, err)
		}
	}
	eventually(t, "the second is allowed", func() bool { return c.Allows("iqn.x:a", "iqn.i:2") })
	if c.Allows("iqn.x:a", "iqn.i:1") {
		t.Error("the first still is")
	}
}

// TestServerComesBack: a server that refuses, or was lost, hears everything again.
func TestServerComesBack(t *testing.T) {
	s := newServer(t)
	s.change(func() { s.refuse = 1 })
	c := client(t, s, false, "iqn.x:a")
	eventually(t, "two attempts", func() bool { return len(s.said()) >= 2 })
	s.change(func() { s.refuse = 0; s.heard = nil })
	eventually(t, "registered", func() bool { return len(s.said()) == 2 })
	s.cut()
	c.Update(State{Portals: c.state.Portals, Targets: []string{"iqn.x:z"}})
	eventually(t, "registered again", func() bool {
		said := s.said()
		return len(said) >= 4 && strings.Contains(said[len(said)-1], "32=iqn.x:z")
	})
}

// TestPieces: a message longer than a piece travels in several and comes back whole.
func TestPieces(t *testing.T) {
	for _, n := range []int{0, 4, maxPayload, maxPayload + 4, 3*maxPayload - 4} {
		m := message{function: fnDevAttrReg, flags: flagClient, transaction: 9, payload: bytes.Repeat([]byte{7}, n)}
		got, err := readMessage(bytes.NewReader(m.appendTo(nil)))
		if err != nil || !bytes.Equal(got.payload, m.payload) || got.function != m.function || got.transaction != 9 {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

func FuzzMessage(f *testing.F) {
	m := message{function: fnSCN, payload: appendNumber(appendText([]byte{0, 0, 0, 0}, tagName, "iqn.x"), tagNodeType, 2)}
	f.Add(m.appendTo(nil))
	m.payload = make([]byte, maxPayload+8)
	f.Add(m.appendTo(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := readMessage(bytes.NewReader(b))
		if err != nil {
			return
		}
		if len(m.payload) > len(b) {
			t.Errorf("%d bytes out of %d", len(m.payload), len(b))
		}
		list, err := m.answer()
		if err != nil {
			return
		}
		n := 4
		for _, a := range list {
			n += 8 + len(a.value)
			_, _ = a.text(), a.number()
		}
		if n != len(m.payload) {
			t.Errorf("attributes of %d bytes, payload of %d", n, len(m.payload))
		}
	})
}

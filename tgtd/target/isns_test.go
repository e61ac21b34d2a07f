package target

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi"
)

// isnsServer answers every request with success and keeps what it was told; a query names one initiator.
type isnsServer struct {
	l       net.Listener
	running sync.WaitGroup
	mu      sync.Mutex
	heard   []string // function and payload
}

func newISNSServer(t *testing.T) *isnsServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &isnsServer{l: l}
	s.running.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			s.running.Go(func() { s.serve(nc) })
		}
	})
	t.Cleanup(func() { l.Close(); s.running.Wait() })
	return s
}

func (s *isnsServer) serve(nc net.Conn) {
	defer nc.Close()
	for {
		h := make([]byte, 12)
		if _, err := io.ReadFull(nc, h); err != nil {
			return
		}
		payload := make([]byte, binary.BigEndian.Uint16(h[4:]))
		if _, err := io.ReadFull(nc, payload); err != nil {
			return
		}
		s.mu.Lock()
		s.heard = append(s.heard, fmt.Sprintf("%d %s", binary.BigEndian.Uint16(h[2:]), payload))
		s.mu.Unlock()
		answer := []byte{0, 0, 0, 0}
		if h[3] == 2 { // a query
			answer = append(answer, 0, 0, 0, 0, 0, 0, 0, 0)                           // delimiter
			answer = append(answer, "\x00\x00\x00\x20\x00\x00\x00\x08iqn.x:i\x00"...) // name
			answer = append(answer, 0, 0, 0, 33, 0, 0, 0, 4, 0, 0, 0, 2)              // initiator
		}
		h[2] |= 0x80
		binary.BigEndian.PutUint16(h[4:], uint16(len(answer)))
		if _, err := nc.Write(append(h, answer...)); err != nil {
			return
		}
	}
}

// told waits until something that was said contains all the words.
func (s *isnsServer) told(t *testing.T, words ...string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		s.mu.Lock()
		for _, line := range s.heard {
			all := true
			for _, w := range words {
				all = all && strings.Contains(line, w)
			}
			if all {
				s.mu.Unlock()
				return
			}
		}
		s.mu.Unlock()
	}
	t.Fatalf("the server was never told %q", words)
}

// TestISNS: targets are registered when iSNS is turned on, changes follow, the server decides who gets in, and
// everything is taken back in the end.
func TestISNS(t *testing.T) {
	s := newISNSServer(t)
	b := newBench(t, nil)
	must(t, b.NewTarget(1, "iqn.x:a"))
	must(t, b.Bind(1, Rule{Address: "ALL", HasAddress: true}))
	_, port, err := net.SplitHostPort(s.l.Addr().String())
	must(t, err)
	must(t, b.SetSystem([]Setting{{"iSNSServerIP", "127.0.0.1"}, {"iSNSServerPort", port}, {"iSNSAccessControl", "On"}}))
	must(t, b.SetSystem([]Setting{{"iSNS", "On"}}))
	s.told(t, "1 ", "iqn.x:a")
	must(t, b.NewTarget(2, "iqn.x:b"))
	s.told(t, "1 ", "iqn.x:a", "iqn.x:b")
	peer, here := netip.MustParseAddrPort("10.0.0.1:1"), netip.MustParseAddrPort("10.0.0.2:3260")
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		if a := b.Admit("iqn.x:a", "iqn.x:i", peer, here); a.Status == iscsi.LoginSuccess {
			break
		} else if time.Now().After(end) {
			t.Fatalf("an initiator that the server names: %v", a.Status)
		}
	}
	if a := b.Admit("iqn.x:a", "iqn.x:j", peer, here); a.Status != iscsi.TargetNotFound {
		t.Errorf("another one: %v", a.Status)
	}
	if a := b.Admit("iqn.x:b", "iqn.x:i", peer, here); a.Status != iscsi.TargetNotFound {
		t.Errorf("a target without rules of its own: %v", a.Status)
	}
	must(t, b.SetSystem([]Setting{{"iSNS", "Off"}}))
	s.told(t, "4 ", "iqn.x:a")
	if a := b.Admit("iqn.x:a", "iqn.x:j", peer, here); a.Status != iscsi.LoginSuccess {
		t.Errorf("with iSNS off: %v", a.Status)
	}
	s.mu.Lock()
	s.heard = nil
	s.mu.Unlock()
	must(t, b.SetSystem([]Setting{{"iSNS", "On"}}))
	s.told(t, "1 ", "iqn.x:a")
	must(t, b.Close())
	s.told(t, "4 ", "iqn.x:a")
}

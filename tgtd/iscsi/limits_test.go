package iscsi

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi/pdu"
)

// TestCrowdOut: who has to go when one more connection comes: the oldest of a neighbour that has its share, before
// the oldest of all.
func TestCrowdOut(t *testing.T) {
	for _, x := range []struct{ there, from, gone string }{
		{"1 2 1", "3", ""},
		{"1 2 1 1", "2", ""},
		{"1 2 2 2", "2", "2"},
		{"1 2 3 4 5", "6", "1"},
		{"1 2 2 2 5", "2", "2"},
		{"::1 ::2 ::3", "::4", "::1"},
		{"1:: 2:: 3::", "4::", ""},
	} {
		addr := func(s string) netip.Addr {
			if !strings.Contains(s, ":") {
				s = "10.0.0." + s
			}
			return netip.MustParseAddr(s)
		}
		srv := NewServer(Options{MaxLogins: 5, MaxLoginsPerAddress: 3})
		for s := range strings.FieldsSeq(x.there) {
			srv.logins = append(srv.logins, &conn{addrs: connAddrs{remote: netip.AddrPortFrom(addr(s), 1)}})
		}
		before := len(srv.logins)
		got := srv.crowdOut(addr(x.from))
		switch {
		case got == nil && x.gone == "":
		case got == nil || x.gone == "" || got.addrs.remote.Addr() != addr(x.gone) || len(srv.logins) != before-1:
			t.Errorf("%q and one from %s: %v has to go, want %s", x.there, x.from, got, x.gone)
		}
	}
}

// TestStalledReader: an initiator that takes nothing of its answers is let go in the end, and what it asked for
// with it; another session is served all the while.
func TestStalledReader(t *testing.T) {
	d, _, disk := oneTarget()
	disk.async = true
	srv, p := testServer(t, d, func(o *Options) { o.StallTimeout = 500 * time.Millisecond })
	other := newClient(t, p, "--isid 800000000002").ready()
	c := newClient(t, p, "MaxRecvDataSegmentLength=262144").ready()
	for range 100 {
		c.start(read10(0, 2000), nil)
	}
	eventually(t, "it is let go", func() bool {
		if r := other.run(read10(0, 8), nil); r.status != 0 {
			t.Fatalf("other session: status %02x", r.status)
		}
		return len(srv.Sessions(-1)) == 1
	})
	eventually(t, "its nexus is detached", func() bool { return disk.nexuses() == 1 })
}

// TestLogoutRequest: sessions of a target that ends are asked to log out, and those that do not are told.
func TestLogoutRequest(t *testing.T) {
	d, target, disk := oneTarget()
	srv, p := testServer(t, d, func(o *Options) { o.LogoutGrace = time.Second })
	polite := newClient(t, p).ready()
	rude := newClient(t, p, "--isid 800000000002").ready()
	expect := func(c *client, event byte, parameters [3]uint16) {
		t.Helper()
		u, err := c.recv()
		c.must(err)
		var a pdu.Async
		a.Decode(&u.Header)
		if u.Header.Opcode() != pdu.OpAsync || a.Event != event || a.Parameter != parameters {
			t.Errorf("opcode %02x, %+v; want event %d with %d", u.Header.Opcode(), a, event, parameters)
		}
	}
	srv.RequestLogout(target.tid)
	expect(polite, asyncLogout, [3]uint16{0, 0, 1})
	expect(rude, asyncLogout, [3]uint16{0, 0, 1})
	polite.ping() // nothing has ended
	done := make(chan struct{})
	go func() { srv.CloseTarget(target.tid); close(done) }()
	expect(polite, asyncLogout, [3]uint16{0, 0, 1})
	expect(rude, asyncLogout, [3]uint16{0, 0, 1})
	l := pdu.LogoutRequest{Immediate: true, InitiatorTag: 7, CmdSN: polite.cmdSN}
	var u pdu.PDU
	l.Encode(&u.Header)
	if r, err := polite.roundTrip(&u); err != nil || r.Header.Opcode() != pdu.OpLogoutResponse {
		t.Errorf("%v, %v", r, err)
	}
	expect(rude, asyncDropSession, [3]uint16{0, 2, 20})
	rude.ended()
	waitDone(t, "CloseTarget", done)
	if n := disk.nexuses(); n != 0 {
		t.Errorf("%d nexuses are left", n)
	}
}

// TestNoMD5: with MD5 refused, nobody gets in with it.
func TestNoMD5(t *testing.T) {
	d, target, _ := oneTarget()
	d.change(func() { target.accounts = Accounts{Incoming: []Account{{"joe", "secretsecret"}}} })
	_, p := testServer(t, d, func(o *Options) { o.RefuseMD5 = true })
	for algs, want := range map[string]int{"5": 2, "5,7": 0} {
		var out strings.Builder
		status := runProbe(&out, []string{p.Addr().String(), "--algs", algs, "--user", "joe", "--pass", "secretsecret",
			"--target", testTarget})
		if status != want {
			t.Errorf("%s: exit status %d, want %d\n%s", algs, status, want, out.String())
		}
	}
}

// TestUserTimeout: the kernel ends connections whose peer vanished.
func TestUserTimeout(t *testing.T) {
	d, _, _ := oneTarget()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	nc, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	c, err := newConn(NewServer(Options{Directory: d}), nc)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.limitSilence(1234 * time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if got := userTimeout(t, c); got != 1234 {
		t.Errorf("TCP_USER_TIMEOUT is %d ms", got)
	}
}

func userTimeout(t *testing.T, c *conn) (ms int) {
	t.Helper()
	var failed error
	err := c.raw.Control(func(fd uintptr) {
		ms, failed = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
	})
	if err != nil || failed != nil {
		t.Fatal(err, failed)
	}
	return ms
}

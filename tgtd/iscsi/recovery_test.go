package iscsi

import (
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi/pdu"
)

// only is the server's only session.
func only(t *testing.T, srv *Server) *session {
	t.Helper()
	srv.mu.Lock()
	defer srv.mu.Unlock()
	for _, s := range srv.sessions {
		return s
	}
	t.Fatal("no session")
	return nil
}

// TestServerBytesAreBounded: what all sessions hold together is bounded, whoever holds it, but one that holds little
// is served even then.
func TestServerBytesAreBounded(t *testing.T) {
	d, target, _ := oneTarget()
	target.set(t, "ErrorRecoveryLevel=1")
	srv, p := testServer(t, d, func(o *Options) { o.MaxServerBytes = 2 << 20 })
	greedy := newClient(t, p, "ErrorRecoveryLevel=1", "MaxRecvDataSegmentLength=262144").ready()
	modest := newClient(t, p, "--isid 800000000077", "ErrorRecoveryLevel=1", "MaxRecvDataSegmentLength=262144").ready()
	// Without acknowledgement the data is kept.
	read := func(c *client, exp uint32, want byte) {
		t.Helper()
		c.expStat = exp
		if r := c.run(read10(0, 1000), nil); r.status != want {
			t.Fatalf("status %02x, want %02x, with %d bytes held", r.status, want, srv.bytes.Load())
		}
	}
	mine, theirs := greedy.expStat, modest.expStat
	for range 4 {
		read(greedy, mine, 0)
	}
	read(greedy, mine, 0x28) // TASK SET FULL
	read(modest, theirs, 0)
	read(modest, theirs, 0)
	read(modest, theirs, 0x28)
	greedy.ping() // acknowledges
	greedy.ping()
	read(modest, theirs, 0)
	modest.ping()
	modest.ping()
	if n := srv.bytes.Load(); n != 0 {
		t.Errorf("%d bytes are held after all was acknowledged", n)
	}
}

// TestKeptIsBounded: what is not acknowledged counts as held by the session until it is, or the session ends.
func TestKeptIsBounded(t *testing.T) {
	d, target, disk := oneTarget()
	target.set(t, "ErrorRecoveryLevel=1")
	srv, p := testServer(t, d, func(o *Options) { o.MaxTransfer = 1 << 20; o.MaxSessionBytes = 1 << 20 })
	c := newClient(t, p, "ErrorRecoveryLevel=1", "MaxRecvDataSegmentLength=262144").ready()
	s := only(t, srv)
	exp := c.expStat
	run := func() byte {
		c.expStat = exp // acknowledges nothing new
		r := c.run(read10(0, 1000), nil)
		return r.status
	}
	for i, want := range []byte{0, 0, 0x28} { // TASK SET FULL
		if status := run(); status != want {
			t.Fatalf("read %d: status %02x, want %02x", i, status, want)
		}
	}
	c.ping() // acknowledges
	c.ping()
	if n := s.bytes.Load(); n != 0 {
		t.Errorf("%d bytes are held after the acknowledgement", n)
	}
	exp = c.expStat
	if status := run(); status != 0 {
		t.Errorf("status %02x", status)
	}
	if n := s.bytes.Load(); n == 0 {
		t.Error("nothing is held")
	}
	c.nc.Close()
	waitDone(t, "the end of the session", s.done)
	if n := s.bytes.Load(); n != 0 {
		t.Errorf("%d bytes are held after the end", n)
	}
	if n := disk.nexuses(); n != 0 {
		t.Errorf("%d nexuses", n)
	}
}

// TestNeverAcknowledging: an initiator that acknowledges nothing is asked, and then let go.
func TestNeverAcknowledging(t *testing.T) {
	d, target, disk := oneTarget()
	target.set(t, "ErrorRecoveryLevel=1")
	_, p := testServer(t, d, nil)
	c := newClient(t, p, "ErrorRecoveryLevel=1").ready()
	exp := c.expStat
	asked, answers := false, 0
	for ; answers <= maxUnacknowledged+8; answers++ {
		req := tur()
		req.Final, req.InitiatorTag, req.CmdSN, req.ExpStatSN = true, 7, c.cmdSN, exp
		c.cmdSN++
		u := encoded(&req, nil)
		if c.send(&u) != nil {
			break
		}
		a, err := c.recv()
		if err == nil && a.Header.Opcode() == pdu.OpNOPIn && a.Header.TargetTag() != pdu.NoTag {
			asked = true
			_, err = c.recv()
		}
		if err != nil {
			break
		}
	}
	if !asked || answers < maxUnacknowledged-2 || answers > maxUnacknowledged+2 {
		t.Errorf("asked %v; let go after %d answers", asked, answers)
	}
	eventually(t, "the nexus is detached", func() bool { return disk.nexuses() == 0 })
}

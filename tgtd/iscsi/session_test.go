package iscsi

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi/pdu"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/sam"
)

func (r *ramDisk) holdAll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hold = func(*sam.Command) bool { return true }
}

func (r *ramDisk) nexuses() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.attached
}

// TestWindow: MaxCmdSN tells how many commands may still come; more are ignored; it opens with responses.
func TestWindow(t *testing.T) {
	d, target, disk := oneTarget()
	target.set(t, "MaxQueueCmd=3")
	_, p := testServer(t, d, nil)
	c := newClient(t, p).ready()
	if r := c.run(tur(), nil); r.final.ExpCmdSN != c.cmdSN || r.final.MaxCmdSN != c.cmdSN+3 {
		t.Errorf("idle: %+v, CmdSN %d", r.final, c.cmdSN)
	}
	disk.holdAll()
	var tags []uint32
	for range 4 { // as tgt, one more than MaxQueueCmd says
		tags = append(tags, c.start(tur(), nil))
	}
	eventually(t, "four commands arrive", func() bool { return disk.held() == 4 })
	beyond := tur()
	beyond.CmdSN = c.cmdSN
	c.start(beyond, nil)
	c.ping()
	if n := disk.held(); n != 4 {
		t.Errorf("%d commands passed a closed window", n)
	}
	disk.letGo()
	got := map[uint32]bool{}
	for range tags {
		u, err := c.recv()
		c.must(err)
		got[u.Header.InitiatorTag()] = true
	}
	for _, tag := range tags {
		if !got[tag] {
			t.Errorf("no answer to command %d", tag)
		}
	}
	if r := c.run(tur(), nil); r.final.MaxCmdSN != c.cmdSN+3 {
		t.Errorf("afterwards: %+v, CmdSN %d", r.final, c.cmdSN)
	}
}

// TestNumbersOutsideOfTheWindow: they are ignored, silently, and so is their data (RFC 7143 4.2.2.1).
func TestNumbersOutsideOfTheWindow(t *testing.T) {
	d, _, disk := oneTarget()
	_, p := testServer(t, d, nil)
	c := newClient(t, p).ready()
	arrived := disk.watch(16)
	for _, sn := range []uint32{c.cmdSN - 1, c.cmdSN + 129, c.cmdSN + 1<<31} {
		req := write10(0, 8)
		req.CmdSN = sn
		c.start(req, make([]byte, 4096))
	}
	c.ping()
	if n := len(arrived); n != 0 {
		t.Errorf("%d of them were executed", n)
	}
	if r := c.run(tur(), nil); r.status != 0 {
		t.Errorf("the right one: status %02x", r.status)
	}
}

// TestAheadOfTurn: commands are executed in the order of their numbers, whatever order they come in.
func TestAheadOfTurn(t *testing.T) {
	d, _, disk := oneTarget()
	_, p := testServer(t, d, nil)
	c := newClient(t, p).ready()
	var order []byte
	disk.mu.Lock()
	disk.hold = func(cmd *sam.Command) bool {
		order = append(order, cmd.CDB[5]) // the block number
		return false
	}
	disk.mu.Unlock()
	base := c.cmdSN
	for _, k := range []uint32{3, 1, 2, 3} { // the second 3 is a duplicate, to be ignored
		req := write10(int(k), 1)
		req.CmdSN = base + k
		c.start(req, make([]byte, 512))
	}
	c.ping()
	disk.mu.Lock()
	if len(order) != 0 {
		t.Errorf("executed ahead of their turn: %v", order)
	}
	disk.mu.Unlock()
	req := tur()
	req.CmdSN = base
	c.start(req, nil)
	for range 4 {
		u, err := c.recv()
		c.must(err)
		if u.Header[3] != 0 {
			t.Errorf("status %02x", u.Header[3])
		}
	}
	disk.mu.Lock()
	if want := []byte{0, 1, 2, 3}; !bytes.Equal(order, want) {
		t.Errorf("order %v, want %v", order, want)
	}
	disk.mu.Unlock()
	c.cmdSN = base + 4
	if r := c.run(tur(), nil); r.status != 0 || r.final.MaxCmdSN != c.cmdSN+128 {
		t.Errorf("afterwards: status %02x, %+v", r.status, r.final)
	}
}

// TestImmediate: a command marked for immediate delivery does not wait for its turn and uses no number.
func TestImmediate(t *testing.T) {
	d, _, _ := oneTarget()
	_, p := testServer(t, d, nil)
	c := newClient(t, p).ready()
	held := tur()
	held.CmdSN = c.cmdSN + 1
	first := c.start(held, nil)
	now := tur()
	now.Immediate = true
	if r := c.run(now, nil); r.status != 0 || r.final.ExpCmdSN != c.cmdSN {
		t.Errorf("status %02x, %+v", r.status, r.final)
	}
	second := c.start(tur(), nil)
	c.finish(second, nil)
	if r := c.finish(first, nil); r.status != 0 {
		t.Errorf("status %02x", r.status)
	}
}

// TestAbortTask in the target, and while data is awaited; the aborted command gets no response and its
// slot of the window is free again.
func TestAbortTask(t *testing.T) {
	d, target, disk := oneTarget()
	target.set(t, "ImmediateData=No")
	_, p := testServer(t, d, nil)
	c := newClient(t, p).ready()
	disk.holdAll()
	tag := c.start(tur(), nil)
	eventually(t, "it arrives", func() bool { return disk.held() == 1 })
	if r := c.manage(1, tag); r != 0 {
		t.Errorf("ABORT TASK: response %d", r)
	}
	if r := c.manage(1, tag); r != 1 {
		t.Errorf("again: response %d", r)
	}
	c.quiet()
	disk.letGo()
	arrived := disk.watch(4)
	for _, f := range []byte{1, 2, 5} {
		tag = c.start(write10(0, 8), make([]byte, 4096))
		u, err := c.recv()
		c.must(err)
		if u.Header.Opcode() != pdu.OpR2T {
			t.Fatalf("opcode %02x", u.Header.Opcode())
		}
		if r := c.manage(f, tag); r != 0 {
			t.Errorf("function %d on a command waiting for data: response %d", f, r)
		}
		var r pdu.R2T
		r.Decode(&u.Header)
		c.must(c.sendBurst(&r, make([]byte, 4096), 8192)) // comes too late
		c.quiet()
	}
	if n := len(arrived); n != 0 {
		t.Errorf("%d aborted writes were executed", n)
	}
	c.run(tur(), nil) // the unit attention of the reset
	if r := c.run(tur(), nil); r.status != 0 || r.final.MaxCmdSN != c.cmdSN+128 {
		t.Errorf("afterwards: status %02x, %+v", r.status, r.final)
	}
}

// TestAbortOpensWindow: when all commands of a full window are aborted the initiator hears that it may
// send again.
func TestAbortOpensWindow(t *testing.T) {
	d, target, disk := oneTarget()
	target.set(t, "MaxQueueCmd=1")
	_, p := testServer(t, d, nil)
	c := newClient(t, p).ready()
	disk.holdAll()
	c.start(tur(), nil)
	c.start(tur(), nil)
	eventually(t, "the window is full", func() bool { return disk.held() == 2 })
	disk.abort(func(*sam.Command) bool { return true })
	u, err := c.recv()
	c.must(err)
	var n pdu.NOPIn
	n.Decode(&u.Header)
	if u.Header.Opcode() != pdu.OpNOPIn || n.InitiatorTag != pdu.NoTag || n.TargetTag != pdu.NoTag ||
		pdu.Less(n.MaxCmdSN, n.ExpCmdSN) {
		t.Errorf("opcode %02x, %+v", u.Header.Opcode(), n)
	}
}

// TestSameTagTwice: a tag in use is refused; the command that has it goes on.
func TestSameTagTwice(t *testing.T) {
	d, target, _ := oneTarget()
	target.set(t, "ImmediateData=No")
	_, p := testServer(t, d, nil)
	c := newClient(t, p).ready()
	out := make([]byte, 512)
	tag := c.start(write10(0, 1), out)
	u, err := c.recv()
	c.must(err)
	var r2t pdu.R2T
	r2t.Decode(&u.Header)
	c.tag--
	again := write10(0, 1)
	again.CmdSN = c.cmdSN
	c.start(again, out)
	if u, err = c.recv(); err != nil || u.Header.Opcode() != pdu.OpReject ||
		u.Header[2] != byte(pdu.RejectTaskInProgress) {
		t.Fatalf("%v, %v", u, err)
	}
	c.must(c.sendBurst(&r2t, out, 512))
	c.earlier = 1
	if r := c.finish(tag, out); r.status != 0 {
		t.Errorf("status %02x", r.status)
	}
}

// TestReinstatement: a second login of the same initiator and ISID ends the first session, entirely,
// before the new one is attached (RFC 7143 6.3.5).
func TestReinstatement(t *testing.T) {
	d, _, disk := oneTarget()
	srv, p := testServer(t, d, nil)
	old := newClient(t, p).ready()
	disk.holdAll()
	old.start(tur(), nil)
	eventually(t, "the command arrives", func() bool { return disk.held() == 1 })
	c := newClient(t, p)
	if n, held := disk.nexuses(), disk.held(); n != 1 || held != 0 {
		t.Errorf("%d nexuses, %d old commands", n, held)
	}
	old.ended()
	list := srv.Sessions(1)
	if len(list) != 1 || list[0].SID != 2 || list[0].Initiator != c.opt.iname {
		t.Errorf("sessions %+v", list)
	}
	// Another ISID is another session; another target too.
	newClient(t, p, "--isid 800000000002", "--alias me", "--cid 7")
	list = srv.Sessions(-1)
	if len(list) != 2 || list[1].SID != 3 || list[1].Alias != "me" || list[1].Connections[0].CID != 7 ||
		list[1].ISID != [6]byte{0x80, 5: 2} {
		t.Errorf("sessions %+v", list)
	}
	if got := srv.Sessions(9); got != nil {
		t.Errorf("sessions of no target: %v", got)
	}
}

func TestCloseConnection(t *testing.T) {
	d, _, disk := oneTarget()
	srv, p := testServer(t, d, nil)
	c := newClient(t, p, "--cid 3").ready()
	disk.holdAll()
	c.start(tur(), nil)
	for _, x := range []struct {
		tid  int
		sid  uint64
		cid  uint32
		want error
	}{{1, 9, 3, ErrNoSession}, {2, 1, 3, ErrNoSession}, {1, 1, 0, ErrNoConnection}, {1, 1, 3, nil}} {
		if err := srv.CloseConnection(x.tid, x.sid, x.cid); !errors.Is(err, x.want) {
			t.Errorf("%+v: %v", x, err)
		}
	}
	if list := srv.Sessions(1); list != nil {
		t.Errorf("still there: %+v", list)
	}
	c.ended()
	eventually(t, "the nexus is detached", func() bool { return disk.nexuses() == 0 })
}

func TestCloseTarget(t *testing.T) {
	d, target, disk := oneTarget()
	other := d.add("iqn.2001-04.com.example:b")
	srv, p := testServer(t, d, nil)
	a, b := newClient(t, p).ready(), newClient(t, p, "--isid 800000000002").ready()
	c := newClient(t, p, "--target "+other.name).ready()
	disk.holdAll()
	a.start(tur(), nil)
	d.change(func() { target.status = TargetNotFound })
	srv.CloseTarget(1)
	if disk.nexuses() != 0 || disk.held() != 0 {
		t.Error("the target still has nexuses or commands")
	}
	a.ended()
	b.ended()
	if r := c.run(tur(), nil); r.status != 0 {
		t.Errorf("the other target: status %02x", r.status)
	}
}

// TestTargetGoesDuringLogin: a login whose target is removed before it completes is refused.
func TestTargetGoesDuringLogin(t *testing.T) {
	d, target, disk := oneTarget()
	srv, p := testServer(t, d, nil)
	c := &probe{out: io.Discard, cmdSN: 1, opt: probeOptions{iname: "iqn.x:i", isid: "800000000001", target: testTarget}}
	if err := c.connect(p.Addr().String()); err != nil {
		t.Fatal(err)
	}
	defer c.nc.Close()
	_, _, err := c.loginPDU(0, 1, true, []pdu.KeyValue{{Key: "InitiatorName", Value: "iqn.x:i"},
		{Key: "TargetName", Value: testTarget}, {Key: "AuthMethod", Value: "None"}})
	if err != nil {
		t.Fatal(err)
	}
	d.change(func() { target.disk = newRAMDisk(512) }) // removed and made anew
	r, _, err := c.loginPDU(1, 3, true, nil)
	if !errors.Is(err, errRefusedLogin) || r.StatusClass != 2 || r.StatusDetail != 4 {
		t.Errorf("%+v, %v", r, err)
	}
	if disk.nexuses() != 0 {
		t.Error("attached")
	}
	eventually(t, "the session is forgotten", func() bool {
		srv.mu.Lock()
		defer srv.mu.Unlock()
		return len(srv.sessions) == 0
	})
}

// TestMultipleConnections: they share a session and its command window, and are numbered in one order.
func TestMultipleConnections(t *testing.T) {
	d, target, disk := oneTarget()
	target.set(t, "MaxConnections=2")
	srv, p := testServer(t, d, nil)
	a := newClient(t, p).ready()
	b := newClient(t, p, "--tsih 256", "--cid 1")
	if list := srv.Sessions(1); len(list) != 1 || len(list[0].Connections) != 2 || list[0].Connections[1].CID != 1 {
		t.Fatalf("sessions %+v", list)
	}
	b.cmdSN = a.cmdSN + 1
	late := b.start(tur(), nil)
	b.quiet() // its turn has not come
	if r := a.run(tur(), nil); r.status != 0 {
		t.Errorf("first connection: status %02x", r.status)
	}
	if r := b.finish(late, nil); r.status != 0 || r.final.ExpCmdSN != b.cmdSN {
		t.Errorf("second connection: status %02x, %+v", r.status, r.final)
	}
	var third bytes.Buffer
	status := runProbe(&third, []string{p.Addr().String(), "--tsih", "256", "--cid", "2", "--target", testTarget})
	if status != 2 || !strings.Contains(third.String(), "status=0206") {
		t.Errorf("third connection: status %d\n%s", status, third.String())
	}
	// The session lives as long as one of them.
	a.nc.Close()
	eventually(t, "one is gone", func() bool { return len(srv.Sessions(1)[0].Connections) == 1 })
	if r := b.run(tur(), nil); r.status != 0 {
		t.Errorf("after it: status %02x", r.status)
	}
	b.nc.Close()
	eventually(t, "both are gone", func() bool { return disk.nexuses() == 0 })
}

// TestLogoutOfAnother: a connection can be closed through another one of its session.
func TestLogoutOfAnother(t *testing.T) {
	d, target, _ := oneTarget()
	target.set(t, "MaxConnections=2")
	_, p := testServer(t, d, nil)
	a := newClient(t, p).ready()
	b := newClient(t, p, "--tsih 256", "--cid 1")
	for _, want := range []byte{0, 1} { // there, and then no more
		l := pdu.LogoutRequest{Immediate: true, Reason: 1, CID: 1, InitiatorTag: 77, CmdSN: a.cmdSN}
		var u pdu.PDU
		l.Encode(&u.Header)
		r, err := a.roundTrip(&u)
		a.must(err)
		if r.Header.Opcode() != pdu.OpLogoutResponse || r.Header[2] != want {
			t.Errorf("opcode %02x, response %d, want %d", r.Header.Opcode(), r.Header[2], want)
		}
		if want == 0 {
			b.ended()
		}
	}
	a.ping()
}

// TestStatistics has the numbers of transcript 075.
func TestStatistics(t *testing.T) {
	d, _, _ := oneTarget()
	srv, p := testServer(t, d, nil)
	c := newClient(t, p)
	inquiry := pdu.SCSICommand{Read: true, ExpectedLength: 255, CDB: [16]byte{0x12, 4: 255}}
	bad := read10(0, 0xffff)
	bad.ExpectedLength = 512
	for _, req := range []pdu.SCSICommand{tur(), tur(), read10(0, 8)} {
		c.run(req, nil)
	}
	c.run(write10(0, 4), bytes.Repeat([]byte{0x11}, 2048))
	c.run(bad, nil)
	c.run(inquiry, nil)
	got := srv.Sessions(1)[0].Connections[0].Stats
	want := ConnStats{RxOctets: 2540, TxOctets: 4628, CommandPDUs: 6, ResponsePDUs: 4, DataInPDUs: 2}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// TestNotWelcome: without a target connections are closed right after accept.
func TestNotWelcome(t *testing.T) {
	_, p := testServer(t, &fakeDirectory{}, nil)
	nc, err := net.Dial("tcp", p.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if n, err := nc.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// TestLoginTimeout and a crowd of idle connections: neither keeps others out.
func TestLoginTimeout(t *testing.T) {
	d, _, _ := oneTarget()
	_, p := testServer(t, d, func(o *Options) { o.LoginTimeout = 50 * time.Millisecond })
	nc, err := net.Dial("tcp", p.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if _, err := nc.Write(make([]byte, 20)); err != nil {
		t.Fatal(err)
	}
	if _, err := nc.Read(make([]byte, 1)); err == nil {
		t.Error("bytes instead of an end")
	}
}

func TestCrowdOfLogins(t *testing.T) {
	d, _, _ := oneTarget()
	srv, p := testServer(t, d, func(o *Options) { o.MaxLogins = 2; o.LoginTimeout = time.Hour })
	var idle []net.Conn
	for i := range 3 {
		nc, err := net.Dial("tcp", p.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		idle = append(idle, nc)
		eventually(t, "accepted", func() bool {
			srv.mu.Lock()
			defer srv.mu.Unlock()
			return len(srv.logins) == min(i+1, 2)
		})
	}
	if _, err := idle[0].Read(make([]byte, 1)); err == nil {
		t.Error("the oldest was not closed")
	}
	newClient(t, p).ready()
}

func TestTooManyConnections(t *testing.T) {
	d, _, _ := oneTarget()
	_, p := testServer(t, d, func(o *Options) { o.MaxConnections = 1 })
	c := newClient(t, p).ready()
	nc, err := net.Dial("tcp", p.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if _, err := nc.Read(make([]byte, 1)); err == nil {
		t.Error("not closed")
	}
	c.ping()
}

// TestLoginRefusals: statuses that no transcript shows.
func TestLoginRefusals(t *testing.T) {
	d, target, _ := oneTarget()
	_, p := testServer(t, d, nil)
	for _, x := range []struct {
		args   string
		status LoginStatus
		want   string
	}{
		{"--isid 000000000000 --target " + testTarget, 0, "status=0207 "},
		{"--noiname --target " + testTarget, 0, "status=0207 "},
		{"--stype Bogus --target " + testTarget, 0, "status=0209 "},
		{"--stype Normal", 0, "status=0207 "},
		{"--target iqn.none", 0, "status=0203 "},
		{"--auth - --target " + testTarget, 0, "status=0201 TargetPortalGroupTag=1"},
		{"--auth bogus --target " + testTarget, 0, "status=0201 TargetPortalGroupTag=1 AuthMethod=Reject"},
		{"--tsih 5 --target " + testTarget, 0, "csg=0 nsg=1 T=1 C=0 tsih=0005 status=020a TargetPortalGroupTag=1 AuthMethod=None"},
		{"--target " + testTarget, TargetMovedTemp, "status=0101 TargetAddress=127.0.0.2:3260"},
		{"--target " + testTarget, TargetMovedPerm, "status=0102 TargetAddress=127.0.0.2:3260"},
		{"--target " + testTarget, TargetUnavailable, "status=0300 "},
	} {
		d.change(func() { target.status, target.redirect = x.status, "127.0.0.2:3260" })
		var out bytes.Buffer
		status := runProbe(&out, append([]string{p.Addr().String()}, strings.Fields(x.args)...))
		if status != 2 || !strings.HasSuffix(out.String(), x.want+"\n") {
			t.Errorf("%s: exit status %d\n%s", x.args, status, out.String())
		}
	}
}

// TestLoginHeaders: requests that are wrong in themselves.
func TestLoginHeaders(t *testing.T) {
	d, _, _ := oneTarget()
	names := pdu.AppendText(pdu.AppendText(nil, "InitiatorName", "iqn.x:i"), "TargetName", testTarget)
	auth := pdu.AppendText(nil, "AuthMethod", "None")
	good := pdu.LoginRequest{Transit: true, NSG: 1, ISID: [6]byte{0x80, 5: 1}}
	with := func(change func(*pdu.LoginRequest)) pdu.LoginRequest {
		r := good
		change(&r)
		return r
	}
	type step struct {
		req  pdu.LoginRequest
		data []byte
	}
	for _, x := range []struct {
		what  string
		steps []step
		want  LoginStatus
	}{
		{"version 1", []step{{with(func(r *pdu.LoginRequest) { r.VersionMin = 1 }), names}}, UnsupportedVersion},
		{"to the same stage", []step{{with(func(r *pdu.LoginRequest) { r.NSG = 0 }), names}}, InitiatorError},
		{"to stage 2", []step{{with(func(r *pdu.LoginRequest) { r.NSG = 2 }), names}}, InitiatorError},
		{"from stage 3", []step{{with(func(r *pdu.LoginRequest) { r.CSG = 3 }), names}}, InitiatorError},
		{"T and C", []step{{with(func(r *pdu.LoginRequest) { r.Continue = true }), names}}, InitiatorError},
		{"back to security", []step{{good, append(names, auth...)}, {good, nil}}, InitiatorError},
		{"other ISID", []step{{good, append(names, auth...)},
			{with(func(r *pdu.LoginRequest) { r.CSG, r.NSG, r.ISID[0] = 1, 3, 0x40 }), nil}}, InitiatorError},
		{"no =", []step{{good, []byte("InitiatorName\x00")}}, InitiatorError},
		{"name too long", []step{{good, pdu.AppendText(nil, "InitiatorName", strings.Repeat("x", 300))}}, MissingParameter},
		{"in pieces", []step{
			{with(func(r *pdu.LoginRequest) { r.Transit, r.Continue = false, true }), names[:20]},
			{good, append(slices.Clone(names[20:]), auth...)},
			{with(func(r *pdu.LoginRequest) { r.CSG, r.NSG = 1, 3 }), nil}}, LoginSuccess},
	} {
		l := login{dir: d, trusted: func(*login) LoginStatus { return LoginSuccess },
			establish: func(*login) (uint16, LoginStatus) { return 1, LoginSuccess }}
		var r reply
		for i, s := range x.steps {
			if r = l.step(&s.req, s.data); r.status != LoginSuccess && i < len(x.steps)-1 {
				t.Errorf("%s: step %d: %v", x.what, i, r.status)
			}
		}
		if r.status != x.want || x.want == LoginSuccess != (l.phase == phaseDone) {
			t.Errorf("%s: status %v, phase %d; want %v", x.what, r.status, l.phase, x.want)
		}
	}
}

// TestEndlessLogin: neither rounds nor text without end.
func TestEndlessLogin(t *testing.T) {
	d, _, _ := oneTarget()
	for _, size := range []int{0, 8192} {
		l := login{dir: d}
		req := pdu.LoginRequest{Continue: true, NSG: 1, ISID: [6]byte{1}}
		rounds := 0
		for l.step(&req, make([]byte, size)).status == LoginSuccess {
			if rounds++; rounds > 1000 {
				t.Fatalf("%d rounds of %d bytes", rounds, size)
			}
		}
	}
}

// TestFirstPDU: whatever is no login request ends the connection, after a Reject.
func TestFirstPDU(t *testing.T) {
	d, _, _ := oneTarget()
	_, p := testServer(t, d, nil)
	for _, first := range []byte{0x40, 0x01, 0x03, 0x5f} {
		nc, err := net.Dial("tcp", p.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		if _, err := nc.Write(append([]byte{first}, make([]byte, 47)...)); err != nil {
			t.Fatal(err)
		}
		u, err := pdu.Read(nc, pdu.Digests{}, 8192)
		if err != nil || u.Header.Opcode() != pdu.OpReject {
			t.Errorf("%02x: %v, %v", first, u, err)
		}
		if _, err := nc.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("%02x: %v instead of an end", first, err)
		}
	}
}

// TestNOPTimeout is one half of transcript 097: an initiator that does not answer pings is let go.
func TestNOPTimeout(t *testing.T) {
	d, target, disk := oneTarget()
	target.set(t, "nop_interval=1", "nop_count=1")
	_, p := testServer(t, d, nil)
	c := newClient(t, p).ready()
	if before := c.ended(); len(before) != 1 || before[0].Header.Opcode() != pdu.OpNOPIn {
		t.Errorf("before the end: %v", before)
	}
	eventually(t, "the nexus is detached", func() bool { return disk.nexuses() == 0 })
}

// TestNOPAnswered is the other half of transcript 097: whoever answers stays, however long it takes.
func TestNOPAnswered(t *testing.T) {
	d, target, _ := oneTarget()
	target.set(t, "nop_interval=1", "nop_count=1")
	_, p := testServer(t, d, nil)
	c := newClient(t, p).ready()
	for range 3 {
		u, err := c.recv()
		c.must(err)
		if u.Header.Opcode() != pdu.OpNOPIn || u.Header.InitiatorTag() != pdu.NoTag || u.Header.TargetTag() == pdu.NoTag {
			t.Fatalf("%x instead of a ping", u.Header)
		}
		var answer pdu.PDU
		n := pdu.NOPOut{Immediate: true, InitiatorTag: pdu.NoTag, TargetTag: u.Header.TargetTag(), CmdSN: c.cmdSN}
		n.Encode(&answer.Header)
		c.must(c.send(&answer))
	}
	if r := c.run(tur(), nil); r.status != 0 {
		t.Errorf("status %02x", r.status)
	}
}

// TestManyTargets is transcript 101: an answer that does not fit in one PDU.
func TestManyTargets(t *testing.T) {
	d := &fakeDirectory{}
	for i := range 200 {
		d.add(fmt.Sprintf("iqn.2001-04.com.example:storage.target.with.a.long.name.%d", i+1))
	}
	_, p := testServer(t, d, nil)
	// 20292 bytes there, where the port had four digits.
	total := 20292 + 200*(len(p.Addr().String())-len("127.0.0.1:3270"))
	for _, x := range []struct {
		segment string
		pdus    int
	}{{"", 3}, {"65536", 1}, {"512", (total + 511) / 512}} {
		args := []string{p.Addr().String(), "--quiet"}
		if x.segment != "" {
			args = append(args, "--key", "MaxRecvDataSegmentLength="+x.segment)
		}
		var out bytes.Buffer
		if status := runProbe(&out, append(args, "text:SendTargets=All")); status != 0 {
			t.Fatalf("status %d", status)
		}
		s := strings.ReplaceAll(out.String(), p.Addr().String(), "127.0.0.1:3270")
		if strings.Count(s, "text F") != x.pdus || strings.Count(s, "TargetAddress=127.0.0.1:3270,1\n") != 200 {
			t.Errorf("segments of %q: %d PDUs, %d addresses", x.segment, strings.Count(s, "text F"),
				strings.Count(s, "TargetAddress="))
		}
	}
}

// TestSendTargetsInNormalSession: its own name for an empty value, when it is switched on.
func TestSendTargetsInNormalSession(t *testing.T) {
	d, _, _ := oneTarget()
	d.add("iqn.2001-04.com.example:b")
	_, p := testServer(t, d, func(o *Options) { o.SendTargetsInNormalSessions = true })
	var out bytes.Buffer
	status := runProbe(&out, []string{p.Addr().String(), "--quiet", "--target", testTarget,
		"text:SendTargets=", "text:SendTargets=iqn.2001-04.com.example:b", "text:SendTargets=All", "tur:1"})
	want := strings.ReplaceAll(`logged in
text F=1 C=0
  TargetName=iqn.2001-04.com.example:a
  TargetAddress=@,1
text F=1 C=0
  TargetName=iqn.2001-04.com.example:b
  TargetAddress=@,1
text F=1 C=0
tur:1 -> CHECK CONDITION sense key=6 asc=2900 raw=700006000000000a00000000290000000000
`, "@", p.Addr().String())
	if status != 0 || out.String() != want {
		t.Errorf("status %d\n%s", status, out.String())
	}
}

func TestPortals(t *testing.T) {
	d, _, _ := oneTarget()
	srv, first := testServer(t, d, nil)
	for _, bad := range []string{"[::1", "127.0.0.1:99999", "127.0.0.1:-1", "10.99.99.99:3273", "", "no.such.host.invalid:1",
		first.Addr().String()} {
		if p, err := srv.Listen(bad); err == nil {
			t.Errorf("%q: listens on %v", bad, p.Addr())
		}
	}
	p, err := srv.Listen("127.0.0.1:abc")
	if err != nil || p.Addr().Port() == 0 {
		t.Fatalf("a port that is no number: %v", err)
	}
	six, err := srv.Listen("[::1]:0")
	if err != nil {
		t.Log("no IPv6 here: ", err)
	} else {
		var out bytes.Buffer
		runProbe(&out, []string{six.Addr().String(), "--quiet", "text:SendTargets=All"})
		if want := fmt.Sprintf("TargetAddress=[::1]:%d,1\n", six.Addr().Port()); !strings.HasSuffix(out.String(), want) {
			t.Errorf("discovery over IPv6: %s", out.String())
		}
	}
	c := newClient(t, p).ready()
	p.Close()
	if nc, err := net.Dial("tcp", p.Addr().String()); err == nil {
		nc.Close()
		t.Error("a closed portal takes connections")
	}
	c.ping() // its sessions go on
	again, err := srv.Listen(p.Addr().String())
	if err != nil {
		t.Errorf("the same address again: %v", err)
	} else {
		newClient(t, again, "--isid 800000000002").ready()
	}
}

// TestServerClose ends everything, commands under way included.
func TestServerClose(t *testing.T) {
	d, _, disk := oneTarget()
	srv := NewServer(Options{Directory: d})
	p, err := srv.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := newClient(t, p).ready()
	disk.holdAll()
	c.start(tur(), nil)
	c.start(write10(0, 100), make([]byte, 51200)) // waits for data
	done := make(chan struct{})
	go func() { srv.Close(); close(done) }()
	waitDone(t, "Close", done)
	if disk.nexuses() != 0 || disk.held() != 0 {
		t.Error("the target still has nexuses or commands")
	}
	if _, err := srv.Listen("127.0.0.1:0"); !errors.Is(err, ErrServerClosed) {
		t.Errorf("listening afterwards: %v", err)
	}
}

// TestNotReading: an initiator that asks and asks and never reads is cut off.
func TestNotReading(t *testing.T) {
	d, _, disk := oneTarget()
	_, p := testServer(t, d, nil)
	c := newClient(t, p).ready()
	n := pdu.NOPOut{Immediate: true, InitiatorTag: 1, TargetTag: pdu.NoTag, CmdSN: c.cmdSN}
	u := pdu.PDU{Data: make([]byte, 8192)}
	n.Encode(&u.Header)
	b := u.Append(nil, pdu.Digests{})
	c.must(c.nc.SetWriteDeadline(time.Now().Add(20 * time.Second)))
	for {
		if _, err := c.nc.Write(b); err != nil {
			if strings.Contains(err.Error(), "timeout") {
				t.Fatal("answers pile up without end, or nobody reads")
			}
			break // cut off
		}
	}
	eventually(t, "the nexus is detached", func() bool { return disk.nexuses() == 0 })
}

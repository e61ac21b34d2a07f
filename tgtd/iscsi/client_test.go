package iscsi

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi/pdu"
)

const testTarget = "iqn.2001-04.com.example:a"

// client is an initiator for tests of the full feature phase. It fails the test on whatever it does not
// expect.
type client struct {
	*probe
	t         testing.TB
	immediate bool // sends immediate data
	segment   int  // bytes in a PDU to the target
	first     int  // bytes of unsolicited data
	r2t       bool // waits for R2T: InitialR2T=Yes
	earlier   int  // R2Ts that were taken before finish
}

// newClient logs in with the keys, each KEY=VALUE.
func newClient(t testing.TB, p *Portal, options ...string) *client {
	t.Helper()
	c := &client{probe: &probe{out: io.Discard, cmdSN: 1}, t: t, immediate: true, segment: 8192, first: 65536, r2t: true}
	c.opt = probeOptions{iname: "iqn.2000-01.probe:i", isid: "800000000001", algs: "5", quiet: true, target: testTarget}
	var args []string
	for _, o := range options {
		if strings.HasPrefix(o, "--") {
			args = append(args, strings.SplitN(o, " ", 2)...)
		} else {
			args = append(args, "--key", o)
		}
	}
	c.parse(args)
	if err := c.connect(p.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.nc.Close() })
	if err := c.login(); err != nil {
		t.Fatal("login: ", err)
	}
	c.immediate = c.agreed("ImmediateData", "Yes") == "Yes"
	c.r2t = c.agreed("InitialR2T", "Yes") == "Yes"
	fmt.Sscan(c.agreed("MaxRecvDataSegmentLength", "8192"), &c.segment)
	fmt.Sscan(c.agreed("FirstBurstLength", "65536"), &c.first)
	return c
}

// agreed is the target's last word on a key.
func (c *client) agreed(key, initial string) string {
	if v := lookup(c.seen, key); v != "" {
		return v
	}
	return initial
}

func (c *client) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// start sends a command with as much immediate and unsolicited data as was agreed on; returns its tag.
func (c *client) start(req pdu.SCSICommand, out []byte) uint32 {
	c.t.Helper()
	c.tag++
	req.InitiatorTag, req.ExpStatSN = c.tag, c.expStat
	if req.CmdSN == 0 {
		req.CmdSN = c.cmdSN
		if !req.Immediate {
			c.cmdSN++
		}
	}
	req.Attribute = 1
	req.Write = req.Write || len(out) > 0
	if len(out) > 0 {
		req.ExpectedLength = uint32(len(out))
	}
	var u pdu.PDU
	if c.immediate {
		u.Data = out[:min(len(out), c.segment, c.first)]
	}
	unsolicited := len(u.Data)
	if !c.r2t {
		unsolicited = min(len(out), c.first)
	}
	req.Final = unsolicited == len(u.Data)
	req.Encode(&u.Header)
	c.must(c.send(&u))
	for sn, at := uint32(0), len(u.Data); at < unsolicited; sn++ {
		n := min(c.segment, unsolicited-at)
		d := pdu.DataOut{Final: at+n == unsolicited, InitiatorTag: c.tag, TargetTag: pdu.NoTag, DataSN: sn, Offset: uint32(at)}
		piece := pdu.PDU{Data: out[at : at+n]}
		d.Encode(&piece.Header)
		c.must(c.send(&piece))
		at += n
	}
	return c.tag
}

// result is how a command ended.
type result struct {
	tag      uint32
	status   byte
	sense    []byte
	data     []byte
	residual pdu.Residual
	dataIns  []pdu.DataIn
	lengths  []int
	r2ts     []pdu.R2T
	final    pdu.Status
}

// finish takes PDUs until the command with that tag has ended, answering its R2Ts.
func (c *client) finish(tag uint32, out []byte) result {
	c.t.Helper()
	r := result{tag: tag}
	for {
		u, err := c.recv()
		c.must(err)
		if got := u.Header.InitiatorTag(); got != tag {
			c.t.Fatalf("opcode %02x for tag %d while waiting for %d", u.Header.Opcode(), got, tag)
		}
		switch u.Header.Opcode() {
		case pdu.OpR2T:
			var p pdu.R2T
			p.Decode(&u.Header)
			r.r2ts = append(r.r2ts, p)
			c.must(c.sendBurst(&p, out, c.segment))
		case pdu.OpDataIn:
			var p pdu.DataIn
			p.Decode(&u.Header)
			if int(p.Offset) != len(r.data) || int(p.DataSN) != len(r.dataIns)+len(r.r2ts) {
				c.t.Fatalf("Data-In %d at offset %d after %d bytes", p.DataSN, p.Offset, len(r.data))
			}
			r.data = append(r.data, u.Data...)
			r.dataIns = append(r.dataIns, p)
			r.lengths = append(r.lengths, len(u.Data))
			if p.HasStatus {
				r.status, r.residual, r.final = p.SCSIStatus, p.Residual, p.Status
				return r
			}
		case pdu.OpSCSIResponse:
			var p pdu.SCSIResponse
			p.Decode(&u.Header)
			r.status, r.residual, r.final = p.SCSIStatus, p.Residual, p.Status
			if len(u.Data) > 2 {
				r.sense = u.Data[2:]
			}
			if want := uint32(len(r.dataIns) + len(r.r2ts) + c.earlier); p.ExpDataSN != want {
				c.t.Errorf("ExpDataSN %d, want %d", p.ExpDataSN, want)
			}
			return r
		default:
			c.t.Fatalf("opcode %02x", u.Header.Opcode())
		}
	}
}

func (c *client) run(req pdu.SCSICommand, out []byte) result {
	c.t.Helper()
	return c.finish(c.start(req, out), out)
}

// ready drops the unit attention of a fresh session.
func (c *client) ready() *client {
	c.t.Helper()
	if r := c.run(tur(), nil); r.status != 2 {
		c.t.Fatalf("first TEST UNIT READY: status %02x", r.status)
	}
	return c
}

func lun1() uint64 { return 1 << 48 }

func tur() pdu.SCSICommand { return pdu.SCSICommand{LUN: lun1()} }

func rw(op byte, block, count int) [16]byte {
	return [16]byte{op, 0, byte(block >> 24), byte(block >> 16), byte(block >> 8), byte(block),
		7: byte(count >> 8), 8: byte(count)}
}

func read10(block, count int) pdu.SCSICommand {
	return pdu.SCSICommand{LUN: lun1(), Read: true, ExpectedLength: uint32(count * 512), CDB: rw(0x28, block, count)}
}

func write10(block, count int) pdu.SCSICommand {
	return pdu.SCSICommand{LUN: lun1(), Write: true, ExpectedLength: uint32(count * 512), CDB: rw(0x2a, block, count)}
}

// ended waits for the target to close the connection and returns the PDUs that came before.
func (c *client) ended() (before []*pdu.PDU) {
	c.t.Helper()
	for {
		u, err := c.recv()
		if err != nil {
			if strings.Contains(err.Error(), "timeout") {
				c.t.Fatal("the connection was not closed")
			}
			return before
		}
		before = append(before, u)
	}
}

// ping makes sure that the target has dealt with everything sent so far.
func (c *client) ping() {
	c.t.Helper()
	c.tag++
	n := pdu.NOPOut{Immediate: true, InitiatorTag: c.tag, TargetTag: pdu.NoTag, CmdSN: c.cmdSN, ExpStatSN: c.expStat}
	var u pdu.PDU
	n.Encode(&u.Header)
	a, err := c.roundTrip(&u)
	c.must(err)
	if a.Header.Opcode() != pdu.OpNOPIn || a.Header.InitiatorTag() != c.tag {
		c.t.Fatalf("opcode %02x, tag %d instead of the answer to a ping", a.Header.Opcode(), a.Header.InitiatorTag())
	}
}

// quiet makes sure that nothing is on its way: the next PDU is the answer to a ping.
func (c *client) quiet() { c.t.Helper(); c.ping() }

func (c *client) manage(f byte, ref uint32) byte {
	c.t.Helper()
	c.tag++
	m := pdu.TaskRequest{Immediate: true, Function: f, LUN: lun1(), InitiatorTag: c.tag, ReferencedTag: ref,
		CmdSN: c.cmdSN, ExpStatSN: c.expStat}
	var u pdu.PDU
	m.Encode(&u.Header)
	a, err := c.roundTrip(&u)
	c.must(err)
	if a.Header.Opcode() != pdu.OpTaskResponse {
		c.t.Fatalf("opcode %02x instead of a task management response", a.Header.Opcode())
	}
	return a.Header[2]
}

func oneTarget() (*fakeDirectory, *fakeTarget, *ramDisk) {
	d := &fakeDirectory{}
	t := d.add(testTarget)
	return d, t, t.disk.(*ramDisk)
}

func (f *fakeTarget) set(t testing.TB, kv ...string) {
	t.Helper()
	for _, s := range kv {
		name, value, _ := strings.Cut(s, "=")
		if err := f.params.Set(name, value); err != nil {
			t.Fatal(err)
		}
	}
}

var errStillThere = errors.New("still there")

// waitDone fails the test when a channel is not closed in time.
func waitDone(t testing.TB, what string, ch <-chan struct{}) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(20 * time.Second):
		t.Fatal(what, ": ", errStillThere)
	}
}

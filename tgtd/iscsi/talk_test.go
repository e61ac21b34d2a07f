package iscsi

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi/pdu"
)

// TestTalk plays conversations: testdata/talk holds what an initiator sends, PDU by PDU, and what comes back.
//
//	target KEY=VALUE…          a new server with one target
//	login conn=C KEY=VALUE…    logs in; [cid=N tsih=N]
//	noack, ack                 ExpStatSN stays where it is; moves on again
//	hold, held n=N, release    the disk keeps commands; has so many, waited for; carries them out
//	cmd, out, snack, nop, tmf, logout, raw
//	                           sends a PDU; bad=header or bad=data damages it on its way
//	listen [wait=OPCODE]       prints what comes, until that or what a ping brings
//
// CmdSN and StatSN are printed and given relative to the login's. A PDU that is sent is followed by a ping, unless
// more follows: then everything up to the ping's answer is printed, or that the target has closed the connection.
func TestTalk(t *testing.T) {
	datadriven.Walk(t, "testdata/talk", func(t *testing.T, path string) {
		k := &talk{conns: map[string]*talker{}}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			k.t, k.d = t, d
			k.out.Reset()
			k.do()
			return k.out.String()
		})
	})
}

type talk struct {
	t     *testing.T
	d     *datadriven.TestData
	out   bytes.Buffer
	srv   *Server
	p     *Portal
	disk  *ramDisk
	conns map[string]*talker
}

// talker is one connection of a conversation.
type talker struct {
	*client
	base, stat uint32 // CmdSN and StatSN after the login
	noAck      bool
	acked      uint32
	lastTTT    uint32 // of the last R2T or Data-In that has one
	ended      bool
	ping       uint32 // tag of the latest
}

func (k *talk) num(name string, initial int) int {
	if k.d.HasArg(name) {
		k.d.ScanArgs(k.t, name, &initial)
	}
	return initial
}

func (k *talk) str(name string) (s string) {
	if k.d.HasArg(name) {
		k.d.ScanArgs(k.t, name, &s)
	}
	return s
}

func (k *talk) conn() *talker {
	name := k.str("conn")
	c := k.conns[name]
	if c == nil {
		k.d.Fatalf(k.t, "no connection %q", name)
	}
	c.t = k.t
	return c
}

func (k *talk) do() {
	switch k.d.Cmd {
	case "target":
		d, target, disk := oneTarget()
		for _, a := range k.d.CmdArgs {
			target.set(k.t, a.Key+"="+a.Vals[0])
		}
		k.disk = disk
		k.srv, k.p = testServer(k.t, d, nil)
	case "login":
		k.login()
	case "noack":
		c := k.conn()
		c.noAck, c.acked = true, c.expStat
	case "ack":
		c := k.conn()
		c.noAck = false
		k.finish(c)
	case "hold":
		k.disk.holdAll()
	case "held":
		n := k.num("n", 0)
		eventually(k.t, "the disk has them", func() bool { return k.disk.held() == n })
	case "release":
		k.disk.letGo()
		k.finish(k.conn())
	case "listen":
		k.listen(k.conn(), k.num("wait", -1))
	case "sessions":
		for _, s := range k.srv.Sessions(1) {
			fmt.Fprintf(&k.out, "session %d:", s.SID)
			for _, c := range s.Connections {
				fmt.Fprintf(&k.out, " %d", c.CID)
			}
			k.out.WriteByte('\n')
		}
	default:
		k.send(k.conn())
	}
}

func (k *talk) login() {
	var options []string
	for _, a := range k.d.CmdArgs {
		switch a.Key {
		case "conn":
		case "cid", "tsih", "isid":
			options = append(options, "--"+a.Key+" "+a.Vals[0])
		default:
			options = append(options, a.Key+"="+strings.Join(a.Vals, ","))
		}
	}
	c := newClient(k.t, k.p, options...)
	// The connection ends with the whole file, not with its first subtest.
	k.conns[k.str("conn")] = &talker{client: c, base: c.cmdSN, stat: c.expStat}
	for _, kv := range c.seen {
		switch kv.Key {
		case "ErrorRecoveryLevel", "MaxConnections":
			fmt.Fprintf(&k.out, "%s=%s\n", kv.Key, kv.Value)
		}
	}
}

// send sends what the directive says.
func (k *talk) send(c *talker) {
	var u pdu.PDU
	tag := uint32(k.num("tag", 0))
	exp := c.expStat
	if c.noAck {
		exp = c.acked
	}
	sn := c.base + uint32(k.num("sn", int(c.cmdSN-c.base)))
	immediate := k.d.HasArg("immediate")
	numbered := !immediate && !k.d.HasArg("sn")
	ttt := c.lastTTT
	switch s := k.str("ttt"); s {
	case "":
	case "none":
		ttt = pdu.NoTag
	default:
		fmt.Sscan(s, &ttt)
	}
	switch k.d.Cmd {
	case "cmd":
		p := tur()
		if n := k.num("read", 0); n > 0 {
			p = read10(k.num("at", 0), n)
		}
		if n := k.num("write", 0); n > 0 {
			p = write10(k.num("at", 0), n)
		}
		p.Immediate, p.InitiatorTag, p.CmdSN, p.ExpStatSN, p.Final = immediate, tag, sn, exp, !k.d.HasArg("more")
		u.Data = bytes.Repeat([]byte{byte(k.num("fill", 0))}, k.num("data", 0))
		p.Encode(&u.Header)
	case "out":
		p := pdu.DataOut{Final: k.d.HasArg("final"), InitiatorTag: tag, TargetTag: ttt, ExpStatSN: exp,
			DataSN: uint32(k.num("datasn", 0)), Offset: uint32(k.num("offset", 0))}
		u.Data = bytes.Repeat([]byte{byte(k.num("fill", 0))}, k.num("data", 512))
		p.Encode(&u.Header)
		numbered = false
	case "snack":
		p := pdu.SNACK{Type: byte(k.num("type", 0)), InitiatorTag: tag, TargetTag: ttt, ExpStatSN: exp,
			BegRun: uint32(k.num("beg", 0)), RunLength: uint32(k.num("run", 0))}
		if p.Type == snackStatus && k.d.HasArg("beg") {
			p.BegRun += c.stat
		}
		p.Encode(&u.Header)
		numbered = false
	case "nop":
		p := pdu.NOPOut{Immediate: immediate, InitiatorTag: tag, TargetTag: pdu.NoTag, CmdSN: sn, ExpStatSN: exp}
		u.Data = bytes.Repeat([]byte{1}, k.num("data", 0))
		p.Encode(&u.Header)
	case "tmf":
		p := pdu.TaskRequest{Immediate: immediate, Function: byte(k.num("function", 1)), LUN: lun1(), InitiatorTag: tag,
			ReferencedTag: uint32(k.num("ref", 0)), CmdSN: sn, ExpStatSN: exp}
		if k.d.HasArg("refsn") {
			p.RefCmdSN = c.base + uint32(k.num("refsn", 0))
		}
		p.Encode(&u.Header)
	case "logout":
		p := pdu.LogoutRequest{Immediate: immediate, Reason: byte(k.num("reason", 0)), CID: uint16(k.num("cid", 0)),
			InitiatorTag: tag, CmdSN: sn, ExpStatSN: exp}
		p.Encode(&u.Header)
	default:
		k.d.Fatalf(k.t, "unknown directive %s", k.d.Cmd)
	}
	b := u.Append(nil, c.digests)
	switch k.str("bad") {
	case "header":
		b[40] ^= 1
	case "data":
		b[len(b)-9] ^= 1
	}
	if _, err := c.nc.Write(b); err != nil {
		fmt.Fprintf(&k.out, "can't send\n")
		return
	}
	if numbered && k.str("bad") != "header" {
		c.cmdSN++
	}
	if !k.d.HasArg("alone") {
		k.finish(c)
	}
}

// talkPing and what follows are the tags of pings.
const talkPing = 0xf0000000

// finish sends a ping and prints what comes up to its answer.
func (k *talk) finish(c *talker) {
	exp := c.expStat
	if c.noAck {
		exp = c.acked
	}
	c.ping = max(c.ping, talkPing) + 1
	n := pdu.NOPOut{Immediate: true, InitiatorTag: c.ping, TargetTag: pdu.NoTag, CmdSN: c.cmdSN, ExpStatSN: exp}
	var u pdu.PDU
	n.Encode(&u.Header)
	if err := c.client.send(&u); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		fmt.Fprintf(&k.out, "can't send\n")
	}
	k.listen(c, -1)
}

// listen prints PDUs up to the answer to the ping, or up to one with that opcode.
func (k *talk) listen(c *talker, opcode int) {
	for !c.ended {
		u, err := c.recvWithin(20 * time.Second)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			k.d.Fatalf(k.t, "nothing comes")
		case err != nil:
			c.ended = true
			if !errors.Is(err, io.EOF) {
				k.t.Log(err)
			}
			fmt.Fprintln(&k.out, "closed")
			return
		}
		if u.Header.Opcode() == pdu.OpNOPIn && u.Header.InitiatorTag() == c.ping {
			if !k.d.HasArg("quiet") {
				fmt.Fprintf(&k.out, "ping%s\n", k.status(c, u))
			}
			return
		}
		k.show(c, u)
		if int(u.Header.Opcode()) == opcode {
			return
		}
	}
}

func (k *talk) status(c *talker, u *pdu.PDU) string {
	var n pdu.NOPIn
	n.Decode(&u.Header)
	return fmt.Sprintf(" statsn=%d expcmdsn=%d", n.StatSN-c.stat, n.ExpCmdSN-c.base)
}

func (k *talk) show(c *talker, u *pdu.PDU) {
	w := &k.out
	h := &u.Header
	fill := ""
	if len(u.Data) > 0 && bytes.Count(u.Data, u.Data[:1]) == len(u.Data) {
		fill = fmt.Sprintf(" fill=%d", u.Data[0])
	}
	flag := func(on bool, s string) string {
		if on {
			return " " + s
		}
		return ""
	}
	switch h.Opcode() {
	case pdu.OpSCSIResponse:
		var p pdu.SCSIResponse
		p.Decode(h)
		fmt.Fprintf(w, "response tag=%d status=%02x expdatasn=%d%s", p.InitiatorTag, p.SCSIStatus, p.ExpDataSN,
			flag(p.SNACKTag != 0, fmt.Sprintf("snacktag=%d", p.SNACKTag)))
		if len(u.Data) > 15 {
			fmt.Fprintf(w, " sense=%x/%02x%02x", u.Data[4]&15, u.Data[14], u.Data[15])
		}
	case pdu.OpDataIn:
		var p pdu.DataIn
		p.Decode(h)
		fmt.Fprintf(w, "data-in tag=%d datasn=%d offset=%d length=%d%s%s%s%s", p.InitiatorTag, p.DataSN, p.Offset,
			len(u.Data), fill, flag(p.Final, "F"), flag(p.Acknowledge, "A"), flag(p.HasStatus, "S"))
		if p.Acknowledge {
			c.lastTTT = p.TargetTag
		}
		if !p.HasStatus {
			w.WriteByte('\n')
			return
		}
	case pdu.OpR2T:
		var p pdu.R2T
		p.Decode(h)
		c.lastTTT = p.TargetTag
		fmt.Fprintf(w, "r2t tag=%d ttt=%d r2tsn=%d offset=%d length=%d\n", p.InitiatorTag, p.TargetTag, p.R2TSN, p.Offset, p.Length)
		return
	case pdu.OpReject:
		fmt.Fprintf(w, "reject reason=%02x of=%02x", h[2], u.Data[0])
	case pdu.OpTaskResponse:
		fmt.Fprintf(w, "tmf tag=%d response=%d", h.InitiatorTag(), h[2])
	case pdu.OpLogoutResponse:
		fmt.Fprintf(w, "logout tag=%d response=%d", h.InitiatorTag(), h[2])
	case pdu.OpAsync:
		var p pdu.Async
		p.Decode(h)
		fmt.Fprintf(w, "async event=%d parameters=%d,%d,%d", p.Event, p.Parameter[0], p.Parameter[1], p.Parameter[2])
	case pdu.OpNOPIn:
		if tag := h.InitiatorTag(); tag >= talkPing && tag != pdu.NoTag {
			fmt.Fprintf(w, "earlier ping")
		} else {
			fmt.Fprintf(w, "nop-in tag=%d length=%d", tag, len(u.Data))
		}
	default:
		fmt.Fprintf(w, "opcode %02x", byte(h.Opcode()))
	}
	fmt.Fprintln(w, k.status(c, u))
}

package iscsi

import (
	"bytes"
	"crypto/md5"
	"crypto/rand"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi/pdu"
)

// probe is the small initiator that the transcripts were recorded with: the same options and steps, the same
// printed lines.
type probe struct {
	out     io.Writer
	nc      net.Conn
	opt     probeOptions
	tag     uint32
	cmdSN   uint32
	expStat uint32
	digests pdu.Digests
	seen    []pdu.KeyValue
}

type probeOptions struct {
	iname, alias, target, stype, isid, user, pass, muser, mpass, algs, auth string
	mutual, full, quiet, noiname, noanswer                                  bool
	tsih, cid, csg                                                          int
	keys, skeys                                                             []pdu.KeyValue
}

var errRefusedLogin = errors.New("login refused")

// runProbe runs the probe and returns its exit status.
func runProbe(out io.Writer, args []string) int {
	p := &probe{out: out, cmdSN: 1, opt: probeOptions{iname: "iqn.2000-01.probe:i", isid: "800000000001", algs: "5"}}
	portal := args[0]
	rest := p.parse(args[1:])
	err := p.connect(portal)
	if err == nil {
		defer p.nc.Close()
		err = p.login()
	}
	if err == nil {
		fmt.Fprintln(out, "logged in")
		for _, step := range rest {
			if err = p.step(step); err != nil {
				break
			}
		}
	}
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errRefusedLogin):
		return 2
	case errors.Is(err, os.ErrDeadlineExceeded):
		fmt.Fprintln(out, "timed out")
		return 6
	}
	fmt.Fprintln(out, "connection closed by the target")
	return 4
}

func (p *probe) parse(args []string) (steps []string) {
	o := &p.opt
	text := map[string]*string{
		"iname": &o.iname, "alias": &o.alias, "target": &o.target, "stype": &o.stype, "isid": &o.isid,
		"user": &o.user, "pass": &o.pass, "muser": &o.muser, "mpass": &o.mpass, "algs": &o.algs, "auth": &o.auth,
	}
	numbers := map[string]*int{"tsih": &o.tsih, "cid": &o.cid, "csg": &o.csg}
	flags := map[string]*bool{"full": &o.full, "quiet": &o.quiet, "noiname": &o.noiname, "noanswer": &o.noanswer}
	for len(args) > 0 && strings.HasPrefix(args[0], "--") {
		name := args[0][2:]
		args = args[1:]
		if f := flags[name]; f != nil {
			*f = true
			continue
		}
		value := args[0]
		args = args[1:]
		switch {
		case text[name] != nil:
			*text[name] = value
			o.mutual = o.mutual || name == "muser"
		case numbers[name] != nil:
			*numbers[name], _ = strconv.Atoi(value)
		case name == "key" || name == "skey":
			k, v, _ := strings.Cut(value, "=")
			list := &o.keys
			if name == "skey" {
				list = &o.skeys
			}
			*list = append(*list, pdu.KeyValue{Key: k, Value: v})
		default:
			panic("probe: option " + name)
		}
	}
	return args
}

func (p *probe) connect(portal string) (err error) {
	p.nc, err = net.Dial("tcp", portal)
	return err
}

func (p *probe) recv() (*pdu.PDU, error) { return p.recvWithin(10 * time.Second) }

func (p *probe) recvWithin(d time.Duration) (*pdu.PDU, error) {
	if err := p.nc.SetReadDeadline(time.Now().Add(d)); err != nil {
		return nil, err
	}
	u, err := pdu.Read(p.nc, p.digests, pdu.MaxDataLength)
	if err == nil && u.Header.Opcode() != pdu.OpR2T {
		p.expStat = u.Header.CmdSN() + 1 // StatSN has the place that CmdSN has in requests
	}
	return u, err
}

func (p *probe) send(u *pdu.PDU) error {
	_, err := p.nc.Write(u.Append(nil, p.digests))
	return err
}

func showKeys(kvs []pdu.KeyValue) string {
	var items []string
	for _, kv := range kvs {
		switch kv.Key {
		case "CHAP_C", "CHAP_R":
			items = append(items, fmt.Sprintf("%s=%s<%d hex digits>", kv.Key, kv.Value[:2], len(kv.Value)-2))
		case "CHAP_I":
			items = append(items, "CHAP_I=<n>")
		default:
			items = append(items, kv.Key+"="+kv.Value)
		}
	}
	return strings.Join(items, " ")
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (p *probe) loginPDU(csg, nsg pdu.Stage, transit bool, items []pdu.KeyValue) (pdu.LoginResponse, []pdu.KeyValue, error) {
	req := pdu.LoginRequest{Transit: transit, CSG: csg, NSG: nsg, TSIH: uint16(p.opt.tsih), InitiatorTag: 1,
		CID: uint16(p.opt.cid), CmdSN: p.cmdSN, ExpStatSN: p.expStat}
	isid, _ := hex.DecodeString(p.opt.isid)
	copy(req.ISID[:], isid)
	var u pdu.PDU
	req.Encode(&u.Header)
	for _, kv := range items {
		u.Data = pdu.AppendText(u.Data, kv.Key, kv.Value)
	}
	if !p.opt.quiet {
		fmt.Fprintf(p.out, "C: csg=%d nsg=%d T=%d %s\n", csg, nsg, b2i(transit), showKeys(items))
	}
	var r pdu.LoginResponse
	if err := p.send(&u); err != nil {
		return r, nil, err
	}
	a, err := p.recv()
	if err != nil {
		return r, nil, err
	}
	if op := a.Header.Opcode(); op != pdu.OpLoginResponse {
		return r, nil, fmt.Errorf("opcode %02x instead of a login response", op)
	}
	r.Decode(&a.Header)
	kvs, err := pdu.ParseText(a.Data)
	if err != nil {
		return r, nil, err
	}
	if !p.opt.quiet {
		fmt.Fprintf(p.out, "S: csg=%d nsg=%d T=%d C=%d tsih=%04x status=%02x%02x %s\n", r.CSG, r.NSG,
			b2i(r.Transit), b2i(r.Continue), r.TSIH, r.StatusClass, r.StatusDetail, showKeys(kvs))
	}
	p.seen = append(p.seen, kvs...)
	if r.StatusClass != 0 {
		return r, kvs, errRefusedLogin
	}
	return r, kvs, nil
}

func lookup(kvs []pdu.KeyValue, key string) string {
	v := ""
	for _, kv := range kvs {
		if kv.Key == key {
			v = kv.Value
		}
	}
	return v
}

func (p *probe) login() error {
	o := &p.opt
	var base []pdu.KeyValue
	if !o.noiname {
		base = append(base, pdu.KeyValue{Key: "InitiatorName", Value: o.iname})
	}
	if o.alias != "" {
		base = append(base, pdu.KeyValue{Key: "InitiatorAlias", Value: o.alias})
	}
	st := o.stype
	if st == "" {
		st = "Discovery"
		if o.target != "" {
			st = "Normal"
		}
	}
	if st != "-" {
		base = append(base, pdu.KeyValue{Key: "SessionType", Value: st})
	}
	if o.target != "" {
		base = append(base, pdu.KeyValue{Key: "TargetName", Value: o.target})
	}
	var r pdu.LoginResponse
	var items []pdu.KeyValue
	var err error
	if o.csg == 1 {
		r, items, err = p.loginPDU(1, 3, true, append(base, o.keys...))
	} else {
		r, items, err = p.security(base)
	}
	if err != nil {
		return err
	}
	for n := 0; !(r.Transit && r.NSG == 3) && n < 5; n++ {
		var answers []pdu.KeyValue
		for _, kv := range items {
			own := false
			for _, k := range o.keys {
				own = own || k.Key == kv.Key
			}
			switch kv.Key {
			case "TargetPortalGroupTag", "TargetAlias", "MaxRecvDataSegmentLength":
				own = true
			}
			if !own && !o.noanswer {
				answers = append(answers, kv)
			}
		}
		if r, items, err = p.loginPDU(1, 3, true, answers); err != nil {
			return err
		}
	}
	p.digests = pdu.Digests{
		Header: lookup(p.seen, "HeaderDigest") == "CRC32C", Data: lookup(p.seen, "DataDigest") == "CRC32C",
	}
	return nil
}

func (p *probe) security(base []pdu.KeyValue) (pdu.LoginResponse, []pdu.KeyValue, error) {
	o := &p.opt
	auth := o.auth
	if auth == "" {
		auth = "None"
		if o.user != "" {
			auth = "CHAP,None"
		}
	}
	items := append(base, o.skeys...)
	if auth != "-" {
		items = append(items, pdu.KeyValue{Key: "AuthMethod", Value: auth})
	}
	nsg := pdu.StageOperational
	if o.full {
		nsg = pdu.StageFullFeature
	}
	r, kvs, err := p.loginPDU(0, nsg, true, items)
	if err != nil {
		return r, kvs, err
	}
	if lookup(kvs, "AuthMethod") == "CHAP" {
		if r, kvs, err = p.chap(nsg); err != nil {
			return r, kvs, err
		}
	}
	for r.CSG == 0 && !r.Transit {
		if r, kvs, err = p.loginPDU(0, nsg, true, nil); err != nil {
			return r, kvs, err
		}
	}
	if !(r.Transit && r.NSG == 3) {
		return p.loginPDU(1, 3, true, o.keys)
	}
	return r, kvs, nil
}

func (p *probe) chap(nsg pdu.Stage) (pdu.LoginResponse, []pdu.KeyValue, error) {
	o := &p.opt
	r, kvs, err := p.loginPDU(0, nsg, false, []pdu.KeyValue{{Key: "CHAP_A", Value: o.algs}})
	if err != nil {
		return r, kvs, err
	}
	newHash := map[string]func() hash.Hash{"5": md5.New, "7": sha1.New}[lookup(kvs, "CHAP_A")]
	challenge, err := hex.DecodeString(lookup(kvs, "CHAP_C")[2:])
	if err != nil {
		return r, kvs, err
	}
	id, err := strconv.Atoi(lookup(kvs, "CHAP_I"))
	if err != nil {
		return r, kvs, err
	}
	answer := []pdu.KeyValue{{Key: "CHAP_N", Value: o.user},
		{Key: "CHAP_R", Value: "0x" + hex.EncodeToString(chapDigest(newHash, byte(id), o.pass, challenge))}}
	mine := make([]byte, 16)
	rand.Read(mine)
	if o.mutual {
		answer = append(answer, pdu.KeyValue{Key: "CHAP_I", Value: "77"},
			pdu.KeyValue{Key: "CHAP_C", Value: "0x" + hex.EncodeToString(mine)})
	}
	r, kvs, err = p.loginPDU(0, nsg, true, answer)
	if err == nil && o.mutual {
		verdict := "BAD"
		want := "0x" + hex.EncodeToString(chapDigest(newHash, 77, o.mpass, mine))
		if lookup(kvs, "CHAP_N") == o.muser && lookup(kvs, "CHAP_R") == want {
			verdict = "good"
		}
		fmt.Fprintln(p.out, "mutual CHAP", verdict)
	}
	return r, kvs, err
}

func probeLUN(s string) uint64 {
	n, _ := strconv.ParseUint(s, 10, 64)
	raw, _ := pdu.EncodeLUN(n)
	return raw
}

// scsi runs one command as the recorder does: up to 8192 bytes of immediate data.
func (p *probe) scsi(lun uint64, cdb []byte, nin int, out []byte) (status byte, sense []byte, residual string, data []byte, err error) {
	p.tag++
	tag := p.tag
	req := pdu.SCSICommand{Final: true, Read: nin > 0, Write: len(out) > 0, Attribute: 1, LUN: lun, InitiatorTag: tag,
		ExpectedLength: uint32(max(nin, len(out))), CmdSN: p.cmdSN, ExpStatSN: p.expStat}
	copy(req.CDB[:], cdb)
	p.cmdSN++
	u := pdu.PDU{Data: out[:min(len(out), 8192)]}
	req.Encode(&u.Header)
	if err = p.send(&u); err != nil {
		return
	}
	for {
		var a *pdu.PDU
		if a, err = p.recv(); err != nil {
			return
		}
		switch a.Header.Opcode() {
		case pdu.OpDataIn:
			var d pdu.DataIn
			d.Decode(&a.Header)
			if need := int(d.Offset) + len(a.Data); need > len(data) {
				data = append(data, make([]byte, need-len(data))...)
			}
			copy(data[d.Offset:], a.Data)
			if d.HasStatus {
				return d.SCSIStatus, nil, showResidual(d.Residual), data, nil
			}
		case pdu.OpSCSIResponse:
			var d pdu.SCSIResponse
			d.Decode(&a.Header)
			if len(a.Data) > 2 {
				sense = a.Data[2:]
			}
			return d.SCSIStatus, sense, showResidual(d.Residual), data, nil
		case pdu.OpR2T:
			var r pdu.R2T
			r.Decode(&a.Header)
			if err = p.sendBurst(&r, out, 8192); err != nil {
				return
			}
		default:
			showPDU(p.out, a)
		}
	}
}

func (p *probe) sendBurst(r *pdu.R2T, out []byte, segment int) error {
	end := int(r.Offset + r.Length)
	for sn, at := uint32(0), int(r.Offset); at < end; sn, at = sn+1, at+segment {
		stop := min(at+segment, end)
		d := pdu.DataOut{Final: stop == end, LUN: r.LUN, InitiatorTag: r.InitiatorTag, TargetTag: r.TargetTag,
			ExpStatSN: p.expStat, DataSN: sn, Offset: uint32(at)}
		u := pdu.PDU{Data: out[at:stop]}
		d.Encode(&u.Header)
		if err := p.send(&u); err != nil {
			return err
		}
	}
	return nil
}

func showResidual(r pdu.Residual) string {
	switch {
	case r.Underflow:
		return fmt.Sprintf(" underflow=%d", r.Count)
	case r.Overflow:
		return fmt.Sprintf(" overflow=%d", r.Count)
	}
	return ""
}

func showPDU(w io.Writer, u *pdu.PDU) {
	switch u.Header.Opcode() {
	case pdu.OpReject:
		fmt.Fprintf(w, "Reject reason=%02x\n", u.Header[2])
	case pdu.OpNOPIn:
		itt, ttt := "echo", "set"
		if u.Header.InitiatorTag() == pdu.NoTag {
			itt = "ffffffff"
		}
		if u.Header.TargetTag() == pdu.NoTag {
			ttt = "ffffffff"
		}
		fmt.Fprintf(w, "NOP-In itt=%s ttt=%s data=b'%s'\n", itt, ttt, u.Data)
	default:
		fmt.Fprintf(w, "%02x\n", u.Header.Opcode())
	}
}

func dump(w io.Writer, b []byte) {
	var last []byte
	star := false
	for i := 0; i < len(b); i += 16 {
		row := b[i:min(i+16, len(b))]
		if bytes.Equal(row, last) && i+16 < len(b) {
			if !star {
				fmt.Fprintln(w, "  *")
			}
			star = true
			continue
		}
		last, star = row, false
		printable := bytes.Clone(row)
		for k, c := range printable {
			if c < 32 || c > 126 {
				printable[k] = '.'
			}
		}
		fmt.Fprintf(w, "  %04x %-48s %s\n", i, fmt.Sprintf("% x", row), printable)
	}
}

func showStatus(status byte, sense []byte, residual string) string {
	names := map[byte]string{0: "GOOD", 2: "CHECK CONDITION", 8: "BUSY", 0x28: "TASK SET FULL"}
	s := names[status] + residual
	if len(sense) > 13 {
		s += fmt.Sprintf(" sense key=%x asc=%02x%02x raw=%x", sense[2]&15, sense[12], sense[13], sense)
	}
	return s
}

func (p *probe) command(step string, lun uint64, cdb []byte, nin int, out []byte) error {
	status, sense, residual, data, err := p.scsi(lun, cdb, nin, out)
	if err != nil {
		return err
	}
	fmt.Fprintf(p.out, "%s -> %s\n", step, showStatus(status, sense, residual))
	if status == 0 {
		dump(p.out, data)
	}
	return nil
}

func (p *probe) step(step string) error {
	f := strings.Split(step, ":")
	p.tag++
	switch f[0] {
	case "tur":
		return p.command(step, probeLUN(f[1]), make([]byte, 6), 0, nil)
	case "inq":
		return p.command(step, probeLUN(f[1]), []byte{0x12, 0, 0, 0, 255, 0}, 255, nil)
	case "rs":
		return p.command(step, probeLUN(f[1]), []byte{3, 0, 0, 0, 96, 0}, 96, nil)
	case "luns":
		return p.command(step, 0, []byte{0xa0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0}, 1024, nil)
	case "cmd":
		cdb, _ := hex.DecodeString(f[2])
		return p.command(step, probeLUN(f[1]), cdb, 0, nil)
	case "text":
		return p.text(step[5:])
	case "nop":
		var u pdu.PDU
		n := pdu.NOPOut{Immediate: true, InitiatorTag: p.tag, TargetTag: pdu.NoTag, CmdSN: p.cmdSN, ExpStatSN: p.expStat}
		n.Encode(&u.Header)
		u.Data = []byte("ping")
		return p.exchange(&u)
	case "snack", "op":
		var u pdu.PDU
		n := pdu.NOPOut{InitiatorTag: p.tag, TargetTag: pdu.NoTag, CmdSN: p.cmdSN, ExpStatSN: p.expStat}
		n.Encode(&u.Header)
		u.Header[0] = 0x10
		if f[0] == "op" {
			op, _ := strconv.ParseUint(f[1], 16, 8)
			u.Header[0] = byte(op)
		}
		return p.exchange(&u)
	case "tmf":
		fn, _ := strconv.Atoi(f[1])
		var u pdu.PDU
		m := pdu.TaskRequest{Immediate: true, Function: byte(fn), LUN: probeLUN(f[2]), InitiatorTag: p.tag,
			ReferencedTag: pdu.NoTag, CmdSN: p.cmdSN, ExpStatSN: p.expStat}
		m.Encode(&u.Header)
		a, err := p.roundTrip(&u)
		if err == nil {
			fmt.Fprintf(p.out, "%s -> opcode=%02x response=%d\n", step, a.Header.Opcode(), a.Header[2])
		}
		return err
	case "logout":
		l := pdu.LogoutRequest{Immediate: true, InitiatorTag: p.tag, CID: uint16(p.opt.cid), CmdSN: p.cmdSN, ExpStatSN: p.expStat}
		if len(f) > 1 {
			n, _ := strconv.Atoi(f[1])
			l.Reason = byte(n)
		}
		var u pdu.PDU
		l.Encode(&u.Header)
		a, err := p.roundTrip(&u)
		if err == nil {
			fmt.Fprintf(p.out, "logout -> opcode=%02x response=%d\n", a.Header.Opcode(), a.Header[2])
		}
		return err
	case "recv", "nopreply":
		seconds, _ := strconv.ParseFloat(f[1], 64)
		return p.listen(time.Duration(seconds*float64(time.Second)), f[0] == "nopreply")
	}
	panic("probe: step " + step)
}

func (p *probe) roundTrip(u *pdu.PDU) (*pdu.PDU, error) {
	if err := p.send(u); err != nil {
		return nil, err
	}
	return p.recv()
}

func (p *probe) exchange(u *pdu.PDU) error {
	a, err := p.roundTrip(u)
	if err == nil {
		showPDU(p.out, a)
	}
	return err
}

func (p *probe) listen(d time.Duration, answer bool) error {
	for end := time.Now().Add(d); ; {
		left := time.Until(end)
		if left <= 0 {
			return nil
		}
		a, err := p.recvWithin(left)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return err
		}
		showPDU(p.out, a)
		if ttt := a.Header.TargetTag(); answer && a.Header.Opcode() == pdu.OpNOPIn && ttt != pdu.NoTag {
			n := pdu.NOPOut{Immediate: true, InitiatorTag: pdu.NoTag, TargetTag: ttt, CmdSN: p.cmdSN, ExpStatSN: p.expStat}
			var u pdu.PDU
			n.Encode(&u.Header)
			if err := p.send(&u); err != nil {
				return err
			}
		}
	}
}

func (p *probe) text(kv string) error {
	key, value, _ := strings.Cut(kv, "=")
	req := pdu.TextRequest{Final: true, InitiatorTag: p.tag, TargetTag: pdu.NoTag}
	u := pdu.PDU{Data: pdu.AppendText(nil, key, value)}
	var got []byte
	for {
		req.CmdSN, req.ExpStatSN = p.cmdSN, p.expStat
		p.cmdSN++
		req.Encode(&u.Header)
		a, err := p.roundTrip(&u)
		if err != nil {
			return err
		}
		if a.Header.Opcode() != pdu.OpTextResponse {
			showPDU(p.out, a)
			return nil
		}
		var r pdu.TextResponse
		r.Decode(&a.Header)
		got = append(got, a.Data...)
		fmt.Fprintf(p.out, "text F=%d C=%d\n", b2i(r.Final), b2i(r.Continue))
		if r.Final {
			break
		}
		req.TargetTag = r.TargetTag
		u = pdu.PDU{}
	}
	kvs, err := pdu.ParseText(got)
	for _, kv := range kvs {
		fmt.Fprintf(p.out, "  %s=%s\n", kv.Key, kv.Value)
	}
	return err
}

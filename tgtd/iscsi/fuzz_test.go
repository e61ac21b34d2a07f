package iscsi

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi/pdu"
)

// stream is what an initiator might send: PDUs of these headers and texts.
func stream(pdus ...pdu.PDU) []byte {
	var b []byte
	for i := range pdus {
		b = pdus[i].Append(b, pdu.Digests{})
	}
	return b
}

func loginPDU(csg, nsg pdu.Stage, text ...string) pdu.PDU {
	var p pdu.PDU
	r := pdu.LoginRequest{Transit: true, CSG: csg, NSG: nsg, ISID: [6]byte{0x80, 5: 1}, InitiatorTag: 1, CmdSN: 1}
	r.Encode(&p.Header)
	for i := 0; i < len(text); i += 2 {
		p.Data = pdu.AppendText(p.Data, text[i], text[i+1])
	}
	return p
}

func encoded(p interface{ Encode(*pdu.Header) }, data []byte) pdu.PDU {
	u := pdu.PDU{Data: data}
	p.Encode(&u.Header)
	return u
}

// FuzzConnection throws bytes at a server: a valid login and then anything, or anything from the start.
// Nothing may be left of it: no goroutine, no nexus, no command, and the server serves the next one.
func FuzzConnection(f *testing.F) {
	write, read := write10(0, 4), read10(0, 8)
	write.InitiatorTag, write.CmdSN, read.InitiatorTag, read.CmdSN, read.Final = 5, 1, 6, 2, true
	f.Add(true, stream(encoded(&read, nil)))
	f.Add(true, stream(encoded(&write, make([]byte, 512)), encoded(&pdu.DataOut{InitiatorTag: 5, TargetTag: pdu.NoTag, Offset: 512}, make([]byte, 1536))))
	f.Add(true, stream(encoded(&pdu.NOPOut{Immediate: true, InitiatorTag: 9, TargetTag: pdu.NoTag, CmdSN: 1}, []byte("ping"))))
	f.Add(true, stream(encoded(&pdu.TaskRequest{Immediate: true, Function: 1, ReferencedTag: 5, InitiatorTag: 8}, nil)))
	f.Add(true, stream(encoded(&pdu.LogoutRequest{Immediate: true, InitiatorTag: 8}, nil)))
	f.Add(false, stream(loginPDU(0, 1, "InitiatorName", "iqn.x:i", "SessionType", "Discovery", "AuthMethod", "None"),
		loginPDU(1, 3), encoded(&pdu.TextRequest{Final: true, InitiatorTag: 3, TargetTag: pdu.NoTag, CmdSN: 1}, []byte("SendTargets=All\x00"))))
	f.Add(false, stream(loginPDU(0, 1, "InitiatorName", "iqn.x:i", "TargetName", testTarget, "AuthMethod", "CHAP,None")))

	fuzzConnection(f)
}

// FuzzRecovery does the same at error recovery level 1.
func FuzzRecovery(f *testing.F) {
	big, snack := read10(0, 64), pdu.SNACK{Type: 1, InitiatorTag: pdu.NoTag, TargetTag: pdu.NoTag}
	big.InitiatorTag, big.CmdSN, big.Final = 5, 1, true
	ack, data := snack, snack
	ack.Type, ack.TargetTag, ack.BegRun = 2, 1, 3
	data.Type, data.InitiatorTag, data.BegRun, data.RunLength = 0, 5, 1, 2
	again := data
	again.Type, again.TargetTag = 3, 9
	write := write10(0, 8)
	write.InitiatorTag, write.CmdSN, write.Final = 6, 2, true
	gap := pdu.DataOut{Final: true, InitiatorTag: 6, TargetTag: 1, DataSN: 1, Offset: 512}
	f.Add(true, stream(encoded(&big, nil), encoded(&snack, nil), encoded(&data, nil), encoded(&again, nil), encoded(&ack, nil)))
	f.Add(true, stream(encoded(&big, nil), encoded(&write, nil), encoded(&gap, make([]byte, 512)), encoded(&data, nil)))
	fuzzConnection(f, "ErrorRecoveryLevel", "1", "MaxBurstLength", "4096", "MaxConnections", "4")
}

// fuzzConnection fuzzes connections that agree on these keys.
func fuzzConnection(f *testing.F, keys ...string) {
	d, target, disk := oneTarget()
	target.set(f, "InitialR2T=No", "MaxQueueCmd=4")
	for i := 0; i < len(keys); i += 2 {
		target.set(f, keys[i]+"="+keys[i+1])
	}
	hello := append([]string{"InitiatorName", "iqn.x:i", "TargetName", testTarget, "InitialR2T", "No"}, keys...)
	_, p := testServer(f, d, func(o *Options) { o.LoginTimeout = time.Second; o.MaxTransfer = 1 << 20; o.MaxSessionBytes = 1 << 20 })
	f.Fuzz(func(t *testing.T, loggedIn bool, b []byte) {
		nc, err := net.Dial("tcp", p.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		if loggedIn {
			b = append(stream(loginPDU(1, 3, hello...)), b...)
		}
		if _, err := nc.Write(b); err == nil {
			if err := nc.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
		}
		if err := nc.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, nc); err != nil {
			if ne, ok := err.(net.Error); ok && ne.Timeout() {
				t.Fatal("the connection stays open")
			}
		}
		eventually(t, "nothing is left of it", func() bool { return disk.nexuses() == 0 && disk.held() == 0 })
	})
}

// FuzzLogin steps the login state machine with arbitrary requests.
func FuzzLogin(f *testing.F) {
	d, target, _ := oneTarget()
	d.change(func() {
		target.accounts = Accounts{Incoming: []Account{{"joe", "secret"}}, Outgoing: Account{"tgt", "x"}}
	})
	f.Add(stream(loginPDU(0, 1, "InitiatorName", "iqn.x:i", "TargetName", testTarget, "AuthMethod", "CHAP"),
		loginPDU(0, 1, "CHAP_A", "5"), loginPDU(0, 1, "CHAP_N", "joe", "CHAP_R", "0x00112233445566778899aabbccddeeff")))
	f.Fuzz(func(t *testing.T, b []byte) {
		established := false
		l := login{dir: d, trusted: func(*login) LoginStatus { return LoginSuccess },
			establish: func(*login) (uint16, LoginStatus) { established = true; return 1, LoginSuccess }}
		for r := (&sliceReader{b}); ; {
			u, err := pdu.Read(r, pdu.Digests{}, maxLoginData)
			if err != nil {
				break
			}
			var req pdu.LoginRequest
			req.Decode(&u.Header)
			if a := l.step(&req, u.Data); a.status != LoginSuccess || l.phase == phaseDone {
				break
			}
		}
		if established && !l.discovery {
			t.Error("logged in without knowing the secret")
		}
	})
}

type sliceReader struct{ b []byte }

func (s *sliceReader) Read(p []byte) (int, error) {
	if len(s.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.b)
	s.b = s.b[n:]
	return n, nil
}

package initiator

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi/pdu"
)

// scripted is the target's end of a connection that a test plays by hand.
type scripted struct {
	t       testing.TB
	nc      net.Conn
	r       *bufio.Reader
	digests pdu.Digests
	statSN  uint32
}

// script takes one connection, lets the initiator log in with these answers to its operational keys, and
// hands it to play. The session it returns belongs to the test.
func script(t *testing.T, o Options, answers string, window uint32, play func(*scripted)) *Session {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	played := make(chan struct{})
	t.Cleanup(func() {
		l.Close()
		<-played
	})
	go func() {
		defer close(played)
		nc, err := l.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		s := &scripted{t: t, nc: nc, r: bufio.NewReader(nc), statSN: 1}
		s.login(answers, window)
		play(s)
	}()
	o.Portal, o.Target, o.Initiator = l.Addr().String(), testTarget, testInitiator
	s, err := Login(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func (s *scripted) read() *pdu.PDU {
	p, err := pdu.Read(s.r, s.digests, pdu.MaxDataLength)
	if err != nil {
		return nil
	}
	return p
}

func (s *scripted) send(h pdu.Header, data []byte) {
	u := pdu.PDU{Header: h, Data: data}
	if _, err := s.nc.Write(u.Append(nil, s.digests)); err != nil {
		s.t.Logf("scripted target: %v", err) // the initiator may have hung up, as some tests want
	}
}

func (s *scripted) status(window uint32) pdu.Status {
	s.statSN++
	return pdu.Status{StatSN: s.statSN - 1, ExpCmdSN: 1, MaxCmdSN: window}
}

// login answers the two rounds of a login without CHAP.
func (s *scripted) login(answers string, window uint32) {
	for _, text := range []string{"AuthMethod=None", answers} {
		p := s.read()
		if p == nil {
			return
		}
		var req pdu.LoginRequest
		req.Decode(&p.Header)
		resp := pdu.LoginResponse{Transit: true, CSG: req.CSG, NSG: req.NSG, ISID: req.ISID, TSIH: 1,
			InitiatorTag: req.InitiatorTag, Status: s.status(window)}
		var h pdu.Header
		resp.Encode(&h)
		s.send(h, []byte(strings.ReplaceAll(text, " ", "\x00")+"\x00"))
	}
	s.digests.Data = strings.Contains(answers, "DataDigest=CRC32C")
	s.digests.Header = strings.Contains(answers, "HeaderDigest=CRC32C")
}

func (s *scripted) command() (c pdu.SCSICommand, data []byte) {
	p := s.read()
	if p == nil || p.Header.Opcode() != pdu.OpSCSICommand {
		s.t.Errorf("no command came: %v", p)
		return c, nil
	}
	c.Decode(&p.Header)
	return c, p.Data
}

func (s *scripted) respond(tag uint32, status byte, window uint32, sense []byte) {
	r := pdu.SCSIResponse{InitiatorTag: tag, SCSIStatus: status, Status: s.status(window)}
	var h pdu.Header
	r.Encode(&h)
	var data []byte
	if len(sense) > 0 {
		data = append(binary.BigEndian.AppendUint16(nil, uint16(len(sense))), sense...)
	}
	s.send(h, data)
}

// hangUp reads until the initiator logs out or is gone.
func (s *scripted) hangUp() {
	for p := s.read(); p != nil && p.Header.Opcode() != pdu.OpLogoutRequest; p = s.read() {
	}
}

// TestPing has the target ask for a sign of life, with and without data.
func TestPing(t *testing.T) {
	answered := make(chan pdu.NOPOut, 2)
	s := script(t, Options{}, "", 32, func(s *scripted) {
		for _, data := range [][]byte{nil, []byte("data of a ping")} {
			in := pdu.NOPIn{InitiatorTag: pdu.NoTag, TargetTag: 77, Status: pdu.Status{StatSN: s.statSN, ExpCmdSN: 1, MaxCmdSN: 32}}
			var h pdu.Header
			in.Encode(&h)
			s.send(h, data)
			p := s.read()
			if p == nil {
				return
			}
			var out pdu.NOPOut
			out.Decode(&p.Header)
			answered <- out
		}
		c, _ := s.command()
		s.respond(c.InitiatorTag, 0, 32, nil)
		s.hangUp()
	})
	for range 2 {
		out := <-answered
		if !out.Immediate || out.TargetTag != 77 || out.InitiatorTag != pdu.NoTag || out.CmdSN != 1 {
			t.Errorf("answer %+v", out)
		}
	}
	if err := s.Ready(1); err != nil {
		t.Error(err)
	}
}

// TestWindow opens the command window one command at a time.
func TestWindow(t *testing.T) {
	s := script(t, Options{Depth: 8}, "", 0, func(s *scripted) {
		// A closed window: only what opens it lets a command out.
		in := pdu.NOPIn{InitiatorTag: pdu.NoTag, TargetTag: pdu.NoTag, Status: pdu.Status{StatSN: s.statSN, ExpCmdSN: 1, MaxCmdSN: 1}}
		var h pdu.Header
		in.Encode(&h)
		s.send(h, nil)
		for n := range uint32(8) {
			c, _ := s.command()
			if c.CmdSN != n+1 || s.r.Buffered() != 0 {
				s.t.Errorf("command %d came, want %d and nothing behind it", c.CmdSN, n+1)
			}
			s.respond(c.InitiatorTag, 0, n+2, nil)
		}
		s.hangUp()
	})
	done := make(chan error, 8)
	for range 8 {
		s.Submit(&Task{LUN: 1, Done: func(t *Task) { done <- t.Err }})
	}
	for range 8 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

// TestEarlyStatus ends a write before the target has taken all of its data. Done must wait until nothing
// refers to the data any more: the test writes into it at once, and the race detector watches.
func TestEarlyStatus(t *testing.T) {
	gone := make(chan []byte, 1)
	s := script(t, Options{}, "InitialR2T=No ImmediateData=Yes FirstBurstLength=8388608 MaxRecvDataSegmentLength=8388608", 32,
		func(s *scripted) {
			var h pdu.Header
			if _, err := io.ReadFull(s.r, h[:]); err != nil {
				return
			}
			s.respond(h.InitiatorTag(), 2, 32, []byte{0x70, 0, 7, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x27, 0, 0, 0, 0, 0})
			data := make([]byte, h.DataLength())
			if _, err := io.ReadFull(s.r, data); err != nil {
				return
			}
			gone <- data
			s.hangUp()
		})
	w := Task{LUN: 1}
	w.SetWrite(0, 16384, bytes.Repeat([]byte{0xaa}, 8<<20))
	var status *StatusError
	if err := s.Do(&w); !errors.As(err, &status) || status.Key() != 0x072700 {
		t.Fatalf("%v, want write protected", err)
	}
	clear(w.Out)
	if data := <-gone; bytes.IndexByte(data, 0) >= 0 {
		t.Error("the target got bytes that were written after Done")
	}
}

// TestBadTarget has the target break the protocol; the command under way fails and says so.
func TestBadTarget(t *testing.T) {
	const tag = 31 // of the first command of a session with a depth of 32
	header := func(e interface{ Encode(*pdu.Header) }) (h pdu.Header) {
		e.Encode(&h)
		return h
	}
	st := pdu.Status{StatSN: 3, ExpCmdSN: 2, MaxCmdSN: 32}
	for _, c := range []struct {
		name string
		h    pdu.Header
		data []byte
	}{
		{"data for an unknown tag", header(&pdu.DataIn{InitiatorTag: 99, Status: st}), []byte{1, 2, 3, 4}},
		{"data beyond the end", header(&pdu.DataIn{InitiatorTag: tag, Offset: 510, Status: st}), []byte{1, 2, 3, 4}},
		{"data far beyond the end", header(&pdu.DataIn{InitiatorTag: tag, Offset: 1<<32 - 1, Status: st}), []byte{1, 2, 3, 4}},
		{"a response to nothing", header(&pdu.SCSIResponse{InitiatorTag: 5, Status: st}), nil},
		{"a target failure", header(&pdu.SCSIResponse{InitiatorTag: tag, Response: 1, Status: st}), nil},
		{"endless sense", header(&pdu.SCSIResponse{InitiatorTag: tag, SCSIStatus: 2, Status: st}), make([]byte, 4096)},
		{"a request for data there is not", header(&pdu.R2T{InitiatorTag: tag, TargetTag: 1, Length: 512, Status: st}), nil},
		{"a request for nothing", header(&pdu.R2T{InitiatorTag: tag, TargetTag: 1, Status: st}), nil},
		{"a reject", header(&pdu.Reject{Reason: pdu.RejectProtocolError, Status: st}), make([]byte, 48)},
		{"an unasked task response", header(&pdu.TaskResponse{InitiatorTag: manageTag, Status: st}), nil},
		{"a request of an initiator", header(&pdu.SCSICommand{InitiatorTag: tag}), nil},
		{"a wish to end", header(&pdu.Async{Event: 1, Status: st}), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := script(t, Options{}, "", 32, func(s *scripted) {
				s.command()
				s.send(c.h, c.data)
				s.hangUp()
			})
			r := Task{LUN: 1}
			r.SetRead(0, 1, make([]byte, blockSize))
			if err := s.Do(&r); err == nil || errors.Is(err, io.EOF) {
				t.Errorf("the command ended with %v", err)
			}
		})
	}
}

// TestBadDigests has bytes change on their way; the session drops the connection and not the bytes' checksum.
func TestBadDigests(t *testing.T) {
	for at, want := range map[int]error{20: pdu.ErrHeaderDigest, 60: pdu.ErrDataDigest} {
		s := script(t, Options{DataDigest: true, HeaderDigest: true}, "HeaderDigest=CRC32C DataDigest=CRC32C", 32,
			func(s *scripted) {
				c, _ := s.command()
				d := pdu.DataIn{Final: true, HasStatus: true, InitiatorTag: c.InitiatorTag, Status: s.status(32)}
				u := pdu.PDU{Data: make([]byte, blockSize)}
				d.Encode(&u.Header)
				b := u.Append(nil, s.digests)
				b[at] ^= 4
				if _, err := s.nc.Write(b); err != nil {
					s.t.Error(err)
				}
				s.hangUp()
			})
		r := Task{LUN: 1}
		r.SetRead(0, 1, make([]byte, blockSize))
		if err := s.Do(&r); !errors.Is(err, want) {
			t.Errorf("byte %d changed: %v, want %v", at, err, want)
		}
	}
}

// playback is a connection whose other end said all it has to say, and hears nothing.
type playback struct {
	net.Conn
	*bytes.Reader
}

func (p playback) Read(b []byte) (int, error)    { return p.Reader.Read(b) }
func (p playback) Write(b []byte) (int, error)   { return len(b), nil }
func (p playback) Close() error                  { return nil }
func (p playback) SetDeadline(_ time.Time) error { return nil }

// FuzzLogin plays whatever a target could say in a login and discovery.
func FuzzLogin(f *testing.F) {
	resp := pdu.LoginResponse{Transit: true, NSG: 1}
	u := pdu.PDU{Data: []byte("AuthMethod=CHAP\x00CHAP_A=5\x00CHAP_I=1\x00CHAP_C=0x1234\x00")}
	resp.Encode(&u.Header)
	round := u.Append(nil, pdu.Digests{})
	f.Add(bytes.Repeat(round, 6))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, o := range []Options{{Target: testTarget}, {User: "u", Secret: "s", MutualUser: "m", MutualSecret: "n"}} {
			c := newConn(playback{Reader: bytes.NewReader(b)})
			if c.login(&o, newISID()) == nil {
				_, _ = c.sendTargets() // whatever the outcome, it has to come to an end
			}
		}
	})
}

// FuzzReceive plays whatever a target could say to a session with a read and a write under way. Both
// must end, once each.
func FuzzReceive(f *testing.F) {
	add := func(e interface{ Encode(*pdu.Header) }, data []byte) []byte {
		u := pdu.PDU{Data: data}
		e.Encode(&u.Header)
		return u.Append(nil, pdu.Digests{})
	}
	f.Add(append(add(&pdu.DataIn{InitiatorTag: 1, HasStatus: true}, make([]byte, 512)),
		add(&pdu.R2T{InitiatorTag: 0, TargetTag: 9, Length: 512}, nil)...))
	f.Add(append(add(&pdu.SCSIResponse{InitiatorTag: 1, SCSIStatus: 2}, []byte{0, 2, 3, 4}), add(&pdu.NOPIn{TargetTag: 3}, []byte{1})...))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := newConn(playback{Reader: bytes.NewReader(b)})
		c.maxSN = 32
		s := &Session{o: Options{Depth: 2}, slots: make([]*Task, 2), held: make([]bool, 2), free: []uint32{0, 1}, conns: make([]*conn, 1)}
		s.room.L = &s.mu
		s.adopt(c)
		ended := 0
		count := func(*Task) { ended++ }
		r, w := Task{LUN: 1, Done: count}, Task{LUN: 1, Done: count}
		r.SetRead(0, 1, make([]byte, 512))
		w.SetWrite(0, 1, make([]byte, 512))
		s.Submit(&r)
		s.Submit(&w)
		s.end(s.receive(c))
		c.close()
		c.settle(s)
		if ended != 2 {
			t.Errorf("%d of 2 commands ended", ended)
		}
	})
}

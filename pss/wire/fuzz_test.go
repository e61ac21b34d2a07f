package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
)

// putSum makes the checksum of the header that b starts with right, so that fuzzing gets past it.
func putSum(b []byte) {
	if len(b) >= HeaderSize {
		binary.LittleEndian.PutUint32(b[28:], crc32.Checksum(b[:28], castagnoli))
	}
}

// FuzzReader: whatever comes, a Reader ends with an error it names, and takes what a Writer wrote.
func FuzzReader(f *testing.F) {
	for _, add := range frames {
		f.Add(bytesOf(f, add), 7)
	}
	f.Fuzz(func(t *testing.T, b []byte, step int) {
		putSum(b)
		r := NewReader(&sink{in: bytes.Clone(b), step: step})
		for {
			h, err := r.Next()
			if err == nil && h.Size > kinds[h.Kind].limit {
				t.Fatalf("%v of %d bytes", h.Kind, h.Size)
			}
			if err == nil && step%2 == 0 && h.Size <= MaxView {
				_, err = r.View()
			} else if err == nil {
				err = r.Body(make([]byte, h.Size))
			}
			if err == nil {
				continue
			}
			if err != io.EOF && err != io.ErrUnexpectedEOF && !errors.Is(err, ErrProtocol) {
				t.Fatal(err)
			}
			return
		}
	})
}

// FuzzMessages: what a decoder takes, its encoder writes as the same bytes.
func FuzzMessages(f *testing.F) {
	for _, add := range frames {
		f.Add(bytesOf(f, add)[HeaderSize:])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		same := func(name string, err error, again []byte) {
			if err == nil && !bytes.Equal(b, again) {
				t.Fatalf("%s: %x became %x", name, b, again)
			}
			if err != nil && !errors.Is(err, ErrProtocol) && !errors.Is(err, op.ErrInvalid) {
				t.Fatalf("%s: %v", name, err)
			}
		}
		hello, err := ParseHello(b)
		same("hello", err, AppendHello(nil, hello))
		reply, err := ParseHelloReply(b)
		same("hello reply", err, AppendHelloReply(nil, reply))
		master, err := ParseMaster(b)
		same("master", err, AppendMaster(nil, master))
		read, err := ParseRead(b)
		same("read", err, AppendRead(nil, read))
		fetch, err := ParseFetch(b)
		same("fetch", err, AppendFetch(nil, &fetch))
		member, err := ParseMember(b)
		same("member", err, AppendMember(nil, member))
		servers, err := ParseServers(b)
		same("servers", err, AppendServers(nil, &servers))
	})
}

// FuzzRaft: what ParseRaft takes, AppendRaftHead and AppendRaftData write again with the same meaning.
func FuzzRaft(f *testing.F) {
	f.Add(bytesOf(f, frames["raft-app"])[HeaderSize:])
	f.Add(bytesOf(f, frames["raft-snap"])[HeaderSize:])
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseRaft(b)
		if err != nil {
			if !errors.Is(err, ErrProtocol) {
				t.Fatal(err)
			}
			return
		}
		head, err := AppendRaftHead(nil, &m)
		if err != nil {
			t.Fatal(err)
		}
		again := bytes.Join(AppendRaftData([][]byte{head}, &m), nil)
		if m.Snapshot == nil && !bytes.Equal(b, again) { // protobuf has many forms of one snapshot
			t.Fatalf("%x became %x", b, again)
		}
		if _, err := ParseRaft(again); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzDatagram: what ParseDatagram takes, AppendDatagram writes as the same bytes.
func FuzzDatagram(f *testing.F) {
	b, err := AppendRaftDatagram(nil, &Datagram{From: 1, To: 2, Stamp: 3}, &sampleHeartbeat)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if n := len(b) - 4; n >= 0 {
			binary.LittleEndian.PutUint32(b[n:], crc32.Checksum(b[:n], castagnoli))
		}
		d, err := ParseDatagram(b)
		if err != nil {
			if !errors.Is(err, ErrProtocol) {
				t.Fatal(err)
			}
			return
		}
		again, err := AppendDatagram(nil, &d)
		if err != nil || !bytes.Equal(b, again) {
			t.Fatalf("%v: %x became %x", err, b, again)
		}
	})
}

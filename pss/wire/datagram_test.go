package wire

import (
	"bytes"
	"errors"
	"reflect"
	"slices"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

func TestDatagramComesBack(t *testing.T) {
	want := Datagram{Kind: DatagramStatusReply, From: 1, To: None, Stamp: 1 << 60, Echo: 5, Body: []byte("text")}
	b, err := AppendDatagram([]byte("before"), &want)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseDatagram(b[6:]); err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("%+v, %v", got, err)
	}
	m := raftpb.Message{Type: raftpb.MsgPreVote, To: 3, From: 1, Term: 7, LogTerm: 6, Index: 44, Context: []byte("CampaignTransfer")}
	b, err = AppendRaftDatagram(b[:0], &want, &m)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseDatagram(b)
	if err != nil || got.Kind != DatagramRaft || got.Stamp != want.Stamp || got.Echo != want.Echo || got.From != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	if back, err := ParseRaft(got.Body); err != nil || !reflect.DeepEqual(back, m) {
		t.Fatalf("%+v, %v", back, err)
	}
	for bit := range 8 * len(b) {
		bad := slices.Clone(b)
		bad[bit/8] ^= 1 << (bit % 8)
		if _, err := ParseDatagram(bad); !errors.Is(err, ErrProtocol) {
			t.Fatalf("bit %d flipped: %v", bit, err)
		}
	}
}

func TestDatagramLimits(t *testing.T) {
	full := &Datagram{Kind: DatagramStatus, Body: make([]byte, MaxDatagramBody)}
	b, err := AppendDatagram(nil, full)
	if err != nil || len(b) != MaxDatagram {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	if _, err := ParseDatagram(b); err != nil {
		t.Fatal(err)
	}
	full.Body = append(full.Body, 0)
	keep := []byte("keep")
	for name, f := range map[string]func() ([]byte, error){
		"long":     func() ([]byte, error) { return AppendDatagram(keep, full) },
		"entries":  func() ([]byte, error) { return AppendRaftDatagram(keep, full, &sampleApp) },
		"snapshot": func() ([]byte, error) { return AppendRaftDatagram(keep, full, &sampleSnap) },
		"local":    func() ([]byte, error) { return AppendRaftDatagram(keep, full, &raftpb.Message{Type: raftpb.MsgBeat}) },
		"context": func() ([]byte, error) {
			return AppendRaftDatagram(keep, full, &raftpb.Message{Type: raftpb.MsgVote, Context: make([]byte, 1350)})
		},
	} {
		if b, err := f(); !errors.Is(err, ErrProtocol) || !bytes.Equal(b, keep) {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	for _, n := range []int{0, 3, 27, MaxDatagram + 1} {
		if _, err := ParseDatagram(make([]byte, n)); !errors.Is(err, ErrProtocol) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

func TestHeartbeatDoesNotAllocate(t *testing.T) {
	buf := make([]byte, 0, MaxDatagram)
	m := raftpb.Message{Type: raftpb.MsgHeartbeat, To: 3, From: 1, Term: 7}
	d := Datagram{From: 0, To: 2, Stamp: 1}
	if n := testing.AllocsPerRun(10, func() {
		b, err := AppendRaftDatagram(buf, &d, &m)
		if err == nil {
			var got Datagram
			if got, err = ParseDatagram(b); err == nil {
				_, err = ParseRaft(got.Body)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

var sampleHeartbeat = raftpb.Message{Type: raftpb.MsgHeartbeat, To: 3, From: 1, Term: 7, Commit: 5}

// TestQuestion: a question has full size whatever it asks, and says what it asks.
func TestQuestion(t *testing.T) {
	for _, what := range []string{"", "members"} {
		b, err := AppendQuestion(nil, &Datagram{From: None, To: 3, Stamp: 9, Body: []byte(what)})
		if err != nil || len(b) != MaxDatagram {
			t.Fatalf("%d bytes, %v", len(b), err)
		}
		d, err := ParseDatagram(b)
		if err != nil || d.Kind != DatagramStatus || d.To != 3 || d.Stamp != 9 || string(bytes.TrimRight(d.Body, "\x00")) != what {
			t.Errorf("%+v, %v", d, err)
		}
	}
	if _, err := AppendQuestion(nil, &Datagram{Body: make([]byte, MaxDatagramBody+1)}); err == nil {
		t.Error("a question that is too long")
	}
}

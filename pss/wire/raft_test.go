package wire

import (
	"bytes"
	"errors"
	"reflect"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"pgregory.net/rapid"
)

func drawMessage(t *rapid.T) raftpb.Message {
	u64 := rapid.Uint64()
	m := raftpb.Message{
		Type: rapid.SampledFrom([]raftpb.MessageType{raftpb.MsgApp, raftpb.MsgAppResp, raftpb.MsgSnap, raftpb.MsgHeartbeat,
			raftpb.MsgPreVoteResp, raftpb.MsgReadIndex, raftpb.MsgTimeoutNow}).Draw(t, "type"),
		To: u64.Draw(t, "to"), From: u64.Draw(t, "from"), Term: u64.Draw(t, "term"), LogTerm: u64.Draw(t, "logTerm"),
		Index: u64.Draw(t, "index"), Commit: u64.Draw(t, "commit"), Vote: u64.Draw(t, "vote"),
		RejectHint: u64.Draw(t, "hint"), Reject: rapid.Bool().Draw(t, "reject"),
	}
	bytes := func(n int, name string) []byte {
		if b := rapid.SliceOfN(rapid.Byte(), 0, n).Draw(t, name); len(b) > 0 {
			return b
		}
		return nil
	}
	m.Context = bytes(30, "context")
	if rapid.Bool().Draw(t, "snapshot?") {
		m.Snapshot = &raftpb.Snapshot{Data: bytes(30, "snapshot"), Metadata: raftpb.SnapshotMetadata{
			Index: u64.Draw(t, "snapIndex"), ConfState: raftpb.ConfState{Voters: []uint64{1, 2}}}}
	}
	for range rapid.IntRange(0, 5).Draw(t, "entries") {
		m.Entries = append(m.Entries, raftpb.Entry{Term: u64.Draw(t, "eterm"), Index: u64.Draw(t, "eindex"),
			Type: raftpb.EntryType(rapid.IntRange(0, 2).Draw(t, "etype")), Data: bytes(400, "data")})
	}
	return m
}

func TestRaftComesBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := drawMessage(t)
		head, err := AppendRaftHead(nil, &m)
		if err != nil {
			t.Fatal(err)
		}
		b := bytes.Join(AppendRaftData([][]byte{head}, &m), nil)
		if len(b) != RaftSize(&m) {
			t.Fatalf("%d bytes, RaftSize says %d", len(b), RaftSize(&m))
		}
		got, err := ParseRaft(b)
		if err != nil || !reflect.DeepEqual(got, m) {
			t.Fatalf("%v\n got %+v\nwant %+v", err, got, m)
		}
		// The frame carries the same bytes, with the head sealed.
		frame := bytesOf(t, func(w *Writer) error { return w.Raft(&m) })
		h, err := ParseHeader(frame)
		if err != nil || int(h.Sealed) != len(head) || !bytes.Equal(frame[HeaderSize:], b) {
			t.Fatalf("frame: %+v, %v", h, err)
		}
		// Shorter or longer, it is refused.
		if _, err := ParseRaft(b[:rapid.IntRange(0, len(b)-1).Draw(t, "cut")]); !errors.Is(err, ErrProtocol) {
			t.Fatalf("cut: %v", err)
		}
		if _, err := ParseRaft(append(b, 0)); !errors.Is(err, ErrProtocol) {
			t.Fatalf("lengthened: %v", err)
		}
	})
}

func TestRaftDataIsNotCopied(t *testing.T) {
	data := make([]byte, 4096)
	m := raftpb.Message{Type: raftpb.MsgApp, Entries: []raftpb.Entry{{Data: data}}}
	if bufs := AppendRaftData(nil, &m); len(bufs) != 1 || &bufs[0][0] != &data[0] {
		t.Fatal("AppendRaftData copied the data")
	}
	b := bytesOf(t, func(w *Writer) error { return w.Raft(&m) })[HeaderSize:]
	got, err := ParseRaft(b)
	if err != nil || &got.Entries[0].Data[0] != &b[len(b)-4096] {
		t.Fatalf("ParseRaft copied the data, or failed: %v", err)
	}
	for range 300 {
		m.Entries = append(m.Entries, raftpb.Entry{Data: data[:100]})
	}
	b = bytesOf(t, func(w *Writer) error { return w.Raft(&m) })[HeaderSize:]
	if n := testing.AllocsPerRun(10, func() { _, err = ParseRaft(b) }); n > 1 || err != nil {
		t.Fatalf("%v allocations for 301 entries, %v", n, err)
	}
}

func TestRaftRefused(t *testing.T) {
	body := func(change func(b []byte)) []byte {
		b := bytesOf(t, func(w *Writer) error { return w.Raft(&sampleApp) })[HeaderSize:]
		change(b)
		return b
	}
	entry := raftFixed + len(sampleApp.Context) // the first entry's head
	for name, b := range map[string][]byte{
		"local type":      body(func(b []byte) { b[0] = byte(raftpb.MsgStorageAppend) }),
		"unknown type":    body(func(b []byte) { b[0] = 99 }),
		"reject":          body(func(b []byte) { b[1] = 2 }),
		"reserved":        body(func(b []byte) { b[2] = 1 }),
		"context":         body(func(b []byte) { b[5] = 0xff }),
		"snapshot":        body(func(b []byte) { b[75] = 0xff }),
		"count":           body(func(b []byte) { b[79] = 0xff }),
		"garbled change":  body(func(b []byte) { b[len(b)-1] ^= 1 }),
		"entry type":      body(func(b []byte) { b[entry+24] = 3 }),
		"entry reserved":  body(func(b []byte) { b[entry+27] = 3 }),
		"entry size":      body(func(b []byte) { b[entry+19] = 3 }),
		"normal with sum": body(func(b []byte) { b[entry+20] = 3 }),
	} {
		if _, err := ParseRaft(b); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

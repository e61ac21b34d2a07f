package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/paxos-iscsi/paxos-iscsi/pss/auth"
	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
	"github.com/paxos-iscsi/paxos-iscsi/pss/wire/socket"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sink is a connection that keeps what is written and gives what is to be read, in pieces of at
// most step bytes.
type sink struct {
	net.Conn
	out  bytes.Buffer
	in   []byte
	step int
}

func (s *sink) Write(b []byte) (int, error) { return s.out.Write(b) }

func (s *sink) Read(b []byte) (int, error) {
	if len(s.in) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), max(s.step, 1))], s.in)
	s.in = s.in[n:]
	return n, nil
}

func (s *sink) SetWriteDeadline(time.Time) error { return nil }

func bytesOf(t interface{ Fatalf(string, ...any) }, add func(*Writer) error) []byte {
	var s sink
	w := NewWriter(&s)
	if err := add(w); err != nil {
		t.Fatalf("add: %v", err)
	}
	want := w.Buffered()
	if err := w.Flush(); err != nil {
		t.Fatalf("flush: %v", err)
	}
	if s.out.Len() != want {
		t.Fatalf("%d bytes written, %d announced", s.out.Len(), want)
	}
	return s.out.Bytes()
}

func readerOf(b []byte) *Reader { return NewReader(&sink{in: b, step: len(b)}) }

var sampleApp = raftpb.Message{
	Type: raftpb.MsgApp, To: 2, From: 1, Term: 7, LogTerm: 6, Index: 100, Commit: 99, Context: []byte("ctx"),
	Entries: []raftpb.Entry{
		{Term: 7, Index: 101},
		{Term: 7, Index: 102, Data: []byte("operation")},
		{Term: 7, Index: 103, Type: raftpb.EntryConfChangeV2, Data: []byte("change")},
	},
}

var sampleSnap = raftpb.Message{
	Type: raftpb.MsgSnap, To: 2, From: 1, Term: 7, Reject: true, RejectHint: 3, Vote: 4,
	Snapshot: &raftpb.Snapshot{
		Data:     []byte("manifest"),
		Metadata: raftpb.SnapshotMetadata{Index: 9, Term: 6, ConfState: raftpb.ConfState{Voters: []uint64{1, 2, 3}, Learners: []uint64{6}}},
	},
}

var sampleMember = Member{Cell: CellID{1, 2, 15: 16}, Number: 0x203}

var sampleFetch = Fetch{Object: 5, Chunk: 6, Blocks: [16]uint64{0: 7, 15: 1 << 63}}

var frames = map[string]func(*Writer) error{
	"hello":       func(w *Writer) error { return w.Hello(Hello{RoleClient, 3, Protocol, 0x1122334455667788, "1.0"}) },
	"hello-reply": func(w *Writer) error { return w.HelloReply(HelloReply{Master{9, 1}, Protocol, 3, "1.0"}) },
	"propose":     func(w *Writer) error { return w.Propose(5, []byte("head"), []byte("payload")) },
	"result":      func(w *Writer) error { return w.Result(5, op.Result{Errno: op.Exists, Object: 1, Token: 2, Value: 3}) },
	"read":        func(w *Writer) error { return w.Read(6, Read{Object: 7, Offset: 8192, Length: 4096}) },
	"read-reply":  func(w *Writer) error { return w.ReadReply(6, op.OK, []byte("sums"), []byte("data")) },
	"read-error":  func(w *Writer) error { return w.ReadReply(6, op.NotFound, nil, nil) },
	"query":       func(w *Writer) error { return w.Query(7, op.Query{Code: op.ReadDir, Path: "/a", Cursor: "b"}) },
	"query-reply": func(w *Writer) error {
		return w.QueryReply(7, op.Answer{Nodes: []op.Node{{Name: "c", Kind: op.KindFile}}})
	},
	"notice":       func(w *Writer) error { return w.Notice(Master{10, None}) },
	"not-master":   func(w *Writer) error { return w.NotMaster(8, Master{10, 4}) },
	"ping":         func(w *Writer) error { return w.Ping(11) },
	"pong":         func(w *Writer) error { return w.Pong(11) },
	"status":       func(w *Writer) error { return w.Status(12, "paxos") },
	"status-reply": func(w *Writer) error { return w.StatusReply(12, op.OK, []byte("{}")) },
	"goodbye":      func(w *Writer) error { return w.Goodbye("wrong server") },
	"wake":         func(w *Writer) error { return w.Wake(0x1122334455667788) },
	"servers": func(w *Writer) error {
		return w.Servers(&Servers{Index: 9, Servers: []Server{
			{ID: 0, Host: "pss0", TCPPort: 4010, UDPPort: 4000}, {ID: 2, Agreed: true, Host: "::1", TCPPort: 4012, UDPPort: 4002}, {ID: 7, Removed: true}}})
	},
	"raft-app":      func(w *Writer) error { return w.Raft(&sampleApp) },
	"raft-snap":     func(w *Writer) error { return w.Raft(&sampleSnap) },
	"manifest":      func(w *Writer) error { return w.Frame(KindManifest, 0, 0, []byte{9, 0, 0, 0, 0, 0, 0, 0}) },
	"manifest-part": func(w *Writer) error { return w.Frame(KindManifestPart, 1, 0, []byte("part")) },
	"fetch":         func(w *Writer) error { return w.Frame(KindFetch, 0, 0, AppendFetch(nil, &sampleFetch)) },
	"admin":         func(w *Writer) error { return w.Frame(KindAdmin, 0, 13, []byte("\x06\x00status{}")) },
	"admin-part":    func(w *Writer) error { return w.Frame(KindAdminPart, 1, 13, []byte("{}")) },
	"member":        func(w *Writer) error { return w.Frame(KindMember, 0, 0, AppendMember(nil, sampleMember)) },
	"image":         func(w *Writer) error { return w.Frame(KindImage, 0, 0, []byte("image")) },
}

// TestGolden holds the bytes of every message still: they are what running servers speak.
func TestGolden(t *testing.T) {
	datadriven.RunTest(t, "testdata/golden", func(t *testing.T, d *datadriven.TestData) string {
		name := d.CmdArgs[0].Key
		switch d.Cmd {
		case "frame":
			if frames[name] == nil {
				t.Fatalf("no frame called %s", name)
			}
			return hex.Dump(bytesOf(t, frames[name]))
		case "datagram":
			g := &Datagram{Kind: DatagramStatus, From: None, To: 2, Stamp: 3, Echo: 4, Body: []byte("paxos")}
			b, err := AppendDatagram(nil, g)
			if name == "raft" {
				b, err = AppendRaftDatagram(nil, g, &raftpb.Message{Type: raftpb.MsgHeartbeat, To: 3, From: 1, Term: 7, Commit: 5})
			}
			if err != nil {
				t.Fatal(err)
			}
			return hex.Dump(b)
		}
		t.Fatalf("no command %s", d.Cmd)
		return ""
	})
}

func TestEveryKindHasGoldenBytes(t *testing.T) {
	var have []Kind
	for _, add := range frames {
		h, err := ParseHeader(bytesOf(t, add))
		if err != nil {
			t.Fatal(err)
		}
		have = append(have, h.Kind)
	}
	for k := range kinds {
		if Kind(k).known() && !slices.Contains(have, Kind(k)) {
			t.Errorf("no sample of %v", Kind(k))
		}
	}
}

func TestMessagesComeBack(t *testing.T) {
	var all []byte
	for _, name := range []string{"hello", "hello-reply", "result", "read", "notice", "fetch", "query", "query-reply"} {
		all = append(all, bytesOf(t, frames[name])...)
	}
	for step := 1; step < 60; step += 7 {
		r := NewReader(&sink{in: all, step: step})
		next := func(kind Kind) (Header, []byte) {
			t.Helper()
			h, err := r.Next()
			if err != nil || h.Kind != kind {
				t.Fatalf("%v, %v; want %v", h.Kind, err, kind)
			}
			b, err := r.View()
			if err != nil {
				t.Fatal(err)
			}
			return h, b
		}
		_, b := next(KindHello)
		if h, err := ParseHello(b); err != nil || h != (Hello{RoleClient, 3, Protocol, 0x1122334455667788, "1.0"}) {
			t.Fatalf("%+v, %v", h, err)
		}
		_, b = next(KindHelloReply)
		if h, err := ParseHelloReply(b); err != nil || h != (HelloReply{Master{9, 1}, Protocol, 3, "1.0"}) {
			t.Fatalf("%+v, %v", h, err)
		}
		h, b := next(KindResult)
		if res, err := op.ParseResult(b); err != nil || h.Tag != 5 || res != (op.Result{Errno: op.Exists, Object: 1, Token: 2, Value: 3}) {
			t.Fatalf("%+v, %v", res, err)
		}
		h, b = next(KindRead)
		if rd, err := ParseRead(b); err != nil || h.Tag != 6 || rd != (Read{7, 8192, 4096}) {
			t.Fatalf("%+v, %v", rd, err)
		}
		_, b = next(KindNotice)
		if m, err := ParseMaster(b); err != nil || m != (Master{10, None}) {
			t.Fatalf("%+v, %v", m, err)
		}
		_, b = next(KindFetch)
		if f, err := ParseFetch(b); err != nil || f != sampleFetch {
			t.Fatalf("%+v, %v", f, err)
		}
		_, b = next(KindQuery)
		if q, err := op.ParseQuery(b); err != nil || q != (op.Query{Code: op.ReadDir, Path: "/a", Cursor: "b"}) {
			t.Fatalf("%+v, %v", q, err)
		}
		next(KindQueryReply)
		if _, err := r.Next(); err != io.EOF {
			t.Fatalf("after the last frame: %v", err)
		}
	}
}

// TestScratchIsNotShared: a body above copyBelow that is built in the Writer's scratch must not be
// overwritten by the next one.
func TestScratchIsNotShared(t *testing.T) {
	a, b := strings.Repeat("a", 2000), strings.Repeat("b", 2000)
	r := readerOf(bytesOf(t, func(w *Writer) error {
		return errors.Join(w.Query(1, op.Query{Code: op.Stat, Path: a}), w.Query(2, op.Query{Code: op.Stat, Path: b}))
	}))
	for _, want := range []string{a, b} {
		if _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
		v, err := r.View()
		if err != nil {
			t.Fatal(err)
		}
		if q, err := op.ParseQuery(v); err != nil || q.Path != want {
			t.Fatalf("%.10q, %v", q.Path, err)
		}
	}
}

// TestStream sends random frames through a real connection and takes them off in random ways.
func TestStream(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type frame struct {
			tag    uint64
			sealed []byte
			parts  [][]byte
		}
		body := func(n int) []byte { return bytes.Repeat([]byte{byte(n), byte(n >> 8), 7}, n/3+1)[:n] }
		sizes := rapid.OneOf(rapid.IntRange(0, 300), rapid.IntRange(0, 100_000))
		var all []frame
		for i := range rapid.IntRange(1, 12).Draw(t, "frames") {
			f := frame{tag: uint64(i), sealed: body(rapid.IntRange(0, 1000).Draw(t, "sealed"))}
			for range rapid.IntRange(0, 3).Draw(t, "parts") {
				f.parts = append(f.parts, body(sizes.Draw(t, "part")))
			}
			all = append(all, f)
		}
		sent := bytesOf(t, func(w *Writer) error {
			for _, f := range all {
				if err := w.Frame(KindRaft, 0, f.tag, f.sealed, f.parts...); err != nil {
					return err
				}
			}
			return nil
		})
		r := NewReader(&sink{in: sent, step: rapid.IntRange(1, 70_000).Draw(t, "step")})
		for _, f := range all {
			h, err := r.Next()
			want := append(slices.Clone(f.sealed), bytes.Join(f.parts, nil)...)
			if err != nil || h.Tag != f.tag || int(h.Size) != len(want) {
				t.Fatalf("%+v, %v", h, err)
			}
			take := rapid.IntRange(0, len(want)).Draw(t, "take")
			got := make([]byte, take)
			if err := r.Body(got); err != nil || !bytes.Equal(got, want[:take]) {
				t.Fatalf("body: %v", err)
			}
			if rest := want[take:]; len(rest) <= MaxView && rapid.Bool().Draw(t, "view") {
				if v, err := r.View(); err != nil || !bytes.Equal(v, rest) {
					t.Fatalf("view: %v", err)
				}
			}
		}
		if _, err := r.Next(); err != io.EOF {
			t.Fatalf("at the end: %v", err)
		}
		if int(r.Received()) != len(sent) {
			t.Fatalf("received %d of %d", r.Received(), len(sent))
		}
	})
}

// TestWritev sends through the kernel, so that the vector path of package net is taken.
func TestWritev(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	got := make(chan error, 1)
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			got <- err
			return
		}
		defer conn.Close()
		r := NewReader(conn)
		buf := make([]byte, len(big))
		for i := range 5 {
			h, err := r.Next()
			if err == nil && h.Tag != uint64(i) {
				err = fmt.Errorf("frame %d has tag %d", i, h.Tag)
			}
			if err == nil {
				err = r.Body(buf[:h.Size])
			}
			if err == nil && !bytes.Equal(buf[:h.Size], big[:h.Size]) {
				err = fmt.Errorf("frame %d differs", i)
			}
			if err != nil {
				got <- err
				return
			}
		}
		got <- nil
	}()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	w := NewWriter(conn)
	w.Timeout = time.Minute
	for i, n := range []int{1 << 20, 10, 5000, 0, 65536} {
		if err := w.Propose(uint64(i), big[:n/2], big[n/2:n]); err != nil {
			t.Fatal(err)
		}
		if i == 2 {
			if err := w.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Fatal(err)
	}
}

// TestFlippedBits: no single wrong bit in what the header and the sum cover goes unnoticed.
func TestFlippedBits(t *testing.T) {
	for name, add := range frames {
		good := bytesOf(t, add)
		h, err := ParseHeader(good)
		if err != nil {
			t.Fatal(err)
		}
		for bit := range 8 * (HeaderSize + int(h.Sealed)) {
			bad := slices.Clone(good)
			bad[bit/8] ^= 1 << (bit % 8)
			r := readerOf(bad)
			h, err := r.Next()
			if err == nil {
				err = r.Body(make([]byte, h.Size))
			}
			if !errors.Is(err, ErrProtocol) {
				t.Fatalf("%s with bit %d flipped: %v", name, bit, err)
			}
		}
	}
}

func TestCutStream(t *testing.T) {
	all := bytesOf(t, frames["query"])
	for n := 1; n < len(all); n++ {
		r := readerOf(all[:n])
		_, err := r.Next()
		if err == nil {
			_, err = r.Next() // skips the body
		}
		if err != io.ErrUnexpectedEOF {
			t.Fatalf("cut at %d: %v", n, err)
		}
	}
}

func TestRefused(t *testing.T) {
	for name, change := range map[string]func([]byte){
		"version":  func(b []byte) { b[5] = 2 },
		"kind":     func(b []byte) { b[4] = 200 },
		"hole":     func(b []byte) { b[4] = 20 },
		"too long": func(b []byte) { b[1] = 1 },
		"sealed":   func(b []byte) { b[16] = 200 },
		"reserved": func(b []byte) { b[24] = 1 },
	} {
		b := bytesOf(t, frames["notice"])
		change(b)
		putSum(b)
		if _, err := readerOf(b).Next(); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %v", name, err)
		}
	}
	w := NewWriter(&sink{})
	for name, err := range map[string]error{
		"unknown kind": w.Frame(20, 0, 0, nil),
		"long ping":    w.Frame(KindPing, 0, 0, []byte{1}),
		"long read":    w.ReadReply(0, op.OK, make([]byte, maxSums), make([]byte, MaxRead+1)),
		"local raft":   w.Raft(&raftpb.Message{Type: raftpb.MsgHup}),
		"long context": w.Raft(&raftpb.Message{Type: raftpb.MsgApp, Context: make([]byte, MaxContext+1)}),
		"long entry":   w.Raft(&raftpb.Message{Type: raftpb.MsgApp, Entries: []raftpb.Entry{{Data: make([]byte, MaxEntry+1)}}}),
		"many entries": w.Raft(&raftpb.Message{Type: raftpb.MsgApp, Entries: make([]raftpb.Entry, MaxEntries+1)}),
	} {
		if !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if w.Buffered() != 0 {
		t.Errorf("%d bytes of refused frames are kept", w.Buffered())
	}
	r := readerOf(bytesOf(t, frames["notice"]))
	if _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	if err := r.Body(make([]byte, masterSize+1)); !errors.Is(err, ErrProtocol) {
		t.Errorf("a body longer than the frame: %v", err)
	}
}

type broken struct{ net.Conn }

func (broken) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestFlushErrorStays(t *testing.T) {
	w := NewWriter(broken{})
	for range 2 {
		if err := w.Ping(1); err != nil {
			t.Fatal(err)
		}
		if err := w.Flush(); err != io.ErrClosedPipe {
			t.Fatal(err)
		}
	}
}

func TestNoAllocations(t *testing.T) {
	s := &sink{}
	w := NewWriter(s)
	payload := make([]byte, 64<<10)
	head := make([]byte, 100)
	fill := func() {
		s.out.Reset()
		for i := range 8 {
			if w.Propose(uint64(i), head, payload) != nil || w.Result(1, op.Result{}) != nil || w.Read(2, Read{Length: 1}) != nil {
				t.Fatal("frame refused")
			}
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	fill()
	if n := testing.AllocsPerRun(100, fill); n != 0 {
		t.Errorf("%v allocations to write 24 frames", n)
	}
	sent := slices.Clone(s.out.Bytes())
	src := &sink{step: 1 << 20}
	r := NewReader(src)
	dst := make([]byte, 100+64<<10)
	if n := testing.AllocsPerRun(100, func() {
		src.in = sent
		for range 24 {
			h, err := r.Next()
			if err == nil {
				err = r.Body(dst[:h.Size])
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}); n != 0 {
		t.Errorf("%v allocations to read 24 frames", n)
	}
}

func TestSlab(t *testing.T) {
	pool := NewSlabPool()
	rapid.Check(t, func(t *rapid.T) {
		s := NewSlab(pool)
		var pieces [][]byte
		for i, n := range rapid.SliceOfN(rapid.OneOf(rapid.IntRange(0, 100), rapid.IntRange(0, slabChunk+10)), 1, 20).Draw(t, "sizes") {
			b := s.Take(n)
			if len(b) != n || cap(b) != n {
				t.Fatalf("asked for %d: len %d cap %d", n, len(b), cap(b))
			}
			for j := range b {
				b[j] = byte(i + 1)
			}
			pieces = append(pieces, b)
		}
		for i, b := range pieces {
			if bytes.Count(b, []byte{byte(i + 1)}) != len(b) {
				t.Fatalf("piece %d was overwritten", i)
			}
		}
	})
}

// TestSlabChunkReturns proves that a chunk comes back when its last piece is dropped, and not before.
func TestSlabChunkReturns(t *testing.T) {
	pool := NewSlabPool()
	s := NewSlab(pool)
	kept := s.Take(100)
	s.Take(slabChunk) // the Slab itself leaves the first chunk
	s.Take(slabChunk)
	runtime.GC()
	select {
	case <-pool.idle: // the second
	case <-time.After(10 * time.Second):
		t.Fatal("no chunk came back")
	}
	kept[0] = 1
	runtime.GC()
	if n := len(pool.idle); n != 0 {
		t.Fatalf("%d chunks came back while a piece is in use", n)
	}
	runtime.KeepAlive(kept)
	runtime.KeepAlive(s)
}

// TestTryFlush fills a connection that nobody reads with TryFlush until it has no room, has Flush go on,
// and finds every frame whole and in order on the other side: over TCP as it is, and with a cell key.
func TestTryFlush(t *testing.T) {
	t.Run("open", func(t *testing.T) { testTryFlush(t, nil) })
	t.Run("key", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), auth.FileName)
		if _, err := auth.Generate(file); err != nil {
			t.Fatal(err)
		}
		keys, err := auth.Load(file)
		if err != nil {
			t.Fatal(err)
		}
		testTryFlush(t, keys)
	})
}

func testTryFlush(t *testing.T, keys *auth.Keys) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	near, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	proved := make(chan error, 1)
	go func() {
		var err error
		far, err = keys.Server(t.Context(), far)
		proved <- err
	}()
	if near, err = keys.Client(t.Context(), near); err != nil {
		t.Fatal(err)
	}
	if err := <-proved; err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	w := NewWriter(near)
	w.Timeout = time.Minute
	body := make([]byte, 300<<10)
	var sent uint64
	for full := false; !full; {
		for range 3 {
			sent++
			binary.LittleEndian.PutUint64(body, sent)
			if err := w.Frame(KindStatusReply, 0, sent, bytes.Clone(body)); err != nil {
				t.Fatal(err)
			}
		}
		switch err := w.TryFlush(); err {
		case nil:
			if w.Buffered() != 0 {
				t.Fatalf("%d bytes are left after a whole TryFlush", w.Buffered())
			}
		case socket.ErrWouldBlock:
			full = true
		default:
			t.Fatal(err)
		}
	}
	flushed := make(chan error, 1)
	go func() { flushed <- w.Flush() }()
	rd := NewReader(far)
	for tag := uint64(1); tag <= sent; tag++ {
		h, err := rd.Next()
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, h.Size)
		if err := rd.Body(got); err != nil {
			t.Fatal(err)
		}
		if h.Tag != tag || binary.LittleEndian.Uint64(got) != tag || len(got) != len(body) {
			t.Fatalf("frame %d holds %d in %d bytes", h.Tag, binary.LittleEndian.Uint64(got), len(got))
		}
	}
	if err := <-flushed; err != nil {
		t.Fatal(err)
	}
	if err := w.Pong(7); err != nil {
		t.Fatal(err)
	}
	if err := w.TryFlush(); err != nil {
		t.Fatal(err)
	}
	if h, err := rd.Next(); err != nil || h.Kind != KindPong || h.Tag != 7 {
		t.Fatalf("%+v, %v", h, err)
	}
}

// TestKeptBytes: what a connection keeps of a TryFlush, Flush has it write, also when nothing else is left.
func TestKeptBytes(t *testing.T) {
	k := &keeper{}
	w := NewWriter(k)
	if err := w.Pong(1); err != nil {
		t.Fatal(err)
	}
	if err := w.TryFlush(); err != socket.ErrWouldBlock || w.Buffered() != 0 || k.kept != HeaderSize {
		t.Fatalf("%v, %d bytes left, %d kept", err, w.Buffered(), k.kept)
	}
	for range 2 {
		if err := w.Flush(); err != nil || k.kept != 0 || k.flushes != 1 {
			t.Fatalf("%v, %d bytes kept after %d flushes", err, k.kept, k.flushes)
		}
	}
}

// keeper takes everything and keeps it until it may wait.
type keeper struct {
	net.Conn
	kept, flushes int
}

func (k *keeper) SetWriteDeadline(time.Time) error { return nil }

func (k *keeper) TryWrite(bufs [][]byte) (n int, err error) {
	for _, b := range bufs {
		n += len(b)
	}
	k.kept += n
	return n, socket.ErrWouldBlock
}

func (k *keeper) WriteBuffers([][]byte) error {
	k.kept = 0
	k.flushes++
	return nil
}

// TestTLSInClear: a caller with a key is told apart from noise where there is none.
func TestTLSInClear(t *testing.T) {
	hello := append([]byte{22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3}, make([]byte, HeaderSize)...)
	_, err := ParseHeader(hello)
	if !errors.Is(err, ErrTLS) || !errors.Is(err, ErrProtocol) {
		t.Error(err)
	}
	hello[0] = 23
	if _, err := ParseHeader(hello); errors.Is(err, ErrTLS) || !errors.Is(err, ErrProtocol) {
		t.Error(err)
	}
}

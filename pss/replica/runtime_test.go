package replica

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/paxos-iscsi/paxos-iscsi/pss"
	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pss/agreement"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
	"github.com/paxos-iscsi/paxos-iscsi/pss/psstest/port"
	"github.com/paxos-iscsi/paxos-iscsi/pss/wire"
)

// patience bounds what a test waits for; nothing is expected to take so long.
const patience = 60 * time.Second

// house is a cell of three servers in this process, on loopback.
type house struct {
	t       *testing.T
	conf    *cell.Config
	servers [3]*Replica
	options func(*Options)
}

// report logs what the servers that run are at, for a test that failed.
func report(t *testing.T, servers ...*Replica) {
	t.Helper()
	for _, r := range servers {
		if r == nil {
			continue
		}
		st := r.report()
		master := "none"
		if st.Master != nil {
			master = fmt.Sprint(*st.Master)
		}
		t.Logf("server %d: %s, master %s, term %d, log %d to %d, committed %d, applied %d, checkpoint %d, %d clients, health %q, error %v",
			st.ID, st.State, master, st.Term, st.LogFirst, st.Last, st.Commit, st.Applied, st.Checkpoint, st.Clients, st.Health, r.Err())
	}
}

func newHouse(t *testing.T, options func(*Options)) *house {
	t.Helper()
	h := &house{t: t, conf: &cell.Config{File: "server.conf"}, options: options}
	ports := freePorts(t, 2*len(h.servers))
	for i := range h.servers {
		h.conf.Servers = append(h.conf.Servers, cell.Server{ID: cell.ID(i), Host: "127.0.0.1",
			TCPPort: ports[2*i], UDPPort: ports[2*i+1], Path: t.TempDir()})
	}
	for i := range h.servers {
		h.start(i)
	}
	t.Cleanup(func() {
		if t.Failed() {
			report(t, h.servers[:]...)
		}
		for i := range h.servers {
			h.stop(i)
		}
	})
	return h
}

func freePorts(t *testing.T, count int) []int {
	t.Helper()
	ports, err := port.Free(count)
	check(t, err)
	return ports
}

func (h *house) start(i int) {
	h.t.Helper()
	var err error
	h.servers[i], err = Open(h.optionsOf(i))
	check(h.t, err)
}

func (h *house) optionsOf(i int) Options {
	o := Options{Cell: h.conf, ID: cell.ID(i), Root: h.conf.Servers[i].Root(), Timing: agreement.LAN,
		Logger: slog.New(slog.DiscardHandler), SegmentBytes: 4 << 20}
	if h.options != nil {
		h.options(&o)
	}
	if err := os.Mkdir(o.Root, 0o750); err != nil && !errors.Is(err, os.ErrExist) {
		h.t.Fatal(err)
	}
	return o
}

func (h *house) stop(i int) {
	h.t.Helper()
	if r := h.servers[i]; r != nil {
		h.servers[i] = nil
		check(h.t, r.Close())
	}
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after %v: not %s", patience, what)
		}
	}
}

// within waits for what comes over a channel, or for its end.
func within[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case x := <-c:
		return x
	case <-time.After(patience):
		t.Fatalf("after %v: not %s", patience, what)
		panic("not reached")
	}
}

// master waits for a master that the running servers agree on.
func (h *house) master() int {
	h.t.Helper()
	master := -1
	eventually(h.t, "a master", func() bool {
		master = -1
		for i, r := range h.servers {
			if r != nil && r.view().Self {
				master = i
			}
		}
		for _, r := range h.servers {
			if v := (agreement.View{}); r != nil && master >= 0 {
				if v = r.view(); !v.Known || int(v.Master) != master {
					return false
				}
			}
		}
		return master >= 0
	})
	return master
}

// level waits until all servers have applied the same, and holds what they have against each other.
func (h *house) level(objects ...uint64) {
	h.t.Helper()
	eventually(h.t, "level", func() bool {
		at := h.servers[0].report().Applied
		for _, r := range h.servers {
			if rep := r.report(); rep.Applied != at || rep.Commit != at {
				return false
			}
		}
		return true
	})
	var first string
	for i, r := range h.servers {
		r.mu.Lock()
		sum := fmt.Sprintf("%x", r.core.Machine().Digest())
		for _, o := range objects {
			d, err := r.store.Digest(o)
			check(h.t, err)
			sum += fmt.Sprintf(" %x", d)
		}
		r.mu.Unlock()
		if i == 0 {
			first = sum
		} else if sum != first {
			h.t.Fatalf("server %d holds %s, server 0 %s", i, sum, first)
		}
	}
}

func (h *house) client() *pss.Cell {
	h.t.Helper()
	c, err := pss.Open(h.conf, pss.Options{})
	check(h.t, err)
	h.t.Cleanup(func() { _ = c.Close() })
	return c
}

func (h *house) context() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	h.t.Cleanup(cancel)
	return ctx
}

// volume is a volume and what it should hold.
type volume struct {
	t      *testing.T
	v      *pss.Volume
	object uint64
	want   []byte
	rng    *rand.Rand
}

func (h *house) volume(c *pss.Cell, bytes int) *volume {
	h.t.Helper()
	check(h.t, c.CreateVolume(h.context(), "/vol", int64(bytes)))
	n, err := c.Stat(h.context(), "/vol")
	check(h.t, err)
	v, err := c.OpenVolume(h.context(), "/vol")
	check(h.t, err)
	return &volume{t: h.t, v: v, object: n.Object, want: make([]byte, bytes), rng: rand.New(rand.NewPCG(1, 2))}
}

// write writes at random places, count writes at the same time.
func (v *volume) write(count int) {
	v.t.Helper()
	rs := make([]*pss.Request, count)
	for i := range rs {
		off := v.rng.IntN(len(v.want)/512) * 512
		n := min(512+v.rng.IntN(128)*512, len(v.want)-off)
		for j := off; j < off+n; j++ {
			v.want[j] = byte(v.rng.Uint32())
		}
		rs[i] = &pss.Request{Op: pss.Write, Offset: int64(off), Data: bytes.Clone(v.want[off : off+n])}
	}
	for _, r := range v.do(rs...) {
		check(v.t, r.Err)
	}
}

// do carries requests out at the same time. It fails the test when they are not answered.
func (v *volume) do(rs ...*pss.Request) []*pss.Request {
	v.t.Helper()
	done := make(chan *pss.Request, len(rs))
	for _, r := range rs {
		r.Done = func(r *pss.Request) { done <- r }
		v.v.Submit(r)
	}
	late := time.After(patience)
	for answered := range rs {
		select {
		case <-done:
		case <-late:
			v.t.Fatalf("after %v: %d of %d requests were answered; the first is operation %d of %d bytes at %d",
				patience, answered, len(rs), rs[0].Op, max(int64(len(rs[0].Data)), rs[0].Length), rs[0].Offset)
		}
	}
	return rs
}

func (v *volume) writeAt(b []byte, off int64) error {
	v.t.Helper()
	return v.do(&pss.Request{Op: pss.Write, Offset: off, Data: b})[0].Err
}

func (v *volume) readAt(b []byte, off int64) error {
	v.t.Helper()
	return v.do(&pss.Request{Op: pss.Read, Offset: off, Data: b})[0].Err
}

func (v *volume) verify() {
	v.t.Helper()
	got := make([]byte, len(v.want))
	check(v.t, v.readAt(got, 0))
	if !bytes.Equal(got, v.want) {
		v.t.Fatal("the volume does not hold what was written")
	}
}

func TestServersComeAndGo(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	v := h.volume(h.client(), 1<<20)
	v.write(50)
	v.verify()
	for round := range 3 {
		i := h.master()
		if round == 1 {
			i = (i + 1) % 3
		}
		h.stop(i)
		v.write(50)
		v.verify()
		h.start(i)
		v.write(50)
		h.level(v.object)
	}
	for i := range h.servers { // the whole cell
		h.stop(i)
	}
	for i := range h.servers {
		h.start(i)
	}
	v.verify()
	h.level(v.object)
}

// TestCatchUpOverSockets stops a server until the others have given up the log it needs.
func TestCatchUpOverSockets(t *testing.T) {
	t.Parallel()
	h := newHouse(t, func(o *Options) {
		o.CheckpointBytes, o.OverlayBytes, o.SegmentBytes = 256<<10, 1<<20, 512<<10
	})
	c := h.client()
	v := h.volume(c, 6<<20)
	v.write(20)
	h.level(v.object)
	late := (h.master() + 1) % 3
	had := h.servers[late].log.Last()
	h.stop(late)
	eventually(t, "log given up", func() bool {
		v.write(50)
		for i, r := range h.servers {
			if i != late && r.log.First() <= had+1 {
				return false
			}
		}
		return true
	})
	check(t, c.Mkdir(h.context(), "/made/meanwhile"))
	h.start(late)
	for range 5 { // the cell goes on meanwhile
		v.write(20)
	}
	h.level(v.object)
	if first := h.servers[late].log.First(); first <= had+1 {
		t.Fatalf("its log still begins at %d: it did not catch up by difference", first)
	}
	v.verify()
	h.stop(late)
	h.start(late)
	h.level(v.object)
	v.verify()
}

func TestShutdownHandsOver(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	v := h.volume(h.client(), 64<<10)
	v.write(5)
	h.level(v.object)
	old := h.master()
	term := h.servers[old].view().Term
	r := h.servers[old]
	h.servers[old] = nil
	check(t, r.Shutdown())
	if now := h.master(); now == old || h.servers[now].view().Term != term+1 {
		t.Fatalf("master %d in term %d, after %d in term %d", now, h.servers[now].view().Term, old, term)
	}
	v.write(5)
	v.verify()
	h.start(old)
}

// raw is a connection of a client that says what the test wants.
type raw struct {
	t  *testing.T
	nc net.Conn
	w  *wire.Writer
	r  *wire.Reader
}

func (h *house) dial(i int) *raw {
	h.t.Helper()
	nc, err := net.Dial("tcp", h.conf.Servers[i].TCPAddr())
	check(h.t, err)
	h.t.Cleanup(func() { nc.Close() })
	check(h.t, nc.SetDeadline(time.Now().Add(patience)))
	return &raw{h.t, nc, wire.NewWriter(nc), wire.NewReader(nc)}
}

func (h *house) greet(i int) *raw {
	h.t.Helper()
	k := h.dial(i)
	check(h.t, k.w.Hello(wire.Hello{Role: wire.RoleClient, To: uint8(i), Protocol: wire.Protocol, From: 99}))
	check(h.t, k.w.Flush())
	k.next(wire.KindHelloReply)
	return k
}

// next returns the body of the next frame of a kind; notices in between are skipped.
func (k *raw) next(kind wire.Kind) (wire.Header, []byte) {
	k.t.Helper()
	for {
		hd, err := k.r.Next()
		check(k.t, err)
		b := make([]byte, hd.Size)
		check(k.t, k.r.Body(b))
		if hd.Kind == kind {
			return hd, b
		}
		if hd.Kind != wire.KindNotice && hd.Kind != wire.KindServers {
			k.t.Fatalf("%v instead of %v: %q", hd.Kind, kind, b)
		}
	}
}

func (k *raw) propose(tag uint64) {
	k.t.Helper()
	check(k.t, k.w.Propose(tag, op.Head(nil, &op.Header{Code: op.SessionOpen, Flags: op.FlagFirst, Session: 99, Epoch: uint32(tag)}, nil, 0)))
	check(k.t, k.w.Flush())
}

// TestRefusedConnectionStaysRefused: what a client sent behind a refused operation must not be taken, even
// when this server is master by then.
func TestRefusedConnectionStaysRefused(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	old := h.master()
	i := (old + 1) % 3
	k := h.greet(i)
	k.propose(1)
	if _, b := k.next(wire.KindNotMaster); b[8] != byte(old) {
		t.Fatalf("it names server %d, not %d", b[8], old)
	}
	for !h.servers[i].view().Self {
		if m := h.master(); m != i {
			h.servers[m].drive(func(time.Duration) error { h.servers[m].core.HandOver(cell.ID(i)); return nil })
			eventually(t, "another master", func() bool { return !h.servers[m].view().Self })
		}
	}
	k.propose(2)
	k.next(wire.KindNotMaster)
	fresh := h.greet(i)
	fresh.propose(3)
	fresh.next(wire.KindResult)
}

func TestTooManyClients(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	r := h.servers[0]
	r.clients.Lock()
	r.maxClients = 2
	r.clients.Unlock()
	first := h.greet(0)
	h.greet(0)
	eventually(t, "two clients", func() bool {
		r.clients.Lock()
		defer r.clients.Unlock()
		return len(r.clients.all) == 2
	})
	_, b := h.greet(0).next(wire.KindGoodbye)
	if string(b) != "this server has 2 clients already" {
		t.Fatalf("%q", b)
	}
	first.nc.Close()
	eventually(t, "room for another", func() bool {
		r.clients.Lock()
		defer r.clients.Unlock()
		return len(r.clients.all) == 1
	})
	k := h.greet(0)
	check(t, k.w.Ping(5))
	check(t, k.w.Flush())
	if hd, _ := k.next(wire.KindPong); hd.Tag != 5 {
		t.Fatal(hd)
	}
}

// TestCloseWithFullWindow: a client that has as much under way as it may is not read from. That must not
// keep the server from ending.
func TestCloseWithFullWindow(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	k := h.greet(0)
	r := h.servers[0]
	var c *client
	eventually(t, "a client", func() bool {
		r.clients.Lock()
		defer r.clients.Unlock()
		for c = range r.clients.all {
		}
		return c != nil
	})
	c.mu.Lock()
	c.proposals = maxClientProposals
	c.mu.Unlock()
	check(t, k.w.Ping(1))
	check(t, k.w.Flush())
	k.next(wire.KindPong) // and then it waits for room
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		h.stop(0)
	}()
	within(t, "the end of the server", closed)
}

// TestBrokenOutletHasNoBacklog: a connection that can't be written to any more ends; it does not wait for
// its replies to be written.
func TestBrokenOutletHasNoBacklog(t *testing.T) {
	near, far := net.Pipe()
	far.Close()
	o := newOutlet(near, new(bufferPool), func() {})
	big := make([]byte, 1<<20)
	for range 2 {
		o.end(o.begin().ReadReply(1, op.OK, nil, big))
		o.flush()
		o.end(o.begin().ReadReply(1, op.OK, nil, big))
		if n := o.waiting(); n != 0 {
			t.Fatalf("%d bytes are going to be written", n)
		}
	}
	o.close()
}

// TestReadOfDeletedObject: an object may go between the question to the state machine and the reading.
func TestReadOfDeletedObject(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	c := h.client()
	_, err := c.WriteFile(h.context(), "/f", strings.NewReader("content"))
	check(t, err)
	n, err := c.Stat(h.context(), "/f")
	check(t, err)
	r := h.servers[h.master()]
	r.mu.Lock()
	err = r.store.Delete(n.Object, r.core.Applied())
	r.mu.Unlock()
	check(t, err)
	var p [4]byte
	if _, err := c.ReadObject(h.context(), n.Object, p[:], 0); !errors.Is(err, op.NotFound) {
		t.Fatal(err)
	}
	check(t, r.Err())
}

func TestStatus(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	m := h.master()
	k := h.greet(m)
	check(t, k.w.Status(7, ""))
	check(t, k.w.Flush())
	var rep admin.Status
	hd, b := k.next(wire.KindStatusReply)
	check(t, json.Unmarshal(b, &rep))
	if hd.Tag != 7 || int(rep.ID) != m || !rep.IsMaster || rep.Master == nil || len(rep.Members) != 3 {
		t.Fatalf("%+v, %+v", hd, rep)
	}
	nc, err := net.Dial("udp", h.conf.Servers[m].UDPAddr())
	check(t, err)
	defer nc.Close()
	q, err := wire.AppendQuestion(nil, &wire.Datagram{From: wire.None, To: uint8(m), Stamp: 42})
	check(t, err)
	_, err = nc.Write(q)
	check(t, err)
	check(t, nc.SetDeadline(time.Now().Add(patience)))
	buf := make([]byte, wire.MaxDatagram)
	n, err := nc.Read(buf)
	check(t, err)
	d, err := wire.ParseDatagram(buf[:n])
	check(t, err)
	rep = admin.Status{}
	check(t, json.Unmarshal(d.Body, &rep))
	if d.Kind != wire.DatagramStatusReply || d.Echo != 42 || int(rep.ID) != m || rep.Members != nil {
		t.Fatalf("%+v, %+v", d, rep)
	}
}

// TestGarbage throws at the ports what no server or client sends. The cell serves on.
func TestGarbage(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	v := h.volume(h.client(), 64<<10)
	rng := rand.New(rand.NewPCG(7, 7))
	noise := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		return b
	}
	hello := func(edit func(*wire.Hello)) func(*raw) {
		return func(k *raw) {
			x := wire.Hello{Role: wire.RoleClient, To: 0, Protocol: wire.Protocol, From: 1}
			edit(&x)
			check(t, k.w.Hello(x))
			check(t, k.w.Flush())
			k.next(wire.KindGoodbye)
		}
	}
	frame := func(kind wire.Kind, body []byte) func(*raw) {
		return func(k *raw) {
			check(t, k.w.Hello(wire.Hello{Role: wire.RoleClient, To: 0, Protocol: wire.Protocol, From: 1}))
			check(t, k.w.Frame(kind, 0, 1, nil, body))
			check(t, k.w.Flush())
			k.next(wire.KindHelloReply)
		}
	}
	for name, send := range map[string]func(*raw){
		"random bytes":                 func(k *raw) { _, _ = k.nc.Write(noise(4096)) },
		"half a header":                func(k *raw) { _, _ = k.nc.Write(noise(7)); k.nc.(*net.TCPConn).CloseWrite() },
		"an oversized frame":           func(k *raw) { _, _ = k.nc.Write(oversized()) },
		"a hello for another server":   hello(func(x *wire.Hello) { x.To = 2 }),
		"a hello of another protocol":  hello(func(x *wire.Hello) { x.Protocol = 77 }),
		"a hello of no server's":       hello(func(x *wire.Hello) { x.Role, x.From = wire.RolePeer, 6 }),
		"a hello of our own":           hello(func(x *wire.Hello) { x.Role, x.From = wire.RolePeer, 0 }),
		"a frame that is not a hello":  func(k *raw) { check(t, k.w.Ping(1)); check(t, k.w.Flush()) },
		"an operation of random bytes": frame(wire.KindPropose, noise(500)),
		"a raft message of a client":   frame(wire.KindRaft, noise(500)),
		"a query of random bytes":      frame(wire.KindQuery, noise(50)),
		"a read of random bytes":       frame(wire.KindRead, noise(24)),
	} {
		k := h.dial(0)
		send(k)
		if _, err := io.Copy(io.Discard, k.nc); err != nil && !strings.Contains(err.Error(), "reset") {
			t.Errorf("%s: the connection was not closed: %v", name, err)
		}
	}
	h.garbageDatagrams(noise)
	v.write(20)
	v.verify()
	for i, r := range h.servers {
		if err := r.Err(); err != nil {
			t.Errorf("server %d: %v", i, err)
		}
	}
}

// oversized is the header of a frame that is larger than any may be.
func oversized() []byte {
	var b bytes.Buffer
	w := wire.NewWriter(pipeTo{&b})
	_ = w.Frame(wire.KindPropose, 0, 1, nil, make([]byte, 100))
	_ = w.Flush()
	h := b.Bytes()[:wire.HeaderSize]
	binary.LittleEndian.PutUint32(h, 1<<31)
	binary.LittleEndian.PutUint32(h[28:], op.Sum(h[:28]))
	return h
}

type pipeTo struct{ io.Writer }

func (pipeTo) Read([]byte) (int, error)         { return 0, io.EOF }
func (pipeTo) Close() error                     { return nil }
func (pipeTo) LocalAddr() net.Addr              { return nil }
func (pipeTo) RemoteAddr() net.Addr             { return nil }
func (pipeTo) SetDeadline(time.Time) error      { return nil }
func (pipeTo) SetReadDeadline(time.Time) error  { return nil }
func (pipeTo) SetWriteDeadline(time.Time) error { return nil }

func (h *house) garbageDatagrams(noise func(int) []byte) {
	h.t.Helper()
	nc, err := net.Dial("udp", h.conf.Servers[0].UDPAddr())
	check(h.t, err)
	defer nc.Close()
	send := func(b []byte) {
		_, err := nc.Write(b)
		check(h.t, err)
	}
	for range 50 {
		send(noise(1 + len(noise(3))*100))
	}
	// Messages that are whole, and still none that may come so.
	for _, m := range []raftpb.Message{
		{Type: raftpb.MsgApp, From: 2, To: 1, Term: 1 << 40, Entries: []raftpb.Entry{{Term: 1, Index: 1}}},
		{Type: raftpb.MsgApp, From: 2, To: 1, Term: 1 << 40},
		{Type: raftpb.MsgProp, From: 2, To: 1},
		{Type: raftpb.MsgTransferLeader, From: 2, To: 1, Term: 1 << 40},
		{Type: raftpb.MsgHeartbeat, From: 7, To: 1, Term: 1 << 40}, // of no member
		{Type: raftpb.MsgHeartbeat, From: 2, To: 3, Term: 1 << 40}, // for another server
	} {
		body, err := wire.AppendRaftHead(nil, &m)
		check(h.t, err)
		b, err := wire.AppendDatagram(nil, &wire.Datagram{Kind: wire.DatagramRaft, From: 1, To: 0, Body: body})
		check(h.t, err)
		send(b)
	}
	// The datagrams are taken in order: this one's answer says that all were.
	q, err := wire.AppendQuestion(nil, &wire.Datagram{From: wire.None, To: 0})
	check(h.t, err)
	check(h.t, nc.SetReadDeadline(time.Now().Add(patience)))
	send(q)
	_, err = nc.Read(make([]byte, wire.MaxDatagram))
	check(h.t, err)
	if term := h.servers[0].view().Term; term >= 1<<40 {
		h.t.Errorf("garbage raised the term to %d", term)
	}
}

func TestRootInUse(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	if _, err := Open(h.optionsOf(0)); !errors.Is(err, disk.ErrLocked) {
		t.Fatal(err)
	}
}

func TestPortInUse(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	o := h.optionsOf(0)
	o.Root = t.TempDir()
	if _, err := Open(o); err == nil || !strings.Contains(err.Error(), "server 0: TCP port of clients and peers: listen tcp") {
		t.Fatal(err)
	}
	o.ID = 6
	if _, err := Open(o); err == nil || err.Error() != "server.conf has no record of server 6" {
		t.Fatal(err)
	}
}

// TestFailedLogEndsTheServer: after a write to the log that failed nobody knows what the disk holds.
func TestFailedLogEndsTheServer(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	v := h.volume(h.client(), 64<<10)
	i := h.master()
	r := h.servers[i]
	h.servers[i] = nil
	r.failed(errors.New("durable log: the disk is gone"))
	within(t, "the end of the server", r.Done())
	v.write(5) // elsewhere
	if err := r.Close(); err == nil || !strings.Contains(err.Error(), "the disk is gone") {
		t.Fatal(err)
	}
	h.start(i)
	h.level(v.object)
	v.verify()
}

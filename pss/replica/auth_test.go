package replica

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/paxos-iscsi/paxos-iscsi/pss"
	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pss/agreement"
	"github.com/paxos-iscsi/paxos-iscsi/pss/ask"
	"github.com/paxos-iscsi/paxos-iscsi/pss/auth"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/wire"
)

func newKeys(t *testing.T, file string) *auth.Keys {
	t.Helper()
	k, err := auth.Load(file)
	check(t, err)
	return k
}

// newKeyFile makes a key.
func newKeyFile(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), auth.FileName)
	_, err := auth.Generate(file)
	check(t, err)
	return file
}

// newClosedHouse is newHouse with a key. Every server has read the file itself.
func newClosedHouse(t *testing.T, options func(*Options)) *house {
	t.Helper()
	file := newKeyFile(t)
	h := newHouse(t, func(o *Options) {
		with := *o.Cell
		with.Auth = newKeys(t, file)
		o.Cell = &with
		if options != nil {
			options(o)
		}
	})
	h.conf.Auth = newKeys(t, file) // of clients
	return h
}

// TestClosedCell: with a key everything works as without: masters that go, servers that come back, catching up.
func TestClosedCell(t *testing.T) {
	t.Parallel()
	h := newClosedHouse(t, func(o *Options) {
		o.CheckpointBytes, o.OverlayBytes, o.SegmentBytes = 256<<10, 1<<20, 512<<10
	})
	c := h.client()
	v := h.volume(c, 4<<20)
	v.write(50)
	v.verify()
	m := h.master()
	h.stop(m)
	v.write(50)
	had := h.servers[(m+1)%3].log.Last()
	eventually(t, "log given up", func() bool {
		v.write(50)
		return h.servers[(m+1)%3].log.First() > had && h.servers[(m+2)%3].log.First() > had
	})
	h.start(m)
	v.write(50)
	h.level(v.object)
	v.verify()
	rep := h.servers[m].report()
	if rep.Auth.Mode != auth.ModeKey || !slices.Equal(rep.Auth.Keys, h.conf.Auth.Status().Keys) {
		t.Errorf("status: %+v", rep.Auth)
	}
}

// forge is a heartbeat in the master's name to another server, that claims a commit index far ahead: who
// believes it believes that it has lost its log.
func (h *house) forge(to int) []byte {
	h.t.Helper()
	master := h.master()
	// Cell and numbers are in every datagram of an open cell, for everybody to read.
	from, target := h.servers[master].place.identity.Load(), h.servers[to].place.identity.Load()
	b, err := wire.AppendRaftDatagram(nil, &wire.Datagram{From: uint8(master), To: uint8(to), Stamp: 1, Cell: from.Cell.Tag()}, &raftpb.Message{
		Type: raftpb.MsgHeartbeat, From: from.Number, To: target.Number,
		Term: h.servers[to].view().Term, Commit: 1 << 40})
	check(h.t, err)
	return b
}

func (h *house) datagram(to int, b []byte) {
	h.t.Helper()
	nc, err := net.Dial("udp", h.conf.Servers[to].UDPAddr())
	check(h.t, err)
	defer nc.Close()
	_, err = nc.Write(b)
	check(h.t, err)
}

// TestForgedHeartbeatOpen shows the attack that a key is there for: in an open cell one datagram stops a server.
func TestForgedHeartbeatOpen(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	to := (h.master() + 1) % 3
	r, forged := h.servers[to], h.forge(to)
	h.servers[to] = nil // it ends with an error
	defer func() { _ = r.Close() }()
	h.datagram(to, forged)
	eventually(t, "the server ends", func() bool { return r.ctx.Err() != nil })
	if err := r.Err(); !errors.Is(err, agreement.ErrLostLog) {
		t.Fatal(err)
	}
}

// TestForgedDatagrams: with a key, what strangers forge, in clear or sealed with a key of their own, is dropped and
// counted, and has no effect.
func TestForgedDatagrams(t *testing.T) {
	t.Parallel()
	h := newClosedHouse(t, nil)
	v := h.volume(h.client(), 64<<10)
	v.write(5)
	to := (h.master() + 1) % 3
	r := h.servers[to]
	term := r.view().Term
	stranger, err := newKeys(t, newKeyFile(t)).Box(uint8(h.master()))
	check(t, err)
	vote := func() []byte {
		b, err := wire.AppendRaftDatagram(nil, &wire.Datagram{From: uint8(h.master()), To: uint8(to)}, &raftpb.Message{
			Type: raftpb.MsgVote, From: cell.ID(h.master()).Raft(), To: cell.ID(to).Raft(), Term: 1 << 40, Index: 1 << 40, LogTerm: 1 << 40})
		check(t, err)
		return b
	}
	question, err := wire.AppendQuestion(nil, &wire.Datagram{From: wire.None, To: uint8(to)})
	check(t, err)
	sealed := func(b []byte) []byte {
		s, err := stranger.Seal(nil, b, uint8(to))
		check(t, err)
		return s
	}
	before := r.report().Refused.Datagrams
	forged := [][]byte{h.forge(to), vote(), question, sealed(h.forge(to)), sealed(vote()), sealed(question)}
	for _, b := range forged {
		h.datagram(to, b)
	}
	eventually(t, "all counted", func() bool { return r.report().Refused.Datagrams >= before+uint64(len(forged)) })
	// One who has the key, and calls itself a server to get an answer, is still held to what it presents.
	insider, err := h.conf.Auth.Box(uint8(h.master()))
	check(t, err)
	replayed, err := insider.Seal(nil, h.forge(to), uint8(to))
	check(t, err)
	h.datagram(to, replayed)
	eventually(t, "that, too", func() bool { return r.report().Refused.Datagrams > before+uint64(len(forged)) })
	v.write(20)
	v.verify()
	h.level(v.object)
	if now := r.view().Term; now != term || r.Err() != nil {
		t.Errorf("term %d became %d; %v", term, now, r.Err())
	}
}

// TestQuestions: tools ask closed cells and open ones; a question shorter than its answer gets none.
func TestQuestions(t *testing.T) {
	t.Parallel()
	for name, newHouse := range map[string]func(*testing.T, func(*Options)) *house{"open": newHouse, "key": newClosedHouse} {
		h := newHouse(t, nil)
		b, err := ask.Status(h.context(), h.conf, 1)
		check(t, err)
		var rep admin.Status
		check(t, json.Unmarshal(b, &rep))
		if rep.ID != 1 || rep.Auth.Mode != name || len(rep.Members) != 0 {
			t.Errorf("%s: %+v", name, rep)
		}
		if _, err := ask.Status(h.context(), h.conf, 7); err == nil {
			t.Errorf("%s: a server that the cell does not have answers", name)
		}
	}
	h := newHouse(t, nil)
	small, err := wire.AppendDatagram(nil, &wire.Datagram{Kind: wire.DatagramStatus, From: wire.None, To: 0})
	check(t, err)
	before := h.servers[0].report().Refused.Datagrams
	h.datagram(0, small)
	eventually(t, "refused", func() bool { return h.servers[0].report().Refused.Datagrams > before })
	// Both of these ask in vain: one side of each has a key, and the other has not.
	closed := *h.conf
	closed.Auth = newKeys(t, newKeyFile(t))
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		eventually(t, "refused, too", func() bool { return h.servers[0].report().Refused.Datagrams > before+1 })
		cancel()
	}()
	if _, err := ask.Status(ctx, &closed, 0); !errors.Is(err, ask.ErrNoAnswer) || !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// notes is a log to be searched.
type notes struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (n *notes) Write(b []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.b.Write(b)
}

func (n *notes) has(words string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return strings.Contains(n.b.String(), words)
}

// TestMixedCell: a server without the key is left out, and both it and the others say why; clients, too.
func TestMixedCell(t *testing.T) {
	t.Parallel()
	var logs [3]notes
	file := newKeyFile(t)
	odd, mixed := 0, false
	h := newHouse(t, func(o *Options) {
		o.Logger = slog.New(slog.NewTextHandler(&logs[o.ID], nil))
		with := *o.Cell
		o.Cell, with.Auth = &with, nil
		if !mixed || int(o.ID) != odd {
			with.Auth = newKeys(t, file)
		}
	})
	h.conf.Auth = newKeys(t, file)
	h.master() // the cell was founded by all; then one loses the key
	h.stop(odd)
	mixed = true
	h.start(odd)
	v := h.volume(h.client(), 64<<10) // with the two others
	v.write(5)
	v.verify()
	for i, words := range [3]string{"server 1 takes callers with the cell's key only", "has no cell key", "has no cell key"} {
		eventually(t, fmt.Sprintf("%q in the log of server %d", words, i), func() bool { return logs[i].has(words) })
	}
	if !logs[odd].has("the cell is open") || logs[1].has("the cell is open") {
		t.Error("who says that the cell is open, and who does not?")
	}
	said := notes{}
	open := *h.conf
	open.Auth = nil
	c, err := pss.Open(&open, pss.Options{Logger: slog.New(slog.NewTextHandler(&said, nil))})
	check(t, err)
	defer c.Close()
	if _, err := c.Stat(shortly(t), "/vol"); err == nil {
		t.Error("a client without the key is served")
	}
	k := h.dial(1)
	check(t, k.w.Hello(wire.Hello{Role: wire.RoleClient, To: 1, Protocol: wire.Protocol, From: 99}))
	check(t, k.w.Flush())
	if _, words := k.next(wire.KindGoodbye); !strings.Contains(string(words), "server 1 takes callers with the cell's key only") {
		t.Errorf("goodbye: %q", words)
	}
	_, err = h.conf.Auth.Dial(h.context(), h.conf.Servers[odd].TCPAddr())
	if !errors.Is(err, auth.ErrMixed) || !strings.Contains(err.Error(), h.conf.Servers[odd].TCPAddr()) {
		t.Error(err)
	}
}

// shortly is a context for what is expected not to happen.
func shortly(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

// TestRollKey rolls the key of a cell under I/O: each party has its own file, and takes each step when it likes.
func TestRollKey(t *testing.T) {
	t.Parallel()
	master := newKeyFile(t)
	var files [4]string // of the servers and the client
	for i := range files {
		files[i] = filepath.Join(t.TempDir(), auth.FileName)
		copyKey(t, master, files[i])
	}
	h := newHouse(t, func(o *Options) {
		with := *o.Cell
		with.Auth = newKeys(t, files[o.ID])
		o.Cell = &with
	})
	h.conf.Auth = newKeys(t, files[3])
	v := h.volume(h.client(), 256<<10)
	v.write(5)
	for _, step := range []auth.Step{auth.RollAdd, auth.RollUse, auth.RollDrop} {
		_, err := auth.Roll(master, step)
		check(t, err)
		want := newKeys(t, master).Status().Keys
		for i, file := range files {
			copyKey(t, master, file)
			if i < 3 {
				eventually(t, fmt.Sprintf("step %d at server %d", step, i), func() bool {
					return slices.Equal(h.servers[i].report().Auth.Keys, want)
				})
			}
			v.write(5)
		}
		// Whoever connects now does it in the middle of rolling.
		h.stop(int(step) % 3)
		v.write(5)
		h.start(int(step) % 3)
		h.level(v.object)
	}
	v.write(5)
	v.verify()
}

func copyKey(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	check(t, err)
	check(t, os.WriteFile(to+".new", b, 0o600))
	check(t, os.Rename(to+".new", to))
}

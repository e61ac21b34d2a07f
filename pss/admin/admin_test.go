package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"testing"

	"go.uber.org/goleak"

	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// FuzzRequest: what ParseRequest takes, AppendRequest writes as the same bytes.
func FuzzRequest(f *testing.F) {
	f.Add([]byte("\x06\x00status"))
	f.Add([]byte("\x0b\x00members.add{\"id\":3}"))
	f.Add([]byte("\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRequest(b)
		if err != nil {
			if !errors.Is(err, wire.ErrProtocol) {
				t.Fatal(err)
			}
			return
		}
		again, err := AppendRequest(nil, r)
		if err == nil && !bytes.Equal(b, again) || err != nil && len(b) <= wire.MaxAdmin {
			t.Fatalf("%q became %q, %v", b, again, err)
		}
	})
}

// peer is the other end of a connection, which the test plays.
type peer struct {
	t    *testing.T
	conn net.Conn
	rd   *wire.Reader
	w    *wire.Writer
}

var conf = &cell.Config{File: "server.conf", Servers: []cell.Server{{ID: 0, Host: "127.0.0.1"}, {ID: 1, Host: "127.0.0.1"}}}

// answer dials server 0, which is played by serve.
func answer(t *testing.T, serve func(p *peer)) (*Conn, error) {
	t.Helper()
	ours, theirs := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		p := &peer{t, theirs, wire.NewReader(theirs), wire.NewWriter(theirs)}
		defer theirs.Close()
		if h, err := p.rd.Next(); err != nil || h.Kind != wire.KindHello {
			t.Errorf("%v, %v for a hello", h, err)
			return
		}
		serve(p)
	}()
	t.Cleanup(func() { ours.Close(); <-done })
	dial := func(context.Context, string, string) (net.Conn, error) { return ours, nil }
	return DialWith(t.Context(), dial, conf, 0)
}

func (p *peer) greet(server uint8) {
	if err := errors.Join(p.w.HelloReply(wire.HelloReply{Protocol: wire.Protocol, Server: server}), p.w.Flush()); err != nil {
		p.t.Error(err)
	}
}

// parts takes a request and answers with parts: code, body, code, body, ...
func (p *peer) parts(codes []uint16, bodies ...string) Request {
	h, err := p.rd.Next()
	if err != nil {
		p.t.Error(err)
		return Request{}
	}
	b := make([]byte, h.Size)
	if err := p.rd.Body(b); err != nil {
		p.t.Error(err)
	}
	r, err := ParseRequest(b)
	if err != nil {
		p.t.Error(err)
	}
	for i, code := range codes {
		err = errors.Join(err, p.w.Frame(wire.KindAdminPart, code, h.Tag, []byte(bodies[i])))
	}
	if err := errors.Join(err, p.w.Flush()); err != nil {
		p.t.Error(err)
	}
	return r
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestCallAndStream(t *testing.T) {
	c, err := answer(t, func(p *peer) {
		p.greet(0)
		if r := p.parts([]uint16{PartLast}, `{"master":3}`); r.Method != MethodHandOver || string(r.Args) != `{"id":3}` {
			p.t.Errorf("%q %q", r.Method, r.Args)
		}
		p.parts([]uint16{PartMore, PartMore, PartLast}, "1", "2", "3")
		p.parts([]uint16{PartFailed}, `{"code":"not-master","text":"ask server 1","master":1}`)
		p.parts([]uint16{PartLast}, `{"master":2}`)
	})
	must(t, err)
	three := cell.ID(3)
	var reply HandOverReply
	must(t, c.Call(t.Context(), MethodHandOver, HandOverArgs{ID: &three}, &reply))
	if reply.Master != 3 {
		t.Errorf("%+v", reply)
	}
	var got []string
	must(t, c.Stream(t.Context(), "scrub", nil, func(m json.RawMessage) error { got = append(got, string(m)); return nil }))
	if len(got) != 3 || got[2] != "3" {
		t.Errorf("%q", got)
	}
	err = c.Call(t.Context(), MethodAdd, nil, nil)
	var refusal *Error
	if !errors.As(err, &refusal) || refusal.Code != NotMaster || refusal.Master == nil || *refusal.Master != 1 {
		t.Errorf("%v", err)
	}
	must(t, c.Call(t.Context(), MethodHandOver, nil, &reply)) // a refusal does not end the connection
	if reply.Master != 2 {
		t.Errorf("%+v", reply)
	}
}

func TestBadServers(t *testing.T) {
	if _, err := answer(t, func(p *peer) { p.greet(1) }); !errors.Is(err, ErrUnreachable) {
		t.Errorf("the wrong server: %v", err)
	}
	if _, err := answer(t, func(p *peer) {
		_ = errors.Join(p.w.Goodbye("full"), p.w.Flush())
	}); !errors.Is(err, ErrUnreachable) {
		t.Errorf("a refusal: %v", err)
	}
	if _, err := Dial(t.Context(), conf, 7); err == nil {
		t.Error("server 7 has no record, and was reached")
	}
	c, err := answer(t, func(p *peer) {
		p.greet(0)
		p.parts([]uint16{9}, "{}")
	})
	must(t, err)
	if err := c.Call(t.Context(), MethodStatus, nil, nil); !errors.Is(err, wire.ErrProtocol) {
		t.Errorf("a code that there is not: %v", err)
	}
	if err := c.Call(t.Context(), MethodStatus, nil, nil); !errors.Is(err, wire.ErrProtocol) {
		t.Errorf("on a broken connection: %v", err)
	}
}

func TestContextEndsACall(t *testing.T) {
	asked := make(chan struct{})
	c, err := answer(t, func(p *peer) {
		p.greet(0)
		if _, err := p.rd.Next(); err != nil {
			p.t.Error(err)
		}
		close(asked)
		_, _ = p.rd.Next() // until the other side closes
	})
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-asked; cancel() }()
	if err := c.Call(ctx, MethodStatus, nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

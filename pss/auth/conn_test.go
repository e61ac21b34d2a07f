package auth

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/wire/socket"
)

// sockets are the two ends of a TCP connection on loopback.
func sockets(t testing.TB) (dialled, accepted net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer l.Close()
	dialled, err = net.Dial("tcp", l.Addr().String())
	check(t, err)
	accepted, err = l.Accept()
	check(t, err)
	for _, c := range []net.Conn{dialled, accepted} {
		t.Cleanup(func() { c.Close() })
		check(t, c.SetDeadline(time.Now().Add(patience)))
	}
	return dialled, accepted
}

// outcome is what a side of a handshake ends with.
type outcome struct {
	conn net.Conn
	err  error
}

// shake has two parties prove their keys to each other.
func shake(t testing.TB, client, server *Keys) (c, s outcome) {
	t.Helper()
	dialled, accepted := sockets(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.conn, s.err = server.Server(t.Context(), accepted)
	}()
	c.conn, c.err = client.Client(t.Context(), dialled)
	<-done
	for _, o := range []outcome{c, s} {
		if o.conn != nil {
			t.Cleanup(func() { o.conn.Close() })
		}
	}
	return c, s
}

// secured is a connection between two parties of a cell.
func secured(t testing.TB) (client, server *Conn) {
	t.Helper()
	k, l := cellKeys(t)
	c, s := shake(t, k, l)
	check(t, c.err)
	check(t, s.err)
	return c.conn.(*Conn), s.conn.(*Conn)
}

func random(n int) []byte {
	b := make([]byte, n)
	rng := rand.New(rand.NewPCG(1, uint64(n)))
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// TestPieces writes pieces of all sizes together, both ways at once; they arrive in order.
func TestPieces(t *testing.T) {
	client, server := secured(t)
	var pieces [][]byte
	for _, n := range []int{0, 1, 32, 4096, 0, maxPlain - 1, maxPlain, maxPlain + 1, 100, 3 * maxPlain, 7, maxGather,
		maxGather + 5, 1 << 20, 3} {
		pieces = append(pieces, random(n))
	}
	all := bytes.Join(pieces, nil)
	errs := make(chan error, 2)
	for _, from := range []*Conn{client, server} {
		go func() { errs <- from.WriteBuffers(pieces) }()
	}
	for _, to := range []*Conn{server, client} {
		got := make([]byte, len(all))
		_, err := io.ReadFull(to, got)
		check(t, err)
		if !bytes.Equal(got, all) {
			t.Error("what arrived is not what was sent")
		}
	}
	check(t, <-errs)
	check(t, <-errs)
	if client.Key() != server.Key() || client.Key() == 0 {
		t.Errorf("keys %v and %v", client.Key(), server.Key())
	}
	n, err := client.Write([]byte("end"))
	if n != 3 || err != nil {
		t.Error(n, err)
	}
	client.Close()
	rest, err := io.ReadAll(server)
	if string(rest) != "end" || err != nil {
		t.Errorf("%q, %v", rest, err)
	}
}

// TestTryWrite fills a connection that nobody reads, without ever waiting, and then has the rest written.
func TestTryWrite(t *testing.T) {
	client, server := secured(t)
	piece := random(100_000)
	bufs := [][]byte{piece[:32], piece[32:4000], piece[4000:]}
	want := bytes.Join(bufs, nil)
	var sent []byte
	for {
		n, err := client.TryWrite(bufs)
		sent = append(sent, want[:n]...)
		if err == socket.ErrWouldBlock {
			bufs = [][]byte{want[n:]}
			break
		}
		check(t, err)
		if n != len(want) {
			bufs = [][]byte{want[n:], want[:n]}
			want = bytes.Join(bufs, nil)
		}
	}
	if n, err := client.TryWrite(bufs); n != 0 || err != socket.ErrWouldBlock {
		t.Errorf("%d bytes and %v from a full connection", n, err)
	}
	sent = append(sent, bufs[0]...)
	errs := make(chan error, 1)
	go func() { errs <- client.WriteBuffers(bufs) }()
	got := make([]byte, len(sent))
	_, err := io.ReadFull(server, got)
	check(t, err)
	check(t, <-errs)
	if !bytes.Equal(got, sent) {
		t.Error("what arrived is not what was sent")
	}
}

// TestCloseWhileWriting: Close does not wait for a writer that the other side keeps waiting.
func TestCloseWhileWriting(t *testing.T) {
	client, _ := secured(t)
	for {
		if _, err := client.TryWrite([][]byte{make([]byte, 1<<20)}); err == socket.ErrWouldBlock {
			break
		}
	}
	errs := make(chan error, 1)
	go func() { errs <- client.WriteBuffers([][]byte{make([]byte, 64<<20)}) }()
	client.Close()
	if err := <-errs; !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}

// TestStrangers: whoever has not the key of the cell is told so, and both sides can tell their operators.
func TestStrangers(t *testing.T) {
	mine, _ := cellKeys(t)
	other, _ := cellKeys(t)
	c, s := shake(t, mine, other)
	if !errors.Is(c.err, ErrStranger) || !strings.Contains(c.err.Error(), "127.0.0.1:") || !strings.Contains(c.err.Error(), mine.file) {
		t.Errorf("client: %v", c.err)
	}
	if !errors.Is(s.err, ErrStranger) {
		t.Errorf("server: %v", s.err)
	}
}

// TestHalfRolled: the dialler takes the server's key, but the server does not know the one the dialler uses.
func TestHalfRolled(t *testing.T) {
	behind, ahead := newFile(t), newFile(t)
	share(t, behind, ahead)
	for _, step := range []Step{RollAdd, RollUse} { // without copying the file between
		_, err := Roll(ahead, step)
		check(t, err)
	}
	c, s := shake(t, load(t, ahead), load(t, behind))
	if !errors.Is(s.err, ErrStranger) {
		t.Errorf("server: %v", s.err)
	}
	err := c.err
	if err == nil {
		_, err = c.conn.Read(make([]byte, 1)) // in TLS 1.3 a client hears of it after the handshake
	}
	if !errors.Is(err, ErrStranger) || !strings.Contains(err.Error(), "does not accept the first of the keys") {
		t.Errorf("client: %v", err)
	}
}

func TestMixed(t *testing.T) {
	keys, _ := cellKeys(t)
	t.Run("the caller has none", func(t *testing.T) {
		dialled, accepted := sockets(t)
		_, err := dialled.Write([]byte("\x20\x00\x00\x00 a frame"))
		check(t, err)
		if _, err = keys.Server(t.Context(), accepted); !errors.Is(err, ErrMixed) || !strings.Contains(err.Error(), dialled.LocalAddr().String()) {
			t.Error(err)
		}
		_, err = accepted.Write([]byte("a word in clear"))
		check(t, err)
	})
	t.Run("the server has none", func(t *testing.T) {
		dialled, accepted := sockets(t)
		go func() {
			_, _ = accepted.Read(make([]byte, 1))
			_, _ = accepted.Write([]byte("\x20\x00\x00\x00\x0f a goodbye"))
		}()
		if _, err := keys.Client(t.Context(), dialled); !errors.Is(err, ErrMixed) || !strings.Contains(err.Error(), accepted.LocalAddr().String()) {
			t.Error(err)
		}
	})
	t.Run("neither has", func(t *testing.T) {
		dialled, accepted := sockets(t)
		var open *Keys
		c, err := open.Client(t.Context(), dialled)
		if c != dialled || err != nil {
			t.Error(c, err)
		}
		c, err = open.Server(t.Context(), accepted)
		if c != accepted || err != nil {
			t.Error(c, err)
		}
		if open.Status().Mode != ModeOpen || open.String() != "open: no cell key" {
			t.Error(open.Status(), open)
		}
	})
}

// TestOtherTLS: TLS alone is not enough: no certificate, one of another kind, an older version.
func TestOtherTLS(t *testing.T) {
	keys, _ := cellKeys(t)
	strange, _ := cellKeys(t)
	certificate := keys.ring.Load().tls.Certificates
	for name, config := range map[string]*tls.Config{
		"no certificate":      {},
		"a stranger's":        {Certificates: strange.ring.Load().tls.Certificates},
		"the right, TLS 1.2":  {Certificates: certificate, MaxVersion: tls.VersionTLS12},
		"the right one twice": {Certificates: []tls.Certificate{twice(certificate[0])}},
	} {
		config.InsecureSkipVerify = true
		dialled, accepted := sockets(t)
		done := make(chan error, 1)
		go func() {
			_, err := keys.Server(t.Context(), accepted)
			done <- err
		}()
		c := tls.Client(dialled, config)
		err := c.Handshake()
		if err == nil {
			_, err = c.Read(make([]byte, 1))
		}
		if serverErr := <-done; err == nil || serverErr == nil {
			t.Errorf("%s: %v, %v", name, err, serverErr)
		}
		if n := len(keys.conns); n != 0 {
			t.Errorf("%s: %d connections are known", name, n)
		}
	}
}

func twice(c tls.Certificate) tls.Certificate {
	c.Certificate = append(c.Certificate[:1:1], c.Certificate[0])
	return c
}

// TestDroppedKey: a connection lives as long as the keys that opened it.
func TestDroppedKey(t *testing.T) {
	file := newFile(t)
	keys, peer := load(t, file), newFile(t)
	share(t, file, peer)
	c, s := shake(t, load(t, peer), keys)
	check(t, c.err)
	check(t, s.err)
	for _, step := range []Step{RollAdd, RollUse, RollDrop} {
		if _, err := c.conn.Write([]byte("x")); err != nil {
			t.Fatalf("before step %d: %v", step, err)
		}
		if _, err := io.ReadFull(s.conn, make([]byte, 1)); err != nil {
			t.Fatalf("before step %d: %v", step, err)
		}
		_, err := Roll(file, step)
		check(t, err)
		changed, err := keys.Refresh()
		if !changed || err != nil {
			t.Fatal(changed, err)
		}
	}
	if _, err := s.conn.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the server's side: %v", err)
	}
	if n, err := c.conn.Read(make([]byte, 1)); err == nil {
		t.Errorf("the client's side: %d bytes", n)
	}
	s.conn.Close()
	if len(keys.conns) != 0 {
		t.Error("a closed connection is still known")
	}
}

func TestWorn(t *testing.T) {
	client, server := secured(t)
	client.worn = 100
	go func() { _, _ = io.Copy(io.Discard, server) }()
	if _, err := client.Write(make([]byte, 100)); err != nil {
		t.Error(err)
	}
	if _, err := client.Write(make([]byte, 1)); !errors.Is(err, ErrWorn) {
		t.Error(err)
	}
}

// TestContextEndsHandshake: neither side waits for a party that says nothing.
func TestContextEndsHandshake(t *testing.T) {
	keys, _ := cellKeys(t)
	for name, side := range map[string]func(context.Context, net.Conn) (net.Conn, error){"client": keys.Client, "server": keys.Server} {
		dialled, _ := sockets(t)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			_, err := side(ctx, dialled)
			done <- err
		}()
		cancel()
		if err := <-done; err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestDial(t *testing.T) {
	keys, theirs := cellKeys(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	done := make(chan error, 1)
	go func() {
		raw, err := l.Accept()
		if err == nil {
			var c net.Conn
			if c, err = theirs.Server(t.Context(), raw); err == nil {
				_, err = c.Write([]byte("hello"))
				c.Close()
			}
		}
		done <- err
	}()
	c, err := keys.Dial(t.Context(), l.Addr().String())
	check(t, err)
	defer c.Close()
	b, err := io.ReadAll(c)
	check(t, err)
	check(t, <-done)
	if string(b) != "hello" || c.RemoteAddr().String() != l.Addr().String() {
		t.Errorf("%q from %v", b, c.RemoteAddr())
	}
	check(t, l.Close())
	if _, err := keys.Dial(t.Context(), l.Addr().String()); err == nil {
		t.Error("nobody listens, and it dialled")
	}
}

// script is a connection that says what it was given and hears nothing.
type script struct{ io.Reader }

func (script) Write(b []byte) (int, error)      { return len(b), nil }
func (script) Close() error                     { return nil }
func (script) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (script) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (script) SetDeadline(time.Time) error      { return nil }
func (script) SetReadDeadline(time.Time) error  { return nil }
func (script) SetWriteDeadline(time.Time) error { return nil }

// FuzzFirstBytes: whatever a caller begins with, no connection comes of it without the key.
func FuzzFirstBytes(f *testing.F) {
	keys, _ := cellKeys(f)
	var hello bytes.Buffer
	c := tls.Client(recorder{script{strings.NewReader("")}, &hello}, keys.ring.Load().tls)
	_ = c.Handshake() // its first flight is all we want
	f.Add(hello.Bytes())
	f.Add([]byte("\x16\x03\x01\xff\xff"))
	f.Add([]byte("GET / HTTP/1.0\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := keys.Server(t.Context(), script{bytes.NewReader(b)})
		if c != nil || err == nil {
			t.Fatalf("%x opens a connection", b)
		}
	})
}

// recorder keeps what is written.
type recorder struct {
	script
	to io.Writer
}

func (r recorder) Write(b []byte) (int, error) { return r.to.Write(b) }

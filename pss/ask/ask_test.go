package ask

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/paxos-iscsi/paxos-iscsi/pss/auth"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestAnswers has a server answer with all kinds of things that are no answer, and then with one. Real servers are
// asked in the tests of package replica.
func TestAnswers(t *testing.T) {
	file := filepath.Join(t.TempDir(), auth.FileName)
	_, err := auth.Generate(file)
	check(t, err)
	keys, err := auth.Load(file)
	check(t, err)
	for name, keys := range map[string]*auth.Keys{"open": nil, "key": keys} {
		t.Run(name, func(t *testing.T) {
			l, err := net.ListenPacket("udp", "127.0.0.1:0")
			check(t, err)
			defer l.Close()
			conf := &cell.Config{Auth: keys, Servers: []cell.Server{{ID: 4, Host: "127.0.0.1", UDPPort: l.LocalAddr().(*net.UDPAddr).Port}}}
			answered := make(chan error, 1)
			go func() { answered <- answer(l, keys) }()
			b, err := Status(t.Context(), conf, 4)
			check(t, err)
			check(t, <-answered)
			if string(b) != "fine" {
				t.Errorf("%q", b)
			}
			// Nobody reads now.
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if _, err := Status(ctx, conf, 4); !errors.Is(err, ErrNoAnswer) && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
}

func answer(l net.PacketConn, keys *auth.Keys) error {
	b := make([]byte, 2000)
	n, to, err := l.ReadFrom(b)
	if err != nil {
		return err
	}
	b = b[:n]
	var box *auth.Box
	if keys != nil {
		if box, err = keys.Box(4); err != nil {
			return err
		}
		if _, b, _, err = box.Open(b); err != nil {
			return err
		}
	}
	q, err := wire.ParseDatagram(b)
	if err != nil {
		return err
	}
	if _, err := l.WriteTo([]byte("noise"), to); err != nil {
		return err
	}
	right := wire.Datagram{Kind: wire.DatagramStatusReply, From: 4, To: wire.None, Echo: q.Stamp, Body: []byte("fine")}
	for _, edit := range []func(*wire.Datagram){
		func(d *wire.Datagram) { d.Echo++; d.Body = []byte("of another question") },
		func(d *wire.Datagram) { d.From = 3; d.Body = []byte("of another server") },
		func(d *wire.Datagram) { d.To = 1; d.Body = []byte("for another") },
		func(d *wire.Datagram) { d.Kind = wire.DatagramStatus; d.Body = []byte("a question") },
		func(*wire.Datagram) {},
	} {
		d := right
		edit(&d)
		b, err := wire.AppendDatagram(nil, &d)
		if err != nil {
			return err
		}
		if box != nil {
			if b, err = box.Seal(nil, b, auth.Tool); err != nil {
				return err
			}
		}
		if _, err := l.WriteTo(b, to); err != nil {
			return err
		}
	}
	return nil
}

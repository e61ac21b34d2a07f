package iscsi

import (
	"net"
	"testing"
	"time"
)

// figuresUntil waits until the server's figures are as wanted.
func figuresUntil(t *testing.T, srv *Server, what string, wanted func(Figures) bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !wanted(srv.Figures()); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not %s: %+v", what, srv.Figures())
		}
	}
}

// TestFigures: logins are counted by their status, and those that come to nothing apart.
func TestFigures(t *testing.T) {
	d, _, _ := oneTarget()
	srv, p := testServer(t, d, func(o *Options) { o.MaxConnections = 2 })
	dial := func() net.Conn {
		nc, err := net.Dial("tcp", p.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { nc.Close() })
		return nc
	}
	c := newClient(t, p)
	figuresUntil(t, srv, "logged in", func(f Figures) bool {
		return f.Logins[LoginSuccess] == 1 && f.Connections == 1 && f.InLogin == 0
	})
	look := dial()
	figuresUntil(t, srv, "in login", func(f Figures) bool { return f.Connections == 2 && f.InLogin == 1 })
	beyond := dial()
	figuresUntil(t, srv, "turned away", func(f Figures) bool { return f.TurnedAway == 1 })
	beyond.Close()
	look.Close() // without a word: no login
	figuresUntil(t, srv, "ended", func(f Figures) bool { return f.Connections == 1 })
	half := dial()
	if _, err := half.Write(make([]byte, 20)); err != nil {
		t.Fatal(err)
	}
	half.Close()
	figuresUntil(t, srv, "abandoned", func(f Figures) bool { return f.Abandoned == 1 && f.Connections == 1 })

	wrong := &probe{cmdSN: 1}
	wrong.out, wrong.opt = c.probe.out, c.probe.opt
	wrong.opt.target = "iqn.nobody"
	if err := wrong.connect(p.Addr().String()); err != nil {
		t.Fatal(err)
	}
	defer wrong.nc.Close()
	if err := wrong.login(); err == nil {
		t.Error("logged in to a target that is not there")
	}
	figuresUntil(t, srv, "refused", func(f Figures) bool { return f.Logins[TargetNotFound] == 1 })
	if f := srv.Figures(); f.Logins[LoginSuccess] != 1 || len(f.Logins) != 2 || f.Abandoned != 1 {
		t.Errorf("%+v", f)
	}
}

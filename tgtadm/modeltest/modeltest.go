// Package modeltest is a tgtd within a test: the daemon's real model with real requests, without a
// management socket and with one portal at a free port.
package modeltest

import (
	"context"
	"log/slog"
	"net"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore/null"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore/rdwr"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/mgmt"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/mgmt/admin"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/target"
)

// Daemon is the model and how it is asked.
type Daemon struct {
	Portal string // ADDRESS:PORT
	// Plain makes it answer as tgt's daemon does, without the detail.
	Plain   bool
	handler mgmt.Handler
}

// Start makes a daemon that lives as long as the test.
func Start(t testing.TB) *Daemon {
	t.Helper()
	stores := new(backstore.Registry)
	stores.Add(null.Type())
	stores.Add(rdwr.Type())
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	m := target.New(target.Options{
		Log: log, SetDebug: func(bool) {}, Stores: stores, Threads: 1, Inherited: []net.Listener{l},
		Portals: []string{"127.0.0.1:0"}, Transport: target.ISCSI(iscsi.Options{Logger: log}),
	})
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	m.StartDriver()
	return &Daemon{Portal: l.Addr().String(), handler: admin.Handler(m, log)}
}

// Call answers a request.
func (d *Daemon) Call(ctx context.Context, r mgmt.Request) (mgmt.Response, error) {
	if d.Plain && r.Mode == mgmt.ModeSystem && r.Op == mgmt.OpShow {
		r.Params = ""
	}
	b, err := r.Append(nil) // as it comes out of the socket
	if err != nil {
		return mgmt.Response{}, err
	}
	if r, err = mgmt.DecodeRequest(b); err != nil {
		return mgmt.Response{}, err
	}
	return d.handler(ctx, r), nil
}

// CallAt is Call for whoever names a socket.
func (d *Daemon) CallAt(ctx context.Context, _ string, r mgmt.Request) (mgmt.Response, error) {
	return d.Call(ctx, r)
}

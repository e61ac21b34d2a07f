// Package daemontest stands in for tgtd in the tests of the programs that talk to it: a management
// socket whose answers the test decides.
package daemontest

import (
	"net"
	"os"
	"sync"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/mgmt"
)

// Daemon is a management socket with a test behind it.
type Daemon struct {
	// Base is the socket's path without the control port, which is 0: the value of TGT_IPC_SOCKET.
	Base string

	listener net.Listener
	answer   func(mgmt.Request) mgmt.Response
	done     chan struct{}

	mu       sync.Mutex
	requests []mgmt.Request
}

// Start listens until the test ends. Requests are answered one after another.
func Start(t *testing.T, answer func(mgmt.Request) mgmt.Response) *Daemon {
	t.Helper()
	d := &Daemon{Base: Dir(t) + "/socket", answer: answer, done: make(chan struct{})}
	l, err := net.Listen("unix", d.Base+".0")
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // as tgtd leaves it
	d.listener = l
	go func() {
		defer close(d.done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			d.serve(c)
		}
	}()
	t.Cleanup(func() {
		d.Stop()
		<-d.done
	})
	return d
}

// Dir makes a directory whose path is short enough for a socket below it.
func Dir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tgt")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// Stop stops listening; the socket's file stays.
func (d *Daemon) Stop() { d.listener.Close() }

func (d *Daemon) serve(c net.Conn) {
	defer c.Close()
	r, err := mgmt.ReadRequest(c)
	if err != nil {
		return // a client that only looked whether somebody listens
	}
	d.mu.Lock()
	d.requests = append(d.requests, r)
	d.mu.Unlock()
	response := d.answer(r)
	c.Write(response.Append(nil)) // a client that is gone sees nothing
}

// Requests returns the requests that came since the last call.
func (d *Daemon) Requests() []mgmt.Request {
	d.mu.Lock()
	defer d.mu.Unlock()
	requests := d.requests
	d.requests = nil
	return requests
}

package target

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore/null"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/mgmt"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeTransport is a transport without a network.
type fakeTransport struct {
	mu       sync.Mutex
	sessions []iscsi.SessionInfo
	open     map[netip.AddrPort]bool
	refuse   map[netip.AddrPort]error
	nextPort uint16
	asked    []int // targets whose initiators were asked to log out
	// closing, when not nil, is called by CloseTarget before the sessions end.
	closing func()
}

type fakePortal struct {
	t    *fakeTransport
	addr netip.AddrPort
}

func (p *fakePortal) Addr() netip.AddrPort { return p.addr }

func (p *fakePortal) Close() {
	p.t.mu.Lock()
	defer p.t.mu.Unlock()
	delete(p.t.open, p.addr)
}

var errInUse = errors.New("address already in use")

func (t *fakeTransport) Listen(a netip.AddrPort) (Portal, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a.Port() == 0 {
		t.nextPort++
		a = netip.AddrPortFrom(a.Addr(), 50000+t.nextPort)
	}
	if err := t.refuse[a]; err != nil {
		return nil, err
	}
	if t.open[a] {
		return nil, errInUse
	}
	t.open[a] = true
	return &fakePortal{t, a}, nil
}

func (t *fakeTransport) Serve(l net.Listener) (Portal, error) {
	return t.Listen(l.Addr().(*net.TCPAddr).AddrPort())
}

func (t *fakeTransport) Sessions(tid int) []iscsi.SessionInfo {
	t.mu.Lock()
	defer t.mu.Unlock()
	var list []iscsi.SessionInfo
	for _, s := range t.sessions {
		if tid < 0 || s.TID == tid {
			list = append(list, s)
		}
	}
	return list
}

func (t *fakeTransport) Figures() iscsi.Figures { return iscsi.Figures{Connections: 7} }

func (t *fakeTransport) CloseConnection(tid int, sid uint64, cid uint32) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.sessions {
		s := &t.sessions[i]
		if s.TID == tid && s.SID == sid {
			s.Connections = slices.DeleteFunc(slices.Clone(s.Connections), func(c iscsi.ConnInfo) bool {
				return c.CID == cid
			})
		}
	}
	t.sessions = slices.DeleteFunc(t.sessions, func(s iscsi.SessionInfo) bool { return len(s.Connections) == 0 })
	return nil
}

func (t *fakeTransport) RequestLogout(tid int) { t.asked = append(t.asked, tid) }

func (t *fakeTransport) CloseTarget(tid int) {
	t.mu.Lock()
	closing := t.closing
	t.mu.Unlock()
	if closing != nil {
		closing()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sessions = slices.DeleteFunc(t.sessions, func(s iscsi.SessionInfo) bool { return s.TID == tid })
}

func (t *fakeTransport) Close() {}

// login makes a session.
func (t *fakeTransport) login(tid int, sid uint64, cids ...uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := iscsi.SessionInfo{SID: sid, TID: tid, Initiator: "iqn.2000-01.probe:i"}
	for _, cid := range cids {
		s.Connections = append(s.Connections, iscsi.ConnInfo{CID: cid, Peer: netip.MustParseAddrPort("[::ffff:10.0.0.1]:999"),
			Stats: iscsi.ConnStats{RxOctets: 2540, TxOctets: 4628, CommandPDUs: 6, ResponsePDUs: 9, DataInPDUs: 9}})
	}
	t.sessions = append(t.sessions, s)
}

// fakeStore is a store type whose opening the test controls.
type fakeStore struct {
	entered chan string // gets the path of each open
	release chan error  // what it returns
	closed  chan struct{}
}

func newFakeStore() *fakeStore {
	return &fakeStore{entered: make(chan string), release: make(chan error), closed: make(chan struct{}, 16)}
}

func (f *fakeStore) open(o backstore.Options) (backstore.Store, error) {
	f.entered <- o.Path
	if err := <-f.release; err != nil {
		return nil, err
	}
	s, err := null.Open(backstore.Options{})
	return closingStore{s, f.closed}, err
}

// closingStore tells when it is closed.
type closingStore struct {
	backstore.Store
	closed chan struct{}
}

func (s closingStore) Close() error {
	s.closed <- struct{}{}
	return s.Store.Close()
}

// bench is a model with a fake transport and the store types null, rdwr (which is null, too) and slow.
type bench struct {
	*Model
	transport *fakeTransport
	slow      *fakeStore
}

func newBench(t testing.TB, edit func(*Options)) *bench {
	t.Helper()
	b := &bench{slow: newFakeStore(), transport: &fakeTransport{open: make(map[netip.AddrPort]bool),
		refuse: make(map[netip.AddrPort]error)}}
	stores := new(backstore.Registry)
	stores.Add(null.Type())
	stores.Add(backstore.Type{Name: "rdwr", Open: func(backstore.Options) (backstore.Store, error) {
		return null.Open(backstore.Options{})
	}})
	stores.Add(backstore.Type{Name: "slow", Open: b.slow.open})
	o := Options{Log: slog.New(slog.DiscardHandler), SetDebug: func(bool) {}, Stores: stores, Threads: 1,
		Transport: func(iscsi.Directory) Transport { return b.transport }}
	if edit != nil {
		edit(&o)
	}
	b.Model = New(o)
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	b.StartDriver()
	return b
}

// must fails the test on an error.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantErrno fails the test unless err carries a number.
func wantErrno(t testing.TB, what string, err error, want mgmt.Errno) {
	t.Helper()
	if got := mgmt.ErrnoOf(err); got != want {
		t.Errorf("%s: %v (%d), want %d", what, err, got, want)
	}
}

package target

import (
	"net"
	"net/netip"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi"
)

// Transport is what carries SCSI to the targets. Its methods may be called from any goroutine; none is called
// while the model is locked.
type Transport interface {
	// Listen opens a portal at an address; port 0 is any free one.
	Listen(netip.AddrPort) (Portal, error)
	// Serve makes a portal of a listening socket, which it takes over.
	Serve(net.Listener) (Portal, error)
	// Sessions lists the normal sessions of a target, or of all for a negative tid, oldest first, without those that
	// are ending.
	Sessions(tid int) []iscsi.SessionInfo
	// Figures are what the transport has done and holds.
	Figures() iscsi.Figures
	// CloseConnection closes one connection.
	CloseConnection(tid int, sid uint64, cid uint32) error
	// RequestLogout asks the initiators of a target to log out, where the operator wants that, and waits for nothing.
	RequestLogout(tid int)
	// CloseTarget closes all sessions of a target and returns when they are gone.
	CloseTarget(tid int)
	// Close closes all that is left and waits for it.
	Close()
}

// Portal is an address at which a transport listens.
type Portal interface {
	Addr() netip.AddrPort
	Close()
}

// ISCSI is the transport that Options.Transport asks for: an iSCSI server with the given options.
func ISCSI(o iscsi.Options) func(iscsi.Directory) Transport {
	return func(d iscsi.Directory) Transport {
		o.Directory = d
		return iscsiTransport{iscsi.NewServer(o)}
	}
}

// iscsiTransport is an iSCSI server with its portals behind an interface.
type iscsiTransport struct{ *iscsi.Server }

func (t iscsiTransport) Listen(a netip.AddrPort) (Portal, error) {
	p, err := t.Server.Listen(a.String())
	if err != nil {
		return nil, err
	}
	return p, nil
}

func (t iscsiTransport) Serve(l net.Listener) (Portal, error) {
	p, err := t.Server.Serve(l)
	if err != nil {
		return nil, err
	}
	return p, nil
}

package replica

import (
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/agreement"
	"github.com/paxos-iscsi/paxos-iscsi/pss/auth"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/wire"
)

// resolveEvery is how often the other servers' names are looked up again.
const resolveEvery = 30 * time.Second

// datagrams is the server's UDP port: heartbeats, votes and status queries, which bulk data must not
// delay. A datagram that can't be sent is lost; agreement copes with that. With a cell key all are sealed, and
// what is not is dropped and counted.
type datagrams struct {
	r     *Replica
	conn  *net.UDPConn
	addrs [cell.MaxServers]atomic.Pointer[netip.AddrPort]
	// guests are where announcements of servers came from that this one does not know the address of.
	guests [cell.MaxServers]atomic.Pointer[netip.AddrPort]
	box    *auth.Box // nil in an open cell
	// buf and sealed are for send, which the Replica's lock guards.
	buf, sealed []byte
}

// seal seals plain, if the cell has a key, with dst for its memory.
func (d *datagrams) seal(dst, plain []byte, to uint8) ([]byte, error) {
	if d.box == nil {
		return plain, nil
	}
	return d.box.Seal(dst[:0], plain, to)
}

func newDatagrams(r *Replica) (*datagrams, error) {
	addr, err := net.ResolveUDPAddr("udp", r.self.UDPAddr())
	if err != nil {
		return nil, err
	}
	conn, err := net.ListenUDP("udp", addr)
	if err != nil {
		return nil, err
	}
	d := &datagrams{r: r, conn: conn, buf: make([]byte, 0, wire.MaxDatagram),
		sealed: make([]byte, 0, wire.MaxDatagram+auth.Overhead)}
	if keys := r.opts.Cell.Auth; keys != nil {
		if d.box, err = keys.Box(uint8(r.opts.ID)); err != nil {
			conn.Close()
			return nil, err
		}
	}
	r.tasks.Go(d.resolve)
	return d, nil
}

// resolve looks up the other servers' addresses, again and again, so that a name whose address changed
// or that could not be resolved at first is found. It does so beside everything else.
func (d *datagrams) resolve() {
	t := time.NewTicker(resolveEvery)
	defer t.Stop()
	for {
		missing := false
		for _, s := range d.r.known() {
			found, err := net.DefaultResolver.LookupNetIP(d.r.ctx, "ip", s.Host)
			if d.r.ctx.Err() != nil {
				return
			}
			if err != nil {
				missing = true
				d.r.logger.Warn("can't resolve", "server", s.ID, "host", s.Host, "error", err)
				continue
			}
			ap := netip.AddrPortFrom(preferred(found), uint16(s.UDPPort))
			d.addrs[s.ID].Store(&ap)
		}
		if missing {
			t.Reset(resolveEvery / 10)
		} else {
			t.Reset(resolveEvery)
		}
		select {
		case <-d.r.ctx.Done():
			return
		case <-t.C:
		case <-d.r.place.moved:
		}
	}
}

// preferred is the first IPv4 address of a host, or its first one, as net.Dial chooses.
func preferred(found []netip.Addr) netip.Addr {
	for _, a := range found {
		if a = a.Unmap(); a.Is4() {
			return a
		}
	}
	return found[0]
}

// send sends an urgent message. Its caller holds the Replica's lock.
func (d *datagrams) send(m *agreement.Outgoing) {
	to := d.addrs[m.To].Load()
	if to == nil {
		return
	}
	b, err := wire.AppendRaftDatagram(d.buf[:0], &wire.Datagram{
		From: uint8(d.r.opts.ID), To: uint8(m.To), Stamp: uint64(m.Stamp), Echo: uint64(m.Echo),
		Cell: d.r.place.identity.Load().Cell.Tag(),
	}, &m.Message)
	if err == nil {
		b, err = d.seal(d.sealed, b, uint8(m.To))
	}
	if err != nil {
		d.r.logger.Error("datagram", "error", err)
		return
	}
	_, _ = d.conn.WriteToUDPAddrPort(b, *to)
}

// notify sends an announcement. Its caller holds the Replica's lock.
func (d *datagrams) notify(n *Notice) {
	to := d.addrs[n.To].Load()
	if to == nil {
		if to = d.guests[n.To].Load(); to == nil {
			return
		}
	}
	b, err := wire.AppendDatagram(d.buf[:0], &wire.Datagram{Kind: wire.DatagramAnnounce, From: uint8(d.r.opts.ID),
		To: uint8(n.To), Stamp: uint64(n.Stamp), Echo: uint64(n.Echo), Body: n.Announce.Append(nil)})
	if err == nil {
		b, err = d.seal(d.sealed, b, uint8(n.To))
	}
	if err != nil {
		d.r.logger.Error("announcement", "error", err)
		return
	}
	_, _ = d.conn.WriteToUDPAddrPort(b, *to)
}

// takeNotice takes another server's announcement.
func (d *datagrams) takeNotice(dg *wire.Datagram, from netip.AddrPort) error {
	if dg.From >= cell.MaxServers || dg.From == uint8(d.r.opts.ID) {
		return fmt.Errorf("%w: an announcement of server %d", wire.ErrProtocol, dg.From)
	}
	a, err := ParseAnnounce(dg.Body)
	if err != nil {
		return err
	}
	d.guests[dg.From].Store(&from)
	d.r.drive(func(now time.Duration) error {
		return d.r.core.Hear(now, cell.ID(dg.From), a, time.Duration(dg.Stamp), time.Duration(dg.Echo))
	})
	return nil
}

func (d *datagrams) run() {
	b := make([]byte, wire.MaxDatagram+auth.Overhead+1)
	for {
		n, from, err := d.conn.ReadFromUDPAddrPort(b)
		if err != nil {
			if d.r.ctx.Err() != nil {
				return
			}
			continue // an ICMP error about a server that is down
		}
		if err := d.take(b[:n], from); err != nil {
			d.r.refused.datagrams.Add(1)
			d.r.logger.Debug("datagram refused", "from", from, "error", err)
		}
	}
}

func (d *datagrams) take(b []byte, from netip.AddrPort) error {
	b, sender, err := d.open(b)
	if err != nil || b == nil {
		return err
	}
	dg, err := wire.ParseDatagram(b)
	if err != nil {
		return err
	}
	if d.box != nil && dg.From != sender {
		return fmt.Errorf("%w: a datagram from server %d that %d has sealed", wire.ErrProtocol, dg.From, sender)
	}
	if dg.To != uint8(d.r.opts.ID) {
		return fmt.Errorf("it is for server %d", dg.To)
	}
	switch dg.Kind {
	case wire.DatagramRaft:
		return d.takeRaft(&dg)
	case wire.DatagramAnnounce:
		return d.takeNotice(&dg, from)
	case wire.DatagramStatus:
		return d.answerStatus(&dg, len(b), from)
	}
	return nil
}

// open takes the seal off a datagram, if the cell has a key. What comes back is nil when the datagram only
// introduced its sender.
func (d *datagrams) open(b []byte) (plain []byte, sender uint8, err error) {
	if d.box == nil {
		return b, 0, nil
	}
	sender, plain, reply, err := d.box.Open(b)
	if reply != nil && int(sender) < len(d.addrs) {
		if to := d.addrs[sender].Load(); to != nil {
			_, _ = d.conn.WriteToUDPAddrPort(reply, *to)
		}
	}
	return plain, sender, err
}

func (d *datagrams) takeRaft(dg *wire.Datagram) error {
	sender := cell.ID(dg.From)
	if d.r.peer(sender) == nil {
		return fmt.Errorf("it is from server %d, which is not in the cell", dg.From)
	}
	if dg.Cell != d.r.place.identity.Load().Cell.Tag() {
		d.r.place.strangers.Add(1)
		return errStranger
	}
	m, err := wire.ParseRaft(dg.Body)
	if err != nil {
		return err
	}
	// Nothing else travels so. In particular no entries: they would be kept, and the buffer is used again.
	if o := (agreement.Outgoing{Message: m}); !o.Urgent() || len(m.Entries) > 0 || m.Snapshot != nil {
		return fmt.Errorf("%w: %v in a datagram", wire.ErrProtocol, m.Type)
	}
	m.Context = append([]byte(nil), m.Context...) // the buffer is used again
	if err := d.r.check(&m, sender); err != nil {
		return err
	}
	if !d.r.concerns(&m) {
		return nil
	}
	d.r.drive(func(now time.Duration) error {
		return d.r.core.Step(now, m, time.Duration(dg.Stamp), time.Duration(dg.Echo))
	})
	return nil
}

// answerStatus answers a status query of size bytes with a summary that fits a datagram, but with no more bytes than it
// had: in an open cell anybody may send one, in anybody's name.
func (d *datagrams) answerStatus(q *wire.Datagram, size int, to netip.AddrPort) error {
	report := d.r.Summary()
	b, err := wire.AppendDatagram(nil, &wire.Datagram{Kind: wire.DatagramStatusReply,
		From: uint8(d.r.opts.ID), To: q.From, Echo: q.Stamp, Body: report})
	if err != nil {
		return err
	}
	if len(b) > size {
		return fmt.Errorf("%w: a question of %d bytes, and the answer has %d", wire.ErrProtocol, size, len(b))
	}
	if b, err = d.seal(nil, b, q.From); err != nil {
		return err
	}
	_, err = d.conn.WriteToUDPAddrPort(b, to)
	return err
}

func (d *datagrams) close() { d.conn.Close() }

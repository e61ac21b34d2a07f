package admin

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"slices"

	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
)

// server.conf says where the servers were once. Where they are now the cell has agreed on, and any of its servers tells:
// so a server that does not answer where server.conf has it, or is not there at all, is asked for at all others.

// elsewhere connects to a server where the cell's members say that it is, unless that is where was, and as soon as one
// of them has said so. It returns nil when nobody knows of another place, or it is not there either.
func elsewhere(ctx context.Context, dial Dialer, conf *cell.Config, id cell.ID, was string) (c *Conn) {
	tried := map[string]bool{was: true}
	askMembers(ctx, dial, conf, id, func(all []MemberRecord) (enough bool) {
		at := slices.IndexFunc(all, func(m MemberRecord) bool { return m.ID == id && m.State != StateRemoved })
		if at < 0 {
			return false
		}
		to := all[at].server()
		if to.Host == "" || tried[to.TCPAddr()] {
			return false
		}
		tried[to.TCPAddr()] = true
		var err error
		if c, err = connect(ctx, dial, to); err != nil {
			c = nil
		}
		return c != nil
	})
	return c
}

func (m *MemberRecord) server() cell.Server {
	return cell.Server{ID: m.ID, Host: m.Host, UDPPort: m.UDPPort, TCPPort: m.TCPPort}
}

// askMembers asks all servers of server.conf but one at the same time who the members are, and gives each answer to take
// until that has enough.
func askMembers(ctx context.Context, dial Dialer, conf *cell.Config, but cell.ID, take func([]MemberRecord) (enough bool)) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	answers := make(chan []MemberRecord, len(conf.Servers))
	asked := 0
	for _, s := range conf.Servers {
		if s.ID != but {
			asked++
			go func() { answers <- membersOf(ctx, dial, s) }()
		}
	}
	for enough := false; asked > 0; asked-- { // nobody goes on when this is over
		all := <-answers
		if !enough && take(all) {
			enough = true
			cancel()
		}
	}
	cancel()
}

// membersOf asks one server who the members are; nil is no answer.
func membersOf(ctx context.Context, dial Dialer, s cell.Server) (all []MemberRecord) {
	c, err := connect(ctx, dial, s)
	if err != nil {
		return nil
	}
	defer c.Close()
	if err := c.Call(ctx, MethodMembers, nil, &all); err != nil {
		return nil
	}
	return all
}

// Follow returns conf with the servers as the cell has them now, if one of those in server.conf tells: where they are, and
// those that were added. Others stay as they are in server.conf.
func Follow(ctx context.Context, conf *cell.Config) *cell.Config {
	now := *conf
	now.Servers = slices.Clone(conf.Servers)
	nobody := cell.ID(cell.MaxServers)
	askMembers(ctx, dialerOf(conf), conf, nobody, func(all []MemberRecord) (enough bool) {
		for i := range all {
			m := &all[i]
			at := slices.IndexFunc(now.Servers, func(s cell.Server) bool { return s.ID == m.ID })
			switch {
			case m.State == StateRemoved || m.Host == "":
			case at >= 0:
				s := &now.Servers[at]
				s.Host, s.UDPPort, s.TCPPort = m.Host, m.UDPPort, m.TCPPort
			default:
				now.Servers = append(now.Servers, m.server())
			}
		}
		return all != nil
	})
	slices.SortFunc(now.Servers, func(a, b cell.Server) int { return cmp.Compare(a.ID, b.ID) })
	return &now
}

func dialerOf(conf *cell.Config) Dialer {
	return func(ctx context.Context, _, address string) (net.Conn, error) { return conf.Auth.Dial(ctx, address) }
}

// DialWith is Dial over connections that dial makes.
func DialWith(ctx context.Context, dial Dialer, conf *cell.Config, id cell.ID) (*Conn, error) {
	s, ok := conf.Server(id)
	if !ok {
		if c := elsewhere(ctx, dial, conf, id, ""); c != nil {
			return c, nil
		}
		return nil, fmt.Errorf("%s has no record of server %d, and no server that was reached knows of it", conf.File, id)
	}
	c, err := connect(ctx, dial, s)
	if err == nil {
		return c, nil
	}
	if c := elsewhere(ctx, dial, conf, id, s.TCPAddr()); c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("%w %d at %s: %w", ErrUnreachable, id, s.TCPAddr(), err)
}

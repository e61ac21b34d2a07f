package wire

import (
	"encoding/binary"
	"fmt"

	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
)

// PingServers is the tag of a Ping from a client that wants to be told where the servers are, now and whenever that
// changes. A server that knows nothing of it answers as it does any Ping.
const PingServers = 0x7372657672655350

const (
	serversHead = 16
	serverHead  = 7
	maxHost     = 255
	maxServers  = serversHead + cell.MaxServers*(serverHead+maxHost)

	serverAgreed  = 1 << 0
	serverRemoved = 1 << 1
)

// Servers is where the servers of a cell are.
//
//	0 u64 index  8 u8 count  9 seven bytes zero  16 count records, in order of their ids:
//	  0 u8 id  1 u8 flags  2 u16 TCP port  4 u16 UDP port  6 u8 length of the host  7 host
type Servers struct {
	Index   uint64 // of the entry that made the table: of two, the one with the higher index is newer
	Servers []Server
}

// Server is a server in Servers.
type Server struct {
	ID               cell.ID
	Agreed           bool // the cell has agreed on the address; else it is that of the sender's server.conf
	Removed          bool // it is not in the cell any more; its address means nothing
	Host             string
	TCPPort, UDPPort int
}

// AppendServers appends the byte form of s, whose hosts have up to 255 bytes and whose ports have 16 bits.
func AppendServers(b []byte, s *Servers) []byte {
	le := binary.LittleEndian
	b = le.AppendUint64(b, s.Index)
	b = append(b, byte(len(s.Servers)), 0, 0, 0, 0, 0, 0, 0)
	for i := range s.Servers {
		r := &s.Servers[i]
		var flags byte
		if r.Agreed {
			flags |= serverAgreed
		}
		if r.Removed {
			flags |= serverRemoved
		}
		b = append(b, byte(r.ID), flags)
		b = le.AppendUint16(b, uint16(r.TCPPort))
		b = le.AppendUint16(b, uint16(r.UDPPort))
		b = append(b, byte(len(r.Host)))
		b = append(b, r.Host...)
	}
	return b
}

// ParseServers reads what AppendServers wrote.
func ParseServers(b []byte) (Servers, error) {
	le := binary.LittleEndian
	if len(b) < serversHead || [7]byte(b[9:16]) != [7]byte{} || b[8] > cell.MaxServers {
		return Servers{}, fmt.Errorf("%w: a list of servers of %d bytes", ErrProtocol, len(b))
	}
	s, count := Servers{Index: le.Uint64(b)}, int(b[8])
	b = b[serversHead:]
	for i := range count {
		if len(b) < serverHead || len(b) < serverHead+int(b[6]) {
			return Servers{}, fmt.Errorf("%w: a list of servers ends in record %d", ErrProtocol, i)
		}
		r := Server{ID: cell.ID(b[0]), Agreed: b[1]&serverAgreed != 0, Removed: b[1]&serverRemoved != 0,
			TCPPort: int(le.Uint16(b[2:])), UDPPort: int(le.Uint16(b[4:])), Host: string(b[serverHead : serverHead+int(b[6])])}
		if r.ID >= cell.MaxServers || i > 0 && s.Servers[i-1].ID >= r.ID || b[1]&^(serverAgreed|serverRemoved) != 0 {
			return Servers{}, fmt.Errorf("%w: record %d in a list of servers is of server %d", ErrProtocol, i, r.ID)
		}
		s.Servers = append(s.Servers, r)
		b = b[serverHead+len(r.Host):]
	}
	if len(b) > 0 {
		return Servers{}, fmt.Errorf("%w: %d bytes behind a list of servers", ErrProtocol, len(b))
	}
	return s, nil
}

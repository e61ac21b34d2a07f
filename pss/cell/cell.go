// Package cell knows which servers make a cell: the records of server.conf, which is the same file on
// every server, target and control machine (M12). It says who votes, which ports a server uses and
// which of the servers live on this machine. It opens no connection: names are resolved when they are
// used, so a record that does not resolve keeps nobody from working with the others.
package cell

import (
	"cmp"
	"fmt"
	"net"
	"os"
	"path"
	"slices"
	"strconv"

	"github.com/paxos-iscsi/paxos-iscsi/pss/auth"
)

// ID is the number of a server in its cell, 0 to 7 (M13).
type ID uint8

// The shape of a cell.
const (
	MaxServers  = 8 // records of a server.conf: ids 0 to 7
	CoreIDs     = 5 // ids 0 to 4 are core servers, the ones above are replicas
	MinCore     = 3 // core servers a server.conf must list; with fewer no server may fail
	FirstUDP    = 4000
	FirstTCP    = 4010
	raftIDShift = 1 // the agreement's engine takes 0 for "no server"

	incarnationShift = 8 // bits of a member's number that are the server's; the rest counts incarnations
)

// DefaultFile is where server.conf is unless somebody says otherwise (M12).
const DefaultFile = "/etc/pss/server.conf"

// EnvFile is the environment variable that names another server.conf.
const EnvFile = "PSS_CONF"

// Core says whether the server votes. The others hold the same data without a vote (M13).
func (id ID) Core() bool { return id < CoreIDs }

// Raft is the number the agreement's engine knows the server by, never 0, as long as it keeps its first disk.
func (id ID) Raft() uint64 { return uint64(id) + raftIDShift }

// Member is the number of the server's incarnation: each time it comes back without its disk, it is a new member,
// and nothing that the one before has promised counts any more. Incarnation 0 is Raft.
func (id ID) Member(incarnation uint64) uint64 { return incarnation<<incarnationShift | id.Raft() }

// FromRaft is the server that the agreement's engine calls n, in any incarnation, and false when it is none.
func FromRaft(n uint64) (ID, bool) {
	low := n & (1<<incarnationShift - 1)
	if low < raftIDShift || low >= MaxServers+raftIDShift {
		return 0, false
	}
	return ID(low - raftIDShift), true
}

// Incarnation is which incarnation of its server a member is.
func Incarnation(member uint64) uint64 { return member >> incarnationShift }

// ParseID reads an id as it is written in server.conf and on command lines: one digit, 0 to 7.
func ParseID(s string) (ID, error) {
	if len(s) != 1 || s[0] < '0' || s[0] >= '0'+MaxServers {
		return 0, fmt.Errorf("id %q: ids are 0 to %d", s, MaxServers-1)
	}
	return ID(s[0] - '0'), nil
}

// Server is one record of server.conf.
type Server struct {
	ID      ID
	Host    string // a name, or an address without brackets (M14)
	UDPPort int    // agreement and status; FirstUDP+ID unless the record says otherwise (M7)
	TCPPort int    // clients and bulk data between servers; FirstTCP+ID unless the record says otherwise (M7)
	Path    string // absolute: the mounted folder that holds the server's data (M15)
}

// Root is the folder that belongs to this server alone: PFS-<id> below its path.
func (s Server) Root() string { return path.Join(s.Path, "PFS-"+strconv.Itoa(int(s.ID))) }

// UDPAddr is the host:port of the server's datagrams, to be resolved when it is used.
func (s Server) UDPAddr() string { return net.JoinHostPort(s.Host, strconv.Itoa(s.UDPPort)) }

// TCPAddr is the host:port of the server's connections, to be resolved when it is used.
func (s Server) TCPAddr() string { return net.JoinHostPort(s.Host, strconv.Itoa(s.TCPPort)) }

// Config is a server.conf.
type Config struct {
	File    string     // where it was read from, for messages
	Servers []Server   // in order of their ids
	Auth    *auth.Keys // the keys of the cell, which go with every dialling and listening; nil is an open cell
}

// Server is the record of id, and false when the cell has none.
func (c *Config) Server(id ID) (Server, bool) {
	i, ok := slices.BinarySearchFunc(c.Servers, id, func(s Server, id ID) int { return cmp.Compare(s.ID, id) })
	if !ok {
		return Server{}, false
	}
	return c.Servers[i], true
}

// Core lists the servers that vote, ids 0 to 4.
func (c *Config) Core() []Server { return c.Servers[:c.coreCount()] }

// Replicas lists the servers that hold the data without a vote, ids 5 to 7.
func (c *Config) Replicas() []Server { return c.Servers[c.coreCount():] }

func (c *Config) coreCount() int {
	i := slices.IndexFunc(c.Servers, func(s Server) bool { return !s.ID.Core() })
	if i < 0 {
		return len(c.Servers)
	}
	return i
}

// File is the server.conf to use: what an option named if it is not empty, else what the environment
// names in PSS_CONF, else DefaultFile.
func File(option string) string {
	return cmp.Or(option, os.Getenv(EnvFile), DefaultFile)
}

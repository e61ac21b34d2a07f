package admin

import "github.com/paxos-iscsi/paxos-iscsi/pss/cell"

// Methods that tools show a server's inside with.
const (
	MethodProcess = "process" // reply: Process
	MethodSockets = "sockets" // reply: []Socket
	MethodLog     = "log"     // args: LogArgs. items: LogLine
	MethodProbe   = "probe"   // args: ProbeArgs. reply, and items before it where it is long: the part of Probe that was asked for
	MethodInject  = "inject"  // args: InjectArgs; a server that runs with --debug does it
	MethodLoad    = "load"    // reply: Load
	MethodPeers   = "peers"   // reply: []Peer

	MethodScrubStart = "scrub.start"
	MethodScrubStop  = "scrub.stop"
)

// Process is a server's process, as ps shows it.
type Process struct {
	PID     int    `json:"pid"`
	TTY     string `json:"tty"`         // "?" for none
	State   string `json:"state"`       // as the STAT column, such as "Sl"
	CPUSecs int64  `json:"cpu_seconds"` // user and system
	Command string `json:"command"`     // PATH/PFSserver ID PATH/PFS-ID
	RSS     int64  `json:"rss_bytes"`
}

// Socket is a socket of a server's fixed ports, as netstat shows it.
type Socket struct {
	Proto  string `json:"proto"` // tcp, tcp6, udp, udp6
	RecvQ  uint32 `json:"recv_q"`
	SendQ  uint32 `json:"send_q"`
	Local  string `json:"local"`  // address:port
	Remote string `json:"remote"` // address:port, or address:* for none
	State  string `json:"state"`  // LISTEN, ESTABLISHED, …; empty for UDP
}

// Peer is another server of the cell, as this one sees it.
type Peer struct {
	ID        cell.ID `json:"id"`
	Host      string  `json:"host"`
	UDPPort   int     `json:"udp_port"`
	TCPPort   int     `json:"tcp_port"`
	Connected bool    `json:"connected"`       // this server has a connection to it
	HeardNano int64   `json:"heard_unix_nano"` // when something of the agreement last came from it; 0: never
}

// LogArgs says which lines of a server's log: the Last ones of those it keeps, and with Follow all that come
// after them, for as long as the connection lasts.
type LogArgs struct {
	Last   int  `json:"last"`
	Follow bool `json:"follow,omitempty"`
}

// LogLine is a line of a server's log.
type LogLine struct {
	UnixNano int64  `json:"unix_nano"`
	Level    string `json:"level"`
	Text     string `json:"text"`
}

// ProbeArgs says what of Probe to show: one of the Probe… words.
type ProbeArgs struct {
	Kind string `json:"kind"`
}

// What can be probed, in the words of PFSProbe.
const (
	ProbeAccept   = "accept"
	ProbeOutbound = "outbound"
	ProbeFd       = "fd"
	ProbeMeta     = "meta"
	ProbeBlock    = "block"
	ProbePath     = "path"
	ProbeLock     = "lock"
	ProbeQueue    = "queue"
	ProbePaxos    = "paxos"
)

// Probe is a server's inside. Only the part that was asked for is there.
type Probe struct {
	Sessions []SessionInfo `json:"sessions,omitempty"`
	Outbound *Outbound     `json:"outbound,omitempty"`
	Files    *Files        `json:"files,omitempty"`
	Cache    *Cache        `json:"cache,omitempty"`
	Entries  []EntryInfo   `json:"entries,omitempty"`
	Paths    []PathInfo    `json:"paths,omitempty"`
	Locks    []LockInfo    `json:"locks,omitempty"`
	Queues   []QueueInfo   `json:"queues,omitempty"`
}

// Party is who holds, waits for or has reserved something: one of the handles of a session.
type Party struct {
	Session uint64 `json:"session"`
	Handle  uint64 `json:"handle"`
	Write   bool   `json:"write,omitempty"` // of a lock
}

// PathInfo is a folder that is watched, or a file that ends with a session.
type PathInfo struct {
	Path     string   `json:"path"`
	Owner    uint64   `json:"owner,omitempty"` // session; 0 for what is only watched
	Watchers []uint64 `json:"watchers,omitempty"`
}

// LockInfo is a lock that is held, or watched by somebody.
type LockInfo struct {
	Name     string   `json:"name"`
	Version  uint64   `json:"version"` // 0: nobody holds it
	Holders  []Party  `json:"holders,omitempty"`
	Waiters  []Party  `json:"waiters,omitempty"` // in the order they came
	Watchers []uint64 `json:"watchers,omitempty"`
}

// QueueInfo is a queue that has messages or readers, or is watched by somebody.
type QueueInfo struct {
	Name     string        `json:"name"`
	Messages []MessageInfo `json:"messages,omitempty"` // in the order they were posted
	Waiters  []Party       `json:"waiters,omitempty"`
	Watchers []uint64      `json:"watchers,omitempty"`
}

// MessageInfo is a message in a queue.
type MessageInfo struct {
	Number uint64 `json:"number"`
	Bytes  int    `json:"bytes"`
	Taken  *Party `json:"taken,omitempty"` // who has reserved it
}

// InjectArgs make a server misbehave, for tests of the cell.
type InjectArgs struct {
	To  cell.ID `json:"to"`
	Cut bool    `json:"cut"` // messages of the agreement to that server are lost, or are so no more
}

// SessionInfo is a session of a client, as all servers know it, and the connection of it that this server has.
type SessionInfo struct {
	Session  uint64 `json:"session"`
	Epoch    uint32 `json:"epoch"` // how often it was opened
	Last     uint64 `json:"last_seq"`
	Acked    uint64 `json:"acked_seq"`
	Remote   string `json:"remote,omitempty"` // address:port; empty when it is not connected here
	Software string `json:"software,omitempty"`
	Waiting  int    `json:"waiting"` // operations taken and not answered
	Bytes    int    `json:"bytes"`   // of these
}

// Outbound is what a server holds in memory for others: entries for servers that are behind, blocks that
// are not in the chunk files yet.
type Outbound struct {
	TailBytes    int64 `json:"tail_bytes"`
	TailLimit    int64 `json:"tail_limit_bytes"`
	Tail         int   `json:"tail_entries"`
	OverlayBytes int64 `json:"overlay_bytes"`
	OverlayLimit int64 `json:"overlay_limit_bytes"`
}

// Files is a server's cache of open files.
type Files struct {
	Limit int        `json:"limit"`
	Open  []OpenFile `json:"open"`
}

// OpenFile is an open file of the store.
type OpenFile struct {
	Object uint64 `json:"object"`
	Label  string `json:"label"`
	Name   string `json:"name"` // in the server's root
	Users  int    `json:"users"`
}

// Cache is what a server keeps in memory of its block records.
type Cache struct {
	Pages     int `json:"pages"`
	Limit     int `json:"limit_pages"`
	PageBytes int `json:"page_bytes"`
}

// EntryInfo is an entry of the agreed log.
type EntryInfo struct {
	Index   uint64 `json:"index"`
	Term    uint64 `json:"term"`
	Bytes   int    `json:"bytes"`
	What    string `json:"what"` // the operation
	Decided bool   `json:"decided"`
	Applied bool   `json:"applied"`
}

// Load counts what a server has done since it started, for each volume and each connection.
type Load struct {
	UptimeSecs float64      `json:"uptime_seconds"`
	Volumes    []VolumeLoad `json:"volumes"`
	Clients    []ClientLoad `json:"clients"`
}

// VolumeLoad counts what was done to a volume.
type VolumeLoad struct {
	Object uint64 `json:"object"`
	Path   string `json:"path"`
	Counts
}

// ClientLoad counts what a client's connection asked for.
type ClientLoad struct {
	Remote   string `json:"remote"`
	Software string `json:"software"`
	Session  uint64 `json:"session"`
	Counts
}

// Counts is work done: operations, their bytes, and the time they took in all, so that two readings give
// rates and mean latencies.
type Counts struct {
	Reads      uint64 `json:"reads"`
	ReadBytes  uint64 `json:"read_bytes"`
	ReadNanos  uint64 `json:"read_ns"`
	Writes     uint64 `json:"writes"`
	WriteBytes uint64 `json:"write_bytes"`
	WriteNanos uint64 `json:"write_ns"`
}

package admin

import (
	"github.com/paxos-iscsi/paxos-iscsi/pss/auth"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
)

// The methods every server has. Those marked with an M are done by the master only; others answer NotMaster.
const (
	MethodStatus     = "status"          // reply: Status
	MethodMembers    = "members.list"    // reply: []MemberRecord
	MethodAdd        = "members.add"     // M. args: AddArgs
	MethodRemove     = "members.remove"  // M. args: MemberArgs
	MethodReplace    = "members.replace" // M. args: MemberArgs
	MethodMove       = "members.move"    // M. args: AddArgs
	MethodPromote    = "members.promote" // M. args: MemberArgs
	MethodDemote     = "members.demote"  // M. args: MemberArgs
	MethodHandOver   = "master.handover" // M. args: HandOverArgs. reply: HandOverReply
	MethodShutdown   = "shutdown"        // args: ShutdownArgs
	MethodFound      = "found"           // args: FoundArgs
	MethodCheckpoint = "checkpoint"      // reply: CheckpointReply
)

// MemberArgs names a server.
type MemberArgs struct {
	ID cell.ID `json:"id"`
}

// AddArgs names a server and where it is. Ports of 0 are those of the manual (M7).
type AddArgs struct {
	ID      cell.ID `json:"id"`
	Host    string  `json:"host"`
	UDPPort int     `json:"udp_port,omitempty"`
	TCPPort int     `json:"tcp_port,omitempty"`
}

// HandOverArgs says who is to be master; without an ID, whoever is most up to date.
type HandOverArgs struct {
	ID *cell.ID `json:"id,omitempty"`
}

// HandOverReply says who is master now.
type HandOverReply struct {
	Master cell.ID `json:"master"`
}

// ShutdownArgs says how a server is to stop: Abort, at once and without handing the mastership over. Comment
// goes to its log.
type ShutdownArgs struct {
	Abort   bool   `json:"abort,omitempty"`
	Comment string `json:"comment,omitempty"`
}

// FoundArgs founds a cell without the core servers in Without. They must be those that the server waits for: so
// that nobody founds by mistake while one of them is only slow.
type FoundArgs struct {
	Without []cell.ID `json:"without"`
}

// CheckpointReply is the index that the new checkpoint stands at.
type CheckpointReply struct {
	Index uint64 `json:"index"`
}

// MemberRecord is a member of the cell as all its servers have agreed on it.
type MemberRecord struct {
	ID       cell.ID `json:"id"`
	Role     string  `json:"role"` // "core" or "replica"
	State    string  `json:"state"`
	Member   uint64  `json:"member"` // its number in the agreement, 0 while it is out
	Identity string  `json:"identity,omitempty"`
	Host     string  `json:"host,omitempty"`
	UDPPort  int     `json:"udp_port,omitempty"`
	TCPPort  int     `json:"tcp_port,omitempty"`
}

// The states of a server, and of a MemberRecord. A record is StateAbsent while the server has not come yet.
const (
	StateFresh   = "fresh"   // an empty root, and no cell known: it waits for the others
	StateJoining = "joining" // it has asked the master to be taken in
	StateLearner = "learner" // it holds or takes the data, without a vote
	StateVoter   = "voter"
	StateMaster  = "master"
	StateAbsent  = "absent"
	StateRemoved = "removed"
)

// Status is what a server tells of itself.
type Status struct {
	ID         cell.ID  `json:"id"`
	Version    string   `json:"version"`
	UptimeSecs float64  `json:"uptime_seconds"`
	Role       string   `json:"role"`                // "core" or "replica"
	State      string   `json:"state"`               // StateFresh to StateMaster
	Cell       string   `json:"cell,omitempty"`      // identity of the cell, hexadecimal; none while fresh
	Identity   string   `json:"identity,omitempty"`  // of this server's root, hexadecimal
	Member     uint64   `json:"member,omitempty"`    // its number in the agreement
	WaitsFor   []string `json:"waits_for,omitempty"` // what founding or joining waits for

	Term     uint64   `json:"term"`
	Master   *cell.ID `json:"master"` // null while none is known
	IsMaster bool     `json:"is_master"`
	Commit   uint64   `json:"commit_index"`
	Applied  uint64   `json:"applied_index"`
	Last     uint64   `json:"last_index"`

	LogFirst    uint64      `json:"log_first_index"`
	LogBytes    int64       `json:"log_bytes"`
	Checkpoint  uint64      `json:"checkpoint_index"`
	OverlaySize int64       `json:"overlay_bytes"`
	WrittenOnce uint64      `json:"chunks_written_once"` // since the start: the log's data became them
	Clients     int         `json:"clients"`
	Root        string      `json:"root,omitempty"`
	Auth        auth.Status `json:"auth"`
	Refused     Refusals    `json:"refused"`

	HeartbeatMS int64    `json:"heartbeat_ms"`
	ElectionMS  int64    `json:"election_ms"`
	Strangers   uint64   `json:"strangers"` // messages dropped: of other cells, and of or for former members
	Space       Space    `json:"space"`
	Scrub       Scrub    `json:"scrub"`
	Repairs     Repairs  `json:"repairs"`
	Fetched     uint64   `json:"catch_up_bytes"`     // received by all catch-ups since the start
	CatchUp     *CatchUp `json:"catch_up,omitempty"` // while it takes over the difference from another server
	Health      []string `json:"health,omitempty"`   // what an operator should know, in words; empty: all is well

	Members  []Member `json:"members,omitempty"`   // as the master knows them; only there
	Changing string   `json:"changing,omitempty"`  // the change of members under way
	LastFail string   `json:"last_fail,omitempty"` // why the last change of members was put off
}

// CatchUp is how far a catch-up is.
type CatchUp struct {
	From  cell.ID `json:"from"`
	Since uint64  `json:"since_index"` // what the server had before

	Bytes       int64   `json:"bytes"`        // received
	Chunks      int64   `json:"chunks"`       // that are to be compared and fetched
	ChunksDone  int64   `json:"chunks_done"`  // of them
	Rate        int64   `json:"rate"`         // bytes a second
	SecondsLeft float64 `json:"seconds_left"` // at the pace so far
}

// Member is how far a member is, as the master knows it.
type Member struct {
	ID      cell.ID `json:"id"`
	Member  uint64  `json:"member"`
	Voter   bool    `json:"voter"`
	Match   uint64  `json:"match_index"` // it has the log up to here
	Lag     uint64  `json:"lag"`         // entries it has not
	Active  bool    `json:"active"`      // it answered within the last election time-out
	Lagging bool    `json:"lagging"`     // it needs more than the log holds
	Sending string  `json:"sending"`     // how it is sent to, in the engine's words
}

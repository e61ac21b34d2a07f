package replica

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
)

// # Members
//
// A server's disk is what makes it a member: what it has voted for and acknowledged is there and nowhere else. So
// a member's number in the agreement belongs to one root (Identity), and a server that comes back without it is
// taken in as a new member with a number that was never used, while its old number goes out in the same change.
// Nothing that the old number promised is counted from then on, and the new one has promised nothing. Until it
// is level it has no vote.
//
// Who is a member is part of the replicated state: the Table, beside raft's own ConfState. Each change of
// members is one raftpb.ConfChangeV2 whose context is the whole new Table; agreement takes one change at a
// time, on top of all that are applied, so no change can undo another.

// RootID is the identity of a root: random, made with it.
type RootID [16]byte

// String is hexadecimal.
func (r RootID) String() string { return hex.EncodeToString(r[:]) }

// MarshalText implements encoding.TextMarshaler.
func (r RootID) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *RootID) UnmarshalText(b []byte) error {
	if len(b) != 2*len(r) {
		return fmt.Errorf("an identity of %d digits", len(b))
	}
	_, err := hex.Decode(r[:], b)
	return err
}

// Record is what the cell has agreed on about one server.
type Record struct {
	ID      cell.ID `json:"id"`
	Number  uint64  `json:"number,omitempty"` // as a member; 0 while it is out
	Last    uint64  `json:"last,omitempty"`   // the highest number it ever had
	Root    RootID  `json:"root"`             // of Number
	Vote    bool    `json:"vote,omitempty"`   // it is to vote once it is level
	Removed bool    `json:"removed,omitempty"`
	// Where it is; an empty Host: where server.conf says.
	Host string `json:"host,omitempty"`
	UDP  int    `json:"udp,omitempty"`
	TCP  int    `json:"tcp,omitempty"`
}

// Table is what the cell has agreed on about its servers.
type Table struct {
	Index   uint64   `json:"index"`   // of the entry that made it; 0: the founders'
	Records []Record `json:"records"` // in order of their ids
}

// maxTable is the largest byte form of a Table.
const maxTable = 16 << 10

// errTable is wrapped by errors about bytes that are no Table.
var errTable = errors.New("not a table of members")

// Append appends the byte form of t, which is JSON.
func (t *Table) Append(b []byte) []byte {
	enc, err := json.Marshal(t)
	if err != nil {
		panic("replica: a table can't be encoded: " + err.Error()) // it has no type that could fail
	}
	return append(b, enc...)
}

// ParseTable reads what Append wrote.
func ParseTable(b []byte) (Table, error) {
	var t Table
	if len(b) > maxTable {
		return t, fmt.Errorf("%w: %d bytes", errTable, len(b))
	}
	if err := json.Unmarshal(b, &t); err != nil {
		return t, fmt.Errorf("%w: %w", errTable, err)
	}
	for i, r := range t.Records {
		id, ok := cell.FromRaft(r.Last)
		switch {
		case r.ID >= cell.MaxServers || i > 0 && t.Records[i-1].ID >= r.ID,
			r.Last != 0 && (!ok || id != r.ID), r.Number != 0 && r.Number != r.Last,
			r.Vote && !r.ID.Core(), len(r.Host) > maxHost,
			r.UDP < 0 || r.UDP > 65535 || r.TCP < 0 || r.TCP > 65535:
			return Table{}, fmt.Errorf("%w: the record of server %d", errTable, r.ID)
		}
	}
	return t, nil
}

// maxHost is the longest name of a host.
const maxHost = 255

// Find returns the record of a server; without one it is empty, but for the id.
func (t *Table) Find(id cell.ID) Record {
	for _, r := range t.Records {
		if r.ID == id {
			return r
		}
	}
	return Record{ID: id}
}

// with returns a copy of t with one record replaced.
func (t *Table) with(r Record) Table {
	n := Table{Records: slices.Clone(t.Records)}
	i, found := slices.BinarySearchFunc(n.Records, r.ID, func(a Record, id cell.ID) int { return int(a.ID) - int(id) })
	if found {
		n.Records[i] = r
	} else {
		n.Records = slices.Insert(n.Records, i, r)
	}
	return n
}

// Gone says that a member's number is out of use for ever.
func (t *Table) Gone(number uint64) bool {
	id, ok := cell.FromRaft(number)
	if !ok {
		return true
	}
	r := t.Find(id)
	return r.Last > number || r.Last == number && r.Number != number
}

// nextNumber is the number of the next member that a server becomes.
func (r *Record) nextNumber() uint64 {
	if r.Last == 0 {
		return r.ID.Raft()
	}
	return r.ID.Member(cell.Incarnation(r.Last) + 1)
}

// Founder is a core server that takes part in founding a cell.
type Founder struct {
	ID   cell.ID `json:"id"`
	Root RootID  `json:"root"`
}

// foundersTable is the table of a new cell, and foundersMembers its members: all vote.
func foundersTable(fs []Founder) Table {
	var t Table
	for _, f := range fs {
		t.Records = append(t.Records, Record{ID: f.ID, Number: f.ID.Raft(), Last: f.ID.Raft(), Root: f.Root, Vote: true})
	}
	return t
}

func foundersMembers(fs []Founder) raftpb.ConfState {
	var m raftpb.ConfState
	for _, f := range fs {
		m.Voters = append(m.Voters, f.ID.Raft())
	}
	return m
}

// membersTable is a table for members that were set from outside (Config.Members).
func membersTable(m raftpb.ConfState) Table {
	var t Table
	for _, n := range slices.Concat(m.Voters, m.Learners) {
		if id, ok := cell.FromRaft(n); ok {
			t = t.with(Record{ID: id, Number: n, Last: n, Vote: slices.Contains(m.Voters, n)})
		}
	}
	return t
}

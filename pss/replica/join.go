package replica

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/agreement"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/wire"
)

// # Founding and joining
//
// A root that belongs to no cell does not vote, campaign or acknowledge. Its server announces itself until it has
// founded a cell or found one. Announcements are datagrams: any of them may be lost, late or doubled.
//
// The core servers of server.conf found a cell in two rounds. A fresh one that has heard of all the others, each
// fresh, pledges itself to the set of their identities. One that is pledged to a set, and has heard of all the
// others that they are pledged to the same, founds the cell: it writes so to its root, and its
// announcements say so from then on. A fresh server that hears of a founded cell whose set has its own identity
// belongs to it; any other joins it.
//
// No two cells come of this, even if servers lose their disks meanwhile. A server hears only what was said after it
// asked (the echo of its own clock, and of a number that each process draws anew), so of another server's identities it meets the later ones later, and the
// sets that it pledges itself to only ever go forward in each place; this holds across its own restarts too.
// Suppose S founded T and R founded another set U. Each needed the other's pledge, unless the other's place in the
// set is held by another identity. If T has S and R as U has, both were pledged to T and to U; S ended with T and R
// with U, since who has founded pledges itself no more; so S went from U to T and R from T to U, and one of
// them went back in a place where the sets differ. If S's place differs, S had lost its disk before U was made, and
// with it all that the cell of T had on it: a server that is left of T was no majority of it, or it would
// itself be needed for U, which it does not pledge itself to.
//
// A joiner asks all servers to be taken in; the master sees to it (Core.admit). It learns its number from any
// server that has applied the change, and has promised nothing under it before it has it on its disk.

// Named limits of founding and joining.
const (
	announceEvery = 100 * time.Millisecond // between announcements, while a root belongs to no cell
	orphanEvery   = 500 * time.Millisecond // between announcements of a member that knows no master
	applicantLife = 2 * time.Second        // a wish to be taken in counts so long
	cellSilence   = 5 * time.Second        // after so long without a word of a cell to be joined, it may be no more
)

// Announce is what servers tell each other about founding and joining, JSON in a datagram.
type Announce struct {
	Root     RootID      `json:"root"`            // of the sender
	Cell     wire.CellID `json:"cell"`            // that the sender belongs to; zero: to none yet
	Founders []Founder   `json:"fs,omitempty"`    // of Cell; of a fresh server: what it is pledged to
	Number   uint64      `json:"n,omitempty"`     // of the sender as a member
	Life     uint64      `json:"life,omitempty"`  // of a fresh server's process: random
	Heard    uint64      `json:"heard,omitempty"` // the receiver's Life, of which the Echo is
	Wants    bool        `json:"wants,omitempty"` // it asks to be taken in to Cell, or to whatever cell there is
	Host     string      `json:"host,omitempty"`  // with Wants: where it is
	UDP      int         `json:"udp,omitempty"`
	TCP      int         `json:"tcp,omitempty"`

	// In answers of a cell's members:
	For    RootID `json:"for"`             // the root asked about
	Given  uint64 `json:"given,omitempty"` // its number as a member
	Gone   uint64 `json:"gone,omitempty"`  // the number that it has, and that is out of use
	Reason string `json:"why,omitempty"`   // why it is not taken in

	// Between members: what a server that starts has promised.
	Asks        uint64             `json:"asks,omitempty"`    // it asks; the life of its Memory
	Answers     uint64             `json:"answers,omitempty"` // the Asks that this answers
	Promise     *agreement.Promise `json:"promise,omitempty"` // what is known of who asked
	Led         bool               `json:"led,omitempty"`     // the sender has known a master since it started
	Leased      bool               `json:"leased,omitempty"`  // it is master
	Applied     uint64             `json:"applied,omitempty"` // the entry that its state stands at
	AppliedTerm uint64             `json:"aterm,omitempty"`
	Voters      []uint64           `json:"voters,omitempty"`   // the members that vote, as of Applied
	Outgoing    []uint64           `json:"outgoing,omitempty"` // those before the change of members that is under way
}

// maxReason is the longest Reason in bytes: the rest of an Announce fits a datagram with it.
const maxReason = 160

// errAnnounce is wrapped by errors about bytes that are no Announce.
var errAnnounce = errors.New("not an announcement")

// Append appends the byte form of a.
func (a *Announce) Append(b []byte) []byte {
	enc, err := json.Marshal(a)
	if err != nil {
		panic("replica: an announcement can't be encoded: " + err.Error()) // it has no type that could fail
	}
	return append(b, enc...)
}

// ParseAnnounce reads what Append wrote.
func ParseAnnounce(b []byte) (Announce, error) {
	var a Announce
	if len(b) > wire.MaxDatagramBody {
		return a, fmt.Errorf("%w: %d bytes", errAnnounce, len(b))
	}
	if err := json.Unmarshal(b, &a); err != nil {
		return a, fmt.Errorf("%w: %w", errAnnounce, err)
	}
	for i, f := range a.Founders {
		if !f.ID.Core() || i > 0 && a.Founders[i-1].ID >= f.ID {
			return Announce{}, fmt.Errorf("%w: founder %d", errAnnounce, f.ID)
		}
	}
	for _, number := range slices.Concat(a.Voters, a.Outgoing) {
		if id, ok := cell.FromRaft(number); !ok || !id.Core() {
			return Announce{}, fmt.Errorf("%w: voter %d", errAnnounce, number)
		}
	}
	if len(a.Host) > maxHost || len(a.Reason) > maxReason || a.UDP < 0 || a.UDP > 65535 || a.TCP < 0 || a.TCP > 65535 {
		return Announce{}, fmt.Errorf("%w: an address or a reason", errAnnounce)
	}
	return a, nil
}

// Notice is an Announce on its way. Stamp is the sender's clock, Echo the newest Stamp it had from the receiver.
type Notice struct {
	To          cell.ID
	Announce    Announce
	Stamp, Echo time.Duration
}

// entrance is the way of a root into a cell. It has no clock and no socket.
type entrance struct {
	identity Identity
	servers  []cell.Server // of server.conf
	since    time.Duration // when it began
	sentAt   time.Duration

	life   uint64
	heard  map[cell.ID]heard
	lives  map[cell.ID]uint64        // of each server's process
	stamps map[cell.ID]time.Duration // newest of each of these
	pledge []Founder

	cell     wire.CellID   // to be joined; zero: none is known yet
	founders []Founder     // of it
	wordAt   time.Duration // when a member of it was heard last
	reason   string        // why it isn't taken in
	decided  *Identity     // to be written to the root
}

// heard is the last that a fresh core server said.
type heard struct {
	root   RootID
	pledge []Founder
	echo   time.Duration // our clock, as it knew it
}

func newEntrance(id Identity, servers []cell.Server, life uint64, now time.Duration) *entrance {
	// A server that gave up its place knows its cell, and joins no other.
	return &entrance{life: life, lives: make(map[cell.ID]uint64), identity: id, servers: servers, since: now, sentAt: -announceEvery, cell: id.Cell, founders: id.Founders,
		heard: make(map[cell.ID]heard), stamps: make(map[cell.ID]time.Duration)}
}

// announce adds what is due to be said.
func (e *entrance) announce(now time.Duration, out []Notice) []Notice {
	if e.decided != nil || now-e.sentAt < announceEvery {
		return out
	}
	if e.identity.Cell == (wire.CellID{}) && e.cell != (wire.CellID{}) && now-e.wordAt > cellSilence {
		// Whoever founded it has lost its disk since, it seems. This is as if the server were started anew.
		*e = *newEntrance(e.identity, e.servers, e.life, now)
	}
	e.sentAt = now
	a := Announce{Root: e.identity.Root, Founders: e.pledge}
	if e.cell != (wire.CellID{}) || !e.identity.ID.Core() {
		a = Announce{Root: e.identity.Root, Wants: true}
		for _, s := range e.servers {
			if s.ID == e.identity.ID {
				a.Host, a.UDP, a.TCP = s.Host, s.UDPPort, s.TCPPort
			}
		}
	}
	for _, s := range e.servers {
		if s.ID != e.identity.ID {
			a.Life, a.Heard = e.life, e.lives[s.ID]
			out = append(out, Notice{To: s.ID, Announce: a, Stamp: now, Echo: e.stamps[s.ID]})
		}
	}
	return out
}

// hear takes another server's announcement.
func (e *entrance) hear(now time.Duration, from cell.ID, a Announce, stamp, echo time.Duration) {
	if e.lives[from] != a.Life { // its clock began anew
		e.lives[from], e.stamps[from] = a.Life, 0
	}
	e.stamps[from] = max(e.stamps[from], stamp)
	switch {
	case e.decided != nil:
	case a.Cell != (wire.CellID{}):
		e.hearCell(now, a)
	case !a.Wants && from.Core() && e.identity.ID.Core() && e.cell == (wire.CellID{}):
		if old := e.heard[from]; a.Heard == e.life && echo >= e.since && echo <= now && echo >= old.echo {
			e.heard[from] = heard{a.Root, a.Founders, echo}
			e.found(e.set())
		}
	}
}

// hearCell takes the word of a member of a cell.
func (e *entrance) hearCell(now time.Duration, a Announce) {
	fresh := e.cell == (wire.CellID{})
	if !fresh && a.Cell != e.cell {
		return // another cell's; Core counts it
	}
	e.wordAt = now
	own := Founder{e.identity.ID, e.identity.Root}
	switch {
	case a.Given != 0 && a.For == e.identity.Root:
		e.decide(a.Cell, a.Given, a.Founders)
	case fresh && slices.Contains(a.Founders, own):
		e.decide(a.Cell, own.ID.Raft(), a.Founders)
	case fresh:
		e.cell, e.founders = a.Cell, a.Founders
		e.sentAt -= announceEvery // ask at once
	}
	if a.For == e.identity.Root {
		e.reason = a.Reason
	}
}

// set is the set of identities of the core servers, if all of the others have been heard.
func (e *entrance) set() []Founder {
	var set []Founder
	for _, s := range e.servers {
		h, ok := e.heard[s.ID]
		switch {
		case !s.ID.Core():
		case s.ID == e.identity.ID:
			set = append(set, Founder{s.ID, e.identity.Root})
		case ok:
			set = append(set, Founder{s.ID, h.root})
		default:
			return nil
		}
	}
	return set
}

// found pledges this server to a set, and founds the cell when all others are pledged to it too.
func (e *entrance) found(set []Founder) {
	if set == nil {
		return
	}
	if !slices.Equal(e.pledge, set) {
		e.pledge = set
		e.sentAt -= announceEvery // tell at once
	}
	for _, f := range set {
		if f.ID != e.identity.ID && !slices.Equal(e.heard[f.ID].pledge, set) {
			return
		}
	}
	e.decide(hashFounders(set), e.identity.ID.Raft(), set)
}

// foundWithout founds the cell with the core servers that were heard. An operator has said that the others, which
// must be those in without, will not come.
func (e *entrance) foundWithout(without []cell.ID) error {
	var set []Founder
	var missing []cell.ID
	for _, s := range e.servers {
		h, ok := e.heard[s.ID]
		switch {
		case !s.ID.Core():
		case s.ID == e.identity.ID:
			set = append(set, Founder{s.ID, e.identity.Root})
		case ok:
			set = append(set, Founder{s.ID, h.root})
		default:
			missing = append(missing, s.ID)
		}
	}
	slices.Sort(without)
	switch {
	case e.decided != nil || e.cell != (wire.CellID{}):
		return errors.New("there is a cell already, and this server joins it")
	case !e.identity.ID.Core():
		return errors.New("a replica can't found a cell: ask a core server")
	case e.pledge != nil:
		return errors.New("all core servers have been heard, and the cell is being founded")
	case !slices.Equal(without, missing):
		return fmt.Errorf("the core servers that are not there are %v, not %v", missing, without)
	case len(set) <= len(missing):
		return fmt.Errorf("%d of %d core servers are there, and a majority is needed", len(set), len(set)+len(missing))
	}
	e.decide(hashFounders(set), e.identity.ID.Raft(), set)
	return nil
}

// decide ends the entrance: the identity is to be written, then to be lived by.
func (e *entrance) decide(c wire.CellID, number uint64, founders []Founder) {
	id := e.identity
	id.Cell, id.Number, id.Founders = c, number, founders
	if owner, ok := cell.FromRaft(number); !ok || owner != id.ID || len(founders) == 0 {
		return // a confused server's word
	}
	e.decided = &id
}

// waitsFor says in words what the entrance waits for.
func (e *entrance) waitsFor() []string {
	switch {
	case e.decided != nil:
		return nil
	case e.cell != (wire.CellID{}) && e.reason != "":
		return []string{"the cell's master to take it in: " + e.reason}
	case e.cell != (wire.CellID{}):
		return []string{"the cell's master to take it in"}
	case !e.identity.ID.Core():
		return []string{"a cell to join: the core servers have not founded one yet"}
	}
	var w []string
	for _, s := range e.servers {
		h, ok := e.heard[s.ID]
		switch {
		case s.ID == e.identity.ID || !s.ID.Core():
		case !ok:
			w = append(w, fmt.Sprintf("core server %d, of which nothing was heard", s.ID))
		case !slices.Equal(h.pledge, e.pledge):
			w = append(w, fmt.Sprintf("core server %d, to agree on the founders", s.ID))
		}
	}
	return w
}

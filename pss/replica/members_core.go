package replica

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pss/agreement"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/wire"
)

// Named limits of promotion, and of what is said of waiting.
const (
	levelEntries = 1024             // a learner that lacks no more of the log is level
	sayEvery     = 30 * time.Second // between log lines about what is waited for
	levelLooks   = 8                // ticks in a row in which it must be level before it gets a vote
)

// ErrRetired reports that this server's number is out of use: it was removed from the cell, or another root has
// taken its place.
var ErrRetired = errors.New("this server is not a member of the cell any more")

// membership is a Core's part in who belongs to the cell.
type membership struct {
	identity Identity
	entrance *entrance // nil as soon as it is a member
	keeping  bool      // the identity that the entrance decided on is being written
	table    Table

	applicants map[cell.ID]applicant // of a master; at most one for each id
	level      map[uint64]int        // of a master: for so many ticks a learner was level
	proposed   uint64                // index of the change that was proposed last
	inTerm     uint64                // and its term
	what       string                // and what it is, in words
	confirm    bool                  // of a master: an entry is to follow the change that was applied last
	since      time.Duration         // when this server was not master last
	putOff     string                // why the last wish was not carried out

	stamps    map[cell.ID]time.Duration // newest announcement of each server
	orphanAt  time.Duration             // when a member without a master announced itself last
	strangers uint64                    // messages dropped
	waited    string                    // what the log was told last that this server waits for
	saidAt    time.Duration
}

// applicant is a server that asks to be taken in.
type applicant struct {
	Announce
	at time.Duration
}

func newMembership(cfg Config, now time.Duration) membership {
	m := membership{identity: cfg.Identity, applicants: make(map[cell.ID]applicant), level: make(map[uint64]int),
		stamps: make(map[cell.ID]time.Duration)}
	switch {
	case cfg.Identity.Number != 0:
		m.table = foundersTable(cfg.Identity.Founders)
	case cfg.Identity.Root != RootID{}:
		m.entrance = newEntrance(cfg.Identity, cfg.Servers, cfg.Life, now)
	default: // members set from outside
		m.identity = Identity{ID: cfg.ID, Number: cfg.ID.Raft()}
		m.table = membersTable(cfg.Members)
	}
	return m
}

// founders is who the members were at first.
func (m *membership) founders(cfg *Config) raftpb.ConfState {
	if m.identity.Root == (RootID{}) {
		return cfg.Members
	}
	if m.entrance != nil {
		return raftpb.ConfState{}
	}
	return foundersMembers(m.identity.Founders)
}

// Belongs says whether this server is a member of a cell.
func (c *Core) Belongs() bool { return c.mem.entrance == nil }

// Identity is whose root it is.
func (c *Core) Identity() Identity { return c.mem.identity }

// Table is what the cell has agreed on about its servers, as of the applied index.
func (c *Core) Table() Table { return c.mem.table }

// meet lets time pass for founding, joining, and the master's care for the members.
func (c *Core) meet() error {
	if e := c.mem.entrance; e != nil {
		c.notices = e.announce(c.now, c.notices)
		c.sayWaiting(e)
		return nil
	}
	if !c.cell() {
		return nil // members set from outside don't change
	}
	if c.orphan() && c.now-c.mem.orphanAt >= orphanEvery {
		// It may be that its place was taken, or that it was moved, while it was down.
		c.mem.orphanAt = c.now
		for _, r := range c.mem.table.Records {
			if r.ID != c.cfg.ID {
				c.tell(r.ID, Announce{})
			}
		}
	}
	return c.govern()
}

// sayWaiting tells the log what founding or joining waits for, when that changes and now and then.
func (c *Core) sayWaiting(e *entrance) {
	m := &c.mem
	w := strings.Join(e.waitsFor(), "; ")
	if w != "" && (w != m.waited || c.now-m.saidAt > sayEvery) {
		m.waited, m.saidAt = w, c.now
		c.logger.Info("waiting for " + w)
	}
}

// orphan says that this member has heard of no master for longer than one is silent.
func (c *Core) orphan() bool {
	return !c.view.Self && c.now-c.heardAt > 2*c.cfg.Timing.Tick*time.Duration(c.cfg.Timing.Election)
}

// handMembers moves what is to be told and kept to out.
func (c *Core) handMembers(out *Output) {
	out.Notices = append(out.Notices, c.notices...)
	clear(c.notices)
	c.notices = c.notices[:0]
	if e := c.mem.entrance; e != nil && e.decided != nil && !c.mem.keeping {
		c.mem.keeping, out.Identity = true, e.decided
	}
	if c.tableNews {
		c.tableNews = false
		t := c.mem.table
		out.Table = &t
	}
}

// tell announces this member to another server.
func (c *Core) tell(to cell.ID, a Announce) {
	m := &c.mem
	a.Root, a.Cell, a.Number, a.Founders = m.identity.Root, m.identity.Cell, m.identity.Number, m.identity.Founders
	c.notices = append(c.notices, Notice{To: to, Announce: a, Stamp: c.now, Echo: m.stamps[to]})
}

// Hear takes another server's announcement. An error means that this server can't go on.
func (c *Core) Hear(now time.Duration, from cell.ID, a Announce, stamp, echo time.Duration) error {
	c.now = max(c.now, now)
	m := &c.mem
	if e := m.entrance; e != nil {
		if m.identity.Cell != (wire.CellID{}) && a.Cell != (wire.CellID{}) && a.Cell != m.identity.Cell {
			m.strangers++
		}
		e.hear(c.now, from, a, stamp, echo)
		return nil
	}
	m.stamps[from] = max(m.stamps[from], stamp)
	switch {
	case !c.cell():
		return nil
	case a.Cell == (wire.CellID{}): // fresh, or it wants to be taken in
		return c.hearOutsider(from, a)
	case a.Cell != m.identity.Cell:
		m.strangers++
	case a.Gone == m.identity.Number && a.For == m.identity.Root:
		return fmt.Errorf("%w: %s", ErrRetired, a.Reason)
	case a.For == (RootID{}) && m.table.Gone(a.Number):
		c.tell(from, Announce{For: a.Root, Gone: a.Number, Reason: m.table.whyGone(from)})
	case a.Asks != 0:
		c.remind(from, a)
	case a.Answers != 0:
		return c.reminded(from, a)
	}
	return nil
}

func (t *Table) whyGone(id cell.ID) string {
	r := t.Find(id)
	switch {
	case r.Removed:
		return "it was removed from the cell; \"members.add\" lets it in again"
	case r.Number != 0:
		return fmt.Sprintf("another root, %v, has taken its place", r.Root)
	}
	return "it was replaced"
}

// hearOutsider answers a root that belongs to no cell, and notes its wish.
func (c *Core) hearOutsider(from cell.ID, a Announce) error {
	r := c.mem.table.Find(from)
	answer := Announce{For: a.Root}
	switch {
	case r.Number != 0 && r.Root == a.Root:
		answer.Given = r.Number
	case a.Wants && c.view.Self:
		c.mem.applicants[from] = applicant{a, c.now}
		answer.Reason = c.mem.putOff
	case a.Wants && !c.view.Known:
		answer.Reason = "the cell has no master"
	}
	answer.Reason = answer.Reason[:min(len(answer.Reason), maxReason)]
	c.tell(from, answer)
	return nil
}

// IdentityKept tells that Output.Identity is on stable storage: from here on this server is that member.
func (c *Core) IdentityKept(now time.Duration) error {
	c.now = max(c.now, now)
	m := &c.mem
	m.identity, m.keeping = *m.entrance.decided, false
	m.entrance, c.tableNews = nil, true
	members := c.base.members
	if c.base.index == 0 {
		m.table = foundersTable(m.identity.Founders)
		members = foundersMembers(m.identity.Founders)
	}
	c.logger.Info("member of a cell", "cell", m.identity.Cell, "number", m.identity.Number)
	return c.engage(members)
}

// engage starts agreement as the member that this server is.
func (c *Core) engage(members raftpb.ConfState) error {
	cfg := agreement.Config{
		ID: c.cfg.ID, Self: cmp.Or(c.mem.identity.Number, c.cfg.ID.Raft()), Members: members, Applied: c.applied, Log: c.log,
		Timing: c.cfg.Timing, Logger: c.cfg.Logger, Snapshot: c.snapshot,
	}
	if m := c.cfg.Memory; m != nil {
		cfg.Held, cfg.Start, cfg.Life, cfg.Promises = true, m.start, m.life(), m.of(c.mem.identity.Cell)
	}
	node, err := agreement.NewNode(cfg, c.now)
	if err != nil {
		return err
	}
	c.node, c.view = node, node.View()
	c.beginRecall()
	return nil
}

// foreign says whether a raft message is of another member than the one that has its sender's place, or for
// another than this one. Raft itself copes with everything that is left.
func (c *Core) foreign(m *raftpb.Message) bool {
	if c.mem.entrance == nil && m.To == c.mem.identity.Number && !c.mem.table.Gone(m.From) {
		return false
	}
	c.mem.strangers++
	return true
}

// applyMembers applies an agreed change of members.
func (c *Core) applyMembers(e *raftpb.Entry) error {
	var cc raftpb.ConfChangeV2
	if err := cc.Unmarshal(e.Data); err != nil {
		return fmt.Errorf("change of members: %w", err)
	}
	if len(cc.Context) > 0 {
		t, err := ParseTable(cc.Context)
		if err != nil {
			return err
		}
		t.Index = e.Index
		c.mem.table, c.tableNews = t, true
		if t.Gone(c.mem.identity.Number) && c.cell() {
			return fmt.Errorf("%w: %s", ErrRetired, t.whyGone(c.cfg.ID))
		}
	}
	c.node.ApplyMembers(cc)
	c.mem.confirm = c.view.Self
	now := c.node.Members()
	c.logger.Info("members", "index", e.Index, "members", now.String())
	return nil
}

// cell says that this Core lives under an Identity.
func (c *Core) cell() bool { return c.mem.identity.Root != RootID{} }

// Changing is the change of members under way, in words; none: "".
func (c *Core) Changing() string {
	m, ms := &c.mem, c.node.Members()
	switch {
	case m.inTerm == c.view.Term && m.proposed > c.applied:
		return m.what
	case len(ms.VotersOutgoing) > 0 && m.inTerm == c.view.Term:
		return m.what + " (to be confirmed by a majority of the members before and after it)"
	case len(ms.VotersOutgoing) > 0:
		return "a change that an earlier master began"
	}
	return ""
}

// govern is a master's care for the members: it takes servers in that ask for it, and gives a vote to those that are
// level and are to have one.
func (c *Core) govern() error {
	m := &c.mem
	if !c.view.Self || !c.ready {
		m.since = c.now
		clear(m.applicants)
		clear(m.level)
		m.putOff, m.confirm = "", false
		return nil
	}
	if m.confirm && c.Changing() == "" {
		return c.confirmChange()
	}
	// A new master does not know yet who is up.
	if c.now-m.since < c.cfg.Timing.Tick*time.Duration(c.cfg.Timing.Election) || c.Changing() != "" || c.node.HandingOver() {
		return nil
	}
	for id := range cell.ID(cell.MaxServers) {
		a, ok := m.applicants[id]
		if !ok {
			continue
		}
		if c.now-a.at > applicantLife {
			delete(m.applicants, id)
			continue
		}
		done, err := c.admit(id, a)
		if done || err != nil {
			return err
		}
	}
	return c.promoteLevel()
}

// confirmChange has an empty entry follow a change of members. Who acknowledges it has on its disk that the change was
// agreed on. Before that only the master may know so, and without its disk the others would go on with the members
// before the change, of which a majority may not be there any more.
func (c *Core) confirmChange() error {
	m := &c.mem
	index, term, err := c.node.Propose([]raftpb.Entry{{}}, &c.agreed)
	if errors.Is(err, agreement.ErrRefused) {
		return nil // the next tick tries again
	}
	if err != nil {
		return err
	}
	m.confirm, m.proposed, m.inTerm = false, index, term
	m.what += " (to be confirmed)"
	return nil
}

// admit takes a server in: its old number goes out and a new one comes in, without a vote, in one change.
func (c *Core) admit(id cell.ID, a applicant) (bool, error) {
	m := &c.mem
	r := m.table.Find(id)
	if r.Number != 0 && r.Root == a.Root {
		delete(m.applicants, id)
		return false, nil
	}
	if err := c.mayAdmit(&r); err != nil {
		m.putOff = err.Error()
		return false, nil
	}
	var changes []raftpb.ConfChangeSingle
	if r.Number != 0 {
		changes = append(changes, raftpb.ConfChangeSingle{Type: raftpb.ConfChangeRemoveNode, NodeID: r.Number})
	}
	if r.Last == 0 {
		r.Vote = id.Core()
	}
	r.Last = r.nextNumber()
	r.Number, r.Root = r.Last, a.Root
	r.Host, r.UDP, r.TCP = a.Host, a.UDP, a.TCP
	changes = append(changes, raftpb.ConfChangeSingle{Type: raftpb.ConfChangeAddLearnerNode, NodeID: r.Number})
	ok, err := c.change(fmt.Sprintf("server %d is taken in as member %d", id, r.Number), m.table.with(r), changes)
	if ok {
		m.putOff = ""
		delete(m.applicants, id)
	}
	return ok, err
}

// mayAdmit says why a server can't be taken in now, or nothing.
func (c *Core) mayAdmit(r *Record) error {
	known := slices.ContainsFunc(c.cfg.Servers, func(s cell.Server) bool { return s.ID == r.ID })
	switch {
	case r.Removed:
		return fmt.Errorf("server %d was removed from the cell; \"members.add\" lets it in again", r.ID)
	case r.Last == 0 && !known && c.mem.table.Find(r.ID).Host == "":
		return fmt.Errorf("server %d is not in the master's server.conf; \"members.add\" lets it in", r.ID)
	case r.Number == 0:
		return nil
	}
	voters := slices.Clone(c.node.Members().Voters)
	at := slices.Index(voters, r.Number)
	if !c.silent(r.Number) {
		return fmt.Errorf("server %d is up with another root, or was until now; two can't have one id", r.ID)
	}
	if at < 0 {
		return nil
	}
	return c.survives(slices.Delete(slices.Clone(voters), at, at+1), len(voters), c.lately())
}

// silent says that a member has not answered this master for the time of an election, and had that time.
func (c *Core) silent(number uint64) bool {
	return c.now-max(c.node.Seen(number), c.mem.since) > c.cfg.Timing.Tick*time.Duration(c.cfg.Timing.Election)
}

// lately is the time since which a server must have been heard of to be counted on by a master that acts by itself.
func (c *Core) lately() time.Duration {
	return c.now - c.cfg.Timing.Tick*time.Duration(c.cfg.Timing.Election)/2
}

// survives says why the cell could not go on with these voters, or nothing. Until the change is through it takes a
// majority of those before, too, and who goes out is not counted on for it. Only who answers a heartbeat that was sent after since is up.
func (c *Core) survives(voters []uint64, before int, since time.Duration) error {
	up := 0
	var down []string
	for _, p := range c.node.Progress(nil) {
		if !slices.Contains(voters, p.Member) {
			continue
		}
		if c.node.Heard(p.Member) >= since {
			up++
		} else {
			down = append(down, fmt.Sprint(p.ID))
		}
	}
	if need := max(len(voters), before)/2 + 1; up < need {
		slices.Sort(down)
		return fmt.Errorf("of the %d core servers left, %d must be up, and %d are; down: %v", len(voters), need, up, down)
	}
	return nil
}

// promoteLevel gives a vote to a learner that is to have one and has been level for a while.
func (c *Core) promoteLevel() error {
	last := c.node.Position().Last
	voters := c.node.Members().Voters
	for _, p := range c.node.Progress(nil) {
		r := c.mem.table.Find(p.ID)
		if p.Voter || !r.Vote || r.Number != p.Member || !p.Active || p.Lagging || p.Match+levelEntries < last || p.Match == 0 {
			delete(c.mem.level, p.Member)
			continue
		}
		if c.mem.level[p.Member]++; c.mem.level[p.Member] < levelLooks {
			continue
		}
		if err := c.survives(append(slices.Clone(voters), p.Member), len(voters), c.lately()); err != nil {
			c.mem.putOff = fmt.Sprintf("server %d gets no vote yet: %v", p.ID, err)
			continue
		}
		_, err := c.change(fmt.Sprintf("server %d gets a vote", p.ID), c.mem.table.with(r),
			[]raftpb.ConfChangeSingle{{Type: raftpb.ConfChangeAddNode, NodeID: p.Member}})
		return err
	}
	return nil
}

// change proposes a change of members. It reports false when agreement does not take it now.
func (c *Core) change(what string, t Table, changes []raftpb.ConfChangeSingle) (bool, error) {
	if len(changes) == 0 {
		// The table alone changes. Raft takes a change without content for the end of a joint one, so this one
		// gives the master the vote that it has.
		changes = []raftpb.ConfChangeSingle{{Type: raftpb.ConfChangeAddNode, NodeID: c.mem.identity.Number}}
	}
	cc := raftpb.ConfChangeV2{Changes: changes, Context: t.Append(nil)}
	data, err := cc.Marshal()
	if err != nil {
		return false, fmt.Errorf("change of members: %w", err)
	}
	index, term, err := c.node.Propose([]raftpb.Entry{{Type: raftpb.EntryConfChangeV2, Data: data}}, &c.agreed)
	if errors.Is(err, agreement.ErrRefused) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	c.mem.proposed, c.mem.inTerm, c.mem.what = index, term, what
	c.logger.Info("change of members", "what", what, "index", index)
	return true, nil
}

// describe adds what the Core knows of its place in the cell.
func (c *Core) describe(st *admin.Status) {
	m := &c.mem
	number := m.identity.Number
	switch {
	case m.entrance != nil && m.entrance.cell == (wire.CellID{}):
		st.State = admin.StateFresh
	case m.entrance != nil:
		st.State = admin.StateJoining
	case c.view.Self:
		st.State = admin.StateMaster
	case slices.Contains(c.node.Members().Voters, number):
		st.State = admin.StateVoter
	default:
		st.State = admin.StateLearner
	}
	if m.entrance != nil {
		st.WaitsFor = m.entrance.waitsFor()
	}
	if what := c.recalls(); what != "" {
		st.WaitsFor = append(st.WaitsFor, what)
	}
	if m.identity.Root != (RootID{}) {
		st.Identity = m.identity.Root.String()
	}
	if m.identity.Cell != (wire.CellID{}) {
		st.Cell = m.identity.Cell.String()
	}
	st.Member, st.Strangers = number, m.strangers
	if c.view.Self {
		st.Changing, st.LastFail = c.Changing(), m.putOff
	}
}

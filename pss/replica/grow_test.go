package replica

import (
	crand "crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss"
	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pss/agreement"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/wire"
)

// estate is a cell of any size whose servers may have different ideas of server.conf.
type estate struct {
	t       *testing.T
	conf    *cell.Config // of all that ever run
	servers map[cell.ID]*Replica
}

// newEstate makes room for servers; none is started.
func newEstate(t *testing.T, ids ...cell.ID) *estate {
	t.Helper()
	e := &estate{t: t, conf: &cell.Config{File: "server.conf"}, servers: make(map[cell.ID]*Replica)}
	for _, id := range ids {
		ports := freePorts(t, 2)
		e.conf.Servers = append(e.conf.Servers, cell.Server{ID: id, Host: "127.0.0.1", TCPPort: ports[0], UDPPort: ports[1], Path: t.TempDir()})
	}
	t.Cleanup(func() {
		if t.Failed() {
			report(t, slices.Collect(maps.Values(e.servers))...)
		}
		for id := range e.servers {
			e.stop(id)
		}
	})
	return e
}

// confOf is the server.conf that lists these.
func (e *estate) confOf(ids ...cell.ID) *cell.Config {
	c := &cell.Config{File: "server.conf"}
	for _, s := range e.conf.Servers {
		if slices.Contains(ids, s.ID) {
			c.Servers = append(c.Servers, s)
		}
	}
	return c
}

func (e *estate) start(conf *cell.Config, ids ...cell.ID) {
	e.t.Helper()
	for _, id := range ids {
		s, _ := conf.Server(id)
		if err := os.Mkdir(s.Root(), 0o750); err != nil && !errors.Is(err, os.ErrExist) {
			e.t.Fatal(err)
		}
		r, err := Open(Options{Cell: conf, ID: id, Root: s.Root(), Timing: agreement.LAN,
			Logger: slog.New(slog.DiscardHandler), SegmentBytes: 4 << 20, CheckpointBytes: 1 << 20})
		check(e.t, err)
		e.servers[id] = r
	}
}

func (e *estate) stop(ids ...cell.ID) {
	e.t.Helper()
	for _, id := range ids {
		if r := e.servers[id]; r != nil {
			delete(e.servers, id)
			check(e.t, r.Close())
		}
	}
}

func (e *estate) wipe(id cell.ID) {
	e.t.Helper()
	e.stop(id)
	s, _ := e.conf.Server(id)
	check(e.t, os.RemoveAll(s.Root()))
}

// master waits for a master.
func (e *estate) master() *Replica {
	e.t.Helper()
	var m *Replica
	eventually(e.t, "a master", func() bool {
		for _, r := range e.servers {
			if rep := r.report(); rep.IsMaster {
				m = r
				return true
			}
		}
		return false
	})
	return m
}

// settled waits until exactly these vote, nothing is being changed, and everybody that runs has applied the same.
func (e *estate) settled(voters ...cell.ID) {
	e.t.Helper()
	eventually(e.t, "settled", func() bool {
		var m *admin.Status
		all := make(map[cell.ID]admin.Status)
		for id, r := range e.servers {
			st := r.report()
			if all[id] = st; st.IsMaster {
				m = &st
			}
		}
		if m == nil || m.Changing != "" {
			return false
		}
		var now []cell.ID
		for _, p := range m.Members {
			if p.Voter {
				now = append(now, p.ID)
			}
		}
		for _, st := range all {
			if st.Applied != m.Applied || st.State == admin.StateFresh || st.State == admin.StateJoining {
				return false
			}
		}
		return slices.Equal(now, voters)
	})
}

// call calls a method at whoever is master.
func (e *estate) call(method string, args any) error {
	e.t.Helper()
	return e.callAt(e.confOf(keys(e.servers)...), method, args)
}

// callAt is call for servers that are where conf says.
func (e *estate) callAt(conf *cell.Config, method string, args any) error {
	e.t.Helper()
	var err error
	eventually(e.t, "a master that has the time", func() bool {
		err = admin.CallMaster(e.t.Context(), conf, method, args, nil)
		return refusal(err) != admin.Busy && refusal(err) != admin.NotMaster && !errors.Is(err, admin.ErrUnreachable)
	})
	return err
}

// changed has the cell change its members. The master may go in the middle of that, and the next one refuses what is done
// already.
func (e *estate) changed(conf *cell.Config, method string, args admin.AddArgs) {
	e.t.Helper()
	err := e.callAt(conf, method, args)
	if err == nil {
		return
	}
	m := e.master()
	m.mu.Lock()
	defer m.mu.Unlock()
	if !slices.ContainsFunc(m.records(), func(rec admin.MemberRecord) bool {
		return rec.ID == args.ID && rec.Member != 0 && rec.State != admin.StateRemoved && rec.Host == args.Host &&
			rec.UDPPort == args.UDPPort && rec.TCPPort == args.TCPPort
	}) {
		e.t.Fatal(err)
	}
}

func keys(m map[cell.ID]*Replica) []cell.ID {
	var ids []cell.ID
	for id := range m {
		ids = append(ids, id)
	}
	return ids
}

func (e *estate) refused(method string, args any) {
	e.t.Helper()
	err := e.call(method, args)
	if refusal(err) != admin.Refused {
		e.t.Errorf("%s %v: %v", method, args, err)
	} else {
		e.t.Logf("%s %+v: %v", method, args, err)
	}
}

// retired waits until a server that was removed has learned so and ended.
func (e *estate) retired(id cell.ID) {
	e.t.Helper()
	within(e.t, fmt.Sprintf("the end of server %d", id), e.servers[id].Done())
	if err := e.servers[id].Close(); !errors.Is(err, ErrRetired) {
		e.t.Errorf("server %d ended with %v", id, err)
	}
	delete(e.servers, id)
}

func (e *estate) place(id cell.ID) admin.AddArgs {
	s, _ := e.conf.Server(id)
	return admin.AddArgs{ID: id, Host: s.Host, UDPPort: s.UDPPort, TCPPort: s.TCPPort}
}

// client is a client of some of the servers.
func (e *estate) client(ids ...cell.ID) *house {
	return &house{t: e.t, conf: e.confOf(ids...)}
}

// TestGrow: a cell grows from three core servers to five, under writes, and gets a replica; then it shrinks again.
func TestGrow(t *testing.T) {
	t.Parallel()
	e := newEstate(t, 0, 1, 2, 3, 4, 6)
	three := e.confOf(0, 1, 2)
	e.start(three, 0, 1, 2)
	h := e.client(0, 1, 2, 3, 4) // a client knows the core servers that its server.conf lists
	v := h.volume(h.client(), 4<<20)
	v.write(30)
	e.start(e.conf, 3)
	eventually(t, "server 3 asks", func() bool { return e.servers[3].report().State == admin.StateJoining })
	if e.servers[3].report().Member != 0 {
		t.Error("a server that nobody let in is a member")
	}
	e.changed(e.confOf(keys(e.servers)...), admin.MethodAdd, e.place(3))
	e.settled(0, 1, 2, 3)
	e.changed(e.confOf(keys(e.servers)...), admin.MethodAdd, e.place(4))
	e.changed(e.confOf(keys(e.servers)...), admin.MethodAdd, e.place(6))
	v.write(30)
	e.start(e.conf, 4, 6)
	e.settled(0, 1, 2, 3, 4)
	e.refused(admin.MethodPromote, admin.MemberArgs{ID: 6})
	e.refused(admin.MethodAdd, e.place(4))
	e.refused(admin.MethodReplace, admin.MemberArgs{ID: 3})
	e.refused(admin.MethodRemove, admin.MemberArgs{ID: e.master().opts.ID})

	// Of five, two may be down.
	first := e.master().opts.ID
	other := cell.ID(3)
	if first == other {
		other = 4
	}
	e.stop(first, other)
	v.write(10)
	master := e.master().opts.ID
	for id := range cell.ID(5) {
		if id != first && id != other && id != master { // who is up is needed
			e.refused(admin.MethodRemove, admin.MemberArgs{ID: id})
		}
	}
	e.start(e.conf, first, other)
	e.settled(0, 1, 2, 3, 4)

	check(t, e.call(admin.MethodHandOver, admin.HandOverArgs{ID: new(cell.ID)})) // to server 0
	check(t, e.call(admin.MethodDemote, admin.MemberArgs{ID: 4}))
	e.settled(0, 1, 2, 3)
	check(t, e.call(admin.MethodPromote, admin.MemberArgs{ID: 4}))
	e.settled(0, 1, 2, 3, 4)
	check(t, e.call(admin.MethodRemove, admin.MemberArgs{ID: 4}))
	check(t, e.call(admin.MethodRemove, admin.MemberArgs{ID: 3}))
	e.retired(3)
	e.retired(4)
	e.settled(0, 1, 2)
	e.refused(admin.MethodRemove, admin.MemberArgs{ID: 2})
	e.refused(admin.MethodDemote, admin.MemberArgs{ID: 1})
	check(t, e.call(admin.MethodRemove, admin.MemberArgs{ID: 6}))
	e.retired(6)
	v.write(10)
	v.verify()
}

// TestReplace: a dead server's place is freed, and its successor takes it; a removed one stays out.
func TestReplace(t *testing.T) {
	t.Parallel()
	e := newEstate(t, 0, 1, 2, 3)
	e.start(e.conf, 0, 1, 2, 3)
	e.settled(0, 1, 2, 3)
	check(t, e.call(admin.MethodHandOver, admin.HandOverArgs{ID: new(cell.ID)}))
	e.wipe(2)
	eventually(t, "server 2 is missed", func() bool { return refusal(e.call(admin.MethodReplace, admin.MemberArgs{ID: 2})) == "" })
	e.settled(0, 1, 3)
	e.start(e.conf, 2)
	e.settled(0, 1, 2, 3)
	check(t, e.call(admin.MethodRemove, admin.MemberArgs{ID: 3}))
	e.retired(3)
	e.wipe(3)
	e.start(e.conf, 3)
	eventually(t, "it hears that it was removed", func() bool {
		st := e.servers[3].report()
		return st.State == admin.StateJoining && len(st.WaitsFor) == 1 && slices.ContainsFunc(st.WaitsFor, func(s string) bool {
			return len(s) > 40 // the reason, too
		})
	})
	e.changed(e.confOf(keys(e.servers)...), admin.MethodAdd, e.place(3))
	e.settled(0, 1, 2, 3)
}

// TestMove: a server comes back at another address, of which the others hear through the table.
func TestMove(t *testing.T) {
	t.Parallel()
	e := newEstate(t, 0, 1, 2)
	e.start(e.conf, 0, 1, 2)
	e.settled(0, 1, 2)
	check(t, e.call(admin.MethodHandOver, admin.HandOverArgs{ID: new(cell.ID)}))
	e.stop(2)
	moved := &cell.Config{File: "server.conf", Servers: slices.Clone(e.conf.Servers)}
	ports := freePorts(t, 2)
	moved.Servers[2].TCPPort, moved.Servers[2].UDPPort = ports[0], ports[1]
	e.start(moved, 2)
	s := moved.Servers[2]
	e.changed(e.confOf(keys(e.servers)...), admin.MethodMove, admin.AddArgs{ID: 2, Host: s.Host, UDPPort: s.UDPPort, TCPPort: s.TCPPort})
	e.settled(0, 1, 2)
	var list []admin.MemberRecord
	check(t, admin.CallMaster(t.Context(), e.conf, admin.MethodMembers, nil, &list))
	if len(list) != 3 || list[2].TCPPort != s.TCPPort || list[0].State != admin.StateMaster || list[2].State != admin.StateVoter {
		t.Errorf("%+v", list)
	}
	// Also after a restart of the others, whose server.conf is the old one.
	e.stop(0, 1)
	e.start(e.conf, 0, 1)
	e.settled(0, 1, 2)
}

// TestClientsFollow: a client that began with an old server.conf learns of all servers from those it knows: when the cell
// has moved away from all of the addresses in it, one server after the other, with one added and one removed, it goes on.
func TestClientsFollow(t *testing.T) {
	t.Parallel()
	e := newEstate(t, 0, 1, 2, 3)
	old := e.confOf(0, 1, 2)
	e.start(old, 0, 1, 2)
	e.settled(0, 1, 2)
	c, err := pss.Open(old, pss.Options{})
	check(t, err)
	t.Cleanup(func() { _ = c.Close() }) // on a busy machine the goodbye may not be answered in time
	check(t, c.Mkdir(t.Context(), "/before"))
	now := e.conf
	for id := range cell.ID(3) {
		ports := freePorts(t, 2)
		now = &cell.Config{File: "server.conf", Servers: slices.Clone(now.Servers)}
		s := &now.Servers[id]
		s.TCPPort, s.UDPPort = ports[0], ports[1]
		// The others have heard of all moves so far; this server's own server.conf has them, and its own.
		e.stop(id)
		e.start(now, id)
		e.changed(now, admin.MethodMove, admin.AddArgs{ID: id, Host: s.Host, UDPPort: s.UDPPort, TCPPort: s.TCPPort})
		e.settled(0, 1, 2)
	}
	check(t, c.Mkdir(t.Context(), "/moved"))
	e.start(now, 3)
	e.changed(now, admin.MethodAdd, e.place(3))
	e.settled(0, 1, 2, 3)
	to := cell.ID(3)
	check(t, e.callAt(now, admin.MethodHandOver, admin.HandOverArgs{ID: &to}))
	check(t, e.callAt(now, admin.MethodRemove, admin.MemberArgs{ID: 0}))
	e.retired(0)
	e.settled(1, 2, 3)
	check(t, c.Mkdir(t.Context(), "/after"))
	eventually(t, "the client goes to the server that was added", func() bool { m, ok := c.Master(); return ok && m == to })
	found, err := c.ReadDir(t.Context(), "/")
	check(t, err)
	if len(found) != 3 {
		t.Errorf("the cell has %+v", found)
	}
}

// TestToolsFollow: tools that have the server.conf of before find a server that has moved, one that was added, and the
// master, whoever it is.
func TestToolsFollow(t *testing.T) {
	e := newEstate(t, 0, 1, 2, 3)
	old, now := e.confOf(0, 1, 2), e.conf
	e.start(old, 0, 1, 2)
	e.settled(0, 1, 2)
	for id := range cell.ID(2) {
		ports := freePorts(t, 2)
		now = &cell.Config{File: "server.conf", Servers: slices.Clone(now.Servers)}
		s := &now.Servers[id]
		s.TCPPort, s.UDPPort = ports[0], ports[1]
		e.stop(id)
		e.start(now, id)
		check(t, e.callAt(old, admin.MethodMove, admin.AddArgs{ID: id, Host: s.Host, UDPPort: s.UDPPort, TCPPort: s.TCPPort}))
		e.settled(0, 1, 2)
	}
	e.start(now, 3)
	added := now.Servers[3]
	check(t, e.callAt(old, admin.MethodAdd, admin.AddArgs{ID: 3, Host: added.Host, UDPPort: added.UDPPort, TCPPort: added.TCPPort}))
	e.settled(0, 1, 2, 3)
	for id := range cell.ID(4) {
		st, err := StatusOf(t.Context(), old, id)
		if err != nil || st.ID != id {
			t.Errorf("server %d: %+v, %v", id, st, err)
		}
	}
	for id := range cell.ID(4) {
		check(t, e.callAt(old, admin.MethodHandOver, admin.HandOverArgs{ID: &id}))
		e.settled(0, 1, 2, 3)
	}
	same := func(a, b cell.Server) bool {
		return a.ID == b.ID && a.TCPAddr() == b.TCPAddr() && a.UDPAddr() == b.UDPAddr()
	}
	eventually(t, "all servers where they are now", func() bool {
		return slices.EqualFunc(admin.Follow(t.Context(), old).Servers, now.Servers, same)
	})
	e.stop(0, 1, 2, 3)
	if got := admin.Follow(t.Context(), old).Servers; !slices.EqualFunc(got, old.Servers, same) {
		t.Errorf("nobody answers, and the servers are %+v", got)
	}
	if _, err := StatusOf(t.Context(), old, 1); !errors.Is(err, admin.ErrUnreachable) {
		t.Error(err)
	}
}

// TestFoundWithout: a cell whose core servers are not all there waits, says for whom, and is founded without them
// only as an operator says.
func TestFoundWithout(t *testing.T) {
	t.Parallel()
	e := newEstate(t, 0, 1, 2)
	e.start(e.conf, 0, 1)
	eventually(t, "server 0 has heard of server 1", func() bool {
		st := e.servers[0].report()
		return st.State == admin.StateFresh && len(st.WaitsFor) == 1
	})
	c := e.client(0).adminOf(0)
	if err := c.Call(t.Context(), admin.MethodFound, admin.FoundArgs{Without: []cell.ID{1, 2}}, nil); refusal(err) != admin.Refused {
		t.Errorf("founded without a server that is there: %v", err)
	}
	check(t, c.Call(t.Context(), admin.MethodFound, admin.FoundArgs{Without: []cell.ID{2}}, nil))
	e.settled(0, 1)
	e.start(e.conf, 2)
	e.settled(0, 1, 2)
	if err := c.Call(t.Context(), admin.MethodFound, admin.FoundArgs{Without: []cell.ID{2}}, nil); refusal(err) != admin.Refused {
		t.Errorf("founded twice: %v", err)
	}
}

// TestFoundAgain: two of three servers are lost for good. What the third holds is the new cell's, with everything
// that was acknowledged while it took part; a server of the old cell has nothing to say in it.
func TestFoundAgain(t *testing.T) {
	t.Parallel()
	e := newEstate(t, 0, 1, 2)
	e.start(e.conf, 0, 1, 2)
	h := e.client(0, 1, 2)
	c := h.client()
	v := h.volume(c, 4<<20)
	v.write(60)
	e.settled(0, 1, 2)
	old := e.servers[1].report().Cell
	e.stop(0, 1, 2)
	root := e.conf.Servers[1].Root()
	now, err := Refound(root, 1, crand.Reader)
	check(t, err)
	e.start(e.conf, 1)
	e.settled(1)
	st := e.servers[1].report()
	if st.Cell != now.String() || st.Cell == old || st.Member != cell.ID(1).Member(1) {
		t.Errorf("%+v", st)
	}
	e.start(e.conf, 0) // of the old cell: it stays alone
	eventually(t, "the old cell's server is not listened to", func() bool { return e.servers[1].report().Strangers > 0 })
	if e.servers[0].report().Cell != old {
		t.Error("a server changed its cell by itself")
	}
	e.stop(0)
	check(t, GiveUp(e.conf.Servers[0].Root(), 0, now, crand.Reader))
	e.wipe(2)
	e.start(e.conf, 0, 2)
	e.settled(0, 1, 2)
	v.verify()
	v.write(10)
	v.verify()
}

// TestFoundAgainIsRefused where there is nothing to found a cell on.
func TestFoundAgainIsRefused(t *testing.T) {
	t.Parallel()
	e := newEstate(t, 0, 1, 2, 5)
	e.start(e.conf, 0)
	e.stop(0)
	if _, err := Refound(e.conf.Servers[0].Root(), 0, crand.Reader); err == nil {
		t.Error("a cell was founded again that never was")
	}
	e.start(e.conf, 0, 1, 2, 5)
	e.settled(0, 1, 2)
	if _, err := Look(e.conf.Servers[0].Root(), 0); err == nil {
		t.Error("the root of a running server was looked into")
	}
	e.stop(5)
	if _, err := Refound(e.conf.Servers[3].Root(), 5, crand.Reader); err == nil {
		t.Error("a cell was founded again on a replica")
	}
	if _, err := Refound(e.conf.Servers[3].Root(), 4, crand.Reader); !errors.Is(err, ErrForeign) {
		t.Errorf("another server's root: %v", err)
	}
}

// TestRollingRestart restarts all servers one after the other, cleanly, under writes. It prints how long a write took
// at most around each.
func TestRollingRestart(t *testing.T) {
	t.Parallel()
	e := newEstate(t, 0, 1, 2, 3, 4, 5, 6, 7)
	e.start(e.conf, 0, 1, 2, 3, 4, 5, 6, 7)
	e.settled(0, 1, 2, 3, 4)
	h := e.client(0, 1, 2, 3, 4)
	v := h.volume(h.client(), 4<<20)
	longest := make(chan time.Duration)
	stop := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		var worst time.Duration
		for {
			begin := time.Now()
			v.write(1)
			worst = max(worst, time.Since(begin))
			select {
			case longest <- worst:
				worst = 0
			case <-stop:
				return
			default:
			}
		}
	})
	within(t, "the first write", longest)
	for id := range cell.ID(8) {
		master := e.servers[id].report().IsMaster
		r := e.servers[id]
		delete(e.servers, id)
		check(t, r.Shutdown())
		e.start(e.conf, id)
		e.settledVoters(0, 1, 2, 3, 4)
		t.Logf("server %d restarted (master: %v): longest write %v", id, master, within(t, "a write", longest))
	}
	close(stop)
	writer.Wait()
	v.verify()
}

// settledVoters waits until these vote and are all connected.
func (e *estate) settledVoters(voters ...cell.ID) {
	e.t.Helper()
	eventually(e.t, "all connected", func() bool {
		for _, r := range e.servers {
			if st := r.report(); st.IsMaster {
				up := 0
				for _, m := range st.Members {
					if m.Active && m.Voter && slices.Contains(voters, m.ID) {
						up++
					}
				}
				return up == len(voters)
			}
		}
		return false
	})
}

// TestNewCellIsAnother: servers with roots of two cells have nothing to say to each other.
func TestNewCellIsAnother(t *testing.T) {
	fs := []Founder{{ID: 0, Root: RootID{1}}, {ID: 1}, {ID: 2}}
	a := hashFounders(fs)
	fs[1].Root = RootID{2}
	if b := hashFounders(fs); a == b || a == (wire.CellID{}) {
		t.Errorf("%v and %v", a, b)
	}
}

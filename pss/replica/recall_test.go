package replica

import (
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/agreement"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
	"github.com/paxos-iscsi/paxos-iscsi/pss/log"
	"github.com/paxos-iscsi/paxos-iscsi/pss/wire"
)

// promised is what server of knows that server i, as it runs, has promised, and whether that is all.
func (h *house) promised(of, i int) (all bool) {
	at := h.servers[i].report()
	r := h.servers[of]
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.core.Node().Promised(at.Member)
	return p.Start == h.servers[i].memory.start && p.Index >= at.Applied
}

// rollBack has the volume written to, and server i come back with what the parts of its root were before, while the
// servers in without are stopped. It returns when server i has ended.
func (h *house) rollBack(v *volume, i int, parts []string, without ...int) error {
	h.t.Helper()
	h.stop(i)
	root, copied := h.conf.Servers[i].Root(), filepath.Join(h.t.TempDir(), "copy")
	check(h.t, os.CopyFS(copied, os.DirFS(root)))
	h.start(i)
	v.write(20)
	h.level(v.object)
	for _, o := range []int{0, 1, 2} {
		eventually(h.t, "all know what it has promised", func() bool { return o == i || h.promised(o, i) })
	}
	for _, o := range append(without, i) {
		h.stop(o)
	}
	for _, part := range parts {
		check(h.t, os.RemoveAll(filepath.Join(root, part)))
		if from := filepath.Join(copied, part); part == "." {
			check(h.t, os.CopyFS(root, os.DirFS(from)))
		} else if st, err := os.Stat(from); err == nil && st.IsDir() {
			check(h.t, os.CopyFS(filepath.Join(root, part), os.DirFS(from)))
		} else if err == nil {
			b, err := os.ReadFile(from)
			check(h.t, err)
			check(h.t, os.WriteFile(filepath.Join(root, part), b, 0o600))
		}
	}
	r, err := Open(h.optionsOf(i))
	check(h.t, err)
	eventually(h.t, "the server with an older root ends", func() bool { return r.Err() != nil })
	return r.Close()
}

// The parts of a root that are put back.
var (
	wholeRoot = []string{"."}                                     // a backup, a snapshot of the machine
	lostCache = []string{"log", "checkpoint", "prepared", "data"} // what the disk lost does not reach back to the last start
)

// TestOlderRootDoesNotVote: a core server gets an older state of its root back, or of its log, while the master is gone.
// It does not vote for the third one, whatever that lacks: it ends, and joins anew when there is a master.
func TestOlderRootDoesNotVote(t *testing.T) {
	for name, parts := range map[string][]string{"root": wholeRoot, "log": lostCache} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, nil)
			v := h.volume(h.client(), 1<<20)
			v.write(20)
			master := h.master()
			i, third := (master+1)%3, (master+2)%3
			before := h.voters()[cell.ID(i)]
			term := h.servers[third].view().Term
			err := h.rollBack(v, i, parts, master)
			if !LostLog(err) || !Heals(err) {
				t.Fatal(err)
			}
			if r := h.servers[third].view(); r.Known && r.Term > term {
				t.Fatalf("a master without the server that has the entries: %+v", r)
			}
			h.start(master)
			h.master()
			h.healed(i, v, err)
			eventually(t, "a new member with a vote", func() bool { return h.voters()[cell.ID(i)] > before })
			v.verify()
			h.level(v.object)
		})
	}
}

// TestOlderRootInColdCell: all stop, and an older state of one root is put back. The others, that start at the same
// time, know of it: from their disks.
func TestOlderRootInColdCell(t *testing.T) {
	for name, parts := range map[string][]string{"root": wholeRoot, "log": lostCache} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, nil)
			v := h.volume(h.client(), 1<<20)
			v.write(20)
			master := h.master()
			i, third := (master+1)%3, (master+2)%3
			ended := make(chan error)
			go func() { ended <- h.rollBack(v, i, parts, master, third) }()
			root := h.conf.Servers[third].Root()
			eventually(t, "the third is stopped", func() bool {
				l, err := disk.Lock(root)
				if err != nil {
					return false
				}
				check(t, l.Close())
				return true
			})
			h.start(third)
			if err := <-ended; !LostLog(err) {
				t.Fatal(err)
			} else {
				h.start(master)
				h.healed(i, v, err)
			}
			v.verify()
			h.level(v.object)
		})
	}
}

// TestReturnIsNoRollBack: a server that comes back with all it had, while the master is gone, is let in by the one that
// is left, and the two go on. So do all three after they have been stopped.
func TestReturnIsNoRollBack(t *testing.T) {
	h := newHouse(t, nil)
	v := h.volume(h.client(), 1<<20)
	for range 2 {
		v.write(20)
		master := h.master()
		i := (master + 1) % 3
		h.stop(i)
		v.write(20)
		h.stop(master)
		h.start(i)
		v.write(20)
		v.verify()
		h.start(master)
	}
	h.level(v.object)
	for i := range h.servers {
		h.stop(i)
	}
	for _, i := range rand.Perm(len(h.servers)) {
		h.start(i)
	}
	v.write(20)
	v.verify()
	h.level(v.object)
}

// TestLaggingServerIsLetInByTheMembersOfNow: two of five servers were taken out of the cell, of which one that was stopped
// then knows nothing, and another one has lost its disk. The only one that is left besides tells who the members are now:
// the two are a majority of these, and need not wait for servers that never answer.
func TestLaggingServerIsLetInByTheMembersOfNow(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name             string
		applied          uint64
		voters, outgoing []uint64
		letIn            bool
	}{
		{"taken out", 6, []uint64{1, 4, 5}, nil, true},
		{"still being taken out", 6, []uint64{1, 4, 5}, []uint64{1, 2, 3, 4, 5}, false},
		{"knows no more", 0, []uint64{1, 4, 5}, nil, false},
		{"an older version", 6, nil, nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			now := time.Second
			mem := disk.NewMem()
			l, err := log.Open(mem, "log", log.Options{SegmentBytes: 64 << 10})
			check(t, err)
			st, ckpt, err := OpenStore(mem, l, 1<<20)
			check(t, err)
			defer func() {
				check(t, st.Close())
				check(t, l.Close())
			}()
			m, err := OpenMemory(mem, 77)
			check(t, err)
			id := Identity{ID: 0, Root: RootID{1}, Cell: wire.CellID{2}, Number: 1}
			for i := range cell.ID(cell.CoreIDs) {
				id.Founders = append(id.Founders, Founder{ID: i, Root: RootID{byte(i) + 1}})
			}
			core, err := NewCore(Config{ID: 0, Identity: id, Memory: m, Timing: agreement.LAN,
				Logger: slog.New(slog.DiscardHandler)}, l, st, ckpt, now)
			check(t, err)
			answer := Announce{Cell: id.Cell, Root: RootID{5}, Number: 5, For: id.Root, Answers: 77, Led: true,
				Applied: c.applied, AppliedTerm: 2, Voters: c.voters, Outgoing: c.outgoing}
			answer, err = ParseAnnounce(answer.Append(nil))
			check(t, err)
			check(t, core.Hear(now, 4, answer, 0, 0))
			if !core.Node().Held() {
				t.Fatal("it does not give the others the time to elect a master")
			}
			for range (recallPatience + 1) * agreement.LAN.Election {
				now += agreement.LAN.Tick
				check(t, core.Tick(now))
			}
			if letIn := !core.Node().Held(); letIn != c.letIn {
				t.Fatalf("let in: %v", letIn)
			}
		})
	}
	if _, err := ParseAnnounce((&Announce{Voters: []uint64{6}}).Append(nil)); err == nil {
		t.Fatal("a server that can't vote is taken for a voter")
	}
}

// TestMemory: what a root keeps of promises outlives a power cut at any change, and needs no room.
func TestMemory(t *testing.T) {
	var c wire.CellID
	c[3] = 7
	others := []agreement.Promise{{Member: 2, Start: 3, Life: 4, Term: 5, Index: 6}, {Member: 3, Start: 1, Life: 9}}
	for failing := range 40 {
		rng := rand.New(rand.NewPCG(uint64(failing), 1))
		d := disk.NewMem()
		m, err := OpenMemory(d, 100)
		check(t, err)
		check(t, m.Keep(c, others))
		d.SetCapacity(d.Used()) // it is full from here on
		d.FailAfter(failing, disk.ErrCrashed)
		said, kept := uint64(1), others
		for life := uint64(101); ; life++ {
			if m, err = OpenMemory(d, life); err != nil {
				break
			}
			said = m.start
			newer := []agreement.Promise{{Member: 2, Term: life}}
			if err = m.Keep(c, newer); err != nil {
				break
			}
			kept = newer
		}
		d.FailAfter(-1, nil)
		d.Crash(rng)
		m, err = OpenMemory(d, 1000)
		check(t, err)
		if m.start <= said || !m.knows(said, 99+said) || !m.knows(1, 100) {
			t.Fatalf("failing at %d: start %d, lives %v; start %d was told of", failing, m.start, m.lives, said)
		}
		if got := m.of(c); !slices.Equal(got, kept) && (len(got) != 1 || got[0].Term != 100+said+1) {
			t.Fatalf("failing at %d: %+v, kept was %+v", failing, got, kept)
		}
		if m.of(wire.CellID{}) != nil {
			t.Fatal("what members of another cell promised counts")
		}
	}
}

// TestMemoryKnows: which starts of its server a root has seen, after some that others did not hear of, and after more
// than it keeps.
func TestMemoryKnows(t *testing.T) {
	d := disk.NewMem()
	if _, err := readMemory(d); err == nil {
		t.Fatal("an empty disk has a memory")
	}
	var m *Memory
	for life := range uint64(3 * maxLives) {
		var err error
		m, err = OpenMemory(d, 1000+life)
		check(t, err)
	}
	last := uint64(3 * maxLives)
	for _, c := range []struct {
		start, life uint64
		known       bool
	}{
		{0, 0, true},
		{last, 999 + last, true},
		{last, 5, false},
		{last - maxLives + 1, 999 + last - maxLives + 1, true},
		{last - maxLives + 1, 5, false},
		{last - maxLives, 5, true}, // nobody can tell
		{last + 1, 5, false},
	} {
		if m.knows(c.start, c.life) != c.known {
			t.Errorf("start %d, life %d: not %v", c.start, c.life, c.known)
		}
	}
	f, err := d.Open(memoryName, 0)
	check(t, err)
	_, err = f.WriteAt(make([]byte, 2*memorySlot), 0)
	check(t, err)
	check(t, f.Close())
	if m, err = OpenMemory(d, 7); err != nil || m.start != 1 || m.knows(2, 1000) {
		t.Fatalf("a damaged file: %+v, %v", m, err)
	}
}

// FuzzMemory: what parseMemory takes comes back from slot.
func FuzzMemory(f *testing.F) {
	m := &Memory{sequence: 3, start: 2, lives: []uint64{8, 9}}
	f.Add(m.slot(wire.CellID{1}, []agreement.Promise{{Member: 2, Index: 7}}))
	f.Add([]byte("PSSm"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, ok := parseMemory(b)
		if !ok {
			return
		}
		again, ok := parseMemory(m.slot(m.cell, m.others))
		if !ok || again.start != m.start || !slices.Equal(again.lives, m.lives) || !slices.Equal(again.others, m.others) {
			t.Fatalf("%+v became %+v, %v", m, again, ok)
		}
	})
}

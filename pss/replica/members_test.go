package replica

import (
	"bytes"
	crand "crypto/rand"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"pgregory.net/rapid"

	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
	"github.com/paxos-iscsi/paxos-iscsi/pss/wire"
)

// wipe stops a server and empties its root.
func (h *house) wipe(i int) {
	h.t.Helper()
	h.stop(i)
	check(h.t, os.RemoveAll(h.conf.Servers[i].Root()))
}

// voters are the members with a vote, as the master knows them.
func (h *house) voters() map[cell.ID]uint64 {
	found := make(map[cell.ID]uint64)
	for _, p := range h.servers[h.master()].report().Members {
		if p.Voter {
			found[p.ID] = p.Member
		}
	}
	return found
}

// TestLostDisks: each server in turn comes back without its disk, the master among them, and is level again as a
// new member with a vote.
func TestLostDisks(t *testing.T) {
	t.Parallel()
	h := newHouse(t, func(o *Options) { o.CheckpointBytes = 1 << 20 })
	v := h.volume(h.client(), 8<<20)
	for round := range 4 {
		v.write(40)
		i := round
		if round == 3 {
			i = h.master()
		}
		before := h.voters()[cell.ID(i)]
		h.wipe(i)
		v.write(40)
		h.start(i)
		eventually(t, "a new member with a vote", func() bool { return h.voters()[cell.ID(i)] > before })
		v.write(10)
	}
	h.level(v.object)
	v.verify()
}

// TestRolledBackDisk: a server whose disk was put back to an older state notices, gives its place up and joins anew.
func TestRolledBackDisk(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	v := h.volume(h.client(), 1<<20)
	v.write(20)
	i := (h.master() + 1) % 3
	h.stop(i)
	root, copied := h.conf.Servers[i].Root(), filepath.Join(t.TempDir(), "copy")
	check(t, os.CopyFS(copied, os.DirFS(root)))
	h.start(i)
	v.write(20)
	h.level(v.object)
	h.stop(i)
	check(t, os.RemoveAll(root))
	check(t, os.CopyFS(root, os.DirFS(copied)))
	h.start(i)
	r := h.servers[i]
	within(t, "the end of the server", r.Done())
	h.servers[i] = nil
	if err := r.Close(); !LostLog(err) {
		t.Fatal(err)
	}
	o := h.optionsOf(i)
	check(t, GiveUp(o.Root, o.ID, wire.CellID{}, crand.Reader))
	h.start(i)
	eventually(t, "a new member with a vote", func() bool { return cell.Incarnation(h.voters()[cell.ID(i)]) == 1 })
	v.write(5)
	h.level(v.object)
}

// FuzzIdentity: what ParseIdentity takes comes back from AppendIdentity.
func FuzzIdentity(f *testing.F) {
	f.Add(AppendIdentity(nil, &Identity{ID: 3, Number: 4, Founders: []Founder{{ID: 3}}}))
	f.Add([]byte("PSSi"))
	f.Fuzz(func(t *testing.T, b []byte) {
		id, err := ParseIdentity(b)
		if err != nil {
			if !errors.Is(err, ErrIdentity) {
				t.Fatal(err)
			}
			return
		}
		if again, err := ParseIdentity(AppendIdentity(nil, &id)); err != nil || again.Root != id.Root || again.Number != id.Number {
			t.Fatalf("%+v became %+v, %v", id, again, err)
		}
	})
}

// FuzzTable: what ParseTable takes comes back from Append.
func FuzzTable(f *testing.F) {
	f.Add((&Table{Index: 7, Records: []Record{{ID: 0, Number: 1, Last: 1, Vote: true, Host: "a", UDP: 1, TCP: 2}, {ID: 5, Last: 262}}}).Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := ParseTable(b)
		if err != nil {
			return
		}
		if again, err := ParseTable(x.Append(nil)); err != nil || !bytes.Equal(again.Append(nil), x.Append(nil)) {
			t.Fatalf("%+v became %+v, %v", x, again, err)
		}
	})
}

// FuzzAnnounce: what ParseAnnounce takes comes back from Append.
func FuzzAnnounce(f *testing.F) {
	f.Add((&Announce{Root: RootID{1}, Cell: wire.CellID{2}, Founders: []Founder{{ID: 1}}, Wants: true, Host: "h", Reason: "r"}).Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := ParseAnnounce(b)
		if err != nil {
			return
		}
		if again, err := ParseAnnounce(a.Append(nil)); err == nil && !bytes.Equal(again.Append(nil), a.Append(nil)) {
			t.Fatalf("%+v became %+v", a, again)
		}
	})
}

// TestIdentityOnDisk: an identity is what was written, or what was there before, whatever the power does.
func TestIdentityOnDisk(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		mem := disk.NewMem()
		old := Identity{ID: 2, Root: RootID{1}}
		if err := WriteIdentity(mem, &old); err != nil {
			t.Fatal(err)
		}
		mem.FailAfter(rapid.IntRange(0, 8).Draw(t, "calls"), disk.ErrCrashed)
		next := Identity{ID: 2, Root: RootID{1}, Number: 3}
		written := WriteIdentity(mem, &next)
		mem.FailAfter(-1, nil)
		mem.Crash(newRand(rapid.Uint64().Draw(t, "seed")))
		got, err := ReadIdentity(mem)
		if err != nil || got.Number != 0 && got.Number != 3 || written == nil && got.Number != 3 {
			t.Fatalf("written: %v; read: %+v, %v", written, got, err)
		}
	})
}

func TestForeignRoots(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	h.master()
	h.stop(1)
	h.stop(2)
	o := h.optionsOf(1)
	o.Root = h.conf.Servers[2].Root()
	if _, err := Open(o); !errors.Is(err, ErrForeign) {
		t.Errorf("another server's root: %v", err)
	}
	check(t, os.Remove(filepath.Join(h.conf.Servers[1].Root(), identityName)))
	if _, err := Open(h.optionsOf(1)); !errors.Is(err, ErrIdentity) {
		t.Errorf("data without an identity: %v", err)
	}
	check(t, os.WriteFile(filepath.Join(h.conf.Servers[1].Root(), identityName), []byte("PSSi"), 0o600))
	if _, err := Open(h.optionsOf(1)); !errors.Is(err, ErrIdentity) {
		t.Errorf("a broken identity: %v", err)
	}
}

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }

package replica

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
	"github.com/paxos-iscsi/paxos-iscsi/pss/log"
	"github.com/paxos-iscsi/paxos-iscsi/pss/store"
)

// TestDamagedRoot damages the files that a server starts from. It does not start, and so neither votes nor
// acknowledges anything, and the error says that its state has to be given up, and what is damaged.
func TestDamagedRoot(t *testing.T) {
	t.Parallel()
	h := newHouse(t, rareCheckpoints)
	v := h.volume(h.client(), 1<<20)
	v.write(20)
	h.onDisk()
	v.write(20)
	f := (h.master() + 1) % 3
	h.stop(f)
	root := h.conf.Servers[f].Root()
	segments, err := filepath.Glob(filepath.Join(root, "log", "*.log"))
	check(t, err)
	slices.Sort(segments)
	index := h.files(f, "index")[0]
	for _, c := range []struct {
		name string
		at   int64
		log  bool
	}{
		{segments[0], 20, true},
		{filepath.Join(root, "checkpoint"), 60, false},
		{index, 8, false},
	} {
		rot(t, c.name, c.at)
		r, err := Open(h.optionsOf(f))
		var heal *HealError
		var inLog *log.DamageError
		var inStore *store.DamageError
		if !errors.As(err, &heal) || errors.As(err, &inLog) != c.log || errors.As(err, &inStore) == c.log {
			t.Fatalf("%s: %v, %v", c.name, r, err)
		}
		rot(t, c.name, c.at) // back
	}
	h.start(f)
	h.level(v.object)
}

// TestSupersededLogHeals: damage to a part of the log that the checkpoint makes superfluous does not keep a server from
// starting.
func TestSupersededLogHeals(t *testing.T) {
	t.Parallel()
	h := newHouse(t, func(o *Options) { rareCheckpoints(o); o.SegmentBytes = 256 << 10 })
	v := h.volume(h.client(), 1<<20)
	v.write(60)
	h.onDisk()
	f := (h.master() + 1) % 3
	if h.servers[f].log.Stats().Segments < 3 {
		t.Fatal("the log has too few segments for this")
	}
	h.stop(f)
	segments, err := filepath.Glob(filepath.Join(h.conf.Servers[f].Root(), "log", "*.log"))
	check(t, err)
	slices.Sort(segments)
	rot(t, segments[0], 20)
	h.start(f)
	if h.servers[f].log.Healed() == nil {
		t.Fatal("nothing was healed")
	}
	if _, err := os.Stat(segments[0]); !errors.Is(err, os.ErrNotExist) {
		t.Fatal("the damaged segment is there still")
	}
	v.write(20)
	v.verify()
	h.level(v.object)
}

// healed starts a server as PFSserver does after it ended with err, again and again until it runs, and has the volume
// written to meanwhile. It returns the identity that the first healing left.
func (h *house) healed(i int, v *volume, err error) Identity {
	h.t.Helper()
	var first Identity
	o := h.optionsOf(i)
	done := make(chan error, 1)
	go func() {
		for Heals(err) {
			if err = Heal(context.Background(), o, err); err != nil {
				break
			}
			dir, bad := disk.Dir(o.Root)
			if err = bad; err != nil {
				break
			}
			if first.Healed == 0 {
				if first, err = ReadIdentity(dir); err != nil {
					break
				}
			}
			h.servers[i], err = Open(o)
		}
		done <- err
	}()
	for {
		v.write(5)
		select {
		case err := <-done:
			check(h.t, err)
			return first
		default:
		}
	}
}

// TestHeals: whatever is damaged, the server comes back by itself while clients write, as a new member with a vote that
// has the same as all others. A checkpoint that can be relied upon is kept, and only the difference fetched.
func TestHeals(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		discard bool // the state in the root is of no use
		// One of them: harms a server that is stopped, or one that runs, which ends with it.
		stopped func(h *house, i int)
		running func(h *house, i int, v *volume)
	}{
		{name: "log", stopped: func(h *house, i int) {
			segments, err := filepath.Glob(filepath.Join(h.conf.Servers[i].Root(), "log", "*.log"))
			check(h.t, err)
			slices.Sort(segments)
			rot(h.t, segments[0], 20)
		}},
		{name: "checkpoint", discard: true, stopped: func(h *house, i int) {
			rot(h.t, filepath.Join(h.conf.Servers[i].Root(), "checkpoint"), 60)
		}},
		{name: "index", discard: true, stopped: func(h *house, i int) { rot(h.t, h.files(i, "index")[0], 8) }},
		{name: "diverged", discard: true, running: func(h *house, i int, v *volume) {
			r := h.servers[i]
			r.drive(func(time.Duration) error { r.core.digest.sum ^= 1; return nil })
			for n := 0; r.Err() == nil && n <= 2*DefaultDigestEvery/200; n++ {
				v.write(200)
			}
		}},
		{name: "log is read", running: func(h *house, i int, _ *volume) {
			r := h.servers[i]
			segments, err := filepath.Glob(filepath.Join(h.conf.Servers[i].Root(), "log", "*.log"))
			check(h.t, err)
			slices.Sort(segments)
			at := r.log.First()
			for off := int64(4096 + 8); off < 64<<10; off += 512 { // the data of the first entries
				rot(h.t, segments[0], off)
			}
			// The engine asks for an entry, and panics with what the log answers.
			r.drive(func(time.Duration) error {
				if _, err := r.log.Entries(at, at+20, 1<<20); err != nil {
					panic(err)
				}
				return nil
			})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, func(o *Options) { rareCheckpoints(o); o.SegmentBytes = 8 << 20 })
			v := h.volume(h.client(), 1<<20)
			v.write(20)
			h.onDisk()
			v.write(20)
			i := (h.master() + 1) % 3
			before := h.voters()[cell.ID(i)]
			var ended error
			if c.stopped != nil {
				h.stop(i)
				c.stopped(h, i)
				r, err := Open(h.optionsOf(i))
				if err == nil {
					check(t, r.Close())
				}
				ended = err
			} else {
				c.running(h, i, v)
				r := h.servers[i]
				eventually(t, "the end of the server", func() bool { return r.Err() != nil })
				h.servers[i] = nil
				ended = r.Close()
			}
			var heal *HealError
			if !errors.As(ended, &heal) {
				t.Fatal(ended)
			}
			if id := h.healed(i, v, ended); id.Discard != c.discard || id.Number != 0 || id.Healed == 0 {
				t.Fatalf("healed to %+v", id)
			}
			eventually(t, "a new member with a vote", func() bool { return h.voters()[cell.ID(i)] > before })
			v.write(5)
			v.verify()
			h.level(v.object)
		})
	}
}

// waits runs Heal until it says words, and then ends it. The root must be as before.
func (h *house) waits(o Options, words string) {
	h.t.Helper()
	dir, err := disk.Dir(o.Root)
	check(h.t, err)
	before, err := ReadIdentity(dir)
	check(h.t, err)
	ctx, cancel := context.WithCancel(h.context())
	defer cancel()
	said := &notes{}
	o.Logger = slog.New(slog.NewTextHandler(said, nil))
	done := make(chan error, 1)
	go func() { done <- Heal(ctx, o, &HealError{errors.New("rot")}) }()
	eventually(h.t, "said "+words, func() bool { return said.has(words) })
	cancel()
	if err := within(h.t, "the end of the wait", done); !errors.Is(err, context.Canceled) {
		h.t.Fatal(err)
	}
	if after, err := ReadIdentity(dir); err != nil || after.Root != before.Root || after.Number != before.Number {
		h.t.Fatalf("%+v became %+v, %v", before, after, err)
	}
}

// TestHealWaits: nothing is given up while the cell has no majority without this server, nor soon after the last time.
func TestHealWaits(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	v := h.volume(h.client(), 1<<20)
	v.write(20)
	h.level(v.object)
	for i := range h.servers {
		h.stop(i)
	}
	h.waits(h.optionsOf(0), "the cell can't spare it")
	h.start(1)
	h.waits(h.optionsOf(0), "the cell can't spare it")
	h.start(2)
	check(t, Heal(h.context(), h.optionsOf(0), &HealError{errors.New("rot")}))
	h.start(0)
	eventually(t, "a new member with a vote", func() bool { return cell.Incarnation(h.voters()[0]) == 1 })
	h.level(v.object)
	v.verify()
	h.stop(0)
	h.waits(h.optionsOf(0), "look after its disk")
	o := h.optionsOf(0)
	o.HealEvery = time.Nanosecond
	check(t, Heal(h.context(), o, &HealError{errors.New("rot")}))
	h.start(0)
	eventually(t, "a new member with a vote", func() bool { return cell.Incarnation(h.voters()[0]) == 2 })
	h.level(v.object)
}

// TestCanSpare: which servers a cell can do without.
func TestCanSpare(t *testing.T) {
	voter := func(id cell.ID, up, lags bool) admin.Member {
		return admin.Member{ID: id, Voter: true, Active: up, Lagging: lags}
	}
	for _, c := range []struct {
		name    string
		members []admin.Member
		id      cell.ID
		ok      bool
	}{
		{"all three", []admin.Member{voter(0, true, false), voter(1, true, false), voter(2, false, false)}, 2, true},
		{"two of three", []admin.Member{voter(0, true, false), voter(1, false, false), voter(2, false, false)}, 2, false},
		{"one lags", []admin.Member{voter(0, true, false), voter(1, true, true), voter(2, false, false)}, 2, false},
		{"two voters", []admin.Member{voter(0, true, false), voter(1, false, false)}, 1, false},
		{"a replica", []admin.Member{voter(0, true, false), {ID: 5}}, 5, true},
		{"the master itself", []admin.Member{voter(0, true, false), voter(1, true, false), voter(2, true, false)}, 0, false},
		{"three of five", []admin.Member{voter(0, true, false), voter(1, true, false), voter(2, true, false),
			voter(3, false, false), voter(4, false, false)}, 4, true},
	} {
		err := CanSpare(&admin.Status{ID: 0, IsMaster: true, Members: c.members}, c.id)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if CanSpare(&admin.Status{ID: 0}, 1) == nil {
		t.Error("who is not master can't tell")
	}
}

// TestDamagedIdentityKeepsTheServerOut: whose a root is can't be read any more. The server comes back as a new member,
// with nothing of what it had, instead of waiting for somebody.
func TestDamagedIdentityKeepsTheServerOut(t *testing.T) {
	t.Parallel()
	h := newHouse(t, rareCheckpoints)
	v := h.volume(h.client(), 1<<20)
	v.write(20)
	h.onDisk()
	f := (h.master() + 1) % 3
	h.stop(f)
	o := h.optionsOf(f)
	rot(t, filepath.Join(o.Root, identityName), 20)
	_, err := Open(o)
	if !Heals(err) {
		t.Fatalf("opening: %v", err)
	}
	check(t, Heal(h.context(), o, err))
	h.start(f)
	eventually(t, "a new member with a vote", func() bool { return cell.Incarnation(h.voters()[cell.ID(f)]) == 1 })
	v.write(5)
	h.level(v.object)
}

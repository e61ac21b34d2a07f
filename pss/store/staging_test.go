package store

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
)

// catchUp brings to to what from had at its last freeze, fetching only what differs. It returns how
// many blocks travelled.
func catchUp(from, to *rig) (fetched int, err error) {
	st, err := to.s.Stage()
	if err != nil {
		return 0, err
	}
	objects := from.s.Objects(Checkpoint)
	var img, got Image
	for _, o := range objects {
		var chunks []uint32
		if err := from.s.ChangedSince(Checkpoint, o.Number, to.s.Index(), func(chunk uint32, _ uint64) bool {
			chunks = append(chunks, chunk)
			return true
		}); err != nil {
			return 0, err
		}
		for _, c := range chunks {
			if err := from.s.Export(Checkpoint, o.Number, c, &Blocks{}, &img); err != nil {
				return 0, err
			}
			want, err := st.Missing(&img)
			if err != nil {
				return 0, err
			}
			if err := from.s.Export(Checkpoint, o.Number, c, &want, &img); err != nil {
				return 0, err
			}
			fetched += want.Len()
			if err := got.Parse(img.Append(nil)); err != nil {
				return 0, err
			}
			if err := st.PutChunk(&got); err != nil {
				return 0, err
			}
		}
	}
	index := from.s.Index()
	if err := st.Install(index, 7, []byte("meta "+itoa(index)), objects); err != nil {
		return 0, err
	}
	return fetched, nil
}

func itoa(n uint64) string {
	if n < 10 {
		return string(rune('0' + n))
	}
	return itoa(n/10) + itoa(n%10)
}

// follow makes to a rig that goes the way of from.
func follow(from, to *rig) {
	to.log, to.old = slices.Clone(from.log), from.old
	to.now = from.now.clone()
}

// TestCatchUp brings a server that stopped at any time to the state of another one, which goes on.
func TestCatchUp(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		draw := func(n int) int { return rapid.IntRange(0, n-1).Draw(rt, "n") }
		rng := rand.New(rand.NewPCG(uint64(draw(1<<30)), 2))
		from, to := newRig(t), newRig(t)
		to.caches(draw(2) == 0)
		for range draw(20) {
			from.randomOp(draw)
		}
		stop := uint64(len(from.log))
		follow(from, to)
		for i, e := range to.log {
			if err := to.feed(e, uint64(i+1)); err != nil {
				t.Fatal(err)
			}
			if draw(5) == 0 {
				f, err := to.s.Freeze(uint64(i+1), 7, []byte("meta "+itoa(uint64(i+1))))
				if err != nil {
					t.Fatal(err)
				}
				if err := f.Run(); err != nil {
					t.Fatal(err)
				}
			}
		}
		for range 1 + draw(20) {
			from.randomOp(draw)
		}
		f := from.freeze()
		if draw(2) == 0 {
			if err := f.Run(); err != nil {
				t.Fatal(err)
			}
		}
		at := from.now.clone()
		for range draw(10) {
			from.randomOp(draw)
		}
		if uint64(len(from.log)) == stop {
			t.Fatal("nothing to catch up with")
		}
		if _, err := catchUp(from, to); err != nil {
			t.Fatal(err)
		}
		to.equal(at)
		follow(from, to)
		to.pos.Index = from.s.Index()
		to.pos.Meta = []byte("meta " + itoa(to.pos.Index))
		to.replay()
		to.crash(rng)
	})
}

// TestInstallPowerCut loses power at every change that catching up makes to the disk: afterwards
// the server is where it was, or where it wanted to go.
func TestInstallPowerCut(t *testing.T) {
	from := newRig(t)
	script(from)
	from.do("create", 30, 0, 0)
	from.do("write", 30, 255*ChunkSize, 2*BlockSize)
	from.flush()
	for cut := 0; ; cut++ {
		done := false
		for seed := range uint64(2) {
			to := newRig(t)
			to.old = from.old
			before := len(from.log) - 13 // where script flushed
			for i, e := range from.log[:before] {
				to.log = append(to.log, e)
				to.now.apply(e)
				if err := to.feed(e, uint64(i+1)); err != nil {
					t.Fatal(err)
				}
			}
			f, err := to.s.Freeze(uint64(before), 7, []byte("meta "+itoa(uint64(before))))
			if err != nil {
				t.Fatal(err)
			}
			if err := f.Run(); err != nil {
				t.Fatal(err)
			}
			to.mem.FailAfter(cut, disk.ErrCrashed)
			_, err = catchUp(from, to)
			if done = err == nil; !done && !errors.Is(err, disk.ErrCrashed) {
				t.Fatalf("cut %d: %v", cut, err)
			}
			to.mem.Crash(rand.New(rand.NewPCG(seed, uint64(cut))))
			if err := to.tryOpen(); err != nil {
				t.Fatalf("cut %d seed %d: %v", cut, seed, err)
			}
			switch to.pos.Index {
			case uint64(before):
				to.equal(to.old[to.pos.Index])
				if done {
					t.Fatal("an installation that ended was lost")
				}
			case uint64(len(from.log)):
				to.equal(from.now)
			default:
				t.Fatalf("cut %d seed %d: the server is at %d", cut, seed, to.pos.Index)
			}
			if list, err := to.mem.ReadDir(to.s.o.Dir); err != nil || slices.ContainsFunc(list, func(e disk.Entry) bool {
				return e.Name == stagingName && to.pos.Index != uint64(before) || e.Name == preparedName || e.Name == preparingName
			}) {
				t.Fatalf("cut %d: left behind: %v, %v", cut, list, err)
			}
		}
		if done {
			if cut < 40 {
				t.Fatalf("caught up in %d steps?", cut)
			}
			return
		}
	}
}

// TestPreparedOutlivesStaging cuts the power right after `prepared` got its name: whatever names survive,
// what it refers to must.
func TestPreparedOutlivesStaging(t *testing.T) {
	from := newRig(t)
	from.do("create", 30, 0, 0)
	from.do("write", 30, 0, 2*BlockSize)
	from.flush()
	for seed := range uint64(64) {
		to := newRig(t)
		renamed := false
		to.mem.SetHook(func(op, name string) error {
			if renamed {
				return disk.ErrCrashed
			}
			renamed = op == disk.OpRename
			return nil
		})
		if _, err := catchUp(from, to); !errors.Is(err, disk.ErrCrashed) {
			t.Fatal(err)
		}
		to.mem.SetHook(nil)
		to.mem.Crash(rand.New(rand.NewPCG(seed, 0)))
		if err := to.tryOpen(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

// TestDifference shows that of a chunk only those blocks travel that differ, and that one that
// turns out to be damaged on the way is asked for again.
func TestDifference(t *testing.T) {
	from, to := newRig(t), newRig(t)
	to.caches(true)
	from.do("create", 1, 0, 0)
	from.do("write", 1, 0, 1<<20)
	from.flush()
	n, err := catchUp(from, to)
	if err != nil || n != 256 {
		t.Fatalf("the first time %d blocks travelled, %v", n, err)
	}
	from.do("write", 1, 5*BlockSize, BlockSize)
	from.do("add", 1, 0, 512)
	from.do("zero", 1, 100*BlockSize, 10*BlockSize)
	from.flush()
	if n, err = catchUp(from, to); err != nil || n != 2 {
		t.Fatalf("the second time %d blocks travelled, %v", n, err)
	}
	to.equal(from.now)

	flip(t, to.mem, to.s.inDir(dataName)+"/0000000000000001-vol_1/00/00/00", 7*BlockSize, 1)
	from.do("add", 1, 0, 512)
	from.flush()
	var damage *DamageError
	if _, err := catchUp(from, to); !errors.As(err, &damage) || damage.Block != 7 {
		t.Fatalf("a damaged block was used: %v", err)
	}
	if _, err := to.s.Freeze(to.s.Index(), 7, nil); !errors.Is(err, ErrBusy) {
		t.Errorf("a freeze while chunks are staged: %v", err)
	}
	if err := to.s.staging.Abandon(); err != nil {
		t.Fatal(err)
	}
	if left := to.mend(from, Newest, 1, 0); left != 0 {
		t.Fatalf("%d blocks stay damaged", left)
	}
	f, err := to.s.Freeze(to.s.Index(), 7, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Run(); err != nil {
		t.Fatal(err)
	}
	if n, err = catchUp(from, to); err != nil || n != 1 {
		t.Fatalf("after the repair %d blocks travelled, %v", n, err)
	}
	to.equal(from.now)
}

func TestInstallOutOfPlace(t *testing.T) {
	r := newRig(t)
	r.do("create", 1, 0, 0)
	r.flush()
	st, err := r.s.Stage()
	if err != nil {
		t.Fatal(err)
	}
	img := Image{Object: 1, Index: 5, File: true}
	for i := range img.Records {
		img.Records[i].Kind = Hole
	}
	img.Records[3] = Record{Sum: 9, Kind: Data, Index: 5}
	if err := st.PutChunk(&img); !errors.Is(err, ErrImage) {
		t.Errorf("a block that nobody has was staged: %v", err)
	}
	for name, objects := range map[string][]Object{
		"another label": {{1, "x", 1}},
		"listed twice":  {{5, "x", 1}, {5, "x", 1}},
	} {
		if err := st.Install(9, 7, nil, objects); !errors.Is(err, ErrOrder) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := r.s.Stage(); !errors.Is(err, ErrBusy) {
		t.Errorf("staging twice: %v", err)
	}
	if err := st.Abandon(); err != nil {
		t.Fatal(err)
	}
	if err := st.Install(9, 7, nil, nil); !errors.Is(err, ErrOrder) {
		t.Errorf("installed after it was abandoned: %v", err)
	}
}

// TestInstallFullDisk fills the disk up while a catch-up is installed, and makes room again.
func TestInstallFullDisk(t *testing.T) {
	from, to := newRig(t), newRig(t)
	script(from)
	from.flush()
	st, err := to.s.Stage()
	if err != nil {
		t.Fatal(err)
	}
	var img Image
	for _, o := range from.s.Objects(Newest) {
		for _, c := range chunkNumbers {
			if err := from.s.Export(Checkpoint, o.Number, uint32(c), nil, &img); err != nil {
				t.Fatal(err)
			}
			if img.Index != 0 {
				if err := st.PutChunk(&img); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	to.mem.SetCapacity(to.mem.Used())
	install := func() error { return st.Install(from.s.Index(), 7, nil, from.s.Objects(Newest)) }
	if err := install(); !isFull(err) {
		t.Fatalf("installed on a full disk: %v", err)
	}
	to.equal(model{})
	rounds := 0 // there is a little more room each time, so that it is used up in every step
	for err := error(disk.ErrNoSpace); err != nil; rounds++ {
		to.mem.SetCapacity(to.mem.Used() + int64(1+rounds%8)*BlockSize)
		if err = install(); err != nil && !isFull(err) {
			t.Fatalf("after %d rounds: %v", rounds, err)
		}
	}
	if rounds < 3 {
		t.Fatalf("%d rounds", rounds)
	}
	to.mem.SetCapacity(0)
	to.equal(from.now)
	to.pos, to.log, to.now = Position{}, nil, from.now
	to.o.EntryData = nil
	if err := to.s.Close(); err != nil {
		t.Fatal(err)
	}
	to.mem.Crash(nil)
	to.open()
	to.equal(from.now)
}

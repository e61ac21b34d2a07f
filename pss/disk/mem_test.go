package disk

import (
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"slices"
	"testing"
)

func seeded(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }

func TestMemCrashKillsHandles(t *testing.T) {
	for _, kill := range []bool{false, true} {
		m := NewMem()
		file := must(m.Open("a", Create))(t)
		must(file.WriteAt([]byte("text"), 0))(t)
		if kill {
			m.KillProcess()
		} else {
			m.Crash(nil)
		}
		_, err := file.ReadAt(make([]byte, 1), 0)
		wantErr(t, err, ErrCrashed)
		_, err = file.WriteAt([]byte("x"), 0)
		wantErr(t, err, ErrCrashed)
		_, err = file.Size()
		wantErr(t, err, ErrCrashed)
		wantErr(t, file.Sync(), ErrCrashed)
		wantErr(t, file.Truncate(0), ErrCrashed)
		wantErr(t, file.Allocate(0, 1), ErrCrashed)
		wantErr(t, file.PunchHole(0, 1), ErrCrashed)
		ok(t, file.Close())
		if kill {
			if got := read(t, m, "a"); got != "text" {
				t.Errorf("after a kill the file has %q", got)
			}
			continue
		}
		_, err = m.Open("a", 0)
		wantErr(t, err, fs.ErrNotExist)
	}
}

func TestMemKilledDataIsNotDurable(t *testing.T) {
	m := NewMem()
	write(t, m, "a", "")
	ok(t, m.SyncDir("."))
	write(t, m, "a", "text")
	m.KillProcess()
	if got := read(t, m, "a"); got != "text" {
		t.Fatalf("after a kill the file has %q", got)
	}
	m.Crash(nil)
	if got := read(t, m, "a"); got != "" {
		t.Errorf("after the power cut the file has %q", got)
	}
}

// TestMemTears overwrites eight sectors and cuts the power: each sector is old or new, and over
// many crashes all is seen: nothing, everything, a prefix, and a mixture.
func TestMemTears(t *testing.T) {
	const old, new = 'o', 'n'
	seen := map[string]int{}
	for seed := range uint64(300) {
		m := NewMem()
		file := must(m.Open("a", Create))(t)
		must(file.WriteAt(bytes.Repeat([]byte{old}, 4096+200), 0))(t)
		ok(t, file.Sync())
		ok(t, m.SyncDir("."))
		must(file.WriteAt(bytes.Repeat([]byte{new}, 8*SectorSize), 200))(t) // across two pages, off the sectors' edges
		m.Crash(seeded(seed))
		got := []byte(read(t, m, "a"))
		if len(got) != 4096+200 {
			t.Fatalf("seed %d: size %d", seed, len(got))
		}
		kinds := []byte{got[200]}
		for off := 201; off < len(got); off++ {
			if off%SectorSize == 0 {
				kinds = append(kinds, got[off])
			} else if got[off] != got[off-1] {
				t.Fatalf("seed %d: a sector was torn at %d", seed, off)
			}
		}
		changes := len(slices.Compact(slices.Clone(kinds))) - 1
		switch {
		case changes == 0 && kinds[0] == old:
			seen["nothing"]++
		case changes == 0:
			seen["everything"]++
		case changes == 1 && kinds[0] == new:
			seen["prefix"]++
		default:
			seen["mixture"]++
		}
	}
	for _, kind := range []string{"nothing", "everything", "prefix", "mixture"} {
		if seen[kind] < 10 {
			t.Errorf("%s survived %d times of 300: %v", kind, seen[kind], seen)
		}
	}
}

// TestMemRenameIsAtomic replaces a file the careful way and cuts the power before the folder is
// synced: the name always leads to one of the two contents.
func TestMemRenameIsAtomic(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(100) {
		m := NewMem()
		write(t, m, "a", "old")
		m.Crash(nil)
		write(t, m, "a", "old")
		syncFile(t, m, "a")
		ok(t, m.SyncDir("."))
		write(t, m, "tmp", "new")
		syncFile(t, m, "tmp")
		ok(t, m.Rename("tmp", "a"))
		m.Crash(seeded(seed))
		seen[read(t, m, "a")]++
	}
	if len(seen) != 2 || seen["old"] == 0 || seen["new"] == 0 {
		t.Errorf("seen: %v", seen)
	}
}

func syncFile(t tester, f FS, name string) {
	t.Helper()
	file := must(f.Open(name, 0))(t)
	ok(t, file.Sync())
	ok(t, file.Close())
}

// TestMemRenameAcrossFolders: the change is durable when both folders are synced, not before.
func TestMemRenameAcrossFolders(t *testing.T) {
	for _, both := range []bool{false, true} {
		m := NewMem()
		ok(t, MakeFolder(m, "a"))
		ok(t, MakeFolder(m, "b"))
		write(t, m, "a/x", "text")
		syncFile(t, m, "a/x")
		ok(t, m.SyncDir("a"))
		ok(t, m.Rename("a/x", "b/y"))
		ok(t, m.SyncDir("b"))
		if both {
			ok(t, m.SyncDir("a"))
		}
		m.Crash(nil)
		name := map[bool]string{false: "a/x", true: "b/y"}[both]
		if got := read(t, m, name); got != "text" {
			t.Errorf("%s has %q", name, got)
		}
	}
}

// TestMemNameOrder: a durable change of a name takes along what it builds upon.
func TestMemNameOrder(t *testing.T) {
	m := NewMem()
	ok(t, MakeFolder(m, "a"))
	ok(t, MakeFolder(m, "b"))
	write(t, m, "b/y", "")
	ok(t, m.SyncDir("b"))
	ok(t, m.Rename("b/y", "a/x")) // durable only with both folders …
	ok(t, m.Remove("a/x"))        // … but this change of a/x needs only one
	ok(t, m.SyncDir("a"))
	m.Crash(nil)
	for _, folder := range []string{"a", "b"} {
		if got := must(m.ReadDir(folder))(t); len(got) != 0 {
			t.Errorf("%s has %v", folder, got)
		}
	}
}

// TestMemNamesInOrder renames a file twice and cuts the power: it is under one of its three names.
func TestMemNamesInOrder(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(200) {
		m := NewMem()
		write(t, m, "a", "")
		ok(t, m.SyncDir("."))
		ok(t, m.Rename("a", "b"))
		ok(t, m.Rename("b", "c"))
		m.Crash(seeded(seed))
		found := must(m.ReadDir("."))(t)
		if len(found) != 1 {
			t.Fatalf("seed %d: the names are %v", seed, found)
		}
		seen[found[0].Name]++
	}
	if len(seen) != 3 {
		t.Errorf("seen: %v", seen)
	}
}

func TestMemLostFolder(t *testing.T) {
	m := NewMem()
	ok(t, m.MkdirAll("a/b"))
	write(t, m, "a/b/c", "text")
	ok(t, m.SyncDir("a/b"))
	ok(t, m.SyncDir("a"))
	m.Crash(nil)
	if got := must(m.ReadDir("."))(t); len(got) != 0 || m.Used() != 0 {
		t.Errorf("the root was never synced and has %v, %d bytes", got, m.Used())
	}
}

func TestMemFailedSyncLosesForGood(t *testing.T) {
	m := NewMem()
	file := must(m.Open("a", Create))(t)
	ok(t, m.SyncDir("."))
	must(file.WriteAt([]byte("durable"), 0))(t)
	ok(t, file.Sync())
	must(file.WriteAt([]byte("unknown"), 0))(t)
	broken := errors.New("broken")
	m.FailAfter(0, broken)
	wantErr(t, file.Sync(), broken)
	m.FailAfter(0, nil)
	ok(t, file.Sync()) // as in an operating system the next one succeeds, and means nothing
	if got := content(t, file); string(got) != "unknown" {
		t.Errorf("before the crash the file has %q", got)
	}
	m.Crash(nil)
	if got := read(t, m, "a"); got != "durable" {
		t.Errorf("after the crash the file has %q", got)
	}
}

func TestMemHook(t *testing.T) {
	m := NewMem()
	var seen []string
	m.SetHook(func(op, name string) error {
		seen = append(seen, op+" "+name)
		return nil
	})
	ok(t, m.MkdirAll("d"))
	file := must(m.Open("d/a", Create))(t)
	must(file.WriteAt(make([]byte, 3), 0))(t)
	must(file.ReadAt(make([]byte, 3), 0))(t)
	must(file.Size())(t)
	ok(t, file.Truncate(1))
	ok(t, file.Allocate(0, 5))
	ok(t, file.PunchHole(0, 5))
	ok(t, file.Sync())
	ok(t, file.Close())
	ok(t, m.Rename("d/a", "d/b"))
	must(m.ReadDir("d"))(t)
	ok(t, m.SyncDir("d"))
	ok(t, m.Remove("d/b"))
	ok(t, m.RemoveAll("d"))
	want := []string{"mkdir d", "open d/a", "write d/a", "read d/a", "size d/a", "truncate d/a", "allocate d/a", "punch d/a",
		"sync d/a", "rename d/a", "readdir d", "syncdir d", "remove d/b", "removeall d"}
	if !slices.Equal(seen, want) {
		t.Errorf("the hook saw %q, want %q", seen, want)
	}
	broken := errors.New("broken")
	m.SetHook(func(op, name string) error {
		m.Crash(nil) // a hook may call back
		return broken
	})
	_, err := m.Open("x", Create)
	wantErr(t, err, broken)
	m.SetHook(nil)
	_, err = m.Open("x", 0)
	wantErr(t, err, fs.ErrNotExist)
}

func TestMemFailAfter(t *testing.T) {
	m := NewMem()
	file := must(m.Open("a", Create))(t)
	m.FailAfter(2, ErrCrashed)
	must(file.WriteAt([]byte("1"), 0))(t)
	must(file.ReadAt(make([]byte, 1), 0))(t) // not counted
	ok(t, file.Sync())
	_, err := file.WriteAt([]byte("2"), 0)
	wantErr(t, err, ErrCrashed)
	_, err = file.ReadAt(make([]byte, 1), 0)
	wantErr(t, err, ErrCrashed)
	_, err = m.ReadDir(".")
	wantErr(t, err, ErrCrashed)
	m.Crash(nil)
	must(m.ReadDir("."))(t)
}

func TestMemCapacity(t *testing.T) {
	m := NewMem()
	m.SetCapacity(3 * 4096)
	file := must(m.Open("a", Create))(t)
	must(file.WriteAt(make([]byte, 4096), 4096))(t)
	ok(t, file.Allocate(0, 2*4096))
	if m.Used() != 2*4096 {
		t.Errorf("%d bytes in use", m.Used())
	}
	_, err := file.WriteAt(make([]byte, 8192), 2*4096)
	wantErr(t, err, ErrNoSpace)
	wantErr(t, file.Allocate(0, 4*4096), ErrNoSpace)
	must(file.WriteAt(make([]byte, 3*4096), 0))(t)
	must(file.WriteAt(make([]byte, 100), 100))(t) // space that the file has already
	ok(t, file.PunchHole(4096, 4096))
	must(file.WriteAt([]byte("x"), 5*4096))(t)
	ok(t, file.Truncate(100))
	if m.Used() != 4096 {
		t.Errorf("%d bytes in use", m.Used())
	}
	ok(t, m.Remove("a"))
	if m.Used() != 0 {
		t.Errorf("%d bytes in use", m.Used())
	}
}

// TestMemClone: a clone has what was shown, durably, under all its names, and what is done to either disk afterwards
// the other one does not have.
func TestMemClone(t *testing.T) {
	m := NewMem()
	ok(t, m.MkdirAll("a/b"))
	write(t, m, "a/b/c", "text")
	ok(t, m.Link("a/b/c", "again"))
	write(t, m, "gone", "x")
	ok(t, m.Remove("gone"))
	reserved := must(m.Open("reserved", Create))(t)
	ok(t, reserved.Allocate(0, 3*pageSize))
	m.SetCapacity(1 << 20)
	m.FailAfter(1000, ErrNoSpace)

	c := m.Clone()
	if got, want := c.Used(), m.Used(); got != want {
		t.Errorf("%d bytes in use, of %d", got, want)
	}
	write(t, m, "a/b/c", "TEXT")
	c.Crash(nil)
	for _, name := range []string{"a/b/c", "again"} {
		if got := read(t, c, name); got != "text" {
			t.Errorf("the clone has %q as %s", got, name)
		}
	}
	_, err := c.Open("gone", 0)
	wantErr(t, err, fs.ErrNotExist)
	if size := must(must(c.Open("reserved", 0))(t).Size())(t); size != 3*pageSize {
		t.Errorf("the reserved file has %d bytes", size)
	}

	write(t, c, "again", "last") // a file with two names is one file still
	if got := read(t, c, "a/b/c"); got != "last" {
		t.Errorf("under its other name the file has %q", got)
	}
	if got := read(t, m, "again"); got != "TEXT" {
		t.Errorf("the first disk has %q", got)
	}
	ok(t, c.RemoveAll("a"))
	ok(t, c.Remove("again"))
	ok(t, c.Remove("reserved"))
	if c.Used() != 0 {
		t.Errorf("%d bytes in use of an empty disk", c.Used())
	}
	if free, _, err := c.Space(); err != nil || free != 1<<60 {
		t.Errorf("the clone has a limit: %d bytes free, %v", free, err)
	}
}

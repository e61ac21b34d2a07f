package disk

import (
	"bytes"
	"io/fs"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// memModel is a Mem and what must be true of it.
type memModel struct {
	m     *Mem
	files [][][]byte       // a file's contents since its last Sync, the durable one first; file 0 is none
	names map[string][]int // the files a name led to since it was durable, that one first
	fill  byte
}

var modelNames = []string{"a", "b", "d/c", "d/e"}

// TestMemModel compares a Mem with the model through random operations, kills and power cuts.
func TestMemModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &memModel{m: NewMem(), files: [][][]byte{nil}, names: map[string][]int{}}
		ok(t, MakeFolder(w.m, "d"))
		for _, name := range modelNames {
			w.names[name] = []int{0}
		}
		t.Repeat(map[string]func(*rapid.T){
			"":         w.check,
			"create":   w.create,
			"write":    w.write,
			"truncate": w.truncate,
			"punch":    w.punch,
			"allocate": w.allocate,
			"sync":     w.sync,
			"rename":   w.rename,
			"link":     w.link,
			"remove":   w.remove,
			"syncdir":  func(t *rapid.T) { ok(t, w.m.SyncDir(rapid.SampledFrom([]string{".", "d"}).Draw(t, "folder"))) },
			"syncdirs": w.syncDirs,
			"kill":     func(t *rapid.T) { w.m.KillProcess() },
			"crash":    w.crash,
		})
	})
}

func last[T any](s []T) T { return s[len(s)-1] }

func (w *memModel) name(t *rapid.T, label string) string {
	return rapid.SampledFrom(modelNames).Draw(t, label)
}

func (w *memModel) check(t *rapid.T) {
	for _, name := range modelNames {
		file, err := w.m.Open(name, 0)
		id := last(w.names[name])
		if id == 0 {
			wantErr(t, err, fs.ErrNotExist)
			continue
		}
		ok(t, err)
		if got := content(t, file); !bytes.Equal(got, last(w.files[id])) {
			t.Fatalf("%s differs from the model: %d bytes, want %d", name, len(got), len(last(w.files[id])))
		}
		ok(t, file.Close())
	}
	if used := w.m.measure(w.m.root, map[*node]bool{}); used != w.m.used {
		t.Fatalf("%d bytes counted, %d in use", w.m.used, used)
	}
}

func (w *memModel) create(t *rapid.T) {
	name := w.name(t, "name")
	ok(t, must(w.m.Open(name, Create))(t).Close())
	if last(w.names[name]) == 0 {
		w.names[name] = append(w.names[name], len(w.files))
		w.files = append(w.files, [][]byte{nil})
	}
}

// alter makes a change to a file, if its name leads to one; do returns the new content.
func (w *memModel) alter(t *rapid.T, do func(file File, was []byte) []byte) {
	name := w.name(t, "name")
	id := last(w.names[name])
	if id == 0 {
		return
	}
	file := must(w.m.Open(name, 0))(t)
	w.files[id] = append(w.files[id], do(file, bytes.Clone(last(w.files[id]))))
	ok(t, file.Close())
}

func (w *memModel) span(t *rapid.T) (off, n int64) {
	return rapid.Int64Range(0, 9000).Draw(t, "off"), rapid.Int64Range(1, 9000).Draw(t, "n")
}

// extend pads b with zeros to at least n bytes.
func extend(b []byte, n int64) []byte {
	return append(b, make([]byte, max(0, n-int64(len(b))))...)
}

func (w *memModel) write(t *rapid.T) {
	off, n := w.span(t)
	w.alter(t, func(file File, was []byte) []byte {
		w.fill++
		p := bytes.Repeat([]byte{w.fill}, int(n))
		must(file.WriteAt(p, off))(t)
		was = extend(was, off+n)
		copy(was[off:], p)
		return was
	})
}

func (w *memModel) truncate(t *rapid.T) {
	size, _ := w.span(t)
	w.alter(t, func(file File, was []byte) []byte {
		ok(t, file.Truncate(size))
		return extend(was, size)[:size]
	})
}

func (w *memModel) punch(t *rapid.T) {
	off, n := w.span(t)
	w.alter(t, func(file File, was []byte) []byte {
		ok(t, file.PunchHole(off, n))
		size := int64(len(was))
		clear(was[min(off, size):min(off+n, size)])
		return was
	})
}

func (w *memModel) allocate(t *rapid.T) {
	off, n := w.span(t)
	w.alter(t, func(file File, was []byte) []byte {
		ok(t, file.Allocate(off, n))
		return extend(was, off+n)
	})
}

func (w *memModel) sync(t *rapid.T) {
	name := w.name(t, "name")
	id := last(w.names[name])
	if id == 0 {
		return
	}
	file := must(w.m.Open(name, 0))(t)
	ok(t, file.Sync())
	ok(t, file.Close())
	w.files[id] = [][]byte{last(w.files[id])}
}

func (w *memModel) rename(t *rapid.T) {
	from, to := w.name(t, "from"), w.name(t, "to")
	id := last(w.names[from])
	err := w.m.Rename(from, to)
	if id == 0 {
		wantErr(t, err, fs.ErrNotExist)
		return
	}
	ok(t, err)
	if id != last(w.names[to]) {
		w.names[from] = append(w.names[from], 0)
		w.names[to] = append(w.names[to], id)
	}
}

func (w *memModel) link(t *rapid.T) {
	from, to := w.name(t, "from"), w.name(t, "to")
	id := last(w.names[from])
	err := w.m.Link(from, to)
	switch {
	case id == 0:
		wantErr(t, err, fs.ErrNotExist)
	case last(w.names[to]) != 0:
		wantErr(t, err, fs.ErrExist)
	default:
		ok(t, err)
		w.names[to] = append(w.names[to], id)
	}
}

func (w *memModel) remove(t *rapid.T) {
	name := w.name(t, "name")
	err := w.m.Remove(name)
	if last(w.names[name]) == 0 {
		wantErr(t, err, fs.ErrNotExist)
		return
	}
	ok(t, err)
	w.names[name] = append(w.names[name], 0)
}

func (w *memModel) syncDirs(t *rapid.T) {
	ok(t, w.m.SyncDir("."))
	ok(t, w.m.SyncDir("d"))
	for name, ids := range w.names {
		w.names[name] = []int{last(ids)}
	}
}

// crash cuts the power and checks that every name leads to a file it led to since it was durable,
// and that every byte there is one that it was since it was durable. Where nothing changed since,
// this leaves one possibility.
func (w *memModel) crash(t *rapid.T) {
	if rapid.Bool().Draw(t, "lose all") {
		w.m.Crash(nil)
	} else {
		w.m.Crash(seeded(rapid.Uint64().Draw(t, "seed")))
	}
	seen := map[*node]int{} // the file it is from now on
	names := map[*node]int{}
	for _, name := range modelNames {
		file, err := w.m.Open(name, 0)
		if err != nil {
			wantErr(t, err, fs.ErrNotExist)
			if !slices.Contains(w.names[name], 0) {
				t.Fatalf("%s is lost", name)
			}
			w.names[name] = []int{0}
			continue
		}
		got := content(t, file)
		ok(t, file.Close())
		n := must(w.m.lookup("", name))(t)
		if !slices.ContainsFunc(w.names[name], func(id int) bool { return id != 0 && plausible(got, w.files[id]) }) {
			t.Fatalf("%s has what it can't have", name)
		}
		if names[n]++; names[n] == 1 {
			seen[n] = len(w.files)
			w.files = append(w.files, [][]byte{got})
		}
		w.names[name] = []int{seen[n]}
	}
	for n, count := range names {
		if n.links != count {
			t.Fatalf("file %d has %d names and counts %d", seen[n], count, n.links)
		}
	}
}

// plausible says whether a crash may have made got of a file that had these contents.
func plausible(got []byte, contents [][]byte) bool {
	shortest, longest := len(contents[0]), len(contents[0])
	for _, c := range contents {
		shortest, longest = min(shortest, len(c)), max(longest, len(c))
	}
	if len(got) < shortest || len(got) > longest {
		return false
	}
	for i, b := range got {
		if !slices.ContainsFunc(contents, func(c []byte) bool {
			return i < len(c) && c[i] == b || i >= len(c) && b == 0
		}) {
			return false
		}
	}
	return true
}

// BenchmarkMemWriteSync is what the simulator does most.
func BenchmarkMemWriteSync(b *testing.B) {
	m := NewMem()
	file := must(m.Open("a", Create))(b)
	p := make([]byte, 8192)
	b.ReportAllocs()
	for i := range int64(b.N) {
		must(file.WriteAt(p, i%16*4096))(b)
		ok(b, file.Sync())
	}
}

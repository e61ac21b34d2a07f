package disk

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"testing"
)

// TestFS runs one suite on all implementations: what a test shows on the Mem holds on a disk.
func TestFS(t *testing.T) {
	kinds := []struct {
		name string
		make func(t *testing.T) FS
	}{
		{"Dir", func(t *testing.T) FS { return must(Dir(t.TempDir()))(t) }},
		{"Mem", func(*testing.T) FS { return NewMem() }},
		{"Shadow", func(*testing.T) FS { return Shadow(NewMem()) }},
	}
	tests := []struct {
		name string
		run  func(t *testing.T, f FS)
	}{
		{"Names", testNames}, {"BadNames", testBadNames}, {"Rename", testRename}, {"RenameFolders", testRenameFolders},
		{"Link", testLink},
		{"Remove", testRemove}, {"ReadWrite", testReadWrite}, {"Truncate", testTruncate}, {"Allocate", testAllocate},
		{"PunchHole", testPunchHole}, {"Direct", testDirect}, {"Closed", testClosed}, {"Concurrent", testConcurrent},
		{"Unlinked", testUnlinked}, {"MakeFolder", testMakeFolder},
	}
	for _, k := range kinds {
		for _, test := range tests {
			t.Run(k.name+"/"+test.name, func(t *testing.T) { test.run(t, k.make(t)) })
		}
	}
}

// tester is what testing.T, testing.B and rapid.T have in common.
type tester interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

func must[T any](v T, err error) func(t tester) T {
	return func(t tester) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func ok(t tester, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t tester, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error %v, want %v", err, want)
	}
}

func write(t tester, f FS, name, text string) {
	t.Helper()
	file := must(f.Open(name, Create))(t)
	must(file.WriteAt([]byte(text), 0))(t)
	ok(t, file.Close())
}

func read(t tester, f FS, name string) string {
	t.Helper()
	file := must(f.Open(name, 0))(t)
	text := content(t, file)
	ok(t, file.Close())
	return string(text)
}

func content(t tester, file File) []byte {
	t.Helper()
	b := make([]byte, must(file.Size())(t))
	if n, err := file.ReadAt(b, 0); n != len(b) || (err != nil && err != io.EOF) {
		t.Fatalf("read %d of %d bytes: %v", n, len(b), err)
	}
	return b
}

func testNames(t *testing.T, f FS) {
	_, err := f.Open("a", 0)
	wantErr(t, err, fs.ErrNotExist)
	_, err = f.Open("no/a", Create)
	wantErr(t, err, fs.ErrNotExist)
	ok(t, f.MkdirAll("d/e"))
	ok(t, f.MkdirAll("d/e"))
	ok(t, f.MkdirAll("."))
	write(t, f, "d/z", "12345")
	write(t, f, "d/b", "")
	want := []Entry{{"b", false, 0}, {"e", true, 0}, {"z", false, 5}}
	if got := must(f.ReadDir("d"))(t); !reflect.DeepEqual(got, want) {
		t.Errorf("folder has %v, want %v", got, want)
	}
	if got := must(f.ReadDir("."))(t); len(got) != 1 || got[0] != (Entry{"d", true, 0}) {
		t.Errorf("root has %v", got)
	}
	ok(t, f.SyncDir("d"))
	ok(t, f.SyncDir("."))
	wantErr(t, f.SyncDir("x"), fs.ErrNotExist)
	_, err = f.ReadDir("x")
	wantErr(t, err, fs.ErrNotExist)
	if _, err := f.ReadDir("d/z"); err == nil {
		t.Error("a file was read as a folder")
	}
	if err := f.MkdirAll("d/z/y"); err == nil {
		t.Error("a folder was made inside a file")
	}
	if _, err := f.Open("d/e", 0); err == nil {
		t.Error("a folder was opened as a file")
	}
	if _, err := f.Open("d/z/y", Create); err == nil {
		t.Error("a file was made inside a file")
	}
}

func testBadNames(t *testing.T, f FS) {
	for _, name := range []string{"", "/a", "../a", "a/../b", "a/", "a//b", "./a"} {
		_, err := f.Open(name, Create)
		wantErr(t, err, fs.ErrInvalid)
		wantErr(t, f.MkdirAll(name), fs.ErrInvalid)
		wantErr(t, f.Remove(name), fs.ErrInvalid)
		wantErr(t, f.RemoveAll(name), fs.ErrInvalid)
		wantErr(t, f.Rename(name, "x"), fs.ErrInvalid)
		wantErr(t, f.Rename("x", name), fs.ErrInvalid)
		wantErr(t, f.SyncDir(name), fs.ErrInvalid)
		_, err = f.ReadDir(name)
		wantErr(t, err, fs.ErrInvalid)
	}
	wantErr(t, f.RemoveAll("."), fs.ErrInvalid)
}

func testRename(t *testing.T, f FS) {
	ok(t, f.MkdirAll("d"))
	write(t, f, "a", "new")
	write(t, f, "d/b", "old")
	held := must(f.Open("d/b", 0))(t)
	ok(t, f.Rename("a", "d/b"))
	if got := read(t, f, "d/b"); got != "new" {
		t.Errorf("after the rename the file has %q", got)
	}
	if got := content(t, held); string(got) != "old" {
		t.Errorf("the handle of the replaced file has %q", got)
	}
	ok(t, held.Close())
	_, err := f.Open("a", 0)
	wantErr(t, err, fs.ErrNotExist)
	wantErr(t, f.Rename("a", "c"), fs.ErrNotExist)
	wantErr(t, f.Rename("d/b", "no/b"), fs.ErrNotExist)
	ok(t, f.Rename("d/b", "d/b"))
	if err := f.Rename("d/b", "d"); err == nil {
		t.Error("a file replaced a folder")
	}
}

func testRenameFolders(t *testing.T, f FS) {
	ok(t, f.MkdirAll("a/b"))
	ok(t, f.MkdirAll("empty"))
	write(t, f, "a/b/c", "text")
	write(t, f, "file", "")
	if err := f.Rename("a", "a/b/d"); err == nil {
		t.Error("a folder was moved into itself")
	}
	if err := f.Rename("a", "file"); err == nil {
		t.Error("a folder replaced a file")
	}
	wantErr(t, f.Rename("a", "empty"), fs.ErrExist)
	wantErr(t, f.Rename("file", "empty"), fs.ErrExist)
	ok(t, f.Rename("a", "moved"))
	if got := read(t, f, "moved/b/c"); got != "text" {
		t.Errorf("the moved file has %q", got)
	}
}

func testLink(t *testing.T, f FS) {
	ok(t, f.MkdirAll("d"))
	write(t, f, "a", "text")
	ok(t, f.Link("a", "d/b"))
	write(t, f, "d/b", "more")
	if got := read(t, f, "a"); got != "more" {
		t.Errorf("the other name shows %q", got)
	}
	wantErr(t, f.Link("a", "d/b"), fs.ErrExist)
	wantErr(t, f.Link("no", "c"), fs.ErrNotExist)
	wantErr(t, f.Link("a", "no/c"), fs.ErrNotExist)
	if err := f.Link("d", "c"); err == nil {
		t.Error("a folder has a second name")
	}
	wantErr(t, f.Link("a", "../c"), fs.ErrInvalid)
	ok(t, f.Rename("a", "d/b")) // two names of one file: both stay
	if got := read(t, f, "a"); got != "more" {
		t.Errorf("after the rename it shows %q", got)
	}
	ok(t, f.Remove("a"))
	if got := read(t, f, "d/b"); got != "more" {
		t.Errorf("the name that is left shows %q", got)
	}
}

func testRemove(t *testing.T, f FS) {
	ok(t, f.MkdirAll("a/b"))
	write(t, f, "a/b/c", "text")
	if err := f.Remove("a/b"); err == nil {
		t.Error("a folder with names in it was removed")
	}
	ok(t, f.Remove("a/b/c"))
	wantErr(t, f.Remove("a/b/c"), fs.ErrNotExist)
	ok(t, f.Remove("a/b"))
	write(t, f, "a/d", "text")
	ok(t, f.RemoveAll("a"))
	ok(t, f.RemoveAll("a"))
	ok(t, f.RemoveAll("a/b/c"))
	if got := must(f.ReadDir("."))(t); len(got) != 0 {
		t.Errorf("left over: %v", got)
	}
}

func testReadWrite(t *testing.T, f FS) {
	file := must(f.Open("a", Create))(t)
	defer file.Close()
	must(file.WriteAt([]byte("beyond"), 10000))(t)
	must(file.WriteAt([]byte("across"), 4093))(t)
	must(file.WriteAt(nil, 20000))(t)
	want := make([]byte, 10006)
	copy(want[10000:], "beyond")
	copy(want[4093:], "across")
	if got := content(t, file); !bytes.Equal(got, want) {
		t.Error("content differs")
	}
	ok(t, file.Sync())
	p := make([]byte, 10)
	if n, err := file.ReadAt(p, 10000); n != 6 || err != io.EOF {
		t.Errorf("read across the end: %d, %v", n, err)
	}
	if n, err := file.ReadAt(p, 1<<40); n != 0 || err != io.EOF {
		t.Errorf("read beyond the end: %d, %v", n, err)
	}
	if n, err := file.ReadAt(p, 4093); n != 10 || err != nil || string(p[:6]) != "across" {
		t.Errorf("read: %d, %v, %q", n, err, p)
	}
	if _, err := file.WriteAt(p, -1); err == nil {
		t.Error("wrote at a negative offset")
	}
	if _, err := file.ReadAt(p, -1); err == nil {
		t.Error("read at a negative offset")
	}
}

func testTruncate(t *testing.T, f FS) {
	file := must(f.Open("a", Create))(t)
	defer file.Close()
	must(file.WriteAt(bytes.Repeat([]byte{7}, 9000), 0))(t)
	ok(t, file.Truncate(5000))
	ok(t, file.Truncate(9000))
	want := append(bytes.Repeat([]byte{7}, 5000), make([]byte, 4000)...)
	if got := content(t, file); !bytes.Equal(got, want) {
		t.Error("what was cut off came back")
	}
	ok(t, file.Truncate(0))
	if size := must(file.Size())(t); size != 0 {
		t.Errorf("size %d", size)
	}
	wantErr(t, file.Truncate(-1), fs.ErrInvalid)
}

func testAllocate(t *testing.T, f FS) {
	file := must(f.Open("a", Create))(t)
	defer file.Close()
	must(file.WriteAt([]byte("text"), 0))(t)
	ok(t, file.Allocate(0, 10000))
	want := make([]byte, 10000)
	copy(want, "text")
	if got := content(t, file); !bytes.Equal(got, want) {
		t.Error("content differs")
	}
	ok(t, file.Allocate(0, 100))
	ok(t, file.Allocate(5, 0))
	if size := must(file.Size())(t); size != 10000 {
		t.Errorf("size %d", size)
	}
	wantErr(t, file.Allocate(-1, 5), fs.ErrInvalid)
	wantErr(t, file.Allocate(1<<62, 1<<62), fs.ErrInvalid)
}

func testPunchHole(t *testing.T, f FS) {
	file := must(f.Open("a", Create))(t)
	defer file.Close()
	want := bytes.Repeat([]byte{7}, 20000)
	must(file.WriteAt(want, 0))(t)
	for _, r := range [][2]int64{{100, 50}, {4000, 200}, {4096, 8192}, {19000, 5000}, {30000, 10}, {5, 0}} {
		ok(t, file.PunchHole(r[0], r[1]))
		if r[0] < int64(len(want)) {
			clear(want[r[0]:min(r[0]+r[1], int64(len(want)))])
		}
		if got := content(t, file); !bytes.Equal(got, want) {
			t.Fatalf("content differs after a hole of %d at %d", r[1], r[0])
		}
	}
	wantErr(t, file.PunchHole(-1, 5), fs.ErrInvalid)
}

func testDirect(t *testing.T, f FS) {
	file := must(f.Open("a", Create|Direct))(t)
	defer file.Close()
	p := Aligned(3 * Align)
	for i := range p {
		p[i] = byte(i % 251)
	}
	must(file.WriteAt(p, Align))(t)
	q := Aligned(2 * Align)
	must(file.ReadAt(q, 2*Align))(t)
	if !bytes.Equal(q, p[Align:]) {
		t.Error("content differs")
	}
	for _, bad := range []struct {
		p   []byte
		off int64
	}{{p[:Align], 512}, {p[:512], Align}, {p[8 : 8+Align], Align}} {
		if _, err := file.WriteAt(bad.p, bad.off); err == nil {
			t.Errorf("unaligned write of %d at %d", len(bad.p), bad.off)
		}
		if _, err := file.ReadAt(bad.p, bad.off); err == nil || err == io.EOF {
			t.Errorf("unaligned read of %d at %d: %v", len(bad.p), bad.off, err)
		}
	}
	ok(t, file.Sync())
	if n, err := file.ReadAt(p, 3*Align); n != Align || err != io.EOF {
		t.Errorf("read across the end: %d, %v", n, err)
	}
	if got := must(f.Open("a", 0))(t); len(content(t, got)) != 4*Align {
		t.Error("a buffered handle sees another size")
	} else {
		ok(t, got.Close())
	}
}

func testClosed(t *testing.T, f FS) {
	file := must(f.Open("a", Create))(t)
	ok(t, file.Close())
	_, err := file.ReadAt(make([]byte, 1), 0)
	wantErr(t, err, fs.ErrClosed)
	_, err = file.WriteAt(make([]byte, 1), 0)
	wantErr(t, err, fs.ErrClosed)
	_, err = file.Size()
	wantErr(t, err, fs.ErrClosed)
	wantErr(t, file.Sync(), fs.ErrClosed)
	wantErr(t, file.Truncate(1), fs.ErrClosed)
	wantErr(t, file.Allocate(0, 1), fs.ErrClosed)
	wantErr(t, file.PunchHole(0, 1), fs.ErrClosed)
	wantErr(t, file.Close(), fs.ErrClosed)
}

func testConcurrent(t *testing.T, f FS) {
	file := must(f.Open("a", Create))(t)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			p := bytes.Repeat([]byte{byte(w + 1)}, 1000)
			for i := range 20 {
				off := int64(w*20+i) * 1000
				if _, err := file.WriteAt(p, off); err != nil {
					t.Error(err)
				}
				if err := file.Sync(); err != nil {
					t.Error(err)
				}
				q := make([]byte, 1000)
				if _, err := file.ReadAt(q, off); err != nil || !bytes.Equal(p, q) {
					t.Errorf("read back at %d: %v", off, err)
				}
			}
		})
	}
	wg.Wait()
	ok(t, file.Close())
}

func testUnlinked(t *testing.T, f FS) {
	file := must(f.Open("a", Create))(t)
	ok(t, f.Remove("a"))
	ok(t, f.SyncDir("."))
	must(file.WriteAt([]byte("text"), 0))(t)
	ok(t, file.Sync())
	if got := content(t, file); string(got) != "text" {
		t.Errorf("a removed file that is open has %q", got)
	}
	ok(t, file.Close())
}

func testMakeFolder(t *testing.T, f FS) {
	ok(t, MakeFolder(f, "a/b/c"))
	ok(t, MakeFolder(f, "a/b/c"))
	if got := must(f.ReadDir("a/b"))(t); len(got) != 1 || !got[0].Dir {
		t.Errorf("folder has %v", got)
	}
	if m, isMem := f.(*Mem); isMem {
		m.Crash(nil)
		must(f.ReadDir("a/b/c"))(t)
	}
}

func TestDirKeepsInside(t *testing.T) {
	root, outside := t.TempDir(), t.TempDir()
	ok(t, os.Symlink(outside, filepath.Join(root, "link")))
	f := must(Dir(root))(t)
	if _, err := f.Open("link/a", Create); err == nil {
		t.Error("a symbolic link led outside")
	}
	if err := f.MkdirAll("link/d"); err == nil {
		t.Error("a symbolic link led outside")
	}
	if found, err := os.ReadDir(outside); err != nil || len(found) != 0 {
		t.Errorf("outside there is %v, %v", found, err)
	}
}

func TestDirMustExist(t *testing.T) {
	_, err := Dir(filepath.Join(t.TempDir(), "mistyped"))
	wantErr(t, err, fs.ErrNotExist)
}

func TestDirErrorsNameTheFile(t *testing.T) {
	root := t.TempDir()
	_, err := must(Dir(root))(t).Open("d/a", 0)
	if want := "open " + filepath.Join(root, "d/a") + ": no such file or directory"; err == nil || err.Error() != want {
		t.Errorf("error %q, want %q", err, want)
	}
}

func TestDirNoSpace(t *testing.T) {
	// /dev/full is the one file that is always full; it is no regular file, so it is opened beside Open.
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	ok(t, err)
	f := &dirFile{f: full, fd: int(full.Fd())}
	_, err = f.WriteAt([]byte("text"), 0)
	wantErr(t, err, ErrNoSpace)
	ok(t, f.Close())
}

func TestAligned(t *testing.T) {
	for _, n := range []int{0, 1, 511, Align, 100000} {
		if b := Aligned(n); len(b) != n || cap(b) != n {
			t.Errorf("Aligned(%d) has length %d, capacity %d", n, len(b), cap(b))
		} else if err := checkAligned(Aligned(Align), 0); err != nil {
			t.Error(err)
		}
	}
}

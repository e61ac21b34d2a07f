package ssc

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore"
)

// newImage makes an image file and returns its path.
func newImage(t testing.TB, medium Medium, megabytes int64) string {
	t.Helper()
	b, err := Blank("A00001", medium, megabytes, time.Unix(1795308933, 0))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "tape")
	if err := os.WriteFile(path, b, 0o640); err != nil {
		t.Fatal(err)
	}
	return path
}

func open(t testing.TB, path string) (*Store, *Tape) {
	t.Helper()
	s, err := Open(backstore.Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	tape, err := s.(*Store).Tape()
	if err != nil {
		t.Fatal(err)
	}
	return s.(*Store), tape
}

// modelObject is a block, or a filemark if data is nil.
type modelObject struct{ data []byte }

// model is a tape as it should be.
type model struct {
	objects []modelObject
	at      int
}

func (m *model) spaceBlocks(n int) (left int, err error) {
	for ; n > 0; n-- {
		if m.at == len(m.objects) {
			return n, ErrEnd
		}
		m.at++
		if m.objects[m.at-1].data == nil {
			return n, ErrFilemark
		}
	}
	for ; n < 0; n++ {
		if m.at == 0 {
			return -n, ErrBeginning
		}
		m.at--
		if m.objects[m.at].data == nil {
			return -n, ErrFilemark
		}
	}
	return 0, nil
}

func (m *model) spaceMarks(n int) (left int, err error) {
	for n > 0 {
		if m.at == len(m.objects) {
			return n, ErrEnd
		}
		m.at++
		if m.objects[m.at-1].data == nil {
			n--
		}
	}
	for n < 0 {
		if m.at == 0 {
			return -n, ErrBeginning
		}
		m.at--
		if m.objects[m.at].data == nil {
			n++
		}
	}
	return 0, nil
}

func (m *model) marks() (n uint64) {
	for _, o := range m.objects[:m.at] {
		if o.data == nil {
			n++
		}
	}
	return n
}

// TestTapeIsLikeItsModel drives a tape and a list of objects side by side.
func TestTapeIsLikeItsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "tape")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		path := filepath.Join(dir, "tape")
		b, err := Blank("A00001", DataMedium, 1, time.Unix(1, 0))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		store, err := Open(backstore.Options{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { store.Close() }()
		tape, err := store.(*Store).Tape()
		if err != nil {
			t.Fatal(err)
		}
		m := &model{}
		same := func(what string, got, want error) {
			if !errors.Is(got, want) || (got == nil) != (want == nil) {
				t.Fatalf("%s: %v, want %v", what, got, want)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"write": func(t *rapid.T) {
				data := rapid.SliceOfN(rapid.Byte(), 1, 300).Draw(t, "data")
				same("write", tape.Write(data), nil)
				m.objects = append(m.objects[:m.at:m.at], modelObject{data})
				m.at++
			},
			"marks": func(t *rapid.T) {
				n := rapid.IntRange(0, 3).Draw(t, "n")
				same("marks", tape.WriteFilemarks(n), nil)
				if n > 0 {
					m.objects = append(m.objects[:m.at:m.at], make([]modelObject, n)...)
					m.at += n
				}
			},
			"erase": func(t *rapid.T) {
				same("erase", tape.Erase(), nil)
				m.objects = m.objects[:m.at:m.at]
			},
			"read": func(t *rapid.T) {
				buf := make([]byte, rapid.IntRange(0, 400).Draw(t, "room"))
				n, err := tape.Read(buf)
				switch {
				case m.at == len(m.objects):
					same("read", err, ErrEnd)
				case m.objects[m.at].data == nil:
					same("read", err, ErrFilemark)
					m.at++
				default:
					data := m.objects[m.at].data
					m.at++
					if err != nil || n != len(data) || !bytes.Equal(buf[:min(n, len(buf))], data[:min(n, len(buf))]) {
						t.Fatalf("read %d bytes, %v; want %d", n, err, len(data))
					}
				}
			},
			"blocks": func(t *rapid.T) {
				n := rapid.IntRange(-5, 5).Draw(t, "n")
				left, err := tape.SpaceBlocks(int64(n))
				want, wantErr := m.spaceBlocks(n)
				if same("space", err, wantErr); left != int64(want) {
					t.Fatalf("%d blocks left, want %d", left, want)
				}
			},
			"files": func(t *rapid.T) {
				n := rapid.IntRange(-3, 3).Draw(t, "n")
				left, err := tape.SpaceFilemarks(int64(n))
				want, wantErr := m.spaceMarks(n)
				if same("space", err, wantErr); left != int64(want) {
					t.Fatalf("%d filemarks left, want %d", left, want)
				}
			},
			"locate": func(t *rapid.T) {
				n := rapid.IntRange(0, len(m.objects)+2).Draw(t, "n")
				var want error
				if n > len(m.objects) {
					want = ErrEnd
				}
				same("locate", tape.Locate(uint64(n)), want)
				m.at = min(n, len(m.objects))
			},
			"locate file": func(t *rapid.T) {
				n := rapid.IntRange(0, 4).Draw(t, "n")
				m.at = 0
				_, want := m.spaceMarks(n)
				same("locate", tape.LocateFile(uint64(n)), want)
			},
			"rewind": func(*rapid.T) { tape.Rewind(); m.at = 0 },
			"end": func(*rapid.T) {
				same("end", tape.SpaceEnd(), nil)
				m.at = len(m.objects)
			},
			"load again": func(*rapid.T) {
				same("close", store.Close(), nil)
				if store, err = Open(backstore.Options{Path: path}); err != nil {
					t.Fatal(err)
				}
				tape, err = store.(*Store).Tape()
				same("load", err, nil)
				m.at = 0
			},
			"": func(t *rapid.T) {
				if tape.Number() != uint64(m.at) || tape.Marks() != m.marks() {
					t.Fatalf("at %d behind %d marks, want %d, %d", tape.Number(), tape.Marks(), m.at, m.marks())
				}
			},
		})
	})
}

func TestCapacity(t *testing.T) {
	_, tape := open(t, newImage(t, DataMedium, 4))
	block := make([]byte, 256<<10-HeaderBytes)
	for i := range 16 {
		if warned := tape.Warned(); warned != (i > 12) {
			t.Errorf("after %d blocks of 16: warned %v", i, warned)
		}
		if err := tape.Write(block); err != nil {
			t.Fatalf("block %d: %v", i, err)
		}
	}
	if err := tape.Write(block[:1]); !errors.Is(err, ErrFull) {
		t.Errorf("behind the capacity: %v", err)
	}
	if err := tape.WriteFilemarks(1); !errors.Is(err, ErrFull) {
		t.Errorf("a filemark behind the capacity: %v", err)
	}
	if got := tape.Memory().Remaining; got != 0 {
		t.Errorf("%d bytes remain", got)
	}
	for _, size := range []int{0, MaxBlock + 1} {
		if err := tape.Write(make([]byte, size)); err == nil {
			t.Errorf("a block of %d bytes was written", size)
		}
	}
}

func TestWORM(t *testing.T) {
	_, tape := open(t, newImage(t, WORMMedium, 8))
	if err := errors.Join(tape.Write([]byte("once")), tape.Write([]byte("appended"))); err != nil {
		t.Fatal(err)
	}
	tape.Rewind()
	for what, err := range map[string]error{
		"write": tape.Write([]byte("twice")), "filemark": tape.WriteFilemarks(1), "erase": tape.Erase(),
	} {
		if !errors.Is(err, ErrWORM) {
			t.Errorf("%s over data: %v", what, err)
		}
	}
	buf := make([]byte, 8)
	if n, err := tape.Read(buf); err != nil || string(buf[:n]) != "once" {
		t.Errorf("read %q, %v", buf[:n], err)
	}
}

func TestCleaningCartridge(t *testing.T) {
	_, tape := open(t, newImage(t, CleaningMedium, 8))
	_, err := tape.Read(make([]byte, 1))
	for what, err := range map[string]error{"read": err, "write": tape.Write([]byte("x")), "erase": tape.Erase()} {
		if !errors.Is(err, ErrCleaning) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestOverwritingEndsTheTape: what is left of an overwritten block never reads as one.
func TestOverwritingEndsTheTape(t *testing.T) {
	path := newImage(t, DataMedium, 8)
	s, tape := open(t, path)
	for range 3 {
		if err := tape.Write(make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tape.Locate(1); err != nil {
		t.Fatal(err)
	}
	if err := tape.Write([]byte("short")); err != nil {
		t.Fatal(err)
	}
	if _, err := tape.Read(nil); !errors.Is(err, ErrEnd) {
		t.Errorf("behind the new block: %v", err)
	}
	if want := int64(firstOffset + 3*HeaderBytes + 1000 + 5); s.Info().Bytes != want {
		t.Errorf("the file has %d bytes, want %d", s.Info().Bytes, want)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// faulty is a file whose writes from a certain one on are not done.
type faulty struct {
	file
	left int
}

var errFault = errors.New("a fault")

func (f *faulty) WriteAt(b []byte, at int64) (int, error) {
	if f.left--; f.left < 0 {
		return 0, errFault
	}
	return f.file.WriteAt(b, at)
}

// TestDyingInAWrite: whichever write of a block does not happen, the tape ends in front of or behind it.
func TestDyingInAWrite(t *testing.T) {
	for _, overwrite := range []bool{false, true} {
		for left := range 5 {
			path := newImage(t, DataMedium, 8)
			s, tape := open(t, path)
			if err := errors.Join(tape.Write([]byte("first")), tape.Write([]byte("second")), tape.Sync()); err != nil {
				t.Fatal(err)
			}
			if overwrite {
				if err := tape.Locate(1); err != nil {
					t.Fatal(err)
				}
			}
			tape.file = &faulty{file: tape.file, left: left}
			err := tape.Write([]byte("third"))
			s.image.Close()

			s, tape = open(t, path)
			var got []string
			buf := make([]byte, 16)
			for {
				n, readErr := tape.Read(buf)
				if errors.Is(readErr, ErrEnd) {
					break
				}
				if readErr != nil {
					t.Fatalf("overwrite %v, %d writes done: %v", overwrite, left, readErr)
				}
				got = append(got, string(buf[:n]))
			}
			text := strings.Join(got, " ")
			allowed := map[string]bool{"first second": true, "first second third": err == nil}
			if overwrite {
				allowed = map[string]bool{"first second": left == 0, "first": err != nil && left > 0,
					"first third": err == nil}
			}
			if !allowed[text] {
				t.Errorf("overwrite %v, %d writes done, %v: the tape holds %q", overwrite, left, err, text)
			}
			s.Close()
		}
	}
}

type badSync struct{ file }

func (badSync) Sync() error { return errFault }

// TestAfterAFailedSync nothing is written any more.
func TestAfterAFailedSync(t *testing.T) {
	s, tape := open(t, newImage(t, DataMedium, 8))
	defer s.image.Close()
	tape.file = badSync{tape.file}
	if err := errors.Join(tape.Write([]byte("x")), tape.Sync()); !errors.Is(err, errFault) {
		t.Fatal(err)
	}
	tape.file = s.image
	for what, err := range map[string]error{"write": tape.Write([]byte("y")), "sync": tape.Sync()} {
		if !errors.Is(err, errFault) {
			t.Errorf("%s after a failed sync: %v", what, err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	path := newImage(t, DataMedium, 8)
	for what, o := range map[string]backstore.Options{
		"a folder": {Path: t.TempDir()}, "nothing": {Path: path + "x"}, "a device": {Path: "/dev/null"},
		"options": {Path: path, Options: "x"}, "flags": {Path: path, Sync: true},
	} {
		if s, err := Open(o); err == nil {
			s.Close()
			t.Errorf("%s was opened", what)
		}
	}
}

// TestNoImage: such a file is taken, and says what is wrong when it is used.
func TestNoImage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "zeros")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Open(backstore.Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var version *VersionError
	if _, err := s.(*Store).Tape(); !errors.As(err, &version) || version.Version != 0 {
		t.Errorf("zeros as a tape: %v", err)
	}
}

// TestRealToolReadsOurImages: tgt's tgtimg, where it is installed, lists what we write.
func TestRealToolReadsOurImages(t *testing.T) {
	const real = "/usr/sbin/tgtimg"
	if _, err := os.Stat(real); err != nil {
		t.Skipf("NOT RUN: %s is not installed", real)
	}
	path := newImage(t, DataMedium, 8)
	s, tape := open(t, path)
	if err := errors.Join(tape.Write(make([]byte, 512)), tape.WriteFilemarks(2), tape.Write([]byte("xyz"))); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(real, "--op", "show", "--file", path).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	const want = `Beginning of Tape(16): Capacity 8 MB, Blk No.: 0, prev 0, curr 0, next 1152
 Uncompressed data(2): Blk No. 1, prev 0, curr 1152,  next 1712, sz 512
         Filemark(64): Blk No. 2, prev 1152, curr 1712,  next 1760, sz 0
         Filemark(64): Blk No. 3, prev 1712, curr 1760,  next 1808, sz 0
 Uncompressed data(2): Blk No. 4, prev 1760, curr 1808,  next 1859, sz 3
      End of Data(32): Blk No. 5, prev 1808, curr 1859,  next 1859, sz 0
`
	if !strings.HasSuffix(string(out), want) {
		t.Errorf("tgtimg lists\n%swant\n%s", out, want)
	}
}

const maxMemoryFile = 1 << 20

// memoryFile is a file in memory.
type memoryFile struct{ b []byte }

func (f *memoryFile) ReadAt(b []byte, at int64) (int, error) {
	return bytes.NewReader(f.b).ReadAt(b, at)
}

func (f *memoryFile) WriteAt(b []byte, at int64) (int, error) {
	need := int(at) + len(b)
	if need > maxMemoryFile {
		return 0, errFault // a block that claims gigabytes
	}
	if need > len(f.b) {
		f.b = append(f.b, make([]byte, need-len(f.b))...)
	}
	return copy(f.b[at:], b), nil
}

func (f *memoryFile) Truncate(size int64) error { f.b = f.b[:size]; return nil }
func (f *memoryFile) Sync() error               { return nil }
func (f *memoryFile) Close() error              { return nil }

// FuzzImage: no image makes the tape walk for ever, panic, or read what is not there.
func FuzzImage(f *testing.F) {
	seed := func(write func(*Tape) error) {
		b, err := Blank("A00001", DataMedium, 1, time.Unix(1, 0))
		if err != nil {
			f.Fatal(err)
		}
		m := &memoryFile{b}
		tape, err := load(m, false)
		if err == nil {
			err = write(tape)
		}
		if err != nil {
			f.Fatal(err)
		}
		f.Add(m.b)
	}
	seed(func(*Tape) error { return nil })
	seed(func(t *Tape) error {
		return errors.Join(t.Write([]byte("a")), t.WriteFilemarks(2), t.Write(make([]byte, 100)))
	})
	f.Fuzz(func(t *testing.T, b []byte) {
		tape, err := load(&memoryFile{bytes.Clone(b)}, false)
		if err != nil {
			return
		}
		limit := len(b)/HeaderBytes + 1
		buf := make([]byte, 64)
		for i := 0; ; i++ {
			if i > limit {
				t.Fatal("more objects than fit the image")
			}
			if _, err := tape.Read(buf); err != nil && !errors.Is(err, ErrFilemark) {
				break
			}
		}
		for range limit {
			if _, err := tape.SpaceBlocks(-1); err != nil && !errors.Is(err, ErrFilemark) {
				break
			}
		}
		if err := tape.Write([]byte("x")); err == nil {
			if _, err := tape.Read(buf); !errors.Is(err, ErrEnd) {
				t.Fatalf("behind what was written: %v", err)
			}
		}
	})
}

// FuzzHeader: what is accepted encodes to the same bytes.
func FuzzHeader(f *testing.F) {
	b := make([]byte, HeaderBytes)
	(&Header{OnMedium: 5, Size: 5, Kind: Data, Number: 1, Self: firstOffset, Next: firstOffset + 53}).put(b)
	f.Add(b, int64(firstOffset))
	f.Fuzz(func(t *testing.T, b []byte, at int64) {
		if len(b) < HeaderBytes {
			return
		}
		h, err := parseHeader(b, at)
		if err != nil {
			return
		}
		again := make([]byte, HeaderBytes)
		h.put(again)
		if !bytes.Equal(again, b[:HeaderBytes]) {
			t.Fatalf("% x became % x", b[:HeaderBytes], again)
		}
	})
}

var _ io.ReaderAt = (*memoryFile)(nil)

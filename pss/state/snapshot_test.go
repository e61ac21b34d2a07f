package state

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
)

var update = flag.Bool("update", false, "write the golden files anew")

// checkRestores restores the snapshot of a machine, and compares.
func checkRestores(t testing.TB, m *Machine) {
	t.Helper()
	snapshot := m.Snapshot(nil)
	restored := New(m.store)
	if err := restored.Restore(snapshot); err != nil {
		t.Fatalf("restore: %v\n%s", err, hex.Dump(snapshot))
	}
	if again := restored.Snapshot(nil); !bytes.Equal(again, snapshot) {
		t.Fatalf("the snapshot\n%s\nbecame\n%s", hex.Dump(snapshot), hex.Dump(again))
	}
}

const (
	golden    = "testdata/snapshot-v2.hex"
	goldenOld = "testdata/snapshot-v1.hex"
)

// Snapshots of version 1 are read, and mean what they always meant.
func TestOldSnapshot(t *testing.T) {
	text, err := os.ReadFile(goldenOld)
	if err != nil {
		t.Fatal(err)
	}
	m := New(newMemStore())
	if err := m.Restore(unhexdump(t, string(text))); err != nil {
		t.Fatal(err)
	}
	if want, _, _ := sampleOf(t, sampleEntries()); m.Digest() != want.Digest() {
		t.Errorf("the snapshot means\n%s\nnot\n%s", hex.Dump(m.Snapshot(nil)), hex.Dump(want.Snapshot(nil)))
	}
}

// unhexdump is the reverse of hex.Dump.
func unhexdump(t *testing.T, text string) (b []byte) {
	t.Helper()
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "|")
		part, err := hex.DecodeString(strings.Join(strings.Fields(line)[1:], ""))
		if err != nil {
			t.Fatal(err)
		}
		b = append(b, part...)
	}
	return b
}

// Snapshots of this version are in checkpoints.
func TestGoldenSnapshot(t *testing.T) {
	m, _, _ := sample(t)
	b := m.Snapshot(nil)
	if *update {
		if err := os.WriteFile(golden, []byte(hex.Dump(b)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if hex.Dump(b) != string(want) {
		t.Errorf("the snapshot is now\n%s\nand was\n%s", hex.Dump(b), want)
	}
	checkRestores(t, m)
	if prefixed := m.Snapshot([]byte("prefix")); string(prefixed) != "prefix"+string(b) {
		t.Error("Snapshot does not append")
	}
}

// A machine made of a snapshot goes on as the one it was made of.
func TestRestoredMachineGoesOn(t *testing.T) {
	m, store, index := sample(t)
	r := New(store.clone())
	if err := r.Restore(m.Snapshot(nil)); err != nil {
		t.Fatal(err)
	}
	type H = op.Header
	for _, entry := range [][]byte{
		encode(H{Code: op.VolumeOpen, Session: 3, Epoch: 5, Seq: 4, Acked: 3}, "/vol001"),
		encode(H{Code: op.VolumeOpen, Session: 3, Epoch: 5, Seq: 7, Acked: 3}, "/vol001"),
		encode(H{Code: op.CreateFile, Session: 3, Epoch: 5, Seq: 8, Acked: 3}, "/dir/sub/new"),
		encodeData(H{Code: op.CompareAndWrite, Session: 3, Epoch: 5, Seq: 9, Object: 1, Offset: 10}, []byte("morelost")),
		encode(H{Code: op.Rename, Session: 3, Epoch: 5, Seq: 10}, "/dir/file", "/file"),
		encode(H{Code: op.SessionOpen, Session: 7, Epoch: 9}),
	} {
		a, errA := m.Apply(index, entry)
		b, errB := r.Apply(index, entry)
		if a != b || errA != nil || errB != nil || m.Digest() != r.Digest() {
			t.Fatalf("entry %d: %+v and %+v, %v and %v", index, a, b, errA, errB)
		}
		index++
	}
	if a, _, ok := r.Object(2); !ok || a != 1<<40 {
		t.Errorf("the volume has %d bytes, %v", a, ok)
	}
}

func TestRestoreOfNothing(t *testing.T) {
	m, _, _ := sample(t)
	if err := m.Restore(nil); err != nil {
		t.Fatal(err)
	}
	if m.Digest() != New(newMemStore()).Digest() {
		t.Error("something is left")
	}
	checkRestores(t, m)
}

// Each way in which bytes are no snapshot is refused, and changes nothing.
func TestRestoreRefuses(t *testing.T) {
	m, store, _ := sample(t)
	good := m.Snapshot(nil)
	le := binary.LittleEndian
	find := func(what string) int {
		i := strings.LastIndex(string(good), what)
		if i < 0 {
			t.Fatalf("no %q in the snapshot", what)
		}
		return i
	}
	session := snapshotHead + 8 // the first of two, of id 3
	keptAt := session + sessionBytes
	root := bytes.Index(good, []byte("\x01\x03dir")) - 14
	file, volume := find("\x02\x04file"), find("\x03\x06vol001")
	patch := func(at int, b ...byte) []byte { c := bytes.Clone(good); copy(c[at:], b); return c }
	u64 := func(at int, v uint64) []byte { return patch(at, le.AppendUint64(nil, v)...) }
	u32 := func(at int, v uint32) []byte { return patch(at, le.AppendUint32(nil, v)...) }
	cases := []struct {
		name  string
		bytes []byte
		want  string
	}{
		{"one byte", good[:1], "1 bytes that begin with"},
		{"magic", patch(0, 'X'), "that begin with"},
		{"version", patch(4, 3), "version 3, and this program knows 2"},
		{"zero bytes", patch(6, 1), "bytes say they are"},
		{"more zero bytes", patch(44, 1), "bytes say they are"},
		{"size", patch(8, good[8]+1), "bytes say they are"},
		{"next object 0", u64(24, 0), "next object 0"},
		{"too many nodes", u32(32, MaxObjects+1), "nodes"},
		{"a node too many", u32(32, 5), "4 of 5 nodes"},
		{"a node too few", u32(32, 3), "4 of 3 nodes"},
		{"too many sessions", u32(36, MaxSessions+1), "sessions"},
		{"sessions beyond the end", u32(36, MaxSessions), "sessions"},
		{"too many closed sessions", u32(40, MaxClosed+1), "closed"},
		{"closed sessions beyond the end", u32(40, MaxClosed), "closed"},
		{"session 0", u64(session, 0), "session 0 after 0"},
		{"sessions out of order", u64(session, 1<<62), "after 4611686018427387904"},
		{"acked 0", u64(session+8, 0), "acked 0"},
		{"more results than the window", u32(session+20, op.Window+1), "1025 results"},
		{"results beyond the end", u32(session+20, op.Window), "for 1024 results"},
		{"result of what was not executed", u64(keptAt, 100), "of number 100 after 0"},
		{"result outside of the window", u64(keptAt, 1<<40), "of number 1099511627776 after 0"},
		{"results out of order", u64(keptAt, 5), "of number 3 after 5"},
		{"plain success among the results", patch(keptAt, append(le.AppendUint64(nil, 2), make([]byte, 28)...)...), "of number 2"},
		{"a result that is none", patch(keptAt+10, 1), "where zero belongs"},
		{"the root is a file", patch(root, 2), "the root is"},
		{"the root has a name", patch(root+1, 1), "the root is"},
		{"entries beyond the end", u32(root+10, 1<<31), "for 2147483648 entries"},
		{"an empty name", patch(file+1, 0), "the name"},
		{"a slash in a name", patch(file+2, '/'), `the name "/ile"`},
		{"a zero in a name", patch(file+2, 0), `the name "\x00ile"`},
		{"names out of order", patch(volume+2, 'a'), `the name "aol001" after "dir"`},
		{"kind 0", patch(file, 0), `"file" is object 1 of 3, kind 0`},
		{"kind 4", patch(file, 4), `"file" is object 1 of 3, kind 4`},
		{"object 0", u64(file+14, 0), `"file" is object 0`},
		{"object that was not given out", u64(file+14, 3), `"file" is object 3 of 3`},
		{"object twice", u64(volume+16, 1), `"vol001" is object 1 of 3`},
		{"file too long", u64(file+22, op.MaxVolume+1), "bytes"},
		{"volume of nothing", u64(volume+24, 0), "0 bytes"},
		{"volume of half a sector", u64(volume+24, 256), "256 bytes"},
		{"shared before any token", u64(volume+40, 9), "bytes"},
		{"too many attributes", patch(volume+48, MaxAttrs+1), "17 attributes"},
		{"attribute without a name", patch(volume+49, 0), "attribute"},
		{"attribute of version 0", u64(volume+55, 0), `attribute 0 of "vol001" is "empty", version 0`},
		{"attribute too long", u32(volume+63, op.MaxAttr+1), `"empty" of "vol001" has 65537 bytes`},
		{"attribute beyond the end", u32(volume+63, 1000), `"empty" of "vol001" has 1000 bytes`},
		{"attributes out of order", patch(volume+50, 'z'), `attribute 1 of "vol001" is "reservations"`},
		{"volume too large", u64(volume+24, op.MaxVolume+512), "bytes"},
	}
	before := m.Digest()
	for _, c := range cases {
		r := New(store)
		err := r.Restore(c.bytes)
		if !errors.Is(err, ErrSnapshot) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
		if m.Restore(c.bytes) == nil || m.Digest() != before {
			t.Fatalf("%s: the state changed", c.name)
		}
	}
	for n := 1; n < len(good); n++ {
		short := bytes.Clone(good[:n])
		if n >= 16 {
			le.PutUint64(short[8:], uint64(n))
		}
		if err := New(store).Restore(short); !errors.Is(err, ErrSnapshot) {
			t.Errorf("the first %d bytes: %v", n, err)
		}
	}
	long := append(bytes.Clone(good), 0)
	le.PutUint64(long[8:], uint64(len(long)))
	if err := New(store).Restore(long); !errors.Is(err, ErrSnapshot) || !strings.Contains(err.Error(), "1 bytes after 4 of 4 nodes") {
		t.Errorf("a byte more: %v", err)
	}
}

// A path that is too long can't be made by operations; a snapshot that has one is refused before the
// recursion goes on.
func TestRestoreRefusesDeepTrees(t *testing.T) {
	le := binary.LittleEndian
	for depth, ok := range map[int]bool{op.MaxPath / 2: true, op.MaxPath/2 + 1: false, 100000: false} {
		b := New(newMemStore()).Snapshot(nil)
		b = b[:len(b)-4]
		for range depth {
			b = le.AppendUint32(b, 1)
			b = append(b, byte(op.KindDir), 1, 'd')
			b = le.AppendUint64(b, 0)
		}
		b = le.AppendUint32(b, 0)
		le.PutUint32(b[32:], uint32(depth))
		le.PutUint64(b[8:], uint64(len(b)))
		if err := New(newMemStore()).Restore(b); (err == nil) != ok {
			t.Errorf("depth %d: %v", depth, err)
		}
	}
}

// Whatever Restore accepts is what Snapshot writes, so that equal states have equal bytes.
func FuzzRestore(f *testing.F) {
	m, _, _ := sample(f)
	f.Add(m.Snapshot(nil))
	f.Add(New(newMemStore()).Snapshot(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= snapshotHead {
			binary.LittleEndian.PutUint64(b[8:], uint64(len(b)))
		}
		m := New(nullStore{})
		if err := m.Restore(b); err != nil {
			if !errors.Is(err, ErrSnapshot) {
				t.Fatal(err)
			}
			return
		}
		if old := len(b) > 0 && b[4] == oldVersion; old {
			b = m.Snapshot(nil)
			if err := m.Restore(b); err != nil {
				t.Fatal(err)
			}
		}
		if len(b) > 0 && !bytes.Equal(m.Snapshot(nil), b) {
			t.Fatalf("%s\nbecame\n%s", hex.Dump(b), hex.Dump(m.Snapshot(nil)))
		}
		index := m.applied
		for b := b; len(b) > 0 && index < 1<<63; {
			var entry []byte
			entry, b = structured(b)
			index++
			if _, err := m.Apply(index, entry); err != nil {
				t.Fatal(err)
			}
		}
	})
}

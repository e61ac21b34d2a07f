package log

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
)

func TestOptions(t *testing.T) {
	bad := []Options{{SegmentBytes: 4096}, {SegmentBytes: 10000}, {SegmentBytes: 2 << 30}, {SegmentBytes: -4096}, {Spares: -1}}
	for _, o := range bad {
		if l, err := Open(disk.NewMem(), "log", o); err == nil {
			t.Errorf("a log was opened with %+v", o)
			ok(t, l.Close())
		}
	}
	var o Options
	ok(t, o.check())
	if o.SegmentBytes != 64<<20 || o.Spares != 2 {
		t.Errorf("the defaults are %+v", o)
	}
}

// TestOtherSize opens a log with segments of another size than before.
func TestOtherSize(t *testing.T) {
	m := disk.NewMem()
	l := open(t, m, small())
	ok(t, l.Append(&HardState{1, 0, 4}, made(1, 5, 1, 5000)))
	ok(t, l.Recycle(4))
	ok(t, l.Prepare(nil))
	ok(t, l.Close())
	o := small()
	o.SegmentBytes *= 2
	l = open(t, m, o)
	ok(t, l.Append(nil, made(5, 15, 1, 5000)))
	ok(t, l.Sync())
	ok(t, l.Recycle(4))
	for name, b := range contents(t, m) {
		if number, _ := parseName(name); number > l.index.segments[0].number && len(b) != 32<<10 {
			t.Errorf("%s has %d bytes", name, len(b))
		}
	}
	ok(t, l.Close())
	l = open(t, m, o)
	if l.Last() != 14 {
		t.Errorf("last is %d", l.Last())
	}
	ok(t, l.Close())
}

// TestForeignFiles: what is not a segment is left alone, what was in the making is removed.
func TestForeignFiles(t *testing.T) {
	m := disk.NewMem()
	ok(t, open(t, m, small()).Close())
	for _, name := range []string{"README", "1.log", "000000000000000A.log", "prepare.tmp", "roll.tmp"} {
		put(t, m, name, []byte("text"), 0)
	}
	ok(t, open(t, m, small()).Close())
	var names []string
	for _, e := range must(m.ReadDir("log"))(t) {
		names = append(names, e.Name)
	}
	want := []string{"0000000000000001.log", "000000000000000A.log", "1.log", "README"}
	if !slices.Equal(names, want) {
		t.Errorf("the folder has %v, want %v", names, want)
	}
}

// TestLimits: an entry may be as long as MaxEntryBytes, and no longer.
func TestLimits(t *testing.T) {
	m := disk.NewMem()
	l := open(t, m, small())
	if err := l.Append(nil, []Entry{{Index: 1, Term: 1, Data: make([]byte, MaxEntryBytes+1)}}); err == nil {
		t.Error("an entry that is too long was appended")
	}
	long := made(1, 3, 1, MaxEntryBytes)
	ok(t, l.Append(nil, long))
	ok(t, l.Append(nil, made(3, 4, 1, 10)))
	ok(t, l.Close())
	l = open(t, m, small())
	got := must(l.Entries(1, 4, math.MaxUint64))(t)
	if len(got) != 3 || describe(got[0]) != describe(long[0]) || describe(got[1]) != describe(long[1]) {
		t.Errorf("%d entries came back, or different ones", len(got))
	}
	ok(t, l.Append(&HardState{Commit: 3}, nil))
	ok(t, l.Recycle(3))
	if s := l.Stats(); s.Bytes > 32<<10 { // the long segments were not kept
		t.Errorf("%+v", s)
	}
	ok(t, l.Close())
}

// TestOneWrite: an append of a few MiB is one write, a longer one is cut between entries.
func TestOneWrite(t *testing.T) {
	m := disk.NewMem()
	l := open(t, m, Options{SegmentBytes: 16 << 20})
	writes := 0
	m.SetHook(func(op, name string) error {
		if op == disk.OpWrite {
			writes++
		}
		return nil
	})
	for _, test := range []struct{ entries, size, writes int }{{0, 0, 1}, {1, 0, 1}, {1000, 4096, 1}, {3, 1 << 20, 1}, {10, 1 << 20, 4}} {
		writes = 0
		last := l.Last()
		ok(t, l.Append(&HardState{}, made(last+1, last+1+uint64(test.entries), 1, test.size)))
		if writes != test.writes {
			t.Errorf("%d entries of %d bytes: %d writes, want %d", test.entries, test.size, writes, test.writes)
		}
	}
	writes = 0
	if ok(t, l.Append(nil, nil)); writes != 0 {
		t.Error("an empty append was written")
	}
	ok(t, l.Close())
}

// TestTerms asks for the term of every entry, across changes, replacements and recycling.
func TestTerms(t *testing.T) {
	l := open(t, disk.NewMem(), small())
	var want []uint64
	for i := uint64(1); i <= 40; i++ {
		term := 1 + i/7
		ok(t, l.Append(&HardState{term, 0, max(3, i) - 3}, made(i, i+1, term, 2000)))
		want = append(want, term)
	}
	ok(t, l.Append(nil, made(39, 41, 9, 2000)))
	want[38], want[39] = 9, 9
	ok(t, l.Sync())
	check := func(first uint64) {
		t.Helper()
		if l.First() != first {
			t.Fatalf("first is %d, want %d", l.First(), first)
		}
		for _, r := range l.index.runs {
			if first > 1 && r.first < first {
				t.Errorf("the index still knows of a change of term at %d", r.first)
			}
		}
		for i := uint64(0); i <= 42; i++ {
			term, err := l.Term(i)
			switch {
			case i+1 < first:
				wantErr(t, err, ErrCompacted)
			case i > 40:
				wantErr(t, err, ErrUnavailable)
			case err != nil || (i > 0 && term != want[i-1]) || (i == 0 && term != 0):
				t.Errorf("term of %d is %d, %v", i, term, err)
			}
		}
	}
	check(1)
	for _, upTo := range []uint64{5, 6, 20, 37} {
		first := l.First()
		for _, s := range l.index.segments {
			if s.end() <= upTo+1 {
				first = s.end()
			}
		}
		ok(t, l.Recycle(upTo))
		check(first)
	}
	ok(t, l.Reset(60, 12))
	if term, err := l.Term(60); term != 12 || err != nil || l.First() != 61 || l.Last() != 60 {
		t.Errorf("after the reset: term %d, %v, [%d, %d]", term, err, l.First(), l.Last())
	}
	_, err := l.Term(59)
	wantErr(t, err, ErrCompacted)
	ok(t, l.Close())
}

// TestCommitFollowsRecycle: what was recycled was committed, even if no HardState says so.
func TestCommitFollowsRecycle(t *testing.T) {
	m := disk.NewMem()
	l := open(t, m, small())
	check := func() {
		t.Helper()
		if l.First() < 2 || l.HardState().Commit < l.First()-1 {
			t.Errorf("first is %d, %+v", l.First(), l.HardState())
		}
	}
	ok(t, l.Append(nil, made(1, 7, 1, 5000)))
	ok(t, l.Sync())
	ok(t, l.Recycle(3))
	check()
	m.Crash(nil)
	l = open(t, m, small())
	check()

	ok(t, l.Append(nil, made(7, 8, 1, 5000)))
	ok(t, l.Sync())
	first := l.First()
	m.SetHook(func(op, name string) error {
		if op == disk.OpWrite { // a HardState is on its way that knows nothing of this
			m.SetHook(nil)
			return l.Recycle(6)
		}
		return nil
	})
	ok(t, l.Append(&HardState{Term: 1}, made(8, 9, 1, 10)))
	if l.First() == first {
		t.Fatal("nothing was recycled")
	}
	check()
	ok(t, l.Close())
	l = open(t, m, small())
	check()
	ok(t, l.Close())
}

// TestPrepareInPieces: who prepares a segment is asked after each piece, and may end it, which leaves nothing behind.
func TestPrepareInPieces(t *testing.T) {
	const size = 3*zeroBytes + blockSize
	m := disk.NewMem()
	l := open(t, m, Options{SegmentBytes: size})
	used := m.Used()
	var pieces []int64
	enough := errors.New("enough")
	between := func(written, of int64) error {
		if pieces = append(pieces, written); of != size {
			t.Errorf("%d of %d bytes", written, of)
		}
		if written > 2*zeroBytes {
			return enough
		}
		return nil
	}
	wantErr(t, l.Prepare(between), enough)
	if want := []int64{zeroBytes, 2 * zeroBytes, 3 * zeroBytes}; !slices.Equal(pieces, want) || l.Prepared() || m.Used() != used {
		t.Fatalf("after %v: prepared %v, %d bytes in use and %d before", pieces, l.Prepared(), m.Used(), used)
	}
	enough = nil
	ok(t, l.Prepare(between))
	if pieces[len(pieces)-1] != size || !l.Prepared() {
		t.Fatalf("after %v: prepared %v", pieces, l.Prepared())
	}
	room := l.Room()
	ok(t, l.Append(&HardState{1, 1, 0}, made(1, 2, 1, 500)))
	if after := l.Room(); room > size || after != room-blockSize {
		t.Errorf("a new log has %d bytes left of its segment, and %d after an entry", room, after)
	}
	ok(t, l.Close())
}

// TestNoSpace: a full disk is an error that passes.
func TestNoSpace(t *testing.T) {
	m := disk.NewMem()
	l := open(t, m, small())
	m.SetCapacity(m.Used() + 8192)
	entries := made(1, 4, 1, 6000)
	wantErr(t, l.Append(&HardState{2, 1, 1}, entries), disk.ErrNoSpace)
	wantErr(t, l.Prepare(nil), disk.ErrNoSpace)
	wantErr(t, l.Reset(9, 9), disk.ErrNoSpace)
	if m.Used() > 16<<10 {
		t.Errorf("%d bytes in use: the failed segments were not removed", m.Used())
	}
	ok(t, l.Sync())
	m.SetCapacity(0)
	ok(t, l.Append(&HardState{2, 1, 1}, entries))
	ok(t, l.Close())
	l = open(t, m, small())
	if l.Last() != 3 || l.HardState() != (HardState{2, 1, 1}) {
		t.Errorf("last is %d, %+v", l.Last(), l.HardState())
	}
	ok(t, l.Close())
}

// TestConcurrent reads, recycles and prepares beside one who appends. Run it with -race.
func TestConcurrent(t *testing.T) {
	const entries = 600
	l := open(t, disk.NewMem(), small())
	var wg sync.WaitGroup
	var done atomic.Bool
	until := func(f func() error) {
		wg.Go(func() {
			for !done.Load() {
				if err := f(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 2 {
		until(func() error {
			first, last := l.First(), l.Last()
			found, err := l.Entries(first, last+1, 20000)
			for _, e := range found {
				if want := made(e.Index, e.Index+1, e.Term, len(e.Data))[0]; describe(e) != describe(want) {
					return fmt.Errorf("got %s, want %s", describe(e), describe(want))
				}
			}
			if errors.Is(err, ErrCompacted) || errors.Is(err, ErrUnavailable) {
				return nil // the ends moved
			}
			return err
		})
	}
	until(func() error {
		_, err := l.Term(l.Last())
		l.Stats()
		if errors.Is(err, ErrCompacted) || errors.Is(err, ErrUnavailable) {
			return nil
		}
		return err
	})
	until(func() error { return l.Prepare(nil) })
	until(func() error { return l.Recycle(l.HardState().Commit) })
	for i, term := uint64(1), uint64(1); i <= entries; i++ {
		first := i
		if i%50 == 0 {
			first, term = i-2, term+1
		}
		ok(t, l.Append(&HardState{term, 1, max(4, i) - 4}, made(first, i+1, term, int(i%8)*700)))
		if i%3 == 0 {
			ok(t, l.Sync())
		}
	}
	done.Store(true)
	wg.Wait()
	ok(t, l.Close())
}

// TestReadDuringRecycle: a segment is not used again while someone reads it.
func TestReadDuringRecycle(t *testing.T) {
	m := disk.NewMem()
	l := open(t, m, small())
	want := made(1, 5, 1, 6000)
	ok(t, l.Append(&HardState{1, 0, 4}, want))
	ok(t, l.Sync())
	oldest := l.index.segments[0]
	recycled := make(chan error)
	var once sync.Once
	m.SetHook(func(op, name string) error {
		if op == disk.OpRead {
			once.Do(func() {
				go func() { recycled <- l.Recycle(4) }()
				for l.First() == 1 { // until Recycle has taken the segment, and waits
					l.Stats()
				}
			})
		}
		if op == disk.OpRename {
			l.mu.RLock()
			defer l.mu.RUnlock()
			if oldest.readers > 0 {
				t.Error("a segment was recycled while it was read")
			}
		}
		return nil
	})
	got := must(l.Entries(1, 3, math.MaxUint64))(t)
	for i, e := range got {
		if describe(e) != describe(want[i]) {
			t.Errorf("got %s, want %s", describe(e), describe(want[i]))
		}
	}
	ok(t, <-recycled)
	ok(t, l.Close())
}

// TestSteadyState: once buffers have grown, an append and its sync allocate nothing but what the
// index needs, which is little enough to be nothing on average.
func TestSteadyState(t *testing.T) {
	l := open(t, disk.NewMem(), Options{SegmentBytes: 1 << 20, Direct: true})
	entry := made(1, 2, 1, 4200)
	hs := HardState{Term: 1}
	append := func() {
		entry[0].Index = l.Last() + 1
		hs.Commit = entry[0].Index - 1
		ok(t, l.Append(&hs, entry))
		ok(t, l.Sync())
		if hs.Commit%100 == 0 {
			ok(t, l.Recycle(hs.Commit))
		}
	}
	for range 1000 {
		append()
	}
	if allocs := testing.AllocsPerRun(1000, append); allocs >= 1 {
		t.Errorf("%v allocations an append", allocs)
	}
	ok(t, l.Close())
}

// TestGolden opens a log whose bytes are those of testdata/scenarios/format.
func TestGolden(t *testing.T) {
	text := string(must(os.ReadFile("testdata/scenarios/format"))(t))
	image := make([]byte, 16<<10)
	for _, row := range regexp.MustCompile(`(?m)^([0-9a-f]{5})  ([0-9a-f]{16}) ([0-9a-f]{16})$`).FindAllStringSubmatch(text, -1) {
		var at int
		must(fmt.Sscanf(row[1], "%x", &at))(t)
		copy(image[at:], must(hex.DecodeString(row[2]+row[3]))(t))
	}
	l := open(t, install(t, map[string][]byte{segmentName(1): image}), Options{SegmentBytes: 16 << 10})
	var got []string
	for _, e := range must(l.Entries(1, l.Last()+1, math.MaxUint64))(t) {
		got = append(got, describe(e))
	}
	want := []string{
		"1 term 1 kind 1: 20 bytes, 49067f17", "2 term 1 kind 2: 20 bytes, f66111c3",
		"3 term 8 kind 0: 0 bytes, 00000000", "4 term 8 kind 1: 8 bytes, dc2ccdc2",
	}
	if !slices.Equal(got, want) {
		t.Errorf("entries are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if l.HardState() != (HardState{7, 3, 1}) || l.identity != 0x1122334455667788 {
		t.Errorf("%+v, identity %#x", l.HardState(), l.identity)
	}
	ok(t, l.Close())
}

// FuzzOpen opens a segment of arbitrary bytes. With mend set the checksums are made right first, so
// that what lies behind them is reached.
func FuzzOpen(f *testing.F) {
	for _, b := range damagedLog(f) {
		f.Add(b, false)
		f.Add(b, true)
	}
	m := disk.NewMem()
	l := open(f, m, small())
	ok(f, l.Append(&HardState{1, 1, 1}, made(1, 4, 1, 900)))
	ok(f, l.Append(nil, made(3, 6, 2, 900)))
	ok(f, l.Close())
	f.Add(contents(f, m)[segmentName(1)], true)
	m = disk.NewMem()
	o := small()
	o.Bodies = 1
	l = open(f, m, o)
	l.bodies.wanted = true
	ok(f, l.Prepare(nil))
	for i, e := range made(1, 4, 1, 4200) {
		e.Home = Home{Blocks: 1, Block: uint16(i)}
		ok(f, l.Append(nil, []Entry{e}))
	}
	ok(f, l.Close())
	f.Add(contents(f, m)[segmentName(1)], true)
	f.Fuzz(func(t *testing.T, b []byte, mend bool) {
		if len(b) > 64<<10 {
			return
		}
		b = slices.Clone(b)
		if mend {
			mendFrames(b)
		}
		m := install(t, map[string][]byte{segmentName(1): b})
		l, err := Open(m, "log", small())
		if err != nil {
			if _, found := errors.AsType[*DamageError](err); !found {
				t.Fatal(err)
			}
			return
		}
		first, last, hs := l.First(), l.Last(), l.HardState()
		if hs.Commit < first-1 || hs.Commit > last {
			t.Fatalf("[%d, %d] %+v", first, last, hs)
		}
		must(l.Entries(first, last+1, math.MaxUint64))(t)
		must(l.Term(first - 1))(t)
		ok(t, l.Close())
		l = open(t, m, small())
		if l.First() != first || l.Last() != last || l.HardState() != hs {
			t.Fatalf("[%d, %d] %+v, and before [%d, %d] %+v", l.First(), l.Last(), l.HardState(), first, last, hs)
		}
		ok(t, l.Close())
	})
}

// mendFrames corrects mark, place, chain and checksums of what may be frames.
func mendFrames(b []byte) {
	le, before := binary.LittleEndian, uint32(0)
	for at := 0; at+headerSize <= len(b); {
		h := b[at : at+headerSize]
		le.PutUint32(h[0:], magic)
		if le.Uint64(h[112:]) != 0 {
			le.PutUint32(h[0:], bodyMagic)
		}
		le.PutUint32(h[8:], before)
		le.PutUint64(h[16:], 1)
		le.PutUint64(h[24:], uint64(at))
		le.PutUint64(h[104:], 7)
		size, count := le.Uint32(h[48:]), uint64(le.Uint32(h[52:]))
		if uint64(size) > uint64(len(b)-at) || headerSize+rowSize*count > uint64(size) {
			return
		}
		body := b[at+headerSize : at+int(size)]
		data := body[rowSize*count:]
		for i := range count {
			row := body[rowSize*i:][:rowSize]
			if n := le.Uint32(row[8:]); uint64(n) <= uint64(len(data)) {
				le.PutUint32(row[12:], checksum(data[:n]))
				data = data[n:]
			}
		}
		le.PutUint32(h[12:], checksum(body[:rowSize*count]))
		before = checksum(h[8:])
		le.PutUint32(h[4:], before)
		at += alignUp(max(int(size), 1))
	}
}

// BenchmarkAppendSync appends and syncs on the file system of the temporary folder.
func BenchmarkAppendSync(b *testing.B) {
	for _, size := range []int{4 << 10, 64 << 10, 1 << 20} {
		for _, direct := range []bool{true, false} {
			b.Run(fmt.Sprintf("%dKiB/direct=%v", size>>10, direct), func(b *testing.B) {
				fs := must(disk.Dir(b.TempDir()))(b)
				l := open(b, fs, Options{SegmentBytes: 16 << 20, Direct: direct})
				entry := made(1, 2, 1, size)
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					entry[0].Index = l.Last() + 1
					ok(b, l.Append(nil, entry))
					ok(b, l.Sync())
					if l.Last()%16 == 0 {
						ok(b, l.Recycle(l.Last()))
					}
				}
				ok(b, l.Close())
			})
		}
	}
}

// BenchmarkOpen opens a log as the simulator does, again and again.
func BenchmarkOpen(b *testing.B) {
	m := disk.NewMem()
	l := open(b, m, small())
	ok(b, l.Append(&HardState{1, 1, 8}, made(1, 10, 1, 3000)))
	ok(b, l.Close())
	b.ReportAllocs()
	for b.Loop() {
		l := open(b, m, small())
		ok(b, l.Recycle(9))
		ok(b, l.Close())
	}
}

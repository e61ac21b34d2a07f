package log

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
)

// TestRules: exactly one row of a table matches each combination of conditions.
func TestRules(t *testing.T) {
	tables := []struct {
		name  string
		rules []rule
		lines [][]condition
	}{
		{"frame", frameRules[:], [][]condition{
			{atStart, inside}, {headerZero, headerBad, headerGood}, {here, older, elsewhere},
			{follows, stale, broken}, {bodyGood, bodyBad}}},
		{"end", endRules[:], [][]condition{{vouched, notVouched}}},
	}
	for _, table := range tables {
		combinations := []condition{0}
		for _, line := range table.lines {
			var next []condition
			for _, c := range combinations {
				for _, bit := range line {
					next = append(next, c|bit)
				}
			}
			combinations = next
		}
		used := make([]int, len(table.rules))
		for _, c := range combinations {
			matches := 0
			for i, r := range table.rules {
				if c&^r.when == 0 {
					matches++
					used[i]++
				}
			}
			if matches != 1 {
				t.Errorf("%s: %d rows match condition %#x", table.name, matches, c)
			}
		}
		if i := slices.Index(used, 0); i >= 0 {
			t.Errorf("%s: row %d never matches", table.name, i)
		}
	}
}

// contents are the files of a log by name.
func contents(t tester, fs disk.FS) map[string][]byte {
	files := map[string][]byte{}
	for _, e := range must(fs.ReadDir("log"))(t) {
		f := must(fs.Open(path.Join("log", e.Name), 0))(t)
		b := make([]byte, e.Bytes)
		must(f.ReadAt(b, 0))(t)
		ok(t, f.Close())
		files[e.Name] = b
	}
	return files
}

// install makes a disk with the files of a log.
func install(t tester, files map[string][]byte) *disk.Mem {
	m := disk.NewMem()
	ok(t, disk.MakeFolder(m, "log"))
	for name, b := range files {
		put(t, m, name, b, 0)
	}
	return m
}

func put(t tester, m *disk.Mem, name string, b []byte, off int64) {
	f := must(m.Open(path.Join("log", name), disk.Create))(t)
	must(f.WriteAt(b, off))(t)
	ok(t, f.Close())
}

// damagedLog is a log of several segments that was closed, one of them recycled and not begun.
func damagedLog(t tester) map[string][]byte {
	m := disk.NewMem()
	l := open(t, m, small())
	ok(t, l.Append(&HardState{1, 2, 0}, made(1, 4, 1, 700)))
	ok(t, l.Sync())
	ok(t, l.Append(nil, made(4, 6, 1, 3000)))
	ok(t, l.Sync())
	ok(t, l.Append(&HardState{1, 2, 5}, made(6, 10, 1, 1500)))
	ok(t, l.Append(nil, made(9, 11, 2, 2000)))
	ok(t, l.Sync())
	ok(t, l.Recycle(5)) // segment 1 becomes 3
	ok(t, l.Append(&HardState{3, 0, 10}, nil))
	ok(t, l.Append(nil, made(11, 13, 3, 3000)))
	ok(t, l.Append(nil, made(13, 14, 3, 100)))
	ok(t, l.Append(nil, made(14, 16, 3, 2500))) // begins segment 4
	ok(t, l.Sync())
	ok(t, l.Recycle(10)) // segment 2 becomes 5
	ok(t, l.Append(&HardState{3, 1, 11}, nil))
	ok(t, l.Close())
	return contents(t, m)
}

// TestDamage flips a bit of every part of every segment. Each flip is damage that names the file;
// but the filling between frames, and what is behind them, may have any value.
func TestDamage(t *testing.T) {
	files := damagedLog(t)
	m := install(t, files)
	clean := open(t, m, small())
	want := must(clean.Entries(clean.First(), clean.Last()+1, 1<<60))(t)
	ok(t, clean.Close())

	m = install(t, files)
	segments := 0
	for name, b := range files {
		number, _ := parseName(name)
		var h header
		for at := 0; h.decode(b[at:]) && h.segment == number; {
			size, full := int(h.size), alignUp(int(h.size))
			sealed := at + full
			if h.count == 0 && at > 0 && !(&header{}).decode(b[min(sealed, len(b)):]) {
				break // the last frame, which nothing vouches for
			}
			for i := 0; i < full; i += step(i, size, headerSize+rowSize*int(h.count)) {
				damage := flip(t, m, name, b, at+i)
				if i < size {
					if d, found := errors.AsType[*DamageError](damage); !found || d.File != path.Join("log", name) {
						t.Fatalf("%s: byte %d of the frame at %d: %v", name, i, at, damage)
					}
					continue
				}
				ok(t, damage)
				m = install(t, files) // that one was opened, and so written to
			}
			if at = sealed; at >= len(b) {
				break
			}
			segments |= 1 << number
		}
	}
	if segments == 0 {
		t.Fatal("nothing was tried")
	}
	l := open(t, m, small())
	got := must(l.Entries(l.First(), l.Last()+1, 1<<60))(t)
	if !slices.EqualFunc(got, want, func(a, b Entry) bool { return describe(a) == describe(b) }) {
		t.Error("after all flips were undone the log differs")
	}
	ok(t, l.Close())
}

// step makes TestDamage try every byte of header and table and samples of the rest.
func step(i, size, table int) int {
	switch {
	case i < table:
		return 1
	case i < size:
		return min(97, size-i)
	}
	return 1000
}

// flip flips a bit, opens the log, flips the bit back and returns how the opening failed.
func flip(t tester, m *disk.Mem, name string, b []byte, at int) error {
	put(t, m, name, []byte{b[at] ^ 0x10}, int64(at))
	l, err := Open(m, "log", small())
	if err == nil {
		ok(t, l.Close())
	}
	put(t, m, name, b[at:at+1], int64(at))
	return err
}

// TestOtherDamage is what disks do besides flipping bits.
func TestOtherDamage(t *testing.T) {
	files := damagedLog(t)
	first, second, ready := segmentName(3), segmentName(4), segmentName(5)
	if len(files) != 3 || files[first] == nil || files[second] == nil || files[ready] == nil {
		t.Fatalf("the log has %d files", len(files))
	}
	tests := []struct {
		name  string
		alter func(files map[string][]byte)
		want  string
	}{
		{"a block was lost", func(f map[string][]byte) { clear(f[first][4096:8192]) },
			"0000000000000003.log is damaged at offset 4096: mark and version of the format: want 0x1464c50, got 0x0"},
		{"a block of the newest one was lost", func(f map[string][]byte) { clear(f[second][4096:8192]) },
			"0000000000000004.log is damaged at offset 2676: checksum of an entry"},
		{"the first block was lost", func(f map[string][]byte) { clear(f[first][:4096]) },
			"0000000000000003.log is damaged at offset 0: number of a log's first segment: want 0x1, got 0x3"},
		{"the first block of the newest one was lost", func(f map[string][]byte) { clear(f[second][:4096]) },
			"0000000000000004.log is damaged at offset 0: mark and version of the format: want 0x1464c50, got 0x0"},
		{"the first block of the newest one is as it was", func(f map[string][]byte) { copy(f[second][:4096], f[ready]) },
			"0000000000000004.log is damaged at offset 0: number of the segment: want 0x4, got 0x2"},
		{"a block was written to the wrong place", func(f map[string][]byte) { copy(f[first][4096:8192], f[first]) },
			"0000000000000003.log is damaged at offset 4096: offset of a frame: want 0x1000, got 0x0"},
		{"a block was written to the wrong file", func(f map[string][]byte) { copy(f[first][:4096], f[second]) },
			"0000000000000003.log is damaged at offset 0: number of the segment: want 0x3, got 0x4"},
		{"two files changed places", func(f map[string][]byte) { f[first], f[second] = f[second], f[first] },
			"0000000000000003.log is damaged at offset 0: number of the segment: want 0x3, got 0x4"},
		{"a file is gone", func(f map[string][]byte) { delete(f, second) },
			"0000000000000004.log is damaged at offset 0: next number of a file: want 0x4, got 0x5"},
		{"a file was cut", func(f map[string][]byte) { f[first] = f[first][:4096] },
			"0000000000000003.log is damaged at offset 4096: checksum of the frame before"},
		{"a file was cut within a sector", func(f map[string][]byte) { f[second] = f[second][:4300] },
			"0000000000000004.log is damaged at offset 4096: bytes of the file in whole sectors: want 0x1000, got 0x10cc"},
		{"the newest file was cut", func(f map[string][]byte) { f[second] = f[second][:4096] },
			""}, // nothing is left that could vouch for what is missing
		{"a file is empty", func(f map[string][]byte) { f[first] = nil },
			"0000000000000003.log is damaged at offset 0: number of a log's first segment: want 0x1, got 0x3"},
		{"the newest file is empty but the next was begun", func(f map[string][]byte) {
			f[ready], f[second] = f[second], nil
			copy(f[ready][16:], []byte{5})
			binary.LittleEndian.PutUint32(f[ready][4:], checksum(f[ready][8:headerSize]))
			f[segmentName(6)] = f[ready]
			f[ready] = make([]byte, 16<<10)
			copy(f[segmentName(6)][16:], []byte{6})
			binary.LittleEndian.PutUint32(f[segmentName(6)][4:], checksum(f[segmentName(6)][8:headerSize]))
		}, "0000000000000004.log is damaged at offset 0: segments that were not begun up to: want 0x6, got 0x4"},
		{"another log's file", func(f map[string][]byte) {
			m := disk.NewMem()
			o := small()
			o.Identity++
			ok(t, open(t, m, o).Close())
			f[segmentName(6)] = contents(t, m)[segmentName(1)]
		}, "0000000000000006.log is damaged at offset 0: identity of the log: want 0x1122334455667788, got 0x1122334455667789"},
		{"noise at the start of a file", func(f map[string][]byte) { f[ready][5]++ },
			"0000000000000005.log is damaged at offset 0: checksum of a header"},
		{"a later version", func(f map[string][]byte) { f[first][3] = 2 },
			"0000000000000003.log is damaged at offset 0: mark and version of the format: want 0x1464c50, got 0x2464c50"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			changed := map[string][]byte{}
			for name, b := range files {
				changed[name] = slices.Clone(b)
			}
			test.alter(changed)
			m := install(t, changed)
			l, err := Open(m, "log", small())
			if err == nil {
				ok(t, l.Close())
			}
			damage, found := errors.AsType[*DamageError](err)
			if test.want == "" {
				ok(t, err)
				return
			}
			if !found {
				t.Fatalf("opening: %v", err)
			}
			if got := damage.Error(); !strings.HasPrefix(got, "log/"+test.want) {
				t.Errorf("error %q, want %q", got, test.want)
			}
			for name, b := range contents(t, m) {
				if !slices.Equal(b, changed[name]) {
					t.Errorf("%s was changed", name)
				}
			}
		})
	}
}

// TestDamageWhileReading: what is damaged after the log was opened is found by the read.
func TestDamageWhileReading(t *testing.T) {
	m := disk.NewMem()
	l := open(t, m, small())
	ok(t, l.Append(nil, made(1, 4, 1, 3000)))
	ok(t, l.Sync())
	put(t, m, segmentName(1), []byte{1, 2, 3}, 4096+headerSize+3*rowSize+3000+50)
	must(l.Entries(1, 2, 0))(t)
	must(l.Entries(3, 4, 0))(t)
	for range 2 {
		_, err := l.Entries(1, 4, 1<<60)
		damage, found := errors.AsType[*DamageError](err)
		if !found || damage.File != "log/0000000000000001.log" || damage.Offset != 4096+headerSize+3*rowSize+3000 {
			t.Fatalf("reading: %v", err)
		}
	}
	ok(t, l.Append(nil, made(4, 5, 1, 10))) // the log goes on: whoever reads decides
	f := must(m.Open("log/"+segmentName(1), 0))(t)
	ok(t, f.Truncate(5000))
	ok(t, f.Close())
	_, err := l.Entries(2, 3, 0)
	if damage, found := errors.AsType[*DamageError](err); !found || damage.Want != 10296 || damage.Got != 5000 {
		t.Errorf("reading beyond the end: %v", err)
	}
	ok(t, l.Close())
}

// TestTornTail: a frame that nothing vouches for is cut off, whichever of its sectors is missing.
func TestTornTail(t *testing.T) {
	m := disk.NewMem()
	l := open(t, m, small())
	ok(t, l.Append(nil, made(1, 2, 1, 3000)))
	ok(t, l.Append(&HardState{5, 1, 1}, made(2, 4, 5, 2000)))
	ok(t, l.Sync())
	m.KillProcess()
	files := contents(t, m)
	for sector := int64(8192); sector < 8192+headerSize+2*rowSize+4000; sector += disk.SectorSize {
		m := install(t, files)
		put(t, m, segmentName(1), make([]byte, disk.SectorSize), sector)
		l := open(t, m, small())
		if l.Last() != 1 || l.HardState() != (HardState{}) {
			t.Errorf("sector at %d lost: last %d, %+v", sector, l.Last(), l.HardState())
		}
		ok(t, l.Append(nil, made(2, 3, 1, 100)))
		ok(t, l.Close())
		l = open(t, m, small())
		if l.Last() != 2 {
			t.Errorf("sector at %d lost, appended again: last %d", sector, l.Last())
		}
		ok(t, l.Close())
	}
}

// TestNoGhosts: a frame that survived a power cut behind one that did not stays dead when an equal
// frame fills the gap. Only the epoch makes the difference.
func TestNoGhosts(t *testing.T) {
	m := disk.NewMem()
	l := open(t, m, Options{SegmentBytes: 64 << 10, Identity: 1})
	ok(t, l.Sync())
	m.KillProcess()
	l = open(t, m, Options{SegmentBytes: 64 << 10, Identity: 1})
	at := l.written
	ok(t, l.Append(nil, made(1, 2, 1, 100)))
	ok(t, l.Append(nil, made(2, 3, 1, 100)))
	ok(t, l.Append(nil, made(3, 4, 1, 100)))
	ok(t, l.Sync())
	m.KillProcess()
	put(t, m, segmentName(1), make([]byte, 4096), at) // the first one did not reach the disk
	for last := range uint64(3) {
		l = open(t, m, Options{SegmentBytes: 64 << 10, Identity: 1})
		if l.Last() != last {
			t.Fatalf("the log ends with entry %d, want %d", l.Last(), last)
		}
		ok(t, l.Append(nil, made(last+1, last+2, 1, 100)))
		ok(t, l.Sync())
		m.KillProcess()
	}
}

// TestEveryPowerCut cuts the power at every change that a life of a log makes, and looks what is there.
func TestEveryPowerCut(t *testing.T) {
	for _, direct := range []bool{false, true} {
		o := small()
		o.Direct = direct
		cuts := 0
		for n, finished := 0, false; !finished; n++ {
			for seed := range uint64(6) {
				w := newModel(t, o)
				w.mem.FailAfter(n, disk.ErrCrashed)
				err := life(w)
				if finished = err == nil; !finished {
					wantErr(t, err, disk.ErrCrashed)
					cuts++
				}
				if seed == 0 {
					w.mem.Crash(nil)
				} else {
					w.mem.Crash(rand.New(rand.NewPCG(uint64(n), seed)))
				}
				w.reopen(t, false)
				ok(t, w.append(nil, made(w.log.Last()+1, w.log.Last()+2, 99, 10)))
				ok(t, w.sync())
				w.mem.Crash(nil)
				w.reopen(t, true)
			}
		}
		if cuts < 300 {
			t.Errorf("only %d cuts", cuts)
		}
	}
}

// life makes every call of a log.
func life(w *model) error {
	calls := []func() error{
		func() error { return w.append(&HardState{1, 1, 0}, made(1, 4, 1, 500)) },
		w.sync,
		func() error { return w.append(&HardState{1, 1, 2}, made(4, 7, 1, 2500)) },
		func() error { return w.append(&HardState{2, 0, 2}, made(5, 9, 2, 5000)) },
		w.sync,
		func() error { return w.log.Prepare(nil) },
		func() error { return w.append(&HardState{2, 0, 7}, made(9, 12, 2, 3000)) },
		w.sync,
		func() error { return w.recycle(7) },
		func() error { return w.append(nil, made(11, 12, 3, 9000)) },
		w.sync,
		func() error { return w.reset(50, 4) },
		func() error { return w.append(&HardState{4, 2, 50}, made(51, 53, 4, 9000)) },
		w.sync,
		func() error { return w.recycle(50) },
		func() error { return w.log.Close() },
	}
	for _, call := range calls {
		if err := call(); err != nil {
			return err
		}
	}
	w.states = []*state{w.now()}
	return nil
}

// TestEveryFailure makes every change fail once. From then on the log returns that error and no
// other, and what was durable is there when it is opened again.
func TestEveryFailure(t *testing.T) {
	errBroken := errors.New("the disk is on fire")
	failures := 0
	for n, finished := 0, false; !finished; n++ {
		w := newModel(t, small())
		left := n
		w.mem.SetHook(func(op, name string) error {
			if op == disk.OpRead || op == disk.OpReadDir || op == disk.OpSize {
				return nil
			}
			if left--; left == -1 {
				return errBroken
			}
			return nil
		})
		err := life(w)
		if finished = err == nil; finished {
			break
		}
		failures++
		wantErr(t, err, errBroken)
		if w.log.failure() == nil { // only what Prepare did beside the log may fail without consequence
			ok(t, w.compare(w.log, w.now()))
			ok(t, w.log.Prepare(nil))
			ok(t, w.log.Close())
		} else if !errors.Is(w.log.failure(), ErrClosed) {
			wantErr(t, w.log.Append(nil, made(w.log.Last()+1, w.log.Last()+2, 99, 10)), errBroken)
			wantErr(t, w.log.Sync(), errBroken)
			wantErr(t, w.log.Reset(100, 100), errBroken)
			wantErr(t, w.log.Recycle(100), errBroken)
			wantErr(t, w.log.Prepare(nil), errBroken)
			_, err := w.log.Entries(1, 2, 0)
			wantErr(t, err, errBroken)
			_, err = w.log.Term(1)
			wantErr(t, err, errBroken)
			wantErr(t, w.log.Close(), errBroken)
		}
		w.mem.Crash(nil)
		w.reopen(t, false)
	}
	if failures < 30 {
		t.Errorf("only %d failures", failures)
	}
}

// TestFailureWhileOpening makes every operation of Open fail once; the next Open finds everything.
func TestFailureWhileOpening(t *testing.T) {
	errBroken := errors.New("the disk is on fire")
	files := damagedLog(t)
	for n := 0; ; n++ {
		m := install(t, files)
		left := n
		m.SetHook(func(op, name string) error {
			if left--; left == -1 {
				return errBroken
			}
			return nil
		})
		l, err := Open(m, "log", small())
		if err == nil {
			if ok(t, l.Close()); n < 15 {
				t.Errorf("opening makes only %d operations", n)
			}
			return
		}
		wantErr(t, err, errBroken)
		l = open(t, m, small())
		if l.Last() != 15 || l.HardState() != (HardState{3, 1, 11}) {
			t.Fatalf("after failure %d the log ends at %d with %+v", n, l.Last(), l.HardState())
		}
		ok(t, l.Close())
	}
}

// TestUnsteadyDisk: a disk that gives wrong bytes once is not to be trusted with the next write.
func TestUnsteadyDisk(t *testing.T) {
	files := damagedLog(t)
	m := install(t, files)
	const at = headerSize + 2*rowSize + 77 // in the first frame of the newest segment
	put(t, m, segmentName(4), []byte{files[segmentName(4)][at] ^ 1}, at)
	reads := 0
	m.SetHook(func(op, name string) error {
		if op == disk.OpRead && name == "log/"+segmentName(4) {
			if reads++; reads == 2 {
				put(t, m, segmentName(4), files[segmentName(4)][at:at+1], at)
			}
		}
		return nil
	})
	_, err := Open(m, "log", small())
	if damage, found := errors.AsType[*DamageError](err); !found || damage.What != "reads that agree" {
		t.Errorf("opening: %v", err)
	}
}

// TestLogOfALog: a client may store a copy of this very log, and its blocks may come to lie where frames
// are looked for. They are neither taken for frames nor for damage.
func TestLogOfALog(t *testing.T) {
	for _, other := range []uint64{0, 1} {
		m := disk.NewMem()
		o := small()
		w := &model{mem: m, opts: o, states: []*state{{}}, log: open(t, m, o)}
		copies := install(t, nil)
		o.Identity += other
		l := open(t, copies, o)
		for i := uint64(1); i <= 40; i++ {
			var image []byte
			for _, b := range contents(t, map[uint64]*disk.Mem{0: m, 1: copies}[other]) {
				image = append(image, b...)
			}
			ok(t, l.Append(nil, made(i, i+1, 1, int(i*700%5000))))
			ok(t, l.Sync())
			data := slices.Concat(make([]byte, blockSize-headerSize-rowSize), image[:min(len(image), 8192+int(i%3)*4096)])
			ok(t, w.append(&HardState{1, 0, i - 1}, []Entry{{Index: i, Term: 1, Data: data}}))
			if i%2 == 0 {
				ok(t, w.sync())
			}
			if i%5 == 0 {
				ok(t, w.recycle(i-1))
			}
			if i%3 == 0 {
				m.Crash(rand.New(rand.NewPCG(i, 0)))
				w.reopen(t, false)
				for w.log.Last() < i {
					ok(t, w.append(nil, made(w.log.Last()+1, w.log.Last()+2, 1, 10)))
				}
			}
		}
		ok(t, l.Close())
		ok(t, w.log.Close())
	}
}

// TestTornAfterFailedSync: a sync failed, and the process started again. The operating system shows what it did not
// bring to disk, and holds it for done: what Open finds must be durable all the same, for it is acknowledged then.
func TestTornAfterFailedSync(t *testing.T) {
	for _, first := range []int{0, 3} { // the frame that is lost is the first one of its segment, or not
		m := disk.NewMem()
		l := open(t, m, small())
		if first > 0 {
			ok(t, l.Append(nil, made(1, 1+uint64(first), 1, 100)))
			ok(t, l.Sync())
		} else {
			ok(t, l.Reset(1, 1)) // a new segment
		}
		last := l.Last()
		ok(t, l.Append(&HardState{Term: 2, Vote: 3, Commit: l.HardState().Commit}, made(last+1, last+3, 2, 9000)))
		failing := errors.New("input/output error")
		m.SetHook(func(op, _ string) error {
			if op == disk.OpSync {
				return failing
			}
			return nil
		})
		if err := l.Sync(); !errors.Is(err, failing) {
			t.Fatalf("sync: %v", err)
		}
		m.SetHook(nil)
		m.KillProcess()
		l = open(t, m, small())
		if l.Last() != last+2 {
			t.Fatalf("the log ends at %d", l.Last())
		}
		m.Crash(nil)
		l = open(t, m, small())
		if l.Last() != last+2 || l.HardState().Vote != 3 {
			t.Fatalf("entries %d to %d that were found are lost, and %+v", l.Last()+1, last+2, l.HardState())
		}
		if es := must(l.Entries(last+1, last+3, 1<<20))(t); len(es) != 2 || len(es[1].Data) != 9000 {
			t.Fatalf("%d entries", len(es))
		}
		ok(t, l.Close())
	}
}

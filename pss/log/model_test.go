package log

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
	"pgregory.net/rapid"
)

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// state is a log as the model has it: all entries after base, and the HardState.
type state struct {
	base, baseTerm uint64
	entries        []Entry
	hs             HardState
}

func (s *state) last() uint64 { return s.base + uint64(len(s.entries)) }

func (s *state) term(i uint64) uint64 {
	if i == s.base {
		return s.baseTerm
	}
	return s.entries[i-s.base-1].Term
}

// after returns the state after an append.
func (s *state) after(hs HardState, entries []Entry) *state {
	n := &state{base: s.base, baseTerm: s.baseTerm, entries: s.entries, hs: hs}
	if len(entries) > 0 {
		n.entries = slices.Concat(s.entries[:entries[0].Index-s.base-1], entries)
	}
	return n
}

// model is a log on a Mem, and the states one of which it must be found in after a power cut.
type model struct {
	mem    *disk.Mem
	log    *Log
	opts   Options
	states []*state // the oldest one is durable, the newest one is what the log shows
	floor  uint64   // up to here entries may be gone
	serial uint64
}

func newModel(t tester, o Options) *model {
	w := &model{mem: disk.NewMem(), opts: o, states: []*state{{}}}
	w.log = open(t, w.mem, o)
	return w
}

func (w *model) now() *state { return w.states[len(w.states)-1] }

// append appends, and notes the states a crash may leave: one after each frame.
func (w *model) append(hs *HardState, entries []Entry) error {
	from, final := w.now(), w.now().hs
	if hs != nil {
		final = *hs
		final.Commit = max(final.Commit, from.hs.Commit)
	}
	noted, rest := len(w.states), entries
	for {
		part, now := rest[:w.log.fit(rest)], final
		if rest = rest[len(part):]; len(rest) > 0 {
			now.Commit = from.hs.Commit
		}
		w.states = append(w.states, w.now().after(now, part))
		if len(rest) == 0 {
			break
		}
	}
	err := w.log.Append(hs, entries)
	if errors.Is(err, disk.ErrNoSpace) { // some of it is there, and the log goes on
		for len(w.states) > noted && w.compare(w.log, w.now()) != nil {
			w.states = w.states[:len(w.states)-1]
		}
	}
	return err
}

func (w *model) sync() error {
	err := w.log.Sync()
	if err == nil {
		w.states = []*state{w.now()}
	}
	return err
}

func (w *model) reset(index, term uint64) error {
	hs := w.now().hs
	hs.Commit = index
	w.states = append(w.states, &state{base: index, baseTerm: term, hs: hs})
	w.floor = max(w.floor, index)
	err := w.log.Reset(index, term)
	switch {
	case err == nil:
		w.states = []*state{w.now()}
	case errors.Is(err, disk.ErrNoSpace):
		w.states = w.states[:len(w.states)-1]
	}
	return err
}

func (w *model) recycle(upTo uint64) error {
	w.floor = max(w.floor, upTo)
	err := w.log.Recycle(upTo)
	w.raiseCommit()
	return err
}

// adopt does to a body what the owner of a chunk does whose file it has become: it is written to, and taken away. All
// entries up to some index are superseded then.
func (w *model) adopt(t *rapid.T) error {
	if err := w.sync(); err != nil { // a checkpoint holds what is durable
		return err
	}
	upTo := rapid.Uint64Range(0, w.now().hs.Commit).Draw(t, "superseded")
	w.log.Supersede(upTo)
	w.opts.Superseded = max(w.opts.Superseded, upTo)
	w.floor = max(w.floor, upTo)
	for i := w.log.First(); i <= upTo; i++ {
		b, there := w.log.Body(i)
		if !there || rapid.Bool().Draw(t, "leave") {
			continue
		}
		if err := scribble(w.mem, b, w.serial); err != nil {
			return err
		}
	}
	return nil
}

// scribble writes into the blocks where the end of an entry lies.
func scribble(m *disk.Mem, b Body, serial uint64) error {
	f, err := m.Open(b.File, 0)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt([]byte{byte(serial), 1, 2, 3}, int64(b.Block)*blockSize); err != nil {
		return errors.Join(err, f.Close())
	}
	return errors.Join(f.Sync(), f.Close())
}

// spare gives the log a file to be used again.
func (w *model) spare() error {
	w.serial++
	name := fmt.Sprintf("spare-%d", w.serial)
	f, err := w.mem.Open(name, disk.Create)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(bytes.Repeat([]byte{byte(w.serial)}, 3*blockSize), 1020*blockSize); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := errors.Join(f.Sync(), f.Close(), w.mem.SyncDir(".")); err != nil {
		return err
	}
	if !w.log.Spare(name) {
		return w.mem.Remove(name)
	}
	return nil
}

// raiseCommit makes the newest state know what follows from what was recycled.
func (w *model) raiseCommit() {
	s := *w.now()
	s.hs.Commit = max(s.hs.Commit, w.log.First()-1)
	w.states[len(w.states)-1] = &s
}

// compare says how a log differs from a state.
func (w *model) compare(l *Log, s *state) error {
	first, last := l.First(), l.Last()
	hs := s.hs
	hs.Commit = max(hs.Commit, first-1)
	if last != s.last() || l.HardState() != hs || first <= s.base || first > max(w.floor, s.base)+1 {
		return fmt.Errorf("log [%d, %d] %+v, want (%d, %d] %+v with entries after %d",
			first, last, l.HardState(), s.base, s.last(), hs, w.floor)
	}
	for i := first - 1; i <= last; i++ {
		if term, err := l.Term(i); err != nil || term != s.term(i) {
			return fmt.Errorf("term of %d is %d, %v, want %d", i, term, err, s.term(i))
		}
	}
	entries, err := l.Entries(first, last+1, 1<<60)
	if errors.Is(err, ErrCompacted) && l.First() > first { // a body is not what it was, and the log has noticed now
		return w.compare(l, s)
	}
	if err != nil {
		return err
	}
	want := s.entries[first-s.base-1:]
	if !slices.EqualFunc(entries, want, func(a, b Entry) bool {
		return a.Index == b.Index && a.Term == b.Term && a.Kind == b.Kind && bytes.Equal(a.Data, b.Data)
	}) {
		return fmt.Errorf("entries [%d, %d] differ", first, last)
	}
	return nil
}

// reopen opens the log again and finds out which state it is in: exactly the newest one if nothing
// can have been lost.
func (w *model) reopen(t tester, exact bool) {
	t.Helper()
	w.log = open(t, w.mem, w.opts)
	if exact {
		ok(t, w.compare(w.log, w.now()))
		w.states = []*state{w.now()}
		return
	}
	var errs []error
	for _, s := range slices.Backward(w.states) {
		err := w.compare(w.log, s)
		if err == nil {
			w.states = []*state{s}
			w.raiseCommit()
			return
		}
		errs = append(errs, err)
	}
	t.Fatalf("the log is in none of the %d possible states: %v", len(w.states), errors.Join(errs...))
}

// drawAppend draws a valid append.
func (w *model) drawAppend(t *rapid.T) (*HardState, []Entry) {
	s := w.now()
	first := s.last() + 1
	if low := max(s.base, s.hs.Commit) + 1; low < first && rapid.IntRange(0, 3).Draw(t, "replace") == 0 {
		first = rapid.Uint64Range(low, first).Draw(t, "first")
	}
	term := max(s.term(first-1), 1) + rapid.SampledFrom([]uint64{0, 0, 0, 1, 3}).Draw(t, "term")
	var entries []Entry
	for i := range rapid.Uint64Range(0, 5).Draw(t, "entries") {
		w.serial++
		size := rapid.SampledFrom([]int{0, 1, 100, 3000, 4096, 9000, 20000}).Draw(t, "size")
		e := Entry{Index: first + i, Term: term, Kind: uint8(w.serial),
			Data: bytes.Repeat([]byte{byte(w.serial), byte(w.serial >> 8)}, size/2)}
		if blocks := size / blockSize; blocks > 0 && rapid.Bool().Draw(t, "at home") {
			e.Home = Home{Object: 1, Chunk: rapid.Uint32Range(0, 2).Draw(t, "chunk"),
				Block: rapid.SampledFrom([]uint16{0, 0, 0, 1, 2, 4, 1020, 1023}).Draw(t, "block"), Blocks: uint16(blocks)}
		}
		entries = append(entries, e)
	}
	if rapid.Bool().Draw(t, "no state") {
		return nil, entries
	}
	last := s.last()
	if n := len(entries); n > 0 {
		last = entries[n-1].Index
	}
	hs := HardState{Term: max(s.hs.Term, term), Vote: s.hs.Vote, Commit: rapid.Uint64Range(0, last).Draw(t, "commit")}
	if hs.Term > s.hs.Term || hs.Vote == 0 {
		hs.Vote = rapid.Uint64Range(0, 3).Draw(t, "vote")
	}
	return &hs, entries
}

// step draws one call and makes it.
func (w *model) step(t *rapid.T) error {
	switch rapid.SampledFrom([]string{"append", "append", "append", "append", "sync", "sync", "prepare", "prepare", "recycle", "reset", "close", "adopt", "spare"}).Draw(t, "call") {
	case "append":
		return w.append(w.drawAppend(t))
	case "sync":
		return w.sync()
	case "prepare":
		w.log.bodies.wanted = true // as if one had been asked for
		return w.log.Prepare(nil)
	case "adopt":
		return w.adopt(t)
	case "spare":
		return w.spare()
	case "recycle":
		return w.recycle(rapid.Uint64Range(0, w.now().hs.Commit).Draw(t, "up to"))
	case "reset":
		s := w.now()
		return w.reset(rapid.Uint64Range(s.hs.Commit, s.last()+10).Draw(t, "index"), s.hs.Term)
	}
	err := w.log.Close()
	if err == nil {
		w.states = []*state{w.now()}
		w.log, err = Open(w.mem, "log", w.opts)
	}
	return err
}

// read compares a random range with the model.
func (w *model) read(t *rapid.T) {
	first, last := w.log.First(), w.log.Last()
	lo := rapid.Uint64Range(max(first, 2)-1, last+2).Draw(t, "lo")
	hi := rapid.Uint64Range(lo, last+2).Draw(t, "hi")
	limit := rapid.SampledFrom([]uint64{0, 5000, 30000, 1 << 60}).Draw(t, "limit")
	entries, err := w.log.Entries(lo, hi, limit)
	switch {
	case lo < w.log.First(): // which rises when a body turns out to be lost
		wantErr(t, err, ErrCompacted)
		return
	case hi > last+1:
		wantErr(t, err, ErrUnavailable)
		return
	}
	ok(t, err)
	size := uint64(0)
	for i, e := range entries {
		want := w.now().entries[lo+uint64(i)-w.now().base-1]
		if e.Index != want.Index || e.Term != want.Term || e.Kind != want.Kind || !bytes.Equal(e.Data, want.Data) {
			t.Fatalf("entry %d is %s, want %s", i, describe(e), describe(want))
		}
		size += uint64(len(e.Data))
	}
	if len(entries) > 1 && size > limit {
		t.Fatalf("%d entries of %d bytes, limit %d", len(entries), size, limit)
	}
	if n := lo + uint64(len(entries)); n < hi {
		next := uint64(len(w.now().entries[n-w.now().base-1].Data))
		if len(entries) == 0 || size+next <= limit {
			t.Fatalf("%d entries of %d bytes, though %d more are within the limit of %d", len(entries), size, next, limit)
		}
	}
}

func (w *model) crash(t *rapid.T) {
	w.mem.Crash(rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0)))
}

// TestModel runs random calls, kills, power cuts at random operations and full disks against the model.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := small()
		o.SegmentBytes = rapid.SampledFrom([]int64{8 << 10, 16 << 10, 40 << 10}).Draw(t, "segment")
		o.Direct = rapid.Bool().Draw(t, "direct")
		o.Bodies = rapid.SampledFrom([]int{0, 1, 4, 20}).Draw(t, "bodies")
		w := newModel(t, o)
		t.Repeat(map[string]func(*rapid.T){
			"":     func(t *rapid.T) { ok(t, w.compare(w.log, w.now())) },
			"step": func(t *rapid.T) { ok(t, w.step(t)) },
			"read": w.read,
			"kill": func(t *rapid.T) {
				w.mem.KillProcess()
				w.reopen(t, true)
			},
			"crash": func(t *rapid.T) {
				w.crash(t)
				w.reopen(t, false)
			},
			"power cut": func(t *rapid.T) {
				w.mem.FailAfter(rapid.IntRange(0, 12).Draw(t, "operations"), disk.ErrCrashed)
				for err := error(nil); err == nil; {
					if err = w.step(t); err != nil {
						wantErr(t, err, disk.ErrCrashed)
					}
				}
				w.crash(t)
				w.reopen(t, false)
			},
			"power cut while opening": func(t *rapid.T) {
				w.crash(t)
				for _, n := range rapid.SliceOfN(rapid.IntRange(0, 8), 1, 4).Draw(t, "operations") {
					w.mem.FailAfter(n, disk.ErrCrashed)
					if _, err := Open(w.mem, "log", w.opts); err != nil {
						wantErr(t, err, disk.ErrCrashed)
					}
					w.crash(t)
				}
				w.reopen(t, false)
			},
			"full": func(t *rapid.T) {
				w.mem.SetCapacity(max(1, w.mem.Used()))
				for range 3 {
					hs, entries := w.drawAppend(t)
					if err := w.append(hs, entries); err != nil {
						wantErr(t, err, disk.ErrNoSpace)
					}
					ok(t, w.compare(w.log, w.now()))
				}
				if err := w.log.Prepare(nil); err != nil {
					wantErr(t, err, disk.ErrNoSpace)
				}
				ok(t, w.sync())
				w.mem.SetCapacity(0)
			},
		})
	})
}

package pss

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/paxos-iscsi/paxos-iscsi/pss"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
	"github.com/paxos-iscsi/paxos-iscsi/pss/psstest"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const size = 32 << 20

func quick() pss.Options {
	return pss.Options{Backoff: time.Millisecond, MaxBackoff: 4 * time.Millisecond, Ping: 10 * time.Millisecond, Silence: time.Minute}
}

// start makes a cell with a volume "vol", and says which server.conf is the daemon's.
func start(t *testing.T) *psstest.Cell {
	f := psstest.New(t, 3)
	f.Elect(0)
	t.Setenv(cell.EnvFile, f.ConfFile())
	c, err := pss.Open(f.Conf(), quick())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.CreateVolume(t.Context(), "vol", size); err != nil {
		t.Fatal(err)
	}
	return f
}

// open opens a unit with a client of the cell of its own, as another daemon does.
func open(t *testing.T, o backstore.Options) backstore.Store {
	t.Helper()
	s, err := Type(FromConf(quick())).Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
	return s
}

func do(s backstore.Store, io *backstore.IO) *backstore.IO {
	done := make(chan struct{})
	io.Done = func(*backstore.IO) { close(done) }
	s.Submit(io)
	<-done
	return io
}

func TestRequests(t *testing.T) {
	start(t)
	s := open(t, backstore.Options{Path: "vol", BlockSize: 512, Sync: true, Direct: true})
	if got := s.Info(); got != (backstore.Info{Bytes: size, PhysicalSize: 4096, AtomicBytes: 256 << 10, Keeps: backstore.KeepsAll, Thin: true, AlwaysThin: true, Ordered: true, Durable: true}) {
		t.Fatalf("%+v", got)
	}
	io := &backstore.IO{} // one for all: it is made to be used again
	step := func(o backstore.Op, offset, length int64, data []byte, want error) {
		t.Helper()
		io.Op, io.Offset, io.Length, io.Data = o, offset, length, data
		if do(s, io); !errors.Is(io.Err, want) {
			t.Fatalf("operation %d: %v, want %v", o, io.Err, want)
		}
	}
	ones, twos := bytes.Repeat([]byte{1}, 2<<20), bytes.Repeat([]byte{2}, 512)
	step(backstore.Write, 4096, 2<<20, ones, nil)
	step(backstore.Flush, 0, 0, nil, nil)
	got := make([]byte, 2<<20)
	step(backstore.Read, 4096, 2<<20, got, nil)
	if !bytes.Equal(got, ones) {
		t.Fatal("what was read differs")
	}
	step(backstore.CompareAndWrite, 4096, 512, append(bytes.Clone(ones[:512]), twos...), nil)
	io.Miscompare = -1
	step(backstore.CompareAndWrite, 4096, 512, append(append(bytes.Clone(twos[:511]), 9), ones[:512]...), backstore.ErrMiscompare)
	if io.Miscompare != 511 {
		t.Fatalf("miscompare at %d", io.Miscompare)
	}
	step(backstore.Unmap, 4096+512, 512, nil, nil)
	step(backstore.WriteZeroes, 4096+1024, 512, nil, nil)
	got = got[:2048]
	step(backstore.Read, 4096, 2048, got, nil)
	if want := append(append(bytes.Clone(twos), make([]byte, 1024)...), ones[:512]...); !bytes.Equal(got, want) {
		t.Fatal("what was read differs")
	}
	step(backstore.Read, size, 512, got[:512], pss.ErrOutOfRange)
	if io.Op, io.Data = 99, nil; do(s, io).Err == nil {
		t.Fatal("an unknown operation succeeded")
	}
	step(backstore.Flush, 0, 0, nil, nil)
}

func TestStatus(t *testing.T) {
	start(t)
	s := open(t, backstore.Options{Path: "/vol"})
	for _, at := range []int64{4 << 20, 8 << 20} {
		if io := do(s, &backstore.IO{Op: backstore.Write, Offset: at, Data: []byte{1}}); io.Err != nil {
			t.Fatal(io.Err)
		}
	}
	for _, c := range []struct {
		offset, length, mappedLength int64
		mapped                       bool
	}{
		{0, size, 4 << 20, false},
		{1 << 20, size - 1<<20, 3 << 20, false},
		{5 << 20, size - 5<<20, 7 << 20, true},
		{4 << 20, 512, 512, true},
		{12 << 20, size - 12<<20, size - 12<<20, false},
	} {
		io := do(s, &backstore.IO{Op: backstore.Status, Offset: c.offset, Length: c.length})
		if io.Err != nil || io.Mapped != c.mapped || io.MappedLength != c.mappedLength {
			t.Errorf("at %d: %v for %d, %v; want %v for %d", c.offset, io.Mapped, io.MappedLength, io.Err, c.mapped, c.mappedLength)
		}
	}
}

func TestUnitsShareACell(t *testing.T) {
	f := start(t)
	f.Lock()
	before := len(f.Sessions)
	f.Unlock()
	opened := 0
	typ := Type(func(conf string) (*pss.Cell, error) {
		opened++
		return FromConf(quick())(conf)
	})
	if typ.Name != "pss" {
		t.Fatal(typ.Name)
	}
	a, err := typ.Open(backstore.Options{Path: "vol"})
	if err != nil {
		t.Fatal(err)
	}
	b, err := typ.Open(backstore.Options{Path: "vol", Options: "conf=" + os.Getenv(cell.EnvFile) + ";timeout=60"})
	if err != nil {
		t.Fatal(err)
	}
	if opened != 1 {
		t.Errorf("%d clients of one cell", opened)
	}
	// b has taken the volume away from a.
	if io := do(a, &backstore.IO{Op: backstore.Write, Data: make([]byte, 512)}); !errors.Is(io.Err, backstore.ErrFenced) {
		t.Error(io.Err)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if io := do(b, &backstore.IO{Op: backstore.Write, Data: make([]byte, 512)}); io.Err != nil {
		t.Error(io.Err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	f.Lock()
	if n := len(f.Sessions); n != before {
		t.Errorf("%d sessions before, %d after", before, n)
	}
	f.Unlock()
	if c, err := typ.Open(backstore.Options{Path: "vol"}); err != nil || opened != 2 {
		t.Errorf("%v, %d clients opened", err, opened)
	} else if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func TestOpenFails(t *testing.T) {
	start(t)
	p := &cells{open: FromConf(quick()), used: map[string]*shared{}}
	bad := filepath.Join(t.TempDir(), "bad.conf")
	if err := os.WriteFile(bad, []byte("nonsense\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	check := func(o backstore.Options, wait time.Duration, want error, text string) {
		t.Helper()
		s, err := p.openUnit(o, wait, growInterval)
		if err == nil {
			s.Close()
		}
		if err == nil || want != nil && !errors.Is(err, want) || !strings.Contains(err.Error(), text) {
			t.Errorf("%+v: %v", o, err)
		}
		if len(p.used) != 0 {
			t.Error("a client is kept")
		}
	}
	check(backstore.Options{Path: "none"}, time.Minute, pss.ErrNotFound, `"none"`)
	for _, text := range []string{"x", "conf=", "conf", "timeout=x", "timeout=-1", "timeout=9999999999", "timeout=4000000000", "conf=a;y=1", "shared", "shared=2"} {
		check(backstore.Options{Path: "vol", Options: text}, time.Minute, backstore.ErrOption, `"vol"`)
	}
	check(backstore.Options{Path: "vol", Options: "conf=/does/not/exist"}, time.Minute, os.ErrNotExist, "/does/not/exist")
	check(backstore.Options{Path: "vol", Options: "conf=" + bad}, time.Minute, nil, "bad.conf:1")
}

// TestWaitsForTheCell: a unit whose cell can't be reached comes up by itself.
func TestWaitsForTheCell(t *testing.T) {
	f := start(t)
	p := &cells{open: FromConf(quick()), used: map[string]*shared{}}
	for _, c := range []struct {
		off, on func()
		why     string
	}{
		{func() {
			for i := range 3 {
				f.Stop(i)
			}
		}, func() {
			for i := range 3 {
				f.Start(i)
			}
		}, "refused"},
		{func() { f.Elect(255) }, func() { f.Elect(0) }, "no majority"},
	} {
		c.off()
		resized := make(chan struct{}, 1)
		s, err := p.openUnit(backstore.Options{Path: "vol", Resized: func() { resized <- struct{}{} }}, 100*time.Millisecond, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if info := s.Info(); !strings.Contains(info.Waiting, c.why) || info.Bytes != 0 {
			t.Errorf("%+v", info)
		}
		if io := do(s, &backstore.IO{Op: backstore.Write, Data: make([]byte, 512)}); !errors.Is(io.Err, backstore.ErrBusy) {
			t.Error(io.Err)
		}
		if _, _, err := s.(backstore.StateKeeper).LoadState(t.Context()); !errors.Is(err, backstore.ErrBusy) {
			t.Error(err)
		}
		c.on()
		<-resized
		if info := s.Info(); info.Waiting != "" || info.Bytes != size {
			t.Errorf("%+v", info)
		}
		if io := do(s, &backstore.IO{Op: backstore.Write, Data: make([]byte, 512)}); io.Err != nil {
			t.Error(io.Err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		// One that is closed while it waits just goes.
		c.off()
		if s, err = p.openUnit(backstore.Options{Path: "vol"}, 50*time.Millisecond, time.Minute); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		c.on()
	}
	if len(p.used) != 0 {
		t.Error("a client is kept")
	}
}

// TestShared: what one target does under an older state has no effect once another has changed it.
func TestShared(t *testing.T) {
	start(t)
	options := backstore.Options{Path: "vol", Options: "shared=1"}
	a, b := open(t, options), open(t, options)
	ka, kb := a.(backstore.StateKeeper), b.(backstore.StateKeeper)
	if ia, ib := a.Info(), b.Info(); len(ia.Identity) != 16 || ia.Identity != ib.Identity || !ia.Shared {
		t.Errorf("%q and %q", ia.Identity, ib.Identity)
	}
	load := func(k backstore.StateKeeper) (string, uint64) {
		t.Helper()
		value, version, err := k.LoadState(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return string(value), version
	}
	write := func(s backstore.Store, state uint64, want error) {
		t.Helper()
		if io := do(s, &backstore.IO{Op: backstore.Write, Data: make([]byte, 512), State: state}); !errors.Is(io.Err, want) {
			t.Errorf("write under %d: %v, want %v", state, io.Err, want)
		}
	}
	read := func(s backstore.Store, state uint64, want error) {
		t.Helper()
		if io := do(s, &backstore.IO{Op: backstore.Read, Data: make([]byte, 512), State: state}); !errors.Is(io.Err, want) {
			t.Errorf("read under %d: %v, want %v", state, io.Err, want)
		}
	}
	write(a, 0, backstore.ErrStateChanged) // nothing was loaded yet
	_, va := load(ka)
	_, vb := load(kb)
	write(a, va, nil)
	write(b, vb, nil)
	va, err := ka.SaveState(t.Context(), []byte("one"), va)
	if err != nil {
		t.Fatal(err)
	}
	write(a, va, nil)
	read(a, va, nil)
	write(b, vb, backstore.ErrStateChanged)
	read(b, vb, backstore.ErrStateChanged)
	io := do(b, &backstore.IO{Op: backstore.CompareAndWrite, Length: 512, Data: make([]byte, 1024), State: vb})
	if !errors.Is(io.Err, backstore.ErrStateChanged) {
		t.Error(io.Err)
	}
	if _, err := kb.SaveState(t.Context(), []byte("two"), vb); !errors.Is(err, backstore.ErrStateChanged) {
		t.Error(err)
	}
	write(b, vb, backstore.ErrStateChanged) // until it is loaded again
	value, vb := load(kb)
	if value != "one" || vb != va {
		t.Errorf("%q, %d; saved was %d", value, vb, va)
	}
	write(b, vb, nil)
	write(a, va, nil)

	// One who opens the volume for himself alone has it.
	c := open(t, backstore.Options{Path: "vol"})
	write(a, va, backstore.ErrFenced)
	if _, _, err := ka.LoadState(t.Context()); !errors.Is(err, backstore.ErrFenced) {
		t.Error(err)
	}
	kc := c.(backstore.StateKeeper)
	value, vc := load(kc)
	if value != "one" {
		t.Errorf("%q", value)
	}
	if _, err := kc.SaveState(t.Context(), []byte("three"), vc); err != nil {
		t.Error(err)
	}
	if _, err := kc.SaveState(t.Context(), []byte("four"), vc); !errors.Is(err, backstore.ErrStateChanged) {
		t.Error(err)
	}
}

// TestSharedWatch: a target without commands learns that another has changed the state.
func TestSharedWatch(t *testing.T) {
	start(t)
	p := &cells{open: FromConf(quick()), used: map[string]*shared{}}
	resized := make(chan struct{}, 1)
	s, err := p.openUnit(backstore.Options{Path: "vol", Options: "shared=1", Resized: func() {
		select {
		case resized <- struct{}{}:
		default:
		}
	}}, time.Minute, time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	other := open(t, backstore.Options{Path: "vol", Options: "shared=1"}).(backstore.StateKeeper)
	_, version, err := other.LoadState(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.SaveState(t.Context(), []byte("x"), version); err != nil {
		t.Fatal(err)
	}
	<-resized
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// TestBusy: a unit with a timeout answers busy while the cell has no master, and works again afterwards.
func TestBusy(t *testing.T) {
	f := start(t)
	s := open(t, backstore.Options{Path: "vol", Options: "timeout=1"})
	f.Elect(255)
	var wg sync.WaitGroup
	for _, o := range []backstore.Op{backstore.Write, backstore.Read, backstore.Status} {
		wg.Go(func() {
			io := do(s, &backstore.IO{Op: o, Data: make([]byte, 512), Length: 512})
			if !errors.Is(io.Err, backstore.ErrBusy) {
				t.Errorf("operation %d: %v", o, io.Err)
			}
		})
	}
	wg.Wait()
	f.Elect(1)
	if io := do(s, &backstore.IO{Op: backstore.Write, Data: make([]byte, 512)}); io.Err != nil {
		t.Error(io.Err)
	}
}

func TestGrowing(t *testing.T) {
	f := start(t)
	p := &cells{open: FromConf(quick()), used: map[string]*shared{}}
	resized := make(chan struct{}, 1)
	s, err := p.openUnit(backstore.Options{Path: "vol", Resized: func() { resized <- struct{}{} }}, time.Minute, time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	c, err := pss.Open(f.Conf(), quick())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.GrowVolume(t.Context(), "vol", 2*size); err != nil {
		t.Fatal(err)
	}
	<-resized
	if n := s.Info().Bytes; n != 2*size {
		t.Errorf("%d bytes", n)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestErrors(t *testing.T) {
	for from, to := range map[error]error{
		op.NoSpace: backstore.ErrNoSpace, op.Fenced: backstore.ErrFenced, op.Miscompare: backstore.ErrMiscompare,
		pss.ErrTimeout: backstore.ErrBusy, pss.ErrQueueFull: backstore.ErrBusy, pss.ErrSessionLost: backstore.ErrBusy,
		op.NotFound: backstore.ErrInternal, op.ReadDamaged: backstore.ErrDamaged, op.Moved: backstore.ErrStateChanged,
		op.Conflict: backstore.ErrStateChanged,
	} {
		if got := translate(from); !errors.Is(got, to) {
			t.Errorf("%v became %v", from, got)
		}
	}
	if err := translate(nil); err != nil {
		t.Error(err)
	}
}

func FuzzOptions(f *testing.F) {
	f.Add("conf=/etc/pss/server.conf,timeout=5")
	f.Fuzz(func(t *testing.T, text string) {
		o, err := parseOptions(text)
		if err != nil && !errors.Is(err, backstore.ErrOption) || o.timeout < 0 || o.timeout > maxTimeout {
			t.Fatalf("%+v, %v", o, err)
		}
	})
}

package rdwr

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore"
)

func TestMain(m *testing.M) {
	// The property test works on a real disk, where a hundred runs of each way to open cost too much
	// time for a default; -rapid.checks asks for more.
	if err := flag.Set("rapid.checks", "20"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// start submits a request; it comes back on the channel when it is done.
func start(s backstore.Store, io backstore.IO) <-chan *backstore.IO {
	done := make(chan *backstore.IO, 2)
	if io.Length == 0 {
		io.Length = int64(len(io.Data))
	}
	io.Done = func(io *backstore.IO) { done <- io }
	s.Submit(&io)
	return done
}

func do(s backstore.Store, io backstore.IO) *backstore.IO { return <-start(s, io) }

func scratch(t testing.TB, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	must(t, os.WriteFile(path, nil, 0o600))
	must(t, os.Truncate(path, size))
	return path
}

// TestAgainstModel does random requests on a file and on a byte slice, with every way of opening.
func TestAgainstModel(t *testing.T) {
	const size, block = 256 << 10, 512
	for _, o := range []backstore.Options{
		{}, {Sync: true}, {Direct: true}, {Direct: true, Sync: true}, {Threads: 1},
	} {
		t.Run(fmt.Sprintf("sync=%v,direct=%v,threads=%d", o.Sync, o.Direct, o.Threads), func(t *testing.T) {
			o.Path, o.BlockSize = scratch(t, size), block
			rapid.Check(t, func(rt *rapid.T) {
				must(t, os.Truncate(o.Path, 0))
				must(t, os.Truncate(o.Path, size))
				s, err := Open(o)
				if err != nil {
					rt.Fatal(err)
				}
				model := make([]byte, size)
				memory := alignedBytes(size + 64)
				extent := func() (offset, n int64) {
					offset = int64(rapid.IntRange(0, size/block-1).Draw(rt, "block"))
					n = int64(rapid.IntRange(1, size/block-int(offset)).Draw(rt, "blocks"))
					return offset * block, n * block
				}
				buffer := func(n int64) []byte {
					skip := rapid.SampledFrom([]int64{0, 8, 64}).Draw(rt, "misaligned by")
					return memory[skip : skip+n]
				}
				good := func(io backstore.IO) *backstore.IO {
					done := do(s, io)
					if done.Err != nil {
						rt.Fatal(done.Err)
					}
					return done
				}
				seldom := func() bool { return rapid.IntRange(0, 9).Draw(rt, "FUA") == 9 } // a sync is slow
				rt.Repeat(map[string]func(*rapid.T){
					"read": func(rt *rapid.T) {
						offset, n := extent()
						b := buffer(n)
						if good(backstore.IO{Op: backstore.Read, Offset: offset, Data: b}); !bytes.Equal(b, model[offset:offset+n]) {
							rt.Fatalf("read of %d at %d differs", n, offset)
						}
					},
					"write": func(rt *rapid.T) {
						offset, n := extent()
						b := buffer(n)
						for i := range b {
							b[i] = byte(int(offset) + i*7)
						}
						good(backstore.IO{Op: backstore.Write, Offset: offset, Data: b, FUA: seldom()})
						copy(model[offset:], b)
					},
					"zero": func(rt *rapid.T) {
						offset, n := extent()
						op := rapid.SampledFrom([]backstore.Op{backstore.Unmap, backstore.WriteZeroes}).Draw(rt, "op")
						good(backstore.IO{Op: op, Offset: offset, Length: n, FUA: seldom()})
						clear(model[offset : offset+n])
					},
					"flush": func(*rapid.T) {
						if seldom() {
							good(backstore.IO{Op: backstore.Flush})
						}
					},
					"status": func(rt *rapid.T) {
						offset, n := extent()
						io := good(backstore.IO{Op: backstore.Status, Offset: offset, Length: n})
						if io.MappedLength <= 0 || io.MappedLength > n {
							rt.Fatalf("status for %d of %d bytes", io.MappedLength, n)
						}
						if hole := model[offset : offset+io.MappedLength]; !io.Mapped && !bytes.Equal(hole, make([]byte, len(hole))) {
							rt.Fatal("data in a hole")
						}
					},
				})
				must(t, s.Close())
				if got, err := os.ReadFile(o.Path); err != nil || !bytes.Equal(got, model) {
					rt.Fatalf("file and model differ at the end (%v)", err)
				}
			})
		})
	}
}

func TestHolesAndGrowth(t *testing.T) {
	path := scratch(t, 1<<20)
	s, err := Open(backstore.Options{Path: path})
	must(t, err)
	data := bytes.Repeat([]byte{1}, 1<<20)
	if io := do(s, backstore.IO{Op: backstore.Write, Data: data}); io.Err != nil {
		t.Fatal(io.Err)
	}
	if io := do(s, backstore.IO{Op: backstore.Unmap, Offset: 64 << 10, Length: 64 << 10}); io.Err != nil {
		t.Fatal(io.Err)
	}
	for _, c := range []struct {
		offset, length int64
		mapped         bool
	}{{0, 64 << 10, true}, {64 << 10, 64 << 10, false}, {96 << 10, 32 << 10, false}, {128 << 10, 896 << 10, true}} {
		io := do(s, backstore.IO{Op: backstore.Status, Offset: c.offset, Length: 1<<20 - c.offset})
		if io.Err != nil || io.Mapped != c.mapped || io.MappedLength != c.length {
			t.Errorf("at %d: mapped %v for %d, want %v for %d (%v)", c.offset, io.Mapped, io.MappedLength, c.mapped, c.length, io.Err)
		}
	}
	must(t, os.Truncate(path, 3<<20))
	if info := s.Info(); info.Bytes != 3<<20 || info.PhysicalSize <= 0 || !info.Thin || info.Ordered || info.ReadOnly || info.Durable {
		t.Errorf("%+v", info)
	}
	if io := do(s, backstore.IO{Op: backstore.Status, Offset: 2 << 20, Length: 1 << 20}); io.Mapped || io.MappedLength != 1<<20 {
		t.Errorf("the new part: mapped %v for %d", io.Mapped, io.MappedLength)
	}
	must(t, s.Close())
	must(t, s.Close())
	if io := do(s, backstore.IO{Op: backstore.Write, Data: data[:512]}); io.Err == nil {
		t.Error("a write after Close")
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	must(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	for path, want := range map[string]error{
		"": unix.ENOENT, filepath.Join(dir, "nothing"): unix.ENOENT, dir: backstore.ErrOption,
		filepath.Join(dir, "fifo"): backstore.ErrOption, "/dev/zero": backstore.ErrOption,
	} {
		if _, err := Open(backstore.Options{Path: path}); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", path, err, want)
		}
	}
	if _, err := Open(backstore.Options{Path: filepath.Join(dir, "file"), Options: "x=y"}); !errors.Is(err, backstore.ErrOption) {
		t.Errorf("with options: %v", err)
	}
	s, err := Open(backstore.Options{Path: filepath.Join(dir, "file")})
	must(t, err)
	if n := s.Info().Bytes; n != 0 {
		t.Errorf("an empty file has %d bytes", n)
	}
	must(t, s.Close())
}

// TestReadOnly opens something that the system gives for reading only, even to root.
func TestReadOnly(t *testing.T) {
	path := "/sys/kernel/uevent_seqnum"
	if os.Getuid() != 0 {
		path = scratch(t, 4096)
		must(t, os.Chmod(path, 0o400))
	}
	s, err := Open(backstore.Options{Path: path})
	must(t, err)
	if !s.Info().ReadOnly {
		t.Error("not marked as read-only")
	}
	for _, op := range []backstore.Op{backstore.Write, backstore.Flush, backstore.Unmap, backstore.WriteZeroes} {
		if io := do(s, backstore.IO{Op: op, Data: make([]byte, 512)}); !errors.Is(io.Err, backstore.ErrReadOnly) {
			t.Errorf("operation %d: %v", op, io.Err)
		}
	}
	must(t, s.Close())
}

// faulty is a file in memory with the faults of a real one.
type faulty struct {
	mu       sync.Mutex
	data     []byte
	most     int                            // bytes a transfer moves; 0: all
	fail     func(call string, n int) error // n counts the calls of that name from 1
	calls    map[string]int
	syncing  chan struct{} // told of each sync that begins
	syncGate chan struct{} // a sync waits for one item
}

func newFaulty(size int) *faulty { return &faulty{data: make([]byte, size), calls: map[string]int{}} }

func (f *faulty) enter(call string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls[call]++
	if f.fail != nil {
		return f.fail(call, f.calls[call])
	}
	return nil
}

func (f *faulty) count(call string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[call]
}

func (f *faulty) move(call string, b []byte, offset int64, move func(part []byte)) (int, error) {
	if err := f.enter(call); err != nil {
		return -1, err
	}
	n := len(b)
	if f.most > 0 {
		n = min(n, f.most)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	n = max(0, min(n, len(f.data)-int(offset)))
	move(f.data[offset : int(offset)+n])
	return n, nil
}

func (f *faulty) pread(b []byte, offset int64) (int, error) {
	return f.move("pread", b, offset, func(part []byte) { copy(b, part) })
}
func (f *faulty) preadNoWait(b []byte, offset int64) (int, error) {
	return f.move("preadNoWait", b, offset, func(part []byte) { copy(b, part) })
}
func (f *faulty) pwrite(b []byte, offset int64) (int, error) {
	return f.move("pwrite", b, offset, func(part []byte) { copy(part, b) })
}
func (f *faulty) pwriteDurable(b []byte, offset int64) (int, error) {
	return f.move("pwriteDurable", b, offset, func(part []byte) { copy(part, b) })
}
func (f *faulty) sync() error {
	if f.syncing != nil {
		f.syncing <- struct{}{}
		<-f.syncGate
	}
	return f.enter("sync")
}
func (f *faulty) clear(call string, offset, length int64) error {
	if err := f.enter(call); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.data[offset : offset+length])
	return nil
}
func (f *faulty) punch(offset, length int64) error { return f.clear("punch", offset, length) }
func (f *faulty) zero(offset, length int64) error  { return f.clear("zero", offset, length) }
func (f *faulty) seekData(offset int64) (int64, error) {
	return offset, f.enter("seekData")
}
func (f *faulty) seekHole(int64) (int64, error) { return int64(len(f.data)), f.enter("seekHole") }
func (f *faulty) size() (int64, error)          { return int64(len(f.data)), f.enter("size") }
func (f *faulty) close() error                  { return f.enter("close") }

func TestShortAndInterrupted(t *testing.T) {
	f := newFaulty(1 << 20)
	f.most = 1000
	f.fail = func(call string, n int) error {
		if n%3 == 1 && (call == "pread" || call == "pwrite" || call == "pwriteDurable") {
			return unix.EINTR
		}
		if call == "preadNoWait" && n%2 == 1 {
			return unix.EAGAIN
		}
		return nil
	}
	s := newStore(f, 2)
	s.noWait.Store(true)
	want := make([]byte, 40000)
	for i := range want {
		want[i] = byte(i * 11)
	}
	for _, fua := range []bool{false, true} {
		if io := do(s, backstore.IO{Op: backstore.Write, Offset: 512, Data: want, FUA: fua}); io.Err != nil {
			t.Fatal(io.Err)
		}
		for range 4 { // nothing from the cache, then a part
			got := make([]byte, len(want))
			if io := do(s, backstore.IO{Op: backstore.Read, Offset: 512, Data: got}); io.Err != nil || !bytes.Equal(got, want) {
				t.Fatalf("read differs (%v)", io.Err)
			}
		}
		clear(f.data)
	}
	if io := do(s, backstore.IO{Op: backstore.Read, Offset: 1<<20 - 512, Data: make([]byte, 1024)}); io.Err == nil {
		t.Error("a read beyond the end")
	}
	must(t, s.Close())
}

func TestNoWaitIsGivenUp(t *testing.T) {
	f := newFaulty(4096)
	f.fail = func(call string, _ int) error {
		if call == "preadNoWait" {
			return unix.EOPNOTSUPP
		}
		return nil
	}
	s := newStore(f, 1)
	s.noWait.Store(true)
	for range 3 {
		if io := do(s, backstore.IO{Op: backstore.Read, Data: make([]byte, 512)}); io.Err != nil {
			t.Fatal(io.Err)
		}
	}
	if n := f.count("preadNoWait"); n != 1 {
		t.Errorf("tried %d times", n)
	}
	must(t, s.Close())
}

func TestFallbacks(t *testing.T) {
	f := newFaulty(3 << 20)
	f.fail = func(call string, _ int) error {
		if call == "punch" || call == "zero" || call == "seekData" {
			return unix.EOPNOTSUPP
		}
		return nil
	}
	s := newStore(f, 1)
	for _, op := range []backstore.Op{backstore.Unmap, backstore.WriteZeroes} {
		copy(f.data, bytes.Repeat([]byte{7}, len(f.data)))
		if io := do(s, backstore.IO{Op: op, Offset: 512, Length: 2<<20 + 512}); io.Err != nil {
			t.Fatal(io.Err)
		}
		want := bytes.Repeat([]byte{7}, len(f.data))
		clear(want[512 : 2<<20+1024])
		if !bytes.Equal(f.data, want) {
			t.Errorf("operation %d zeroed something else", op)
		}
	}
	if io := do(s, backstore.IO{Op: backstore.Status, Length: 4096}); io.Err != nil || !io.Mapped || io.MappedLength != 4096 {
		t.Errorf("status: %v for %d (%v)", io.Mapped, io.MappedLength, io.Err)
	}
	if io := do(s, backstore.IO{Op: backstore.CompareAndWrite, Length: 1, Data: make([]byte, 2)}); !errors.Is(io.Err, errors.ErrUnsupported) {
		t.Errorf("COMPARE AND WRITE: %v", io.Err)
	}
	must(t, s.Close())
}

func TestErrors(t *testing.T) {
	for errno, want := range map[unix.Errno]error{
		unix.ENOSPC: backstore.ErrNoSpace, unix.EDQUOT: backstore.ErrNoSpace, unix.EROFS: backstore.ErrReadOnly, unix.EIO: unix.EIO,
	} {
		f := newFaulty(4096)
		f.fail = func(call string, _ int) error {
			if call == "pwrite" {
				return errno
			}
			return nil
		}
		s := newStore(f, 1)
		for range 2 { // a failed write that was not to be durable does no harm to later ones
			if io := do(s, backstore.IO{Op: backstore.Write, Data: make([]byte, 512)}); !errors.Is(io.Err, want) || errors.Is(io.Err, ErrLost) {
				t.Errorf("%v: %v", errno, io.Err)
			}
		}
		if io := do(s, backstore.IO{Op: backstore.Read, Data: make([]byte, 512)}); io.Err != nil {
			t.Errorf("%v: reading: %v", errno, io.Err)
		}
		must(t, s.Close())
	}
}

// TestFailedSyncStopsWriting: what was not made durable may be lost for good, whatever a later sync says.
func TestFailedSyncStopsWriting(t *testing.T) {
	for _, call := range []string{"sync", "pwriteDurable"} {
		f := newFaulty(4096)
		f.fail = func(c string, n int) error {
			if c == call && n == 1 {
				return unix.EIO
			}
			return nil
		}
		s := newStore(f, 1)
		first := backstore.IO{Op: backstore.Flush}
		if call == "pwriteDurable" {
			first = backstore.IO{Op: backstore.Write, Data: make([]byte, 512), FUA: true}
		}
		if io := do(s, first); !errors.Is(io.Err, unix.EIO) {
			t.Fatalf("%s: %v", call, io.Err)
		}
		for _, op := range []backstore.Op{backstore.Write, backstore.Flush, backstore.Unmap, backstore.WriteZeroes} {
			if io := do(s, backstore.IO{Op: op, Data: make([]byte, 512)}); !errors.Is(io.Err, ErrLost) {
				t.Errorf("%s, then operation %d: %v", call, op, io.Err)
			}
		}
		if io := do(s, backstore.IO{Op: backstore.Read, Data: make([]byte, 512)}); io.Err != nil {
			t.Errorf("%s, then reading: %v", call, io.Err)
		}
		must(t, s.Close())
	}
}

func TestFullDiskDoesNotStopWriting(t *testing.T) {
	f := newFaulty(4096)
	f.fail = func(c string, n int) error {
		if c == "sync" && n == 1 {
			return unix.ENOSPC
		}
		return nil
	}
	s := newStore(f, 1)
	if io := do(s, backstore.IO{Op: backstore.Flush}); !errors.Is(io.Err, backstore.ErrNoSpace) {
		t.Errorf("first: %v", io.Err)
	}
	if io := do(s, backstore.IO{Op: backstore.Flush}); io.Err != nil {
		t.Errorf("second: %v", io.Err)
	}
	must(t, s.Close())
}

// TestSyncsAreShared: requests that arrive during a sync share the next one.
func TestSyncsAreShared(t *testing.T) {
	f := newFaulty(1 << 20)
	f.syncing, f.syncGate = make(chan struct{}, 100), make(chan struct{}, 100)
	s := newStore(f, 4)
	first := start(s, backstore.IO{Op: backstore.Flush})
	<-f.syncing
	var rest []<-chan *backstore.IO
	for i := range 20 {
		rest = append(rest, start(s, backstore.IO{Op: backstore.Write, Offset: int64(i) * 512, Data: bytes.Repeat([]byte{1}, 512), FUA: true}))
	}
	// Three workers are free to write; all must have written before the group can be one.
	for f.count("pwrite") < 20 {
		if f.count("pwriteDurable") > 0 {
			t.Fatal("a durable write of its own while a sync runs")
		}
		runtime.Gosched()
	}
	waiting := func() int {
		s.group.mu.Lock()
		defer s.group.mu.Unlock()
		return len(s.group.waiting)
	}
	for waiting() < 20 {
		runtime.Gosched()
	}
	f.syncGate <- struct{}{}
	if io := <-first; io.Err != nil {
		t.Error(io.Err)
	}
	f.syncGate <- struct{}{}
	for _, done := range rest {
		if io := <-done; io.Err != nil {
			t.Error(io.Err)
		}
	}
	if n := f.count("sync"); n != 2 {
		t.Errorf("%d syncs for 21 requests", n)
	}
	f.syncGate <- struct{}{} // Close syncs
	must(t, s.Close())
}

// TestQueueIsBounded: with all workers busy and the queue full, Submit waits.
func TestQueueIsBounded(t *testing.T) {
	f := newFaulty(1 << 20)
	f.syncing, f.syncGate = make(chan struct{}, 4), make(chan struct{}, 4)
	s := newStore(f, 1)
	dones := []<-chan *backstore.IO{start(s, backstore.IO{Op: backstore.Flush})}
	<-f.syncing // the only worker is busy
	for range QueueLimit {
		dones = append(dones, start(s, backstore.IO{Op: backstore.Write, Data: make([]byte, 512)}))
	}
	last := make(chan (<-chan *backstore.IO))
	go func() { last <- start(s, backstore.IO{Op: backstore.Write, Data: make([]byte, 512)}) }()
	select {
	case <-last:
		t.Fatal("Submit took more than the queue holds")
	default:
	}
	f.syncGate <- struct{}{}
	for _, done := range append(dones, <-last) {
		if io := <-done; io.Err != nil {
			t.Error(io.Err)
		}
	}
	f.syncGate <- struct{}{}
	must(t, s.Close())
}

// TestManyAtOnce checks that each request gets its own data, and none is forgotten.
func TestManyAtOnce(t *testing.T) {
	s, err := Open(backstore.Options{Path: scratch(t, 8<<20), Threads: 4})
	must(t, err)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for n := range 100 {
				offset := int64(g<<20 + n*4096)
				data := bytes.Repeat([]byte{byte(g*31 + n)}, 4096)
				if io := do(s, backstore.IO{Op: backstore.Write, Offset: offset, Data: data, FUA: n%10 == 0}); io.Err != nil {
					t.Error(io.Err)
				}
				got := make([]byte, 4096)
				if io := do(s, backstore.IO{Op: backstore.Read, Offset: offset, Data: got}); io.Err != nil || !slices.Equal(got, data) {
					t.Errorf("read differs (%v)", io.Err)
				}
			}
		})
	}
	wg.Wait()
	must(t, s.Close())
}

// TestNoAllocations checks the read that the page cache answers, and the hop to a worker.
func TestNoAllocations(t *testing.T) {
	s, err := Open(backstore.Options{Path: scratch(t, 1<<20)})
	must(t, err)
	done := make(chan error, 1)
	io := &backstore.IO{Data: make([]byte, 4096), Length: 4096, Done: func(io *backstore.IO) { done <- io.Err }}
	for _, op := range []backstore.Op{backstore.Write, backstore.Read} {
		io.Op = op
		n := testing.AllocsPerRun(100, func() {
			s.Submit(io)
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
		if n > 0.5 {
			t.Errorf("operation %d: %v allocations", op, n)
		}
	}
	must(t, s.Close())
}

// TestStateIsKept: with a folder for it the store keeps the state of its unit, across being opened anew.
func TestStateIsKept(t *testing.T) {
	path, dir := filepath.Join(t.TempDir(), "disk"), t.TempDir()
	if err := os.WriteFile(path, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	for n, stateDir := range []string{"", dir, dir} {
		s, err := Open(backstore.Options{Path: path, StateDir: stateDir})
		if err != nil {
			t.Fatal(err)
		}
		keeps := s.Info().Keeps
		if stateDir == "" {
			if keeps != backstore.KeepsNothing {
				t.Error("keeps without a folder")
			}
		} else {
			k := s.(backstore.StateKeeper)
			value, version, err := k.LoadState(t.Context())
			if keeps != backstore.KeepsOnDemand || err != nil || version != uint64(n-1) || n == 2 && string(value) != "state" {
				t.Errorf("%v, %q, %d, %v", keeps, value, version, err)
			}
			if _, err := k.SaveState(t.Context(), []byte("state"), version); err != nil {
				t.Error(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

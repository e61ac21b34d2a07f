package pss

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
	"github.com/paxos-iscsi/paxos-iscsi/pss/psstest"
	"github.com/paxos-iscsi/paxos-iscsi/pss/wire"
)

// do submits a request to v and waits for it.
func do(v *Volume, r Request) *Request {
	done := make(chan struct{})
	r.Done = func(*Request) { close(done) }
	v.Submit(&r)
	<-done
	return &r
}

func pattern(n int, seed uint64) []byte {
	b := make([]byte, n)
	rng := rand.New(rand.NewPCG(seed, 1))
	for i := 0; i+8 <= n; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], rng.Uint64())
	}
	return b
}

func TestVolumeAgainstMemory(t *testing.T) {
	f := psstest.New(t, 3)
	f.Elect(1)
	c := open(t, f, quick())
	const size = 8 << 20
	v := volume(t, c, "vol", size)
	model := make([]byte, size)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 150 {
		off := rng.Int64N(size/512) * 512
		n := min(rng.Int64N(6000)*512+512, size-off)
		switch rng.IntN(6) {
		case 0, 1:
			data := pattern(int(n), uint64(i))
			copy(model[off:], data)
			if r := do(v, Request{Op: Write, Offset: off, Data: data}); r.Err != nil {
				t.Fatal(r.Err)
			}
		case 2, 3:
			data := make([]byte, n)
			if r := do(v, Request{Op: Read, Offset: off, Data: data}); r.Err != nil || !bytes.Equal(data, model[off:off+n]) {
				t.Fatalf("read of %d at %d differs: %v", n, off, r.Err)
			}
		case 4:
			clear(model[off : off+n])
			if r := do(v, Request{Op: Op(int(Unmap) + rng.IntN(2)), Offset: off, Length: n}); r.Err != nil {
				t.Fatal(r.Err)
			}
		case 5:
			n = min(n, op.MaxPayload/2)
			data := append(bytes.Clone(model[off:off+n]), pattern(int(n), uint64(i))...)
			wrong := rng.IntN(2) * rng.IntN(int(n))
			data[wrong] ^= byte(min(wrong, 1))
			r := do(v, Request{Op: CompareAndWrite, Offset: off, Data: data})
			if wrong > 0 {
				if !errors.Is(r.Err, ErrMiscompare) || r.Miscompare != int64(wrong) {
					t.Fatalf("%v at %d, want %d", r.Err, r.Miscompare, wrong)
				}
				continue
			}
			copy(model[off:], data[n:])
			if r.Err != nil {
				t.Fatal(r.Err)
			}
		}
	}
	for name, r := range map[string]Request{
		"read":     {Op: Read, Offset: size - 512, Data: make([]byte, 1024)},
		"write":    {Op: Write, Offset: size - 512, Data: make([]byte, 1024)},
		"unmap":    {Op: Unmap, Offset: size, Length: 512},
		"far":      {Op: Write, Offset: size << 10, Data: make([]byte, 3<<20)},
		"far read": {Op: Read, Offset: size << 10, Data: make([]byte, 3<<20)},
	} {
		if r := do(v, r); !errors.Is(r.Err, ErrOutOfRange) {
			t.Errorf("%s beyond the end: %v", name, r.Err)
		}
	}
	for name, r := range map[string]Request{
		"offset": {Op: Read, Offset: -1, Data: make([]byte, 512)},
		"length": {Op: Unmap, Length: -1},
		"odd":    {Op: CompareAndWrite, Data: make([]byte, 1023)},
		"large":  {Op: CompareAndWrite, Data: make([]byte, op.MaxPayload+2)},
		"op":     {Op: 0},
		"inner":  {Op: opPropose},
		"huge":   {Op: Unmap, Length: op.MaxVolume + 1},
	} {
		if r := do(v, r); !errors.Is(r.Err, op.Invalid) {
			t.Errorf("invalid %s: %v", name, r.Err)
		}
	}
	for _, o := range []Op{Read, Write, CompareAndWrite, Unmap, WriteZeroes, Flush} {
		if r := do(v, Request{Op: o}); r.Err != nil {
			t.Errorf("nothing with %d: %v", o, r.Err)
		}
	}
}

func TestLongZeroesAreSplit(t *testing.T) {
	for _, o := range []Op{Unmap, WriteZeroes} {
		r := &Request{Op: o, total: 2*op.MaxZeroes + 512}
		var sizes []int
		for r.issued < r.total {
			n, cost := r.piece()
			if cost != 0 {
				t.Fatalf("%d bytes cost %d", n, cost)
			}
			sizes = append(sizes, n)
			r.issued += int64(n)
		}
		if !slices.Equal(sizes, []int{op.MaxZeroes, op.MaxZeroes, 512}) {
			t.Fatalf("%v", sizes)
		}
	}
}

func TestFencing(t *testing.T) {
	f := psstest.New(t, 3)
	f.Elect(0)
	c, d := open(t, f, quick()), open(t, f, quick())
	v := volume(t, c, "vol", 1<<20)
	if _, err := v.WriteAt(make([]byte, 512), 0); err != nil {
		t.Fatal(err)
	}
	w, err := d.OpenVolume(t.Context(), "vol")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.WriteAt(make([]byte, 512), 0); !errors.Is(err, ErrFenced) {
		t.Fatalf("the first opener still writes: %v", err)
	}
	if _, err := w.WriteAt(make([]byte, 512), 0); err != nil {
		t.Fatal(err)
	}
	if err := d.GrowVolume(t.Context(), "vol", 2<<20); err != nil {
		t.Fatal(err)
	}
	if n, err := w.Refresh(t.Context()); err != nil || n != 2<<20 || w.Size() != 2<<20 {
		t.Fatalf("%d bytes after growing, %v", n, err)
	}
}

func TestTree(t *testing.T) {
	f := psstest.New(t, 3)
	f.Elect(2)
	c := open(t, f, quick())
	ctx := t.Context()
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	fails := func(err, want error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Fatalf("%v, want %v", err, want)
		}
	}
	ok(c.Mkdir(ctx, "d"))
	for _, name := range []string{"d/a", "d/b", "d/c", "d/d", "d/e"} {
		_, err := c.Create(ctx, name)
		ok(err)
	}
	_, err := c.Create(ctx, "d/a")
	fails(err, ErrExists)
	ok(c.Delete(ctx, "d/b"))
	fails(c.Delete(ctx, "d/b"), ErrNotFound)
	ok(c.Rename(ctx, "d/c", "d/z"))
	fails(c.Rename(ctx, "d/c", "d/z"), ErrNotFound)
	nodes, err := c.ReadDir(ctx, "d")
	ok(err)
	var names []string
	for _, n := range nodes {
		names = append(names, n.Name)
	}
	if got := strings.Join(names, " "); got != "a d e z" {
		t.Fatal(got)
	}
	_, err = c.Stat(ctx, "nothing")
	fails(err, ErrNotFound)
	fails(c.Rmdir(ctx, "nothing"), ErrNotFound)
	fails(c.Mkdir(ctx, strings.Repeat("x", op.MaxPath+1)), op.Invalid)
	_, err = c.Stat(ctx, strings.Repeat("x", op.MaxPath+1))
	fails(err, op.Invalid)
	ok(c.Rmdir(ctx, "d"))

	ok(c.CreateVolume(ctx, "v", 1<<20))
	ok(c.CreateVolume(ctx, "v", 1<<20))
	err = c.CreateVolume(ctx, "v", 2<<20)
	fails(err, ErrExists)
	var size *SizeError
	if !errors.As(err, &size) || size.Have != 1<<20 || size.Asked != 2<<20 || !strings.Contains(err.Error(), "1048576") {
		t.Fatalf("%v", err)
	}
	fails(c.CreateVolume(ctx, "w", 0), op.Invalid)
	fails(c.CreateVolume(ctx, "w", op.MaxVolume+1), op.Invalid)
	fails(c.GrowVolume(ctx, "v", 1), op.Invalid)
	fails(c.GrowVolume(ctx, "v", 0), op.Invalid)
	_, err = c.OpenVolume(ctx, "d/a")
	fails(err, ErrKind)
	ok(c.DeleteVolume(ctx, "v"))
	_, err = c.OpenVolume(ctx, "v")
	fails(err, ErrNotFound)
}

func TestFiles(t *testing.T) {
	f := psstest.New(t, 3)
	f.Elect(2)
	c := open(t, f, quick())
	ctx := t.Context()
	for _, n := range []int{0, 1, 5000, fileChunk, 5*fileChunk + 3000, 100} {
		data := pattern(n, uint64(n))
		if m, err := c.WriteFile(ctx, "file", iotest.HalfReader(bytes.NewReader(data))); err != nil || m != int64(n) {
			t.Fatalf("wrote %d of %d: %v", m, n, err)
		}
		var back bytes.Buffer
		if m, err := c.ReadFile(ctx, "file", &back); err != nil || m != int64(n) || !bytes.Equal(back.Bytes(), data) {
			t.Fatalf("read %d of %d: %v", m, n, err)
		}
	}
	node, err := c.Stat(ctx, "file")
	if err != nil || node.Bytes != 100 {
		t.Fatalf("%+v, %v", node, err)
	}
	p := make([]byte, 80)
	if n, err := c.ReadObject(ctx, node.Object, p, 50); n != 50 || err != io.EOF || !bytes.Equal(p[:50], pattern(100, 100)[50:]) {
		t.Fatalf("%d, %v", n, err)
	}
	if err := c.Truncate(ctx, "file", 60); err != nil {
		t.Fatal(err)
	}
	if node, err = c.Stat(ctx, "file"); err != nil || node.Bytes != 60 {
		t.Fatalf("%+v, %v", node, err)
	}
	volume(t, c, "vol", 1<<20)
	if _, err := c.ReadFile(ctx, "vol", io.Discard); !errors.Is(err, ErrKind) {
		t.Fatal(err)
	}
	if _, err := c.WriteFile(ctx, "vol", strings.NewReader("x")); !errors.Is(err, ErrKind) {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	if _, err := c.WriteFile(ctx, "file", iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Fatal(err)
	}
}

// TestExactlyOnceThroughAnything has writers count in their blocks while the cell does to every few operations
// whatever it may. A count that is executed twice or out of order, or lost, shows: the test's cell
// watches the order of execution, CompareAndWrite from n to n+1 succeeds only once, and what is read back
// must be what was last written.
func TestExactlyOnceThroughAnything(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			f := psstest.New(t, 3)
			rng := rand.New(rand.NewPCG(seed, 7))
			f.Judge = func(o *op.Op) psstest.Verdict {
				if rng.IntN(12) != 0 {
					return psstest.Answer
				}
				return psstest.Verdict(rng.IntN(psstest.Verdicts))
			}
			f.Rotten = 3
			f.Elect(0)
			c := open(t, f, quick())
			const writers, rounds, depth = 4, 12, 8
			v := volume(t, c, "vol", writers*depth*4096)
			var wg sync.WaitGroup
			for w := range writers {
				wg.Go(func() {
					if err := count(v, int64(w*depth*4096), depth, rounds); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			f.Lock()
			defer f.Unlock()
			for b := range writers * depth {
				if n := binary.LittleEndian.Uint64(f.Names["vol"].Data[b*4096:]); n != 3*rounds {
					t.Errorf("block %d counted to %d, want %d", b, n, 3*rounds)
				}
			}
		})
	}
}

// count advances the number in each of depth blocks from base by three in each round: two writes that are
// submitted without waiting, which have to take effect in order, and a CompareAndWrite behind them.
func count(v *Volume, base int64, depth, rounds int) error {
	number := func(n int) []byte { return binary.LittleEndian.AppendUint64(make([]byte, 0, 512), uint64(n))[:512] }
	for round := range rounds {
		var wg sync.WaitGroup
		var failed atomic.Pointer[Request]
		submit := func(r *Request) {
			wg.Add(1)
			r.Done = func(r *Request) {
				if r.Err != nil {
					failed.Store(r)
				}
				wg.Done()
			}
			v.Submit(r)
		}
		n := 3 * round
		for b := range depth {
			off := base + int64(b)*4096
			submit(&Request{Op: Write, Offset: off, Data: number(n + 1)})
			submit(&Request{Op: Write, Offset: off, Data: number(n + 2)})
			submit(&Request{Op: CompareAndWrite, Offset: off, Data: append(number(n+2), number(n+3)...)})
		}
		submit(&Request{Op: Flush})
		wg.Wait()
		if r := failed.Load(); r != nil {
			return fmt.Errorf("round %d, %v at %d: %w", round, r.Op, r.Offset, r.Err)
		}
		for b := range depth {
			got := make([]byte, 512)
			if _, err := v.ReadAt(got, base+int64(b)*4096); err != nil {
				return err
			}
			if !bytes.Equal(got, number(n+3)) {
				return fmt.Errorf("round %d, block %d: read %x", round, b, got[:8])
			}
		}
	}
	return nil
}

// TestHungMaster: the master stops without a word, as after SIGSTOP; the news of another one are enough.
func TestHungMaster(t *testing.T) {
	f := psstest.New(t, 3)
	f.Elect(0)
	c := open(t, f, quick())
	v := volume(t, c, "vol", 1<<20)
	f.Pause(0)
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Add(1)
		v.Submit(&Request{Op: Write, Offset: int64(i) * 512, Data: pattern(512, uint64(i)), Done: func(r *Request) {
			if r.Err != nil {
				t.Error(r.Err)
			}
			wg.Done()
		}})
	}
	f.Elect(1)
	wg.Wait()
	f.Elect(2)
	f.Resume(0)
	f.Elect(0)
	got := make([]byte, 512)
	if _, err := v.ReadAt(got, 49*512); err != nil || !bytes.Equal(got, pattern(512, 49)) {
		t.Fatalf("%v", err)
	}
}

// TestVanishedMachine: nothing comes from the master and nobody says anything either. The connection is
// given up, and made again when the machine is back.
func TestVanishedMachine(t *testing.T) {
	f := psstest.New(t, 3)
	f.Elect(0)
	o := quick()
	o.Silence = 50 * time.Millisecond
	o.DialTimeout = 50 * time.Millisecond
	c := open(t, f, o)
	v := volume(t, c, "vol", 1<<20)
	f.Pause(0)
	done := make(chan error, 1)
	v.Submit(&Request{Op: Write, Data: pattern(512, 1), Done: func(r *Request) { done <- r.Err }})
	until(t, "the connection is given up", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.active == nil
	})
	f.Resume(0)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	// The others were silent too, but answered the pings.
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.peers[1:] {
		if p.err != nil {
			t.Errorf("server %d was given up: %v", p.server.ID, p.err)
		}
	}
}

// TestTimeout: a write that was given up, and is still in the old master's hands, must not take effect
// after one that was submitted later.
func TestTimeout(t *testing.T) {
	f := psstest.New(t, 3)
	f.Elect(0)
	o := quick()
	c := open(t, f, o)
	v := volume(t, c, "vol", 1<<20)
	v.SetTimeout(2 * o.Ping)
	f.Pause(0)
	submit := func(r *Request) <-chan error {
		done := make(chan error, 1)
		r.Done = func(r *Request) { done <- r.Err }
		v.Submit(r)
		return done
	}
	first := pattern(512, 1)
	var all []<-chan error
	all = append(all, submit(&Request{Op: Write, Data: first}), submit(&Request{Op: Flush}), submit(&Request{Op: Read, Data: make([]byte, 512)}))
	all = append(all, submit(&Request{Op: Write, Data: make([]byte, 2<<20)}))
	for i, done := range all {
		if err := <-done; !errors.Is(err, ErrTimeout) {
			t.Fatalf("request %d: %v", i, err)
		}
	}
	clear(first) // it is ours again
	v.SetTimeout(0)
	second := pattern(512, 2)
	done := submit(&Request{Op: Write, Data: second})
	f.Elect(1)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	f.Resume(0)
	f.Elect(0)
	got := make([]byte, 512)
	if _, err := v.ReadAt(got, 0); err != nil || !bytes.Equal(got, second) {
		t.Fatalf("read %x, %v", got[:8], err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.deadlines != 0 || c.calls != 0 || c.queued != 0 || c.inflight != 0 {
		t.Fatalf("left: %d deadlines, %d calls, %d queued, %d bytes", c.deadlines, c.calls, c.queued, c.inflight)
	}
}

func TestErrorsOfWaiting(t *testing.T) {
	f := psstest.New(t, 3)
	for i := range 3 {
		f.Stop(i)
	}
	c := open(t, f, quick())
	refused := func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return !slices.ContainsFunc(c.peers, func(p *peer) bool { return p.err == nil })
	}
	until(t, "all servers refuse", refused)
	now, cancel := context.WithCancel(t.Context())
	cancel()
	err := c.Mkdir(now, "d")
	if !errors.Is(err, ErrUnreachable) || !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "refused") {
		t.Fatal(err)
	}
	for i := range 3 {
		f.Start(i)
	}
	until(t, "all are connected", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.connected() == 3
	})
	if err := c.Mkdir(now, "d"); !errors.Is(err, ErrNoMaster) || strings.Contains(err.Error(), "may have") {
		t.Fatal(err)
	}
	if _, err := c.Stat(now, "d"); !errors.Is(err, ErrNoMaster) {
		t.Fatal(err)
	}
	f.Elect(0)
	if err := c.Mkdir(t.Context(), "e"); err != nil {
		t.Fatal(err)
	}
	// What was never sent must not take effect later.
	if _, err := c.Stat(t.Context(), "d"); !errors.Is(err, ErrNotFound) {
		t.Fatal(err)
	}
	f.Pause(0)
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() { failed <- c.Mkdir(ctx, "f") }()
	until(t, "the request is sent", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.calls == 1 && c.first.tag != 0
	})
	cancel()
	if err := <-failed; err == nil || !strings.Contains(err.Error(), "server 0, has not answered") || !strings.Contains(err.Error(), "may have") {
		t.Fatal(err)
	}
	f.Resume(0)
	if err := c.Mkdir(t.Context(), "g"); err != nil {
		t.Fatal(err)
	}
	// The master is known, but not to be reached.
	f.Stop(0)
	until(t, "the master is gone", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.peers[0].conn == nil && strings.Contains(fmt.Sprint(c.peers[0].err), "refused")
	})
	if err := c.Mkdir(now, "h"); !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "that is master (server 0: dial") {
		t.Fatal(err)
	}
	f.Start(0)
}

func TestWrongServer(t *testing.T) {
	f := psstest.New(t, 3)
	f.Lock()
	f.Claims = 5
	f.Unlock()
	c := open(t, f, quick())
	until(t, "all greetings failed", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return !slices.ContainsFunc(c.peers, func(p *peer) bool { return p.err == nil })
	})
	now, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Mkdir(now, "d"); !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "with protocol 1 answers at 127.0.0.1:") {
		t.Fatal(err)
	}
}

// TestSessionLost: the cell forgot the session. What had been sent before fails, the rest goes on under
// a new session.
func TestSessionLost(t *testing.T) {
	f := psstest.New(t, 3)
	f.Elect(0)
	c := open(t, f, quick())
	v := volume(t, c, "vol", 1<<20)
	// Nothing under way: nobody notices.
	f.Lock()
	clear(f.Sessions)
	f.Unlock()
	if _, err := v.WriteAt(make([]byte, 512), 0); err != nil {
		t.Fatal(err)
	}
	// A write that was executed, whose answer was lost with the connection, and then the session too. The
	// cell would do it again, so it must not come again.
	f.Lock()
	f.Judge = func(o *op.Op) psstest.Verdict {
		f.Judge = nil
		f.Sessions[o.Session] = &psstest.Session{Epoch: 1 << 30, Acked: 1, Done: map[uint64]op.Result{}}
		return psstest.DropBefore
	}
	f.Unlock()
	if _, err := v.WriteAt(make([]byte, 512), 0); !errors.Is(err, ErrSessionLost) {
		t.Fatal(err)
	}
	if _, err := v.WriteAt(make([]byte, 512), 0); err != nil {
		t.Fatal(err)
	}
}

func TestSessionRefused(t *testing.T) {
	f := psstest.New(t, 3)
	f.Lock()
	f.TooMany = true
	f.Unlock()
	f.Elect(0)
	c := open(t, f, quick())
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() { failed <- c.Mkdir(ctx, "d") }()
	until(t, "the session is refused", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.refusal != nil
	})
	cancel()
	if err := <-failed; !errors.Is(err, op.TooMany) {
		t.Fatal(err)
	}
	f.Lock()
	f.TooMany = false
	f.Unlock()
	if err := c.Mkdir(t.Context(), "d"); err != nil {
		t.Fatal(err)
	}
}

func TestCloseEndsTheSession(t *testing.T) {
	f := psstest.New(t, 3)
	f.Elect(0)
	c := open(t, f, quick())
	v := volume(t, c, "vol", 1<<20)
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := v.WriteAt(make([]byte, 512), 0); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	w, err := c.OpenVolume(t.Context(), "vol")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	f.Lock()
	if len(f.Sessions) != 0 {
		t.Errorf("%d sessions are left", len(f.Sessions))
	}
	f.Unlock()
	if _, err := w.WriteAt(make([]byte, 512), 0); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	if err := c.Mkdir(t.Context(), "d"); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestCloseWithRequests: what is under way fails when the Cell is closed without a master, and a Volume's
// Close does not wait for ever either.
func TestCloseWithRequests(t *testing.T) {
	f := psstest.New(t, 3)
	f.Elect(0)
	o := quick()
	o.CloseTimeout = 30 * time.Millisecond
	c := open(t, f, o)
	v, w := volume(t, c, "v", 1<<20), volume(t, c, "w", 1<<20)
	for i := range 3 {
		f.Stop(i)
	}
	var failed [3]atomic.Int32
	submit := func(v *Volume, r *Request) {
		r.Done = func(r *Request) {
			switch {
			case errors.Is(r.Err, ErrTimeout):
				failed[0].Add(1)
			case errors.Is(r.Err, ErrClosed):
				failed[1].Add(1)
			default:
				failed[2].Add(1)
			}
		}
		v.Submit(r)
	}
	for range 5 {
		for _, v := range []*Volume{v, w} {
			submit(v, &Request{Op: Write, Data: make([]byte, 512<<10)})
			submit(v, &Request{Op: Read, Data: make([]byte, 512)})
			submit(v, &Request{Op: Flush})
		}
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if failed[0].Load() != 15 || failed[1].Load() != 15 || failed[2].Load() != 0 {
		t.Fatalf("%d timed out, %d closed, %d otherwise", failed[0].Load(), failed[1].Load(), failed[2].Load())
	}
	for i := range 3 {
		f.Start(i)
	}
}

func TestLimits(t *testing.T) {
	f := psstest.New(t, 3)
	f.Elect(0)
	o := quick()
	o.MaxInflightBytes = 1 << 20
	o.MaxQueued = 20
	c := open(t, f, o)
	v := volume(t, c, "vol", 8<<20)
	hold := make(chan struct{})
	f.Lock()
	f.Hold = hold
	f.Unlock()
	var ok, full atomic.Int32
	var wg sync.WaitGroup
	for i := range 30 {
		wg.Add(1)
		v.Submit(&Request{Op: Write, Offset: int64(i) << 18, Data: make([]byte, 1<<18), Done: func(r *Request) {
			switch {
			case r.Err == nil:
				ok.Add(1)
			case errors.Is(r.Err, ErrQueueFull):
				full.Add(1)
			default:
				t.Error(r.Err)
			}
			wg.Done()
		}})
		c.mu.Lock()
		if c.inflight > 1<<20 || c.queued > 20 {
			t.Errorf("%d bytes under way, %d requests queued", c.inflight, c.queued)
		}
		c.mu.Unlock()
	}
	close(hold)
	wg.Wait()
	if ok.Load() != 24 || full.Load() != 6 { // 4 of 256 KiB under way, 20 queued
		t.Errorf("%d done, %d refused", ok.Load(), full.Load())
	}
}

// TestManyOperations: more than op.Window wait for the answer of one; the test's cell complains of numbers
// outside the window.
func TestManyOperations(t *testing.T) {
	f := psstest.New(t, 3)
	f.Elect(0)
	c := open(t, f, quick())
	v := volume(t, c, "vol", 1<<20)
	hold := make(chan struct{})
	f.Lock()
	f.Hold = hold
	f.Unlock()
	var wg sync.WaitGroup
	buf := make([]byte, 512)
	for i := range 3 * op.Window {
		wg.Add(1)
		v.Submit(&Request{Op: Write, Offset: int64(i%100) * 512, Data: buf, Done: func(r *Request) {
			if r.Err != nil {
				t.Error(r.Err)
			}
			wg.Done()
		}})
	}
	c.mu.Lock()
	if c.calls != op.Window || c.queued != 2*op.Window {
		t.Errorf("%d calls, %d queued", c.calls, c.queued)
	}
	c.mu.Unlock()
	close(hold)
	wg.Wait()
}

// TestSubmitFromDone: a completion may submit, whatever limits are reached.
func TestSubmitFromDone(t *testing.T) {
	f := psstest.New(t, 3)
	f.Elect(0)
	o := quick()
	o.MaxInflightBytes = 4096
	c := open(t, f, o)
	v := volume(t, c, "vol", 1<<20)
	done := make(chan struct{})
	var left atomic.Int32
	left.Store(400)
	for i := range 4 {
		r := &Request{Op: Write, Offset: int64(i) * 4096, Data: make([]byte, 4096)}
		r.Done = func(r *Request) {
			switch n := left.Add(-1); {
			case r.Err != nil:
				t.Error(r.Err)
			case n == 0:
				close(done)
			case n > 0:
				v.Submit(r)
			}
		}
		v.Submit(r)
	}
	<-done
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
}

// echo is a server that answers every write with success and every read with data, without any memory of
// its own, so that allocations of the client can be counted.
func echo(t *testing.T) *cell.Config {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { l.Close(); wg.Wait() })
	m := wire.Master{Term: 1, Master: 0}
	serve := func(nc net.Conn) {
		defer nc.Close()
		r, w := wire.NewReader(nc), wire.NewWriter(nc)
		data, body := make([]byte, 4096), make([]byte, 64<<10)
		sum := op.Sum(data)
		sums := []byte{byte(sum), byte(sum >> 8), byte(sum >> 16), byte(sum >> 24)}
		for {
			h, err := r.Next()
			if err == nil {
				err = r.Body(body[:h.Size])
			}
			if err != nil {
				return
			}
			switch h.Kind {
			case wire.KindHello:
				err = w.HelloReply(wire.HelloReply{Master: m, Protocol: wire.Protocol})
			case wire.KindPropose:
				err = w.Result(h.Tag, op.Result{Value: 1 << 30, Object: 1, Token: 1})
			case wire.KindRead:
				err = w.ReadReply(h.Tag, op.OK, sums, data)
			}
			if err != nil {
				t.Error(err)
			}
			if r.Buffered() == 0 && w.Flush() != nil {
				return
			}
		}
	}
	wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { serve(nc) })
		}
	})
	return &cell.Config{Servers: []cell.Server{{ID: 0, Host: "127.0.0.1", TCPPort: l.Addr().(*net.TCPAddr).Port}}}
}

func TestNoAllocationPerRequest(t *testing.T) {
	o := quick()
	o.Ping = time.Hour
	c, err := Open(echo(t), o)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	v, err := c.OpenVolume(t.Context(), "vol")
	if err != nil {
		t.Fatal(err)
	}
	for _, depth := range []int{1, 16} {
		done := make(chan struct{}, depth)
		reqs := make([]Request, depth)
		for i := range reqs {
			reqs[i] = Request{Data: make([]byte, 4096), Offset: int64(i) * 4096, Done: func(*Request) { done <- struct{}{} }}
		}
		round := func() {
			for _, o := range []Op{Write, Read} {
				for i := range reqs {
					reqs[i].Op = o
					v.Submit(&reqs[i])
				}
				for i := range reqs {
					<-done
					if reqs[i].Err != nil {
						t.Fatal(reqs[i].Err)
					}
				}
			}
		}
		round()
		if n := testing.AllocsPerRun(50, round); n >= 1 {
			t.Errorf("%v allocations for %d requests", n, 2*depth)
		}
	}
}

func TestNoServers(t *testing.T) {
	if _, err := Open(&cell.Config{File: "some.conf"}, Options{}); err == nil || !strings.Contains(err.Error(), "some.conf") {
		t.Fatal(err)
	}
}

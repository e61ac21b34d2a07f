package pss

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
	"github.com/paxos-iscsi/paxos-iscsi/pss/psstest"
)

func TestLocks(t *testing.T) {
	f := psstest.New(t, 3)
	f.Elect(0)
	ctx := t.Context()
	c, d := open(t, f, quick()), open(t, f, quick())
	ok := func(l *Lock, err error) *Lock {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	r1, r2 := ok(c.Lock(ctx, "L", ReadLock)), ok(d.Lock(ctx, "L", ReadLock))
	if r1.Version() == 0 || r1.Version() != r2.Version() {
		t.Errorf("versions %d and %d of readers together", r1.Version(), r2.Version())
	}
	if _, err := d.TryLock(ctx, "L", WriteLock); !errors.Is(err, ErrBusy) {
		t.Errorf("try: %v", err)
	}
	got := make(chan *Lock)
	go func() {
		l, err := d.Lock(ctx, "L", WriteLock)
		if err != nil {
			t.Error(err)
		}
		got <- l
	}()
	until(t, "the writer stands in line", func() bool {
		l, err := c.TryLock(ctx, "L", ReadLock)
		return err != nil && errors.Is(err, ErrBusy) || err == nil && l.Unlock(ctx) != nil
	})
	for _, l := range []*Lock{r1, r2} {
		if err := l.Unlock(ctx); err != nil {
			t.Fatal(err)
		}
	}
	w := <-got
	if w.Version() <= r1.Version() {
		t.Errorf("the writer's version is %d, the readers' was %d", w.Version(), r1.Version())
	}
	// Who gives up leaves the line, and does not get the lock behind his own back.
	short, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := c.Lock(short, "L", ReadLock); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	if err := w.Unlock(ctx); err != nil {
		t.Fatal(err)
	}
	until(t, "the lock is free", func() bool {
		l, err := d.TryLock(ctx, "L", WriteLock)
		return err == nil && l.Unlock(ctx) == nil
	})
	if err := w.Unlock(ctx); !errors.Is(err, ErrNotFound) {
		t.Errorf("unlocked twice: %v", err)
	}
}

// Clients that exclude each other with a lock do so through lost connections and changes of the master.
func TestLocksExclude(t *testing.T) {
	f := psstest.New(t, 3)
	f.Elect(0)
	calls := 0
	f.Lock()
	f.Judge = func(*op.Op) psstest.Verdict {
		if calls++; calls%5 == 0 {
			return psstest.Verdict(calls / 5 % psstest.Verdicts)
		}
		return psstest.Answer
	}
	f.Unlock()
	var inside atomic.Int32
	var wg sync.WaitGroup
	for i := range 4 {
		c := open(t, f, quick())
		wg.Go(func() {
			for range 10 {
				l, err := c.Lock(t.Context(), "L", WriteLock)
				if err != nil {
					t.Errorf("client %d: %v", i, err)
					return
				}
				if n := inside.Add(1); n != 1 {
					t.Errorf("%d have the lock", n)
				}
				inside.Add(-1)
				if err := l.Unlock(t.Context()); err != nil {
					t.Errorf("client %d: %v", i, err)
				}
			}
		})
	}
	wg.Wait()
	for i := range 3 {
		f.Resume(i)
	}
}

// Every message that was posted is taken once while nobody's session is lost, whatever becomes of connections.
func TestQueues(t *testing.T) {
	f := psstest.New(t, 3)
	f.Elect(0)
	calls := 0
	f.Lock()
	f.Judge = func(*op.Op) psstest.Verdict {
		if calls++; calls%6 == 0 {
			return psstest.Verdict(calls / 6 % psstest.Verdicts)
		}
		return psstest.Answer
	}
	f.Unlock()
	const readers, each = 3, 8
	ctx := t.Context()
	var mu sync.Mutex
	var got []string
	var wg sync.WaitGroup
	for range readers {
		c := open(t, f, quick())
		wg.Go(func() {
			for range each {
				g, err := c.Take(ctx, "Q")
				if err == nil {
					err = g.Ack(ctx)
				}
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				got = append(got, string(g.Data))
				mu.Unlock()
			}
		})
	}
	c := open(t, f, quick())
	var want []string
	for i := range readers * each {
		want = append(want, fmt.Sprintf("%02d", i))
		if _, err := c.Post(ctx, "Q", []byte(want[i])); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	for i := range 3 {
		f.Resume(i)
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("taken: %v", got)
	}
}

func TestMessageComesBack(t *testing.T) {
	f := psstest.New(t, 3)
	f.Elect(0)
	ctx := t.Context()
	c, d := open(t, f, quick()), open(t, f, quick())
	if _, err := c.Post(ctx, "Q", []byte("one")); err != nil {
		t.Fatal(err)
	}
	g, err := c.Take(ctx, "Q")
	if err != nil || string(g.Data) != "one" {
		t.Fatalf("%+v, %v", g, err)
	}
	if err := g.Return(ctx); err != nil {
		t.Fatal(err)
	}
	if g, err = c.Take(ctx, "Q"); err != nil {
		t.Fatal(err)
	}
	f.Expire()
	again, err := d.Take(ctx, "Q")
	if err != nil || string(again.Data) != "one" || again.Number != g.Number {
		t.Fatalf("%+v, %v", again, err)
	}
	if err := c.Mkdir(ctx, "d"); err != nil { // whereupon c notices that its session was lost
		t.Fatal(err)
	}
	if err := g.Ack(ctx); !errors.Is(err, ErrSessionLost) {
		t.Errorf("acknowledged in another session: %v", err)
	}
	if err := again.Ack(ctx); err != nil {
		t.Error(err)
	}
}

func TestEvents(t *testing.T) {
	f := psstest.New(t, 3)
	f.Elect(0)
	ctx := t.Context()
	c, d := open(t, f, quick()), open(t, f, quick())
	if err := c.Watch(ctx, op.EventQueue, "Q"); err != nil {
		t.Fatal(err)
	}
	if err := c.Watch(ctx, op.EventLock, "L"); err != nil {
		t.Fatal(err)
	}
	type answer struct {
		events []op.Event
		err    error
	}
	next := func() <-chan answer {
		ch := make(chan answer, 1)
		go func() {
			events, _, err := c.Events(ctx)
			ch <- answer{events, err}
		}()
		return ch
	}
	ch := next()
	if _, err := d.Post(ctx, "Q", nil); err != nil {
		t.Fatal(err)
	}
	if a := <-ch; a.err != nil || len(a.events) != 1 || a.events[0].Mode != op.EventPosted || a.events[0].Name != "Q" {
		t.Fatalf("%+v", a)
	}
	l, err := c.Lock(ctx, "L", WriteLock)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		l, err := d.Lock(ctx, "L", WriteLock)
		if err == nil {
			err = l.Unlock(ctx)
		}
		done <- err
	}()
	if a := <-next(); a.err != nil || len(a.events) != 1 || a.events[0].Mode != op.EventRecall {
		t.Fatalf("%+v", a)
	}
	if err := errors.Join(l.Unlock(ctx), <-done); err != nil {
		t.Fatal(err)
	}
	if err := c.Unwatch(ctx, op.EventLock, "L"); err != nil {
		t.Fatal(err)
	}
	ch = next()
	f.Expire()
	f.Elect(1)
	if a := <-ch; !errors.Is(a.err, ErrSessionLost) {
		t.Fatalf("after the session was lost: %+v", a)
	}
}

// A session that expires takes its locks along. An operation whose answer was lost with it is reported, and never
// done again; others go on in the next session; volumes stay open, by their token.
func TestSessionExpires(t *testing.T) {
	f := psstest.New(t, 3)
	f.Elect(0)
	ctx := t.Context()
	c := open(t, f, quick())
	v := volume(t, c, "vol", 1<<20)
	l, err := c.Lock(ctx, "L", WriteLock)
	if err != nil {
		t.Fatal(err)
	}
	f.Expire()
	for i := range 10 {
		if _, err := v.WriteAt(make([]byte, 512), int64(i)*512); err != nil {
			t.Fatalf("write %d in the new session: %v", i, err)
		}
	}
	if err := l.Unlock(ctx); !errors.Is(err, ErrSessionLost) {
		t.Errorf("the lock was lost, and unlocking says %v", err)
	}
	executed := 0
	f.Lock()
	f.Judge = func(o *op.Op) psstest.Verdict {
		if o.Code != op.Write || f.Sessions[o.Session] == nil {
			return psstest.Answer
		}
		executed++
		return psstest.ExpireAfter
	}
	f.Unlock()
	if _, err := v.WriteAt([]byte("once"), 0); !errors.Is(err, ErrSessionLost) {
		t.Errorf("the write: %v", err)
	}
	f.Lock()
	f.Judge = nil
	if got := f.Names["vol"].Data[:4]; string(got) != "once" || executed != 1 {
		t.Errorf("%q after %d executions", got, executed)
	}
	f.Unlock()
	if _, err := v.WriteAt(make([]byte, 512), 0); err != nil {
		t.Errorf("a write afterwards: %v", err)
	}
	// Fenced meanwhile: the volume is not taken back.
	if _, err := open(t, f, quick()).OpenVolume(ctx, "vol"); err != nil {
		t.Fatal(err)
	}
	f.Expire()
	if _, err := v.WriteAt(make([]byte, 512), 0); !errors.Is(err, ErrFenced) {
		t.Errorf("fenced and expired: %v", err)
	}
}

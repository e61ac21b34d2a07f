package pss

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
	"github.com/paxos-iscsi/paxos-iscsi/pss/psstest"
)

// openReal opens a client of a real cell, with a short lease.
func openReal(t *testing.T, f *psstest.RealCell) *Cell {
	t.Helper()
	o := quick()
	o.Ping, o.SessionLease = 100*time.Millisecond, time.Second
	c, err := Open(f.Conf, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("close: %v", err)
		}
	})
	return c
}

// A client that is gone without a word loses its session: who waits for its lock gets it, its ephemeral file
// ends, and those who watch hear of it. One that only does nothing keeps what it has.
func TestRealSessionsExpire(t *testing.T) {
	f := psstest.StartReal(t, 0, 1, 2)
	ctx := t.Context()
	gone, idle, d := openReal(t, f), openReal(t, f), openReal(t, f)
	kept, err := idle.Lock(ctx, "kept", WriteLock)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Mkdir(ctx, "d"); err != nil {
		t.Fatal(err)
	}
	if err := d.Watch(ctx, op.EventDir, "d"); err != nil {
		t.Fatal(err)
	}
	if _, err := gone.CreateEphemeral(ctx, "d/sign"); err != nil {
		t.Fatal(err)
	}
	if _, err := gone.Lock(ctx, "L", WriteLock); err != nil {
		t.Fatal(err)
	}
	gone.cancel() // as if it had died
	l, err := d.Lock(ctx, "L", WriteLock)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Unlock(ctx); err != nil {
		t.Error(err)
	}
	var modes []uint8
	for len(modes) < 2 {
		events, omitted, err := d.Events(ctx)
		if err != nil || omitted != 0 {
			t.Fatal(omitted, err)
		}
		for _, e := range events {
			if e.Name != "/d" || e.Entry != "sign" {
				t.Errorf("%+v", e)
			}
			modes = append(modes, e.Mode)
		}
	}
	if modes[0] != op.EventCreated || modes[1] != op.EventDeleted {
		t.Errorf("modes %v", modes)
	}
	if _, err := d.Stat(ctx, "d/sign"); !errors.Is(err, ErrNotFound) {
		t.Errorf("the ephemeral file: %v", err)
	}
	if _, err := d.TryLock(ctx, "kept", ReadLock); !errors.Is(err, ErrBusy) {
		t.Errorf("the idle client's lock: %v", err)
	}
	if err := kept.Unlock(ctx); err != nil {
		t.Errorf("the idle client unlocks: %v", err)
	}
}

// Waiting goes on when the master goes: the next one answers.
func TestRealWaitersOutliveTheMaster(t *testing.T) {
	f := psstest.StartReal(t, 0, 1, 2)
	ctx := t.Context()
	c, d := openReal(t, f), openReal(t, f)
	l, err := c.Lock(ctx, "L", WriteLock)
	if err != nil {
		t.Fatal(err)
	}
	v := volume(t, c, "vol", 1<<20)
	if _, err := v.SetAttr(ctx, "a", []byte("value"), 0); err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 2)
	go func() {
		l, err := d.Lock(ctx, "L", WriteLock)
		if err == nil {
			err = l.Unlock(ctx)
		}
		got <- err
	}()
	go func() {
		g, err := d.Take(ctx, "Q")
		if err == nil && string(g.Data) != "message" {
			err = errors.New("another message")
		}
		if err == nil {
			err = g.Ack(ctx)
		}
		got <- err
	}()
	until(t, "both wait", func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.acked > 2
	})
	c.mu.Lock()
	master := c.active.peer.server.ID
	c.mu.Unlock()
	f.Stop(master)
	if err := l.Unlock(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Post(ctx, "Q", []byte("message")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := <-got; err != nil {
			t.Error(err)
		}
	}
	if value, _, err := v.Attr(ctx, "a"); string(value) != "value" || err != nil {
		t.Errorf("attribute %q, %v", value, err)
	}
	if ok, err := v.TokenCurrent(ctx); !ok || err != nil {
		t.Errorf("token: %v, %v", ok, err)
	}
}

// A read that waits for a master that hangs goes elsewhere as soon as another server says who is master now.
func TestReadsLeaveAHangingMaster(t *testing.T) {
	f := psstest.New(t, 3)
	f.Elect(0)
	c := open(t, f, quick())
	v := volume(t, c, "vol", 1<<20)
	if _, err := v.WriteAt([]byte("data"), 0); err != nil {
		t.Fatal(err)
	}
	f.Pause(0)
	defer f.Resume(0)
	p := make([]byte, 4)
	got := make(chan error, 2)
	v.Submit(&Request{Op: Read, Data: p, Done: func(r *Request) { got <- r.Err }})
	until(t, "the read is under way", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.first != nil && c.first.tag != 0
	})
	go func() {
		_, err := c.Stat(t.Context(), "vol")
		got <- err
	}()
	f.Elect(2)
	for range 2 {
		if err := <-got; err != nil {
			t.Error(err)
		}
	}
	if string(p) != "data" {
		t.Errorf("%q", p)
	}
}

// Two clients take a volume from each other while masters come and go. Each fills the whole of it with a mark
// of its own, in one write or in pieces, and reads it back: as long as a client is not fenced it reads what it
// wrote, and nothing of the other.
func TestRealOwnersNeverMix(t *testing.T) {
	f := psstest.StartReal(t, 0, 1, 2)
	ctx := t.Context()
	const size = 64 << 10
	setup := openReal(t, f)
	if err := setup.CreateVolume(ctx, "vol", size); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var rounds, fenced atomic.Int32
	for id := range 2 {
		c := openReal(t, f)
		wg.Go(func() {
			for mark := byte(id); ; mark += 2 {
				select {
				case <-stop:
					return
				default:
				}
				switch err := own(ctx, c, mark, size); {
				case errors.Is(err, ErrFenced):
					fenced.Add(1)
				case err != nil:
					t.Errorf("client %d: %v", id, err)
					return
				}
				rounds.Add(1)
			}
		})
	}
	until(t, "both took it from each other", func() bool { return fenced.Load() >= 5 && rounds.Load() >= 20 })
	id, ok := setup.Master()
	if !ok {
		t.Error("no master")
	}
	f.Stop(id)
	before := fenced.Load()
	until(t, "they go on with another master", func() bool { return fenced.Load() >= before+5 })
	close(stop)
	wg.Wait()
}

// own opens the volume, fills it with a mark several times and reads it back.
func own(ctx context.Context, c *Cell, mark byte, size int) error {
	v, err := c.OpenVolume(ctx, "vol")
	if err != nil {
		return err
	}
	const pieces = 4
	for range 5 {
		done := make(chan error, pieces)
		for i := range pieces {
			data := bytes.Repeat([]byte{mark}, size/pieces)
			v.Submit(&Request{Op: Write, Offset: int64(i * size / pieces), Data: data, Done: func(r *Request) { done <- r.Err }})
		}
		var lost error
		for range pieces {
			if err := <-done; err != nil {
				lost = err
			}
		}
		if lost != nil {
			return lost
		}
		p := make([]byte, size)
		if _, err := v.ReadAt(p, 0); err != nil {
			return err
		}
		// Reads carry no token: what was read counts if nobody has opened the volume since.
		current, err := v.TokenCurrent(ctx)
		if err != nil {
			return err
		}
		if !current {
			return ErrFenced
		}
		if i := slices.IndexFunc(p, func(b byte) bool { return b != mark }); i >= 0 {
			return fmt.Errorf("mark %d: byte %d is %d", mark, i, p[i])
		}
	}
	return nil
}

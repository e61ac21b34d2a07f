package pss

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
	"github.com/paxos-iscsi/paxos-iscsi/pss/psstest"
)

func TestAttributes(t *testing.T) {
	f := psstest.New(t, 3)
	f.Elect(0)
	ctx := t.Context()
	c := open(t, f, quick())
	v := volume(t, c, "vol", 1<<20)
	if value, version, err := v.Attr(ctx, "pr"); value != nil || version != 0 || err != nil {
		t.Fatalf("before it is set: %q, %d, %v", value, version, err)
	}
	large := pattern(op.MaxAttr, 1)
	first, err := v.SetAttr(ctx, "pr", large, 0)
	if err != nil || first == 0 {
		t.Fatalf("%d, %v", first, err)
	}
	if value, version, err := v.Attr(ctx, "pr"); !bytes.Equal(value, large) || version != first || err != nil {
		t.Fatalf("%d bytes, %d, %v", len(value), version, err)
	}
	if _, err := v.SetAttr(ctx, "pr", nil, 0); !errors.Is(err, ErrVersion) {
		t.Errorf("set as if it were not there: %v", err)
	}
	second, err := v.SetAttr(ctx, "pr", nil, first)
	if err != nil || second == first {
		t.Errorf("version %d after %d, %v", second, first, err)
	}
	if n, err := v.SetAttr(ctx, "pr", nil, second, Remove); n != 0 || err != nil {
		t.Errorf("removed: %d, %v", n, err)
	}
	if _, version, err := v.Attr(ctx, "pr"); version != 0 || err != nil {
		t.Errorf("after it was removed: %d, %v", version, err)
	}
	if _, err := v.SetAttr(ctx, "pr", make([]byte, op.MaxAttr+1), 0); !errors.Is(err, op.Invalid) {
		t.Errorf("too long: %v", err)
	}
	if _, err := c.OpenVolume(ctx, "vol"); err != nil {
		t.Fatal(err)
	}
	if _, err := v.SetAttr(ctx, "pr", nil, 0); !errors.Is(err, ErrFenced) {
		t.Errorf("fenced: %v", err)
	}
	if _, err := c.OpenVolume(ctx, "vol", 7); !errors.Is(err, op.Invalid) {
		t.Errorf("mode 7: %v", err)
	}
}

// Two who share a volume: what one decided before the other's change has no effect after it.
func TestShared(t *testing.T) {
	f := psstest.New(t, 3)
	f.Elect(0)
	ctx := t.Context()
	c, d := open(t, f, quick()), open(t, f, quick())
	alone := volume(t, c, "vol", 1<<20)
	share := func(c *Cell) *Volume {
		v, err := c.OpenVolume(ctx, "vol", Shared)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	v, w := share(c), share(d)
	if _, err := alone.WriteAt(make([]byte, 512), 0); !errors.Is(err, ErrFenced) {
		t.Errorf("the one who had it alone writes: %v", err)
	}
	for _, x := range []*Volume{v, w, v} {
		if _, err := x.WriteAt(make([]byte, 512), 0); err != nil {
			t.Fatalf("sharers write: %v", err)
		}
	}
	current := func(v *Volume, want bool) {
		t.Helper()
		if ok, err := v.TokenCurrent(ctx); ok != want || err != nil {
			t.Errorf("token current: %v, %v", ok, err)
		}
	}
	current(v, true)
	if _, err := w.SetAttr(ctx, "resv", []byte("w"), 0, Bump); err != nil {
		t.Fatal(err)
	}
	current(v, false)
	current(w, true)
	if _, err := w.WriteAt(make([]byte, 512), 0); err != nil {
		t.Errorf("the one who changed it: %v", err)
	}
	for _, o := range []Op{Write, CompareAndWrite, Unmap, WriteZeroes} {
		r := Request{Op: o, Data: make([]byte, 512)}
		if o == Unmap || o == WriteZeroes {
			r.Data, r.Length = nil, 512
		}
		if r := do(v, r); !errors.Is(r.Err, ErrMoved) {
			t.Errorf("operation %d under the old token: %v", o, r.Err)
		}
	}
	if err := v.Renew(ctx); err != nil {
		t.Fatal(err)
	}
	current(v, true)
	if _, err := v.WriteAt(make([]byte, 512), 0); err != nil {
		t.Errorf("renewed: %v", err)
	}
	if _, err := c.OpenVolume(ctx, "vol"); err != nil {
		t.Fatal(err)
	}
	if err := w.Renew(ctx); !errors.Is(err, ErrFenced) {
		t.Errorf("renewed after somebody opened it alone: %v", err)
	}
	if _, err := w.WriteAt(make([]byte, 512), 0); !errors.Is(err, ErrFenced) {
		t.Errorf("writes after somebody opened it alone: %v", err)
	}
}

// Several clients count in an attribute while connections break and masters change. None counts twice, and
// what is written under a count that has passed has no effect.
func TestSharedCounters(t *testing.T) {
	f := psstest.New(t, 3)
	f.Elect(0)
	calls := 0
	f.Judge = func(*op.Op) psstest.Verdict {
		if calls++; calls%7 == 0 {
			return psstest.Verdict(calls / 7 % int(psstest.PauseAndElect))
		}
		return psstest.Answer
	}
	const clients, rounds = 3, 15
	volume(t, open(t, f, quick()), "vol", 1<<20)
	var wg sync.WaitGroup
	for i := range clients {
		c := open(t, f, quick())
		wg.Go(func() {
			if err := countUp(t.Context(), c, i, rounds); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	c := open(t, f, quick())
	v, err := c.OpenVolume(t.Context(), "vol", Shared)
	if err != nil {
		t.Fatal(err)
	}
	if value, _, err := v.Attr(t.Context(), "n"); string(value) != strconv.Itoa(clients*rounds) || err != nil {
		t.Errorf("counted to %s, %v", value, err)
	}
}

// countUp adds to the attribute n of the volume, and writes each count to a place of its own under the token
// that came with it.
func countUp(ctx context.Context, c *Cell, id, rounds int) error {
	v, err := c.OpenVolume(ctx, "vol", Shared)
	if err != nil {
		return err
	}
	for done := 0; done < rounds; {
		if err := v.Renew(ctx); err != nil {
			return err
		}
		value, version, err := v.Attr(ctx, "n")
		if err != nil {
			return err
		}
		n, _ := strconv.Atoi(string(value))
		_, err = v.SetAttr(ctx, "n", []byte(strconv.Itoa(n+1)), version, Bump)
		switch {
		case errors.Is(err, ErrMoved) || errors.Is(err, ErrVersion):
			continue
		case err != nil:
			return fmt.Errorf("client %d: %w", id, err)
		}
		done++
		if _, err := v.WriteAt([]byte{byte(n)}, int64(n)); err != nil && !errors.Is(err, ErrMoved) {
			return fmt.Errorf("client %d writes: %w", id, err)
		}
	}
	return nil
}

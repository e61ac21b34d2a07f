package pss

import (
	"context"
	"errors"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/paxos-iscsi/paxos-iscsi/pss/psstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// quick are options for tests: nothing takes long on loopback.
func quick() Options {
	return Options{
		Backoff: time.Millisecond, MaxBackoff: 4 * time.Millisecond,
		Ping: 10 * time.Millisecond, Silence: time.Minute, DialTimeout: 10 * time.Second, CloseTimeout: 10 * time.Second,
	}
}

// open opens a client of f with options o; the test's end closes it.
func open(t *testing.T, f *psstest.Cell, o Options) *Cell {
	t.Helper()
	c, err := Open(f.Conf(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("close: %v", err)
		}
	})
	return c
}

// volume makes and opens a volume.
func volume(t *testing.T, c *Cell, name string, bytes int64) *Volume {
	t.Helper()
	ctx := t.Context()
	if err := c.CreateVolume(ctx, name, bytes); err != nil {
		t.Fatal(err)
	}
	v, err := c.OpenVolume(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	if v.Size() != bytes {
		t.Fatalf("volume of %d bytes has %d", bytes, v.Size())
	}
	return v
}

// until waits for a condition, which must come true.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	limit := time.Now().Add(time.Minute)
	for !ok() {
		if time.Now().After(limit) {
			t.Fatalf("waited in vain until %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

package main

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"
)

func TestFloors(t *testing.T) {
	dir, err := os.MkdirTemp("/var/tmp", "bench-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	floors, err := takeFloors(t.Context(), dir, 20*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if len(floors) != 4 {
		t.Errorf("%d floors", len(floors))
	}
	for _, f := range floors {
		if f.count == 0 || f.p50 <= 0 || f.p99 < f.p50 {
			t.Errorf("%+v", f)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// An interrupt ends a floor, with all its threads.
func TestFloorsInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := netFloor(ctx, time.Hour); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := takeFloors(ctx, "/var/tmp", time.Hour); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

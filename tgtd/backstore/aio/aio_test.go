package aio

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func do(t *testing.T, s backstore.Store, io *backstore.IO) {
	t.Helper()
	done := make(chan struct{})
	io.Done = func(*backstore.IO) { close(done) }
	s.Submit(io)
	if <-done; io.Err != nil {
		t.Fatal(io.Err)
	}
}

// TestReadsWhatItWrote with sizes and offsets that direct I/O can and can't do; and the file then holds it.
func TestReadsWhatItWrote(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	want := make([]byte, 1<<20)
	if err := os.WriteFile(path, want, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Open(backstore.Options{Path: path, BlockSize: 512})
	if errors.Is(err, unix.EINVAL) {
		t.Skipf("NOT RUN: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range []struct{ at, n int }{{0, 4096}, {512, 512}, {8192, 65536}, {100352, 1536}, {1<<20 - 512, 512}} {
		data := bytes.Repeat([]byte{byte(i + 1)}, c.n)
		copy(want[c.at:], data)
		do(t, s, &backstore.IO{Op: backstore.Write, Offset: int64(c.at), Length: int64(c.n), Data: data, FUA: i%2 == 0})
	}
	got := make([]byte, len(want))
	do(t, s, &backstore.IO{Op: backstore.Read, Length: int64(len(got)), Data: got})
	if !bytes.Equal(got, want) {
		t.Error("the store reads something else than was written")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the file holds something else than was written, %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	for what, o := range map[string]backstore.Options{
		"sync": {Path: path, Sync: true}, "direct": {Path: path, Direct: true}, "options": {Path: path, Options: "x"},
	} {
		if s, err := Open(o); !errors.Is(err, backstore.ErrOption) {
			t.Errorf("%s: %v", what, err)
			if err == nil {
				s.Close()
			}
		}
	}
	if s, err := Open(backstore.Options{Path: path + "x"}); !errors.Is(err, unix.ENOENT) {
		t.Errorf("a missing file: %v", err)
		if err == nil {
			s.Close()
		}
	}
}

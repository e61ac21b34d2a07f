package log

import (
	"errors"
	"fmt"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tester is what testing.T, testing.B and rapid.T have in common.
type tester interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

func ok(t tester, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func must[T any](v T, err error) func(t tester) T {
	return func(t tester) T {
		t.Helper()
		ok(t, err)
		return v
	}
}

func wantErr(t tester, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error %v, want %v", err, want)
	}
}

// small are the options of most tests: four blocks a segment, so that all happens soon.
func small() Options {
	return Options{SegmentBytes: 16 << 10, Direct: true, Identity: 0x1122334455667788}
}

// made returns entries [from, to) of a term, whose data depends on both.
func made(from, to, term uint64, size int) []Entry {
	var entries []Entry
	for i := from; i < to; i++ {
		data := make([]byte, size)
		for k := range data {
			data[k] = byte(i*31 + term*7 + uint64(k)*uint64(k>>8+1))
		}
		entries = append(entries, Entry{Index: i, Term: term, Kind: uint8(i % 3), Data: data})
	}
	return entries
}

func describe(e Entry) string {
	return fmt.Sprintf("%d term %d kind %d: %d bytes, %08x", e.Index, e.Term, e.Kind, len(e.Data), checksum(e.Data))
}

func open(t tester, fs disk.FS, o Options) *Log {
	t.Helper()
	return must(Open(fs, "log", o))(t)
}

package replica

import (
	"errors"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
)

// TestDivergence: one server comes to another result, as a broken memory would have it. It ends by itself, says at
// which entries, and the others go on.
func TestDivergence(t *testing.T) {
	t.Parallel()
	for _, who := range []string{"follower", "master"} {
		t.Run(who, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, rareCheckpoints)
			v := h.volume(h.client(), 1<<20)
			v.write(5)
			i := h.master()
			if who == "follower" {
				i = (i + 1) % 3
			}
			r := h.servers[i]
			r.drive(func(time.Duration) error { r.core.digest.sum ^= 1; return nil })
			for n := 0; r.Err() == nil; n++ {
				if v.write(200); n > 2*DefaultDigestEvery/200 {
					break
				}
			}
			eventually(t, "the end of the server that differs", func() bool { return r.Err() != nil })
			var heal *HealError
			if err := r.Err(); !errors.As(err, &heal) || !errors.Is(err, ErrDiverged) {
				t.Fatal(err)
			}
			h.servers[i] = nil
			if err := r.Close(); !errors.Is(err, ErrDiverged) {
				t.Fatal(err)
			}
			v.write(5)
			v.verify()
			for k, r := range h.servers {
				if r != nil && r.Err() != nil {
					t.Fatalf("server %d: %v", k, r.Err())
				}
			}
		})
	}
}

// BenchmarkDigest: what comparing costs for each entry.
func BenchmarkDigest(b *testing.B) {
	d := digester{every: DefaultDigestEvery}
	e := entryOf(b)
	var res op.Result
	b.ReportAllocs()
	for b.Loop() {
		e.Index++
		d.add(&e, &res)
	}
}

func entryOf(b *testing.B) raftpb.Entry {
	b.Helper()
	return raftpb.Entry{Term: 3, Data: op.Head(nil, &op.Header{Code: op.Flush, Session: 1, Epoch: 1, Seq: 1}, nil, 0)}
}

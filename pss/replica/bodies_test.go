package replica

import (
	"bytes"
	"io/fs"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/pss"
	"github.com/paxos-iscsi/paxos-iscsi/pss/log"
	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
	"github.com/paxos-iscsi/paxos-iscsi/pss/store"
)

// TestHomeOf: only long writes of whole blocks in one chunk have a home.
func TestHomeOf(t *testing.T) {
	write := func(code op.Code, off uint64, n int) []byte {
		payload := bytes.Repeat([]byte{7}, n)
		length := uint64(n)
		if code == op.CompareAndWrite {
			length /= 2
		}
		h := op.Header{Code: code, Object: 9, Offset: off, Length: length}
		sums := op.AppendSums(nil, off, payload[:length])
		if code == op.CompareAndWrite {
			sums = op.AppendSums(sums, off, payload[length:])
		}
		return append(op.HeadSums(nil, &h, sums, n), payload...)
	}
	const k = 1 << 10
	for _, c := range []struct {
		name string
		data []byte
		want log.Home
	}{
		{"a large write", write(op.Write, 5*store.ChunkSize+256*k, 256*k), log.Home{Object: 9, Chunk: 5, Block: 64, Blocks: 64}},
		{"the end of a chunk", write(op.Write, store.ChunkSize-128*k, 128*k), log.Home{Object: 9, Block: 992, Blocks: 32}},
		{"a small write", write(op.Write, 0, 64*k), log.Home{}},
		{"over a border", write(op.Write, store.ChunkSize-128*k, 256*k), log.Home{}},
		{"parts of blocks", write(op.Write, 512, 256*k), log.Home{}},
		{"part of a block at the end", write(op.Write, 0, 256*k+512), log.Home{}},
		{"another operation", write(op.CompareAndWrite, 0, 256*k), log.Home{}},
		{"no operation", bytes.Repeat([]byte{1}, 256*k), log.Home{}},
	} {
		got := homeOf(c.data)
		if len(got.Sums) != 4*int(got.Blocks) {
			t.Errorf("%s: %d bytes of sums for %d blocks", c.name, len(got.Sums), got.Blocks)
		}
		got.Sums = nil
		if got.Object != c.want.Object || got.Chunk != c.want.Chunk || got.Block != c.want.Block || got.Blocks != c.want.Blocks {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

// adopted counts the chunk files of a server that the log has a name for, too.
func (h *house) adopted(i int) (n int) {
	h.t.Helper()
	check(h.t, filepath.WalkDir(filepath.Join(h.servers[i].opts.Root, "data"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil // it may go meanwhile
		}
		if info, err := d.Info(); err == nil && info.Sys().(*syscall.Stat_t).Nlink > 1 {
			n++
		}
		return nil
	}))
	return n
}

// stream writes the whole volume in order, some of it at the same time.
func (v *volume) stream() {
	v.t.Helper()
	const piece, together = 1 << 20, 4
	for off := 0; off < len(v.want); off += together * piece {
		var rs []*pss.Request
		for at := off; at < min(off+together*piece, len(v.want)); at += piece {
			b := v.want[at : at+piece]
			for j := range b {
				b[j] = byte(v.rng.Uint32())
			}
			rs = append(rs, &pss.Request{Op: pss.Write, Offset: int64(at), Data: bytes.Clone(b)})
		}
		for _, r := range v.do(rs...) {
			check(v.t, r.Err)
		}
	}
}

// TestWriteOnce: chunks that are written in order become of what the log wrote, on every server; what is written to them
// later, a server that was away meanwhile, and a restart of all find what they should.
func TestWriteOnce(t *testing.T) {
	t.Parallel()
	h := newHouse(t, func(o *Options) {
		o.CheckpointBytes, o.OverlayBytes, o.SegmentBytes = 8<<20, 32<<20, 8<<20
	})
	v := h.volume(h.client(), 32<<20)
	eventually(t, "bodies become chunks on every server", func() bool {
		v.stream()
		for i := range h.servers {
			if h.adopted(i) == 0 {
				return false
			}
		}
		return true
	})
	v.write(50)
	v.verify()
	h.level(v.object)

	late := (h.master() + 1) % 3
	h.stop(late)
	v.stream()
	v.write(50)
	v.stream()
	v.write(50)
	h.start(late)
	v.write(10)
	h.level(v.object)
	v.verify()

	for i := range h.servers {
		h.stop(i)
	}
	for i := range h.servers {
		h.start(i)
	}
	v.write(10)
	v.verify()
	h.level(v.object)
}

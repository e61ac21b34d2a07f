package check

import (
	"bytes"
	"errors"
	"log/slog"
	"math/rand/v2"
	"path"
	"strings"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/goleak"

	"github.com/paxos-iscsi/paxos-iscsi/pss/agreement"
	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
	"github.com/paxos-iscsi/paxos-iscsi/pss/log"
	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
	"github.com/paxos-iscsi/paxos-iscsi/pss/replica"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is a cell of one server on a disk in memory, without goroutines.
type server struct {
	log     *log.Log
	core    *replica.Core
	out     replica.Output
	writer  replica.LogWriter
	now     time.Duration
	seq     uint64
	answers int
	closers []func() error
}

func start(mem disk.FS) (*server, error) {
	s := &server{now: time.Second}
	var err error
	if s.log, err = log.Open(mem, "log", log.Options{SegmentBytes: 64 << 10}); err != nil {
		return nil, err
	}
	s.closers = append(s.closers, s.log.Close)
	st, at, err := replica.OpenStore(mem, s.log, 1<<20)
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	s.closers = append(s.closers, st.Close)
	s.core, err = replica.NewCore(replica.Config{ID: 0, Members: raftpb.ConfState{Voters: []uint64{1}}, Timing: agreement.LAN,
		Logger: slog.New(slog.DiscardHandler), CheckpointBytes: 24 << 10, OverlayBytes: 64 << 10, CheckpointEvery: time.Hour},
		s.log, st, at, s.now)
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *server) close() (err error) {
	for _, c := range s.closers {
		err = errors.Join(err, c())
	}
	return err
}

// pump carries out everything that the Core wants done, checkpoints included.
func (s *server) pump() error {
	for again := true; again; {
		if err := s.core.Pump(&s.out); err != nil {
			return err
		}
		s.answers += len(s.out.Replies)
		appends, flush := s.out.Appends, s.out.Flush
		again = len(appends) > 0 || flush != nil || len(s.out.Reads) > 0
		for _, read := range s.out.Reads {
			if err := s.core.ReadDone(read, read.Carry(s.log)); err != nil {
				return err
			}
		}
		if err := s.writer.Write(s.log, appends); err != nil {
			return err
		}
		if err := s.writer.Finish(s.log, appends); err != nil {
			return err
		}
		for i := range appends {
			if err := s.core.Appended(s.now, &appends[i]); err != nil {
				return err
			}
		}
		if flush != nil {
			if err := s.core.FlushDone(flush.Run()); err != nil {
				return err
			}
		}
		if s.out.Recycle != 0 {
			if err := s.log.Recycle(s.out.Recycle); err != nil {
				return err
			}
		}
		s.out.Reset()
	}
	return nil
}

func (s *server) propose(h op.Header, args, payload []byte) error {
	h.Session, h.Epoch = 1, 1
	if h.Code != op.SessionOpen {
		s.seq++
		h.Seq, h.Acked = s.seq, s.seq
	}
	b := op.Head(nil, &h, args, len(payload))
	if payload != nil {
		b = op.HeadSums(nil, &h, op.AppendSums(nil, h.Offset, payload), len(payload))
	}
	s.core.Propose(replica.Proposal{Origin: replica.Origin{Client: s}, Op: append(b, payload...)})
	return s.pump()
}

// life makes files, writes, zeroes and deletes, with checkpoints in between.
func life(mem disk.FS) error {
	s, err := start(mem)
	if err != nil {
		return err
	}
	defer s.close() // of a disk that has failed: there is nothing to be learned from its error
	for !s.core.View().Self {
		s.now += agreement.LAN.Tick
		s.core.Tick(s.now)
		if err := s.pump(); err != nil {
			return err
		}
	}
	do := func(h op.Header, args, payload []byte) {
		if err == nil {
			err = s.propose(h, args, payload)
		}
	}
	do(op.Header{Code: op.SessionOpen}, nil, nil)
	do(op.Header{Code: op.CreateFile}, op.AppendString(nil, "/f"), nil)
	do(op.Header{Code: op.CreateFile}, op.AppendString(nil, "/g"), nil)
	for i := range 24 {
		p := bytes.Repeat([]byte{byte(i + 1)}, 4096+512*(i%3))
		do(op.Header{Code: op.Write, Object: 2, Offset: uint64(i%7) * 4096, Length: uint64(len(p))}, nil, p)
		if i%6 == 5 {
			do(op.Header{Code: op.Truncate, Object: 2, Length: uint64(i) * 700}, nil, nil)
			do(op.Header{Code: op.Write, Object: 3, Offset: 4 << 20, Length: uint64(len(p))}, nil, p)
		}
	}
	do(op.Header{Code: op.Delete}, op.AppendString(nil, "/g"), nil)
	for i := range 8 {
		p := bytes.Repeat([]byte{byte(i + 1)}, 8192)
		do(op.Header{Code: op.Write, Object: 2, Offset: uint64(i) * 8192, Length: uint64(len(p))}, nil, p)
	}
	return err
}

// TestPowerCut cuts the power before each file-system operation of a server's life. What is left opens and is clean.
func TestPowerCut(t *testing.T) {
	ended := false
	cuts := 0
	for n := 0; !ended; n++ {
		mem := disk.NewMem()
		mem.FailAfter(n, disk.ErrCrashed)
		err := life(mem)
		ended = err == nil
		if err != nil && !errors.Is(err, disk.ErrCrashed) {
			t.Fatalf("after %d operations: %v", n, err)
		}
		mem.FailAfter(-1, nil)
		mem.Crash(rand.New(rand.NewPCG(uint64(n), 7)))
		res, err := Root(mem, Options{})
		if err != nil || !res.OK() {
			t.Fatalf("after %d operations: %v, %v", n, err, res.Findings)
		}
		cuts++
	}
	if cuts < 100 {
		t.Fatalf("only %d operations", cuts)
	}
	t.Logf("power cut before each of %d operations", cuts)
}

// TestFindings damages every file of a root, and sees that the check names it; and that it changes nothing.
func TestFindings(t *testing.T) {
	mem := disk.NewMem()
	if err := life(mem); err != nil {
		t.Fatal(err)
	}
	var last Progress
	res, err := Root(mem, Options{Progress: func(p Progress) { last = p }, Buffer: make([]byte, op.BlockSize)})
	if err != nil || res.Count != 0 || res.Objects == 0 || res.Chunks == 0 || last.Bytes != res.Bytes || res.Checkpoint == 0 {
		t.Fatalf("%v, %+v, %+v", err, res, last)
	}
	var files []string
	var walk func(dir string)
	walk = func(dir string) {
		list, err := mem.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			name := strings.TrimPrefix(dir+"/"+e.Name, "./")
			if e.Dir {
				walk(name)
			} else {
				files = append(files, name)
			}
		}
	}
	walk(".")
	flip := func(name string, at int64) {
		f, err := mem.Open(name, 0)
		if err != nil {
			t.Fatal(err)
		}
		var b [1]byte
		if _, err := f.ReadAt(b[:], at); err != nil {
			t.Fatal(err)
		}
		b[0] ^= 8
		if _, err := f.WriteAt(b[:], at); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	found := 0
	for _, name := range files {
		flip(name, 17)
		res, err := Root(mem, Options{})
		if err != nil {
			t.Fatal(err)
		}
		// A segment of the log that is not in use may have any bytes.
		if res.Count == 0 && !strings.HasPrefix(name, "log/") {
			t.Errorf("%s is damaged, and nothing was found", name)
		}
		for _, f := range res.Findings {
			// The checkpoint has one sum for an index and the sums beside it.
			isIndex := path.Base(name) == "pages" && f.File == path.Join(path.Dir(name), "index")
			if found++; f.File != name && !f.Harmless && !isIndex {
				t.Errorf("%s is damaged, and the finding is %v", name, f)
			}
		}
		flip(name, 17)
	}
	if found < 4 {
		t.Errorf("%d findings for %v", found, files)
	}
	if res, err := Root(mem, Options{}); err != nil || !res.OK() {
		t.Fatalf("after all damage was undone: %v, %v", err, res.Findings)
	}
}

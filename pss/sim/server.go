package sim

import (
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/paxos-iscsi/paxos-iscsi/pss/agreement"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
	"github.com/paxos-iscsi/paxos-iscsi/pss/log"
	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
	"github.com/paxos-iscsi/paxos-iscsi/pss/replica"
	"github.com/paxos-iscsi/paxos-iscsi/pss/store"
)

// Sizes of a simulated server: small, so that a short run sees segments change and checkpoints made.
const (
	simSegment    = 16 << 10
	simCheckpoint = 16 << 10
	simOverlay    = 48 << 10
	simEvery      = time.Second
	simDigest     = 16 // entries
)

var simTiming = agreement.LAN

// server is one replica of the simulated cell.
type server struct {
	w    *world
	id   cell.ID
	disk *disk.Mem
	rate float64       // of its clock
	skew time.Duration // of its clock

	life    int // which process this is: events of an earlier one are void
	up      bool
	resumes time.Duration // stopped until then
	log     *log.Log
	store   *store.Store
	core    *replica.Core
	out     replica.Output
	writer  replica.LogWriter
	waiting []agreement.Append
	writing bool
	flush   *store.Flush

	installing bool
	wasMaster  bool // for DeposedReads
}

func newServer(w *world, id cell.ID) *server {
	s := &server{w: w, id: id, disk: disk.NewMem()}
	s.rate = 1 + (w.rng.Float64()-0.5)*agreement.MaxDrift
	s.skew = w.between(1, time.Hour)
	return s
}

// clock is the server's own time. It starts anew with every process.
func (s *server) clock() time.Duration {
	return s.skew + time.Duration(float64(s.w.now)*s.rate)
}

var quiet = slog.New(slog.NewTextHandler(io.Discard, &slog.HandlerOptions{Level: slog.LevelError + 1}))

// boot starts the server from its disk.
func (s *server) boot() {
	s.life++
	w := s.w
	w.tracef("server %d boots", s.id)
	s.skew = w.between(1, time.Hour)
	fail := func(err error) {
		w.fail("server %d does not start: %w", s.id, err)
	}
	var err error
	if s.log, err = log.Open(s.disk, "log", log.Options{SegmentBytes: simSegment}); err != nil {
		fail(err)
		return
	}
	st, ckpt, err := replica.OpenStore(s.disk, s.log, simOverlay)
	if err != nil {
		fail(err)
		return
	}
	s.store = st
	s.core, err = replica.NewCore(replica.Config{ID: s.id, Members: w.members(), Timing: simTiming, Logger: quiet,
		CheckpointBytes: simCheckpoint, OverlayBytes: simOverlay, CheckpointEvery: simEvery,
		DigestEvery: simDigest}, s.log, st, ckpt, s.clock())
	if err != nil {
		fail(err)
		return
	}
	s.up, s.writing, s.waiting, s.flush, s.wasMaster = true, false, nil, nil, false
	s.installing = false
	s.writer, s.out = replica.LogWriter{}, replica.Output{}
	s.resumes = 0
	s.tick()
}

// later schedules do for this process: it happens when the process isn't stopped, and only while it lives.
func (s *server) later(d time.Duration, do func()) {
	life := s.life
	var run func()
	run = func() {
		switch {
		case s.life != life || !s.up:
		case s.w.now < s.resumes:
			s.w.after(s.resumes-s.w.now, run)
		default:
			do()
		}
	}
	s.w.after(d, run)
}

func (s *server) tick() {
	s.later(simTiming.Tick, func() {
		err := s.core.Tick(s.clock())
		s.tick()
		s.pump(err)
	})
}

// take takes a message from another server.
func (s *server) take(m raftpb.Message, stamp, echo time.Duration) {
	if !s.up {
		return
	}
	s.later(0, func() { s.pump(s.core.Step(s.clock(), m, stamp, echo)) })
}

// pump sees to what comes of an input that ended with err.
func (s *server) pump(err error) {
	if err == nil {
		err = s.core.Pump(&s.out)
	}
	if err != nil {
		if !errors.Is(err, disk.ErrCrashed) {
			s.w.fail("server %d: %w", s.id, err)
		}
		return
	}
	s.wasMaster = s.wasMaster || s.core.View().Self
	for _, m := range s.out.Messages {
		s.w.send(s.id, m)
	}
	s.waiting = append(s.waiting, s.out.Appends...)
	for _, r := range s.out.Replies {
		s.reply(r)
	}
	if s.out.Flush != nil {
		s.flush = s.out.Flush
		s.later(s.w.between(netFast, 20*time.Millisecond), s.checkpoint)
	}
	if b := s.out.CatchUp; b != nil {
		s.later(s.w.between(netSlow, 50*time.Millisecond), func() { s.catchUp(b) })
	}
	if s.out.Recycle != 0 {
		if err := s.log.Recycle(s.out.Recycle); err != nil {
			s.w.fail("server %d: %w", s.id, err)
		}
	}
	s.out.Reset()
	s.compare()
	s.write()
}

// write writes what waits for the log, and has it synced a while later; a crash may come between.
func (s *server) write() {
	if s.writing || len(s.waiting) == 0 {
		return
	}
	s.writing = true
	batch := s.waiting
	s.waiting = nil
	s.spoil(batch)
	for i := range batch {
		if batch[i].Snapshot == nil {
			continue
		}
		s.installing = true // until agreement and the state machine hear of it, the store is ahead of them
		if !s.w.calm && s.w.chance(4) {
			s.disk.FailAfter(s.w.rng.IntN(40), disk.ErrCrashed)
		}
	}
	err := s.writer.Write(s.log, batch)
	s.disk.FailAfter(-1, nil)
	if errors.Is(err, disk.ErrCrashed) {
		s.w.kill(s, true)
		return
	}
	if err != nil {
		s.w.fail("server %d: %w", s.id, err)
		return
	}
	s.later(s.w.between(50*time.Microsecond, 3*time.Millisecond), func() {
		if s.w.o.Flaw != AckUnsynced {
			if err := s.writer.Finish(s.log, batch); err != nil {
				s.w.fail("server %d: %w", s.id, err)
				return
			}
		}
		s.writing, s.installing = false, false
		var err error
		for i := range batch {
			if err = s.core.Appended(s.clock(), &batch[i]); err != nil {
				break
			}
		}
		s.pump(err)
	})
}

// spoil breaks the rule that the run is to break.
func (s *server) spoil(batch []agreement.Append) {
	if s.w.o.Flaw != ForgetVote {
		return
	}
	for i := range batch {
		if batch[i].State != nil {
			forgetful := *batch[i].State
			forgetful.Vote = 0
			batch[i].State = &forgetful
		}
	}
}

// checkpoint carries the checkpoint out, now and then with a power cut in the middle.
func (s *server) checkpoint() {
	if !s.w.calm && s.w.chance(4) {
		s.disk.FailAfter(s.w.rng.IntN(24), disk.ErrCrashed)
	}
	err := s.flush.Run()
	s.disk.FailAfter(-1, nil)
	if errors.Is(err, disk.ErrCrashed) {
		s.w.kill(s, true)
		return
	}
	s.w.tracef("server %d checkpoint: %v", s.id, err)
	s.pump(s.core.FlushDone(err))
}

// catchUp takes what is missing from another server, if it can be reached, now and then with a power
// cut in the middle.
func (s *server) catchUp(b *replica.CatchUp) {
	w, from := s.w, s.w.servers[b.From]
	if !from.up || w.cut[from.id][s.id] || w.now < from.resumes {
		s.pump(s.core.CaughtUp(nil, errors.New("no connection")))
		return
	}
	if !w.calm && w.chance(4) {
		s.disk.FailAfter(w.rng.IntN(40), disk.ErrCrashed)
	}
	m, err := b.Pull(replica.LocalSource(from.core))
	s.disk.FailAfter(-1, nil)
	w.tracef("server %d catches up from %d: %v", s.id, b.From, err)
	if errors.Is(err, disk.ErrCrashed) {
		w.kill(s, true)
		return
	}
	if errors.Is(err, replica.ErrNotNeeded) {
		s.pump(s.core.CaughtUp(nil, err))
		return
	}
	if err != nil {
		w.fail("server %d catches up from %d: %w", s.id, b.From, err)
		return
	}
	w.catchUps++
	s.pump(s.core.CaughtUp(m, nil))
}

// crash ends the process; with power, what was not synced is lost in part.
func (s *server) crash(power bool) {
	if !s.up {
		return
	}
	s.up = false
	if power {
		s.disk.Crash(s.w.rng)
	} else {
		s.disk.KillProcess()
	}
}

// compare holds the state against that of the servers that stood at the same index before.
func (s *server) compare() {
	at := s.core.Applied()
	if at == 0 || at%7 != 0 || s.installing {
		return
	}
	sum := s.digest()
	d, seen := s.w.digests[at]
	if !seen {
		s.w.digests[at] = digest{sum, s.id}
		return
	}
	if d.sum != sum {
		s.w.fail("servers %d and %d differ at index %d: %x, %x", d.server, s.id, at, d.sum, sum)
	}
}

// digest is a hash of everything the server holds: names, sessions and bytes.
func (s *server) digest() uint64 {
	hash := s.core.Machine().Digest()
	sum := binary.LittleEndian.Uint64(hash[:])
	found, err := s.core.Machine().Query(op.Query{Code: op.Stat, Path: fileName})
	if err != nil {
		s.w.fail("server %d: %w", s.id, err)
	} else if found.Errno == op.OK {
		d, err := s.store.Digest(found.Nodes[0].Object)
		if err != nil {
			s.w.fail("server %d: %w", s.id, err)
		}
		sum = sum*31 + d
	}
	return sum
}

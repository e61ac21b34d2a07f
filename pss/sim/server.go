package sim

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/paxos-iscsi/paxos-iscsi/pss/agreement"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
	"github.com/paxos-iscsi/paxos-iscsi/pss/log"
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
	starts  bool          // is not up, and a start is due
	resumes time.Duration // stopped until then
	stops   time.Duration // for so long, after its next heartbeat, stranded: the answers wait for it when it goes on
	log     *log.Log
	store   *store.Store
	core    *replica.Core
	out     replica.Output
	memory  *replica.Memory // nil without Members
	writer  replica.LogWriter
	waiting []agreement.Append
	writing bool
	flush   *store.Flush

	installing bool
	compared   uint64        // the index at which its state was compared; 0: it is to be compared again
	wasMaster  bool          // for DeposedReads
	listed     []cell.Server // in its server.conf
	spare      bool          // it has no place in the cell and is off
	pressed    time.Duration // until then the operator waits for what a master says about it
	lost       bool          // it is gone, and another one comes in its place
	leaves     bool          // the operator is taking it out
	wound      wound
	copied     *rootCopy           // an older state of its disk, for Rollback; nil: there is none
	kept       []agreement.Promise // of other servers: its disk has them for certain
	booted     time.Duration       // when the process started
	old        []oldBlock          // of its disk, for Rot
	full       bool                // its disk has a limit

	hangs   time.Duration // its disk does not answer until then
	mute    time.Duration // its disk answers no read until then
	pumping bool          // the Core is at work: what reads the disk now is waited for by all
	stuck   bool          // it did, and the disk hung: the process waits until it does not any more
	reading time.Duration // since when a read waits for that, on its clock; 0: none does

	rateSince time.Duration // rate is in force, and leapt what the clock had shown until then
	leapt     time.Duration
}

func newServer(w *world, id cell.ID) *server {
	s := &server{w: w, id: id}
	s.renew()
	s.rate = 1 + (w.rng.Float64()-0.5)*agreement.MaxDrift
	s.skew = w.between(1, time.Hour)
	return s
}

// clock is the server's own time. It starts anew with every process.
func (s *server) clock() time.Duration {
	return s.skew + s.leapt + time.Duration(float64(s.w.now-s.rateSince)*s.rate)
}

// setClock has the clock leap forward and go on at a rate.
func (s *server) setClock(leap time.Duration, rate float64) {
	s.leapt += time.Duration(float64(s.w.now-s.rateSince)*s.rate) + leap
	s.rateSince, s.rate = s.w.now, rate
}

var quiet = slog.New(slog.NewTextHandler(io.Discard, &slog.HandlerOptions{Level: slog.LevelError + 1}))

// boot starts the server from its disk.
func (s *server) boot() {
	if s.spare || s.lost {
		return
	}
	s.life++
	w := s.w
	s.booted = w.now
	w.tracef("server %d boots", s.id)
	s.skew = w.between(1, time.Hour)
	fail := func(err error) { s.noStart(err) }
	checkpoint, overlay, bodies := w.limits()
	c := replica.Config{ID: s.id, Members: w.members(), Timing: simTiming, Logger: quiet,
		CheckpointBytes: checkpoint, OverlayBytes: overlay, CheckpointEvery: simEvery, DigestEvery: simDigest}
	var err error
	if w.chance(8) { // as after restart autonomic ID
		source := w.all()[w.rng.IntN(len(w.all()))].id
		c.Source = &source
	}
	if w.o.Faults.Has(Members) {
		if c.Identity, err = replica.OpenIdentity(s.disk, s.id, w.bits()); err != nil {
			fail(err)
			return
		}
		c.Servers, c.Life = w.conf(s), w.rng.Uint64()
		if s.memory, err = replica.OpenMemory(s.disk, c.Life); err != nil {
			fail(err)
			return
		}
		if c.Memory = s.memory; w.o.Flaw == TrustRoot && s.wound.back {
			c.Memory = nil
		}
	}
	superseded, err := store.Checkpointed(s.disk, ".")
	if err != nil {
		fail(err)
		return
	}
	if s.log, err = log.Open(s.logDisk(), "log", log.Options{SegmentBytes: simSegment, Superseded: superseded, Bodies: bodies}); err != nil {
		fail(err)
		return
	}
	st, ckpt, err := replica.OpenStore(s.disk, s.log, overlay)
	if err != nil {
		fail(err)
		return
	}
	s.store = st
	if s.core, err = replica.NewCore(c, s.log, st, ckpt, s.clock()); err != nil {
		fail(err)
		return
	}
	s.up, s.writing, s.waiting, s.flush, s.wasMaster = true, false, nil, nil, false
	s.installing, s.compared = false, 0
	s.stuck, s.pumping = false, false
	s.writer, s.out = replica.LogWriter{}, replica.Output{}
	s.resumes, s.stops, s.reading = 0, 0, 0
	s.tick()
	s.look()
	s.scrub()
}

// noStart is a server that an error keeps from starting. If the disk is to blame it is started again later: when there
// may be room, or without its place in the cell.
func (s *server) noStart(err error) {
	var inLog *log.DamageError
	switch {
	case errors.Is(err, errMedium):
	case errors.Is(err, disk.ErrNoSpace) && s.full:
	case s.damaged(err) || s.wound.open && (errors.As(err, &inLog) || errors.Is(err, replica.ErrIdentityDamaged)):
		if s.w.o.Flaw != NeverHeal {
			s.giveUp()
		}
	default:
		s.w.fail("server %d does not start: %w", s.id, err)
		return
	}
	s.w.tracef("server %d does not start: %v", s.id, err)
	if s.w.chance(2) { // as failed says
		s.disk.Crash(s.w.rng)
	} else {
		s.disk.KillProcess()
	}
	if s.starts {
		return
	}
	s.starts = true
	s.w.after(s.w.between(retryNoSpace, 4*retryNoSpace), func() {
		s.starts = false
		if !s.up {
			s.boot()
		}
	})
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
		case s.stuck && s.readsHang():
			s.w.after(hangLook, run)
		default:
			s.stuck = false
			s.guarded(do)
		}
	}
	s.w.after(d, run)
}

// onDisk is later for what waits for the disk: as long as that hangs, for ever.
func (s *server) onDisk(d time.Duration, do func()) {
	s.later(d, func() {
		if s.hung() {
			s.onDisk(hangLook, do)
			return
		}
		do()
	})
}

// onRead is onDisk for what reads.
func (s *server) onRead(d time.Duration, do func()) {
	s.later(d, func() {
		if s.readsHang() {
			s.onRead(hangLook, do)
			return
		}
		if s.reading != 0 {
			s.reading = 0
			s.core.Reading(0)
		}
		do()
	})
}

// hung says that the disk does not answer, and readsHang that it answers no read.
func (s *server) hung() bool      { return s.w.now < s.hangs }
func (s *server) readsHang() bool { return s.w.now < max(s.hangs, s.mute) }

// watchReads notices that the Core reads a disk that hangs: applying an entry needs what is there already, now and then.
func (s *server) watchReads(what, _ string) error {
	s.stuck = s.stuck || what == disk.OpRead && s.pumping && s.readsHang()
	return nil
}

// guarded ends the process when agreement panics because it can't read its log. Any other panic is an oracle's.
func (s *server) guarded(do func()) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		var inLog *log.DamageError
		if err, is := p.(error); is && errors.As(err, &inLog) && s.wound.open {
			s.ended(&replica.HealError{Err: err})
			return
		}
		if !s.w.o.Faults.Has(Errors) || !strings.Contains(fmt.Sprint(p), errMedium.Error()) {
			panic(p)
		}
		s.ended(errMedium)
	}()
	do()
}

func (s *server) tick() {
	s.later(time.Duration(float64(simTiming.Tick)/s.rate), func() { // by its own clock
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
	s.later(0, func() {
		if s.w.o.Flaw == LeaseFromAnswer && m.Type == raftpb.MsgHeartbeatResp {
			echo = s.clock()
		}
		s.pump(s.core.Step(s.clock(), m, stamp, echo))
	})
}

// pump sees to what comes of an input that ended with err.
func (s *server) pump(err error) {
	if err == nil {
		s.pumping = true
		err = s.core.Pump(&s.out)
		s.pumping = false
	}
	if err != nil {
		s.ended(err)
		return
	}
	s.wasMaster = s.wasMaster || s.core.View().Self
	for _, m := range s.out.Messages {
		s.w.send(s.id, m)
	}
	s.waiting = append(s.waiting, s.out.Appends...)
	for _, r := range s.out.Reads {
		s.onRead(s.w.between(50*time.Microsecond, 3*time.Millisecond), func() { s.pump(s.core.ReadDone(r, r.Carry(s.log))) })
	}
	for _, r := range s.out.Replies {
		s.reply(r)
	}
	if s.out.Flush != nil {
		s.flush = s.out.Flush
		s.onDisk(s.w.between(netFast, 20*time.Millisecond), s.checkpoint)
	}
	if b := s.out.CatchUp; b != nil {
		s.onRead(s.w.between(netSlow, 50*time.Millisecond), func() { s.catchUp(b) })
	}
	if s.out.Repair != nil {
		s.mend(*s.out.Repair)
	}
	if s.out.Recycle != 0 {
		if err := s.log.Recycle(s.out.Recycle); err != nil {
			s.ended(err)
			return
		}
	}
	for i := range s.out.Notices {
		s.w.notify(s.id, s.out.Notices[i])
	}
	if id := s.out.Identity; id != nil {
		s.onDisk(s.w.between(netFast, 5*time.Millisecond), func() { s.keep(*id) })
	}
	if ps := s.out.Remember; ps != nil {
		s.onDisk(s.w.between(netFast, 5*time.Millisecond), func() { s.memorise(ps) })
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
		s.cutPower(40)
	}
	s.put(batch)
}

// put writes a batch, again and again while there is no room for it.
func (s *server) put(batch []agreement.Append) {
	err := s.writer.Write(s.log, batch)
	s.endPowerCut()
	if errors.Is(err, disk.ErrCrashed) {
		s.w.kill(s, true)
		return
	}
	if errors.Is(err, disk.ErrNoSpace) {
		s.later(retryNoSpace, func() { s.put(batch) })
		return
	}
	if err != nil {
		s.ended(err)
		return
	}
	s.onDisk(s.w.between(50*time.Microsecond, 3*time.Millisecond), func() {
		if s.w.o.Flaw != AckUnsynced {
			err := s.writer.Finish(s.log, batch)
			if err != nil && (s.w.o.Flaw != AckFailedSync || !errors.Is(err, errMedium)) {
				s.ended(err)
				return
			}
		}
		s.writing = false
		if s.installing {
			s.installing, s.compared = false, 0
		}
		var err error
		for i := range batch {
			if err = s.core.Appended(s.clock(), &batch[i]); err != nil {
				break
			}
		}
		s.pump(err)
		if err == nil && s.up {
			s.prepare()
		}
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
	s.keepOld()
	s.cutPower(24)
	before := s.store.Adopted()
	err := s.flush.Run()
	s.w.adopted += s.store.Adopted() - before
	s.endPowerCut()
	if errors.Is(err, disk.ErrCrashed) {
		s.w.kill(s, true)
		return
	}
	s.w.tracef("server %d checkpoint: %v", s.id, err)
	s.compared = 0
	s.pump(s.core.FlushDone(err))
}

// catchUp takes what is missing from the server that it is to come from or from any other, if it can be reached, now
// and then with a power cut in the middle. The next attempt goes to another one, as replica's do.
func (s *server) catchUp(b *replica.CatchUp) {
	w, from := s.w, s.w.servers[b.From]
	if w.chance(2) {
		if from = w.all()[w.rng.IntN(len(w.all()))]; from == s {
			from = w.servers[b.From]
		}
	}
	if !s.reaches(from) || from.readsHang() {
		s.pump(s.core.CaughtUp(nil, errors.New("no connection")))
		return
	}
	s.cutPower(40)
	m, err := b.Pull(replica.LocalSource(from.core, b.Need))
	s.endPowerCut()
	w.tracef("server %d catches up from %d: %v", s.id, from.id, err)
	if errors.Is(err, disk.ErrCrashed) {
		w.kill(s, true)
		return
	}
	from.mendFor(err)
	if errors.Is(err, replica.ErrNotNeeded) || errors.Is(err, replica.ErrBehind) || errors.Is(err, disk.ErrNoSpace) || errors.Is(err, errMedium) ||
		errors.Is(err, disk.ErrCrashed) || s.damaged(err) || from.damaged(err) {
		s.pump(s.core.CaughtUp(nil, err))
		return
	}
	if err != nil {
		w.fail("server %d catches up from %d: %w", s.id, from.id, err)
		return
	}
	w.catchUps++
	s.pump(s.core.CaughtUp(m, nil))
}

// cutPower has the power fail, now and then, at one of the next changes to the disk. Where disks fail by themselves
// they do that instead.
func (s *server) cutPower(changes int) {
	if !s.w.calm && !s.w.o.Faults.Has(Errors) && s.w.chance(4) {
		s.disk.FailAfter(s.w.rng.IntN(changes), disk.ErrCrashed)
	}
}

// endPowerCut takes a power cut back that was to come and did not, and leaves a disk that fails as it is.
func (s *server) endPowerCut() {
	if !s.w.o.Faults.Has(Errors) || s.w.calm {
		s.disk.FailAfter(-1, nil)
	}
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
	if s.wound.open && !s.wound.apart {
		return // where its disk lost block and record together, only the scrub notices (package store)
	}
	if s.compared == at {
		return // nothing but an entry, a start, a checkpoint, an installed state or a repair changes what it holds
	}
	sum, whole := s.digest()
	if !whole {
		return
	}
	s.compared = at
	d, seen := s.w.digests[at]
	if !seen {
		s.w.digests[at] = digest{sum, s.id}
		return
	}
	if d.sum != sum {
		s.w.fail("servers %d and %d differ at index %d: %x, %x", d.server, s.id, at, d.sum, sum)
	}
}

// digest is a hash of everything the server holds: names, sessions and bytes. It reports false when a disk that fails
// or is damaged keeps it from that.
func (s *server) digest() (sum uint64, whole bool) {
	hash := s.core.Machine().Digest()
	sum = binary.LittleEndian.Uint64(hash[:])
	for _, o := range s.store.Objects(store.Newest) {
		d, err := s.store.Digest(o.Number)
		if s.damaged(err) || errors.Is(err, errMedium) {
			return 0, false
		}
		if err != nil {
			s.w.fail("server %d: %w", s.id, err)
		}
		sum = sum*31 + o.Number
		sum = sum*31 + d
	}
	return sum, true
}

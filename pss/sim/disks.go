package sim

import (
	"errors"
	"io/fs"
	"path"
	"slices"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
	"github.com/paxos-iscsi/paxos-iscsi/pss/replica"
	"github.com/paxos-iscsi/paxos-iscsi/pss/store"
)

// errMedium is what a disk answers that can't read or write any more.
var errMedium = errors.New("medium error")

const (
	rotBlock     = 4096
	keptBlocks   = 64                     // older contents that a lost write may leave
	keptTogether = 4                      // of them, kept at a checkpoint
	simReserve   = 384 << 10              // bytes that no new operation may use
	maxRoom      = simReserve + 256<<10   // bytes that are left on a disk that fills up
	repairAfter  = 200 * time.Millisecond // a repair that failed is tried again
	scrubEvery   = 300 * time.Millisecond
	spaceLook    = 100 * time.Millisecond
	retryNoSpace = 50 * time.Millisecond
	hangLook     = 20 * time.Millisecond
	hangShort    = 100 * time.Millisecond
	hangLong     = 5 * time.Second
)

// oldBlock is what a block of a file held at some time.
type oldBlock struct {
	file  string
	at    int64
	bytes []byte
	life  int // of the server then, and when: what was kept together was lost together
	when  time.Duration
}

// rot has a server's disk return bytes that nobody wrote there: flipped bits, a write that went to another place, writes
// that were lost, or half of one. The server is wounded until a scrub found nothing any more.
func (s *server) rot() {
	switch {
	case !s.w.mayWound(s):
	case s.w.chance(20):
		s.rotControl()
	case len(s.old) > 0 && s.w.chance(2):
		s.loseWrites()
	default:
		s.rotBlock()
	}
}

// rotBlock spoils a block.
func (s *server) rotBlock() {
	name, at, was := s.anyBlock()
	if was == nil {
		return
	}
	rng := s.w.rng
	now := append([]byte(nil), was...)
	kind := bitsFlipped
	if len(s.old) == 0 || s.w.chance(3) {
		now[rng.IntN(len(now))] ^= 1 << rng.IntN(8)
	} else {
		n := copy(now, s.old[rng.IntN(len(s.old))].bytes)
		kind = writeMisdirected
		if n > disk.SectorSize && s.w.chance(2) {
			copy(now[n/2:], was[n/2:])
			kind = writeTorn
		}
	}
	s.remember(oldBlock{file: name, at: at, bytes: was, life: s.life, when: s.w.now})
	s.overwrite(name, at, now, kind)
}

// loseWrites puts older contents back where they were: one block, or several that were kept together, as if the writes
// since had never come to the disk.
func (s *server) loseWrites() {
	first := s.old[s.w.rng.IntN(len(s.old))]
	for _, o := range slices.Clone(s.old) {
		together := o.life == first.life && o.when == first.when
		if o.file == first.file && o.at == first.at && together || together && s.w.chance(2) {
			s.overwrite(o.file, o.at, o.bytes, writeLost)
		}
	}
}

// keepOld keeps what some blocks hold before a checkpoint writes: what a lost write leaves.
func (s *server) keepOld() {
	if !s.w.o.Faults.Has(Rot) || s.w.calm {
		return
	}
	for range keptTogether {
		if name, at, was := s.anyBlock(); was != nil {
			s.remember(oldBlock{file: name, at: at, bytes: was, life: s.life, when: s.w.now})
		}
	}
}

// anyBlock chooses a block of the data, where something is most of the time, and reads it: nil if there is none or the
// disk has a fault already.
func (s *server) anyBlock() (name string, at int64, was []byte) {
	files := s.files("data")
	if len(files) == 0 {
		return "", 0, nil
	}
	rng := s.w.rng
	name = files[rng.IntN(len(files))]
	base := path.Base(name)
	if (base == "index" || base == "pages") && !s.w.chance(8) {
		return "", 0, nil // that ends the server's membership each time
	}
	f, err := s.disk.Open(name, 0)
	if err != nil {
		s.noFault(err)
		return "", 0, nil
	}
	defer f.Close() // a disk in memory
	size, err := f.Size()
	if err != nil || size == 0 {
		return "", 0, nil
	}
	blocks := (size + rotBlock - 1) / rotBlock
	number := rng.Int64N(blocks)
	if base != "sums" && !s.w.chance(8) { // clients work at the ends of chunks
		number = min(blocks-1, rng.Int64N(2))
		if s.w.chance(2) {
			number = blocks - 1 - number
		}
	}
	at = number * rotBlock
	was = make([]byte, min(rotBlock, size-at))
	if _, err := f.ReadAt(was, at); err != nil {
		s.noFault(err)
		return "", 0, nil
	}
	return name, at, was
}

// overwrite writes a block that the server did not write.
func (s *server) overwrite(name string, at int64, now []byte, kind fault) {
	f, err := s.disk.Open(name, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		s.noFault(err)
		return
	}
	defer f.Close() // a disk in memory
	size, err := f.Size()
	if err != nil || at+int64(len(now)) > size {
		return
	}
	was := make([]byte, len(now))
	if _, err := f.ReadAt(was, at); err != nil || string(was) == string(now) {
		s.noFault(err)
		return
	}
	s.w.count(kind, s)
	if !s.wound.open {
		s.wound = wound{open: true, rot: true}
	}
	s.wound.dirty = true
	if _, err = f.WriteAt(now, at); err == nil {
		err = f.Sync()
	}
	s.noFault(err)
	if base := path.Base(name); base == "sums" || base == "index" || base == "pages" {
		s.w.kill(s, false) // a process has checksums in memory and goes on with them, and scrubs with them
	}
}

// noFault takes an error of doing damage: the disk has a fault already, or there is no room for another.
func (s *server) noFault(err error) {
	if err != nil && !errors.Is(err, errMedium) && !errors.Is(err, disk.ErrNoSpace) {
		s.w.fail("a fault for server %d: %w", s.id, err)
	}
}

// rotControl flips a bit in a file that all depends on, and ends the process, which has what is in it in memory. Of the
// log it is a segment that another one follows: what becomes of the last frames of all can't be told from a torn write
// (package log), and so it is nothing that the cell promises to bear.
func (s *server) rotControl() {
	names := []string{"checkpoint", "identity"}
	if s.up {
		segments := s.files("log")
		if n := s.log.Stats().Segments; n > 1 && n <= len(segments) {
			names = append(names, segments[:n-1]...)
		}
	}
	f, err := s.disk.Open(names[s.w.rng.IntN(len(names))], 0)
	if err != nil {
		return // there is no checkpoint yet, or the disk has a fault
	}
	defer f.Close() // a disk in memory
	size, err := f.Size()
	if err != nil || size == 0 {
		return
	}
	var b [1]byte
	at := s.w.rng.Int64N(size)
	if _, err = f.ReadAt(b[:], at); err == nil {
		b[0] ^= 1 << s.w.rng.IntN(8)
		_, err = f.WriteAt(b[:], at)
	}
	if err != nil {
		return
	}
	s.noFault(f.Sync()) // what was written is shown, also when the disk fails just now
	s.w.count(controlRotten, s)
	if !s.wound.open {
		s.wound = wound{open: true, rot: true}
	}
	s.wound.dirty = true
	s.w.kill(s, false)
}

// hang has the disk not answer for a while, or answer no read.
func (s *server) hang(d time.Duration) {
	if s.w.chance(2) {
		s.w.count(readsHang, s)
		s.mute = s.w.now + d
		return
	}
	s.w.count(diskHangs, s)
	s.hangs = s.w.now + d
}

func (s *server) remember(b oldBlock) {
	if len(s.old) < keptBlocks {
		s.old = append(s.old, b)
		return
	}
	s.old[s.w.rng.IntN(keptBlocks)] = b
}

// files lists the files below a folder.
func (s *server) files(dir string) (all []string) {
	entries, err := s.disk.ReadDir(dir)
	if err != nil {
		return nil // it is not made yet
	}
	for _, e := range entries {
		if name := path.Join(dir, e.Name); e.Dir {
			all = append(all, s.files(name)...)
		} else {
			all = append(all, name)
		}
	}
	return all
}

// scrub verifies everything that the server holds, has damage repaired, and closes the wound of a disk that is clean.
func (s *server) scrub() {
	s.later(s.w.between(scrubEvery/2, scrubEvery), func() {
		if s.wound.open && s.wound.dirty && s.core.Belongs() {
			s.scrubOnce()
		}
		if s.up {
			s.scrub()
		}
	})
}

func (s *server) scrubOnce() {
	if s.installing {
		return // there is nothing to be read while the disk has no room for what is installed
	}
	s.wound.dirty = false
	for _, v := range []store.View{store.Newest, store.Checkpoint} {
		for _, o := range s.store.Objects(v) {
			var chunks []uint32
			err := s.store.ChangedSince(v, o.Number, 0, func(chunk uint32, _ uint64) bool {
				chunks = append(chunks, chunk)
				return true
			})
			for _, chunk := range chunks {
				if v == store.Checkpoint {
					_, rerr := s.store.VerifyRecords(o.Number, chunk)
					err = errors.Join(err, rerr)
				}
				bad, _, _, verr := s.store.Verify(v, o.Number, chunk, s.w.buffer[:])
				if err = errors.Join(err, verr); bad.Len() > 0 {
					s.wound.dirty = true
					ref := replica.ChunkRef{Object: o.Number, Chunk: chunk}
					if again := s.repair(ref); again != nil {
						s.w.tracef("server %d repairs: %v", s.id, again)
					}
				}
			}
			if err != nil && !errors.Is(err, store.ErrNoObject) {
				s.wound.dirty = true // it did not come to its end
				s.ended(err)
				return
			}
		}
	}
	if !s.wound.dirty {
		s.wound.dirty = s.store.Dirty() // a checkpoint comes first: what is in memory is not on disk yet
	}
	if !s.wound.dirty && s.wound.rot {
		s.w.tracef("server %d is clean again", s.id)
		s.wound = wound{}
	}
	s.pump(nil)
}

// repair takes the damaged blocks of a chunk from other servers, as replica's repairs do.
func (s *server) repair(ref replica.ChunkRef) error {
	bad, _, _, err := s.store.Verify(store.Newest, ref.Object, ref.Chunk, s.w.buffer[:])
	if errors.Is(err, store.ErrNoObject) {
		return nil
	}
	if err != nil {
		return err
	}
	if bad.Len() == 0 {
		s.core.Mended()
		return nil
	}
	if s.w.o.Flaw == NoRepair {
		return replica.ErrNoCopy
	}
	others, ahead, damaged := 0, 0, 0
	for _, t := range s.w.all() {
		if t == s {
			continue
		}
		others++
		if !s.reaches(t) {
			continue
		}
		isAhead, isDamaged, err := s.mendFrom(t, ref, &bad)
		if err != nil {
			return err
		}
		if bad.Len() == 0 {
			s.w.injected[blocksRepaired]++
			return nil
		}
		if replica.NoHelp(s.id, isAhead, isDamaged) {
			ahead++
		}
		if isDamaged && t.id.Core() {
			damaged++
		}
	}
	if ahead == others && s.core.CanEnd(damaged) {
		return replica.ErrGoneEverywhere
	}
	return replica.ErrNoCopy
}

// mendFrom is what a replica's repairs ask of one server.
func (s *server) mendFrom(t *server, ref replica.ChunkRef, bad *store.Blocks) (ahead, damaged bool, err error) {
	var img store.Image
	for _, v := range []store.View{store.Newest, store.Checkpoint} {
		err := t.store.Export(v, ref.Object, ref.Chunk, bad, &img)
		var damage *store.DamageError
		if errors.As(err, &damage) && v == store.Newest {
			damaged = true
			err = t.store.Export(v, ref.Object, ref.Chunk, new(store.Blocks), &img)
		}
		switch {
		case errors.Is(err, store.ErrNoObject):
			ahead = ahead || v == store.Newest
			continue
		case errors.As(err, &damage):
			continue // it repairs that itself
		case err != nil:
			return ahead, damaged, nil // it is about to end
		}
		have, err := s.core.Mend(&img, bad)
		if errors.Is(err, store.ErrNoObject) {
			*bad = store.Blocks{}
			return ahead, damaged, nil
		}
		if err != nil {
			return ahead, damaged, err
		}
		bad.Remove(&have)
		if here, err := s.store.LastChange(ref.Object, ref.Chunk); err == nil && v == store.Newest {
			ahead = img.Index > here && (!damaged || replica.IsBeyond(&img, bad, here))
		}
		if bad.Len() == 0 {
			break
		}
	}
	return ahead, damaged, nil
}

// reaches says whether the server can connect to another one.
func (s *server) reaches(t *server) bool {
	return t.up && s.w.now >= t.resumes && !s.w.cut[s.id][t.id] && !s.w.cut[t.id][s.id]
}

// mendFor has damage repaired that another server met here while it caught up.
func (s *server) mendFor(err error) {
	var damage *store.DamageError
	if !s.damaged(err) || !errors.As(err, &damage) {
		return
	}
	ref := replica.ChunkRef{Object: damage.Object, Chunk: uint32(damage.Block / store.BlocksPerChunk)}
	s.later(s.w.between(netFast, repairAfter), func() {
		if err := s.repair(ref); err != nil {
			s.w.tracef("server %d repairs for another: %v", s.id, err)
		}
		s.pump(nil)
	})
}

// mend carries out the repair that applying waits for.
func (s *server) mend(at replica.Repair) {
	s.onRead(s.w.between(netFast, 50*time.Millisecond), func() {
		s.pump(s.core.Repaired(at, s.repair(at.ChunkRef)))
	})
}

// damaged says whether an error is about damage that this run did to this server's disk.
func (s *server) damaged(err error) bool {
	var damage *store.DamageError
	return errors.As(err, &damage) && s.wound.open && !s.wound.apart
}

// diskTrouble has the disks fail in the ways that the run has.
func (w *world) diskTrouble() {
	all := w.all()
	s := all[w.rng.IntN(len(all))]
	if w.o.Faults.Has(Rot) {
		s.rot()
	}
	if w.o.Faults.Has(Full) && w.chance(4) {
		if s.full = !s.full; s.full {
			w.count(diskFull, s)
			s.disk.SetCapacity(s.disk.Used() + w.rng.Int64N(maxRoom))
		} else {
			s.disk.SetCapacity(0)
		}
	}
	if w.o.Faults.Has(Hang) && !s.readsHang() && w.chance(4) {
		s.hang(w.between(hangShort, hangLong))
	}
	if w.o.Faults.Has(Errors) && s.up && w.chance(2) {
		w.count(diskFails, s)
		s.disk.FailAfter(w.rng.IntN(30), errMedium)
	}
}

// failed ends the process of a server whose disk failed, now and then with a power cut. Without one the operating system
// goes on to show what a failed sync did not bring to the disk.
func (s *server) failed(err error) {
	s.w.tracef("server %d ends: %v", s.id, err)
	s.w.kill(s, s.w.chance(2))
}

// look tells the Core how much room its disk has.
func (s *server) look() {
	if free, _, err := s.disk.Space(); err == nil {
		s.core.Space(free, simReserve)
	}
	s.later(spaceLook, s.look)
}

package log

import (
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
)

// Names in the log's folder.
const (
	suffix      = ".log"
	digits      = 16
	prepareName = "prepare.tmp" // the segment that Prepare makes
	rollName    = "roll.tmp"    // the segment that Append makes because none is ready
)

// zeroBytes is how much Prepare writes at once.
const zeroBytes = 256 << 10

// segmentName returns the file of a segment, relative to the log's folder.
func segmentName(number uint64) string {
	return fmt.Sprintf("%0*x%s", digits, number, suffix)
}

// parseName says whether a file is a segment, and which.
func parseName(name string) (number uint64, ok bool) {
	hex, ok := strings.CutSuffix(name, suffix)
	number, err := strconv.ParseUint(hex, 16, 64)
	return number, ok && err == nil && name == segmentName(number)
}

func (l *Log) open(name string, create disk.Flags) (disk.File, error) {
	flags := create
	if l.options.Direct {
		flags |= disk.Direct
	}
	return l.fs.Open(path.Join(l.dir, name), flags)
}

// Between is called by what writes a whole segment after each piece, with the bytes written so far. It may take its
// time, so that the disk serves others meanwhile. An error of it ends the work and is returned.
type Between func(written, size int64) error

// makeFile makes a file of the given size that reads as zeros. If zero is set they are written and
// synced, so that the file system has nothing left to do when they are written over.
func (l *Log) makeFile(name string, size int64, zero bool, between Between) (err error) {
	f, err := l.open(name, disk.Create)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err != nil { // give back the space; that it may fail too adds nothing to the error
			_ = l.fs.Remove(path.Join(l.dir, name))
		}
	}()
	if err := f.Allocate(0, size); err != nil || !zero {
		return err
	}
	zeros := disk.Aligned(int(min(size, zeroBytes)))
	for off := int64(0); off < size; off += int64(len(zeros)) {
		if _, err := f.WriteAt(zeros[:min(size-off, int64(len(zeros)))], off); err != nil {
			return err
		}
		if between == nil {
			continue
		}
		if err := between(min(off+int64(len(zeros)), size), size); err != nil {
			return err
		}
	}
	return f.Sync()
}

// makeReady gives a file the next number and makes it the last of the ready segments. s has its size.
// naming is held. An error of it breaks the log: it is not known what the folder holds.
func (l *Log) makeReady(name string, s *segment) error {
	l.mu.RLock()
	s.number = l.index.newest() + uint64(len(l.ready)) + 1
	l.mu.RUnlock()
	to := segmentName(s.number)
	err := l.fs.Rename(path.Join(l.dir, name), path.Join(l.dir, to))
	if err == nil {
		// Before the folder is synced the file may come back under the name it had, so it must
		// not be written to.
		err = l.fs.SyncDir(l.dir)
	}
	if err == nil {
		s.file, err = l.open(to, 0)
	}
	if err != nil {
		return l.fail("making a segment ready", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ready = append(l.ready, s)
	return nil
}

// Prepare makes the next segment ready if none is, and bodies if they are wanted: an Append that reaches the end of the
// active segment then goes on without delay, and its syncs are as fast as can be. between is called as it goes on, unless
// it is nil. An error that satisfies errors.Is with disk.ErrNoSpace, and one of between, leaves everything as it was.
func (l *Log) Prepare(between Between) error {
	l.preparing.Lock()
	defer l.preparing.Unlock()
	if err := l.failure(); err != nil {
		return err
	}
	if err := l.PrepareBodies(); err != nil {
		return err
	}
	err := l.prepareSegment(between)
	if errors.Is(err, disk.ErrNoSpace) {
		return errors.Join(err, l.shedBodies())
	}
	return err
}

// shedBodies gives back the space of bodies that are not in use.
func (l *Log) shedBodies() error {
	l.naming.Lock()
	defer l.naming.Unlock()
	l.mu.Lock()
	l.bodies.dead = append(l.bodies.dead, l.bodies.ready...)
	l.bodies.ready, l.bodies.wanted = nil, false
	l.mu.Unlock()
	return l.removeDead()
}

// PrepareBodies is the part of Prepare that takes no time: it makes bodies ready if they are wanted, and of the files
// that were given to the log (Spare). It goes on while a segment is prepared.
func (l *Log) PrepareBodies() error {
	if err := l.failure(); err != nil {
		return err
	}
	l.naming.Lock()
	err := l.prepareBodies()
	l.naming.Unlock()
	if errors.Is(err, disk.ErrNoSpace) {
		err = errors.Join(err, l.shedBodies())
	}
	if err != nil {
		return fmt.Errorf("preparing log bodies: %w", err)
	}
	return nil
}

// prepareSegment makes the next segment ready if none is. preparing is held.
func (l *Log) prepareSegment(between Between) error {
	if l.firstReady() != nil {
		return nil
	}
	size := l.options.SegmentBytes
	if err := l.makeFile(prepareName, size, true, between); err != nil {
		return fmt.Errorf("preparing a log segment: %w", err)
	}
	l.naming.Lock()
	defer l.naming.Unlock()
	if l.firstReady() != nil { // Recycle came first
		if err := l.fs.Remove(path.Join(l.dir, prepareName)); err != nil {
			return fmt.Errorf("preparing a log segment: %w", err)
		}
		return nil
	}
	return l.makeReady(prepareName, &segment{size: size})
}

// Recycle gives up segments all of whose entries are at or before upTo, which the caller will not
// ask for again and which must be committed: Options.Spares of them become ready again, more are
// removed. Entries that share a segment with later ones stay. It waits for calls of Entries that are
// reading what goes. Any error breaks the log.
func (l *Log) Recycle(upTo uint64) error {
	l.naming.Lock()
	defer l.naming.Unlock()
	for {
		s, err := l.giveUp(upTo)
		if err != nil {
			return err
		}
		if s == nil {
			return l.removeDead()
		}
		// One after the other, each with a sync of the folder: then the segments that are left after
		// a crash follow each other, and a gap between them is damage.
		if err := s.file.Close(); err != nil {
			return l.fail("recycling", err)
		}
		l.mu.RLock()
		keep := len(l.ready) < l.options.Spares && s.size == l.options.SegmentBytes
		l.mu.RUnlock()
		if keep {
			err = l.makeReady(segmentName(s.number), s)
		} else {
			err = l.remove(s.number)
		}
		if err != nil {
			return err
		}
	}
}

// giveUp takes the oldest segment out of the index, if it may go, and waits until no one reads it.
//
// What stays must be able to stand alone after a crash. So the oldest of it must have a synced
// frame; and while entries were replaced by others that are not synced, nothing goes.
func (l *Log) giveUp(upTo uint64) (*segment, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken != nil {
		return nil, l.broken
	}
	x := &l.index
	spare := len(x.segments) - 1
	if !l.begun {
		spare--
	}
	if spare < 1 || l.replacing || x.segments[0].end() > upTo+1 {
		return nil, nil
	}
	s := x.dropOldest()
	for s.readers > 0 {
		l.idle.Wait()
	}
	for _, b := range s.bodies {
		l.bodies.drop(b)
	}
	s.bodies = nil
	return s, nil
}

// remove removes a segment's file for good.
func (l *Log) remove(number uint64) error {
	err := l.fs.Remove(path.Join(l.dir, segmentName(number)))
	if err == nil {
		err = l.fs.SyncDir(l.dir)
	}
	if err != nil {
		return l.fail("removing a segment", err)
	}
	return nil
}

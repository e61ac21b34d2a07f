package sim

import (
	"io"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
)

// Limits of Rollback.
const (
	rollbackOneIn = 5 // runs
	wipesRarer    = 5 // other wounds, so that there is room for these

	lagLo   = 100 * time.Millisecond // the others have missed at least as much of what a server promised
	lagHi   = time.Second
	awayLo  = 2 * time.Second // the master, and who else knows better, are away for so long
	awayHi  = 5 * time.Second
	backEnd = 4 * time.Second // after a start all have been asked: longer than replica's recallEnds
)

// promisesFile is what a root keeps of the others' promises and its own starts (replica.Memory).
const promisesFile = "promises"

// rootCopy is the root of a core server as it was when its process ended, to be put back later.
type rootCopy struct {
	disk       *disk.Mem
	number     uint64 // of the member that it belonged to
	start      uint64 // how often that had started
	term, last uint64 // where its log ended, at most
}

// rollTrouble keeps a copy of a core server's root, or puts back the one that there is.
func (w *world) rollTrouble() {
	s, logOnly := w.anyCore(), w.chance(2)
	switch {
	case !s.up || s.wound.open || !s.core.Belongs():
	case s.copied == nil || s.copied.number != s.core.Node().Self():
		s.copyRoot()
	case !w.mayPutBack(s, logOnly):
	case w.chance(3):
		s.putBack(logOnly)
	default:
		w.putBackAlone(s, logOnly)
	}
}

// copyRoot ends a server's process and keeps a copy of its root.
func (s *server) copyRoot() {
	n := s.core.Node()
	at, number := n.Position(), n.Self()
	c := &rootCopy{number: number, start: n.Promised(number).Start, term: at.Term, last: at.Last}
	s.w.tracef("server %d: a copy of its root is kept: start %d, entry %d in term %d", s.id, c.start, c.last, c.term)
	s.w.kill(s, s.w.chance(2))
	c.disk = s.disk.Clone()
	s.copied = c
}

// mayPutBack says whether the cell promises to notice it, if the copy of a server's root, or of all of it but its
// memory of promises, is put back: a minority is wounded, and whoever makes a majority with the server, one of them has
// on its disk that it promised more. Which of them vote changes with Resize: then all have to know. What is known to
// those only that may forget it is nothing that the cell promises (replica/recall.go).
func (w *world) mayPutBack(s *server, logOnly bool) bool {
	c := s.copied
	if c == nil || !s.up || s.wound.open || !s.core.Belongs() || s.core.Node().Self() != c.number || !w.mayWound(s) {
		return false
	}
	cores, know := 0, 0
	for _, t := range w.all() {
		if !t.id.Core() {
			continue
		}
		if t.wound.back {
			return false // it may be one of those who know, and has forgotten it
		}
		cores++
		if t != s && t.remembers(c, logOnly) {
			know++
		}
	}
	if w.o.Faults.Has(Resize) {
		return know == cores-1
	}
	return know > cores/2
}

// remembers says whether a server has on its disk that another one promised more than a copy of its root knows.
func (s *server) remembers(c *rootCopy, logOnly bool) bool {
	for i := range s.kept {
		p := &s.kept[i]
		if p.Member == c.number {
			return logOnly && p.Beyond(c.term, c.last) || !logOnly && p.Start > c.start
		}
	}
	return false
}

// putBack ends a server's process and puts the copy of its root back, whole or beside its newer memory of promises.
func (s *server) putBack(logOnly bool) {
	s.w.kill(s, s.w.chance(2))
	older, kind := s.copied.disk, rootPutBack
	if logOnly {
		kind = logPutBack
		if err := copyFile(older, s.disk, promisesFile); err != nil {
			s.w.fail("the copy of server %d's root: %w", s.id, err)
		}
	} else {
		s.kept = nil
	}
	s.w.count(kind, s)
	s.insert(older)
	s.copied = nil
	s.hurt()
	s.wound.back = true
}

// putBackAlone puts a copy back where nobody but the rule keeps the server from harm: some of the others, so many that
// they are a majority with it, have missed what it acknowledged last, and the master and the others that know that are
// out of reach when it starts.
func (w *world) putBackAlone(s *server, logOnly bool) {
	m := w.master()
	if m == nil || m == s {
		s.putBack(logOnly)
		return
	}
	behind, ahead := w.split(s, m)
	for _, t := range behind {
		w.isolate(t)
	}
	w.after(w.between(lagLo, lagHi), func() {
		for _, t := range behind {
			w.mend(t)
		}
		if w.calm || !w.mayPutBack(s, logOnly) {
			return
		}
		for _, t := range ahead {
			w.isolate(t)
			w.after(w.between(awayLo, awayHi), func() { w.mend(t) })
		}
		s.putBack(logOnly)
	})
}

// split chooses so many core servers that a majority is left, which has the master m and the server s, and returns them
// and the others of that majority.
func (w *world) split(s, m *server) (behind, ahead []*server) {
	var others []*server
	for _, t := range w.all() {
		if t.id.Core() && t != s && t != m {
			others = append(others, t)
		}
	}
	w.rng.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
	minority := (len(others) + 1) / 2
	return others[:minority], append(others[minority:], m)
}

// isolate cuts all links of a server.
func (w *world) isolate(s *server) {
	w.tracef("server %d is alone", s.id)
	for i := range w.cut {
		w.cut[s.id][i], w.cut[i][s.id] = true, true
	}
}

// unnoticed is a server that works with an older root: perhaps it was let in before it heard from those that know better,
// and is told later. Once all of them could answer it is one that takes part with promises forgotten.
func (s *server) unnoticed() {
	if s.w.calm && s.w.now >= s.booted+backEnd {
		s.w.fail("server %d takes part with an older state of its root", s.id)
	}
}

// copyFile makes a file of one disk that of another.
func copyFile(to, from disk.FS, name string) error {
	src, err := from.Open(name, 0)
	if err != nil {
		return err
	}
	defer src.Close() // only read from
	size, err := src.Size()
	if err != nil {
		return err
	}
	b := make([]byte, size)
	if _, err := src.ReadAt(b, 0); err != nil && err != io.EOF {
		return err
	}
	dst, err := to.Open(name, disk.Create)
	if err != nil {
		return err
	}
	defer dst.Close() // a disk in memory
	if err := dst.Truncate(size); err != nil {
		return err
	}
	if _, err := dst.WriteAt(b, 0); err != nil {
		return err
	}
	if err := dst.Sync(); err != nil {
		return err
	}
	return to.SyncDir(".")
}

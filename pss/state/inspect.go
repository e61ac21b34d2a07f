package state

import (
	"cmp"
	"math/bits"
	"slices"
)

// SessionInfo is what the cell knows of a client's session.
type SessionInfo struct {
	ID    uint64
	Epoch uint32 // how often it was opened
	Acked uint64 // every number below it is answered and forgotten
	Last  uint64 // the highest number that was executed; Acked-1 if none from there on was
}

// Sessions lists the sessions in the order of their numbers. It belongs to the goroutine that applies.
func (m *Machine) Sessions() []SessionInfo {
	list := make([]SessionInfo, 0, len(m.sessions.byID))
	for _, s := range m.sessions.byID {
		list = append(list, SessionInfo{ID: s.id, Epoch: s.epoch, Acked: s.acked, Last: s.last()})
	}
	slices.SortFunc(list, func(a, b SessionInfo) int { return cmp.Compare(a.ID, b.ID) })
	return list
}

// last is the highest number executed.
func (s *session) last() uint64 {
	window := uint64(len(s.done) * 64)
	last := s.acked - 1
	for word, done := range s.done {
		for ; done != 0; done &= done - 1 {
			// The number in the window whose place this bit is.
			place := uint64(word*64 + bits.TrailingZeros64(done))
			last = max(last, s.acked+(place-s.acked%window+window)%window)
		}
	}
	return last
}

package state

// Refusable says whether an operation of a session can be refused without asking the cell: it did not take effect, and
// no earlier sending of it can any more, because the session was opened anew since, under the epoch it comes with. It
// belongs to the goroutine that applies.
func (m *Machine) Refusable(session uint64, epoch uint32, seq uint64) bool {
	s := m.sessions.byID[session]
	return s != nil && s.epoch == epoch && !s.executed(seq)
}

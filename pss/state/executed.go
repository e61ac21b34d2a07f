package state

// Executed says whether an operation of a session took effect already, so that applying it again only repeats its
// result. It belongs to the goroutine that applies.
func (m *Machine) Executed(session, seq uint64) bool {
	s := m.sessions.byID[session]
	return s != nil && s.executed(seq)
}

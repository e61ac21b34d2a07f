package state

import "testing"

func TestLastOfASession(t *testing.T) {
	window := uint64(len(session{}.done) * 64)
	for _, acked := range []uint64{1, 5, window - 1, window, window + 1, 3*window - 2} {
		s := &session{acked: acked}
		if got := s.last(); got != acked-1 {
			t.Errorf("acked %d, nothing executed: %d", acked, got)
		}
		for _, seq := range []uint64{acked + 2, acked, acked + window - 1} {
			place := seq % window
			s.done[place/64] |= 1 << (place % 64)
		}
		if got := s.last(); got != acked+window-1 {
			t.Errorf("acked %d: %d, want %d", acked, got, acked+window-1)
		}
	}
}

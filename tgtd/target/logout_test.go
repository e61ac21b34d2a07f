package target

import (
	"slices"
	"testing"
)

// TestOfflineAsks: the initiators of a target that goes offline are asked to log out; of no other, and for no other
// change.
func TestOfflineAsks(t *testing.T) {
	b := newBench(t, nil)
	must(t, b.NewTarget(1, "iqn.x:a"))
	must(t, b.NewTarget(2, "iqn.x:b"))
	must(t, b.SetTargetParam(2, "state", "ready"))
	must(t, b.SetTargetParam(2, "MaxConnections", "2"))
	if err := b.SetTargetParam(3, "state", "offline"); err == nil {
		t.Error("a target that is not there goes offline")
	}
	must(t, b.SetTargetParam(2, "state", "offline"))
	if !slices.Equal(b.transport.asked, []int{2}) {
		t.Errorf("asked %v, want [2]", b.transport.asked)
	}
}

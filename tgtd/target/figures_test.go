package target

import (
	"testing"
)

// TestFigures: targets in the order of their numbers, with their sessions and units, but not the controller.
func TestFigures(t *testing.T) {
	b := newBench(t, nil)
	must(t, b.NewTarget(2, "iqn.x:b"))
	must(t, b.NewTarget(1, "iqn.x:a"))
	must(t, b.NewUnit(1, 7, UnitSpec{Store: "null", Path: "x"}))
	b.transport.login(1, 1, 0, 1)
	b.transport.login(1, 2, 0)
	f := b.Figures()
	if !f.Serving || f.Portals != len(DefaultPortals) || f.Transport.Connections != 7 || len(f.Targets) != 2 {
		t.Fatalf("%+v", f)
	}
	a, c := f.Targets[0], f.Targets[1]
	if a.TID != 1 || a.Name != "iqn.x:a" || a.Sessions != 2 || a.Connections != 3 || len(a.Units) != 1 {
		t.Errorf("%+v", a)
	}
	if u := a.Units[0]; u.LUN != 7 || u.Store != "null" || u.Load == nil || u.Waiting.NotReady {
		t.Errorf("%+v", u)
	}
	if c.TID != 2 || c.Sessions != 0 || len(c.Units) != 0 {
		t.Errorf("%+v", c)
	}
	must(t, b.SetSystem([]Setting{{"State", "offline"}}))
	if b.Figures().Serving {
		t.Error("an offline system serves")
	}
	b.transport.CloseTarget(1)
	must(t, b.DeleteTarget(1, true))
	must(t, b.DeleteTarget(2, true))
}

package disk

import "testing"

// TestShadowLeavesTheBase: whatever is done to a shadow shows there, and the disk below stays as it was.
func TestShadowLeavesTheBase(t *testing.T) {
	base := NewMem()
	ok(t, base.MkdirAll("a/b"))
	write(t, base, "a/b/file", "what was there before")
	write(t, base, "a/other", "other")
	base.SetHook(func(op, name string) error {
		switch op {
		case OpOpen, OpRead, OpReadDir, OpSize:
			return nil
		}
		t.Fatalf("%s of %s", op, name)
		return nil
	})
	s := Shadow(base)
	f := must(s.Open("a/b/file", 0))(t)
	must(f.WriteAt([]byte("is"), 5))(t)
	ok(t, f.Close())
	if got := read(t, s, "a/b/file"); got != "what iss there before" {
		t.Fatalf("%q", got)
	}
	f = must(s.Open("a/b/file", 0))(t)
	ok(t, f.Truncate(4))
	ok(t, f.Truncate(6))
	if got := read(t, s, "a/b/file"); got != "what\x00\x00" {
		t.Fatalf("%q", got)
	}
	ok(t, f.Close())
	ok(t, s.Rename("a/other", "a/b/moved"))
	ok(t, s.Remove("a/b/file"))
	if got := read(t, s, "a/b/moved"); got != "other" {
		t.Fatalf("%q", got)
	}
	if list := must(s.ReadDir("a/b"))(t); len(list) != 1 || list[0].Name != "moved" || list[0].Bytes != 5 {
		t.Fatalf("%+v", list)
	}
	ok(t, s.RemoveAll("a"))
	base.SetHook(nil)
	if got := read(t, base, "a/b/file") + read(t, base, "a/other"); got != "what was there beforeother" {
		t.Fatalf("%q", got)
	}
}

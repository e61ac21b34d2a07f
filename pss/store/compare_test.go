package store

import "testing"

// TestDiffering: what must be equal is found to differ, and what two servers may have in different states is not.
func TestDiffering(t *testing.T) {
	data := func(sum uint32, index uint64) Record { return Record{Sum: sum, Kind: Data, Index: index} }
	hole := Record{Kind: Hole}
	for _, c := range []struct {
		name           string
		index, other   uint64
		here, there    Record
		fileless, want bool
	}{
		{"equal", 9, 9, data(1, 5), data(1, 5), false, false},
		{"same state, other sum", 9, 9, data(1, 5), data(2, 5), false, true},
		{"same state, other index: a lost write", 9, 9, data(1, 4), data(2, 5), false, true},
		{"same state, a hole", 9, 9, hole, data(2, 5), false, true},
		{"same state, no file there", 9, 9, data(1, 5), Record{}, true, true},
		{"later state, same entry, other sum", 9, 12, data(1, 5), data(2, 5), false, true},
		{"later state, later entry", 9, 12, data(1, 5), data(2, 12), false, false},
		{"later state, dropped", 9, 12, data(1, 5), hole, false, false},
		{"later state, no file there", 9, 12, data(1, 5), Record{}, true, false},
		{"later state, both never written", 9, 12, hole, hole, false, false},
	} {
		a := &Image{Index: c.index, File: true}
		b := &Image{Index: c.other, File: !c.fileless}
		a.Records[3], b.Records[3] = c.here, c.there
		for i := range a.Records {
			if i != 3 && !c.fileless {
				a.Records[i], b.Records[i] = hole, hole
			}
		}
		for _, d := range []Blocks{a.Differing(b), b.Differing(a)} {
			if d.Has(3) != c.want || d.Len() > 1 {
				t.Errorf("%s: %d blocks differ, %t", c.name, d.Len(), d.Has(3))
			}
		}
	}
}

// TestReplace: a block that lost a write, with its record, is replaced by the image of a server that has it, unless it
// was overwritten since.
func TestReplace(t *testing.T) {
	lost := func() (r *rig, want Blocks, img Image) {
		other, _ := damaged(t)
		other.open()
		r, dir := damaged(t)
		r.open()
		var old [2][]byte
		for i, name := range [...]string{dir + "/00/00/00", dir + "/00/00/sums"} {
			old[i] = contents(t, r.mem, name)
		}
		for _, x := range []*rig{r, other} {
			x.do("write", 1, BlockSize, BlockSize)
			x.flush()
		}
		if err := r.s.Close(); err != nil {
			t.Fatal(err)
		}
		for i, name := range [...]string{dir + "/00/00/00", dir + "/00/00/sums"} {
			f, err := r.mem.Open(name, 0)
			if err != nil {
				t.Fatal(err)
			}
			write(t, f, old[i], 0)
		}
		r.version1() // a later version notices it by itself
		r.open()
		var none Blocks
		var here, there Image
		if err := r.s.Export(Newest, 1, 0, &none, &here); err != nil {
			t.Fatal(err)
		}
		if err := other.s.Export(Newest, 1, 0, &none, &there); err != nil {
			t.Fatal(err)
		}
		want = here.Differing(&there)
		if want.Len() != 1 || !want.Has(1) {
			t.Fatalf("%d blocks differ", want.Len())
		}
		if err := other.s.Export(Newest, 1, 0, &want, &img); err != nil {
			t.Fatal(err)
		}
		return r, want, img
	}
	r, want, img := lost()
	if done, err := r.s.Replace(&img, &want); err != nil || done != want {
		t.Fatalf("%d blocks replaced: %v", done.Len(), err)
	}
	r.equal(r.now)
	r.flush()
	r.crash(nil)
	r.equal(r.now)

	r, want, img = lost()
	r.do("write", 1, BlockSize, BlockSize)
	if done, err := r.s.Replace(&img, &want); err != nil || done.Len() != 0 {
		t.Fatalf("%d blocks replaced: %v", done.Len(), err)
	}
	r.equal(r.now)
}

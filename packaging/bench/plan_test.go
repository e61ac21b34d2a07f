package main

import (
	"slices"
	"strings"
	"testing"
)

// What the table is made of holds together.
func TestColumnsAndTests(t *testing.T) {
	all := columns()
	index := func(name string) int {
		return slices.IndexFunc(all, func(c column) bool { return c.name == name })
	}
	for i, c := range all {
		if index(c.name) != i || strings.ContainsAny(c.name, "*?[/, ") {
			t.Errorf("%s is a bad name for a column", c.name)
		}
		for _, to := range []string{c.readsOf, c.writesOf} {
			switch {
			case c.house.tgt && to != "":
				t.Errorf("%s, of tgt, is compared with %s", c.name, to)
			case !c.house.tgt && (index(to) < 0 || !all[index(to)].house.tgt):
				t.Errorf("%s is compared with %q, which tgt has not", c.name, to)
			}
		}
		if !c.house.tgt && c.store != "null" && all[index(c.writesOf)].durable != c.durable {
			t.Errorf("%s and %s, whose writes are compared, do not promise the same", c.name, c.writesOf)
		}
		if (c.store == storePSS) != (c.house.core > 0) {
			t.Errorf("%s: its store %s does not fit a cell of %d", c.name, c.store, c.house.core)
		}
	}
	var seen []string
	for _, r := range append(tests(), fillTest()) {
		if r.bytes%pageBytes != 0 || (minMiB<<20)%r.bytes != 0 || r.depth < 1 || r.readPercent < 0 || r.readPercent > 100 {
			t.Errorf("%s can't be carried out: %+v", r.name, r)
		}
		if slices.Contains(seen, r.name) || index(r.name) >= 0 || strings.ContainsAny(r.name, "*?[/, ") {
			t.Errorf("%s is a bad name for a test", r.name)
		}
		seen = append(seen, r.name)
	}
}

func TestChoose(t *testing.T) {
	c := []column{{name: "tgt-a"}, {name: "our-a"}, {name: "our-b"}}
	r := []test{{name: "read"}, {name: "write"}}
	for _, tt := range []struct{ only, want string }{
		{"", "tgt-a/read our-a/read our-b/read tgt-a/write our-a/write our-b/write"},
		{"our-a", "our-a/read our-a/write"},
		{"*-a", "tgt-a/read our-a/read tgt-a/write our-a/write"},
		{"write", "tgt-a/write our-a/write our-b/write"},
		{"our-?/read", "our-a/read our-b/read"},
		{"our-b/write tgt-a/read", "tgt-a/read our-b/write"},
		{"our-b our-*/write", "our-b/read our-a/write our-b/write"},
	} {
		chosen, err := choose(strings.Fields(tt.only), c, r)
		if err != nil {
			t.Errorf("%q: %v", tt.only, err)
		}
		if have := written(chosen); have != tt.want {
			t.Errorf("%q picks %s, want %s", tt.only, have, tt.want)
		}
	}
	for _, bad := range []string{"nothing", "our-b/nothing", "[", "our-a/[", "", "our-b/"} {
		if _, err := choose([]string{"read", bad}, c, r); err == nil || !strings.Contains(err.Error(), "--only \""+bad) {
			t.Errorf("--only %q: error %v", bad, err)
		}
	}
}

// Rows are measured one after the other, the columns of each in turns, forwards and backwards.
func TestSchedule(t *testing.T) {
	c := []column{{name: "a"}, {name: "b"}}
	chosen, err := choose([]string{"*/r", "b/w"}, c, []test{{name: "r"}, {name: "w"}})
	if err != nil {
		t.Fatal(err)
	}
	want := "a/r b/r b/r a/r a/r b/r b/w b/w b/w"
	if have := written(schedule(chosen, 3)); have != want {
		t.Errorf("order %s, want %s", have, want)
	}
	if have := written(chosen); have != "a/r b/r b/w" {
		t.Errorf("what was chosen has become %s", have)
	}
}

func written(all []pair) string {
	var names []string
	for _, p := range all {
		names = append(names, p.column.name+"/"+p.test.name)
	}
	return strings.Join(names, " ")
}

func TestBytesNeeded(t *testing.T) {
	for only, want := range map[string]int64{
		"our-null":          floorBytes,
		"our-rdwr":          floorBytes + 100,
		"*-rdwr":            floorBytes + 100,
		"pss-3":             floorBytes + 3*(100+serverBytes),
		"pss-3/* pss-5+3/*": floorBytes + 11*(100+serverBytes),
		"*":                 floorBytes + 100 + 11*(100+serverBytes),
	} {
		chosen, err := choose(strings.Fields(only), columns(), tests())
		if err != nil {
			t.Fatal(err)
		}
		if have := bytesNeeded(chosen, 100); have != want {
			t.Errorf("%s needs %d bytes, want %d", only, have, want)
		}
	}
}

package transcript

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func load(t *testing.T, text string) (*Scenario, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "name.txt")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return Load(path)
}

func TestLoadAndPlay(t *testing.T) {
	s, err := load(t, "#name x\n#title y\n\n@ in\n@| one\n@|\n@| two\n~ file zeros: 3 zero bytes\n"+
		"$ cat in; wc -c <zeros\n> one\n>\n> two\n> 3\n= 0\n# remark\n$ printf x; echo @DIR@ >&2; exit 4\n> x\n>\\\n! @DIR@\n= 4\n"+
		"$ isc target\n= 0\n$ echo new\n> old\n= 0\n")
	if err != nil {
		t.Fatal(err)
	}
	if s.Name != "name" || s.NeedsDaemon() {
		t.Errorf("%+v", s)
	}
	p := Player{Bin: t.TempDir(), Deliberate: map[string]string{"name:23": "it is new"}}
	if got, want := p.Play(t, s), (Count{Equal: 2, Deliberate: 1, Foreign: 1}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestLoadRefuses(t *testing.T) {
	for _, text := range []string{"#name x\n\n> out\n", "#name x\n\n$ a\n= b\n", "#name x\n\n?\n", "#name x\n\n$ a\n\n"} {
		if _, err := load(t, text); err == nil || !strings.Contains(err.Error(), "name.txt:") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestSettle: random orders are alike, other orders are not.
func TestSettle(t *testing.T) {
	unit := "tgtadm -C 0 --op update --mode logicalunit --tid 1 --params "
	same := [][2]string{
		{unit + "a=1\n" + unit + "b=1", unit + "b=1\n" + unit + "a=1"},
		{"<target a>\n</target>\n\n<target b>\nx\n</target>\n\n", "<target b>\nx\n</target>\n\n<target a>\n</target>\n\n"},
		{"bad at /usr/sbin/tgt-admin line 165.", "bad at <tgt-admin> line <n>."},
		{`Can't use string ("@DIR@/d1") as a HASH`, `Can't use string ("@DIR@/d"...) as a HASH`},
	}
	for _, c := range same {
		if settle(c[0]) != settle(c[1]) {
			t.Errorf("%q and %q differ", c[0], c[1])
		}
	}
	if settle(unit+"a=1\nx\n"+unit+"b=1") == settle(unit+"b=1\nx\n"+unit+"a=1") || settle("a\nb") == settle("b\na") ||
		settle(`("a") as a`) == settle(`("b") as a`) {
		t.Error("lines with others between them, or others, are sorted")
	}
}

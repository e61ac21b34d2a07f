package conf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"pgregory.net/rapid"
)

// memory is a file system of texts by absolute path; relative paths start at /conf.
type memory map[string]string

func (m memory) path(path string) string {
	if !filepath.IsAbs(path) {
		path = "/conf/" + path
	}
	return filepath.Clean(path)
}

func (m memory) Kind(path string) (Kind, error) {
	path = m.path(path)
	if _, ok := m[path]; ok {
		return Plain, nil
	}
	for name := range m {
		if strings.HasPrefix(name, strings.TrimSuffix(path, "/")+"/") {
			return Directory, nil
		}
	}
	return 0, os.ErrNotExist
}

func (m memory) Read(path string, limit int) (string, error) {
	text, ok := m[m.path(path)]
	if !ok || len(text) > limit {
		return "", os.ErrNotExist
	}
	return text, nil
}

func (m memory) List(path string) ([]string, error) {
	dir := strings.TrimSuffix(m.path(path), "/") + "/"
	var names []string
	for name := range m {
		if rest, ok := strings.CutPrefix(name, dir); ok {
			first, _, _ := strings.Cut(rest, "/")
			names = append(names, first)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// dump writes a tree, a line for each value and block.
func dump(b *strings.Builder, s *Section, indent string) {
	for _, key := range s.Keys() {
		for _, v := range s.Values[key] {
			fmt.Fprintf(b, "%s%s: %q (%d)\n", indent, key, v.Text, v.Pos.Line)
		}
		for _, name := range s.Names(key) {
			fmt.Fprintf(b, "%s<%s %q> (%d)\n", indent, key, name, s.Blocks[key][name].Pos.Line)
			dump(b, s.Blocks[key][name], indent+"    ")
		}
	}
}

// parse parses a file of a memory and shows the tree or the error, warnings first. Parse makes paths
// absolute from the working directory of the test; what is shown has them from /conf.
func parse(files memory, path string) string {
	var b strings.Builder
	root, err := Parse(path, files, func(text string) { fmt.Fprintf(&b, "warning: %s\n", text) })
	if err != nil {
		fmt.Fprintf(&b, "error: %v\n", err)
		var e *Error
		if errors.As(err, &e) {
			fmt.Fprintf(&b, "status: %d\n", e.Status)
		}
	} else {
		dump(&b, root, "")
	}
	cwd, _ := os.Getwd() // the tests have one
	return strings.ReplaceAll(b.String(), cwd+"/", "")
}

// TestGrammar: `file NAME` writes a file, `parse NAME` shows what it means; `parse` without a name
// parses its own text. \t, \r and \s of a text are a tab, a carriage return and a blank.
func TestGrammar(t *testing.T) {
	datadriven.Walk(t, "testdata/grammar", func(t *testing.T, path string) {
		files := memory{}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			text := strings.NewReplacer(`\t`, "\t", `\r`, "\r", `\s`, " ", `\e`, "").Replace(d.Input + "\n")
			switch d.Cmd {
			case "file":
				files[files.path(d.CmdArgs[0].Key)] = text
				return ""
			case "parse":
				name := "t.conf"
				if len(d.CmdArgs) > 0 {
					name = d.CmdArgs[0].Key
				} else {
					files[files.path(name)] = text
				}
				return parse(files, name)
			}
			t.Fatalf("unknown command %s", d.Cmd)
			return ""
		})
	})
}

func TestByteOrderMarkAndLineEnds(t *testing.T) {
	for _, text := range []string{
		"\ufeff<target a>\nkey value\n</target>\n",
		"<target a>\r\nkey value\r\n</target>\r\n",
		"<target a>\nkey value\n</target>",
		"<target\ta>\n\tkey\tvalue\t\n</target>",
	} {
		want := "<target \"a\"> (1)\n    key: \"value\" (2)\n"
		if got := parse(memory{"/conf/t.conf": text}, "t.conf"); got != want {
			t.Errorf("%q: %s", text, got)
		}
	}
}

func TestLimits(t *testing.T) {
	deep := strings.Repeat("<a b>\n", maxDepth+1)
	if got := parse(memory{"/conf/t.conf": deep}, "t.conf"); !strings.Contains(got, "More than 64 blocks") {
		t.Errorf("depth: %.100s", got)
	}
	if got := parse(memory{"/conf/t.conf": "include " + strings.Repeat("x", maxPath+1)}, "t.conf"); !strings.Contains(got, "too long") {
		t.Errorf("path: %.100s", got)
	}
	if got := parse(memory{"/conf/t.conf": "include " + strings.Repeat("{a,b}", 30)}, "t.conf"); !strings.Contains(got, "too many alternatives") {
		t.Errorf("braces: %.100s", got)
	}
}

// TestSystem: the real files, with what a pattern must not find.
func TestSystem(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(dir+"/sub.conf", 0o755); err != nil {
		t.Fatal(err)
	}
	write("main", "include "+dir+"/*.conf\ninclude "+dir+"/b[!x].co{mm,nf,}\n")
	write("a.conf", "k a")
	write(".hidden.conf", "k hidden")
	write("b1.conf", "k b1")
	write("b1.comm", "k comm")
	write("bx.comm", "k bx")
	root, err := Parse(dir+"/main", System{}, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, v := range root.Values["k"] {
		got = append(got, v.Text)
	}
	if want := []string{"a", "b1", "comm"}; !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
	if pos := root.Values["k"][0].Pos; pos.File != dir+"/a.conf" || pos.Line != 1 {
		t.Errorf("it stands %v", pos)
	}
	if _, err := Parse(dir+"/none", System{}, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	if _, err := (System{}).Read(dir+"/main", 3); err == nil {
		t.Error("a file beyond the limit is read")
	}
}

// TestEntriesComeBack: keys and values that need no escapes are read as they were written, whatever
// blanks stand around them.
func TestEntriesComeBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.StringMatching(`[a-z][a-z0-9._:-]{0,8}`)
		pad := rapid.SampledFrom([]string{"", " ", "\t", "  "})
		text := ""
		values := map[string][]string{}
		for i := range rapid.IntRange(0, 8).Draw(t, "entries") {
			key, value := word.Draw(t, "key")+fmt.Sprint(i%3), word.Draw(t, "value")+" "+word.Draw(t, "value")
			sep := rapid.SampledFrom([]string{" ", "=", " = ", "\t"}).Draw(t, "sep")
			text += pad.Draw(t, "pad") + key + sep + value + pad.Draw(t, "pad") + "\n"
			values[key] = append(values[key], value)
		}
		root, err := Parse("t.conf", memory{"/conf/t.conf": text}, nil)
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		for key, list := range values {
			var got []string
			for _, v := range root.Values[key] {
				got = append(got, v.Text)
			}
			if !slices.Equal(got, list) {
				t.Errorf("%q: %s is %q, want %q", text, key, got, list)
			}
		}
		if len(root.Keys()) != len(values) {
			t.Errorf("%q: keys %q", text, root.Keys())
		}
	})
}

// FuzzParse: no text makes the parser do anything but return a tree or an Error with a place, and
// every value stands on a line of a file.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"<target iqn.x:y>\n backing-store /dev/sda # c\n /* x */ a = \"b\" \n</target>\n",
		"a <<E\n x\n E\nb \\\n c\ninclude other.conf\ninclude *.conf\n",
		"/* open\n*/ x */ y\n<a b/>\n<\"c\" \"d e\">\n</c>\n\\", "<a>\n<b\n", "include self\ninclude {a,[}\n*/",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		files := memory{"/conf/t.conf": text, "/conf/other.conf": "k v\n<target q>\n"}
		root, err := Parse("t.conf", files, func(string) {})
		var e *Error
		if err != nil {
			if !errors.As(err, &e) || e.Status != StatusMissing && e.Status != StatusSyntax || e.Pos.Line < 1 {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		lines := max(strings.Count(text, "\n")+1, 3)
		var walk func(*Section)
		walk = func(s *Section) {
			for key, values := range s.Values {
				for _, v := range values {
					if v.Pos.Line < 1 || v.Pos.Line > lines {
						t.Errorf("%q: %s stands on line %d", text, key, v.Pos.Line)
					}
				}
			}
			for _, named := range s.Blocks {
				for _, b := range named {
					walk(b)
				}
			}
		}
		walk(root)
	})
}

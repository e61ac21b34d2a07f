package conf

import (
	"testing"

	"pgregory.net/rapid"
)

// oneFile is a file system of one file.
type oneFile string

func (f oneFile) Kind(string) (Kind, error)             { return Plain, nil }
func (f oneFile) Read(string, int) (string, error)      { return string(f), nil }
func (f oneFile) List(string) (names []string, _ error) { return nil, nil }

// TestWriterRoundTrip: what is written is read again, blocks and values. Values are all but those with
// line ends and comments of C.
func TestWriterRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		value := rapid.StringOf(rapid.RuneFrom([]rune(`abc #"\$'=<>&;*.,:|(){}[]` + "\t"))).
			Filter(func(s string) bool { return s != "" })
		name := rapid.StringMatching(`[a-z0-9:./-]{0,8}[a-z0-9]( [a-z]+)?`)
		values := rapid.SliceOfN(value, 0, 5).Draw(t, "values")
		block := name.Draw(t, "name")
		var w Writer
		w.Comment("a remark\nof two lines, /* with */ a trap \\")
		w.Open("target", block)
		for _, v := range values {
			w.Entry("key", v)
		}
		w.Blank()
		w.Close("target")
		root, err := Parse("f", oneFile(w.String()), func(text string) { t.Errorf("warning %s", text) })
		if err != nil {
			t.Fatalf("%v\n%s", err, w.String())
		}
		s := root.Blocks["target"][block]
		if s == nil {
			t.Fatalf("no block %q in\n%s", block, w.String())
		}
		got := s.Values["key"]
		if len(got) != len(values) {
			t.Fatalf("%d values of %d in\n%s", len(got), len(values), w.String())
		}
		for i, v := range values {
			if got[i].Text != v {
				t.Errorf("%q was read as %q\n%s", v, got[i].Text, w.String())
			}
		}
	})
}

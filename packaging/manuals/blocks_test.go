package manuals

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
)

// TestRead reads the documents of testdata/read; the golden output is what it made of them.
func TestRead(t *testing.T) {
	datadriven.RunTest(t, "testdata/read", func(t *testing.T, d *datadriven.TestData) string {
		blocks, err := Read(strings.NewReader(strings.ReplaceAll(d.Input, "'''", "```")), "doc.md")
		if err != nil {
			if !errors.Is(err, ErrMarking) {
				t.Errorf("%v is not ErrMarking", err)
			}
			return err.Error() + "\n"
		}
		var out strings.Builder
		for _, b := range blocks {
			if b.Path != "" {
				fmt.Fprintf(&out, "%s %s has %s: %q\n", b.Where(), b.Machine, b.Path, b.Text)
				continue
			}
			fmt.Fprintf(&out, "%s runs on %s local=%t status=%d reason=%q\n", b.Where(), b.Machine, b.Local, b.Status, b.Reason)
			for _, c := range b.Commands {
				fmt.Fprintf(&out, "  %d: %q prints %q\n", c.Line, c.Text, c.Want)
			}
		}
		if len(blocks) == 0 {
			return "nothing\n"
		}
		return out.String()
	})
}

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		name, want, printed string
		matches             bool
	}{
		{"anything", "", "a\nb\n", true},
		{"the same", "a\nb", "a\nb\n", true},
		{"less", "a\nb", "a\n", false},
		{"more", "a", "a\nb\n", false},
		{"blanks at the end", "a  ", "a\t\n\n", true},
		{"blanks at the beginning", "a", " a", false},
		{"a part varies", "pid … runs", "pid 12 runs\n", true},
		{"a part varies over lines", "pid … runs", "pid 12\n runs\n", false},
		{"lines vary", "a\n…\nd", "a\nb\nc\nd\n", true},
		{"no lines vary", "a\n…\nd", "a\nd\n", true},
		{"lines vary at the end", "a\n…", "a\nb\nc", true},
		{"all varies", "…", "", true},
		{"not a pattern", "a.c", "abc", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := Command{Text: "x"}
			if c.want != "" {
				cmd.Want = strings.Split(c.want, "\n")
			}
			if err := cmd.Match(c.printed); (err == nil) != c.matches {
				t.Errorf("matches: %v", err)
			}
		})
	}
}

// FuzzRead: whatever the document, blocks keep the promises of their fields.
func FuzzRead(f *testing.F) {
	f.Add("```console run=control local status=2\n$ a \\\n b\nc…\n```\n")
	f.Add("```conf file=/etc/x on=target\nx\n```\n```console run=no reason=\"a b\"\n$ a\n```")
	f.Fuzz(func(t *testing.T, text string) {
		blocks, err := Read(strings.NewReader(text), "doc.md")
		if err != nil {
			return
		}
		for _, b := range blocks {
			if b.Machine == "" || b.Path == "" && len(b.Commands) == 0 || b.Machine == Nobody && b.Reason == "" {
				t.Errorf("%+v", b)
			}
			for _, c := range b.Commands {
				_ = c.Match(text)
			}
		}
	})
}

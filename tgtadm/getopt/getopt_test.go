package getopt

import (
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

func table() []Option {
	generic := func(name string, aliases ...string) cli.Flag {
		return &cli.StringFlag{Name: name, Aliases: aliases}
	}
	flags := []cli.Flag{
		&cli.BoolFlag{Name: "debug", Aliases: []string{"d"}},
		Switch{&cli.GenericFlag{Name: "help", Aliases: []string{"h"}, Value: On(new(bool))}},
		generic("op", "o"),
		generic("host", "H", "hostno"),
		&cli.BoolFlag{Name: "outgoing", Aliases: []string{"O"}},
	}
	table := Options(flags)
	table[1].Stop = true
	table[4].ShortArg = true
	return table
}

func TestGNU(t *testing.T) {
	for _, c := range []struct{ args, flags, words, err string }{
		{"", "", "", ""},
		{"--op show x --debug y", "--op=show --debug=true", "x y", ""},
		{"--op=show", "--op=show", "", ""},
		{"--op=", "--op=", "", ""},
		{"--op --debug", "--op=--debug", "", ""},
		{"-oshow -o show", "--op=show --op=show", "", ""},
		{"-doshow", "--debug=true --op=show", "", ""},
		{"-do show -", "--debug=true --op=show", "-", ""},
		{"--ho 1 --hostno 2", "--host=1 --host=2", "", ""},
		{"--hostn 2", "", "", "unrecognized option '--hostn'"},
		{"--o=1", "", "", "option '--o=1' is ambiguous; possibilities: '--op' '--outgoing'"},
		{"--out --deb", "--outgoing=true --debug=true", "", ""},
		{"-O x -o y", "--outgoing=true --op=y", "", ""},
		{"-Ox", "--outgoing=true", "", ""},
		{"-O", "", "", "option requires an argument -- 'O'"},
		{"--debug=1", "", "", "option '--debug' doesn't allow an argument"},
		{"x --op", "", "x", "option '--op' requires an argument"},
		{"-d -z -o x", "--debug=true", "", "invalid option -- 'z'"},
		{"--nope=3", "", "", "unrecognized option '--nope=3'"},
		{"-d --help --nope", "--debug=true --help=true", "", ""},
		{"-hz", "--help=true", "", ""},
		{"-d -- -o --", "--debug=true", "-o --", ""},
	} {
		t.Run(c.args, func(t *testing.T) {
			flags, words, err := GNU(table(), strings.Fields(c.args), false)
			text := ""
			if err != nil {
				text = err.Error()
			}
			if got := strings.Join(flags, " "); got != c.flags {
				t.Errorf("options %q, want %q", got, c.flags)
			}
			if got := strings.Join(words, " "); got != c.words {
				t.Errorf("words %q, want %q", got, c.words)
			}
			if text != c.err {
				t.Errorf("error %q, want %q", text, c.err)
			}
		})
	}
}

func TestGNUPosixStopsAtTheFirstWord(t *testing.T) {
	flags, words, err := GNU(table(), []string{"-d", "x", "-d"}, true)
	if err != nil || !slices.Equal(flags, []string{"--debug=true"}) || !slices.Equal(words, []string{"x", "-d"}) {
		t.Errorf("%q, %q, %v", flags, words, err)
	}
}

func TestPerl(t *testing.T) {
	for _, c := range []struct{ args, flags, words, complaints string }{
		{"", "", "", ""},
		{"-o show x --debug", "--op=show --debug=true", "x", ""},
		{"-op=show --o=show", "--op=show --op=show", "", ""},
		{"--op -d", "--op=-d", "", ""},
		{"--deb -deb", "--debug=true --debug=true", "", ""},
		{"--ou", "--outgoing=true", "", ""},
		{"--ho 1", "--host=1", "", ""}, // two names of one option are not ambiguous
		{"-do x", "", "x", "Unknown option: do"},
		{"-oshow", "", "", "Unknown option: oshow"},
		{"--op= -d", "--debug=true", "", "Option op requires an argument"},
		{"-d --op", "--debug=true", "", "Option op requires an argument"},
		{"--debug=1 -d", "--debug=true", "", "Option debug does not take an argument"},
		{"--=x", "", "", "Unknown option: =x"},
		{"---debug", "", "", "Unknown option: -debug"},
		{"- x", "", "- x", ""},
		{"-d -- -d", "--debug=true", "-d", ""},
	} {
		t.Run(c.args, func(t *testing.T) {
			flags, words, complaints := Perl(table(), strings.Fields(c.args))
			if got := strings.Join(flags, " "); got != c.flags {
				t.Errorf("options %q, want %q", got, c.flags)
			}
			if got := strings.Join(words, " "); got != c.words {
				t.Errorf("words %q, want %q", got, c.words)
			}
			if got := strings.Join(complaints, "; "); got != c.complaints {
				t.Errorf("complaints %q, want %q", got, c.complaints)
			}
		})
	}
}

func TestPerlAmbiguous(t *testing.T) {
	options := []Option{{Name: "delete", LongArg: true}, {Name: "dump"}}
	_, _, complaints := Perl(options, []string{"-d"})
	if want := []string{"Option d is ambiguous (delete, dump)"}; !slices.Equal(complaints, want) {
		t.Errorf("%q, want %q", complaints, want)
	}
}

// FuzzBoth: whatever the arguments are, what comes out are options of the table, and no word is lost.
func FuzzBoth(f *testing.F) {
	f.Add("-d\x00--op=x\x00word\x00--\x00-o")
	f.Add("--o\x00-O\x00-H")
	f.Add("-=\x00--=\x00---\x00-\x00")
	f.Fuzz(func(t *testing.T, joined string) {
		args := strings.Split(joined, "\x00")
		gnu, _, _ := GNU(table(), args, len(args)%2 == 0)
		perl, _, _ := Perl(table(), args)
		for _, flag := range slices.Concat(gnu, perl) {
			name, _, ok := strings.Cut(strings.TrimPrefix(flag, "--"), "=")
			if !ok || !slices.ContainsFunc(table(), func(o Option) bool { return o.Name == name }) {
				t.Errorf("%q gives %q", args, flag)
			}
		}
	})
}

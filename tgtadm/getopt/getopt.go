// Package getopt brings command lines into the one shape that package flag, and so urfave/cli,
// understands: every option as --name=value under its full name. It reads them the way the programs
// it stands in for did: GNU does as getopt_long(3) of the GNU C library (names cut to an unambiguous
// prefix, options and words in any order, bundled letters, values attached or not), Perl does as
// Getopt::Long in its default configuration. It knows names, never meanings.
package getopt

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"
)

// Switch is a flag without a value that is more than a variable: its own Value hears of it.
type Switch struct{ *cli.GenericFlag }

// TakesValue is false: the option stands alone.
func (Switch) TakesValue() bool { return false }

// On returns the value of a Switch that sets a variable.
func On(to *bool) cli.Generic { return &on{to} }

type on struct{ to *bool }

func (o *on) Set(string) error { *o.to = true; return nil }
func (o *on) String() string   { return "" }
func (o *on) IsBoolFlag() bool { return true }

// Option is one option of a command line.
type Option struct {
	Name     string   // the full long name, without dashes
	Short    byte     // the letter, 0 for none
	Aliases  []string // further long names; they must be given in full
	LongArg  bool     // the long form takes a value
	ShortArg bool     // the letter takes a value; without LongArg it is eaten and of no use
	Stop     bool     // nothing behind this option is looked at: --help, --version
	Exact    bool     // the long name must be given in full; Perl alone looks at it
}

// Options derives the table from the flags that define a command line. A flag's first name is its
// long one; of the others those of one letter are letters and the rest aliases.
func Options(flags []cli.Flag) []Option {
	table := make([]Option, 0, len(flags))
	for _, f := range flags {
		names := f.Names()
		o := Option{Name: names[0]}
		for _, n := range names[1:] {
			if len(n) == 1 {
				o.Short = n[0]
			} else {
				o.Aliases = append(o.Aliases, n)
			}
		}
		if d, ok := f.(cli.DocGenerationFlag); ok && d.TakesValue() {
			o.LongArg, o.ShortArg = true, true
		}
		table = append(table, o)
	}
	return table
}

// Error is a command line that getopt_long refuses, in its words and without the program's name.
type Error string

func (e Error) Error() string { return string(e) }

// GNU reads args, the arguments without the program's name. It returns the options as --name=value
// in the order they were given, up to the first error or the first option with Stop, and the words
// that are no options. posix is getopt's POSIXLY_CORRECT: the first word ends the options.
func GNU(table []Option, args []string, posix bool) (flags, words []string, err error) {
	for i := 0; i < len(args); i++ {
		arg := args[i]
		switch {
		case arg == "--":
			return flags, append(words, args[i+1:]...), nil
		case strings.HasPrefix(arg, "--"):
			o, value, next, err := long(table, args, i)
			if err != nil {
				return flags, words, err
			}
			flags, i = append(flags, "--"+o.Name+"="+value), next
			if o.Stop {
				return flags, words, nil
			}
		case len(arg) > 1 && arg[0] == '-':
			found, next, stop, err := letters(table, args, i)
			flags, i = append(flags, found...), next
			if err != nil || stop {
				return flags, words, err
			}
		case posix:
			return flags, append(words, args[i:]...), nil
		default:
			words = append(words, arg)
		}
	}
	return flags, words, nil
}

// long reads args[i], a long option; next is the index of the last argument it took.
func long(table []Option, args []string, i int) (o Option, value string, next int, err error) {
	given := args[i][2:]
	name, value, attached := strings.Cut(given, "=")
	o, err = find(table, name, given)
	switch {
	case err != nil:
		return o, "", i, err
	case !o.LongArg && attached:
		return o, "", i, Error(fmt.Sprintf("option '--%s' doesn't allow an argument", o.Name))
	case !o.LongArg:
		return o, "true", i, nil
	case attached:
		return o, value, i, nil
	case i+1 == len(args):
		return o, "", i, Error(fmt.Sprintf("option '--%s' requires an argument", o.Name))
	}
	return o, args[i+1], i + 1, nil
}

// find returns the option of that name, or the only one whose name starts so. given is what the
// errors quote: the name with the value it came with.
func find(table []Option, name, given string) (Option, error) {
	var found []Option
	for _, o := range table {
		if o.Name == name {
			return o, nil
		}
		for _, a := range o.Aliases {
			if a == name {
				return o, nil
			}
		}
		if strings.HasPrefix(o.Name, name) {
			found = append(found, o)
		}
	}
	switch len(found) {
	case 0:
		return Option{}, Error(fmt.Sprintf("unrecognized option '--%s'", given))
	case 1:
		return found[0], nil
	}
	text := fmt.Sprintf("option '--%s' is ambiguous; possibilities:", given)
	for _, o := range found {
		text += fmt.Sprintf(" '--%s'", o.Name)
	}
	return Option{}, Error(text)
}

// letters reads args[i], a dash and one or more letters; next is the index of the last argument it
// took, stop says that one of them had Stop.
func letters(table []Option, args []string, i int) (flags []string, next int, stop bool, err error) {
	for rest := args[i][1:]; rest != ""; {
		letter := rest[0]
		rest = rest[1:]
		o, ok := byLetter(table, letter)
		value := "true"
		switch {
		case !ok:
			return flags, i, false, Error(fmt.Sprintf("invalid option -- '%c'", letter))
		case !o.ShortArg:
		case rest != "":
			value, rest = rest, ""
		case i+1 == len(args):
			return flags, i, false, Error(fmt.Sprintf("option requires an argument -- '%c'", letter))
		default:
			i++
			value = args[i]
		}
		if !o.LongArg {
			value = "true"
		}
		flags = append(flags, "--"+o.Name+"="+value)
		if o.Stop {
			return flags, i, true, nil
		}
	}
	return flags, i, false, nil
}

func byLetter(table []Option, letter byte) (Option, bool) {
	for _, o := range table {
		if o.Short == letter {
			return o, true
		}
	}
	return Option{}, false
}

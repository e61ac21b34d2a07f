package getopt

import (
	"fmt"
	"sort"
	"strings"
)

// Perl reads args, the arguments without the program's name, as Perl's Getopt::Long does unless it
// is told otherwise, but with case kept: names may start with one dash or two, letters cannot be
// bundled, and an option that cannot be used is complained of and dropped. The complaints are
// returned, one a line, in its words.
func Perl(table []Option, args []string) (flags, words, complaints []string) {
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if arg == "--" {
			return flags, append(words, args[i+1:]...), complaints
		}
		name, dashed := strings.CutPrefix(arg, "-")
		if !dashed || name == "" {
			words = append(words, arg)
			continue
		}
		name = strings.TrimPrefix(name, "-")
		name, value, attached := cutName(name)
		o, text := abbreviation(table, name)
		switch {
		case text != "":
			complaints = append(complaints, text)
		case !o.LongArg && attached:
			complaints = append(complaints, fmt.Sprintf("Option %s does not take an argument", name))
		case !o.LongArg:
			flags = append(flags, "--"+o.Name+"=true")
		case attached && value != "":
			flags = append(flags, "--"+o.Name+"="+value)
		case attached || i+1 == len(args):
			complaints = append(complaints, fmt.Sprintf("Option %s requires an argument", name))
		default:
			i++
			flags = append(flags, "--"+o.Name+"="+args[i])
		}
	}
	return flags, words, complaints
}

// cutName splits NAME=VALUE; a name has at least one character, so that "=x" is all name.
func cutName(text string) (name, value string, attached bool) {
	if strings.HasPrefix(text, "=") {
		return text, "", false
	}
	return strings.Cut(text, "=")
}

// abbreviation returns the option that name stands for, or what is wrong with it.
func abbreviation(table []Option, name string) (Option, string) {
	var found []Option
	var names []string
	for _, o := range table {
		all := append([]string{o.Name}, o.Aliases...)
		if o.Short != 0 {
			all = append(all, string(o.Short))
		}
		hit := false
		for _, n := range all {
			if n == name {
				return o, ""
			}
			if strings.HasPrefix(n, name) && !o.Exact {
				hit, names = true, append(names, n)
			}
		}
		if hit {
			found = append(found, o)
		}
	}
	switch len(found) {
	case 0:
		return Option{}, "Unknown option: " + name
	case 1:
		return found[0], ""
	}
	sort.Strings(names)
	return Option{}, fmt.Sprintf("Option %s is ambiguous (%s)", name, strings.Join(names, ", "))
}

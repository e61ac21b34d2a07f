package manuals

import (
	"fmt"
	"regexp"
	"strings"
)

// varies stands in a manual for what is different each time.
const varies = "…"

// Match compares what a command printed with what the manual shows, by the rules of the package comment. Blanks at the ends
// of lines, and empty lines at the end, do not count. The error shows both.
func (c Command) Match(printed string) error {
	if len(c.Want) == 0 {
		return nil
	}
	var pattern strings.Builder
	pattern.WriteString(`\A`)
	for _, line := range trimmed(c.Want) {
		if line == varies {
			pattern.WriteString(`(?:.*\n)*?`)
			continue
		}
		for i, part := range strings.Split(line, varies) {
			if i > 0 {
				pattern.WriteString(`.*`)
			}
			pattern.WriteString(regexp.QuoteMeta(part))
		}
		pattern.WriteString(`\n`)
	}
	pattern.WriteString(`\z`)
	re, err := regexp.Compile(pattern.String())
	if err != nil {
		return fmt.Errorf("what `%s` prints: %w", c.Text, err)
	}
	got := trimmed(strings.Split(printed, "\n"))
	text := strings.Join(got, "\n")
	if len(got) > 0 {
		text += "\n"
	}
	if !re.MatchString(text) {
		return fmt.Errorf("`%s` prints\n%s\nand not, as the manual shows,\n%s", c.Text, text, strings.Join(c.Want, "\n"))
	}
	return nil
}

// trimmed are the lines without blanks at their ends and without empty lines at the end.
func trimmed(lines []string) []string {
	var out []string
	for _, l := range lines {
		out = append(out, strings.TrimRight(l, " \t\r"))
	}
	for len(out) > 0 && out[len(out)-1] == "" {
		out = out[:len(out)-1]
	}
	return out
}

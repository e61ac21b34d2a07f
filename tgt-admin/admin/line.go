package admin

import (
	"bytes"
	"strings"

	"github.com/paxos-iscsi/paxos-iscsi/tgtadm/command"
)

// line is a tgtadm command line: what is carried out and, word by word, how it is shown. The two differ
// in quotes only; what is shown is for people and scripts, and nothing reads it back.
type line struct {
	argv   []string
	text   strings.Builder
	single bool // the quotes of 1.0.96
}

// line starts a command line for the control port in force.
func (a *admin) line() *line {
	l := &line{single: a.singleQuotes}
	l.argv = []string{command.Name}
	l.text.WriteString(command.Name)
	return l.add("-C", a.port)
}

// lineFor starts a command line for a driver.
func (a *admin) lineFor(driver string) *line { return a.line().add("--lld", driver) }

// add appends words that are shown as they are.
func (l *line) add(words ...string) *line {
	for _, w := range words {
		l.argv = append(l.argv, w)
		l.text.WriteString(" " + w)
	}
	return l
}

// blank shows the place of an option that is not given.
func (l *line) blank() *line {
	l.text.WriteString(" ")
	return l
}

// quoted appends one word, prefix and value, whose value is shown in quotes.
func (l *line) quoted(prefix, value string) *line {
	if !l.single {
		return l.doubleQuoted(prefix, value)
	}
	l.argv = append(l.argv, prefix+value)
	l.text.WriteString(" " + prefix + "'" + strings.ReplaceAll(value, "'", `\'`) + "'")
	return l
}

// quotedWord appends a word that is shown in quotes.
func (l *line) quotedWord(value string) *line { return l.quoted("", value) }

// doubleQuoted is quoted with the quotes that no version changed.
func (l *line) doubleQuoted(prefix, value string) *line {
	l.argv = append(l.argv, prefix+value)
	l.text.WriteString(" " + prefix + `"` + value + `"`)
	return l
}

// option appends an option and its value, or shows its place where there is no value. Only later
// versions show the value in quotes.
func (l *line) option(name, value string) *line {
	switch {
	case value == "":
		return l.blank()
	case l.single:
		return l.add(name).quotedWord(value)
	}
	return l.add(name, value)
}

// do carries a command line out, or shows it, or both. A failure ends the run with its status unless
// errors are ignored.
func (a *admin) do(l *line) error {
	a.remark("%s", l.text.String())
	if a.pretend {
		return nil
	}
	return a.ended(l, a.env.Tgtadm(a.ctx, l.argv, a.env.Env))
}

// ended reports how a command line ended: nil unless it failed and failures count.
func (a *admin) ended(l *line, status int) error {
	if status == 0 || a.ignoreErrors {
		return nil
	}
	a.print("Command:\n\t%s\nexited with code: %d.", l.text.String(), status)
	return exit(status)
}

// ask carries a question out and returns what was answered; ok is false where it failed, which
// tgtadm's message on standard error has said.
func (a *admin) ask(words ...string) (text string, ok bool) {
	var out bytes.Buffer
	env := a.env.Env
	env.Stdout = &out
	status := a.env.Tgtadm(a.ctx, a.line().add(words...).argv, env)
	return out.String(), status == 0
}

package running

import (
	"strconv"
	"strings"
)

// The parts of a target in the answer to show target, each under its own heading.
const (
	PartSystem   = "System information:"
	PartNexus    = "I_T nexus information:"
	PartUnits    = "LUN information:"
	PartAccounts = "Account information:"
	PartRules    = "ACL information:"
)

// ScanTargets walks through the answer to show target, which is indented by four blanks a level. It calls target for
// each target, and line for each line of its parts, with the two levels of indent taken off that all of them have.
func ScanTargets(text string, target func(tid int, name string), line func(part, line string)) {
	within, part := false, ""
	for l := range strings.Lines(text) {
		l = strings.TrimSuffix(l, "\n")
		if rest, ok := strings.CutPrefix(l, "Target "); ok {
			number, name, ok := strings.Cut(rest, ": ")
			tid, err := strconv.Atoi(number)
			if within = ok && err == nil; within {
				target(tid, name)
			}
			part = ""
			continue
		}
		content := strings.TrimLeft(l, " ")
		switch indent := len(l) - len(content); {
		case !within:
		case indent == 4:
			part = content
		case indent >= 8:
			line(part, l[8:])
		}
	}
}

// ScanSystem walks through the answer to show system: it calls setting for each line of its parts, and account for the
// accounts bound to discovery, which stand below Account information and an empty line.
func ScanSystem(text string, setting, account func(line string)) {
	accounts := false
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		content, indented := strings.CutPrefix(line, "    ")
		switch {
		case content == PartAccounts:
			accounts = true
		case accounts && indented:
			account(content)
			continue
		case line != "":
			accounts = false
		}
		setting(content)
	}
}

// CutOutgoing takes the word off a bound account that says it is the outgoing one.
func CutOutgoing(text string) (user string, outgoing bool) {
	return strings.CutSuffix(text, " (outgoing)")
}

package command

import "github.com/paxos-iscsi/paxos-iscsi/tgtd/mgmt"

// opWords returns the words of the operations, in the order of their numbers.
func opWords() []string {
	words := make([]string, mgmt.OpCount)
	for n := range words {
		words[n] = mgmt.Op(n).String()
	}
	return words
}

// opOf returns the operation of that word.
func opOf(word string) (mgmt.Op, bool) {
	for n, w := range opWords() {
		if w == word {
			return mgmt.Op(n), true
		}
	}
	return 0, false
}

// modeTree is the word of the one mode that is none of the protocol's: show puts it together from the
// answers of the others.
const modeTree = "tree"

// shortName returns the short name of a mode, or nothing where it has none.
func shortName(mode mgmt.Mode) string {
	switch mode {
	case mgmt.ModeSystem:
		return "sys"
	case mgmt.ModeTarget:
		return "tgt"
	case mgmt.ModeUnit:
		return "lu"
	case mgmt.ModePortal:
		return "pt"
	case mgmt.ModeSession:
		return "sess"
	case mgmt.ModeConnection:
		return "conn"
	}
	return ""
}

// modeWords returns all names of the modes, the full one of each first.
func modeWords() []string {
	var words []string
	for n := range mgmt.ModeCount {
		words = append(words, mgmt.Mode(n).String())
		if short := shortName(mgmt.Mode(n)); short != "" {
			words = append(words, short)
		}
	}
	return words
}

// modeOf returns the mode of that name, full or short.
func modeOf(word string) (mgmt.Mode, bool) {
	for n := range mgmt.ModeCount {
		if mode := mgmt.Mode(n); word == mode.String() || word != "" && word == shortName(mode) {
			return mode, true
		}
	}
	return 0, false
}

// deviceOf returns the device type of that word; case matters.
func deviceOf(word string) (mgmt.DeviceType, bool) {
	switch word {
	case "disk":
		return mgmt.Disk, true
	case "tape", "ssc":
		return mgmt.Tape, true
	case "cd":
		return mgmt.CD, true
	case "changer":
		return mgmt.Changer, true
	case "osd":
		return mgmt.OSD, true
	case "pt":
		return mgmt.Passthrough, true
	}
	return 0, false
}

// closest returns the known word that is at most two slips from word, one for short words, or
// nothing where there is none or more than one.
func closest(word string, known []string) string {
	limit := 2
	if len(word) < 5 {
		limit = 1
	}
	best, found := limit+1, ""
	for _, k := range known {
		switch d := distance(word, k); {
		case d < best:
			best, found = d, k
		case d == best:
			found = ""
		}
	}
	return found
}

// distance is how many characters must be put in, left out, changed or swapped with their neighbour
// to make b of a.
func distance(a, b string) int {
	before, last := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}

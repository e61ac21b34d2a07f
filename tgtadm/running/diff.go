package running

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// Mark says what becomes of a thing.
type Mark byte

// The marks, as they are printed.
const (
	Added   Mark = '+'
	Removed Mark = '-'
	Changed Mark = '~'
	Noted   Mark = '#' // nothing is done; it is worth knowing
)

// Change is one difference and those within it.
type Change struct {
	Mark  Mark
	Text  string
	Below []Change
}

// Print writes changes, four blanks a level.
func Print(w io.Writer, changes []Change) error {
	var b strings.Builder
	printChanges(&b, "", changes)
	_, err := io.WriteString(w, b.String())
	return err
}

func printChanges(b *strings.Builder, indent string, changes []Change) {
	for _, c := range changes {
		fmt.Fprintf(b, "%s%c %s\n", indent, c.Mark, clean(c.Text))
		printChanges(b, indent+"    ", c.Below)
	}
}

// Real says that some change is more than a note.
func Real(changes []Change) bool {
	return slices.ContainsFunc(changes, func(c Change) bool { return c.Mark != Noted })
}

// list collects changes.
type list []Change

func (l *list) add(m Mark, format string, values ...any) {
	*l = append(*l, Change{Mark: m, Text: fmt.Sprintf(format, values...)})
}

// group is changes under a heading; where they are notes alone, it is one too.
func group(text string, below []Change) Change {
	if Real(below) {
		return Change{Changed, text, below}
	}
	return Change{Noted, text, below}
}

// Diff says what must change of now, which a daemon has, to become want, which a Recorder noted. What
// now does not tell (see Config.Whole) is not compared, and noted where want has something to say on
// it. Targets of now that are not in want go; accounts stay, as tgt-admin leaves them.
func Diff(now, want *Config) []Change {
	var l list
	for _, t := range now.Targets {
		if want.Target(t.Name) == nil {
			l.add(Removed, "target %s (tid %d)", t.Name, t.TID)
		}
	}
	for _, t := range want.Targets {
		old := now.Target(t.Name)
		if old == nil {
			l = append(l, Change{Added, fmt.Sprintf("target %s", t.Name), t.all()})
			continue
		}
		if below := DiffTarget(now, want, t.Name); len(below) > 0 {
			l = append(l, group(fmt.Sprintf("target %s (tid %d)", t.Name, old.TID), below))
		}
	}
	l = append(l, diffAccounts(now, want)...)
	if below := diffBound(now, now.Discovery, want.Discovery); len(below) > 0 {
		l = append(l, group("discovery", below))
	}
	if len(want.Portals) > 0 {
		diffTexts(&l, "portal", now.Portals, want.Portals)
	}
	diffISNS(&l, now.ISNS, want.ISNS)
	return l
}

// DiffTarget says what must change of one target that both have.
func DiffTarget(now, want *Config, name string) []Change {
	old, t := now.Target(name), want.Target(name)
	var l list
	if old.TID != t.TID {
		l.add(Changed, "tid: %d -> %d", old.TID, t.TID)
	}
	if old.Offline != t.Offline {
		l.add(Changed, "state: %s -> %s", state(old.Offline), state(t.Offline))
	}
	for _, u := range old.Units {
		if t.Unit(u.LUN) == nil {
			l.add(Removed, "LUN %d: %s", u.LUN, u.note())
		}
	}
	for _, u := range t.Units {
		before := old.Unit(u.LUN)
		if before == nil {
			l = append(l, Change{Added, u.title(), u.settings()})
			continue
		}
		if below := diffUnit(before, u); len(below) > 0 {
			l = append(l, group(fmt.Sprintf("LUN %d", u.LUN), below))
		}
	}
	diffTexts(&l, "access for address", old.ByAddress, t.ByAddress)
	diffTexts(&l, "access for initiator", old.ByName, t.ByName)
	l = append(l, diffBound(now, old.Accounts, t.Accounts)...)
	l = append(l, diffParams(old, t)...)
	return l
}

// all is everything of a new target.
func (t *Target) all() []Change {
	var l list
	for _, u := range t.Units {
		if u.LUN != 0 || len(u.Made.Updates) > 0 {
			l = append(l, Change{Added, u.title(), u.settings()})
		}
	}
	diffTexts(&l, "access for address", nil, t.ByAddress)
	diffTexts(&l, "access for initiator", nil, t.ByName)
	l = append(l, diffBound(&Config{Whole: true}, Bound{}, t.Accounts)...)
	for _, p := range t.Params {
		l.add(Added, "%s %s", p.Name, p.Value)
	}
	if t.Offline {
		l.add(Added, "state offline")
	}
	return l
}

// title is a new unit in one line.
func (u *Unit) title() string {
	path := u.Path
	if path == "" {
		path = "no medium"
	}
	return fmt.Sprintf("LUN %d: %s, %s %s", u.LUN, u.Type, u.Store, path)
}

// settings are what a new unit is given.
func (u *Unit) settings() []Change {
	var l list
	for _, s := range []struct{ name, value string }{
		{"bsopts", u.Made.Options}, {"bsoflags", u.Made.Flags}, {"block size", u.Made.BlockSize},
	} {
		if s.value != "" {
			l.add(Added, "%s %s", s.name, s.value)
		}
	}
	for _, p := range u.Made.Updates {
		l.add(Added, "%s", p)
	}
	return l
}

// diffTexts compares two sets of texts.
func diffTexts(l *list, what string, now, want []string) {
	for _, text := range now {
		if !slices.Contains(want, text) {
			l.add(Removed, "%s %s", what, text)
		}
	}
	for _, text := range want {
		if !slices.Contains(now, text) {
			l.add(Added, "%s %s", what, text)
		}
	}
}

func diffBound(now *Config, old, want Bound) []Change {
	var l list
	diffTexts(&l, "incoming account", old.Incoming, want.Incoming)
	outgoing := func(b Bound) []string {
		if b.HasOutgoing {
			return []string{b.Outgoing}
		}
		return nil
	}
	diffTexts(&l, "outgoing account", outgoing(old), outgoing(want))
	return l
}

func diffAccounts(now, want *Config) []Change {
	var l list
	for _, a := range want.Accounts {
		old := now.Account(a.User)
		switch {
		case old == nil:
			l.add(Added, "account %s", a.User)
		case !now.Whole:
			l.add(Noted, "account %s: the daemon does not tell its secret; it stays as it is", a.User)
		case old.Secret != a.Secret:
			l.add(Noted, "account %s: the secret differs; it stays as it is until the account is deleted", a.User)
		}
	}
	for _, a := range now.Accounts {
		if want.Account(a.User) == nil {
			l.add(Noted, "account %s is not in the file; it stays", a.User)
		}
	}
	return l
}

func diffISNS(l *list, now, want ISNS) {
	for _, s := range []struct{ name, now, want string }{
		{"iSNSServerIP", now.Server, want.Server}, {"iSNSServerPort", now.Port, want.Port},
		{"iSNSAccessControl", now.AccessControl, want.AccessControl}, {"iSNS", now.On, want.On},
	} {
		if s.want != "" && s.want != s.now {
			l.add(Changed, "%s: %s -> %s", s.name, s.now, s.want)
		}
	}
}

// diffUnit compares what both tell of a unit.
func diffUnit(now, want *Unit) []Change {
	var l list
	field := func(name, old, new string) {
		if old != new {
			l.add(Changed, "%s: %s -> %s", name, orNone(old), orNone(new))
		}
	}
	field("type", now.Type, want.Type)
	field("backing store", now.Store, want.Store)
	field("path", now.Path, want.Path)
	if want.LUN == 0 && now.Made == nil {
		return l
	}
	if now.Made == nil {
		field("bsoflags", flagSet(now.Flags), flagSet(want.Flags))
		field("block size", now.Block, want.Block)
		for _, p := range want.Made.Updates {
			l.add(Noted, "%s: the daemon does not tell what it has", p)
		}
		return l
	}
	field("bsoflags", flagSet(now.Made.Flags), flagSet(want.Made.Flags))
	field("block size", sizeText(now.Made.blockSize()), sizeText(want.Made.blockSize()))
	field("bsopts", now.Made.Options, want.Made.Options)
	diffTexts(&l, "parameter", now.Made.Updates, want.Made.Updates)
	if now.Made.Unsure {
		l.add(Noted, "an update failed half way: more parameters may differ")
	}
	return l
}

func orNone(text string) string {
	if text == "" {
		return "none"
	}
	return text
}

// flagSet writes flags in one order, as the daemon reads them.
func flagSet(text string) string {
	var words []string
	for _, w := range []string{"sync", "direct"} {
		for part := range strings.SplitSeq(text, ":") {
			if strings.HasPrefix(strings.TrimLeft(part, " \t"), w) && !slices.Contains(words, w) {
				words = append(words, w)
			}
		}
	}
	return strings.Join(words, ":")
}

// sizeText writes a number in one form.
func sizeText(text string) string {
	n, err := strconv.ParseUint(text, 0, 64)
	if err != nil {
		return text
	}
	return strconv.FormatUint(n, 10)
}

// DefaultParam returns the value that a parameter of a new target has, false for those whose default
// depends on the daemon's command line and for unknown ones.
func DefaultParam(name string) (string, bool) {
	for _, p := range []Param{
		{"MaxRecvDataSegmentLength", "8192"}, {"HeaderDigest", "None"}, {"DataDigest", "None"}, {"InitialR2T", "Yes"},
		{"MaxOutstandingR2T", "1"}, {"ImmediateData", "Yes"}, {"FirstBurstLength", "65536"},
		{"MaxBurstLength", "262144"}, {"DataPDUInOrder", "Yes"}, {"DataSequenceInOrder", "Yes"},
		{"ErrorRecoveryLevel", "0"}, {"IFMarker", "No"}, {"OFMarker", "No"}, {"DefaultTime2Wait", "2"},
		{"DefaultTime2Retain", "20"}, {"OFMarkInt", "Reject"}, {"IFMarkInt", "Reject"}, {"MaxConnections", "1"},
		{"RDMAExtensions", "Yes"}, {"TargetRecvDataSegmentLength", "262144"},
		{"InitiatorRecvDataSegmentLength", "262144"}, {"MaxOutstandingUnexpectedPDUs", "0"},
		{"MaxXmitDataSegmentLength", "8192"}, {"MaxQueueCmd", "128"},
		{"RedirectAddress", ""}, {"RedirectPort", ""}, {"RedirectReason", ""}, {"RedirectCallback", ""},
	} {
		if strings.EqualFold(p.Name, name) {
			return p.Value, true
		}
	}
	return "", false
}

// diffParams compares parameters: those that want names, and those of now that are not the default,
// to which a target that is made anew goes back.
func diffParams(now, want *Target) []Change {
	var l list
	shown := map[string]string{}
	for _, p := range now.Params {
		shown[strings.ToLower(p.Name)] = p.Value
	}
	named := map[string]bool{}
	for _, p := range want.Params {
		key := strings.ToLower(p.Name)
		named[key] = true
		old, ok := shown[key]
		if !ok {
			if _, known := DefaultParam(p.Name); known && strings.HasPrefix(p.Name, "Redirect") {
				l.add(Added, "%s %s", p.Name, p.Value)
				continue
			}
			l.add(Noted, "%s: the daemon does not tell what it has", p.Name)
			continue
		}
		if value := paramText(p.Name, p.Value); value != sizeText(old) {
			l.add(Changed, "%s: %s -> %s", p.Name, old, value)
		}
	}
	for _, p := range now.Params {
		if value, ok := DefaultParam(p.Name); ok && !named[strings.ToLower(p.Name)] && p.Value != value {
			l.add(Changed, "%s: %s -> %s, the default", p.Name, p.Value, orNone(value))
		}
	}
	return l
}

// paramText writes a value as the daemon shows it once it is set.
func paramText(name, value string) string {
	switch strings.ToLower(name) {
	case "headerdigest", "datadigest":
		if strings.Contains(value, "CRC32C") {
			return "CRC32C"
		}
		return "None"
	case "ifmarkint", "ofmarkint":
		return "Irrelevant" // whatever it is set to
	}
	return sizeText(value)
}

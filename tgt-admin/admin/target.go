package admin

import (
	"strconv"
	"strings"

	"github.com/paxos-iscsi/paxos-iscsi/tgt-admin/conf"
)

// isParameter says that a key of a target is a parameter of the daemon's target, to be set as it is.
func isParameter(key string) bool {
	switch key {
	case "MaxRecvDataSegmentLength", "MaxXmitDataSegmentLength", "HeaderDigest", "DataDigest", "InitialR2T",
		"MaxOutstandingR2T", "ImmediateData", "FirstBurstLength", "MaxBurstLength", "DataPDUInOrder",
		"DataSequenceInOrder", "ErrorRecoveryLevel", "IFMarker", "OFMarker", "DefaultTime2Wait",
		"DefaultTime2Retain", "OFMarkInt", "IFMarkInt", "MaxConnections":
		return true
	}
	return strings.HasPrefix(key, "state")
}

// maker makes one target.
type maker struct {
	*admin
	name    string
	section *conf.Section
	driver  string
	tid     string // as it is shown: a controller_tid stays as it was written
	luns    map[uint64]bool
}

// addTarget makes a target of the file. kept is the number that it had in the daemon, 0 for none.
func (a *admin) addTarget(name string, kept int) error {
	section := a.conf.Blocks["target"][name]
	m := &maker{admin: a, name: name, section: section, driver: a.driver}
	if name == "" {
		return &conf.Error{Text: "The block <target> has no name!", Pos: section.Pos, Status: conf.StatusSyntax}
	}
	if err := m.checkValues(); err != nil {
		return err
	}
	if driver, ok := m.first("driver"); ok {
		m.driver = driver.Text
	}
	m.chooseTID(kept)
	m.luns = m.namedLUNs()

	a.remark("# Adding target: %s", name)
	l := a.lineFor(m.driver).add("--op", "new", "--mode", "target", "--tid", m.tid, "-T", name)
	if err := a.do(l); err != nil {
		return err
	}
	a.state.targets = append(a.state.targets, &target{tid: a.tid, name: name, driver: m.driver})
	for _, key := range section.Keys() {
		if err := m.directive(key); err != nil {
			return err
		}
	}
	if len(section.Values["initiator-address"]) == 0 {
		return a.do(m.bind("-I", "ALL"))
	}
	return nil
}

// checkValues refuses, before anything is done, options without a value, known or not, and stores of
// both forms. The values of a list are looked at when their turn comes.
func (m *maker) checkValues() error {
	for _, key := range m.section.Keys() {
		if values := m.section.Values[key]; len(values) == 1 && values[0].Text == "" {
			return m.missing(key)
		}
	}
	for _, word := range []string{"backing-store", "direct-store"} {
		if lines := m.section.Values[word]; len(lines) > 0 && len(m.section.Blocks[word]) > 0 {
			return m.fail("\nYour config file is not supported: %s stands both alone (%s line %d) and as a block.",
				word, lines[0].Pos.File, lines[0].Pos.Line)
		}
	}
	return nil
}

func (m *maker) missing(key string) error {
	return m.fail("\nOption %s has a missing value!\nCheck your config file for errors (target: %s)", key, m.name)
}

// first returns the value of a directive that can stand once, with a warning where it stands more often.
func (m *maker) first(key string) (conf.Value, bool) {
	values := m.section.Values[key]
	if len(values) == 0 {
		return conf.Value{}, false
	}
	if len(values) > 1 {
		m.warnFirst(key)
	}
	return values[0], true
}

// chooseTID takes the number that the target asks for, or the one it had, or the next one after the
// target made last that neither the daemon nor another target of the file wants.
func (m *maker) chooseTID(kept int) {
	if v, ok := m.first("controller_tid"); ok {
		m.tid, m.admin.tid = v.Text, leadingDecimal(v.Text)
		return
	}
	if kept == 0 {
		for kept = m.admin.tid + 1; m.state.hasTID(kept) || m.reserved[kept]; {
			kept++
		}
	}
	m.tid, m.admin.tid = strconv.Itoa(kept), kept
}

// reserveTIDs notes the numbers that targets of the file ask for.
func (a *admin) reserveTIDs() {
	a.reserved = map[int]bool{}
	for _, section := range a.conf.Blocks["target"] {
		if values := section.Values["controller_tid"]; len(values) > 0 {
			a.reserved[leadingDecimal(values[0].Text)] = true
		}
	}
}

// leadingDecimal is the number that a text begins with, 0 for none.
func leadingDecimal(text string) int {
	end := strings.IndexFunc(text, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		end = len(text)
	}
	n, err := strconv.ParseInt(text[:end], 10, 32)
	if err != nil {
		return 0
	}
	return int(n)
}

func (m *maker) bind(option, rule string) *line {
	return m.lineFor(m.driver).add("--op", "bind", "--mode", "target", "--tid", m.tid, option, rule)
}

// directive carries out one key of the target.
func (m *maker) directive(key string) error {
	switch {
	case isParameter(key):
		return m.parameter(key)
	case key == "backing-store", key == "direct-store":
		return m.units(key)
	case key == "incominguser":
		return m.each(key, func(text string) error { return m.user(key, text, false) })
	case key == "outgoinguser":
		if v, ok := m.first(key); ok {
			return m.user(key, v.Text, true)
		}
		return m.missing(key)
	case key == "initiator-address":
		return m.each(key, func(text string) error {
			if text == nobody {
				return nil
			}
			return m.do(m.bind("-I", text))
		})
	case key == "target-parameter":
		return m.each(key, m.freeParameter)
	case key == "initiator-name":
		return m.each(key, func(text string) error { return m.do(m.bind("-Q", text)) })
	}
	return nil
}

// each calls do with each value of a key, which has one at least: a block has none.
func (m *maker) each(key string, do func(string) error) error {
	values := m.section.Values[key]
	if len(values) == 0 {
		return m.missing(key)
	}
	for _, v := range values {
		if v.Text == "" {
			return m.missing(key)
		}
		if err := do(v.Text); err != nil {
			return err
		}
	}
	return nil
}

// nobody stands for no address at all: with it a target is open to the initiators of its
// initiator-name lines alone, where without an address it would be open to all. To tgt it is a rule
// that matches no address, which comes to the same.
const nobody = "NONE"

// freeParameter sets a parameter of the target that has no directive of its own in tgt: NAME VALUE.
func (m *maker) freeParameter(text string) error {
	name, value, ok := strings.Cut(text, " ")
	if !ok || name == "" || value == "" {
		return m.missing("target-parameter")
	}
	return m.do(m.lineFor(m.driver).
		add("--mode", "target", "--op", "update", "--tid", m.tid, "--name", name, "--value", value))
}

// parameter sets one parameter of the target.
func (m *maker) parameter(key string) error {
	v, ok := m.first(key)
	if !ok || v.Text == "" {
		return m.missing(key)
	}
	return m.do(m.lineFor(m.driver).
		add("--mode", "target", "--op", "update", "--tid", m.tid, "--name", key, "--value", v.Text))
}

// user makes and binds an account of the target.
func (m *maker) user(key, text string, outgoing bool) error {
	user, secret, ok := userSecret(text)
	if !ok {
		return m.missing(key)
	}
	if err := m.newAccount(m.lineFor(m.driver), user, secret); err != nil {
		return err
	}
	l := m.lineFor(m.driver).add("--mode", "account", "--op", "bind", "--tid="+m.tid, "--user="+user)
	if outgoing {
		l.add("--outgoing")
	}
	return m.do(l)
}

package admin

import (
	"bytes"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/paxos-iscsi/paxos-iscsi/tgt-admin/conf"
	"github.com/paxos-iscsi/paxos-iscsi/tgtadm/command"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/mgmt"
)

// fallbackDriver is the driver of a file without default-driver.
const fallbackDriver = "iscsi"

// globals carries out the directives outside of targets, in ASCII order but for those that change what
// comes after them. It does so once a run, and what the daemon already has counts as done: the original
// binds discovery accounts again for every target, and fails on the second.
func (a *admin) globals() error {
	if a.globalsDone {
		return nil
	}
	a.globalsDone = true
	a.askSystem()
	a.driver = fallbackDriver
	drivers := a.conf.Values["default-driver"]
	if len(drivers) > 1 {
		return a.failGlobal("Multiple default-driver definitions are not allowed!")
	}
	if err := a.isnsSettings(); err != nil {
		return err
	}
	for _, v := range a.conf.Values["ignore-errors"] {
		a.ignoreErrors = a.ignoreErrors || v.Text == "yes"
	}
	if err := a.extraAccounts(); err != nil {
		return err
	}
	if err := a.discoveryUsers(); err != nil {
		return err
	}
	if err := a.controlPort(); err != nil {
		return err
	}
	if err := a.isnsSwitch(); err != nil {
		return err
	}
	if err := a.portals(); err != nil {
		return err
	}
	if len(drivers) == 1 && drivers[0].Text != "" {
		a.driver = drivers[0].Text
	} else {
		a.remark("# default-driver not defined, defaulting to %s.\n", fallbackDriver)
	}
	return nil
}

func (a *admin) failGlobal(text string) error {
	return a.fail("%s\nCheck your config file for errors.", text)
}

// one returns the only value of an iSNS directive, which is false where there is none.
func (a *admin) one(key string) (text string, ok bool, err error) {
	switch values := a.conf.Values[key]; len(values) {
	case 0:
		return "", false, nil
	case 1:
		return values[0].Text, true, nil
	}
	return "", false, a.failGlobal("Multiple '" + key + "' definitions not allowed!")
}

// isnsSettings sets how the iSNS server is reached; that is left alone while iSNS is on.
func (a *admin) isnsSettings() error {
	for _, key := range []string{"iSNSAccessControl", "iSNSServerIP", "iSNSServerPort"} {
		text, ok, err := a.one(key)
		if err != nil {
			return err
		}
		if !ok || a.state.isns {
			continue
		}
		if err := a.do(a.line().add("--op", "update", "--mode", "sys", "--name", key, "-v", text)); err != nil {
			return err
		}
	}
	return nil
}

// isnsSwitch turns iSNS on, or off.
func (a *admin) isnsSwitch() error {
	text, ok, err := a.one("iSNS")
	switch {
	case err != nil || !ok:
		return err
	case a.state.isns && text == "On":
		a.remark("# iSNS already enabled")
		return nil
	}
	return a.do(a.line().add("--op", "update", "--mode", "sys", "--name", "iSNS", "-v", text))
}

// controlPort goes over to the control port that the file names, for what comes after.
func (a *admin) controlPort() error {
	ports := a.conf.Values["control-port"]
	switch {
	case len(ports) == 0:
		return nil
	case len(ports) > 1 || a.portGiven:
		return a.failGlobal("Multiple control-port definitions are not allowed!")
	}
	a.port = ports[0].Text
	return nil
}

// discoveryUsers makes and binds the accounts of discovery sessions. There can be one outgoing one.
func (a *admin) discoveryUsers() error {
	for _, v := range a.conf.Values["incomingdiscoveryuser"] {
		if err := a.discoveryUser("incomingdiscoveryuser", v, false); err != nil {
			return err
		}
	}
	outgoing := a.conf.Values["outgoingdiscoveryuser"]
	if len(outgoing) == 0 {
		return nil
	}
	if len(outgoing) > 1 {
		a.warnFirst("outgoingdiscoveryuser")
	}
	return a.discoveryUser("outgoingdiscoveryuser", outgoing[0], true)
}

// warnFirst says that all values of a directive but the first are not used.
func (a *admin) warnFirst(key string) {
	a.remark("# Warning: only one %s is allowed. Will only use the first one.", key)
}

func (a *admin) discoveryUser(key string, v conf.Value, outgoing bool) error {
	user, secret, ok := userSecret(v.Text)
	if !ok {
		return a.failAt(key, v)
	}
	if err := a.newAccount(a.line(), user, secret); err != nil {
		return err
	}
	if a.state.hasDiscovery(account{user, outgoing}) {
		return nil
	}
	l := a.line().add("--mode", "account", "--op", "bind", "--user="+user).blank()
	if outgoing {
		return a.bindOutgoing(l.add("--outgoing"))
	}
	return a.do(l)
}

// bindOutgoing binds the outgoing discovery account. The daemon shows that account only beside an
// incoming one, so where none is bound its refusal to take a second is what says that it has one.
func (a *admin) bindOutgoing(l *line) error {
	hidden := true
	for _, d := range a.state.discovery {
		hidden = hidden && d.outgoing
	}
	if !hidden || a.pretend {
		return a.do(l)
	}
	a.remark("%s", l.text.String())
	var said bytes.Buffer
	env := a.env.Env
	env.Stderr = &said
	status := a.env.Tgtadm(a.ctx, l.argv, env)
	if status == command.StatusUsage && strings.Contains(said.String(), mgmt.ErrHasOutgoing.Error()) {
		return nil
	}
	fmt.Fprint(a.env.Stderr, said.String())
	return a.ended(l, status)
}

// userSecret splits NAME SECRET at its single blank. A third word is not looked at.
func userSecret(text string) (user, secret string, ok bool) {
	words := strings.Split(text, " ")
	if len(words) < 2 || words[0] == "" || words[1] == "" {
		return "", "", false
	}
	return words[0], words[1], true
}

// newAccount makes an account unless there is one of that name, whose secret stays as it is.
func (a *admin) newAccount(l *line, user, secret string) error {
	if a.state.accounts[user] {
		return nil
	}
	a.state.accounts[user] = true
	return a.do(l.add("--mode", "account", "--op", "new", "--user="+user, "--password="+secret))
}

// extraAccounts makes the accounts of the directive account, which tgt does not have: accounts that
// nothing in the file binds.
func (a *admin) extraAccounts() error {
	for _, v := range a.conf.Values["account"] {
		user, secret, ok := userSecret(v.Text)
		if !ok {
			return a.failAt("account", v)
		}
		if err := a.newAccount(a.line(), user, secret); err != nil {
			return err
		}
	}
	return nil
}

// portals makes the daemon's portals those of the directive portal, which tgt does not have; without it
// they are left alone. What goes goes first: a portal of all addresses is in the way of any other.
func (a *admin) portals() error {
	var want []string
	for _, v := range a.conf.Values["portal"] {
		if v.Text == "" {
			return a.failAt("portal", v)
		}
		want = append(want, withPort(v.Text))
	}
	if len(want) == 0 {
		return nil
	}
	have := a.askPortals()
	for _, p := range have {
		if !slices.Contains(want, p) {
			if err := a.do(a.line().add("--op", "delete", "--mode", "portal", "--param", "portal="+p)); err != nil {
				return err
			}
		}
	}
	for _, p := range want {
		if !slices.Contains(have, p) {
			if err := a.do(a.line().add("--op", "new", "--mode", "portal", "--param", "portal="+p)); err != nil {
				return err
			}
		}
	}
	return nil
}

// failAt ends the run for a directive without a usable value.
func (a *admin) failAt(key string, v conf.Value) error {
	return a.fail("\nOption %s has a missing value!\nCheck your config file for errors (%s line %d)",
		key, v.Pos.File, v.Pos.Line)
}

// withPort puts the default port behind an address that has none.
func withPort(portal string) string {
	if _, _, err := net.SplitHostPort(portal); err != nil {
		return portal + ":3260" // RFC 7143 4.1
	}
	return portal
}

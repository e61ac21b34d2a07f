package admin

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/paxos-iscsi/paxos-iscsi/tgt-admin/conf"
	"github.com/paxos-iscsi/paxos-iscsi/tgtadm/running"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/mgmt"
)

// document is a configuration to be written as targets.conf.
type document struct {
	config *running.Config
	head   string // the remark at the top
	// remarks go above what they are about: by the name of a target, or "" for what is outside of them.
	remarks map[string][]string
	// keepTIDs writes the numbers of the targets, which the identities of their units are made of.
	keepTIDs bool
}

// text writes the document. What it says is exact where targets.conf can say it; whoever needs to know
// whether it did reads it again (see verify).
func (d *document) text() string {
	w := new(conf.Writer)
	c := d.config
	w.Comment(d.head)
	w.Blank()
	for _, r := range d.remarks[""] {
		w.Comment(r)
	}
	w.Entry("default-driver", fallbackDriver)
	for _, p := range c.Portals {
		w.Entry("portal", p)
	}
	if c.ISNS.On == "On" {
		w.Entry("iSNSServerIP", c.ISNS.Server)
		w.Entry("iSNSServerPort", c.ISNS.Port)
		w.Entry("iSNSAccessControl", c.ISNS.AccessControl)
		w.Entry("iSNS", "On")
	}
	for _, a := range c.Accounts {
		if !isBound(c, a.User) {
			w.Entry("account", a.User+" "+a.Secret)
		}
	}
	for _, user := range c.Discovery.Incoming {
		w.Entry("incomingdiscoveryuser", d.userSecret(user))
	}
	if c.Discovery.HasOutgoing {
		w.Entry("outgoingdiscoveryuser", d.userSecret(c.Discovery.Outgoing))
	}
	for _, t := range c.Targets {
		w.Blank()
		for _, r := range d.remarks[t.Name] {
			w.Comment(r)
		}
		d.target(w, t)
	}
	return w.String()
}

func isBound(c *running.Config, user string) bool {
	in := func(b running.Bound) bool {
		return slices.Contains(b.Incoming, user) || b.HasOutgoing && b.Outgoing == user
	}
	return in(c.Discovery) || slices.ContainsFunc(c.Targets, func(t *running.Target) bool { return in(t.Accounts) })
}

// userSecret is an account as directives have it.
func (d *document) userSecret(user string) string {
	secret := noSecret
	if a := d.config.Account(user); a != nil && a.Secret != "" {
		secret = a.Secret
	}
	return user + " " + secret
}

func (d *document) target(w *conf.Writer, t *running.Target) {
	w.Open("target", t.Name)
	if t.Driver != "" && t.Driver != fallbackDriver {
		w.Entry("driver", t.Driver)
	}
	if d.keepTIDs {
		w.Entry("controller_tid", strconv.Itoa(t.TID))
	}
	for _, u := range t.Units {
		if u.LUN != 0 {
			d.unit(w, u)
		}
	}
	for _, user := range t.Accounts.Incoming {
		w.Entry("incominguser", d.userSecret(user))
	}
	if t.Accounts.HasOutgoing {
		w.Entry("outgoinguser", d.userSecret(t.Accounts.Outgoing))
	}
	for _, rule := range t.ByAddress {
		w.Entry("initiator-address", rule)
	}
	if len(t.ByAddress) == 0 {
		w.Entry("initiator-address", nobody)
	}
	for _, rule := range t.ByName {
		w.Entry("initiator-name", rule)
	}
	for _, p := range t.Params {
		value, known := running.DefaultParam(p.Name)
		switch {
		case known && p.Value == value, p.Value == "", !known && p.Value == "0":
		case isParameter(p.Name):
			w.Entry(p.Name, p.Value)
		default:
			w.Entry("target-parameter", p.Name+" "+p.Value)
		}
	}
	if t.Offline {
		w.Entry("state", "offline")
	}
	w.Close("target")
}

func (d *document) unit(w *conf.Writer, u *running.Unit) {
	m := u.Made
	if m == nil {
		m = guess(u)
	}
	path := m.Path
	if path == "" {
		path = fmt.Sprintf("%s%d", noMedium, u.LUN)
	}
	w.Open("backing-store", path)
	w.Entry("lun", strconv.FormatUint(u.LUN, 10))
	entry := func(key, value string) {
		if value != "" {
			w.Entry(key, value)
		}
	}
	if m.Device != mgmt.Disk {
		w.Entry("device-type", running.DeviceWord(m.Device))
	}
	entry("bs-type", m.Store)
	entry("bsopts", m.Options)
	entry("bsoflags", m.Flags)
	entry("block-size", m.BlockSize)
	if d.isShared(m.Path) {
		w.Entry("allow-in-use", "yes")
	}
	for _, p := range m.Updates {
		w.Entry("params", p)
	}
	w.Close("backing-store")
}

// isShared says that several units stand on one path, which tgt-admin takes for a mistake if it is not
// told.
func (d *document) isShared(path string) bool {
	n := 0
	for _, t := range d.config.Targets {
		for _, u := range t.Units {
			if path != "" && u.Path == path {
				n++
			}
		}
	}
	return n > 1
}

// guess is what a unit must have been made with by what show says of it: all but its parameters.
func guess(u *running.Unit) *running.Made {
	m := &running.Made{Path: u.Path, Flags: u.Flags}
	for _, d := range []mgmt.DeviceType{mgmt.Tape, mgmt.CD, mgmt.Changer, mgmt.OSD, mgmt.Passthrough} {
		if running.DeviceName(d) == u.Type {
			m.Device = d
		}
	}
	if m.Device == mgmt.Disk {
		if u.Store != "rdwr" {
			m.Store = u.Store
		}
		if u.Block != "512" {
			m.BlockSize = u.Block
		}
	}
	for _, p := range []struct {
		on   bool
		name string
	}{{u.ReadOnly, "readonly=1"}, {u.Thin, "thin_provisioning=1"}, {u.Removable && u.Path != "", "removable=1"}} {
		if p.on {
			m.Updates = append(m.Updates, p.name)
		}
	}
	return m
}

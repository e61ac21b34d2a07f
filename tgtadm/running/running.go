// Package running is what a running tgtd has, put together from the answers of its management socket:
// tgt's own show texts, which every tgtd gives, and the detail that this project's adds (package
// tgtd/mgmt/detail). It is read by Read, drawn by Tree, and compared by Diff. A Recorder stands in for
// a daemon and ends up with what requests would make of an empty one.
package running

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/mgmt"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/mgmt/detail"
)

// Call sends one request to the daemon, as mgmt.Call does.
type Call func(context.Context, mgmt.Request) (mgmt.Response, error)

// Config is a daemon's configuration and its sessions.
type Config struct {
	// Whole says that nothing is missing: secrets are known, and what units were made with.
	Whole     bool
	Offline   bool // system state
	ISNS      ISNS
	Targets   []*Target // by number
	Accounts  []Account // oldest first
	Discovery Bound
	Portals   []string // ADDRESS:PORT, oldest first
}

// ISNS is the settings of the iSNS client, as show system prints them.
type ISNS struct{ On, Server, Port, AccessControl string }

// Account is a CHAP account. Secret is known where Config.Whole is true.
type Account struct{ User, Secret string }

// Bound is the accounts bound to a target or to discovery.
type Bound struct {
	Incoming    []string
	Outgoing    string
	HasOutgoing bool
}

// Target is one target.
type Target struct {
	TID       int
	Name      string
	Driver    string
	Offline   bool
	Accounts  Bound
	ByAddress []string // rules
	ByName    []string
	Params    []Param // in the daemon's order
	Sessions  []Session
	Units     []*Unit // by number, the controller too
}

// Param is a named value.
type Param struct{ Name, Value string }

// Session is an I_T nexus.
type Session struct {
	SID, Initiator, Alias string
	CID, Address          string // of the connection it was made with
}

// Unit is a logical unit: what show says of it and, where the daemon tells it, what it was made with.
type Unit struct {
	LUN    uint64
	Type   string // disk, cd/dvd, …
	ID, SN string
	Size   string // as shown: 10 MB
	Block  string // size in bytes
	Store  string // type of the backing store
	Path   string // empty: no medium
	Flags  string

	Online, Removable, ReadOnly, Thin bool

	Made *Made // nil where it is not known
}

// Made is what a unit was made with, as typed; empty means the default.
type Made struct {
	Device                                 mgmt.DeviceType
	Path, Store, Options, Flags, BlockSize string
	Updates                                []string // lists NAME=VALUE,… in the order they were set
	Unsure                                 bool     // Updates may lack something
}

// Target returns the target of that name, nil if there is none.
func (c *Config) Target(name string) *Target {
	i := slices.IndexFunc(c.Targets, func(t *Target) bool { return t.Name == name })
	if i < 0 {
		return nil
	}
	return c.Targets[i]
}

// Account returns the account of that user, nil if there is none.
func (c *Config) Account(user string) *Account {
	i := slices.IndexFunc(c.Accounts, func(a Account) bool { return a.User == user })
	if i < 0 {
		return nil
	}
	return &c.Accounts[i]
}

// Unit returns the unit of that number, nil if there is none.
func (t *Target) Unit(lun uint64) *Unit {
	i := slices.IndexFunc(t.Units, func(u *Unit) bool { return u.LUN == lun })
	if i < 0 {
		return nil
	}
	return t.Units[i]
}

// Param returns the value of a parameter, empty if there is none of that name.
func (t *Target) Param(name string) string {
	for _, p := range t.Params {
		if p.Name == name {
			return p.Value
		}
	}
	return ""
}

// Read asks a daemon for all it has. Errors are those of call, and mgmt.Errno where the daemon refuses.
func Read(ctx context.Context, call Call) (*Config, error) {
	ask := func(mode mgmt.Mode, tid int32, params string) (string, error) {
		r := mgmt.Request{Mode: mode, Op: mgmt.OpShow, TID: tid, LUN: mgmt.NoLUN, Params: params}
		answer, err := call(ctx, r)
		if err != nil {
			return "", fmt.Errorf("asking the daemon to show %v: %w", mode, err)
		}
		if answer.Err != mgmt.Success {
			return "", fmt.Errorf("asking the daemon to show %v: %w", mode, answer.Err)
		}
		return answer.Text, nil
	}
	texts := make(map[mgmt.Mode]string)
	for _, mode := range []mgmt.Mode{mgmt.ModeTarget, mgmt.ModeAccount, mgmt.ModeSystem, mgmt.ModePortal} {
		text, err := ask(mode, mgmt.NoTID, "")
		if err != nil {
			return nil, err
		}
		texts[mode] = text
	}
	c := &Config{Targets: parseTargets(texts[mgmt.ModeTarget]), Portals: parsePortals(texts[mgmt.ModePortal])}
	c.Accounts = parseAccounts(texts[mgmt.ModeAccount])
	c.parseSystem(texts[mgmt.ModeSystem])
	for _, t := range c.Targets {
		text, err := ask(mgmt.ModeTarget, int32(t.TID), "")
		if errors.Is(err, mgmt.ErrNoTarget) {
			continue // deleted in between
		}
		if err != nil {
			return nil, err
		}
		t.Params = parseParams(strings.Split(strings.TrimSuffix(text, "\n"), "\n"))
	}
	text, err := ask(mgmt.ModeSystem, mgmt.NoTID, detail.Ask)
	if err != nil {
		return nil, err
	}
	d, err := detail.Decode(text)
	if errors.Is(err, detail.ErrNone) {
		return c, nil
	}
	if err != nil {
		return nil, err
	}
	c.add(d)
	return c, nil
}

// add takes in what a daemon tells beyond the show texts.
func (c *Config) add(d detail.Configuration) {
	c.Whole = true
	c.Accounts = nil
	for _, a := range d.Accounts {
		c.Accounts = append(c.Accounts, Account(a))
	}
	c.Discovery = Bound(d.Discovery)
	for _, dt := range d.Targets {
		t := c.Target(dt.Name)
		if t == nil || t.TID != dt.TID {
			continue // made in between
		}
		t.Accounts, t.ByAddress, t.ByName = Bound(dt.Accounts), dt.ByAddress, dt.ByName
		t.Params = parseParams(dt.Params)
		for _, du := range dt.Units {
			if u := t.Unit(du.LUN); u != nil {
				u.Made = &Made{Device: mgmt.DeviceType(du.Device), Path: du.Path, Store: du.Store,
					Options: du.Options, Flags: du.Flags, BlockSize: du.BlockSize,
					Updates: du.Params, Unsure: du.Unsure}
			}
		}
	}
}

func parseParams(lines []string) []Param {
	var list []Param
	for _, line := range lines {
		if name, value, ok := strings.Cut(line, "="); ok {
			list = append(list, Param{name, value})
		}
	}
	return list
}

// parsePortals reads `Portal: ADDRESS:PORT,TAG`, the newest first.
func parsePortals(text string) []string {
	var list []string
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "Portal: "); ok {
			portal, _, _ := strings.Cut(rest, ",")
			list = append(list, portal)
		}
	}
	slices.Reverse(list)
	return list
}

// parseAccounts reads the accounts, the newest first.
func parseAccounts(text string) []Account {
	var list []Account
	for line := range strings.Lines(text) {
		if user, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "    "); ok {
			list = append(list, Account{User: user})
		}
	}
	slices.Reverse(list)
	return list
}

// parseSystem reads state, iSNS and the accounts of discovery.
func (c *Config) parseSystem(text string) {
	ScanSystem(text, func(line string) {
		name, value, _ := strings.Cut(line, "=")
		switch name {
		case "State: offline":
			c.Offline = true
		case "iSNS":
			c.ISNS.On = value
		case "iSNSServerIP":
			c.ISNS.Server = value
		case "iSNSServerPort":
			c.ISNS.Port = value
		case "iSNSAccessControl":
			c.ISNS.AccessControl = value
		}
	}, c.Discovery.add)
}

// add takes one line of bound accounts.
func (b *Bound) add(text string) {
	user, outgoing := CutOutgoing(text)
	if outgoing {
		b.Outgoing, b.HasOutgoing = user, true
		return
	}
	b.Incoming = append(b.Incoming, user)
}

// parseTargets reads the answer to show target.
func parseTargets(text string) []*Target {
	var targets []*Target
	ScanTargets(text, func(tid int, name string) {
		targets = append(targets, &Target{TID: tid, Name: name})
	}, func(part, line string) {
		targets[len(targets)-1].read(part, line)
	})
	slices.SortFunc(targets, func(a, b *Target) int { return a.TID - b.TID })
	return targets
}

// read takes one line of a part, two levels of indent taken off.
func (t *Target) read(part, line string) {
	name, value, _ := strings.Cut(strings.TrimLeft(line, " "), ": ")
	switch part {
	case PartSystem:
		switch name {
		case "Driver":
			t.Driver = value
		case "State":
			t.Offline = value == "offline"
		}
	case PartNexus:
		t.readSession(name, value)
	case PartUnits:
		t.readUnit(name, value)
	case PartAccounts:
		t.Accounts.add(line)
	case PartRules:
		// The two kinds are not told apart in the text; names of initiators begin so (RFC 7143 4.2.7).
		if isName(line) {
			t.ByName = append(t.ByName, line)
		} else {
			t.ByAddress = append(t.ByAddress, line)
		}
	}
}

func isName(rule string) bool {
	return strings.HasPrefix(rule, "iqn.") || strings.HasPrefix(rule, "eui.") || strings.HasPrefix(rule, "naa.")
}

func (t *Target) readSession(name, value string) {
	if name == "I_T nexus" {
		t.Sessions = append(t.Sessions, Session{SID: value})
		return
	}
	if len(t.Sessions) == 0 {
		return
	}
	s := &t.Sessions[len(t.Sessions)-1]
	switch name {
	case "Initiator":
		s.Initiator, s.Alias, _ = strings.Cut(value, " alias: ")
	case "Connection":
		s.CID = value
	case "IP Address":
		s.Address = value
	}
}

func (t *Target) readUnit(name, value string) {
	if name == "LUN" {
		n, err := strconv.ParseUint(value, 10, 64)
		if err == nil {
			t.Units = append(t.Units, &Unit{LUN: n})
		}
		return
	}
	if len(t.Units) == 0 {
		return
	}
	u := t.Units[len(t.Units)-1]
	switch name {
	case "Type":
		u.Type = value
	case "SCSI ID":
		u.ID = value
	case "SCSI SN":
		u.SN = value
	case "Size":
		u.Size, u.Block, _ = strings.Cut(value, ", Block size: ")
	case "Online":
		u.Online = value == "Yes"
	case "Removable media":
		u.Removable = value == "Yes"
	case "Readonly":
		u.ReadOnly = value == "Yes"
	case "Thin-provisioning":
		u.Thin = value == "Yes"
	case "Backing store type":
		u.Store = value
	case "Backing store path":
		if value != "None" {
			u.Path = value
		}
	case "Backing store flags":
		u.Flags = value
	}
}

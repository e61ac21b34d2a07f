package running

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/mgmt"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/mgmt/detail"
)

// Recorder stands in for a daemon without targets: it takes requests and does nothing but note what
// they make. Parameters of targets are in its Config only where a request set them.
type Recorder struct{ Config Config }

// NewRecorder is a daemon that has nothing.
func NewRecorder() *Recorder { return &Recorder{Config{Whole: true}} }

// Call implements Call. Requests that a daemon would refuse for what it has already are refused.
func (r *Recorder) Call(_ context.Context, q mgmt.Request) (mgmt.Response, error) {
	err := r.do(&q)
	if err == nil {
		return mgmt.Response{}, nil
	}
	return mgmt.Response{Err: mgmt.ErrnoOf(err)}, nil
}

func (r *Recorder) do(q *mgmt.Request) error {
	if q.Op == mgmt.OpShow {
		return nil // nothing is there yet; what comes to be is asked of Config
	}
	switch q.Mode {
	case mgmt.ModeSystem:
		return r.system(q)
	case mgmt.ModeAccount:
		return r.account(q)
	case mgmt.ModePortal:
		return r.portal(q)
	case mgmt.ModeTarget:
		return r.target(q)
	case mgmt.ModeUnit:
		return r.unit(q)
	}
	return fmt.Errorf("%v %v: %w", q.Op, q.Mode, mgmt.ErrInvalid)
}

func (r *Recorder) system(q *mgmt.Request) error {
	name, value, _ := strings.Cut(q.Params, "=")
	switch name {
	case "iSNS":
		r.Config.ISNS.On = value
	case "iSNSServerIP":
		r.Config.ISNS.Server = value
	case "iSNSServerPort":
		r.Config.ISNS.Port = value
	case "iSNSAccessControl":
		r.Config.ISNS.AccessControl = value
	case "State":
		r.Config.Offline = value == "offline"
	}
	return nil
}

func (r *Recorder) portal(q *mgmt.Request) error {
	_, list, _ := strings.Cut(strings.TrimSuffix(q.Params, ","), "portal=")
	for p := range strings.SplitSeq(list, ",") {
		p = strings.TrimPrefix(p, "portal=")
		if q.Op == mgmt.OpNew {
			r.Config.Portals = append(r.Config.Portals, p)
		} else {
			r.Config.Portals = slices.DeleteFunc(r.Config.Portals, func(old string) bool { return old == p })
		}
	}
	return nil
}

func (r *Recorder) account(q *mgmt.Request) error {
	_, user, _ := strings.Cut(q.Params, "user=")
	if q.Op == mgmt.OpNew {
		user, secret, _ := strings.Cut(user, ",password=")
		if r.Config.Account(user) != nil {
			return mgmt.ErrAccountExists
		}
		r.Config.Accounts = append(r.Config.Accounts, Account{user, secret})
		return nil
	}
	if r.Config.Account(user) == nil {
		return mgmt.ErrNoAccount
	}
	bound := &r.Config.Discovery
	if q.TID != mgmt.NoTID {
		t, err := r.find(q.TID)
		if err != nil {
			return err
		}
		bound = &t.Accounts
	}
	switch {
	case q.Op != mgmt.OpBind:
		return fmt.Errorf("%v account: %w", q.Op, mgmt.ErrInvalid)
	case q.Direction == mgmt.Incoming:
		if slices.Contains(bound.Incoming, user) {
			return mgmt.ErrAccountExists
		}
		bound.Incoming = append(bound.Incoming, user)
	case bound.HasOutgoing:
		return mgmt.ErrHasOutgoing
	default:
		bound.Outgoing, bound.HasOutgoing = user, true
	}
	return nil
}

func (r *Recorder) find(tid int32) (*Target, error) {
	for _, t := range r.Config.Targets {
		if t.TID == int(tid) {
			return t, nil
		}
	}
	return nil, mgmt.ErrNoTarget
}

func (r *Recorder) target(q *mgmt.Request) error {
	name, value, _ := strings.Cut(q.Params, "=")
	if q.Op == mgmt.OpNew {
		if _, err := r.find(q.TID); err == nil || r.Config.Target(value) != nil {
			return mgmt.ErrTargetExists
		}
		t := &Target{TID: int(q.TID), Name: value, Driver: q.Driver}
		t.Units = []*Unit{NewUnit(0, Made{Device: mgmt.Controller})}
		r.Config.Targets = append(r.Config.Targets, t)
		slices.SortFunc(r.Config.Targets, func(a, b *Target) int { return cmp.Compare(a.TID, b.TID) })
		return nil
	}
	t, err := r.find(q.TID)
	if err != nil {
		return err
	}
	switch q.Op {
	case mgmt.OpBind:
		return t.bind(q.Params)
	case mgmt.OpUpdate:
		if name == "state" {
			t.Offline = value == "offline"
			return nil
		}
		t.Params = slices.DeleteFunc(t.Params, func(p Param) bool { return p.Name == name })
		t.Params = append(t.Params, Param{name, value})
		return nil
	}
	return fmt.Errorf("%v target: %w", q.Op, mgmt.ErrInvalid)
}

func (t *Target) bind(params string) error {
	kind, rule, _ := strings.Cut(params, "=")
	rules := &t.ByAddress
	if kind == "initiator-name" {
		rules = &t.ByName
	}
	if slices.Contains(*rules, rule) {
		return mgmt.ErrRuleExists
	}
	*rules = append(*rules, rule)
	return nil
}

func (r *Recorder) unit(q *mgmt.Request) error {
	t, err := r.find(q.TID)
	if err != nil {
		return err
	}
	u := t.Unit(q.LUN)
	switch {
	case q.Op == mgmt.OpNew && u != nil:
		return mgmt.ErrUnitExists
	case q.Op == mgmt.OpNew:
		t.Units = append(t.Units, newUnit(q))
		slices.SortFunc(t.Units, func(a, b *Unit) int { return cmp.Compare(a.LUN, b.LUN) })
		return nil
	case u == nil:
		return mgmt.ErrNoUnit
	}
	d := detail.Unit{Path: u.Made.Path, Params: u.Made.Updates}
	d.Update(strings.TrimPrefix(q.Params, "targetOps "))
	u.Made.Path, u.Made.Updates = d.Path, d.Params
	u.Path = d.Path
	for _, p := range d.Params {
		if medium, ok := strings.CutPrefix(p, "path="); ok {
			u.Path = medium
		}
	}
	return nil
}

// newUnit is a unit as a request asks for it.
func newUnit(q *mgmt.Request) *Unit {
	m := &Made{Device: q.Device}
	for token := range strings.SplitSeq(q.Params, ",") {
		name, value, _ := strings.Cut(token, "=")
		switch name {
		case "path":
			m.Path = value
		case "bstype":
			m.Store = value
		case "bsopts":
			m.Options = value
		case "bsoflags":
			m.Flags = value
		case "blocksize":
			m.BlockSize = value
		}
	}
	return NewUnit(q.LUN, *m)
}

// NewUnit is a unit as what it is made with makes it, as far as that can be told without its store.
func NewUnit(lun uint64, m Made) *Unit {
	return &Unit{LUN: lun, Type: DeviceName(m.Device), Path: m.Path, Store: m.store(), Flags: m.Flags,
		Block: m.blockSize(), Online: m.Path != "", Removable: m.Path == "", Made: &m}
}

// DeviceName is a device type as show target names it.
func DeviceName(d mgmt.DeviceType) string {
	switch d {
	case mgmt.Disk:
		return "disk"
	case mgmt.Tape:
		return "tape"
	case mgmt.CD:
		return "cd/dvd"
	case mgmt.Changer:
		return "changer"
	case mgmt.Controller:
		return "controller"
	case mgmt.OSD:
		return "osd"
	case mgmt.Passthrough:
		return "passthrough"
	}
	return fmt.Sprintf("device type %#x", uint32(d))
}

// DeviceWord is a device type as --device-type and targets.conf take it.
func DeviceWord(d mgmt.DeviceType) string {
	switch d {
	case mgmt.CD:
		return "cd"
	case mgmt.Passthrough:
		return "pt"
	}
	return DeviceName(d)
}

// store is the type of the backing store with the default put in.
func (m *Made) store() string {
	switch m.Device {
	case mgmt.CD:
		return "mmc"
	case mgmt.Tape:
		return "ssc"
	case mgmt.Changer:
		return "smc"
	case mgmt.Controller:
		return "null"
	}
	if m.Store == "" {
		return "rdwr"
	}
	return m.Store
}

// blockSize is the size of a disk's blocks with the default put in, and 1 of other units, as show
// target has it.
func (m *Made) blockSize() string {
	switch {
	case m.Device != mgmt.Disk:
		return "1"
	case m.BlockSize == "":
		return "512"
	}
	return m.BlockSize
}

package command

import (
	"strings"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/mgmt"
)

// alwaysAllowed are the options that no mode refuses.
const alwaysAllowed = "LomCd"

// rule is what the client itself asks of a request before it is sent.
type rule struct {
	allowed string // the letters of further options
	// plain selects the other of the two texts for an option that is not allowed
	plain bool
	check func(*options) error // what else is wrong; may be nil
}

// check refuses what the client can see to be wrong. Modes and operations that are not named go to
// the daemon as they are.
func (o *options) check() error {
	switch {
	case !o.hasOp:
		return refuse("specify the operation type")
	case !o.hasMode:
		return refuse("specify the mode")
	}
	if o.tree {
		return o.checkTree()
	}
	switch o.mode {
	case mgmt.ModeSystem:
		return o.checkSystem()
	case mgmt.ModeTarget:
		return o.checkTarget()
	case mgmt.ModeUnit:
		return o.checkUnit()
	case mgmt.ModeAccount:
		return o.checkBy(map[mgmt.Op]rule{
			mgmt.OpNew:    {allowed: "upf", check: needAccount},
			mgmt.OpShow:   {},
			mgmt.OpDelete: {allowed: "u"},
			mgmt.OpBind:   {allowed: "utO", check: needUser},
			mgmt.OpUnbind: {allowed: "utO", check: needUser},
		})
	case mgmt.ModePortal:
		return o.checkBy(map[mgmt.Op]rule{
			mgmt.OpNew:    {allowed: "P", check: needPortal},
			mgmt.OpDelete: {allowed: "P", check: needPortal},
			mgmt.OpShow:   {plain: true},
		})
	case mgmt.ModeDriver:
		return o.checkDriver()
	}
	return nil
}

func (o *options) checkTree() error {
	if o.op != mgmt.OpShow {
		return refuse("operation %s not supported in %s mode", o.op, modeTree)
	}
	for _, letter := range o.given {
		if strings.IndexByte(alwaysAllowed, letter) < 0 {
			return refuse("option '-%c' not supported in %s mode", letter, modeTree)
		}
	}
	return nil
}

func (o *options) checkSystem() error {
	switch o.op {
	case mgmt.OpUpdate:
		return o.checkRule(rule{allowed: "nv", check: needNameValue})
	case mgmt.OpShow, mgmt.OpStat, mgmt.OpDelete:
		return nil
	}
	return o.unsupported()
}

func (o *options) checkTarget() error {
	if o.op != mgmt.OpShow {
		switch o.tid {
		case mgmt.NoTID:
			return refuse("'tid' option is necessary")
		case 0:
			return refuse("'tid' cannot be 0")
		}
	}
	return o.checkBy(map[mgmt.Op]rule{
		mgmt.OpNew:    {allowed: "tT", check: needTargetName},
		mgmt.OpDelete: {allowed: "tF"},
		mgmt.OpShow:   {allowed: "t"},
		mgmt.OpStat:   {allowed: "t"},
		mgmt.OpUpdate: {allowed: "tnv", check: needNameValue},
		mgmt.OpBind:   {allowed: "tIQBH", check: needInitiator},
		mgmt.OpUnbind: {allowed: "tIQBH", check: needInitiator},
	})
}

func (o *options) checkUnit() error {
	switch {
	case o.tid == mgmt.NoTID:
		return refuse("'tid' option is necessary")
	case o.tid == 0:
		return refuse("'tid' must not be 0")
	case o.lun == mgmt.NoLUN:
		return refuse("'lun' option is necessary")
	}
	return o.checkBy(map[mgmt.Op]rule{
		mgmt.OpNew:    {allowed: "tlbESfyY", check: needBackingStore},
		mgmt.OpDelete: {allowed: "tl"},
		mgmt.OpStat:   {allowed: "tl"},
		mgmt.OpUpdate: {allowed: "tlPfy", plain: true},
	})
}

func (o *options) checkDriver() error {
	switch o.op {
	case mgmt.OpShow, mgmt.OpStart, mgmt.OpStop:
		return o.checkRule(rule{})
	}
	return refuse("option %d not supported in lld mode", o.op)
}

// checkBy applies the rule of the operation; there is none for those that the mode does not have.
func (o *options) checkBy(rules map[mgmt.Op]rule) error {
	r, ok := rules[o.op]
	if !ok {
		return o.unsupported()
	}
	return o.checkRule(r)
}

func (o *options) checkRule(r rule) error {
	for _, letter := range o.given {
		if strings.IndexByte(alwaysAllowed+r.allowed, letter) >= 0 {
			continue
		}
		if r.plain {
			return refuse("option '-%c' not supported in %s mode", letter, o.mode)
		}
		return refuse("%s mode: option '-%c' is not allowed/supported", o.mode, letter)
	}
	if r.check == nil {
		return nil
	}
	return r.check(o)
}

func (o *options) unsupported() error {
	return refuse("operation %s not supported in %s mode", o.op, o.mode)
}

func needNameValue(o *options) error {
	if !o.has('n') || !o.has('v') {
		return refuse("update operation requires 'name' and 'value' options")
	}
	return nil
}

func needTargetName(o *options) error {
	if !o.has('T') {
		return refuse("creating new target requires a name, use --targetname")
	}
	return nil
}

func needInitiator(o *options) error {
	if !o.has('I') && !o.has('Q') && o.host == 0 {
		return refuse("%s operation requires initiator-address, initiator-nameor bus", o.op)
	}
	return nil
}

func needBackingStore(o *options) error {
	switch o.device {
	case mgmt.Changer, mgmt.OSD, mgmt.Passthrough:
		if !o.has('b') {
			return refuse("'backing-store' option is necessary")
		}
	}
	return nil
}

func needAccount(o *options) error {
	if !o.has('u') || !o.has('p') {
		return refuse("'user' and 'password' options are required")
	}
	return nil
}

func needUser(o *options) error {
	if !o.has('u') {
		return refuse("'user' option is necessary")
	}
	return nil
}

func needPortal(o *options) error {
	if !o.portalParams {
		return refuse("you must specify --param portal=<portal>")
	}
	return nil
}

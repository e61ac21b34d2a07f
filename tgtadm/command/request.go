package command

import (
	"strings"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/mgmt"
)

// request returns what the command line asks of the daemon. All that was given goes along, whatever
// the mode makes of it.
func (o *options) request() mgmt.Request {
	r := mgmt.Request{
		Mode: o.mode, Op: o.op,
		TID: o.tid, SID: o.sid, LUN: o.lun, CID: uint32(o.cid),
		Host: uint32(o.host), Device: o.device, Force: o.force,
		Params: o.params(),
	}
	if o.outgoing {
		r.Direction = mgmt.Outgoing
	}
	if o.has('L') {
		// the daemon looks at no more of a name
		r.Driver = (*o.text['L'])[:min(len(*o.text['L']), mgmt.DriverSize-1)]
	}
	return r
}

// params builds the parameter string: always in this order, whatever that of the command line was.
func (o *options) params() string {
	var b strings.Builder
	add := func(text string) {
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(text)
	}
	named := func(name string, letter byte) {
		if o.has(letter) {
			add(name + "=" + *o.text[letter])
		}
	}
	if o.has('n') && o.has('v') {
		add(*o.text['n'] + "=" + *o.text['v'])
	}
	named("path", 'b')
	if o.device == mgmt.Tape {
		add("bstype=ssc") // the only store there is for tapes
	} else {
		named("bstype", 'E')
	}
	named("bsopts", 'S')
	named("bsoflags", 'f')
	named("blocksize", 'y')
	named("targetname", 'T')
	named("initiator-address", 'I')
	named("initiator-name", 'Q')
	named("user", 'u')
	named("password", 'p')
	if o.has('P') {
		word := "targetOps "
		if o.portalParams {
			word = "portalOps "
		}
		add(word + *o.text['P'] + ",")
	}
	return b.String()
}

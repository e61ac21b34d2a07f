package main

import (
	"log/slog"

	cells "github.com/paxos-iscsi/paxos-iscsi/pss"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore/aio"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore/mmc"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore/null"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore/pss"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore/rdwr"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore/sg"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore/smc"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore/ssc"
)

// stores are the types of backing store that the daemon offers, in the order in which `tgtadm --op show
// --mode sys` lists them: what tgt does not have comes first, the rest in tgt's order.
func stores(log *slog.Logger) *backstore.Registry {
	r := new(backstore.Registry)
	r.Add(pss.Type(pss.FromConf(cells.Options{Software: "tgtd " + version, Logger: log})))
	r.Add(sg.BlockType())
	r.Add(sg.Type())
	r.Add(null.Type())
	r.Add(ssc.Type())
	r.Add(smc.Type())
	r.Add(mmc.Type())
	r.Add(rdwr.Type())
	r.Add(aio.Type())
	return r
}

package main

import (
	"cmp"
	"log/slog"
	"os"

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
	r := &backstore.Registry{StateDir: stateDir()}
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

// stateDir is the folder in which units on this machine keep reservations that are to survive a loss of power. Where
// it is not there, initiators that ask for that are refused.
func stateDir() string {
	return cmp.Or(os.Getenv("TGT_STATE_DIR"), "/var/lib/tgt")
}

package replica

import (
	"errors"
	"fmt"
	"hash/crc32"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/paxos-iscsi/paxos-iscsi/pss/agreement"
	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
)

// Divergence. All servers apply the same entries and must come to the same results. Each keeps a sum over runs of
// DigestEvery entries and what applying them answered, and tells it with every response to a heartbeat. What a
// majority of the core servers has found goes out with the master's heartbeats, and a server that has found something
// else for the same entries ends with a HealError: its memory or its program did something wrong, and its state
// can't be relied upon. A run that a server did not apply from its first entry on is not compared. Blocks on disk
// are for the scrub.

// DefaultDigestEvery is how many entries make a run.
const DefaultDigestEvery = 1024

// keptDigests is how many runs back a server knows its sum, for a majority that is found later.
const keptDigests = 8

// ErrDiverged reports that this server came to another result than a majority of the servers for the same entries.
var ErrDiverged = errors.New("this server's state differs from that of the others")

var digestTable = crc32.MakeTable(crc32.Castagnoli)

// digester sums up runs of entries.
type digester struct {
	every uint64
	whole bool // the present run was applied from its first entry on
	sum   uint64
	kept  [keptDigests]agreement.Digest
}

// begin starts behind an index.
func (d *digester) begin(index uint64) { d.whole, d.sum = index%d.every == 0, 0 }

// add adds an entry and its result. It reports true at the end of a run that was applied as a whole.
func (d *digester) add(e *raftpb.Entry, r *op.Result) bool {
	head := e.Data[:min(len(e.Data), op.HeaderSize)] // the rest has checksums of its own
	h := e.Index ^ e.Term<<40 ^ uint64(crc32.Checksum(head, digestTable))
	for _, x := range [...]uint64{h, uint64(r.Errno), r.Object, r.Token, r.Value} {
		d.sum = (d.sum ^ x) * 0x9e3779b97f4a7c15
		d.sum ^= d.sum >> 29
	}
	if e.Index%d.every != 0 {
		return false
	}
	whole := d.whole
	if whole {
		copy(d.kept[1:], d.kept[:])
		d.kept[0] = agreement.Digest{Index: e.Index, Sum: d.sum}
	}
	d.begin(e.Index)
	return whole
}

// check holds what a majority has found against what this server has.
func (d *digester) check(agreed agreement.Digest) error {
	for _, k := range d.kept {
		if k.Index == agreed.Index && k.Index != 0 && k.Sum != agreed.Sum {
			return &HealError{fmt.Errorf("%w: entries %d to %d: %016x here, %016x at a majority",
				ErrDiverged, k.Index-d.every+1, k.Index, k.Sum, agreed.Sum)}
		}
	}
	return nil
}

// compareDigests has a master find what a majority of the core servers has summed up, and every server hold its own sum
// against it.
func (c *Core) compareDigests(all []agreement.Progress) {
	for _, p := range all {
		if p.Digest.Index <= c.node.AgreedDigest().Index {
			continue
		}
		voters, agree := 0, 0
		for _, q := range all {
			if q.Voter {
				voters++
				if q.Digest == p.Digest {
					agree++
				}
			}
		}
		if agree > voters/2 {
			c.node.SetAgreedDigest(p.Digest)
		}
	}
}

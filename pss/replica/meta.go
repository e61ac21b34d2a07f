package replica

import (
	"encoding/binary"
	"errors"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/paxos-iscsi/paxos-iscsi/pss/state"
)

// What a checkpoint keeps besides blocks: u32 size of the members, the members (protobuf, as raft
// defines them), u32 size of the table, the table (JSON), and the state machine's own bytes. The checkpoint file
// is checksummed as a whole.

func appendMeta(b []byte, members raftpb.ConfState, t *Table, m *state.Machine) []byte {
	enc, err := members.Marshal()
	if err != nil {
		panic("replica: members can't be encoded: " + err.Error())
	}
	b = binary.LittleEndian.AppendUint32(b, uint32(len(enc)))
	b = append(b, enc...)
	table := t.Append(nil)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(table)))
	return m.Snapshot(append(b, table...))
}

var errMeta = errors.New("the members in the checkpoint can't be read")

func decodeMeta(b []byte) (members raftpb.ConfState, t Table, machine []byte, err error) {
	c := &cutter{b: b}
	enc := c.take(uint64(c.u32()))
	table := c.take(uint64(c.u32()))
	if c.short {
		return members, t, nil, errMeta
	}
	if err := members.Unmarshal(enc); err != nil {
		return members, t, nil, fmt.Errorf("%w: %v", errMeta, err)
	}
	if t, err = ParseTable(table); err != nil {
		return members, t, nil, fmt.Errorf("%w: %w", errMeta, err)
	}
	return members, t, c.b, nil
}

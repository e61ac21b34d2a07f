package replica

import (
	"encoding/binary"
	"errors"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/paxos-iscsi/paxos-iscsi/pss/state"
)

// What a checkpoint keeps besides blocks: u32 size of the members, the members (protobuf, as raft
// defines them), and the state machine's own bytes. The checkpoint file is checksummed as a whole.

func appendMeta(b []byte, members raftpb.ConfState, m *state.Machine) []byte {
	enc, err := members.Marshal()
	if err != nil {
		panic("replica: members can't be encoded: " + err.Error())
	}
	b = binary.LittleEndian.AppendUint32(b, uint32(len(enc)))
	return m.Snapshot(append(b, enc...))
}

var errMeta = errors.New("the members in the checkpoint can't be read")

func decodeMeta(b []byte) (members raftpb.ConfState, machine []byte, err error) {
	if len(b) < 4 {
		return members, nil, errMeta
	}
	n := binary.LittleEndian.Uint32(b)
	if uint64(n) > uint64(len(b)-4) {
		return members, nil, errMeta
	}
	if err := members.Unmarshal(b[4 : 4+n]); err != nil {
		return members, nil, fmt.Errorf("%w: %v", errMeta, err)
	}
	return members, b[4+n:], nil
}

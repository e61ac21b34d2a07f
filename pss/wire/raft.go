package wire

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"go.etcd.io/raft/v3/raftpb"
)

// A raft message: a head, then the data of its entries one after the other. The head is
//
//	 0  u8   type
//	 1  u8   reject, 0 or 1
//	 2  u16  reserved, 0
//	 4  u32  size of the context in bytes
//	 8  u64  to, from, term, logTerm, index, commit, vote, rejectHint
//	72  u32  size of the snapshot in bytes, 0 without one
//	76  u32  count of entries
//	80       context
//	         snapshot, in protobuf
//	         for each entry:
//	             0  u64  term
//	             8  u64  index
//	            16  u32  size of its data in bytes
//	            20  u32  CRC32C of its data; 0 for a normal entry, which protects itself
//	            24  u8   type
//	            25  three bytes reserved, 0
const (
	raftFixed  = 80 // bytes
	entryFixed = 28 // bytes
)

// travels says whether messages of a type go from server to server; the rest are between raft and the
// server it runs in, and must not come from outside.
func travels(t raftpb.MessageType) bool {
	switch t {
	case raftpb.MsgProp, raftpb.MsgApp, raftpb.MsgAppResp, raftpb.MsgVote, raftpb.MsgVoteResp, raftpb.MsgSnap,
		raftpb.MsgHeartbeat, raftpb.MsgHeartbeatResp, raftpb.MsgTransferLeader, raftpb.MsgTimeoutNow,
		raftpb.MsgReadIndex, raftpb.MsgReadIndexResp, raftpb.MsgPreVote, raftpb.MsgPreVoteResp:
		return true
	}
	return false
}

// AppendRaftHead appends the head of m: everything but the data of its entries. It fails, and returns
// dst, for a message that doesn't travel or is over a limit.
func AppendRaftHead(dst []byte, m *raftpb.Message) ([]byte, error) {
	if !travels(m.Type) || len(m.Responses) > 0 {
		return dst, fmt.Errorf("%w: %v does not travel", ErrProtocol, m.Type)
	}
	snapshot := 0
	if m.Snapshot != nil {
		snapshot = m.Snapshot.Size()
	}
	if len(m.Entries) > MaxEntries || len(m.Context) > MaxContext || snapshot > MaxRaft {
		return dst, fmt.Errorf("%w: %v with %d entries, %d bytes of context and %d of snapshot to be sent",
			ErrProtocol, m.Type, len(m.Entries), len(m.Context), snapshot)
	}
	base := len(dst)
	le := binary.LittleEndian
	var fixed [raftFixed]byte
	fixed[0] = byte(m.Type)
	if m.Reject {
		fixed[1] = 1
	}
	le.PutUint32(fixed[4:], uint32(len(m.Context)))
	for i, v := range [...]uint64{m.To, m.From, m.Term, m.LogTerm, m.Index, m.Commit, m.Vote, m.RejectHint} {
		le.PutUint64(fixed[8+8*i:], v)
	}
	le.PutUint32(fixed[72:], uint32(snapshot))
	le.PutUint32(fixed[76:], uint32(len(m.Entries)))
	dst = append(append(dst, fixed[:]...), m.Context...)
	if snapshot > 0 {
		b, err := m.Snapshot.Marshal()
		if err != nil {
			return dst[:base], fmt.Errorf("encode the snapshot of %v: %w", m.Type, err)
		}
		dst = append(dst, b...)
	}
	for i := range m.Entries {
		e := &m.Entries[i]
		if len(e.Data) > MaxEntry {
			return dst[:base], fmt.Errorf("%w: entry %d of %d bytes to be sent", ErrProtocol, e.Index, len(e.Data))
		}
		var b [entryFixed]byte
		le.PutUint64(b[0:], e.Term)
		le.PutUint64(b[8:], e.Index)
		le.PutUint32(b[16:], uint32(len(e.Data)))
		if e.Type != raftpb.EntryNormal {
			le.PutUint32(b[20:], crc32.Checksum(e.Data, castagnoli))
		}
		b[24] = byte(e.Type)
		dst = append(dst, b[:]...)
	}
	return dst, nil
}

// AppendRaftData appends the data of m's entries, by reference, in the order in which it follows the
// head.
func AppendRaftData(bufs [][]byte, m *raftpb.Message) [][]byte {
	for i := range m.Entries {
		if len(m.Entries[i].Data) > 0 {
			bufs = append(bufs, m.Entries[i].Data)
		}
	}
	return bufs
}

// RaftSize is the number of bytes that m has in a frame, its header not included. A sender keeps it
// under MaxRaft by limiting what raft puts into one message.
func RaftSize(m *raftpb.Message) int {
	n := raftFixed + len(m.Context) + entryFixed*len(m.Entries)
	if m.Snapshot != nil {
		n += m.Snapshot.Size()
	}
	for i := range m.Entries {
		n += len(m.Entries[i].Data)
	}
	return n
}

// ParseRaft reads a raft message whose head and entries' data are b. The message refers to b: its
// context and the data of its entries are views. The data of a normal entry is not verified:
// whoever takes the message checks it as the operation it is (op.Parse, Op.Check). Lengths of 0 give
// nil.
func ParseRaft(b []byte) (raftpb.Message, error) {
	le := binary.LittleEndian
	if len(b) < raftFixed || len(b) > MaxRaft {
		return raftpb.Message{}, fmt.Errorf("%w: a raft message of %d bytes", ErrProtocol, len(b))
	}
	context, snapshot, count := le.Uint32(b[4:]), le.Uint32(b[72:]), le.Uint32(b[76:])
	u64 := func(i int) uint64 { return le.Uint64(b[8+8*i:]) }
	m := raftpb.Message{
		Type: raftpb.MessageType(b[0]), Reject: b[1] != 0,
		To: u64(0), From: u64(1), Term: u64(2), LogTerm: u64(3),
		Index: u64(4), Commit: u64(5), Vote: u64(6), RejectHint: u64(7),
	}
	rest := b[raftFixed:]
	switch {
	case !travels(m.Type):
		return m, fmt.Errorf("%w: raft message of type %v", ErrProtocol, m.Type)
	case b[1] > 1 || le.Uint16(b[2:]) != 0 || context > MaxContext || count > MaxEntries:
		return m, fmt.Errorf("%w: %v head makes no sense", ErrProtocol, m.Type)
	case uint64(len(rest)) < uint64(context)+uint64(snapshot)+entryFixed*uint64(count):
		return m, fmt.Errorf("%w: %v cut short at %d bytes", ErrProtocol, m.Type, len(b))
	}
	if context > 0 {
		m.Context = rest[:context:context]
	}
	if rest = rest[context:]; snapshot > 0 {
		m.Snapshot = new(raftpb.Snapshot)
		if err := m.Snapshot.Unmarshal(rest[:snapshot]); err != nil {
			return m, fmt.Errorf("%w: the snapshot of %v: %w", ErrProtocol, m.Type, err)
		}
	}
	var err error
	m.Entries, err = parseEntries(rest[snapshot:], int(count))
	return m, err
}

// parseEntries reads count entry heads and the data behind them, which must be all of b.
func parseEntries(b []byte, count int) ([]raftpb.Entry, error) {
	le := binary.LittleEndian
	data := b[entryFixed*count:]
	var entries []raftpb.Entry
	if count > 0 {
		entries = make([]raftpb.Entry, count)
	}
	for i := range entries {
		h := b[entryFixed*i:]
		size, sum, typ := le.Uint32(h[16:]), le.Uint32(h[20:]), raftpb.EntryType(h[24])
		switch {
		case size > MaxEntry || uint64(size) > uint64(len(data)):
			return nil, fmt.Errorf("%w: a raft entry of %d bytes", ErrProtocol, size)
		case typ > raftpb.EntryConfChangeV2 || h[25]|h[26]|h[27] != 0:
			return nil, fmt.Errorf("%w: a raft entry of type %d", ErrProtocol, typ)
		case typ == raftpb.EntryNormal && sum != 0 ||
			typ != raftpb.EntryNormal && sum != crc32.Checksum(data[:size], castagnoli):
			return nil, fmt.Errorf("%w: raft entry checksum", ErrProtocol)
		}
		e := &entries[i]
		e.Term, e.Index, e.Type = le.Uint64(h[0:]), le.Uint64(h[8:]), typ
		if size > 0 {
			e.Data = data[:size:size]
		}
		data = data[size:]
	}
	if len(data) > 0 {
		return nil, fmt.Errorf("%w: %d bytes after a raft message", ErrProtocol, len(data))
	}
	return entries, nil
}

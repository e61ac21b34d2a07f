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
	m, heads, data, err := parseRaftHead(b)
	if err != nil {
		return m, err
	}
	for i := range m.Entries {
		size := int(heads.size(i))
		if size > len(data) {
			return m, fmt.Errorf("%w: a raft entry of %d bytes", ErrProtocol, size)
		}
		if err := heads.setData(&m.Entries[i], i, data[:size:size]); err != nil {
			return m, err
		}
		data = data[size:]
	}
	if len(data) > 0 {
		return m, fmt.Errorf("%w: %d bytes after a raft message", ErrProtocol, len(data))
	}
	return m, nil
}

// ReadRaft reads the raft message of a frame that Next has found, into memory of slab; the rest is as with ParseRaft. If
// there is long data each entry's is by itself, and its end aligned (TakeEnd).
func (r *Reader) ReadRaft(slab *Slab) (raftpb.Message, error) {
	if h := &r.header; h.Sealed < raftFixed || h.Size-h.Sealed < minPages {
		b := slab.Take(r.left)
		if err := r.Body(b); err != nil {
			return raftpb.Message{}, err
		}
		return ParseRaft(b)
	}
	head := slab.Take(int(r.header.Sealed))
	if err := r.Body(head); err != nil {
		return raftpb.Message{}, err
	}
	m, heads, rest, err := parseRaftHead(head)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%w: %d bytes after the head of a raft message", ErrProtocol, len(rest))
	}
	if err != nil {
		return m, err
	}
	for i := range m.Entries {
		data := slab.TakeEnd(int(heads.size(i)))
		if err := r.Body(data); err != nil {
			return m, err
		}
		if err := heads.setData(&m.Entries[i], i, data); err != nil {
			return m, err
		}
	}
	if r.left > 0 {
		return m, fmt.Errorf("%w: %d bytes after a raft message", ErrProtocol, r.left)
	}
	return m, nil
}

// parseRaftHead reads a message but for the data of its entries, and returns what is behind its head.
func parseRaftHead(b []byte) (m raftpb.Message, heads entryHeads, data []byte, err error) {
	le := binary.LittleEndian
	if len(b) < raftFixed || len(b) > MaxRaft {
		return m, nil, nil, fmt.Errorf("%w: a raft message of %d bytes", ErrProtocol, len(b))
	}
	context, snapshot, count := le.Uint32(b[4:]), le.Uint32(b[72:]), le.Uint32(b[76:])
	u64 := func(i int) uint64 { return le.Uint64(b[8+8*i:]) }
	m = raftpb.Message{
		Type: raftpb.MessageType(b[0]), Reject: b[1] != 0,
		To: u64(0), From: u64(1), Term: u64(2), LogTerm: u64(3),
		Index: u64(4), Commit: u64(5), Vote: u64(6), RejectHint: u64(7),
	}
	rest := b[raftFixed:]
	switch {
	case !travels(m.Type):
		return m, nil, nil, fmt.Errorf("%w: raft message of type %v", ErrProtocol, m.Type)
	case b[1] > 1 || le.Uint16(b[2:]) != 0 || context > MaxContext || count > MaxEntries:
		return m, nil, nil, fmt.Errorf("%w: %v head makes no sense", ErrProtocol, m.Type)
	case uint64(len(rest)) < uint64(context)+uint64(snapshot)+entryFixed*uint64(count):
		return m, nil, nil, fmt.Errorf("%w: %v cut short at %d bytes", ErrProtocol, m.Type, len(b))
	}
	if context > 0 {
		m.Context = rest[:context:context]
	}
	if rest = rest[context:]; snapshot > 0 {
		m.Snapshot = new(raftpb.Snapshot)
		if err := m.Snapshot.Unmarshal(rest[:snapshot]); err != nil {
			return m, nil, nil, fmt.Errorf("%w: the snapshot of %v: %w", ErrProtocol, m.Type, err)
		}
	}
	heads = entryHeads(rest[snapshot:][:entryFixed*count])
	m.Entries, err = heads.parse()
	return m, heads, rest[snapshot:][len(heads):], err
}

// entryHeads are the heads of a message's entries.
type entryHeads []byte

// size is how many bytes of data entry i has.
func (h entryHeads) size(i int) uint32 { return binary.LittleEndian.Uint32(h[entryFixed*i+16:]) }

// parse reads the entries but for their data.
func (h entryHeads) parse() ([]raftpb.Entry, error) {
	if len(h) == 0 {
		return nil, nil
	}
	le := binary.LittleEndian
	entries := make([]raftpb.Entry, len(h)/entryFixed)
	for i := range entries {
		b := h[entryFixed*i:]
		size, typ := h.size(i), raftpb.EntryType(b[24])
		switch {
		case size > MaxEntry:
			return nil, fmt.Errorf("%w: a raft entry of %d bytes", ErrProtocol, size)
		case typ > raftpb.EntryConfChangeV2 || b[25]|b[26]|b[27] != 0:
			return nil, fmt.Errorf("%w: a raft entry of type %d", ErrProtocol, typ)
		}
		e := &entries[i]
		e.Term, e.Index, e.Type = le.Uint64(b[0:]), le.Uint64(b[8:]), typ
	}
	return entries, nil
}

// setData gives entry i its data, after a look at its checksum where it has one.
func (h entryHeads) setData(e *raftpb.Entry, i int, data []byte) error {
	sum := binary.LittleEndian.Uint32(h[entryFixed*i+20:])
	if e.Type == raftpb.EntryNormal && sum != 0 || e.Type != raftpb.EntryNormal && sum != crc32.Checksum(data, castagnoli) {
		return fmt.Errorf("%w: raft entry checksum", ErrProtocol)
	}
	if len(data) > 0 {
		e.Data = data
	}
	return nil
}

package op

import (
	"encoding/binary"
	"fmt"
)

// QueryCode says what a query reads. Queries change nothing and are not agreed upon: the master
// answers them under its lease.
type QueryCode uint8

// The queries.
const (
	_        QueryCode = iota
	Stat               // path: one Node
	ReadDir            // path, cursor (last name seen): up to MaxNodes Nodes in order of name
	AttrGet            // object, path (the attribute's name): Value and Version; Version 0 if there is none
	TokenGet           // object: Version is the token that changes of the volume need now; 0 before the first opening
	queries
)

// Limits of queries.
const (
	MaxNodes = 256 // nodes in one answer
)

// ChunkSize is the size in bytes of the pieces that the data of files and volumes is kept in. The
// chunk at a volume's byte c*ChunkSize shows as the file XX/YY/ZZ below it, where XXYYZZ is c in hex.
const ChunkSize = 4 << 20

// NodeKind is what a name in the tree stands for.
type NodeKind uint8

// The kinds. A volume shows as a folder of chunk files.
const (
	KindDir NodeKind = iota + 1
	KindFile
	KindVolume
	kinds
)

// Query is a question about the tree.
type Query struct {
	Code   QueryCode
	Path   string
	Cursor string // ReadDir: names after this one
	Object uint64 // AttrGet, TokenGet
}

// about says whether a query is about an object.
func (c QueryCode) about() bool { return c == AttrGet || c == TokenGet }

// Node is a name in the tree and what it stands for. The root's name is "/".
type Node struct {
	Name     string
	Kind     NodeKind
	Object   uint64 // files and volumes; the chunk files of a volume have the volume's
	Bytes    uint64 // size; 0 for folders
	Modified uint64 // ns since 1970
}

// AppendQuery appends the byte form of q: u8 code, path, cursor; where it is about an object, u64 object.
func AppendQuery(b []byte, q Query) []byte {
	b = append(b, byte(q.Code))
	b = AppendString(AppendString(b, q.Path), q.Cursor)
	if q.Code.about() {
		b = binary.LittleEndian.AppendUint64(b, q.Object)
	}
	return b
}

// ParseQuery reads what AppendQuery wrote.
func ParseQuery(b []byte) (q Query, err error) {
	if len(b) < 1 || b[0] == 0 || b[0] >= byte(queries) {
		return q, fmt.Errorf("%w: no such query", ErrInvalid)
	}
	q.Code = QueryCode(b[0])
	if q.Path, b, err = String(b[1:]); err != nil {
		return q, err
	}
	if q.Cursor, b, err = String(b); err != nil {
		return q, err
	}
	if q.Code.about() {
		if len(b) < 8 {
			return q, fmt.Errorf("%w: a query about no object", ErrInvalid)
		}
		q.Object, b = binary.LittleEndian.Uint64(b), b[8:]
	}
	if len(b) != 0 {
		return q, fmt.Errorf("%w: %d bytes after a query", ErrInvalid, len(b))
	}
	return q, nil
}

// Answer is what a query answers.
type Answer struct {
	Errno   Errno
	More    bool // ReadDir: there are further names
	Nodes   []Node
	Version uint64 // AttrGet, TokenGet; never 0 where Value is not empty
	Value   []byte // AttrGet
}

// The bits of an answer's third byte.
const (
	answerMore  = 1 << 0
	answerValue = 1 << 1 // version and value follow the nodes
)

// AppendAnswer appends the byte form of a: u16 errno, u8 bits, u16 count, then each node as name, u8
// kind, u64 object, u64 size, u64 modification time; then, with answerValue, u64 version, u32 size, the
// value. It has MaxNodes nodes or fewer, and MaxAttr bytes of a value without any.
func AppendAnswer(b []byte, a Answer) []byte {
	le := binary.LittleEndian
	b = le.AppendUint16(b, uint16(a.Errno))
	bits := byte(0)
	if a.More {
		bits |= answerMore
	}
	if a.Version != 0 {
		bits |= answerValue
	}
	b = append(b, bits)
	b = le.AppendUint16(b, uint16(len(a.Nodes)))
	for _, n := range a.Nodes {
		b = AppendString(b, n.Name)
		b = append(b, byte(n.Kind))
		b = le.AppendUint64(b, n.Object)
		b = le.AppendUint64(b, n.Bytes)
		b = le.AppendUint64(b, n.Modified)
	}
	if a.Version != 0 {
		b = le.AppendUint64(b, a.Version)
		b = le.AppendUint32(b, uint32(len(a.Value)))
		b = append(b, a.Value...)
	}
	return b
}

// ParseAnswer reads what AppendAnswer wrote.
func ParseAnswer(b []byte) (a Answer, err error) {
	le := binary.LittleEndian
	if len(b) < 5 {
		return a, fmt.Errorf("%w: an answer of %d bytes", ErrInvalid, len(b))
	}
	a.Errno, a.More = Errno(le.Uint16(b)), b[2]&answerMore != 0
	count, valued := int(le.Uint16(b[3:])), b[2]&answerValue != 0
	if count > MaxNodes || b[2] > answerMore|answerValue {
		return a, fmt.Errorf("%w: an answer of %d nodes, bits %#x", ErrInvalid, count, b[2])
	}
	b = b[5:]
	for range count {
		var n Node
		if n.Name, b, err = String(b); err != nil {
			return a, err
		}
		if len(b) < 25 {
			return a, fmt.Errorf("%w: an answer cut short", ErrInvalid)
		}
		if b[0] == 0 || b[0] >= byte(kinds) {
			return a, fmt.Errorf("%w: a node of kind %d", ErrInvalid, b[0])
		}
		n.Kind, n.Object, n.Bytes, n.Modified = NodeKind(b[0]), le.Uint64(b[1:]), le.Uint64(b[9:]), le.Uint64(b[17:])
		a.Nodes, b = append(a.Nodes, n), b[25:]
	}
	if valued {
		if a.Version, a.Value, b, err = parseValue(b); err != nil {
			return a, err
		}
	}
	if len(b) != 0 {
		return a, fmt.Errorf("%w: %d bytes after an answer", ErrInvalid, len(b))
	}
	return a, nil
}

// parseValue reads a version, which is not 0, and a value.
func parseValue(b []byte) (version uint64, value, rest []byte, err error) {
	le := binary.LittleEndian
	if len(b) < 12 {
		return 0, nil, nil, fmt.Errorf("%w: an answer without its value", ErrInvalid)
	}
	version = le.Uint64(b)
	n := le.Uint32(b[8:])
	if b = b[12:]; version == 0 || n > MaxAttr || int(n) > len(b) {
		return 0, nil, nil, fmt.Errorf("%w: a value of %d bytes, version %d", ErrInvalid, n, version)
	}
	if n > 0 {
		value = b[:n:n]
	}
	return version, value, b[n:], nil
}

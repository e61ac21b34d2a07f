package state

import (
	"fmt"
	"sort"
	"strings"

	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
)

// A volume shows as a folder of chunk files, three levels of two hexadecimal digits deep.
const (
	chunkLevels = 3
	digitBits   = 8
	digits      = 1 << digitBits
)

// Query answers a question about the tree, as of the last entry applied. An error is the store's, and
// no answer to the question.
func (m *Machine) Query(q op.Query) (op.Answer, error) {
	if q.Code == op.AttrGet || q.Code == op.TokenGet {
		return m.queryVolume(q), nil
	}
	names, ok := split(q.Path)
	if !ok || q.Code != op.Stat && q.Code != op.ReadDir {
		return op.Answer{Errno: op.Invalid}, nil
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	n := m.tree.root
	for i, name := range names {
		switch n.kind {
		case op.KindVolume:
			return m.queryChunks(q, n, names[i:])
		case op.KindFile:
			return op.Answer{Errno: op.NotDir}, nil
		}
		if n = n.child(name); n == nil {
			return op.Answer{Errno: op.NotFound}, nil
		}
	}
	switch {
	case q.Code == op.Stat:
		return op.Answer{Nodes: []op.Node{n.describe()}}, nil
	case n.kind == op.KindVolume:
		return m.queryChunks(q, n, nil)
	case n.kind == op.KindFile:
		return op.Answer{Errno: op.NotDir}, nil
	}
	return n.list(q.Cursor), nil
}

func (n *node) describe() op.Node {
	name := n.name
	if n.parent == nil {
		name = "/"
	}
	return op.Node{Name: name, Kind: n.kind, Object: n.object, Bytes: n.size.Load(), Modified: n.modified.Load()}
}

// list is the entries of a folder whose names come after the cursor.
func (n *node) list(cursor string) op.Answer {
	i, found := n.find(cursor)
	if found {
		i++
	}
	rest := n.children[i:]
	count := min(len(rest), op.MaxNodes)
	a := op.Answer{More: len(rest) > count, Nodes: make([]op.Node, 0, count)}
	for _, c := range rest[:count] {
		a.Nodes = append(a.Nodes, c.describe())
	}
	return a
}

// span is the chunks [first, first+count) of a volume that a folder or file below it stands for.
type span struct{ first, count uint32 }

// digit is the part of a span with that digit, one level down.
func (s span) digit(d int) span {
	count := s.count >> digitBits
	return span{s.first + uint32(d)*count, count}
}

// chunkSpan is what names below a volume stand for, and false if they can't stand for anything.
func chunkSpan(names []string) (span, bool) {
	s := span{0, 1 << (chunkLevels * digitBits)}
	if len(names) > chunkLevels {
		return s, false
	}
	for _, name := range names {
		d, ok := parseDigit(name)
		if !ok {
			return s, false
		}
		s = s.digit(d)
	}
	return s, true
}

const hexDigits = "0123456789abcdef"

// digitName is the name of a digit: two hexadecimal digits, in lower case.
func digitName(d int) string { return string([]byte{hexDigits[d>>4], hexDigits[d&15]}) }

func parseDigit(name string) (int, bool) {
	if len(name) != 2 {
		return 0, false
	}
	high, low := strings.IndexByte(hexDigits, name[0]), strings.IndexByte(hexDigits, name[1])
	return high<<4 | low, high >= 0 && low >= 0
}

// queryChunks answers about what is shown below a volume. names are those below it.
func (m *Machine) queryChunks(q op.Query, volume *node, names []string) (op.Answer, error) {
	s, ok := chunkSpan(names)
	if !ok {
		return op.Answer{Errno: op.NotFound}, nil
	}
	if len(names) > 0 {
		if _, ok, err := m.nextChunk(volume, s, s.first); err != nil {
			return op.Answer{}, err
		} else if !ok {
			return op.Answer{Errno: op.NotFound}, nil
		}
	}
	switch {
	case q.Code == op.Stat:
		return op.Answer{Nodes: []op.Node{volume.describeChunks(names[len(names)-1], s)}}, nil
	case len(names) == chunkLevels:
		return op.Answer{Errno: op.NotDir}, nil
	}
	return m.listChunks(volume, s, q.Cursor)
}

// listChunks lists the digits below a span whose names come after the cursor. They fit one answer.
func (m *Machine) listChunks(volume *node, s span, cursor string) (a op.Answer, err error) {
	d := sort.Search(digits, func(d int) bool { return digitName(d) > cursor })
	for ; d < digits; d++ {
		chunk, ok, err := m.nextChunk(volume, s, s.digit(d).first)
		if err != nil {
			return op.Answer{}, err
		}
		if !ok {
			break
		}
		d = int((chunk - s.first) / s.digit(0).count)
		a.Nodes = append(a.Nodes, volume.describeChunks(digitName(d), s.digit(d)))
	}
	return a, nil
}

// nextChunk is the first chunk of the span, from the given one on, that takes space.
func (m *Machine) nextChunk(volume *node, s span, from uint32) (chunk uint32, ok bool, err error) {
	err = m.store.Chunks(volume.object, from, func(c uint32) bool {
		chunk, ok = c, c-s.first < s.count
		return false
	})
	if err != nil {
		return 0, false, fmt.Errorf("list the chunks of object %d: %w", volume.object, err)
	}
	return chunk, ok, nil
}

// describeChunks is the file of one chunk, or a folder of several.
func (n *node) describeChunks(name string, s span) op.Node {
	d := op.Node{Name: name, Kind: op.KindDir, Modified: n.modified.Load()}
	if s.count > 1 {
		return d
	}
	d.Kind, d.Object = op.KindFile, n.object
	if size, first := n.size.Load(), uint64(s.first)*op.ChunkSize; first < size {
		d.Bytes = min(op.ChunkSize, size-first)
	}
	return d
}

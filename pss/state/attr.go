package state

import (
	"bytes"
	"slices"
	"strings"

	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
)

// Limits of the attributes of volumes. What would exceed one is answered with op.TooMany.
const (
	MaxAttrs     = 16       // attributes of one volume
	MaxAttrBytes = 16 << 20 // bytes of all attributes of the cell: names, values and attrOverhead each
	attrOverhead = 1 + 8 + 4
)

// attr is an attribute of a volume. Its version is the index of the entry that set it, so that no version
// ever stands for two values, not even when the attribute was removed meanwhile.
type attr struct {
	name    string
	version uint64
	value   []byte
}

// bytes is what the attribute counts against MaxAttrBytes, and takes in a snapshot.
func (a *attr) bytes() int { return attrOverhead + len(a.name) + len(a.value) }

func (n *node) findAttr(name string) (int, bool) {
	return slices.BinarySearchFunc(n.attrs, name, func(a attr, name string) int { return strings.Compare(a.name, name) })
}

// attrSet changes an attribute that has the version the operation names. With FlagBump those who share the
// volume get a new token in the same step: whatever they decided by the attribute's old value and sent under
// the old token has no effect any more.
func (m *Machine) attrSet(index uint64, o *op.Op) (op.Result, error) {
	name, version, err := o.Attr()
	remove, bump := o.Flags&op.FlagRemove != 0, o.Flags&op.FlagBump != 0
	if err != nil || !validName(name) || o.Flags&^(op.FlagBump|op.FlagRemove) != 0 || remove && len(o.Payload) > 0 {
		return answer(op.Invalid)
	}
	n, errno := m.object(o)
	switch {
	case errno != op.OK:
		return answer(errno)
	case n.kind != op.KindVolume:
		return answer(op.Kind)
	case bump && n.sharers == 0:
		return answer(op.Invalid) // nobody could tell Moved from Fenced
	}
	i, found := n.findAttr(name)
	have, old := uint64(0), 0
	if found {
		have, old = n.attrs[i].version, n.attrs[i].bytes()
	}
	set := attr{name: name, version: index, value: bytes.Clone(o.Payload)} // the entry is not to stay in memory
	switch {
	case have != version:
		return op.Result{Errno: op.Conflict, Value: have}, nil
	case !remove && !found && len(n.attrs) == MaxAttrs, !remove && m.tree.attrs-old+set.bytes() > MaxAttrBytes:
		return answer(op.TooMany)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tree.attrs -= old
	switch {
	case remove && found:
		n.attrs = slices.Delete(n.attrs, i, i+1)
	case found:
		n.attrs[i] = set
	case !remove:
		n.attrs = slices.Insert(n.attrs, i, set)
	}
	r := op.Result{}
	if !remove {
		m.tree.attrs += set.bytes()
		r.Value = index
	}
	if bump {
		n.token++
	}
	r.Token = n.token
	return r, nil
}

// queryVolume answers what is asked of a volume by its number.
func (m *Machine) queryVolume(q op.Query) op.Answer {
	m.mu.RLock()
	defer m.mu.RUnlock()
	n := m.tree.objects[q.Object]
	switch {
	case n == nil:
		return op.Answer{Errno: op.NotFound}
	case n.kind != op.KindVolume:
		return op.Answer{Errno: op.Kind}
	case q.Code == op.TokenGet:
		return op.Answer{Version: n.token}
	}
	i, ok := n.findAttr(q.Path)
	if !ok {
		return op.Answer{}
	}
	return op.Answer{Version: n.attrs[i].version, Value: n.attrs[i].value} // values are replaced, never changed
}

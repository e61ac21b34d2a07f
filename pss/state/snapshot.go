package state

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
)

// A snapshot is the whole state but the data of objects. It is little-endian, and equal states have
// equal bytes. Whoever keeps it protects it with a checksum.
//
//	 0  u32  "PSSM"
//	 4  u16  version, 2
//	 6  u16  0
//	 8  u64  size of the whole in bytes
//	16  u64  index of the last entry applied
//	24  u64  number of the next object
//	32  u32  nodes, the root not counted
//	36  u32  sessions
//	40  u32  closed sessions
//	44  u32  0
//	48       closed sessions, the earliest first: u64 id
//	         sessions in order of their ids:
//	           u64 id, u64 acked, u32 epoch, u32 kept results, Window/8 bytes executed,
//	           each kept result in order: u64 number, 28 bytes of op.AppendResult
//	         nodes from the root on, each before what is in it, in order of their names:
//	           u8 kind, u8 size of the name, the name, u64 modified, then
//	           a folder: u32 entries; a file: u64 object, u64 size; a volume: u64 object, u64 size, u64 token,
//	           u64 first token of those who share it or 0, u8 attributes, each in order of their names:
//	             u8 size of the name, the name, u64 version, u32 size of the value, the value
//
// Version 1, which this program still reads, has volumes that end with their token.
const (
	snapshotMagic   = 'P' | 'S'<<8 | 'S'<<16 | 'M'<<24
	snapshotVersion = 2
	oldVersion      = 1 // read, and written no more
	snapshotHead    = 48
	sessionBytes    = 24 + op.Window/8
	keptBytes       = 8 + op.ResultSize
	minNodeBytes    = 1 + 1 + 1 + 8 + 4 // of a node that has a name
)

// MaxSnapshot is the size in bytes that no snapshot exceeds. One of a few volumes has some hundred bytes.
const MaxSnapshot = snapshotHead + 8*MaxClosed + MaxSessions*(sessionBytes+op.Window*keptBytes) +
	(MaxObjects+1)*(1+1+op.MaxName+8+24+9) + MaxAttrBytes

// ErrSnapshot is wrapped by every error of Restore: the bytes are no snapshot, or one of a version
// that this program does not know.
var ErrSnapshot = errors.New("not a snapshot of a cell's state")

// Snapshot appends the state to dst and returns it. Restore makes a machine of it that can't be told
// from this one.
func (m *Machine) Snapshot(dst []byte) []byte {
	le := binary.LittleEndian
	base := len(dst)
	dst = le.AppendUint32(dst, snapshotMagic)
	dst = le.AppendUint16(dst, snapshotVersion)
	dst = le.AppendUint16(dst, 0)
	dst = le.AppendUint64(dst, 0) // the size, set below
	dst = le.AppendUint64(dst, m.applied)
	dst = le.AppendUint64(dst, m.tree.next)
	dst = le.AppendUint32(dst, uint32(m.tree.count))
	dst = le.AppendUint32(dst, uint32(len(m.sessions.byID)))
	dst = le.AppendUint32(dst, uint32(len(m.sessions.closed)))
	dst = le.AppendUint32(dst, 0)
	dst = m.sessions.append(dst)
	dst = m.tree.root.append(dst)
	le.PutUint64(dst[base+8:], uint64(len(dst)-base))
	return dst
}

func (t *sessions) append(b []byte) []byte {
	le := binary.LittleEndian
	for _, id := range t.closed {
		b = le.AppendUint64(b, id)
	}
	ids := make([]uint64, 0, len(t.byID))
	for id := range t.byID {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		s := t.byID[id]
		b = le.AppendUint64(b, s.id)
		b = le.AppendUint64(b, s.acked)
		b = le.AppendUint32(b, s.epoch)
		b = le.AppendUint32(b, uint32(len(s.kept)))
		for _, word := range s.done {
			b = le.AppendUint64(b, word)
		}
		for _, k := range s.kept {
			b = op.AppendResult(le.AppendUint64(b, k.seq), k.result)
		}
	}
	return b
}

// append is recursive, as deep as a path has names.
func (n *node) append(b []byte) []byte {
	le := binary.LittleEndian
	b = append(b, byte(n.kind), byte(len(n.name)))
	b = append(b, n.name...)
	b = le.AppendUint64(b, n.modified.Load())
	if n.kind == op.KindDir {
		b = le.AppendUint32(b, uint32(len(n.children)))
		for _, c := range n.children {
			b = c.append(b)
		}
		return b
	}
	b = le.AppendUint64(b, n.object)
	b = le.AppendUint64(b, n.size.Load())
	if n.kind == op.KindVolume {
		b = le.AppendUint64(b, n.token)
		b = le.AppendUint64(b, n.sharers)
		b = append(b, byte(len(n.attrs)))
		for _, a := range n.attrs {
			b = append(b, byte(len(a.name)))
			b = append(b, a.name...)
			b = le.AppendUint64(b, a.version)
			b = le.AppendUint32(b, uint32(len(a.value)))
			b = append(b, a.value...)
		}
	}
	return b
}

// Restore makes the machine what it was when the snapshot was made. No bytes at all stand for a cell
// that nothing has happened in. After an error, which wraps ErrSnapshot, the machine is as before.
func (m *Machine) Restore(snapshot []byte) error {
	restored := Machine{sessions: newSessions(), tree: newTree()}
	if len(snapshot) > 0 {
		if err := restored.decode(snapshot); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.applied, m.sessions, m.tree = restored.applied, restored.sessions, restored.tree
	return nil
}

// decode fills an empty machine. It refuses whatever no sequence of operations leads to, as far as
// that can be seen in one pass, and so never trusts a length or a number.
func (m *Machine) decode(b []byte) error {
	d := decoder{b: b, size: len(b)}
	if magic, version := d.u32(), d.u16(); d.failed || magic != snapshotMagic {
		return d.refuse("%d bytes that begin with %#x", len(b), magic)
	} else if d.version = version; version != snapshotVersion && version != oldVersion {
		return d.refuse("version %d, and this program knows %d", version, snapshotVersion)
	}
	zero, size := uint32(d.u16()), d.u64()
	m.applied, m.tree.next = d.u64(), d.u64()
	nodes, open, closed := int64(d.u32()), int64(d.u32()), int64(d.u32())
	zero |= d.u32()
	switch {
	case d.failed || size != uint64(len(b)) || zero != 0:
		return d.refuse("%d bytes say they are %d", len(b), size)
	case nodes > MaxObjects || open > MaxSessions || closed > MaxClosed || m.tree.next == 0:
		return d.refuse("%d nodes, %d sessions, %d closed ones, next object %d", nodes, open, closed, m.tree.next)
	}
	if err := m.sessions.decode(&d, open, closed); err != nil {
		return err
	}
	if err := m.tree.decode(&d); err != nil {
		return err
	}
	if d.failed || len(d.b) != 0 || m.tree.count != int(nodes) {
		return d.refuse("%d bytes after %d of %d nodes", len(d.b), m.tree.count, nodes)
	}
	return nil
}

func (t *sessions) decode(d *decoder, open, closed int64) error {
	if int64(len(d.b)) < closed*8+open*sessionBytes {
		return d.refuse("%d bytes for %d sessions and %d closed ones", len(d.b), open, closed)
	}
	for range closed {
		t.closed = append(t.closed, d.u64())
	}
	last := uint64(0)
	for range open {
		s := &session{id: d.u64(), acked: d.u64(), epoch: d.u32()}
		results := int(d.u32())
		for i := range s.done {
			s.done[i] = d.u64()
		}
		if d.failed || s.id <= last || s.acked == 0 || results > op.Window {
			return d.refuse("session %d after %d, acked %d, %d results", s.id, last, s.acked, results)
		}
		if err := s.decodeKept(d, results); err != nil {
			return err
		}
		last = s.id
		t.byID[s.id] = s
	}
	return nil
}

func (s *session) decodeKept(d *decoder, count int) error {
	if len(d.b) < count*keptBytes {
		return d.refuse("%d bytes for %d results", len(d.b), count)
	}
	last := uint64(0)
	for range count {
		seq := d.u64()
		r, err := op.ParseResult(d.take(op.ResultSize))
		if err != nil {
			return d.refuse("session %d: %w", s.id, err)
		}
		if seq <= last || !s.executed(seq) || r == (op.Result{}) {
			return d.refuse("session %d has result %+v of number %d after %d", s.id, r, seq, last)
		}
		s.kept, last = append(s.kept, kept{seq, r}), seq
	}
	return nil
}

func (t *tree) decode(d *decoder) error {
	kind, name := op.NodeKind(d.u8()), d.take(int(d.u8()))
	if d.failed || kind != op.KindDir || len(name) != 0 {
		return d.refuse("the root is %q of kind %d", name, kind)
	}
	t.root.modified.Store(d.u64())
	return t.decodeChildren(d, t.root, 0)
}

// decodeChildren reads what is in a folder whose path has that many bytes. It is recursive, and the
// limit on paths bounds it.
func (t *tree) decodeChildren(d *decoder, dir *node, path int) error {
	count := int64(d.u32())
	if d.failed || count > int64(len(d.b)/minNodeBytes) || count > MaxObjects {
		return d.refuse("%d bytes for %d entries of folder %q", len(d.b), count, dir.name)
	}
	for range count {
		n := &node{parent: dir, kind: op.NodeKind(d.u8())}
		n.name = string(d.take(int(d.u8())))
		n.modified.Store(d.u64())
		size := path + len("/") + len(n.name)
		switch last := len(dir.children) - 1; {
		case d.failed || !validName(n.name) || slices.Contains([]byte(n.name), '/') || size > op.MaxPath:
			return d.refuse("the name %q in folder %q", n.name, dir.name)
		case last >= 0 && dir.children[last].name >= n.name:
			return d.refuse("the name %q after %q", n.name, dir.children[last].name)
		}
		dir.children = append(dir.children, n)
		t.count++
		var err error
		if n.kind == op.KindDir {
			err = t.decodeChildren(d, n, size)
		} else {
			err = t.decodeObject(d, n)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (t *tree) decodeObject(d *decoder, n *node) error {
	n.object = d.u64()
	size := d.u64()
	valid := n.kind == op.KindFile && size <= op.MaxVolume
	if n.kind == op.KindVolume {
		n.token = d.u64()
		valid = validVolume(size)
		if d.version != oldVersion {
			n.sharers = d.u64()
			valid = valid && n.sharers <= n.token
			if err := t.decodeAttrs(d, n); err != nil {
				return err
			}
		}
	}
	if d.failed || !valid || n.object == 0 || n.object >= t.next || t.objects[n.object] != nil {
		return d.refuse("%q is object %d of %d, kind %d, %d bytes", n.name, n.object, t.next, n.kind, size)
	}
	n.size.Store(size)
	t.objects[n.object] = n
	return nil
}

func (t *tree) decodeAttrs(d *decoder, n *node) error {
	count := int(d.u8())
	if d.failed || count > MaxAttrs {
		return d.refuse("%d attributes of %q", count, n.name)
	}
	for i := range count {
		a := attr{name: string(d.take(int(d.u8()))), version: d.u64()}
		size := d.u32()
		if d.failed || size > op.MaxAttr || int(size) > len(d.b) {
			return d.refuse("attribute %q of %q has %d bytes", a.name, n.name, size)
		}
		if size > 0 {
			a.value = slices.Clone(d.take(int(size)))
		}
		t.attrs += a.bytes()
		if !validName(a.name) || i > 0 && a.name <= n.attrs[i-1].name || a.version == 0 || t.attrs > MaxAttrBytes {
			return d.refuse("attribute %d of %q is %q, version %d", i, n.name, a.name, a.version)
		}
		n.attrs = append(n.attrs, a)
	}
	return nil
}

// decoder takes bytes off a snapshot. Once they don't suffice it has failed, and yields zeros.
type decoder struct {
	b       []byte
	size    int
	version uint16
	failed  bool
}

func (d *decoder) refuse(format string, args ...any) error {
	return fmt.Errorf("%w: before byte %d: %w", ErrSnapshot, d.size-len(d.b), fmt.Errorf(format, args...))
}

func (d *decoder) take(n int) []byte {
	if n > len(d.b) {
		d.failed, d.b = true, nil
		return nil
	}
	taken := d.b[:n]
	d.b = d.b[n:]
	return taken
}

func (d *decoder) u8() (v uint8) {
	if b := d.take(1); b != nil {
		v = b[0]
	}
	return v
}

func (d *decoder) u16() (v uint16) {
	if b := d.take(2); b != nil {
		v = binary.LittleEndian.Uint16(b)
	}
	return v
}

func (d *decoder) u32() (v uint32) {
	if b := d.take(4); b != nil {
		v = binary.LittleEndian.Uint32(b)
	}
	return v
}

func (d *decoder) u64() (v uint64) {
	if b := d.take(8); b != nil {
		v = binary.LittleEndian.Uint64(b)
	}
	return v
}

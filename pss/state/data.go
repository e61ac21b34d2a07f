package state

import (
	"bytes"
	"fmt"

	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
)

// compareSize is how many bytes CompareAndWrite reads and compares at a time.
const compareSize = 64 << 10

// object finds the object of o, and holds the token of o against that of a volume. A volume that was
// never opened has no token that would do.
func (m *Machine) object(o *op.Op) (*node, op.Errno) {
	n := m.tree.objects[o.Object]
	if n == nil {
		return nil, op.NotFound
	}
	if n.kind == op.KindVolume {
		if errno := n.hold(o.Token); errno != op.OK {
			return nil, errno
		}
	}
	return n, op.OK
}

// hold says what becomes of an operation under a token: it is executed, it was overtaken by a change that one
// of those who share the volume made known with a new token (Moved), or its sender has lost the volume.
func (n *node) hold(token uint64) op.Errno {
	switch {
	case token != 0 && token == n.token:
		return op.OK
	case n.sharers != 0 && token >= n.sharers && token < n.token:
		return op.Moved
	}
	return op.Fenced
}

// inside is object, and the range of o must not leave it.
func (m *Machine) inside(o *op.Op) (*node, op.Errno) {
	n, errno := m.object(o)
	if errno == op.OK && o.Offset+o.Length > n.size.Load() {
		return nil, op.OutOfRange
	}
	return n, errno
}

// write stores the payload. Files grow with it.
func (m *Machine) write(index uint64, o *op.Op) (op.Result, error) {
	n, errno := m.object(o)
	if errno != op.OK {
		return answer(errno)
	}
	end, size := o.Offset+o.Length, n.size.Load()
	if n.kind == op.KindVolume && end > size || end > op.MaxVolume {
		return answer(op.OutOfRange)
	}
	at := op.HeaderSize + len(o.Args)
	if err := m.store.Write(n.object, int64(o.Offset), o.Payload, o.Args, at, index); err != nil {
		return op.Result{}, err
	}
	if end > size {
		n.size.Store(end)
	}
	n.touch(o.Stamp)
	return answer(op.OK)
}

// zero is Unmap and WriteZeroes.
func (m *Machine) zero(index uint64, o *op.Op) (op.Result, error) {
	n, errno := m.inside(o)
	if errno != op.OK {
		return answer(errno)
	}
	if err := m.store.Zero(n.object, int64(o.Offset), int64(o.Length), index, o.Code == op.Unmap); err != nil {
		return op.Result{}, err
	}
	n.touch(o.Stamp)
	return answer(op.OK)
}

// compareAndWrite stores the second half of the payload if the first is what is there (SBC-3 5.2).
// Nothing comes between, because nothing else is applied meanwhile.
func (m *Machine) compareAndWrite(index uint64, o *op.Op) (op.Result, error) {
	n, errno := m.inside(o)
	if errno != op.OK {
		return answer(errno)
	}
	half := int(o.Length)
	differs, err := m.compare(n.object, int64(o.Offset), o.Payload[:half])
	if err != nil {
		return op.Result{}, err
	}
	if differs >= 0 {
		return op.Result{Errno: op.Miscompare, Value: uint64(differs)}, nil
	}
	sums := o.Args[len(o.Args)/2:]
	at := op.HeaderSize + len(o.Args) + half
	if err := m.store.Write(n.object, int64(o.Offset), o.Payload[half:], sums, at, index); err != nil {
		return op.Result{}, err
	}
	n.touch(o.Stamp)
	return answer(op.OK)
}

// compare tells where the object differs from want, counted in bytes from off, or -1.
func (m *Machine) compare(object uint64, off int64, want []byte) (int, error) {
	if m.scratch == nil {
		m.scratch = make([]byte, compareSize)
	}
	for done := 0; done < len(want); {
		have := m.scratch[:min(compareSize, len(want)-done)]
		if err := m.store.ReadAt(object, off+int64(done), have); err != nil {
			return 0, fmt.Errorf("read what to compare with: %w", err)
		}
		part := want[done : done+len(have)]
		if !bytes.Equal(have, part) {
			for i := range have {
				if have[i] != part[i] {
					return done + i, nil
				}
			}
		}
		done += len(have)
	}
	return -1, nil
}

// truncate sets the size of a file. What is beyond the size of a file is never kept, so that a file
// that grows again has zeros there.
func (m *Machine) truncate(index uint64, o *op.Op) (op.Result, error) {
	n := m.tree.objects[o.Object]
	switch {
	case n == nil:
		return answer(op.NotFound)
	case n.kind != op.KindFile:
		return answer(op.Kind)
	}
	if o.Length < n.size.Load() {
		if err := m.store.Truncate(n.object, int64(o.Length), index); err != nil {
			return op.Result{}, err
		}
	}
	n.size.Store(o.Length)
	n.touch(o.Stamp)
	return answer(op.OK)
}

// flush has nothing to do: what was applied is durable. It tells whether the token still holds.
func (m *Machine) flush(o *op.Op) (op.Result, error) {
	_, errno := m.object(o)
	return answer(errno)
}

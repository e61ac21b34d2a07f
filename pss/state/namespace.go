package state

import "github.com/paxos-iscsi/paxos-iscsi/pss/op"

// place finds the place that the only argument of o names.
func (m *Machine) place(o *op.Op) (place, op.Errno) {
	path, rest, err := op.String(o.Args)
	if err != nil || len(rest) != 0 {
		return place{}, op.Invalid
	}
	return m.tree.find(path)
}

// mkdir makes a folder and those above it, all or none of them.
func (m *Machine) mkdir(o *op.Op) (op.Result, error) {
	path, rest, err := op.String(o.Args)
	if err != nil || len(rest) != 0 {
		return answer(op.Invalid)
	}
	names, ok := split(path)
	if !ok {
		return answer(op.Invalid)
	}
	dir := m.tree.root
	for len(names) > 0 {
		c := dir.child(names[0])
		if c == nil {
			break
		}
		if names = names[1:]; c.kind != op.KindDir {
			if len(names) == 0 {
				return answer(op.Exists)
			}
			return answer(c.notDir())
		}
		dir = c
	}
	if len(names) > MaxObjects-m.tree.count {
		return answer(op.TooMany)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range names {
		n := &node{kind: op.KindDir, name: name}
		n.touch(o.Stamp)
		m.tree.attach(dir, n, o.Stamp)
		dir = n
	}
	return answer(op.OK)
}

func (m *Machine) rmdir(o *op.Op) (op.Result, error) {
	p, errno := m.place(o)
	switch {
	case errno != op.OK:
		return answer(errno)
	case p.node == nil:
		return answer(op.NotFound)
	case p.node.kind != op.KindDir:
		return answer(p.node.notDir())
	case p.node == m.tree.root:
		return answer(op.Invalid)
	case len(p.node.children) > 0:
		return answer(op.NotEmpty)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tree.detach(p.node, o.Stamp)
	return answer(op.OK)
}

// create makes an object and gives it the name at p.
func (m *Machine) create(index uint64, p place, kind op.NodeKind, size, stamp uint64) (op.Result, error) {
	if m.tree.count >= MaxObjects {
		return answer(op.TooMany)
	}
	n := &node{kind: kind, name: p.name, object: m.tree.next}
	if err := m.store.Create(n.object, n.name, index); err != nil {
		return op.Result{}, err
	}
	n.size.Store(size)
	n.touch(stamp)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tree.next++
	m.tree.attach(p.dir, n, stamp)
	return op.Result{Object: n.object}, nil
}

// remove takes an object out of the store and the tree.
func (m *Machine) remove(index uint64, n *node, stamp uint64) (op.Result, error) {
	if err := m.store.Delete(n.object, index); err != nil {
		return op.Result{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tree.detach(n, stamp)
	return answer(op.OK)
}

func (m *Machine) createFile(index uint64, o *op.Op) (op.Result, error) {
	p, errno := m.place(o)
	switch {
	case errno != op.OK:
		return answer(errno)
	case p.node != nil:
		return answer(op.Exists)
	}
	return m.create(index, p, op.KindFile, 0, o.Stamp)
}

func (m *Machine) deleteFile(index uint64, o *op.Op) (op.Result, error) {
	p, errno := m.place(o)
	if errno != op.OK {
		return answer(errno)
	}
	n, errno := p.as(op.KindFile)
	if errno != op.OK {
		return answer(errno)
	}
	return m.remove(index, n, o.Stamp)
}

// rename moves a name. It may take that of another file if it is a file itself, and no other's.
func (m *Machine) rename(index uint64, o *op.Op) (op.Result, error) {
	oldPath, rest, err := op.String(o.Args)
	if err != nil {
		return answer(op.Invalid)
	}
	newPath, rest, err := op.String(rest)
	if err != nil || len(rest) != 0 {
		return answer(op.Invalid)
	}
	from, errno := m.tree.find(oldPath)
	if errno != op.OK {
		return answer(errno)
	}
	to, errno := m.tree.find(newPath)
	if errno != op.OK {
		return answer(errno)
	}
	n := from.node
	switch {
	case n == nil:
		return answer(op.NotFound)
	case n == m.tree.root || to.dir.within(n) || to.node == m.tree.root:
		return answer(op.Invalid)
	case to.node == n:
		return answer(op.OK)
	case to.dir.pathSize()+len("/")+len(to.name)+n.reach() > op.MaxPath:
		return answer(op.Invalid)
	case to.node != nil && n.kind == op.KindFile && to.node.kind == op.KindDir:
		return answer(op.IsDir)
	case to.node != nil && (n.kind != op.KindFile || to.node.kind != op.KindFile):
		return answer(op.Exists)
	}
	if to.node != nil {
		if err := m.store.Delete(to.node.object, index); err != nil {
			return op.Result{}, err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if to.node != nil {
		m.tree.detach(to.node, o.Stamp)
	}
	m.tree.detach(n, o.Stamp)
	n.name = to.name
	m.tree.attach(to.dir, n, o.Stamp)
	return answer(op.OK)
}

// validVolume says whether a volume may have that many bytes.
func validVolume(size uint64) bool {
	return size > 0 && size <= op.MaxVolume && size%SectorSize == 0
}

func (m *Machine) volumeCreate(index uint64, o *op.Op) (op.Result, error) {
	p, errno := m.place(o)
	switch {
	case errno != op.OK:
		return answer(errno)
	case !validVolume(o.Length):
		return answer(op.Invalid)
	case p.node == nil:
		return m.create(index, p, op.KindVolume, o.Length, o.Stamp)
	case p.node.kind != op.KindVolume:
		return answer(op.Exists)
	}
	if size := p.node.size.Load(); size != o.Length {
		return op.Result{Errno: op.Exists, Value: size}, nil
	}
	return op.Result{Object: p.node.object}, nil
}

// volume finds the volume that the only argument of o names.
func (m *Machine) volume(o *op.Op) (*node, op.Errno) {
	p, errno := m.place(o)
	if errno != op.OK {
		return nil, errno
	}
	return p.as(op.KindVolume)
}

// volumeOpen gives out a token. Whoever opens for himself fences all others; who opens to share fences an
// exclusive holder, and gets the token that those have who share the volume already.
func (m *Machine) volumeOpen(o *op.Op) (op.Result, error) {
	n, errno := m.volume(o)
	shared, renew := o.Flags&op.FlagShared != 0, o.Flags&op.FlagRenew != 0
	switch {
	case o.Flags&^(op.FlagShared|op.FlagRenew) != 0 || renew && !shared:
		return answer(op.Invalid)
	case errno != op.OK:
		return answer(errno)
	case renew && (o.Object != n.object || n.hold(o.Token) == op.Fenced):
		return answer(op.Fenced)
	}
	if !shared || n.sharers == 0 {
		m.mu.Lock()
		defer m.mu.Unlock()
		n.token++
		n.sharers = 0
		if shared {
			n.sharers = n.token
		}
	}
	return op.Result{Object: n.object, Token: n.token, Value: n.size.Load()}, nil
}

func (m *Machine) volumeGrow(o *op.Op) (op.Result, error) {
	n, errno := m.volume(o)
	switch {
	case errno != op.OK:
		return answer(errno)
	case !validVolume(o.Length) || o.Length < n.size.Load():
		return answer(op.Invalid)
	}
	n.size.Store(o.Length)
	n.touch(o.Stamp)
	return answer(op.OK)
}

func (m *Machine) volumeDelete(index uint64, o *op.Op) (op.Result, error) {
	n, errno := m.volume(o)
	if errno != op.OK {
		return answer(errno)
	}
	return m.remove(index, n, o.Stamp)
}

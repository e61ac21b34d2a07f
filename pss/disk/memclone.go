package disk

// Clone returns a disk that holds what this one shows, as a backup that was put back does: all of it is durable, and
// there are no open handles, no limit and no faults. It shares nothing with this one.
func (m *Mem) Clone() *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := NewMem()
	c.root = m.root.clone(make(map[*node]*node))
	c.used = c.measure(c.root, map[*node]bool{})
	return c
}

// clone copies a folder or a file with what is in it. done has the copies so far: a file may have several names.
func (n *node) clone(done map[*node]*node) *node {
	if c := done[n]; c != nil {
		return c
	}
	c := newFile()
	if n.folder() {
		c = newFolder()
	}
	done[n] = c
	for base, of := range n.names {
		c.names[base] = of.clone(done)
	}
	for at, pg := range n.pages {
		if pg != nil { // else it is reserved
			whole := *pg
			pg = &whole
		}
		c.pages[at] = pg
	}
	c.size, c.links = n.size, n.links
	return c
}

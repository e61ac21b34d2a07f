package state

import (
	"slices"
	"strings"
	"sync/atomic"

	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
)

// node is a name in the tree.
type node struct {
	kind     op.NodeKind
	name     string  // empty for the root
	parent   *node   // nil for the root
	object   uint64  // files and volumes
	token    uint64  // volumes: the last one given out, 0 before the first; guarded by Machine.mu
	sharers  uint64  // volumes: the first token of those who share it now, 0 while nobody does; guarded by Machine.mu
	attrs    []attr  // volumes: in order of their names; guarded by Machine.mu
	children []*node // folders: in order of their names

	// Readers in other goroutines see these change without any lock.
	size     atomic.Uint64 // bytes; files and volumes
	modified atomic.Uint64 // ns since 1970, by some client's clock
}

// tree is all names of a cell.
//
// The length of every path, counted with a slash before each name, is at most op.MaxPath. That also
// bounds the depth of the tree.
type tree struct {
	root    *node
	objects map[uint64]*node // files and volumes
	count   int              // nodes without the root, MaxObjects at most
	next    uint64           // the number of the next object; numbers are never used again
	attrs   int              // bytes of all attributes, MaxAttrBytes at most
}

func newTree() tree {
	return tree{root: &node{kind: op.KindDir}, objects: make(map[uint64]*node), next: 1}
}

// split takes a path apart. A leading slash, a leading "./" and neither mean the same. It is false
// for what can't be the path of anything.
func split(path string) (names []string, ok bool) {
	switch {
	case path == ".":
		path = ""
	case strings.HasPrefix(path, "./"):
		path = path[len("./"):]
	default:
		path = strings.TrimPrefix(path, "/")
	}
	if path == "" {
		return nil, true
	}
	if len("/")+len(path) > op.MaxPath {
		return nil, false
	}
	names = strings.Split(path, "/")
	for _, n := range names {
		if !validName(n) {
			return nil, false
		}
	}
	return names, true
}

// validName says whether a name without a slash may stand in the tree.
func validName(n string) bool {
	return n != "" && n != "." && n != ".." && len(n) <= op.MaxName && strings.IndexByte(n, 0) < 0
}

func (n *node) find(name string) (int, bool) {
	return slices.BinarySearchFunc(n.children, name, func(c *node, name string) int {
		return strings.Compare(c.name, name)
	})
}

// child is the entry of a folder with that name, or nil.
func (n *node) child(name string) *node {
	if i, ok := n.find(name); ok {
		return n.children[i]
	}
	return nil
}

// notDir is the answer to somebody who took n, which is no folder, for one.
func (n *node) notDir() op.Errno {
	if n.kind == op.KindVolume {
		return op.Kind
	}
	return op.NotDir
}

// touch sets the modification time. Clients without a clock say 0.
func (n *node) touch(stamp uint64) {
	if stamp != 0 {
		n.modified.Store(stamp)
	}
}

// place is where a path leads to.
type place struct {
	dir  *node  // the folder; nil for the root of the tree
	name string // the name in it
	node *node  // what has that name, or nil
}

// find follows a path as far as the folder of its last name.
func (t *tree) find(path string) (place, op.Errno) {
	names, ok := split(path)
	if !ok {
		return place{}, op.Invalid
	}
	if len(names) == 0 {
		return place{node: t.root}, op.OK
	}
	last := len(names) - 1
	dir := t.root
	for _, name := range names[:last] {
		c := dir.child(name)
		switch {
		case c == nil:
			return place{}, op.NotFound
		case c.kind != op.KindDir:
			return place{}, c.notDir()
		}
		dir = c
	}
	return place{dir, names[last], dir.child(names[last])}, op.OK
}

// as is what is at the place, if it is of the kind that is wanted: a file or a volume.
func (p place) as(kind op.NodeKind) (*node, op.Errno) {
	switch {
	case p.node == nil:
		return nil, op.NotFound
	case p.node.kind == op.KindDir:
		return nil, op.IsDir
	case p.node.kind != kind:
		return nil, op.Kind
	}
	return p.node, op.OK
}

// attach puts a node that is nowhere into a folder, at its name's place.
func (t *tree) attach(dir, n *node, stamp uint64) {
	i, _ := dir.find(n.name)
	dir.children = slices.Insert(dir.children, i, n)
	n.parent = dir
	dir.touch(stamp)
	t.count++
	if n.kind != op.KindDir {
		t.objects[n.object] = n
	}
	for i := range n.attrs {
		t.attrs += n.attrs[i].bytes()
	}
}

// detach takes a node out of its folder.
func (t *tree) detach(n *node, stamp uint64) {
	i, _ := n.parent.find(n.name)
	n.parent.children = slices.Delete(n.parent.children, i, i+1)
	n.parent.touch(stamp)
	n.parent = nil
	t.count--
	delete(t.objects, n.object)
	for i := range n.attrs {
		t.attrs -= n.attrs[i].bytes()
	}
}

// within says whether n is top or below it.
func (n *node) within(top *node) bool {
	for ; n != nil; n = n.parent {
		if n == top {
			return true
		}
	}
	return false
}

// pathSize is the length of the path of n in bytes.
func (n *node) pathSize() int {
	size := 0
	for ; n.parent != nil; n = n.parent {
		size += len("/") + len(n.name)
	}
	return size
}

// reach is how many bytes the longest path below n is longer than that of n.
func (n *node) reach() int {
	longest := 0
	for _, c := range n.children {
		longest = max(longest, len("/")+len(c.name)+c.reach())
	}
	return longest
}

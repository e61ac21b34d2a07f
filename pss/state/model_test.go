package state

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
)

// modelSession is a session that never forgets what it executed.
type modelSession struct {
	epoch    uint32
	acked    uint64
	executed map[uint64]op.Result
}

// TestExactlyOnce lets clients number operations, and a network repeat, lose, delay and reorder what
// they send, before and after they open their sessions anew. Every operation gives out a token, so that
// the number of tokens given out is the number of executions.
func TestExactlyOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newTwins()
		w.apply(t, encode(op.Header{Code: op.SessionOpen, Session: 9}))
		w.apply(t, encode(op.Header{Code: op.VolumeCreate, Session: 9, Seq: 1, Length: 512}, "/v"))
		model := map[uint64]*modelSession{}
		closed := map[uint64]bool{}
		tokens := uint64(0)
		step := func(h op.Header) op.Result {
			s := model[h.Session]
			switch {
			case h.Code == op.SessionOpen && closed[h.Session]:
				return op.Result{Errno: op.NoSession}
			case h.Code == op.SessionOpen && s == nil:
				model[h.Session] = &modelSession{h.Epoch, 1, map[uint64]op.Result{}}
				return op.Result{}
			case s == nil:
				return op.Result{Errno: op.NoSession}
			case h.Code == op.SessionOpen && h.Epoch >= s.epoch:
				s.epoch = h.Epoch
				return op.Result{}
			case h.Code == op.SessionClose && h.Epoch == s.epoch:
				delete(model, h.Session)
				closed[h.Session] = true
				return op.Result{}
			case h.Code != op.VolumeOpen:
				return op.Result{Errno: op.StaleEpoch}
			case h.Seq == 0 || h.Acked > h.Seq:
				return op.Result{Errno: op.Invalid}
			}
			if r, ok := s.executed[h.Seq]; ok && h.Seq >= s.acked {
				return r
			}
			switch acked := max(s.acked, h.Acked); {
			case h.Epoch != s.epoch:
				return op.Result{Errno: op.StaleEpoch}
			case h.Seq < acked:
				return op.Result{Errno: op.TooOld}
			case h.Seq-acked >= op.Window:
				return op.Result{Errno: op.TooMany}
			default:
				s.acked = acked
			}
			tokens++
			s.executed[h.Seq] = op.Result{Object: 1, Token: tokens, Value: 512}
			return s.executed[h.Seq]
		}
		// What was sent, and may arrive any number of times from now on.
		var sent []op.Header
		seq := map[uint64]uint64{}
		for range rapid.IntRange(1, 120).Draw(t, "steps") {
			session := rapid.Uint64Range(1, 3).Draw(t, "session")
			h := op.Header{Session: session, Epoch: rapid.Uint32Range(0, 3).Draw(t, "epoch")}
			if s := model[session]; s != nil && rapid.IntRange(0, 9).Draw(t, "wrong epoch") > 0 {
				h.Epoch = s.epoch
			}
			switch kind := rapid.IntRange(0, 19).Draw(t, "kind"); {
			case kind == 0:
				h.Code = op.SessionClose
			case kind <= 3:
				h.Code = op.SessionOpen
				h.Epoch += rapid.Uint32Range(0, 1).Draw(t, "raise")
			case kind <= 10 && len(sent) > 0:
				h = sent[rapid.IntRange(0, len(sent)-1).Draw(t, "repeat")]
				if rapid.Bool().Draw(t, "sealed anew") && model[h.Session] != nil {
					h.Epoch = model[h.Session].epoch
				}
			default:
				h.Code = op.VolumeOpen
				seq[session] += rapid.SampledFrom([]uint64{1, 1, 1, 1, 2, 600}).Draw(t, "skip")
				h.Seq = seq[session] - rapid.Uint64Range(0, min(3, seq[session])).Draw(t, "back")
				h.Acked = h.Seq - rapid.Uint64Range(0, min(4, h.Seq)).Draw(t, "unanswered")
				h.Acked += rapid.SampledFrom([]uint64{0, 0, 0, 0, 0, 5}).Draw(t, "wrong")
			}
			sent = append(sent, h)
			want := step(h)
			if got := w.apply(t, encode(h, "/v")); got != want {
				t.Fatalf("%+v: %+v, not %+v", h, got, want)
			}
		}
		w.apply(t, encode(op.Header{Code: op.SessionOpen, Session: 9}))
		r := w.apply(t, encode(op.Header{Code: op.VolumeOpen, Session: 9, Seq: 2}, "/v"))
		if r.Token != tokens+1 {
			t.Fatalf("%d executions, %d expected", r.Token-1, tokens)
		}
	})
}

// modelNode is a name in the model of the tree: its data is all there.
type modelNode struct {
	kind   op.NodeKind
	object uint64
	token  uint64
	shared uint64 // the first token of those who share it now; 0 for none
	attrs  map[string]modelAttr
	data   []byte
}

type modelAttr struct {
	version uint64
	value   string
}

// hold is what becomes of an operation on a volume under a token.
func (n *modelNode) hold(token uint64) op.Errno {
	switch {
	case token != 0 && token == n.token:
		return op.OK
	case n.shared != 0 && n.shared <= token && token < n.token:
		return op.Moved
	}
	return op.Fenced
}

// setAttr carries out an AttrSet in the entry at index.
func (m *model) setAttr(h op.Header, index uint64, name string, version uint64, value string) op.Result {
	n := m.object(h.Object)
	switch {
	case h.Flags&op.FlagRemove != 0 && value != "":
		return op.Result{Errno: op.Invalid}
	case n == nil:
		return op.Result{Errno: op.NotFound}
	case n.kind != op.KindVolume:
		return op.Result{Errno: op.Kind}
	case n.hold(h.Token) != op.OK:
		return op.Result{Errno: n.hold(h.Token)}
	case h.Flags&op.FlagBump != 0 && n.shared == 0:
		return op.Result{Errno: op.Invalid}
	case n.attrs[name].version != version:
		return op.Result{Errno: op.Conflict, Value: n.attrs[name].version}
	}
	if n.attrs == nil {
		n.attrs = map[string]modelAttr{}
	}
	if h.Flags&op.FlagRemove != 0 {
		index = 0
		delete(n.attrs, name)
	} else {
		n.attrs[name] = modelAttr{index, value}
	}
	if h.Flags&op.FlagBump != 0 {
		n.token++
	}
	return op.Result{Token: n.token, Value: index}
}

// model is a tree as a map from paths, "" being the root.
type model struct {
	nodes map[string]*modelNode
	next  uint64
}

func (m *model) parent(path string) op.Errno {
	names := strings.Split(path, "/")
	for i := 1; i < len(names)-1; i++ {
		switch n := m.nodes[strings.Join(names[:i+1], "/")]; {
		case n == nil:
			return op.NotFound
		case n.kind == op.KindFile:
			return op.NotDir
		case n.kind == op.KindVolume:
			return op.Kind
		}
	}
	return op.OK
}

func (m *model) below(path string) (list []string) {
	for p := range m.nodes {
		if strings.HasPrefix(p, path+"/") {
			list = append(list, p)
		}
	}
	slices.Sort(list)
	return list
}

func (m *model) want(path string, kind op.NodeKind) (*modelNode, op.Errno) {
	if e := m.parent(path); e != op.OK {
		return nil, e
	}
	switch n := m.nodes[path]; {
	case n == nil:
		return nil, op.NotFound
	case n.kind == kind:
		return n, op.OK
	case n.kind == op.KindDir:
		return nil, op.IsDir
	case kind == op.KindDir && n.kind == op.KindFile:
		return nil, op.NotDir
	default:
		return nil, op.Kind
	}
}

func (m *model) add(path string, kind op.NodeKind, size uint64) op.Result {
	m.next++
	m.nodes[path] = &modelNode{kind: kind, object: m.next, data: make([]byte, size)}
	return op.Result{Object: m.next}
}

func (m *model) object(object uint64) *modelNode {
	for _, n := range m.nodes {
		if object != 0 && n.object == object {
			return n
		}
	}
	return nil
}

func (m *model) names(h op.Header, path, to string) op.Result {
	fail := func(e op.Errno) op.Result { return op.Result{Errno: e} }
	switch h.Code {
	case op.Mkdir:
		names := strings.Split(path, "/")
		var made []string
		for i := range names {
			p := strings.Join(names[:i+1], "/")
			switch n := m.nodes[p]; {
			case n == nil:
				made = append(made, p)
			case n.kind == op.KindDir:
			case i == len(names)-1:
				return fail(op.Exists)
			case n.kind == op.KindFile:
				return fail(op.NotDir)
			default:
				return fail(op.Kind)
			}
		}
		for _, p := range made {
			m.nodes[p] = &modelNode{kind: op.KindDir}
		}
		return fail(op.OK)
	case op.Rmdir:
		_, e := m.want(path, op.KindDir)
		switch {
		case e == op.OK && path == "":
			e = op.Invalid
		case e == op.OK && len(m.below(path)) > 0:
			e = op.NotEmpty
		case e == op.OK:
			delete(m.nodes, path)
		}
		return fail(e)
	case op.Rename:
		return fail(m.rename(path, to))
	case op.CreateFile, op.VolumeCreate:
		n := m.nodes[path]
		e := m.parent(path)
		switch {
		case e != op.OK:
			return fail(e)
		case h.Code == op.VolumeCreate && (h.Length == 0 || h.Length%512 != 0):
			return fail(op.Invalid)
		case n == nil && h.Code == op.CreateFile:
			return m.add(path, op.KindFile, 0)
		case n == nil:
			return m.add(path, op.KindVolume, h.Length)
		case h.Code == op.CreateFile || n.kind != op.KindVolume:
			return fail(op.Exists)
		case len(n.data) != int(h.Length):
			return op.Result{Errno: op.Exists, Value: uint64(len(n.data))}
		}
		return op.Result{Object: n.object}
	}
	kind := op.KindVolume
	if h.Code == op.Delete {
		kind = op.KindFile
	}
	n, e := m.want(path, kind)
	switch {
	case e != op.OK:
		return fail(e)
	case h.Code == op.VolumeOpen && h.Flags&op.FlagRenew != 0 && (n.object != h.Object || n.hold(h.Token) == op.Fenced):
		return fail(op.Fenced)
	case h.Code == op.VolumeOpen:
		if shares := h.Flags&op.FlagShared != 0; !shares || n.shared == 0 {
			n.token++
			n.shared = 0
			if shares {
				n.shared = n.token
			}
		}
		return op.Result{Object: n.object, Token: n.token, Value: uint64(len(n.data))}
	case h.Code == op.VolumeGrow && (h.Length%512 != 0 || h.Length < uint64(len(n.data))):
		return fail(op.Invalid)
	case h.Code == op.VolumeGrow:
		n.data = append(n.data, make([]byte, h.Length-uint64(len(n.data)))...)
	default:
		delete(m.nodes, path)
	}
	return fail(op.OK)
}

func (m *model) rename(path, to string) op.Errno {
	if e := m.parent(path); e != op.OK {
		return e
	}
	if e := m.parent(to); e != op.OK {
		return e
	}
	n, old := m.nodes[path], m.nodes[to]
	switch {
	case n == nil:
		return op.NotFound
	case path == "" || to == "" || strings.HasPrefix(to, path+"/"):
		return op.Invalid
	case path == to:
		return op.OK
	case old != nil && n.kind == op.KindFile && old.kind == op.KindDir:
		return op.IsDir
	case old != nil && (n.kind != op.KindFile || old.kind != op.KindFile):
		return op.Exists
	}
	for _, p := range append(m.below(path), path) {
		m.nodes[to+p[len(path):]] = m.nodes[p]
		delete(m.nodes, p)
	}
	return op.OK
}

func (m *model) bytes(h op.Header, payload []byte) op.Result {
	fail := func(e op.Errno) op.Result { return op.Result{Errno: e} }
	n := m.object(h.Object)
	if n == nil {
		return fail(op.NotFound)
	}
	if h.Code == op.Truncate {
		if n.kind != op.KindFile {
			return fail(op.Kind)
		}
		n.data = append(n.data[:min(len(n.data), int(h.Length))], make([]byte, max(0, int(h.Length)-len(n.data)))...)
		return fail(op.OK)
	}
	if n.kind == op.KindVolume && n.hold(h.Token) != op.OK {
		return fail(n.hold(h.Token))
	}
	if h.Code == op.Flush {
		return fail(op.OK)
	}
	length := int(h.Length)
	switch h.Code {
	case op.Write:
		length = len(payload)
	case op.CompareAndWrite:
		length = len(payload) / 2
	}
	off, end := int(h.Offset), int(h.Offset)+length
	if end > len(n.data) {
		if n.kind == op.KindVolume || h.Code != op.Write {
			return fail(op.OutOfRange)
		}
		n.data = append(n.data, make([]byte, end-len(n.data))...)
	}
	switch h.Code {
	case op.Write:
		copy(n.data[off:], payload)
	case op.CompareAndWrite:
		for i := range length {
			if n.data[off+i] != payload[i] {
				return op.Result{Errno: op.Miscompare, Value: uint64(i)}
			}
		}
		copy(n.data[off:], payload[length:])
	default:
		clear(n.data[off:end])
	}
	return fail(op.OK)
}

// check compares the tree and all data of a machine with the model.
func (m *model) check(t *rapid.T, x *Machine) {
	t.Helper()
	paths := append(m.below(""), "")
	for _, path := range paths {
		n := m.nodes[path]
		a, err := x.Query(op.Query{Code: op.Stat, Path: path})
		if err != nil || a.Errno != op.OK || len(a.Nodes) != 1 {
			t.Fatalf("stat %s: %+v, %v", path, a, err)
		}
		got := a.Nodes[0]
		if got.Kind != n.kind || got.Object != n.object || got.Bytes != uint64(len(n.data)) {
			t.Fatalf("stat %s: %+v", path, got)
		}
		if n.kind == op.KindDir {
			m.checkFolder(t, x, path)
			continue
		}
		if n.kind == op.KindVolume {
			m.checkAttrs(t, x, n)
		}
		size, kind, ok := x.Object(n.object)
		if !ok || kind != n.kind || size != uint64(len(n.data)) {
			t.Fatalf("object %d: %d bytes, %v, %v", n.object, size, kind, ok)
		}
		p := make([]byte, size+op.BlockSize)
		if err := x.store.ReadAt(n.object, 0, p); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(p, append(bytes.Clone(n.data), make([]byte, op.BlockSize)...)) {
			t.Fatalf("the data of %s differs", path)
		}
	}
	if len(paths)-1 != x.tree.count {
		t.Fatalf("%d nodes, %d expected", x.tree.count, len(paths)-1)
	}
}

func (m *model) checkFolder(t *rapid.T, x *Machine, path string) {
	var want, got []string
	for _, p := range m.below(path) {
		if name := p[len(path)+1:]; !strings.Contains(name, "/") {
			want = append(want, name)
		}
	}
	a, err := x.Query(op.Query{Code: op.ReadDir, Path: path})
	if err != nil || a.Errno != op.OK {
		t.Fatalf("readdir %s: %v, %v", path, a.Errno, err)
	}
	for _, n := range a.Nodes {
		got = append(got, n.Name)
	}
	if !slices.Equal(got, want) {
		t.Fatalf("readdir %s: %v, not %v", path, got, want)
	}
}

func drawPath(t *rapid.T, label string) string {
	p := ""
	for range rapid.SampledFrom([]int{0, 1, 1, 1, 1, 2, 2, 3}).Draw(t, label) {
		p += "/" + rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "name")
	}
	return p
}

// operation draws an operation of session 1 with its number, and carries it out in the model.
func (m *model) operation(t *rapid.T, seq uint64) (entry []byte, want op.Result) {
	h := op.Header{Code: op.Code(rapid.IntRange(int(op.Mkdir), int(op.AttrSet)).Draw(t, "code")), Session: 1, Seq: seq, Acked: seq}
	h.Length = rapid.SampledFrom([]uint64{1, 2, 511, 512, 513, 1024, 4096, 4097, 8192, 10240, 16384}).Draw(t, "length")
	if h.Code == op.AttrSet {
		return m.drawAttr(t, h)
	}
	if h.Code != op.Truncate && !h.Code.HasToken() {
		if h.Code == op.VolumeOpen {
			h.Flags = rapid.SampledFrom([]uint16{0, op.FlagShared, op.FlagShared, op.FlagShared | op.FlagRenew}).Draw(t, "flags")
			m.drawToken(t, &h)
		}
		path, to := drawPath(t, "path"), drawPath(t, "to")
		want = m.names(h, path, to)
		if h.Code == op.Rename {
			return encode(h, path, to), want
		}
		return encode(h, path), want
	}
	h.Object = rapid.Uint64Range(1, max(1, m.next)).Draw(t, "object")
	h.Offset = rapid.SampledFrom([]uint64{0, 1, 511, 512, 4095, 4096, 4097, 8192, 9000}).Draw(t, "offset")
	payload := bytes.Repeat([]byte{byte(seq)}, int(2*h.Length))
	if n := m.object(h.Object); n != nil {
		h.Token = n.token - uint64(rapid.SampledFrom([]int{0, 0, 0, 0, 1}).Draw(t, "old token"))
		if rapid.IntRange(0, 3).Draw(t, "other") > 0 {
			copy(payload[:h.Length], n.data[min(int(h.Offset), len(n.data)):])
		}
	}
	want = m.bytes(h, payload)
	if h.Code == op.Write || h.Code == op.CompareAndWrite {
		return encodeData(h, payload), want
	}
	return encode(h), want
}

// drawToken sets object and token of an operation, mostly to what is right.
func (m *model) drawToken(t *rapid.T, h *op.Header) {
	h.Object = rapid.Uint64Range(1, max(1, m.next)).Draw(t, "object")
	if n := m.object(h.Object); n != nil {
		h.Token = n.token - min(n.token, uint64(rapid.SampledFrom([]int{0, 0, 0, 0, 1, 2}).Draw(t, "old token")))
	}
}

// drawAttr draws an AttrSet, mostly of a version that is there.
func (m *model) drawAttr(t *rapid.T, h op.Header) (entry []byte, want op.Result) {
	m.drawToken(t, &h)
	h.Flags = rapid.SampledFrom([]uint16{0, 0, op.FlagBump, op.FlagBump, op.FlagRemove, op.FlagRemove | op.FlagBump}).Draw(t, "flags")
	name := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "attribute")
	value := rapid.SampledFrom([]string{"", "v", "value"}).Draw(t, "value")
	version := uint64(0)
	if n := m.object(h.Object); n != nil {
		version = n.attrs[name].version
	}
	version += rapid.SampledFrom([]uint64{0, 0, 0, 1}).Draw(t, "wrong version")
	return encodeAttr(h, name, version, []byte(value)), m.setAttr(h, h.Seq+1, name, version, value)
}

// checkAttrs compares token and attributes of a volume with the model.
func (m *model) checkAttrs(t *rapid.T, x *Machine, n *modelNode) {
	t.Helper()
	if a, err := x.Query(op.Query{Code: op.TokenGet, Object: n.object}); err != nil || a.Errno != op.OK || a.Version != n.token {
		t.Fatalf("token of object %d: %+v, %v, not %d", n.object, a, err, n.token)
	}
	for _, name := range []string{"a", "b"} {
		a, err := x.Query(op.Query{Code: op.AttrGet, Object: n.object, Path: name})
		if want := n.attrs[name]; err != nil || a.Errno != op.OK || a.Version != want.version || string(a.Value) != want.value {
			t.Fatalf("attribute %q of object %d: %+v, %v, not %+v", name, n.object, a, err, want)
		}
	}
}

func newModel() *model { return &model{nodes: map[string]*modelNode{"": {kind: op.KindDir}}} }

// TestAgainstModel applies random operations to twins and to the model.
func TestAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, m := newTwins(), newModel()
		w.apply(t, encode(op.Header{Code: op.SessionOpen, Session: 1}))
		for i := range rapid.Uint64Range(1, 100).Draw(t, "steps") {
			entry, want := m.operation(t, i+1)
			if got := w.apply(t, entry); got != want {
				t.Fatalf("operation %d: %+v, not %+v", i+1, got, want)
			}
		}
		m.check(t, w.a)
		w.checkStores(t)
	})
}

// The path of a name does not depend on how it is written.
func TestWaysToWriteAPath(t *testing.T) {
	m := New(newMemStore())
	mustApply(t, m, 1, encode(op.Header{Code: op.SessionOpen, Session: 1}))
	mustApply(t, m, 2, encode(op.Header{Code: op.Mkdir, Session: 1, Seq: 1}, "/x/y"))
	for _, p := range []string{"/x/y", "x/y", "./x/y"} {
		a, err := m.Query(op.Query{Code: op.Stat, Path: p})
		if err != nil || fmt.Sprint(a) != fmt.Sprint(op.Answer{Nodes: []op.Node{{Name: "y", Kind: op.KindDir}}}) {
			t.Errorf("%s: %+v, %v", p, a, err)
		}
	}
}

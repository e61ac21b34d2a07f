package state

import (
	"fmt"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
)

// Attributes have limits, for a volume and for the cell, and what is deleted makes room.
func TestLimitsOfAttributes(t *testing.T) {
	m := New(newMemStore())
	index := uint64(0)
	apply := func(entry []byte) op.Result {
		index++
		r, err := m.Apply(index, entry)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	apply(encode(op.Header{Code: op.SessionOpen, Session: 1}))
	seq := uint64(0)
	next := func(code op.Code) op.Header {
		seq++
		return op.Header{Code: code, Session: 1, Seq: seq, Acked: seq}
	}
	volume := func(i int) uint64 {
		h := next(op.VolumeCreate)
		h.Length = 512
		apply(encode(h, fmt.Sprintf("/v%d", i)))
		return apply(encode(next(op.VolumeOpen), fmt.Sprintf("/v%d", i))).Object
	}
	set := func(object uint64, name string, version uint64, size int) op.Result {
		h := next(op.AttrSet)
		h.Object, h.Token = object, 1
		return apply(encodeAttr(h, name, version, make([]byte, size)))
	}
	first := volume(0)
	for i := range MaxAttrs {
		if r := set(first, fmt.Sprint(i), 0, 1); r.Errno != op.OK {
			t.Fatalf("attribute %d: %v", i, r.Errno)
		}
	}
	if r := set(first, "more", 0, 1); r.Errno != op.TooMany {
		t.Errorf("an attribute more: %v", r.Errno)
	}
	last := op.Result{}
	var object uint64
	for i := 1; last.Errno == op.OK; i++ {
		object = volume(i)
		for j := 0; j < MaxAttrs && last.Errno == op.OK; j++ {
			last = set(object, fmt.Sprint(j), 0, op.MaxAttr)
		}
		if i > MaxAttrBytes/op.MaxAttr {
			t.Fatal("no limit")
		}
	}
	if last.Errno != op.TooMany || m.tree.attrs > MaxAttrBytes || m.tree.attrs < MaxAttrBytes-op.MaxAttr-attrOverhead-op.MaxName {
		t.Errorf("%v at %d bytes", last.Errno, m.tree.attrs)
	}
	before := m.tree.attrs
	apply(encode(next(op.VolumeDelete), "/v1"))
	if freed := before - m.tree.attrs; freed < MaxAttrs*op.MaxAttr {
		t.Errorf("deleting the volume freed %d bytes", freed)
	}
	if r := set(object, "now", 0, op.MaxAttr); r.Errno != op.OK {
		t.Errorf("after the deletion: %v", r.Errno)
	}
	checkRestores(t, m)
}

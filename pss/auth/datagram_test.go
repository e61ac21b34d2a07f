package auth

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func newBox(t testing.TB, k *Keys, self uint8) *Box {
	t.Helper()
	b, err := k.Box(self)
	check(t, err)
	return b
}

func seal(t testing.TB, b *Box, text string, to uint8) []byte {
	t.Helper()
	s, err := b.Seal(nil, []byte(text), to)
	check(t, err)
	if len(s) != len(text)+Overhead {
		t.Fatalf("%d bytes for %d", len(s), len(text))
	}
	return s
}

// taken is what a box makes of a datagram, which stays as it is.
func taken(b *Box, sealed []byte) (text string, reply []byte, err error) {
	_, plain, reply, err := b.Open(bytes.Clone(sealed))
	return string(plain), bytes.Clone(reply), err
}

// meet has a and b believe each other. It takes one round trip, in which one datagram is lost.
func meet(t testing.TB, a, b *Box) {
	t.Helper()
	_, reply, err := taken(b, seal(t, a, "lost", b.self))
	if !errors.Is(err, ErrUnproven) || reply == nil {
		t.Fatal(err)
	}
	if _, again, err := taken(a, reply); err != nil || again != nil {
		t.Fatal(err)
	}
	if text, _, err := taken(b, seal(t, a, "here", b.self)); err != nil || text != "here" {
		t.Fatal(text, err)
	}
	if text, _, err := taken(a, seal(t, b, "too", a.self)); err != nil || text != "too" {
		t.Fatal(text, err)
	}
}

func TestBoxes(t *testing.T) {
	ka, kb := cellKeys(t)
	a, b := newBox(t, ka, 0), newBox(t, kb, 1)
	meet(t, a, b)
	one, two := seal(t, a, "one", 1), seal(t, a, "two", 1)
	expect := func(what string, box *Box, sealed []byte, want error) {
		t.Helper()
		if text, _, err := taken(box, sealed); !errors.Is(err, want) || (err == nil) != (want == nil) || err != nil && text != "" {
			t.Errorf("%s: %q, %v", what, text, err)
		}
	}
	expect("the second before the first", b, two, nil)
	expect("the first after the second", b, one, nil)
	expect("one again", b, one, ErrReplayed)
	expect("two again", b, two, ErrReplayed)
	expect("sent back", a, one, ErrForged)
	expect("to another server", newBox(t, kb, 2), one, ErrForged)
	expect("in clear", b, []byte("PSSd and so on"), ErrMixed)
	expect("nothing", b, nil, ErrMixed)
	other, _ := cellKeys(t)
	expect("of another cell", b, seal(t, newBox(t, other, 0), "x", 1), ErrForged)
	three := seal(t, a, "three", 1)
	for i := range three {
		bad := bytes.Clone(three)
		bad[i] ^= 0x10
		if _, _, err := taken(b, bad); err == nil {
			t.Errorf("byte %d changed, and it was taken", i)
		}
	}
	for n := range three {
		if _, _, err := taken(b, three[:n]); err == nil {
			t.Errorf("cut to %d bytes, and it was taken", n)
		}
	}
	expect("three", b, three, nil)
	if _, err := (*Keys)(nil).Box(0); err == nil {
		t.Error("an open cell has a box")
	}
}

// TestTools: a tool needs no introduction, and has no effect on what a server knows of servers.
func TestTools(t *testing.T) {
	ka, kb := cellKeys(t)
	server, tool := newBox(t, ka, 3), newBox(t, kb, Tool)
	q := seal(t, tool, "how are you", 3)
	for range 2 {
		if text, _, err := taken(server, q); text != "how are you" || err != nil {
			t.Fatal(text, err)
		}
	}
	if text, _, err := taken(tool, seal(t, server, "well", Tool)); text != "well" || err != nil {
		t.Fatal(text, err)
	}
	for i := range server.senders {
		if server.senders[i].proven {
			t.Errorf("the server believes server %d", i)
		}
	}
}

// TestRestart: whoever starts anew is believed after one round trip, and what was recorded before is not.
func TestRestart(t *testing.T) {
	ka, kb := cellKeys(t)
	a, b := newBox(t, ka, 0), newBox(t, kb, 1)
	meet(t, a, b)
	var recorded [][]byte
	for i := range 10 {
		s := seal(t, a, fmt.Sprint(i), 1)
		if recorded = append(recorded, s); i%2 == 0 {
			_, _, err := taken(b, s)
			check(t, err)
		}
	}
	replay := func(when string) {
		t.Helper()
		for i, s := range recorded {
			if text, _, err := taken(b, s); err == nil {
				t.Errorf("%s, recorded datagram %d was taken: %q", when, i, text)
			}
		}
	}
	a = newBox(t, ka, 0)
	meet(t, a, b)
	replay("after the sender started anew")
	recorded = append(recorded, seal(t, a, "late", 1)) // b never saw it
	b = newBox(t, kb, 1)
	replay("before the receiver met anybody")
	meet(t, b, a)
	if _, _, err := taken(b, seal(t, a, "goes on", 1)); err != nil {
		t.Error(err)
	}
	replay("after the receiver started anew")
	a, b = newBox(t, ka, 0), newBox(t, kb, 1)
	replay("after both started anew")
	meet(t, a, b)
	replay("after they met")
}

// TestRollBoxes: at every step of rolling the key, and between steps where one has the new file and the
// other the old one, datagrams are taken without anybody being introduced again.
func TestRollBoxes(t *testing.T) {
	fa, fb := newFile(t), newFile(t)
	share(t, fa, fb)
	ka, kb := load(t, fa), load(t, fb)
	a, b := newBox(t, ka, 0), newBox(t, kb, 1)
	meet(t, a, b)
	old := seal(t, a, "under the old key", 1)
	both := func(when string) {
		t.Helper()
		for _, pair := range [][2]*Box{{a, b}, {b, a}} {
			if text, _, err := taken(pair[1], seal(t, pair[0], "hello", pair[1].self)); err != nil || text != "hello" {
				t.Errorf("%s, server %d to %d: %v", when, pair[0].self, pair[1].self, err)
			}
		}
	}
	for _, step := range []Step{RollAdd, RollUse, RollDrop} {
		_, err := Roll(fa, step)
		check(t, err)
		_, err = ka.Refresh()
		check(t, err)
		both(fmt.Sprintf("step %d at the first", step))
		share(t, fa, fb)
		_, err = kb.Refresh()
		check(t, err)
		both(fmt.Sprintf("step %d at both", step))
	}
	if _, _, err := taken(b, old); !errors.Is(err, ErrForged) {
		t.Errorf("the old key after it was dropped: %v", err)
	}
}

// TestWindow compares the window with a set, for counters in any order.
func TestWindow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var w window
		last := uint64(0)
		seen := make(map[uint64]bool)
		if rapid.Bool().Draw(t, "begins later") {
			last = rapid.Uint64Range(0, 5000).Draw(t, "begin")
			w.begin(last + 1)
			for n := range last + 1 {
				seen[n] = true
			}
		}
		for range rapid.IntRange(1, 200).Draw(t, "count") {
			ahead := rapid.SampledFrom([]int{1, 1, 1, 70, 1000, 100_000}).Draw(t, "ahead")
			n := uint64(max(1, int(last)-rapid.IntRange(-ahead, 2000).Draw(t, "back")))
			want := !seen[n] && n+windowSize > last
			if got := w.take(n); got != want {
				t.Fatalf("take(%d) = %v with %d the last", n, got, last)
			}
			seen[n] = seen[n] || want
			last = max(last, n)
		}
	})
}

// TestAnyNetwork: two servers that start anew at any time, over a network that loses, doubles, keeps and plays
// back everything. Nothing is taken twice, nothing that was sent before the receiver or a later start
// of its sender had met, and in a quiet network they always meet again.
func TestAnyNetwork(t *testing.T) {
	file := newFile(t)
	keys := load(t, file)
	rapid.Check(t, func(rt *rapid.T) {
		n := network{t: rt, keys: keys, taken: make(map[string]bool)}
		n.start(0)
		n.start(1)
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			switch rapid.SampledFrom([]string{"send", "send", "send", "old", "old", "restart"}).Draw(rt, "step") {
			case "send":
				n.send(uint8(rapid.IntRange(0, 1).Draw(rt, "from")), rapid.Bool().Draw(rt, "arrives"))
			case "old":
				if len(n.sent) > 0 {
					n.arrive(n.sent[rapid.IntRange(0, len(n.sent)-1).Draw(rt, "which")])
				}
			case "restart":
				n.start(uint8(rapid.IntRange(0, 1).Draw(rt, "who")))
			}
		}
		for range 2 { // the first may be the one that is lost
			n.send(0, true)
			n.send(1, true)
		}
		before := len(n.taken)
		n.send(0, true)
		n.send(1, true)
		if len(n.taken) != before+2 {
			rt.Fatal("in a quiet network they don't meet")
		}
	})
}

// network is two servers and whatever was ever sent between them.
type network struct {
	t     *rapid.T
	keys  *Keys
	boxes [2]*Box
	boots [2]int
	count int
	sent  []parcel
	taken map[string]bool
	// newest is, for each receiver, the latest start of the other that it took a datagram of.
	newest [2]int
}

type parcel struct {
	bytes    []byte
	to       uint8
	boot     int // of the sender, when it was sealed
	receiver int // boot of the receiver at that time
}

func (n *network) start(who uint8) {
	b, err := n.keys.Box(who)
	check(n.t, err)
	n.boxes[who] = b
	n.boots[who]++
	n.newest[who] = 0
}

func (n *network) post(b []byte, from uint8) parcel {
	p := parcel{bytes.Clone(b), 1 - from, n.boots[from], n.boots[1-from]}
	n.sent = append(n.sent, p)
	return p
}

func (n *network) send(from uint8, arrives bool) {
	n.count++
	text := fmt.Sprint(n.count)
	b, err := n.boxes[from].Seal(nil, []byte(text), 1-from)
	check(n.t, err)
	if p := n.post(b, from); arrives {
		n.arrive(p)
	}
}

func (n *network) arrive(p parcel) {
	_, plain, reply, err := n.boxes[p.to].Open(bytes.Clone(p.bytes))
	if reply != nil {
		n.arrive(n.post(reply, p.to))
	}
	if err != nil {
		return
	}
	if p.boot < n.newest[p.to] || p.receiver != n.boots[p.to] {
		n.t.Fatalf("server %d, start %d, took what start %d sealed for its start %d; it knows start %d",
			p.to, n.boots[p.to], p.boot, p.receiver, n.newest[p.to])
	}
	n.newest[p.to] = p.boot
	if plain == nil {
		return
	}
	if n.taken[string(plain)] {
		n.t.Fatalf("%q was taken twice", plain)
	}
	n.taken[string(plain)] = true
}

// TestDatagramBytes: the head is as the package comment draws it.
func TestDatagramBytes(t *testing.T) {
	k, _ := cellKeys(t)
	a := newBox(t, k, 2)
	s := seal(t, a, "x", 5)
	want := slices.Concat([]byte{'P', 'S', 'S', 's', 1, 0, 2, 5},
		binary.LittleEndian.AppendUint32(nil, uint32(k.Status().Keys[0])), a.salt[:], []byte{1, 0, 0, 0, 0, 0, 0, 0})
	if !bytes.Equal(s[:boxHead], want) {
		t.Errorf("% x\nwant % x", s[:boxHead], want)
	}
}

// FuzzOpen: nothing but what a holder of the key sealed is taken, whatever comes.
func FuzzOpen(f *testing.F) {
	k, _ := cellKeys(f)
	a, b := newBox(f, k, 0), newBox(f, k, 1)
	meet(f, a, b)
	good := seal(f, a, "taken once by each", 1)
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add([]byte("PSSs\x01\x01\x00\x01"))
	f.Fuzz(func(t *testing.T, sealed []byte) {
		box := newBox(t, k, 1)
		box.senders = b.senders
		_, plain, reply, err := box.Open(bytes.Clone(sealed))
		if err == nil && !bytes.Equal(sealed, good) {
			t.Fatalf("%x was taken as %q", sealed, plain)
		}
		if reply != nil && !errors.Is(err, ErrUnproven) {
			t.Fatal(err)
		}
	})
}

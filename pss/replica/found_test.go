package replica

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/wire"
)

// nursery is a cell that is being founded: entrances, and the datagrams between them, which are lost, doubled and
// late as the test likes. Servers restart, and lose their disks.
type nursery struct {
	now      time.Duration
	conf     []cell.Server
	roots    map[cell.ID]Identity // on disk
	live     map[cell.ID]*entrance
	mail     []letter
	lives    uint64
	roots128 byte // the last root given out
}

type letter struct {
	from cell.ID
	Notice
}

func newNursery(core int) *nursery {
	n := &nursery{now: 1, roots: make(map[cell.ID]Identity), live: make(map[cell.ID]*entrance)}
	for id := range cell.ID(core) {
		n.conf = append(n.conf, cell.Server{ID: id})
	}
	for _, s := range n.conf {
		n.wipe(s.ID)
	}
	return n
}

// wipe gives a server a new disk, and starts it.
func (n *nursery) wipe(id cell.ID) {
	n.roots128++
	n.roots[id] = Identity{ID: id, Root: RootID{n.roots128}}
	n.restart(id)
}

// restart starts a server anew from its disk.
func (n *nursery) restart(id cell.ID) {
	delete(n.live, id)
	n.lives++
	if n.roots[id].Number == 0 {
		n.live[id] = newEntrance(n.roots[id], n.conf, n.lives, n.now)
	}
}

// tick has everybody say what is due, and writes what was decided.
func (n *nursery) tick() {
	n.now += announceEvery / 2
	for id := range cell.ID(len(n.conf)) {
		if e := n.live[id]; e != nil {
			for _, x := range e.announce(n.now, nil) {
				n.mail = append(n.mail, letter{id, x})
			}
		}
	}
}

// deliver hands one letter over; a founded server answers it as a Core without a master does.
func (n *nursery) deliver(l letter) {
	e, own := n.live[l.To], n.roots[l.To]
	if e == nil {
		if l.Announce.Cell == (wire.CellID{}) {
			n.mail = append(n.mail, letter{l.To, Notice{To: l.from, Announce: Announce{Root: own.Root, Cell: own.Cell,
				Founders: own.Founders, Number: own.Number, For: l.Announce.Root}}})
		}
		return
	}
	e.hear(n.now, l.from, l.Announce, l.Stamp, l.Echo)
	if e.decided != nil {
		n.roots[l.To] = *e.decided
		n.restart(l.To)
	}
}

// majorities are the cells of which a majority of the members is there.
func (n *nursery) majorities() map[wire.CellID]bool {
	found := make(map[wire.CellID]bool)
	members := make(map[wire.CellID]int)
	for _, id := range n.roots {
		if id.Number == 0 {
			continue
		}
		if members[id.Cell]++; members[id.Cell] > len(id.Founders)/2 {
			found[id.Cell] = true
		}
	}
	return found
}

// TestFoundingMakesOneCell: whatever is lost and whoever is wiped while a cell is being founded, no two cells come of
// it as long as some disk of the first lives on; and if nothing is lost any more, the cell is there.
func TestFoundingMakesOneCell(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := newNursery(rapid.SampledFrom([]int{3, 5}).Draw(t, "core"))
		var first wire.CellID // the first cell with a majority
		wiped := 0
		for range rapid.IntRange(20, 300).Draw(t, "steps") {
			switch act := rapid.IntRange(0, 99).Draw(t, "act"); {
			case act < 30:
				n.tick()
			case act < 33:
				n.restart(cell.ID(rapid.IntRange(0, len(n.conf)-1).Draw(t, "id")))
			case act < 36 && (first == wire.CellID{} || wiped < (len(n.conf)-1)/2):
				// Once there is a cell, a minority may lose its disks; before, anybody.
				n.wipe(cell.ID(rapid.IntRange(0, len(n.conf)-1).Draw(t, "id")))
				if (first != wire.CellID{}) {
					wiped++
				}
			case len(n.mail) > 0:
				at := rapid.IntRange(0, len(n.mail)-1).Draw(t, "letter")
				l := n.mail[at]
				if act < 90 { // else it stays, and comes again
					n.mail = slices.Delete(n.mail, at, at+1)
				}
				if act < 80 || act >= 90 {
					n.deliver(l)
				}
			}
			for c := range n.majorities() {
				if first == (wire.CellID{}) {
					first = c
				}
				if c != first {
					t.Fatalf("two cells: %v and %v, %+v", first, c, n.roots)
				}
			}
		}
		// Now nothing is lost. Who founded a cell that the others could not follow waits for an operator; without such
		// a one all belong to the cell, or ask it to be taken in.
		for range 20 + 2*int(cellSilence/announceEvery) {
			n.tick()
			for len(n.mail) > 0 {
				l := n.mail[0]
				n.mail = n.mail[1:]
				n.deliver(l)
			}
		}
		for c := range n.majorities() {
			if first != (wire.CellID{}) && c != first {
				t.Fatalf("two cells: %v and %v", first, c)
			}
			first = c
		}
		if first == (wire.CellID{}) && !slices.ContainsFunc(n.conf, func(s cell.Server) bool { return n.roots[s.ID].Number != 0 }) {
			for id, e := range n.live {
				t.Logf("server %d: now %v, since %v, heard %+v, pledge %v, cell %v, decided %v", id, n.now, e.since, e.heard, e.pledge, e.cell, e.decided)
			}
			t.Fatalf("no cell: %+v", n.roots)
		}
		for id, e := range n.live {
			if e.cell == (wire.CellID{}) {
				t.Fatalf("server %d has not found the cell", id)
			}
		}
	})
}

// TestFoundingInAnyOrder: servers that start one after the other, in each order, make one cell of them all.
func TestFoundingInAnyOrder(t *testing.T) {
	t.Parallel()
	for _, order := range [][]cell.ID{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
		t.Run(fmt.Sprint(order), func(t *testing.T) {
			t.Parallel()
			e := newEstate(t, 0, 1, 2, 5)
			e.start(e.conf, 5) // a replica can't found anything
			for _, id := range order {
				e.start(e.conf, id)
				if id != order[2] && e.servers[id].report().State != "fresh" {
					t.Errorf("server %d did not wait", id)
				}
			}
			e.settled(0, 1, 2)
		})
	}
}

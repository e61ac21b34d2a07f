package scsi

import (
	"bytes"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/sam"
)

func (i *initiator) write(lba uint64, attribute sam.Attribute, tag uint32) <-chan result {
	return i.start(sam.Command{LUN: 1, Attribute: attribute, Tag: tag}, cdb16(0x8a, 0, lba, 1), 0, make([]byte, 512))
}

// held is how many requests the store keeps back.
func (m *memory) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.held)
}

func TestOrderedWaitsAndIsWaitedFor(t *testing.T) {
	m := newMemory(1 << 16)
	_, u, i := disk(t, m)
	m.hold()
	simple := i.write(0, sam.Simple, 0)
	ordered := i.write(1, sam.Ordered, 0)
	later := i.write(2, sam.Simple, 0)
	head := i.write(3, sam.HeadOfQueue, 0)
	if got := m.count(); got != 2 {
		t.Fatalf("%d commands run, want the first and the one at the head of the queue", got)
	}
	m.releaseOne() // simple
	if got := m.count(); got != 1 {
		t.Fatalf("%d commands run while one at the head of the queue precedes the ordered one", got)
	}
	<-simple
	m.releaseOne() // head of queue
	<-head
	if got := m.count(); got != 1 {
		t.Fatalf("%d commands run, want the ordered one alone", got)
	}
	m.releaseOne()
	<-ordered
	m.releaseOne()
	if r := <-later; r.status != sam.Good {
		t.Errorf("status %02x", r.status)
	}
	i.detach()
	must(t, u.Close())
}

// TestOrderedChain checks that many commands that wait for each other do not grow the stack.
func TestOrderedChain(t *testing.T) {
	m := newMemory(1 << 16)
	_, u, i := disk(t, m)
	m.hold()
	first := i.write(0, sam.Simple, 0)
	var rest []<-chan result
	for range MaxTasks - 2 {
		rest = append(rest, i.write(1, sam.Ordered, 0))
	}
	i.write(1, sam.Ordered, 0)
	if r := <-i.write(1, sam.Simple, 0); r.status != sam.TaskSetFull {
		t.Errorf("a command above the limit: status %02x", r.status)
	}
	m.release()
	<-first
	for _, done := range rest {
		if r := <-done; r.status != sam.Good {
			t.Fatalf("status %02x", r.status)
		}
	}
	i.detach()
	must(t, u.Close())
}

func TestCompareAndWriteIsAlone(t *testing.T) {
	m := newMemory(1 << 16)
	_, u, i := disk(t, m)
	m.hold()
	before := i.write(4, sam.Simple, 0)
	caw := i.start(sam.Command{LUN: 1}, cdbCompare(0, 4, 2), 0, append(make([]byte, 1024), bytes.Repeat([]byte{7}, 1024)...))
	after := i.write(5, sam.Simple, 0)
	other := i.write(6, sam.Simple, 0)
	read := i.start(sam.Command{LUN: 1}, cdb10(0x28, 0, 4, 1), 512, nil)
	if got := m.count(); got != 3 {
		t.Fatalf("%d requests, want the first write, the one elsewhere and the read", got)
	}
	for range 3 {
		m.releaseOne()
	}
	<-before
	<-other
	<-read
	for range 3 { // the attempt, the read, the write
		if got := m.count(); got != 1 {
			t.Fatalf("%d requests run during COMPARE AND WRITE", got)
		}
		m.releaseOne()
	}
	if r := <-caw; r.status != sam.Good {
		t.Fatalf("COMPARE AND WRITE: status %02x, sense % x", r.status, r.sense)
	}
	m.releaseOne()
	<-after
	if m.bytes[4*512] != 7 || m.bytes[5*512] != 0 {
		t.Error("the writes took effect in another order")
	}
	i.detach()
	must(t, u.Close())
}

func manage(i *initiator, f sam.Function, lun sam.LUN, tag uint32) <-chan sam.Response {
	done := make(chan sam.Response, 2)
	i.target.Manage(i.nexus, f, lun, tag, func(r sam.Response) { done <- r })
	return done
}

func TestAbortTaskWaits(t *testing.T) {
	m := newMemory(1 << 16)
	_, u, i := disk(t, m)
	m.hold()
	victim, other := i.write(0, sam.Simple, 77), i.write(1, sam.Simple, 78)
	response := manage(i, sam.AbortTask, 1, 77)
	if len(response) != 0 {
		t.Fatal("ABORT TASK was answered while the command could still take effect")
	}
	m.release()
	if r := <-victim; !r.aborted {
		t.Error("the command was not marked as aborted")
	}
	if r := <-other; r.aborted || r.status != sam.Good {
		t.Errorf("another command: %+v", r)
	}
	if r := <-response; r != sam.FunctionComplete {
		t.Errorf("response %d", r)
	}
	if r := <-manage(i, sam.AbortTask, 1, 77); r != sam.TaskDoesNotExist {
		t.Errorf("again: response %d", r)
	}
	i.detach()
	must(t, u.Close())
}

func TestAbortOnOrderedStore(t *testing.T) {
	m := newMemory(1 << 16)
	m.info.Ordered = true
	_, u, i := disk(t, m)
	m.hold()
	victim := i.write(0, sam.Simple, 77)
	steps := i.start(sam.Command{LUN: 1, Tag: 78}, cdbCompare(0, 4, 1), 0, make([]byte, 1024))
	if r := <-manage(i, sam.AbortTaskSet, 1, 0); r != sam.FunctionComplete {
		t.Errorf("response %d", r)
	}
	if m.count() != 2 {
		t.Fatal("the requests should still be with the store")
	}
	m.ops()
	m.release()
	if r := <-victim; !r.aborted {
		t.Error("the command was not marked as aborted")
	}
	if r := <-steps; !r.aborted {
		t.Error("the command in several steps was not marked as aborted")
	}
	if ops := m.ops(); len(ops) != 0 {
		t.Errorf("an aborted command went on: %v", ops)
	}
	i.detach()
	must(t, u.Close())
}

func TestAbortOfAWaitingCommand(t *testing.T) {
	m := newMemory(1 << 16)
	_, u, i := disk(t, m)
	m.hold()
	first, second := i.write(0, sam.Simple, 1), i.write(1, sam.Ordered, 2)
	if r := <-manage(i, sam.AbortTask, 1, 2); r != sam.FunctionComplete {
		t.Errorf("response %d", r)
	}
	if r := <-second; !r.aborted {
		t.Errorf("waiting command: %+v", r)
	}
	m.release()
	<-first
	if ops := m.ops(); !slices.Equal(ops, []backstore.Op{backstore.Write}) {
		t.Errorf("requests %v", ops)
	}
	i.detach()
	must(t, u.Close())
}

func TestLogicalUnitReset(t *testing.T) {
	m := newMemory(1 << 16)
	tg, u, a := disk(t, m)
	b := attach(t, tg, 2, "iqn.2000-01.probe:b")
	b.clear(1)
	a.good(1, unhex("160000000000"), 0, nil)
	a.good(1, unhex("1e0000000100"), 0, nil)
	m.hold()
	victim := a.write(0, sam.Simple, 0)
	response := manage(b, sam.LogicalUnitReset, 1, 0)
	m.release()
	if r := <-response; r != sam.FunctionComplete {
		t.Errorf("response %d", r)
	}
	if r := <-victim; !r.aborted {
		t.Error("the other session's command was not aborted")
	}
	if u.Show().PreventRemoval {
		t.Error("removal is still prevented")
	}
	for _, i := range []*initiator{a, b} {
		i.expect(1, make([]byte, 6), 0, nil, sam.CheckCondition, powerOnOrReset)
		i.expect(1, make([]byte, 6), 0, nil, sam.Good, noSense)
	}
	for f, want := range map[sam.Function]sam.Response{
		sam.ClearACA: sam.NotSupported, sam.ClearTaskSet: sam.NotSupported, sam.TargetWarmReset: sam.NotSupported,
		sam.TargetColdReset: sam.NotSupported, sam.TaskReassign: sam.NotSupported, 9: sam.FunctionRejected,
	} {
		if r := <-manage(a, f, 1, 0); r != want {
			t.Errorf("function %d: response %d, want %d", f, r, want)
		}
	}
	if r := <-manage(a, sam.LogicalUnitReset, 7, 0); r != sam.LUNDoesNotExist {
		t.Errorf("a unit that is not there: response %d", r)
	}
	a.detach()
	b.detach()
	must(t, u.Close())
}

func TestDetachWaitsForCommands(t *testing.T) {
	m := newMemory(1 << 16)
	_, u, i := disk(t, m)
	m.hold()
	running, waiting := i.write(0, sam.Simple, 0), i.write(0, sam.Ordered, 0)
	detached := make(chan struct{})
	go func() {
		i.detach()
		close(detached)
	}()
	if r := <-waiting; !r.aborted {
		t.Error("the waiting command was not aborted")
	}
	select {
	case <-detached:
		t.Error("Detach returned while a command was with the store")
	default:
	}
	m.release()
	if r := <-running; !r.aborted {
		t.Error("the running command was not aborted")
	}
	<-detached
	must(t, u.Close())
}

func TestRemoveUnit(t *testing.T) {
	m := newMemory(1 << 16)
	tg, u, i := disk(t, m)
	i.clear(0)
	m.hold()
	running := i.write(0, sam.Simple, 0)
	if _, err := tg.RemoveUnit(1); !errors.Is(err, ErrUnitBusy) {
		t.Fatalf("while a command runs: %v", err)
	}
	m.release()
	<-running
	if _, err := tg.RemoveUnit(9); !errors.Is(err, ErrNoUnit) {
		t.Errorf("no such unit: %v", err)
	}
	if _, err := tg.RemoveUnit(0); !errors.Is(err, ErrController) {
		t.Errorf("the controller: %v", err)
	}
	if err := tg.AddUnit(1, u); !errors.Is(err, ErrUnitExists) {
		t.Errorf("twice: %v", err)
	}
	removed, err := tg.RemoveUnit(1)
	if err != nil || removed != u {
		t.Fatalf("%v, %v", removed, err)
	}
	must(t, u.Close())
	i.expect(1, make([]byte, 6), 0, nil, sam.CheckCondition, unitNotSupported)
	i.expect(0, make([]byte, 6), 0, nil, sam.CheckCondition, reportedLUNsChanged)
	i.good(0, make([]byte, 6), 0, nil)
	i.detach()
}

// TestManyAtOnce lets sessions, resets, changes of the medium and removals meet.
func TestManyAtOnce(t *testing.T) {
	tg := NewTarget(1)
	open := func(string) (backstore.Store, error) { return newMemory(1 << 16), nil }
	add := func() error {
		u, err := NewUnit(UnitOptions{Type: Disk, TID: 1, LUN: 1, Path: "m", Open: open})
		if err == nil {
			err = tg.AddUnit(1, u)
		}
		return err
	}
	must(t, add())
	var wg sync.WaitGroup
	for s := range 4 {
		wg.Go(func() {
			for round := range 20 {
				i := attach(t, tg, uint64(s*100+round+1), "iqn.2000-01.probe:i")
				var pending []<-chan result
				for n := range 30 {
					attribute := []sam.Attribute{sam.Simple, sam.Ordered, sam.HeadOfQueue}[n%3]
					pending = append(pending, i.write(uint64(n%8), attribute, 0),
						i.start(sam.Command{LUN: 1}, cdbCompare(0, uint64(n%8), 1), 0, make([]byte, 1024)))
				}
				<-manage(i, sam.AbortTaskSet, 1, 0)
				for _, done := range pending {
					<-done
				}
				i.detach()
			}
		})
	}
	wg.Go(func() {
		i := attach(t, tg, 1000, "iqn.2000-01.probe:x")
		for range 50 {
			<-manage(i, sam.LogicalUnitReset, 1, 0)
			if u := tg.Unit(1); u != nil {
				u.Show()
				u.Stats(1)
				must(t, u.Update("online=0,path=m"))
			}
			if u, err := tg.RemoveUnit(1); err == nil {
				must(t, u.Close())
				must(t, add())
			}
		}
		i.detach()
	})
	wg.Wait()
	u, err := tg.RemoveUnit(1)
	must(t, err)
	must(t, u.Close())
	if n := tg.buffers.inUse.Load(); n != 0 {
		t.Errorf("%d bytes of buffers were not given back", n)
	}
}

// gate is an ordered store whose Submit can be stopped half-way.
type gate struct {
	*memory
	entered, leave chan struct{}
}

func (g gate) Submit(io *backstore.IO) {
	g.memory.Submit(io)
	g.entered <- struct{}{}
	<-g.leave
}

// TestAbortDuringSubmit: on an ordered store the answer waits for Submit to return, and for no more.
func TestAbortDuringSubmit(t *testing.T) {
	m := newMemory(1 << 16)
	m.info.Ordered = true
	_, u, i := disk(t, gate{m, make(chan struct{}), make(chan struct{})})
	g := u.medium.store.(gate)
	m.hold()
	started := make(chan (<-chan result), 1)
	go func() { started <- i.write(0, sam.Simple, 77) }()
	<-g.entered
	response := manage(&initiator{t: t, target: i.target, nexus: i.nexus}, sam.AbortTask, 1, 77)
	if len(response) != 0 {
		t.Fatal("ABORT TASK was answered while the request might still follow a later one")
	}
	g.leave <- struct{}{}
	if r := <-response; r != sam.FunctionComplete {
		t.Errorf("response %d", r)
	}
	victim := <-started
	if len(victim) != 0 {
		t.Error("the command ended before its request")
	}
	m.release()
	if r := <-victim; !r.aborted {
		t.Error("the command was not marked as aborted")
	}
	i.detach()
	must(t, u.Close())
}

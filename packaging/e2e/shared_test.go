package e2e

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/packaging/rig"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/initiator"
)

// path is one of the targets that serve a volume together, with a session on it.
type path struct {
	t       *testing.T
	name    string
	target  *rig.Target
	session *initiator.Session
}

const conflict = 0x18 // RESERVATION CONFLICT

// serveShared starts a tgtd that serves the volume "shared" together with others, and opens a session.
func (s *system) serveShared(t *testing.T, name string) *path {
	t.Helper()
	dir := filepath.Join(s.dir, name)
	must(t, os.Mkdir(dir, 0o755))
	target, err := rig.NewTarget(rig.TargetOptions{Dir: dir, Programs: suite.programs, Conf: s.cell.Conf})
	must(t, err)
	t.Cleanup(target.Close)
	p := &path{t: t, name: "iqn.2001-03.jp.tritech:shared-" + name, target: target}
	p.start()
	return p
}

// start starts the daemon, its target and a session.
func (p *path) start() {
	p.t.Helper()
	ctx := limit(p.t)
	must(p.t, p.target.Start(ctx))
	for _, args := range [][]string{
		{"--op", "new", "--mode", "target", "--tid", "1", "-T", p.name},
		{"--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL"},
		{"--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "1", "-b", "shared", "-E", "pss", "--bsopts", "shared=1"},
	} {
		_, err := p.target.Admin(ctx, args...)
		must(p.t, err)
	}
	session, err := initiator.Login(ctx, initiator.Options{Portal: p.target.Portal, Target: p.name, Initiator: initiatorName})
	must(p.t, err)
	p.t.Cleanup(func() { session.Close() })
	must(p.t, session.Ready(1))
	p.session = session
}

// do carries a command out, again after every unit attention, and returns its status.
func (p *path) do(t *initiator.Task) (byte, error) {
	t.LUN = 1
	for {
		err := p.session.Do(t)
		var status *initiator.StatusError
		switch {
		case err == nil:
			return 0, nil
		case !errors.As(err, &status):
			return 0xff, err
		case status.Key()>>16 == 6:
			continue
		}
		return status.Status, err
	}
}

func (p *path) good(t *initiator.Task) {
	p.t.Helper()
	_, err := p.do(t)
	must(p.t, err)
}

func (p *path) inquiry(page byte) []byte {
	p.t.Helper()
	t := &initiator.Task{In: make([]byte, 255)}
	copy(t.CDB[:], []byte{0x12, 1, page, 0, 255})
	p.good(t)
	return t.In[:t.Moved]
}

// reserve is a PERSISTENT RESERVE OUT for exclusive access, or of a registration.
func (p *path) reserve(service byte, key, other uint64) (byte, error) {
	list := make([]byte, 24)
	binary.BigEndian.PutUint64(list, key)
	binary.BigEndian.PutUint64(list[8:], other)
	t := &initiator.Task{Out: list}
	copy(t.CDB[:], []byte{0x5f, service, 3, 0, 0, 0, 0, 0, 24})
	return p.do(t)
}

func (p *path) read(lba uint64) ([]byte, byte) {
	t := &initiator.Task{}
	t.SetRead(lba, 1, make([]byte, 512))
	status, err := p.do(t)
	if status == 0xff {
		p.t.Error(err)
	}
	return t.In, status
}

func (p *path) write(lba uint64, b []byte) byte {
	t := &initiator.Task{}
	t.SetWrite(lba, 1, b)
	status, err := p.do(t)
	if status == 0xff {
		p.t.Error(err)
	}
	return status
}

// TestTwoTargets has two daemons serve one volume at once: one disk to an initiator, with COMPARE AND WRITE atomic
// and reservations in force across both, also after one of them was killed.
func TestTwoTargets(t *testing.T) {
	s := newSystem(t, rig.Servers(3, 0))
	must(t, s.cell.CreateVolume(limit(t), "shared", "64M"))
	a, b := s.serveShared(t, "a"), s.serveShared(t, "b")

	if ia, ib := a.inquiry(0x83), b.inquiry(0x83); !bytes.Equal(ia, ib) || !bytes.Equal(a.inquiry(0x80), b.inquiry(0x80)) {
		t.Errorf("two disks: % x and % x", ia, ib)
	}
	t.Run("compare and write", func(t *testing.T) { countTogether(t, a, b) })
	t.Run("mode pages", func(t *testing.T) { protectTogether(t, a, b) })
	t.Run("reservations", func(t *testing.T) { reserveApart(t, a, b) })
}

// protect sets or clears SWP in the control mode page, and saves it.
func (p *path) protect(on bool) {
	p.t.Helper()
	t := &initiator.Task{In: make([]byte, 64)}
	copy(t.CDB[:], []byte{0x1a, 8, 0x0a, 0, 64})
	p.good(t)
	list := bytes.Clone(t.In[:t.Moved])
	list[0], list[2], list[4], list[8] = 0, 0, list[4]&0x7f, 0
	if on {
		list[8] = 0x08
	}
	t = &initiator.Task{Out: list}
	copy(t.CDB[:], []byte{0x15, 0x11, 0, 0, byte(len(list))})
	p.good(t)
}

// protectTogether has one path protect the disk from writes: the other one's are refused, also when both daemons were
// killed in between, until it is taken back.
func protectTogether(t *testing.T, a, b *path) {
	const lba, checkCondition = 200, 0x02
	one, two := bytes.Repeat([]byte{1}, 512), bytes.Repeat([]byte{2}, 512)
	if status := b.write(lba, one); status != 0 {
		t.Fatalf("status %02x", status)
	}
	a.protect(true)
	if status := b.write(lba, two); status != checkCondition {
		t.Errorf("a write to a protected disk: status %02x", status)
	}
	for _, p := range []*path{a, b} {
		p.session.Close()
		must(t, p.target.Kill())
		p.start()
	}
	for _, p := range []*path{a, b} {
		if status := p.write(lba, two); status != checkCondition {
			t.Errorf("after a restart: status %02x", status)
		}
	}
	if got, status := a.read(lba); status != 0 || !bytes.Equal(got, one) {
		t.Errorf("status %02x, % x…", status, got[:4])
	}
	b.protect(false)
	if status := a.write(lba, two); status != 0 {
		t.Errorf("no longer protected: status %02x", status)
	}
}

// countTogether has both paths count a number up, each in steps of one.
func countTogether(t *testing.T, paths ...*path) {
	const lba, each = 100, 100
	var wg sync.WaitGroup
	for _, p := range paths {
		wg.Go(func() {
			for done := 0; done < each; {
				now, status := p.read(lba)
				if status != 0 {
					t.Errorf("read: status %02x", status)
					return
				}
				next := bytes.Clone(now)
				binary.BigEndian.PutUint64(next, binary.BigEndian.Uint64(now)+1)
				task := &initiator.Task{}
				task.SetCompareAndWrite(lba, 1, append(now, next...))
				_, err := p.do(task)
				var status2 *initiator.StatusError
				switch {
				case err == nil:
					done++
				case !errors.As(err, &status2) || status2.Key() != 0x0e1d00:
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if b, _ := paths[0].read(lba); binary.BigEndian.Uint64(b) != uint64(each*len(paths)) {
		t.Errorf("counted %d", binary.BigEndian.Uint64(b))
	}
}

// reserveApart reserves the unit through one path while the other writes through its own.
func reserveApart(t *testing.T, a, b *path) {
	const lba, keyA, keyB = 200, 0xa, 0xb
	register := func(p *path, key uint64) {
		t.Helper()
		_, err := p.reserve(0, 0, key)
		must(t, err)
	}
	register(a, keyA)
	// b writes until it is refused. From the moment the reservation is acknowledged nothing of b's may come.
	refused := make(chan struct{})
	go func() {
		defer close(refused)
		for n := byte(0); ; n++ {
			switch status := b.write(lba, bytes.Repeat([]byte{n}, 512)); status {
			case 0:
			case conflict:
				return
			default:
				t.Errorf("write: status %02x", status)
				return
			}
		}
	}()
	_, err := a.reserve(1, keyA, 0)
	must(t, err)
	at, _ := a.read(lba)
	<-refused
	if after, status := a.read(lba); status != 0 || !bytes.Equal(at, after) {
		t.Errorf("written after the reservation: %x, then %x", at[0], after[0])
	}
	if _, status := b.read(lba); status != conflict {
		t.Errorf("read through the other path: status %02x", status)
	}

	// The death of the daemon through which the reservation was made changes nothing.
	must(t, a.target.Kill())
	if status := b.write(lba, make([]byte, 512)); status != conflict {
		t.Errorf("write after the other daemon's death: status %02x", status)
	}
	register(b, keyB)
	_, err = b.reserve(4, keyB, keyA) // PREEMPT
	must(t, err)
	if status := b.write(lba, make([]byte, 512)); status != 0 {
		t.Errorf("write of the new holder: status %02x", status)
	}
	a.start()
	if status := a.write(lba, bytes.Repeat([]byte{1}, 512)); status != conflict {
		t.Errorf("write through the daemon that came back: status %02x", status)
	}
	if now, status := b.read(lba); status != 0 || now[0] != 0 {
		t.Errorf("%x, status %02x", now[0], status)
	}
}

// TestUnitWaitsForCell: a unit that is made while no server of its cell runs comes up by itself (M4).
func TestUnitWaitsForCell(t *testing.T) {
	s := newSystem(t, rig.Servers(3, 0))
	must(t, s.target.Stop(limit(t)))
	must(t, rig.KillAll(s.all(s.cell.IDs()...)...))
	s.serve()
	show, err := s.target.Admin(limit(t), "--op", "show", "--mode", "target")
	must(t, err)
	if !strings.Contains(show, "Online: No") || !strings.Contains(show, "Problem: waiting for the cell") {
		t.Errorf("what is shown while the unit waits:\n%s", show)
	}
	session, err := initiator.Login(limit(t), initiator.Options{
		Portal: s.target.Portal, Target: targetName, Initiator: initiatorName, User: user, Secret: secret,
	})
	must(t, err)
	t.Cleanup(func() { session.Close() })
	ready := func() int {
		err := session.Do(&initiator.Task{LUN: 1})
		var status *initiator.StatusError
		if err != nil && !errors.As(err, &status) {
			t.Fatal(err)
		}
		if err == nil {
			return 0
		}
		return status.Key()
	}
	if key := ready(); key != 0x020401 { // BECOMING READY
		t.Errorf("sense %06x while the unit waits", key)
	}
	must(t, s.cell.StartAll(limit(t)))
	told := false
	for ctx := limit(t); ; {
		key := ready()
		if key == 0 {
			break
		}
		told = told || key == 0x062800 // NOT READY TO READY CHANGE
		if key != 0x020401 && key>>16 != 6 {
			t.Fatalf("sense %06x while the cell comes back", key)
		}
		if ctx.Err() != nil {
			t.Fatal("the unit does not come up")
		}
	}
	if !told {
		t.Error("the session was not told that the unit has become ready")
	}
	if blocks, _, err := session.Capacity(1); err != nil || blocks != 1<<30/512 {
		t.Errorf("%d blocks, %v", blocks, err)
	}
}

// TestSparseVolume asks a volume of 8 TiB, of which three chunks are written, what of it takes space: GET LBA STATUS
// finds them in one answer.
func TestSparseVolume(t *testing.T) {
	const block, blocks, chunk = 512, 8 << 40 / 512, 4 << 20 / 512
	s := newSystem(t, rig.Servers(3, 0))
	must(t, s.cell.CreateVolume(limit(t), "sparse", "8T"))
	const name = "iqn.2001-03.jp.tritech:sparse"
	must(t, s.target.AddUnit(limit(t), 9, name, 1, "pss", "sparse", ""))
	session, err := initiator.Login(limit(t), initiator.Options{Portal: s.target.Portal, Target: name, Initiator: initiatorName})
	must(t, err)
	defer session.Close()
	must(t, session.Ready(1))
	written := []uint64{0, 3 << 40 / block, blocks - chunk}
	for _, lba := range written {
		task := initiator.Task{LUN: 1}
		task.SetWrite(lba, 8, bytes.Repeat([]byte{1}, 8*block))
		must(t, session.Do(&task))
	}
	task := initiator.Task{LUN: 1, In: make([]byte, 4096)}
	copy(task.CDB[:], []byte{0x9e, 0x12, 10: 0, 12: 16})
	must(t, session.Do(&task))
	var at uint64
	var found []uint64
	for d := task.In[8:task.Moved]; len(d) >= 16; d = d[16:] {
		if lba := binary.BigEndian.Uint64(d); lba != at {
			t.Errorf("a descriptor of LBA %d behind %d", lba, at)
		}
		n := uint64(binary.BigEndian.Uint32(d[8:]))
		if d[12] == 0 { // mapped
			found = append(found, at)
			if n != chunk {
				t.Errorf("%d blocks mapped at %d", n, at)
			}
		}
		at += n
	}
	if at != blocks || !slices.Equal(found, written) {
		t.Errorf("of %d blocks %d are accounted for; mapped at %d, want %d", uint64(blocks), at, found, written)
	}
}

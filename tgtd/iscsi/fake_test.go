package iscsi

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/sam"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeDirectory knows targets with a rule each for who may log in.
type fakeDirectory struct {
	mu        sync.Mutex
	closed    bool // not welcome
	targets   []*fakeTarget
	discovery Accounts
}

type fakeTarget struct {
	name     string
	tid      int
	params   Params
	accounts Accounts
	status   LoginStatus
	redirect string
	allow    func(peer netip.AddrPort, initiator string) bool
	disk     sam.Target
}

func (d *fakeDirectory) Welcome() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.closed && len(d.targets) > 0
}

func (d *fakeDirectory) Discover(peer netip.AddrPort, initiator string) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var names []string
	for _, t := range d.targets {
		if t.allow == nil || t.allow(peer, initiator) {
			names = append(names, t.name)
		}
	}
	return names
}

func (d *fakeDirectory) DiscoveryAccounts() Accounts {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.discovery
}

func (d *fakeDirectory) Admit(target, initiator string, peer, local netip.AddrPort) Admission {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, t := range d.targets {
		switch {
		case t.name != target:
			continue
		case t.status != LoginSuccess:
			return Admission{Status: t.status, Redirect: t.redirect}
		case t.allow != nil && !t.allow(peer, initiator):
			return Admission{Status: TargetNotFound}
		}
		return Admission{TID: t.tid, Params: t.params, Accounts: t.accounts, Target: t.disk}
	}
	return Admission{Status: TargetNotFound}
}

func (d *fakeDirectory) change(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
}

func (d *fakeDirectory) add(name string) *fakeTarget {
	d.mu.Lock()
	defer d.mu.Unlock()
	t := &fakeTarget{name: name, tid: len(d.targets) + 1, params: DefaultParams(), disk: newRAMDisk(1 << 20)}
	d.targets = append(d.targets, t)
	return t
}

// ramDisk is a target with a controller at LUN 0 and a disk of 512-byte blocks at LUN 1. It answers just
// enough for the transcripts and libiscsi's tools.
type ramDisk struct {
	mu        sync.Mutex
	bytes     []byte
	attention map[*sam.Nexus]map[sam.LUN]int // unit attentions pending, 6/2900 each
	stuck     map[*sam.Command]bool          // commands kept by hold
	attached  int

	// hold, when not nil, picks commands that are kept until they are aborted or letGo is called.
	hold func(*sam.Command) bool
	// async completes commands on goroutines of their own.
	async   bool
	running map[*sam.Nexus]*sync.WaitGroup
	arrived chan *sam.Command // when not nil, is told of every command
}

func newRAMDisk(size int) *ramDisk {
	return &ramDisk{
		bytes:     make([]byte, size),
		attention: make(map[*sam.Nexus]map[sam.LUN]int),
		stuck:     make(map[*sam.Command]bool),
		running:   make(map[*sam.Nexus]*sync.WaitGroup),
	}
}

func (r *ramDisk) Attach(n *sam.Nexus) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.attached++
	r.running[n] = new(sync.WaitGroup)
	r.attention[n] = map[sam.LUN]int{0: 1, 1: 1}
}

func (r *ramDisk) Detach(n *sam.Nexus) {
	r.abort(func(c *sam.Command) bool { return c.Nexus == n })
	r.mu.Lock()
	running := r.running[n]
	r.mu.Unlock()
	running.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.running, n)
	delete(r.attention, n)
	r.attached--
}

func (r *ramDisk) abort(match func(*sam.Command) bool) (count int) {
	r.mu.Lock()
	var found []*sam.Command
	for c := range r.stuck {
		if match(c) {
			found = append(found, c)
			delete(r.stuck, c)
		}
	}
	r.mu.Unlock()
	for _, c := range found {
		c.Aborted = true
		c.Done(c)
	}
	return len(found)
}

// letGo executes what is held.
func (r *ramDisk) letGo() {
	r.mu.Lock()
	r.hold = nil
	var found []*sam.Command
	for c := range r.stuck {
		found = append(found, c)
		delete(r.stuck, c)
	}
	r.mu.Unlock()
	for _, c := range found {
		r.perform(c)
		c.Done(c)
	}
}

// watch has every command told to a channel that takes n of them.
func (r *ramDisk) watch(n int) chan *sam.Command {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.arrived = make(chan *sam.Command, n)
	return r.arrived
}

// equals compares the disk's content.
func (r *ramDisk) equals(b []byte) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return bytes.Equal(r.bytes, b)
}

func (r *ramDisk) held() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.stuck)
}

func (r *ramDisk) Execute(c *sam.Command) {
	r.mu.Lock()
	if r.arrived != nil {
		r.arrived <- c
	}
	if r.hold != nil && r.hold(c) {
		r.stuck[c] = true
		r.mu.Unlock()
		return
	}
	running := r.running[c.Nexus]
	r.mu.Unlock()
	if r.async {
		running.Go(func() {
			r.perform(c)
			c.Done(c)
		})
		return
	}
	r.perform(c)
	c.Done(c)
}

func (r *ramDisk) Manage(n *sam.Nexus, f sam.Function, lun sam.LUN, tag uint32, done func(sam.Response)) {
	switch f {
	case sam.AbortTask:
		if r.abort(func(c *sam.Command) bool { return c.Nexus == n && c.Tag == tag }) == 0 {
			done(sam.TaskDoesNotExist)
			return
		}
	case sam.AbortTaskSet:
		r.abort(func(c *sam.Command) bool { return c.Nexus == n && c.LUN == lun })
	case sam.LogicalUnitReset:
		r.abort(func(c *sam.Command) bool { return c.LUN == lun })
		r.mu.Lock()
		for _, units := range r.attention {
			units[lun]++
		}
		r.mu.Unlock()
	default:
		done(sam.NotSupported)
		return
	}
	done(sam.FunctionComplete)
}

func check(c *sam.Command, key, asc, ascq byte) {
	c.Status, c.Sense = sam.CheckCondition, fixedSense(key, asc, ascq)
}

func (r *ramDisk) perform(c *sam.Command) {
	r.mu.Lock()
	defer r.mu.Unlock()
	op := c.CDB[0]
	switch units := r.attention[c.Nexus]; {
	case c.LUN > 1 && op == 0x12:
		r.inquiry(c, 0x7f)
		return
	case c.LUN > 1 && op == 0x03:
		r.give(c, make([]byte, 96))
		return
	case c.LUN > 1:
		check(c, 5, 0x25, 0)
		return
	case op == 0x12 || op == 0x03 || op == 0xa0:
	case units[c.LUN] > 0:
		units[c.LUN]--
		check(c, 6, 0x29, 0)
		return
	}
	switch op {
	case 0x00:
		if c.CDB[5]&5 != 0 {
			check(c, 5, 0x24, 0)
		}
	case 0x03:
		r.give(c, []byte{0x70, 0, 0, 0, 0, 0, 0, 10, 17: 0})
	case 0x12:
		r.inquiry(c, [...]byte{0x0c, 0x00}[c.LUN])
	case 0x1a:
		r.give(c, []byte{3, 0, 0x10, 0})
	case 0x25:
		b := binary.BigEndian.AppendUint32(nil, uint32(len(r.bytes)/512-1))
		r.give(c, binary.BigEndian.AppendUint32(b, 512))
	case 0x9e:
		b := binary.BigEndian.AppendUint64(nil, uint64(len(r.bytes)/512-1))
		r.give(c, append(binary.BigEndian.AppendUint32(b, 512), make([]byte, 20)...))
	case 0xa0:
		r.give(c, []byte{3: 16, 17: 1, 23: 0})
	case 0x28, 0x88:
		if off, n, ok := r.blocks(c); ok {
			r.give(c, r.bytes[off:off+n])
		}
	case 0x2a, 0x8a:
		if off, n, ok := r.blocks(c); ok {
			copy(r.bytes[off:off+n], c.DataOut)
			c.Moved = uint64(n)
		}
	default:
		check(c, 5, 0x20, 0)
	}
}

func (r *ramDisk) blocks(c *sam.Command) (off, n int, ok bool) {
	if c.CDB[0]&0xe0 == 0x20 {
		off, n = int(binary.BigEndian.Uint32(c.CDB[2:])), int(binary.BigEndian.Uint16(c.CDB[7:]))
	} else {
		off, n = int(binary.BigEndian.Uint64(c.CDB[2:])), int(binary.BigEndian.Uint32(c.CDB[10:]))
	}
	off, n = off*512, n*512
	if off < 0 || n < 0 || off+n > len(r.bytes) {
		check(c, 5, 0x21, 0)
		return 0, 0, false
	}
	return off, n, true
}

func (r *ramDisk) give(c *sam.Command, b []byte) {
	c.Moved = uint64(len(b))
	c.DataIn = slices.Clone(b[:min(len(b), int(c.InBytes))])
}

func (r *ramDisk) inquiry(c *sam.Command, first byte) {
	if c.CDB[1]&1 != 0 {
		check(c, 5, 0x24, 0)
		return
	}
	b := make([]byte, 66)
	b[0], b[2], b[3], b[4], b[7] = first, 5, 0x12, 0x3d, 2
	product, tail := "Controller      ", []byte{0x04, 0xc0, 0x09, 0x60, 0x01, 0xfb}
	if first == 0 {
		product, tail = "VIRTUAL-DISK    ", []byte{0x04, 0xc0, 0x09, 0x60, 0x03, 0x00}
	}
	copy(b[8:], "IET     "+product+"0001")
	copy(b[58:], tail)
	r.give(c, b[:min(len(b), int(binary.BigEndian.Uint16(c.CDB[3:])))])
}

// testServer starts a server with a portal on the loopback and ends it with the test.
func testServer(t testing.TB, d *fakeDirectory, change func(*Options)) (*Server, *Portal) {
	t.Helper()
	o := Options{Directory: d}
	if os.Getenv("ISCSI_TEST_LOG") != "" {
		o.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	if change != nil {
		change(&o)
	}
	srv := NewServer(o)
	t.Cleanup(srv.Close)
	p, err := srv.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return srv, p
}

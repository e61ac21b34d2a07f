package initiator

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/sam"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	testTarget    = "iqn.2001-03.jp.tritech:test"
	testInitiator = "iqn.2001-03.jp.tritech:initiator"
)

// directory has one set of rules for all its targets, which share a disk.
type directory struct {
	mu        sync.Mutex
	names     []string
	params    iscsi.Params
	accounts  iscsi.Accounts
	discovery iscsi.Accounts
	closed    bool // no login is let in
	disk      *ramDisk
	logins    int
}

func (d *directory) Welcome() bool { return true }

func (d *directory) Discover(netip.AddrPort, string) []string { return d.names }

func (d *directory) DiscoveryAccounts() iscsi.Accounts { return d.discovery }

func (d *directory) Admit(target, initiator string, _, _ netip.AddrPort) iscsi.Admission {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.logins++
	if target != d.names[0] || d.closed {
		return iscsi.Admission{Status: iscsi.TargetNotFound}
	}
	return iscsi.Admission{TID: 1, Params: d.params, Accounts: d.accounts, Target: d.disk}
}

func (d *directory) set(closed bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = closed
}

// blockSize of the disk in bytes.
const blockSize = 512

// ramDisk is a target whose every unit is the same disk. Each new nexus gets a unit attention.
type ramDisk struct {
	mu      sync.Mutex
	changed sync.Cond
	bytes   []byte
	fresh   map[*sam.Nexus]bool
	hold    bool           // writes are kept
	kept    []*sam.Command // in their order
	written []uint64       // block addresses of writes carried out
}

func newRAMDisk(size int) *ramDisk {
	r := &ramDisk{bytes: make([]byte, size), fresh: make(map[*sam.Nexus]bool)}
	r.changed.L = &r.mu
	return r
}

func (r *ramDisk) Attach(n *sam.Nexus) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fresh[n] = true
}

func (r *ramDisk) Detach(n *sam.Nexus) {
	r.abort(func(c *sam.Command) bool { return c.Nexus == n })
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.fresh, n)
}

func (r *ramDisk) abort(match func(*sam.Command) bool) int {
	r.mu.Lock()
	var ended, stay []*sam.Command
	for _, c := range r.kept {
		if match(c) {
			ended = append(ended, c)
		} else {
			stay = append(stay, c)
		}
	}
	r.kept = stay
	r.changed.Broadcast()
	r.mu.Unlock()
	for _, c := range ended {
		c.Aborted = true
		c.Done(c)
	}
	return len(ended)
}

// waitKept waits until n writes are kept.
func (r *ramDisk) waitKept(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.kept) != n {
		r.changed.Wait()
	}
}

func (r *ramDisk) setHold(on bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hold = on
}

// letGo carries out what is kept, in order.
func (r *ramDisk) letGo() {
	r.mu.Lock()
	kept := r.kept
	r.kept, r.hold = nil, false
	r.mu.Unlock()
	for _, c := range kept {
		r.perform(c)
		c.Done(c)
	}
}

func (r *ramDisk) Execute(c *sam.Command) {
	r.mu.Lock()
	if r.hold && c.CDB[0] == 0x8a {
		r.kept = append(r.kept, c)
		r.changed.Broadcast()
		r.mu.Unlock()
		return
	}
	r.mu.Unlock()
	r.perform(c)
	c.Done(c)
}

func (r *ramDisk) Manage(n *sam.Nexus, f sam.Function, lun sam.LUN, tag uint32, done func(sam.Response)) {
	count := r.abort(func(c *sam.Command) bool {
		return c.Nexus == n && (f == sam.TargetColdReset || c.LUN == lun && (f != sam.AbortTask || c.Tag == tag))
	})
	if f == sam.AbortTask && count == 0 {
		done(sam.TaskDoesNotExist)
		return
	}
	done(sam.FunctionComplete)
}

func (r *ramDisk) perform(c *sam.Command) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fresh[c.Nexus] {
		delete(r.fresh, c.Nexus)
		c.Status, c.Sense = sam.CheckCondition, []byte{0x70, 0, 6, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x29, 0, 0, 0, 0, 0}
		return
	}
	give := func(b []byte) {
		c.Moved = uint64(len(b))
		c.DataIn = b[:min(len(b), int(c.InBytes))]
	}
	off := int(binary.BigEndian.Uint64(c.CDB[2:])) * blockSize
	n := int(binary.BigEndian.Uint32(c.CDB[10:])) * blockSize
	switch c.CDB[0] {
	case 0x88, 0x8a:
		if off < 0 || off+n > len(r.bytes) {
			c.Status, c.Sense = sam.CheckCondition, []byte{0x72, 5, 0x21, 0, 0, 0, 0, 0}
		} else if c.CDB[0] == 0x88 {
			give(r.bytes[off : off+n])
		} else {
			copy(r.bytes[off:off+n], c.DataOut)
			c.Moved = uint64(n)
			r.written = append(r.written, uint64(off/blockSize))
		}
	case 0x00, 0x91:
	case 0x12:
		give([]byte("\x00\x00\x05\x02\x1f\x00\x00\x02IET     VIRTUAL-DISK    0001"))
	case 0x9e:
		b := binary.BigEndian.AppendUint64(nil, uint64(len(r.bytes)/blockSize-1))
		give(append(binary.BigEndian.AppendUint32(b, blockSize), make([]byte, 20)...))
	case 0xa0:
		give([]byte{3: 24, 9 + 8: 1, 8 + 16: 0x41, 8 + 17: 0x2c, 31: 0})
	default:
		c.Status, c.Sense = sam.CheckCondition, []byte{0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0}
	}
}

// rig is a target to log in to.
type rig struct {
	dir    *directory
	disk   *ramDisk
	server *iscsi.Server
	portal string
}

func newRig(t testing.TB) *rig {
	t.Helper()
	disk := newRAMDisk(8 << 20)
	d := &directory{names: []string{testTarget}, params: iscsi.DefaultParams(), disk: disk}
	server := iscsi.NewServer(iscsi.Options{Directory: d})
	t.Cleanup(server.Close)
	p, err := server.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return &rig{d, disk, server, p.Addr().String()}
}

// login opens a session that the test ends, with its unit attention cleared.
func (r *rig) login(t testing.TB, change func(*Options)) *Session {
	t.Helper()
	o := Options{Portal: r.portal, Target: testTarget, Initiator: testInitiator}
	if change != nil {
		change(&o)
	}
	s, err := Login(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if err := s.Ready(1); err != nil {
		t.Fatal(err)
	}
	return s
}

// cut breaks the session's connection.
func (r *rig) cut(t testing.TB) {
	t.Helper()
	all := r.server.Sessions(1)
	if len(all) != 1 {
		t.Fatalf("%d sessions, want 1", len(all))
	}
	if err := r.server.CloseConnection(1, all[0].SID, all[0].Connections[0].CID); err != nil {
		t.Fatal(err)
	}
}

package initiator

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi/pdu"
)

// damager passes PDUs on between an initiator and a target, both digests agreed on, and changes bytes on their way:
// of headers but their lengths, of data, of digests. It never damages two headers in a row.
type damager struct {
	t       *testing.T
	l       net.Listener
	to      string
	one     int          // in so many PDUs is damaged
	left    atomic.Int64 // PDUs that may still be damaged
	damaged atomic.Int64
	full    atomic.Bool // the login is over
	// pick, when not nil, says instead whether the header or the data of a PDU is damaged.
	pick    atomic.Pointer[func(h *pdu.Header) (header, data bool)]
	running sync.WaitGroup
}

func newDamager(t *testing.T, to string, one, limit int) *damager {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &damager{t: t, l: l, to: to, one: one}
	d.left.Store(int64(limit))
	d.running.Go(func() {
		for {
			a, err := l.Accept()
			if err != nil {
				return
			}
			b, err := net.Dial("tcp", to)
			if err != nil {
				a.Close()
				return
			}
			for i, pair := range [2][2]net.Conn{{a, b}, {b, a}} {
				d.running.Go(func() {
					d.pass(pair[0], pair[1], rand.New(rand.NewPCG(7, uint64(i))))
					a.Close()
					b.Close()
				})
			}
		}
	})
	t.Cleanup(func() { l.Close(); d.running.Wait() })
	return d
}

// arm has PDUs damaged as pick says.
func (d *damager) arm(pick func(*pdu.Header) (header, data bool)) { d.pick.Store(&pick) }

func (d *damager) pass(from, to net.Conn, r *rand.Rand) {
	headerWas := false
	for {
		full := d.full.Load()
		b := make([]byte, pdu.HeaderSize, 512)
		if _, err := io.ReadFull(from, b); err != nil {
			return
		}
		full = full || d.full.Load()
		h := (*pdu.Header)(b)
		rest := h.AHSLength()
		head := pdu.HeaderSize + rest
		if full {
			rest += pdu.DigestSize
			head += pdu.DigestSize
		}
		if n := h.DataLength(); n > 0 {
			rest += n + pdu.Padding(n)
			if full {
				rest += pdu.DigestSize
			}
		}
		b = append(b, make([]byte, rest)...)
		if _, err := io.ReadFull(from, b[pdu.HeaderSize:]); err != nil {
			return
		}
		h = (*pdu.Header)(b)
		header := false
		if full && h.Opcode() != pdu.OpLogoutRequest && r.IntN(d.one) == 0 && d.left.Add(-1) >= 0 {
			at := 8 + r.IntN(len(b)-8)
			if at < head && headerWas {
				at = head - 1
				if len(b) > head {
					at = head + r.IntN(len(b)-head)
				}
			}
			header = at < head
			if !header || !headerWas {
				b[at] ^= 1 << r.IntN(8)
				d.damaged.Add(1)
			}
		}
		if pick := d.pick.Load(); pick != nil && full {
			inHeader, inData := (*pick)(h)
			if inHeader {
				b[40] ^= 1
			} else if inData {
				b[len(b)-9] ^= 1
			}
			if inHeader || inData {
				d.damaged.Add(1)
			}
		}
		headerWas = header
		if !full && h.Opcode() == pdu.OpLoginResponse && h[1]&0x83 == 0x83 {
			d.full.Store(true)
		}
		if _, err := to.Write(b); err != nil {
			return
		}
	}
}

// TestRecovery damages PDUs in both directions: the connection stays, every command ends well, and every byte is
// right.
func TestRecovery(t *testing.T) {
	r := newRig(t)
	for _, kv := range [][2]string{{"ErrorRecoveryLevel", "2"}, {"HeaderDigest", "CRC32C"}, {"DataDigest", "CRC32C"},
		{"MaxBurstLength", "16384"}, {"FirstBurstLength", "8192"}, {"InitialR2T", "No"}, {"MaxRecvDataSegmentLength", "4096"}} {
		if err := r.dir.params.Set(kv[0], kv[1]); err != nil {
			t.Fatal(err)
		}
	}
	d := newDamager(t, r.portal, 15, 80)
	s := r.login(t, func(o *Options) {
		o.Portal, o.Recovery, o.HeaderDigest, o.DataDigest = d.l.Addr().String(), true, true, true
	})
	if s.conns[0].recovery == nil {
		t.Fatal("no error recovery was agreed on")
	}
	const workers, region = 6, 256 // blocks
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(w)))
			model := make([]byte, region*blockSize)
			if err := write(s, w*region, model); err != nil {
				t.Errorf("worker %d: %v", w, err)
				return
			}
			for i := range 20 {
				n := 1 + random.IntN(100)
				if i%2 == 0 {
					n = 1 + random.IntN(8) // all of it comes with the command
				}
				at := random.IntN(region - n)
				part := model[at*blockSize : (at+n)*blockSize]
				for k := range part {
					part[k] = byte(random.Uint32())
				}
				if err := write(s, w*region+at, part); err != nil {
					t.Errorf("worker %d, write %d: %v", w, i, err)
					return
				}
				in := make([]byte, len(model))
				task := Task{LUN: 1}
				task.SetRead(uint64(w*region), region, in)
				if err := s.Do(&task); err != nil || task.Moved != len(in) || !bytes.Equal(in, model) {
					t.Errorf("worker %d, read %d: %d bytes, equal %v, %v", w, i, task.Moved, bytes.Equal(in, model), err)
					return
				}
			}
		})
	}
	all.Wait()
	ours, retried := s.Recovered()
	t.Logf("%d PDUs were damaged, %d of them on their way to us; %d commands were sent again", d.damaged.Load(), ours, retried)
	if d.damaged.Load() < 30 || ours == 0 {
		t.Error("too few to show anything")
	}
}

func write(s *Session, block int, b []byte) error {
	task := Task{LUN: 1}
	task.SetWrite(uint64(block), uint32(len(b)/blockSize), b)
	return s.Do(&task)
}

// TestRecoveryOfOne damages one PDU of each kind, once: a write and a read end well, and no more connections are made.
func TestRecoveryOfOne(t *testing.T) {
	for _, x := range []struct {
		op      pdu.Opcode
		header  bool
		nth     int32
		retried int
	}{
		{pdu.OpSCSICommand, true, 1, 1},
		{pdu.OpSCSICommand, false, 1, 1}, // its immediate data
		{pdu.OpDataOut, true, 1, 0},
		{pdu.OpDataOut, true, 3, 0}, // the last of its burst
		{pdu.OpDataOut, false, 1, 0},
		{pdu.OpDataOut, false, 3, 0},
		{pdu.OpR2T, true, 1, 0},
		{pdu.OpDataIn, true, 1, 0},
		{pdu.OpDataIn, true, 3, 0},
		{pdu.OpDataIn, false, 2, 0},
		{pdu.OpDataIn, false, 3, 0},
		{pdu.OpSCSIResponse, true, 1, 0},
		{pdu.OpSCSIResponse, true, 2, 0},
	} {
		t.Run(fmt.Sprintf("opcode %02x, header %v, number %d", byte(x.op), x.header, x.nth), func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			for _, kv := range [][2]string{{"ErrorRecoveryLevel", "1"}, {"HeaderDigest", "CRC32C"}, {"DataDigest", "CRC32C"},
				{"MaxBurstLength", "3072"}, {"FirstBurstLength", "1024"}, {"MaxRecvDataSegmentLength", "1024"}} {
				if err := r.dir.params.Set(kv[0], kv[1]); err != nil {
					t.Fatal(err)
				}
			}
			d := newDamager(t, r.portal, 1, 0)
			s := r.login(t, func(o *Options) {
				o.Portal, o.Recovery, o.HeaderDigest, o.DataDigest = d.l.Addr().String(), true, true, true
			})
			var seen atomic.Int32
			d.arm(func(h *pdu.Header) (bool, bool) {
				hit := h.Opcode() == x.op && seen.Add(1) == x.nth
				return hit && x.header, hit && !x.header
			})
			out := pattern(8192, 3)
			if err := write(s, 0, out); err != nil {
				t.Fatal(err)
			}
			in := make([]byte, len(out))
			task := Task{LUN: 1}
			task.SetRead(0, 16, in)
			if err := s.Do(&task); err != nil || !bytes.Equal(in, out) {
				t.Fatalf("read: %v, equal %v", err, bytes.Equal(in, out))
			}
			_, retried := s.Recovered()
			if d.damaged.Load() != 1 || retried < x.retried {
				t.Errorf("%d PDUs were damaged, %d commands sent again", d.damaged.Load(), retried)
			}
		})
	}
}

// TestRecoveryNeedsDigests: without them nothing would be noticed.
func TestRecoveryNeedsDigests(t *testing.T) {
	r := newRig(t)
	o := Options{Portal: r.portal, Target: testTarget, Initiator: testInitiator, Recovery: true, DataDigest: true}
	if s, err := Login(t.Context(), o); err == nil {
		s.Close()
		t.Error("logged in")
	}
}

// movable is a directory whose target is elsewhere.
type movable struct {
	*directory
	status iscsi.LoginStatus
	to     func() string
}

func (m movable) Admit(name, initiator string, a, b netip.AddrPort) iscsi.Admission {
	if m.to != nil {
		return iscsi.Admission{Status: m.status, Redirect: m.to()}
	}
	return m.directory.Admit(name, initiator, a, b)
}

// TestRedirect follows a target to where it is, and gives up when it is nowhere.
func TestRedirect(t *testing.T) {
	there := newRig(t)
	var here string
	to := there.portal
	status := iscsi.TargetMovedTemp
	server := iscsi.NewServer(iscsi.Options{Directory: movable{there.dir, status, func() string { return to }}})
	defer server.Close()
	p, err := server.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	here = p.Addr().String()
	o := Options{Portal: here, Target: testTarget, Initiator: testInitiator}
	s, err := Login(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if s.o.Portal != here {
		t.Errorf("a temporary redirection was remembered: %s", s.o.Portal)
	}
	s.Close()
	to = here // round and round
	var refusal *LoginError
	if s, err := Login(t.Context(), o); !errors.As(err, &refusal) || refusal.Class != 1 {
		t.Errorf("round and round: %v, %v", s, err)
	}
}

func TestPermanentRedirect(t *testing.T) {
	there := newRig(t)
	server := iscsi.NewServer(iscsi.Options{Directory: movable{there.dir, iscsi.TargetMovedPerm, func() string { return there.portal }}})
	defer server.Close()
	p, err := server.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, err := Login(t.Context(), Options{Portal: p.Addr().String(), Target: testTarget, Initiator: testInitiator})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if s.o.Portal != there.portal {
		t.Errorf("the session would go back to %s", s.o.Portal)
	}
}

func TestWhere(t *testing.T) {
	for in, want := range map[string]string{
		"10.0.0.1:3261": "10.0.0.1:3261", "10.0.0.1:3261,1": "10.0.0.1:3261", "10.0.0.1": "10.0.0.1:3260",
		"[::1]:99": "[::1]:99", "[::1]": "[::1]:3260", "::1,1": "[::1]:3260", "host.x:1,2": "host.x:1", "": "", ",1": "",
	} {
		got, err := where(in)
		if got != want || (err != nil) != (want == "") {
			t.Errorf("%q: %q, %v; want %q", in, got, err, want)
		}
	}
}

// TestAlgorithms: each CHAP algorithm by itself, in both directions, and with MD5 refused.
func TestAlgorithms(t *testing.T) {
	for _, refuse := range []bool{false, true} {
		r := newRig(t)
		r.dir.accounts = iscsi.Accounts{Incoming: []iscsi.Account{{User: "joe", Secret: "secretsecret"}},
			Outgoing: iscsi.Account{User: "tgt", Secret: "mutualmutual"}}
		server := iscsi.NewServer(iscsi.Options{Directory: r.dir, RefuseMD5: refuse})
		t.Cleanup(server.Close)
		p, err := server.Listen("127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		for algorithms, want := range map[string]bool{"5": !refuse, "6 5": true, "7": true, "8 5": true, "5 8": true, "8 7 6": true, "9": false} {
			o := Options{Portal: p.Addr().String(), Target: testTarget, Initiator: testInitiator,
				User: "joe", Secret: "secretsecret", MutualUser: "tgt", MutualSecret: "mutualmutual"}
			for a := range strings.FieldsSeq(algorithms) {
				var n int
				if _, err := fmt.Sscan(a, &n); err != nil {
					t.Fatal(err)
				}
				o.Algorithms = append(o.Algorithms, n)
			}
			s, err := Login(t.Context(), o)
			if (err == nil) != want {
				t.Errorf("algorithms %s, MD5 refused %v: %v", algorithms, refuse, err)
			}
			if err == nil {
				s.Close()
			}
		}
	}
	o := Options{Portal: "127.0.0.1:1", Target: testTarget, User: "a", Secret: "same", MutualUser: "b", MutualSecret: "same"}
	if _, err := Login(t.Context(), o); err == nil || !strings.Contains(err.Error(), "same secret") {
		t.Errorf("the same secret twice: %v", err)
	}
}

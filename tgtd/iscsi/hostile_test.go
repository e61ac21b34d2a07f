package iscsi

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi/pdu"
)

// hostileEnv lengthens TestHostileConversations: a duration, such as 5m.
const hostileEnv = "ISCSI_HOSTILE"

// heap is how much memory is in use, in bytes, after a collection.
func heap() uint64 {
	runtime.GC()
	runtime.GC() // what pools hold is gone after the second
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse
}

// residentKiB is the memory of the process as the kernel counts it.
func residentKiB() string {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return "?"
	}
	_, rest, _ := strings.Cut(string(b), "VmRSS:")
	line, _, _ := strings.Cut(rest, "\n")
	return strings.TrimSpace(line)
}

// bystander is a session that must not notice what others do.
type bystander struct {
	c    *client
	took []time.Duration
}

// work writes and reads once and checks what came back.
func (b *bystander) work(n int) {
	b.c.t.Helper()
	out := bytes.Repeat([]byte{byte(n + 1)}, 4096)
	begin := time.Now()
	if r := b.c.run(write10(1024, 8), out); r.status != 0 {
		b.c.t.Fatalf("write: status %02x", r.status)
	}
	r := b.c.run(read10(1024, 8), nil)
	if r.status != 0 || !bytes.Equal(r.data, out) {
		b.c.t.Fatalf("read: status %02x, %d bytes", r.status, len(r.data))
	}
	b.took = append(b.took, time.Since(begin))
}

// report prints the latencies since the last report.
func (b *bystander) report(what string) {
	slices.Sort(b.took)
	if n := len(b.took); n > 0 {
		b.c.t.Logf("%s: a write and a read, %d times: median %v, p99 %v, longest %v; resident %s", what, n,
			b.took[n/2].Round(time.Microsecond), b.took[n*99/100].Round(time.Microsecond),
			b.took[n-1].Round(time.Microsecond), residentKiB())
	}
	b.took = b.took[:0]
}

// siege has a bystander work before, during and after an attack, and compares the memory in use.
func siege(t *testing.T, b *bystander, limit uint64, attack func()) {
	t.Helper()
	for i := range 200 {
		b.work(i)
	}
	b.report("before")
	before := heap()
	var over atomic.Bool
	var attackers sync.WaitGroup
	attackers.Go(func() {
		defer over.Store(true)
		attack()
	})
	highest := uint64(0)
	for i := 0; !over.Load() || i < 200; i++ {
		b.work(i)
		if i%2000 == 199 {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			highest = max(highest, m.HeapInuse)
		}
	}
	attackers.Wait()
	b.report("during")
	after := heap()
	t.Logf("heap in use: %d KiB before, at most %d KiB seen, %d KiB after", before>>10, highest>>10, after>>10)
	if max(highest, after) > before+limit {
		t.Errorf("heap grew from %d to %d KiB, %d KiB afterwards: more than %d KiB", before>>10, highest>>10, after>>10, limit>>10)
	}
}

// hostileStreams are valid conversations to be spoilt, each a list of PDUs.
func hostileStreams() [][][]byte {
	names := []string{"InitiatorName", "iqn.x:i", "TargetName", testTarget}
	one := func(p interface{ Encode(*pdu.Header) }, data []byte) []byte { return stream(encoded(p, data)) }
	write, more, read, big := write10(0, 4), write10(8, 64), read10(0, 8), read10(0, 1024)
	write.InitiatorTag, write.CmdSN, write.Final = 5, 1, true
	more.InitiatorTag, more.CmdSN = 6, 2
	read.InitiatorTag, read.CmdSN, read.Final = 7, 3, true
	big.InitiatorTag, big.CmdSN, big.Final = 8, 4, true
	body := [][]byte{
		one(&write, make([]byte, 2048)),
		one(&more, make([]byte, 8192)),
		one(&pdu.DataOut{InitiatorTag: 6, TargetTag: pdu.NoTag, Offset: 8192}, make([]byte, 8192)),
		one(&pdu.DataOut{Final: true, InitiatorTag: 6, TargetTag: pdu.NoTag, DataSN: 1, Offset: 16384}, make([]byte, 8192)),
		one(&pdu.DataOut{Final: true, InitiatorTag: 6, TargetTag: 1, Offset: 24576}, make([]byte, 8192)),
		one(&read, nil), one(&big, nil),
		one(&pdu.SNACK{Type: 1, InitiatorTag: pdu.NoTag, TargetTag: pdu.NoTag}, nil),
		one(&pdu.SNACK{InitiatorTag: 8, TargetTag: pdu.NoTag}, nil),
		one(&pdu.SNACK{Type: 3, InitiatorTag: 8, TargetTag: 9}, nil),
		one(&pdu.SNACK{Type: 2, InitiatorTag: pdu.NoTag, TargetTag: 1, BegRun: 1}, nil),
		one(&pdu.NOPOut{Immediate: true, InitiatorTag: 9, TargetTag: pdu.NoTag, CmdSN: 5}, []byte("ping")),
		one(&pdu.TaskRequest{Immediate: true, Function: 1, ReferencedTag: 6, InitiatorTag: 10, CmdSN: 5, RefCmdSN: 2}, nil),
		one(&pdu.TaskRequest{Immediate: true, Function: 5, LUN: lun1(), InitiatorTag: 11, CmdSN: 5}, nil),
		one(&pdu.LogoutRequest{Immediate: true, Reason: 1, CID: 1, InitiatorTag: 12, CmdSN: 5}, nil),
	}
	text := one(&pdu.TextRequest{Final: true, InitiatorTag: 3, TargetTag: pdu.NoTag, CmdSN: 1}, []byte("SendTargets=All\x00"))
	login := func(more ...string) []byte {
		return stream(loginPDU(1, 3, append(slices.Clone(names), more...)...))
	}
	level1 := []string{"ErrorRecoveryLevel", "1", "InitialR2T", "No", "MaxBurstLength", "16384", "MaxConnections", "4"}
	return [][][]byte{
		append([][]byte{login("InitialR2T", "No")}, body...),
		append([][]byte{login(level1...)}, body...),
		append([][]byte{login(append(level1, "HeaderDigest", "CRC32C", "DataDigest", "CRC32C")...)}, body...),
		{stream(loginPDU(0, 1, append(names, "AuthMethod", "CHAP,None")...)), login(level1...), body[0]},
		{stream(loginPDU(0, 1, "InitiatorName", "iqn.x:i", "SessionType", "Discovery", "AuthMethod", "None"), loginPDU(1, 3)), text, text},
	}
}

// spoil makes a conversation a hostile one.
func spoil(r *rand.Rand, pdus [][]byte) []byte {
	var b []byte
	for _, p := range pdus {
		if r.IntN(40) == 0 {
			continue // left out
		}
		p = slices.Clone(p)
		switch r.IntN(16) {
		case 0: // a header byte
			p[r.IntN(min(len(p), pdu.HeaderSize))] = byte(r.Uint32())
		case 1: // a bit anywhere
			p[r.IntN(len(p))] ^= 1 << r.IntN(8)
		case 2: // another length
			p[5+r.IntN(3)] = byte(r.Uint32())
		case 3: // another opcode
			p[0] = byte(r.IntN(256))
		case 4: // numbers
			for i := range 4 {
				p[20+4*r.IntN(7)+i] = byte(r.Uint32())
			}
		case 5:
			p = p[:r.IntN(len(p))]
		case 6:
			p = append(p, p...)
		}
		b = append(b, p...)
	}
	return b
}

// TestHostileConversations has valid conversations spoilt and thrown at the server over sockets, for two seconds or
// for as long as ISCSI_HOSTILE says.
func TestHostileConversations(t *testing.T) {
	length := 2 * time.Second
	if s := os.Getenv(hostileEnv); s != "" {
		var err error
		if length, err = time.ParseDuration(s); err != nil {
			t.Fatalf("%s: %v", hostileEnv, err)
		}
	}
	d, target, disk := oneTarget()
	disk.async = true
	target.set(t, "ErrorRecoveryLevel=1", "InitialR2T=No", "MaxConnections=4", "HeaderDigest=CRC32C", "DataDigest=CRC32C")
	srv, p := testServer(t, d, func(o *Options) { o.LoginTimeout = time.Second; o.MaxTransfer = 1 << 20; o.MaxSessionBytes = 4 << 20 })
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	streams := hostileStreams()
	d.add("iqn.2001-04.com.example:b") // a target of its own: theirs is reset, and written to
	b := &bystander{c: newClient(t, p, "--isid 800000000077", "--target iqn.2001-04.com.example:b").ready()}
	var count atomic.Int64
	siege(t, b, 64<<20, func() {
		var all sync.WaitGroup
		for worker := range uint64(4) {
			all.Go(func() {
				r := rand.New(rand.NewPCG(seed, worker))
				for end := time.Now().Add(length); time.Now().Before(end); count.Add(1) {
					assault(p.Addr().String(), spoil(r, streams[r.IntN(len(streams))]))
				}
			})
		}
		all.Wait()
	})
	t.Logf("%d conversations", count.Load())
	if count.Load() < 10 {
		t.Error("that was no attack")
	}
	eventually(t, "all others are gone", func() bool {
		srv.mu.Lock()
		defer srv.mu.Unlock()
		return len(srv.conns) == 1 && len(srv.sessions) == 1
	})
	if n := disk.nexuses(); n != 0 {
		t.Errorf("%d nexuses", n)
	}
}

// assault sends bytes and takes what comes until the end.
func assault(addr string, b []byte) {
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	defer nc.Close()
	if nc.SetDeadline(time.Now().Add(5*time.Second)) != nil {
		return
	}
	if _, err := nc.Write(b); err != nil {
		return
	}
	if nc.(*net.TCPConn).CloseWrite() == nil {
		_, _ = io.Copy(io.Discard, nc) // however it ends
	}
}

// halfOpen is how many connections begin a login and do not go on.
const halfOpen = 10000

// TestHalfOpenLogins: ten thousand connections that begin a login neither fill the memory nor keep others out.
func TestHalfOpenLogins(t *testing.T) {
	d, _, _ := oneTarget()
	srv, p := testServer(t, d, func(o *Options) { o.LoginTimeout = time.Hour })
	// As many of them as the process may have are open at the same time.
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	limit.Cur = limit.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Log(err)
	}
	atOnce := min(halfOpen, int(min(limit.Cur, 1<<20))-2000)
	t.Logf("%d connections, %d of them open at once at the initiator", halfOpen, atOnce)
	b := &bystander{c: newClient(t, p, "--isid 800000000077").ready()}
	open := make([]net.Conn, 0, halfOpen)
	piece := stream(loginPDU(0, 1, "InitiatorName", "iqn.x:i", "TargetName", testTarget))[:60]
	var failed error
	siege(t, b, 96<<20, func() {
		for i := range halfOpen {
			nc, err := net.Dial("tcp", p.Addr().String())
			if err != nil {
				failed = err
				return
			}
			if _, err := nc.Write(piece); err != nil && !errors.Is(err, unix.ECONNRESET) && !errors.Is(err, unix.EPIPE) {
				failed = err
			}
			if open = append(open, nc); len(open) > atOnce {
				open[i-atOnce].Close()
			}
		}
	})
	if failed != nil {
		t.Error(failed)
	}
	srv.mu.Lock()
	logins, conns := len(srv.logins), len(srv.conns)
	srv.mu.Unlock()
	if logins > srv.opt.MaxLoginsPerAddress {
		t.Errorf("%d connections in login, %d in all", logins, conns)
	}
	newClient(t, p, "--isid 800000000078").ready() // somebody else still gets in
	for _, nc := range open {
		nc.Close()
	}
	eventually(t, "they are gone", func() bool {
		srv.mu.Lock()
		defer srv.mu.Unlock()
		return len(srv.logins) == 0 && len(srv.conns) == 2
	})
}

// TestSlowReaders: sessions that ask for much and read nothing hold no more than they may, are let go in the end,
// and disturb nobody.
func TestSlowReaders(t *testing.T) {
	const sessions, budget = 16, 4 << 20
	d, _, disk := oneTarget()
	srv, p := testServer(t, d, func(o *Options) { o.StallTimeout = time.Second; o.MaxSessionBytes = budget; o.MaxTransfer = 1 << 20 })
	b := &bystander{c: newClient(t, p, "--isid 800000000077").ready()}
	var slow []*client
	for i := range sessions {
		isid := "--isid 8000000001" + string("0123456789abcdef"[i]) + "0"
		slow = append(slow, newClient(t, p, isid, "MaxRecvDataSegmentLength=262144").ready())
	}
	siege(t, b, sessions*(budget+4<<20), func() {
		for _, c := range slow {
			for i := range 120 {
				req := read10(0, 2000)
				req.InitiatorTag, req.CmdSN, req.Final = uint32(i+100), c.cmdSN+uint32(i), true
				u := encoded(&req, nil)
				if c.send(&u) != nil {
					break // it was let go already
				}
			}
		}
		for end := time.Now().Add(20 * time.Second); len(srv.Sessions(-1)) > 1 && time.Now().Before(end); {
			time.Sleep(10 * time.Millisecond)
		}
	})
	if n := len(srv.Sessions(-1)); n != 1 {
		t.Errorf("%d sessions are left", n)
	}
	eventually(t, "their nexuses are detached", func() bool { return disk.nexuses() == 1 })
}

// TestOversized: lengths that nobody agreed on, and talk without end, end the connection before they cost anything.
func TestOversized(t *testing.T) {
	d, target, _ := oneTarget()
	target.set(t, "ErrorRecoveryLevel=1")
	_, p := testServer(t, d, func(o *Options) { o.SendTargetsInNormalSessions = true })
	long := func(u pdu.PDU, n int) []byte {
		b := u.Append(nil, pdu.Digests{})
		(*pdu.Header)(b).SetDataLength(n)
		return b
	}
	command := tur()
	command.InitiatorTag, command.CmdSN, command.Final = 5, 1, true
	ahs := encoded(&command, nil)
	ahs.AHS = bytes.Repeat([]byte{0xff}, 1020)
	text := encoded(&pdu.TextRequest{Immediate: true, Continue: true, InitiatorTag: 3, TargetTag: pdu.NoTag}, bytes.Repeat([]byte{'x'}, 8000))
	hello := stream(loginPDU(1, 3, "InitiatorName", "iqn.x:i", "TargetName", testTarget, "ErrorRecoveryLevel", "1"))
	endless := loginPDU(0, 0, "InitiatorName", strings.Repeat("x", 8000))
	endless.Header[1] = 0x40 // C
	before := heap()
	for what, b := range map[string][]byte{
		"login of 16 MiB":            long(loginPDU(0, 1), pdu.MaxDataLength),
		"login with long AHS":        append([]byte{0x43, 0x87, 0, 0, 0xff, 0, 0x20, 0}, make([]byte, 1060)...),
		"login text without end":     bytes.Repeat(stream(endless), 20),
		"logins without end":         bytes.Repeat(stream(loginPDU(0, 0, "InitiatorName", "iqn.x:i")), 100),
		"command of 16 MiB":          append(slices.Clone(hello), long(encoded(&command, nil), pdu.MaxDataLength)...),
		"ping of 16 MiB":             append(slices.Clone(hello), long(encoded(&pdu.NOPOut{Immediate: true}, nil), pdu.MaxDataLength)...),
		"text of 16 MiB":             append(slices.Clone(hello), long(text, pdu.MaxDataLength)...),
		"SNACK of 16 MiB":            append(slices.Clone(hello), long(encoded(&pdu.SNACK{}, nil), pdu.MaxDataLength)...),
		"command with senseless AHS": append(slices.Clone(hello), ahs.Append(nil, pdu.Digests{})...),
		"text without end":           append(slices.Clone(hello), bytes.Repeat(stream(text), 50)...),
	} {
		nc, err := net.Dial("tcp", p.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		if err := nc.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = nc.Write(b) }() // it may be cut off
		if _, err := io.Copy(io.Discard, nc); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: the connection stays open", what)
		}
	}
	if after := heap(); after > before+32<<20 {
		t.Errorf("heap grew from %d to %d KiB", before>>10, after>>10)
	}
}

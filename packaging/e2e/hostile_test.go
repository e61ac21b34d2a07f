package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/paxos-iscsi/paxos-iscsi/packaging/rig"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/initiator"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi/pdu"
)

// hostileEnv lengthens the attack with spoilt PDUs in TestHostileInitiators: a duration, such as 5m.
const hostileEnv = "E2E_HOSTILE"

// halfOpenLogins is how many connections begin a login and do not go on.
const halfOpenLogins = 10000

// maxGrowth is how much more memory tgtd may ever hold in a siege than before all, in bytes: what it lets all its
// sessions hold together (iscsi.Options.MaxServerBytes), and as much as a sixteenth of it for all else.
const maxGrowth = 1<<30 + 64<<20

const victimName, bystanderName = "iqn.2001-03.jp.tritech:victim", "iqn.2001-03.jp.tritech:bystander"

// siege is a tgtd that is attacked while somebody works.
type siege struct {
	t       *testing.T
	target  *rig.Target
	session *initiator.Session
	took    []time.Duration
	rss     int64 // before all
}

// TestHostileInitiators attacks a tgtd process in all the ways that a network offers, while another session writes
// and reads and verifies. The memory stays bounded, the other session is served, and tgtd lives on; the latencies of
// the other session are printed, and not judged.
func TestHostileInitiators(t *testing.T) {
	raiseFileLimit(t)
	dir := tempDir(t)
	target, err := rig.NewTarget(rig.TargetOptions{Dir: dir, Programs: suite.programs, Driver: ",stall_timeout=2"})
	must(t, err)
	t.Cleanup(target.Close)
	must(t, target.Start(limit(t)))
	for i, name := range []string{victimName, bystanderName} {
		disk := filepath.Join(dir, strconv.Itoa(i))
		must(t, os.WriteFile(disk, nil, 0o600))
		must(t, os.Truncate(disk, unitBytes))
		must(t, target.AddUnit(limit(t), i+1, name, 1, "rdwr", disk, ""))
	}
	s := &siege{t: t, target: target}
	s.session, err = initiator.Login(limit(t), initiator.Options{Portal: target.Portal, Target: bystanderName, Initiator: initiatorName})
	must(t, err)
	t.Cleanup(func() { s.session.Close() })
	must(t, s.session.Ready(1))
	for n := range 300 {
		s.work(n)
	}
	s.rss = s.memory("VmRSS")
	s.report("before")
	s.attack("spoilt PDUs", s.spoiltPDUs)
	s.attack("half-open logins", s.halfOpen)
	s.attack("lengths and texts without end", s.oversized)
	s.attack("slow readers", s.slowReaders)
	if s.session.Relogins() != 0 {
		t.Errorf("the other session had to log in again %d times", s.session.Relogins())
	}
	// Whoever comes afterwards is let in.
	late, err := initiator.Login(limit(t), initiator.Options{Portal: target.Portal, Target: victimName, Initiator: initiatorName + "2"})
	must(t, err)
	must(t, errors.Join(late.Ready(1), late.Close()))
}

// raiseFileLimit lets this process open as many sockets as it may.
func raiseFileLimit(t *testing.T) {
	t.Helper()
	var l unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &l))
	l.Cur = l.Max
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &l))
}

// work writes and reads once and checks what came back.
func (s *siege) work(n int) {
	s.t.Helper()
	out, in := bytes.Repeat([]byte{byte(n + 1)}, 4096), make([]byte, 4096)
	begin := time.Now()
	task := initiator.Task{LUN: 1}
	task.SetWrite(1024, 8, out)
	must(s.t, s.session.Do(&task))
	task = initiator.Task{LUN: 1}
	task.SetRead(1024, 8, in)
	must(s.t, s.session.Do(&task))
	if !bytes.Equal(in, out) {
		s.t.Fatal("what was written does not come back")
	}
	s.took = append(s.took, time.Since(begin))
}

// memory is a line of the kernel's account of tgtd, in bytes.
func (s *siege) memory(key string) int64 {
	s.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.target.PID()))
	must(s.t, err)
	m := regexp.MustCompile(`(?m)^` + key + `:\s+(\d+) kB`).FindSubmatch(b)
	if m == nil {
		s.t.Fatalf("the kernel does not say %s", key)
	}
	n, err := strconv.ParseInt(string(m[1]), 10, 64)
	must(s.t, err)
	return n << 10
}

// report prints the latencies since the last report, and the memory.
func (s *siege) report(what string) {
	slices.Sort(s.took)
	n := len(s.took)
	s.t.Logf("%-30s a write and a read, %5d times: median %6d µs, p99 %6d µs; tgtd resident %d MiB, at most %d MiB", what,
		n, s.took[n/2].Microseconds(), s.took[n*99/100].Microseconds(), s.memory("VmRSS")>>20, s.memory("VmHWM")>>20)
	s.took = s.took[:0]
}

// attack works while an attack goes on, and looks at the memory.
func (s *siege) attack(what string, attack func() error) {
	s.t.Helper()
	done := make(chan error, 1)
	go func() { done <- attack() }()
	var err error
	for n, over := 0, false; !over || n < 100; n++ {
		s.work(n)
		select {
		case err = <-done:
			over, done = true, nil
		default:
		}
	}
	s.report(what)
	if err != nil {
		s.t.Errorf("%s: %v", what, err)
	}
	if most := s.memory("VmHWM"); most > s.rss+maxGrowth {
		s.t.Errorf("%s: tgtd has grown from %d MiB to %d MiB", what, s.rss>>20, most>>20)
	}
	if !s.target.Running() {
		s.t.Fatalf("%s: tgtd is gone", what)
	}
}

// bytesOf is a PDU as it travels.
func bytesOf(p interface{ Encode(*pdu.Header) }, data []byte) []byte {
	u := pdu.PDU{Data: data}
	p.Encode(&u.Header)
	return u.Append(nil, pdu.Digests{})
}

// loginOf is a login request; stage 1 to 3 is the whole login at once.
func loginOf(csg, nsg pdu.Stage, isid byte, text ...string) []byte {
	var data []byte
	for i := 0; i < len(text); i += 2 {
		data = pdu.AppendText(data, text[i], text[i+1])
	}
	return bytesOf(&pdu.LoginRequest{Transit: true, CSG: csg, NSG: nsg, ISID: [6]byte{0x80, 5: isid}, InitiatorTag: 1, CmdSN: 1}, data)
}

// talk sends bytes, takes what comes until the end, and says whether tgtd ended the connection.
func (s *siege) talk(b []byte) error {
	nc, err := net.Dial("tcp", s.target.Portal)
	if err != nil {
		return err
	}
	defer nc.Close()
	if err := nc.SetDeadline(time.Now().Add(stepTimeout)); err != nil {
		return err
	}
	var writer sync.WaitGroup
	writer.Go(func() { _, _ = nc.Write(b) }) // it may be cut off
	_, err = io.Copy(io.Discard, nc)
	nc.Close()
	writer.Wait()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return errors.New("the connection stays open")
	}
	return nil
}

// conversation is a valid one: a login, commands with and without data, a text and a logout.
func conversation() [][]byte {
	const lun = 1 << 48
	write := pdu.SCSICommand{Final: true, Write: true, LUN: lun, InitiatorTag: 5, CmdSN: 1, ExpectedLength: 2048, CDB: [16]byte{0: 0x2a, 8: 4}}
	more := pdu.SCSICommand{Final: true, Write: true, LUN: lun, InitiatorTag: 6, CmdSN: 2, ExpectedLength: 16384, CDB: [16]byte{0: 0x2a, 8: 32}}
	read := pdu.SCSICommand{Final: true, Read: true, LUN: lun, InitiatorTag: 7, CmdSN: 3, ExpectedLength: 65536, CDB: [16]byte{0: 0x28, 8: 128}}
	return [][]byte{
		loginOf(1, 3, 1, "InitiatorName", "iqn.x:hostile", "TargetName", victimName, "InitialR2T", "No"),
		bytesOf(&write, make([]byte, 2048)),
		bytesOf(&more, make([]byte, 8192)),
		bytesOf(&pdu.DataOut{Final: true, InitiatorTag: 6, TargetTag: 1, Offset: 8192}, make([]byte, 8192)),
		bytesOf(&read, nil),
		bytesOf(&pdu.NOPOut{Immediate: true, InitiatorTag: 9, TargetTag: pdu.NoTag, CmdSN: 4}, []byte("ping")),
		bytesOf(&pdu.TaskRequest{Immediate: true, Function: 5, LUN: lun, InitiatorTag: 11, CmdSN: 4}, nil),
		bytesOf(&pdu.TextRequest{Final: true, InitiatorTag: 3, TargetTag: pdu.NoTag, CmdSN: 4}, []byte("SendTargets=All\x00")),
		bytesOf(&pdu.LogoutRequest{Immediate: true, Reason: 1, InitiatorTag: 12, CmdSN: 5}, nil),
	}
}

// spoiltPDUs has valid conversations spoilt, for two seconds or for as long as E2E_HOSTILE says.
func (s *siege) spoiltPDUs() error {
	length := 2 * time.Second
	if text := os.Getenv(hostileEnv); text != "" {
		var err error
		if length, err = time.ParseDuration(text); err != nil {
			return fmt.Errorf("%s: %w", hostileEnv, err)
		}
	}
	seed := rand.Uint64()
	var count atomic.Int64
	var workers sync.WaitGroup
	for worker := range uint64(4) {
		workers.Go(func() {
			r := rand.New(rand.NewPCG(seed, worker))
			for end := time.Now().Add(length); time.Now().Before(end); count.Add(1) {
				s.assault(spoil(r, conversation()))
			}
		})
	}
	workers.Wait()
	s.t.Logf("seed %d: %d spoilt conversations", seed, count.Load())
	if count.Load() < 10 {
		return errors.New("that was no attack")
	}
	return nil
}

// assault sends bytes, ends its side, and takes what comes.
func (s *siege) assault(b []byte) {
	nc, err := net.Dial("tcp", s.target.Portal)
	if err != nil {
		return
	}
	defer nc.Close()
	if nc.SetDeadline(time.Now().Add(5*time.Second)) != nil {
		return
	}
	if _, err := nc.Write(b); err == nil && nc.(*net.TCPConn).CloseWrite() == nil {
		_, _ = io.Copy(io.Discard, nc) // however it ends
	}
}

// spoil changes, doubles, drops and cuts. The login stays whole half of the time, so that what follows is reached.
func spoil(r *rand.Rand, pdus [][]byte) []byte {
	from := r.IntN(2)
	for range 1 + r.IntN(4) {
		i := from + r.IntN(len(pdus)-from)
		switch r.IntN(4) {
		case 0:
			pdus[i] = slices.Concat(pdus[i], pdus[i])
		case 1:
			if i > 0 {
				pdus[i] = nil
			}
		case 2:
			pdus[i] = pdus[i][:r.IntN(len(pdus[i])+1)]
		}
		for range r.IntN(4) {
			if n := len(pdus[i]); n > 0 {
				pdus[i][r.IntN(min(n, 48))] ^= byte(1 << r.IntN(8))
			}
		}
	}
	return slices.Concat(pdus...)
}

// halfOpen begins ten thousand logins, of which as many stay open as this process may have.
func (s *siege) halfOpen() error {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return err
	}
	atOnce := min(halfOpenLogins, int(min(l.Cur, 1<<20))-1000)
	piece := loginOf(0, 1, 2, "InitiatorName", "iqn.x:i", "TargetName", victimName)[:60]
	open := make([]net.Conn, 0, halfOpenLogins)
	defer func() {
		for _, nc := range open {
			nc.Close()
		}
	}()
	for i := range halfOpenLogins {
		nc, err := net.Dial("tcp", s.target.Portal)
		if err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
		if _, err := nc.Write(piece); err != nil && !errors.Is(err, unix.ECONNRESET) && !errors.Is(err, unix.EPIPE) {
			return err
		}
		if open = append(open, nc); len(open) > atOnce {
			open[i-atOnce].Close()
		}
	}
	s.t.Logf("%d half-open logins, up to %d at once", halfOpenLogins, atOnce)
	return nil
}

// oversized announces more than was agreed on, and goes on with a text that never ends.
func (s *siege) oversized() error {
	hello := loginOf(1, 3, 3, "InitiatorName", "iqn.x:o", "TargetName", victimName)
	long := func(b []byte) []byte {
		b = slices.Clone(b)
		(*pdu.Header)(b).SetDataLength(pdu.MaxDataLength)
		return b
	}
	endless := loginOf(0, 0, 4, "InitiatorName", string(bytes.Repeat([]byte{'x'}, 8000)))
	endless[1] = 0x40 // C: more follows
	command := pdu.SCSICommand{Final: true, Write: true, LUN: 1 << 48, InitiatorTag: 5, CmdSN: 1, ExpectedLength: 512, CDB: [16]byte{0: 0x2a, 8: 1}}
	for what, b := range map[string][]byte{
		"login of 16 MiB":   long(loginOf(0, 1, 5)),
		"login without end": bytes.Repeat(endless, 50),
		"command of 16 MiB": slices.Concat(hello, long(bytesOf(&command, nil))),
		"ping of 16 MiB":    slices.Concat(hello, long(bytesOf(&pdu.NOPOut{Immediate: true}, nil))),
		"noise":             bytes.Repeat([]byte{0xff}, 1<<20),
	} {
		if err := s.talk(b); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	return nil
}

// slowReaders asks for much and reads nothing, until tgtd hangs up.
func (s *siege) slowReaders() error {
	const readers, reads, blocks = 4, 120, 2048
	var all sync.WaitGroup
	errs := make([]error, readers)
	for i := range errs {
		all.Go(func() { errs[i] = s.slowReader(byte(16+i), reads, blocks) })
	}
	all.Wait()
	return errors.Join(errs...)
}

func (s *siege) slowReader(isid byte, reads, blocks int) error {
	nc, err := net.Dial("tcp", s.target.Portal)
	if err != nil {
		return err
	}
	defer nc.Close()
	if err := nc.SetDeadline(time.Now().Add(stepTimeout)); err != nil {
		return err
	}
	b := loginOf(1, 3, isid, "InitiatorName", "iqn.x:slow", "TargetName", victimName)
	for n := range reads {
		b = append(b, bytesOf(&pdu.SCSICommand{Final: true, Read: true, LUN: 1 << 48, InitiatorTag: uint32(n + 100), CmdSN: uint32(n + 1),
			ExpectedLength: uint32(blocks * 512), CDB: [16]byte{0: 0x28, 7: byte(blocks >> 8), 8: byte(blocks)}}, nil)...)
	}
	if _, err := nc.Write(b); err != nil {
		return err
	}
	// Without reading, the end is seen only as an event of the socket.
	raw, err := nc.(*net.TCPConn).SyscallConn()
	if err != nil {
		return err
	}
	gone := false
	err = raw.Control(func(fd uintptr) {
		for end := time.Now().Add(stepTimeout); !gone && time.Now().Before(end); {
			events := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
			_, pollErr := unix.Poll(events, 1000)
			gone = pollErr == nil && events[0].Revents&(unix.POLLRDHUP|unix.POLLERR|unix.POLLHUP) != 0
		}
	})
	if err == nil && !gone {
		err = errors.New("a session that reads nothing stays")
	}
	return err
}

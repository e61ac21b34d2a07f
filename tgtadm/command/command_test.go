package command

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/paxos-iscsi/paxos-iscsi/tgtadm/daemontest"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/mgmt"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// run runs the command and returns both outputs, each line of standard error with "! " in front, and
// the status.
func run(t *testing.T, base string, args ...string) string {
	t.Helper()
	return runIn(t, Env{}, base, args...)
}

func runIn(t *testing.T, env Env, base string, args ...string) string {
	t.Helper()
	var out, stderr bytes.Buffer
	env.Stdout, env.Stderr = &out, &stderr
	env.LookupEnv = func(name string) (string, bool) { return base, name == mgmt.BaseEnv }
	status := Run(t.Context(), append([]string{"tgtadm"}, args...), env)
	text := out.String()
	for line := range strings.Lines(stderr.String()) {
		text += "! " + line
	}
	return fmt.Sprintf("%s= %d", text, status)
}

func ok(text string) func(mgmt.Request) mgmt.Response {
	return func(mgmt.Request) mgmt.Response { return mgmt.Response{Text: text} }
}

// TestRequests: what goes over the socket, byte for byte.
func TestRequests(t *testing.T) {
	all := strings.Repeat("ff", 8)
	zero := func(n int) string { return strings.Repeat("00", n) }
	for _, c := range []struct{ args, want string }{
		{"--op show --mode target",
			"0100000002000000" + zero(64) + "78000000ffffffff" + zero(8) + all + zero(24)},
		{"--lld iscsi --op new --mode lu --tid 1 --lun 2 -b /x -E aio -f sync -S o=1 -y 4096 -Y cd",
			"0200000000000000" + "6973637369" + zero(59) + "b300000001000000" + zero(8) + "0200000000000000" +
				zero(8) + "0500000000000000" + zero(8) +
				hex.EncodeToString([]byte("path=/x,bstype=aio,bsopts=o=1,bsoflags=sync,blocksize=4096\x00"))},
		{"--op delete --mode target --tid 0x10 --force",
			"0100000001000000" + zero(64) + "7800000010000000" + zero(8) + all + zero(20) + "01000000"},
	} {
		t.Run(c.args, func(t *testing.T) {
			got := make(chan []byte, 1)
			base := raw(t, func(conn net.Conn) {
				b := make([]byte, len(c.want)/2)
				if _, err := io.ReadFull(conn, b); err != nil {
					t.Errorf("reading the request: %v", err)
				}
				got <- b
				conn.Write([]byte{0, 0, 0, 0, 8, 0, 0, 0})
			})
			if out := run(t, base, strings.Fields(c.args)...); out != "= 0" {
				t.Errorf("it says %q", out)
			}
			if b := hex.EncodeToString(<-got); b != c.want {
				t.Errorf("\n got %s\nwant %s", b, c.want)
			}
		})
	}
}

// TestParameters: how the options become the parameter string.
func TestParameters(t *testing.T) {
	d := daemontest.Start(t, ok(""))
	for _, c := range []struct{ args, want string }{
		{"--op new --mode target -t 1 -T iqn.x:y", "targetname=iqn.x:y"},
		{"--op update --mode target -t 1 -v offline -n state", "state=offline"},
		{"--op update --mode lu -t 1 -l 1 -P vendor_id=A,removable=1", "targetOps vendor_id=A,removable=1,"},
		{"--op update --mode lu -t 1 -l 1", ""},
		{"--op new --mode portal --param portal=1.2.3.4:3260", "portalOps portal=1.2.3.4:3260,"},
		{"--mode pt --mode lu --op update -t 1 -l 1 -P a=b", "targetOps a=b,"},
		{"--op bind --mode target -t 1 -Q iqn.x:y -I 1.2.3.4", "initiator-address=1.2.3.4,initiator-name=iqn.x:y"},
		{"--op new --mode account -p a,b=c -u joe", "user=joe,password=a,b=c"},
		{"--op new --mode lu -t 1 -l 1 -Y tape -E rdwr", "bstype=ssc"},
		{"--op update --mode sys -n iSNS -v", ""},
	} {
		out := run(t, d.Base, strings.Fields(c.args)...)
		requests := d.Requests()
		if strings.HasSuffix(c.args, "-v") {
			if len(requests) != 0 || !strings.Contains(out, "requires an argument") {
				t.Errorf("%s: %s, %v", c.args, out, requests)
			}
			continue
		}
		if out != "= 0" || len(requests) != 1 || requests[0].Params != c.want {
			t.Errorf("%s: %s, %+v, want %q", c.args, out, requests, c.want)
		}
	}
}

// TestMisspelt: the original's text, and a hint where one word is meant.
func TestMisspelt(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"--op show --mode bogus", "! tgtadm: unknown mode: bogus\n= 1"},
		{"--op show --mode accunt", "! tgtadm: unknown mode: accunt\n! tgtadm: did you mean 'account'?\n= 1"},
		{"--op shwo --mode target", "! tgtadm: unknown operation: shwo\n! tgtadm: did you mean 'show'?\n= 1"},
		{"--op sta --mode target", "! tgtadm: unknown operation: sta\n! tgtadm: did you mean 'stat'?\n= 1"},
		{"--op show --mode targte", "! tgtadm: unknown mode: targte\n! tgtadm: did you mean 'target'?\n= 1"},
		{"--op show --mode lx", "! tgtadm: unknown mode: lx\n! tgtadm: did you mean 'lu'?\n= 1"},
		{"--op show --mode xx", "! tgtadm: unknown mode: xx\n= 1"},
		{"--op show --mode pu", "! tgtadm: unknown mode: pu\n= 1"}, // pt or lu
	} {
		if got := run(t, "/nowhere", strings.Fields(c.args)...); got != c.want {
			t.Errorf("%s: %q, want %q", c.args, got, c.want)
		}
	}
}

// TestOrderOfErrors: the first thing wrong on the line is what is said.
func TestOrderOfErrors(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"--tid x --bogus", "! -t argument value 'x' invalid\n! Try `tgtadm --help' for more information.\n= 22"},
		{"--bogus --tid x", "! tgtadm: unrecognized option '--bogus'\n! Try `tgtadm --help' for more information.\n= 22"},
		{"word --tid x", "! -t argument value 'x' invalid\n! Try `tgtadm --help' for more information.\n= 22"},
		{"word --version", "1.0.85\n= 0"},
		{"--version --bogus", "1.0.85\n= 0"},
		{"--op bogus --version", "! tgtadm: unknown operation: bogus\n= 1"},
	} {
		if got := run(t, "/nowhere", strings.Fields(c.args)...); got != c.want {
			t.Errorf("%s: %q, want %q", c.args, got, c.want)
		}
	}
}

func TestHelpNamesEveryOption(t *testing.T) {
	out := run(t, "/nowhere", "-h")
	if !strings.HasPrefix(out, "Linux SCSI Target administration utility, version 1.0.85\n\nUsage: tgtadm [OPTION]\n") {
		t.Errorf("it begins %q", out[:80])
	}
	for _, f := range newApp(newOptions(""), Env{}).Flags {
		if !strings.Contains(out, "--"+f.Names()[0]) {
			t.Errorf("--%s is not in it", f.Names()[0])
		}
	}
}

func TestParseNumber(t *testing.T) {
	for _, c := range []struct {
		text  string
		limit uint64
		want  uint64
		err   string
	}{
		{"1", maxInt32, 1, ""}, {"0x10", maxInt32, 16, ""}, {"010", maxInt32, 8, ""}, {"08", maxInt32, 0, ""},
		{"0x", maxInt32, 0, ""}, {"0xg", maxInt32, 0, ""}, {"0XfF", maxInt32, 255, ""}, {"1x", maxInt32, 1, ""},
		{" \t+5 ", maxInt32, 5, ""}, {"-0", maxInt32, 0, ""},
		{"-5", mgmt.NoLUN - 1, mgmt.NoLUN - 4, ""}, {"-5", maxInt32, 0, "out of range"},
		{"2147483647", maxInt32, 2147483647, ""}, {"2147483648", maxInt32, 0, "out of range"},
		{"18446744073709551614", mgmt.NoLUN - 1, mgmt.NoLUN - 1, ""},
		{"18446744073709551615", mgmt.NoLUN - 1, 0, "invalid"}, {"99999999999999999999", mgmt.NoLUN - 1, 0, "invalid"},
		{"-1", maxInt32, 0, "invalid"}, {"", maxInt32, 0, "invalid"}, {"x", maxInt32, 0, "invalid"},
		{"+", maxInt32, 0, "invalid"}, {"+-5", maxInt32, 0, "invalid"},
	} {
		got, err := parseNumber('t', c.text, c.limit)
		text := ""
		if err != nil {
			text = strings.TrimPrefix(err.Error(), fmt.Sprintf("-t argument value '%s' ", c.text))
		}
		if text != c.err || got != c.want {
			t.Errorf("%q up to %d: %d %q, want %d %q", c.text, c.limit, got, text, c.want, c.err)
		}
	}
}

func TestHostOfBus(t *testing.T) {
	sysfs := t.TempDir()
	device := filepath.Join(sysfs, "bus", "pci", "devices", "0000:00:1f.2")
	if err := os.MkdirAll(filepath.Join(device, "host12"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(device, "hostile"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	d := daemontest.Start(t, ok(""))
	for _, c := range []struct {
		bus  string
		host uint32
		want string
	}{
		{"pci,0000:00:1f.2", 12, "= 0"},
		{"pci", 1<<32 - 22, "= 0"},
		{"pci,none", 0, "! tgtadm: can't find bus: pci\n= 22"},
		{"pci,../../..", 0, "! tgtadm: can't find bus: pci\n= 22"},
		{",", 0, "! tgtadm: can't find bus: \n= 22"},
	} {
		got := runIn(t, Env{Sysfs: sysfs}, d.Base, "--op", "bind", "--mode", "target", "-t", "1", "-B", c.bus)
		requests := d.Requests()
		if got != c.want || len(requests) == 1 && requests[0].Host != c.host {
			t.Errorf("%s: %q, %+v", c.bus, got, requests)
		}
	}
}

// raw serves one connection with a function and closes it.
func raw(t *testing.T, serve func(net.Conn)) (base string) {
	t.Helper()
	base = daemontest.Dir(t) + "/socket"
	l, err := net.Listen("unix", base+".0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		serve(c)
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return base
}

// TestAnswers: every way an exchange can end.
func TestAnswers(t *testing.T) {
	for _, c := range []struct{ name, answer, want string }{
		{"nothing", "", "! tgtadm: tgtd closed the socket\n= 0"},
		{"a part of the head", "\x00\x00\x00", "! tgtadm: a partial response\n= 0"},
		{"success", "\x00\x00\x00\x00\x08\x00\x00\x00", "= 0"},
		{"text", "\x00\x00\x00\x00\x0c\x00\x00\x00a\nb\x00", "a\nb= 0"},
		{"text without its NUL", "\x00\x00\x00\x00\x0b\x00\x00\x00a\nb", "a\nb= 0"},
		{"text up to the first NUL", "\x00\x00\x00\x00\x0d\x00\x00\x00a\x00b\x00c", "a= 0"},
		{"error", "\x11\x00\x00\x00\x08\x00\x00\x00", "! tgtadm: invalid request\n= 22"},
		{"error with text", "\x11\x00\x00\x00\x0c\x00\x00\x00abc\x00", "! tgtadm: invalid request\n= 22"},
		{"unknown error", "\x19\x00\x00\x00\x08\x00\x00\x00", "! tgtadm: (unknown tgtadm_errno)\n= 22"},
		{"text cut off", "\x00\x00\x00\x00\x10\x00\x00\x00abc",
			"! tgtadm: the daemon closed the connection in the middle of its answer: 3 of 8 bytes\n= 104"},
		{"impossible length", "\x00\x00\x00\x00\x04\x00\x00\x00",
			"! tgtadm: malformed management message: length 4 of an answer\n= 104"},
	} {
		t.Run(c.name, func(t *testing.T) {
			base := raw(t, func(conn net.Conn) {
				io.ReadFull(conn, make([]byte, mgmt.HeaderSize))
				conn.Write([]byte(c.answer))
			})
			if got := run(t, base, "--op", "show", "--mode", "target"); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

// TestReset: the daemon closes without reading what was sent, as tgtd does to other users.
func TestReset(t *testing.T) {
	base := raw(t, func(conn net.Conn) {
		conn.Read(make([]byte, 1)) // the request is there, all but one byte unread
	})
	want := "! tgtadm: can't get the response, Connection reset by peer\n= 104"
	if got := run(t, base, "--op", "show", "--mode", "target"); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestNoDaemon(t *testing.T) {
	gone := "! tgtadm: failed to send request hdr to tgt daemon, Transport endpoint is not connected\n= 107"
	if got := run(t, daemontest.Dir(t)+"/socket", "--op", "show", "--mode", "target"); got != gone {
		t.Errorf("no socket: %q", got)
	}
	d := daemontest.Start(t, ok(""))
	d.Stop()
	if got := run(t, d.Base, "--op", "show", "--mode", "target"); got != gone {
		t.Errorf("nobody listens: %q", got)
	}
	if got := run(t, d.Base, "-C", "1", "--op", "delete", "--mode", "sys"); got != gone {
		t.Errorf("another port: %q", got)
	}
	long := "/" + strings.Repeat("a", 120)
	if got := run(t, long, "--op", "show", "--mode", "target"); got != "! tgtadm: management path too long: "+long+".0\n"+gone {
		t.Errorf("long path: %q", got)
	}
}

func TestDebug(t *testing.T) {
	d := daemontest.Start(t, func(mgmt.Request) mgmt.Response { return mgmt.Response{Err: mgmt.ErrInvalid} })
	want := "! ipc_mgmt_req 348: sent to tgtd 133\n! tgtadm: invalid request\n= 22"
	if got := run(t, d.Base, "-d", "--op", "new", "--mode", "target", "-t", "1", "-T", "x"); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestTooLarge: the daemon would close without a word, and the original then ends with 0.
func TestTooLarge(t *testing.T) {
	d := daemontest.Start(t, ok(""))
	got := run(t, d.Base, "--op", "new", "--mode", "target", "-t", "1", "-T", strings.Repeat("x", mgmt.MaxParams))
	if !strings.HasSuffix(got, "= 22") || len(d.Requests()) != 0 {
		t.Errorf("%q", got)
	}
}

// TestDeleteSystemWaits: the command ends when the daemon does, and not before.
func TestDeleteSystemWaits(t *testing.T) {
	looked := make(chan struct{})
	base := daemontest.Dir(t) + "/socket"
	l, err := net.Listen("unix", base+".0")
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 3 { // the request, then two looks while the daemon is ending
			c, err := l.Accept()
			if err != nil {
				t.Errorf("connection %d: %v", i, err)
				return
			}
			if i == 0 {
				if r, err := mgmt.ReadRequest(c); err != nil || r.Mode != mgmt.ModeSystem || r.Op != mgmt.OpDelete {
					t.Errorf("request %+v, %v", r, err)
				}
				c.Write((&mgmt.Response{}).Append(nil))
			}
			c.Close()
		}
		close(looked)
		l.Close()
	}()
	got := run(t, base, "--op", "delete", "--mode", "sys")
	select {
	case <-looked:
	default:
		t.Error("it did not wait for the daemon to end")
	}
	<-done
	if got != "= 0" {
		t.Errorf("it says %q", got)
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	base := raw(t, func(conn net.Conn) {
		io.ReadFull(conn, make([]byte, mgmt.HeaderSize))
		cancel()
		conn.Read(make([]byte, 1)) // until the client gives up
	})
	var stderr bytes.Buffer
	env := Env{Stdout: io.Discard, Stderr: &stderr, LookupEnv: func(string) (string, bool) { return base, true }}
	// every variable is set here, POSIXLY_CORRECT too, which changes nothing without words
	if status := Run(ctx, []string{"tgtadm", "--op", "show", "--mode", "target"}, env); status != statusReset {
		t.Errorf("status %d: %s", status, stderr.String())
	}
	if !strings.Contains(stderr.String(), context.Canceled.Error()) {
		t.Errorf("it says %q", stderr.String())
	}
}

// broken is an output that takes nothing.
type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("no space left") }

func TestOutputFails(t *testing.T) {
	d := daemontest.Start(t, ok("text"))
	var stderr bytes.Buffer
	env := Env{Stdout: broken{}, Stderr: &stderr, LookupEnv: func(name string) (string, bool) { return d.Base, name == mgmt.BaseEnv }}
	status := Run(t.Context(), []string{"tgtadm", "--op", "show", "--mode", "target"}, env)
	if status == 0 || !strings.Contains(stderr.String(), "no space left") {
		t.Errorf("status %d: %s", status, stderr.String())
	}
}

package main

import (
	"bytes"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestOptions(t *testing.T) {
	const try = "Try `tgtd --help' for more information.\n"
	for _, c := range []struct {
		line   string
		want   func(*options) // on top of the defaults
		status int
		text   string
	}{
		{line: ""},
		{line: "-f -D -d 1", want: func(o *options) { o.foreground, o.noDaemonize, o.debug = true, true, true }},
		{line: "-fDd1", want: func(o *options) { o.foreground, o.noDaemonize, o.debug = true, true, true }},
		{line: "--fore --nod", want: func(o *options) { o.foreground, o.noDaemonize = true, true }},
		{line: "-C 7 -t 0x10 -p /x", want: func(o *options) { o.controlPort, o.threads, o.pidFile, o.metrics = 7, 16, "/x", "127.0.0.1:4037" }},
		{line: "--control=010 --nr 3junk --pid /x", want: func(o *options) { o.controlPort, o.threads, o.pidFile, o.metrics = 8, 3, "/x", "127.0.0.1:4038" }},
		{line: "-C +5 word -t 2147483647", want: func(o *options) { o.controlPort, o.threads, o.metrics = 5, 2147483647, "127.0.0.1:4035" }},
		{line: "-f -- --version", want: func(o *options) { o.foreground = true }},
		{line: "--iscsi portal=1.2.3.4:5,portal=[::1],nop_interval=3,nop_count=4,x=1", want: func(o *options) {
			o.iscsi = driverOptions{portals: []string{"1.2.3.4:5", "[::1]"}, nopInterval: 3, nopCount: 4, unknown: []string{"x=1"}}
		}},
		{line: "--iscsi portal=a --iscsi portal=b", want: func(o *options) { o.iscsi.portals = []string{"b"} }},
		{line: "--iscsi chap_md5=off,login_timeout=3,max_logins=9,max_connections=8,stall_timeout=7,async_logout=6,text=on",
			want: func(o *options) {
				o.iscsi.RefuseMD5, o.iscsi.SendTargetsInNormalSessions = true, true
				o.iscsi.LoginTimeout, o.iscsi.MaxLogins, o.iscsi.MaxConnections = 3*time.Second, 9, 8
				o.iscsi.StallTimeout, o.iscsi.LogoutGrace = 7*time.Second, 6*time.Second
			}},
		{line: "--iscsi chap_md5=on,async_logout=0,text=off"},
		{line: "--metrics off", want: func(o *options) { o.metrics = "off" }},
		{line: "-C 3 --metr=[::1]:99", want: func(o *options) { o.controlPort, o.metrics = 3, "[::1]:99" }},
		{line: "-f --iscsi", want: func(o *options) { o.foreground = true }},
		{line: "--iscsi -f", want: func(o *options) { o.foreground, o.iscsi.unknown = true, []string{"-f"} }},

		{line: "--iscsi chap_md5=Off", status: 1, text: "--iscsi chap_md5=\"Off\": on or off is wanted\n" + try},
		{line: "--iscsi stall_timeout=0", status: 1,
			text: "--iscsi stall_timeout=\"0\": a number from 1 to 1048576 is wanted\n" + try},
		{line: "--iscsi max_logins=+1", status: 1,
			text: "--iscsi max_logins=\"+1\": a number from 1 to 1048576 is wanted\n" + try},
		{line: "--metrics 4030", status: 1, text: "\"4030\" is no address for metrics: host:port or off is wanted: " +
			"address 4030: missing port in address\n" + try},
		{line: "--metrics", status: 1, text: "'metrics' is an unknown option\n" + try},
		{line: "--bogus", status: 1, text: "'bogus' is an unknown option\n" + try},
		{line: "--bogus x", status: 1, text: "'bogus' is an unknown option\n" + try},
		{line: "--fore --bogus", status: 1, text: "'bogus' is an unknown option\n" + try},
		{line: "--iscsi=portal=127.0.0.1", status: 1, text: "'iscsi=portal=127.0.0.1' is an unknown option\n" + try},
		{line: "--is x", status: 1, text: "'is' is an unknown option\n" + try},
		{line: "--n", status: 1, text: "'n' is an unknown option\n" + try}, // nodaemonize or nr_iothreads
		{line: "--control", status: 1, text: "'control' is an unknown option\n" + try},
		{line: "--foreground=x", status: 1, text: "'foreground=x' is an unknown option\n" + try},
		{line: "-Z", status: 1, text: try},
		{line: "-fZ", status: 1, text: try},
		{line: "-C", status: 1, text: try},
		{line: "-p", status: 1, text: try},
		{line: "-f -t 0", status: 34, text: "-t argument value '0' out of range\n" + try},
		{line: "-ft 0", status: 34, text: "-t argument value '0' out of range\n" + try},
		{line: "-t abc", status: 22, text: "-t argument value 'abc' invalid\n" + try},
		{line: "-t -1", status: 22, text: "-t argument value '-1' invalid\n" + try},
		{line: "-t 2147483648", status: 34, text: "-t argument value '2147483648' out of range\n" + try},
		{line: "--control-port=99999999999999999999", status: 22,
			text: "-C argument value '99999999999999999999' invalid\n" + try},
		{line: "-C 40000", status: 34, text: "-C argument value '40000' out of range\n" + try},
		{line: "-d 2", status: 34, text: "-d argument value '2' out of range\n" + try},
		{line: "--debug=x --version", status: 22, text: "-d argument value 'x' invalid\n" + try},
	} {
		got, err := parseOptions(append([]string{"tgtd"}, strings.Fields(c.line)...), io.Discard)
		if c.status != 0 {
			if err == nil || err.status != c.status || err.Error() != c.text {
				t.Errorf("%q: %v; want status %d and %q", c.line, err, c.status, c.text)
			}
			continue
		}
		want := options{threads: defaultThreads, metrics: "127.0.0.1:4030"}
		if c.want != nil {
			c.want(&want)
		}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, %v; want %+v", c.line, got, err, want)
		}
	}
}

func TestHelpAndVersion(t *testing.T) {
	const help = `Linux SCSI Target framework daemon, version 1.0.85

Usage: tgtd [OPTION]
-f, --foreground        make the program run in the foreground
-D, --nodaemonize       make the program run in the foreground with logger
-C, --control-port NNNN use port NNNN for the mgmt channel
-t, --nr_iothreads NNNN specify the number of I/O threads
-p, --pid-file filename specify the pid file
-d, --debug debuglevel  print debugging information
-V, --version           print version and exit
-h, --help              display this help and exit
--metrics ADDRESS       show metrics at ADDRESS, or off (default: 127.0.0.1:4030)
--iscsi portal=ADDR[:PORT],nop_interval=SEC,nop_count=N
                        portals to open, and the NOP-In settings of new targets
`
	for line, want := range map[string]string{
		"-h": help, "--help x": help, "-h --bogus": help, "-fh": help,
		"-V": "1.0.85\n", "--vers": "1.0.85\n", "--iscsi -V": "1.0.85\n", "word -V --bogus": "1.0.85\n",
		"-d 1junk -V": "1.0.85\n",
	} {
		var out bytes.Buffer
		o, err := parseOptions(append([]string{"tgtd"}, strings.Fields(line)...), &out)
		if err != nil || !o.done || out.String() != want {
			t.Errorf("%q: done %v, %v\n%swant\n%s", line, o.done, err, out.String(), want)
		}
	}
}

func FuzzOptions(f *testing.F) {
	for _, line := range []string{"-f -D", "--iscsi portal=x", "--control-port=3", "-ft 0", "--", "-", "--=", "-C", "--d=1"} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		o, err := parseOptions(append([]string{"tgtd"}, strings.Split(line, " ")...), io.Discard)
		if err != nil {
			if err.status == 0 || !strings.HasSuffix(err.Error(), tryHelp) {
				t.Fatalf("refused with status %d and %q", err.status, err.Error())
			}
			return
		}
		if o.controlPort < 0 || o.controlPort > maxControlPort || o.threads < 1 && !o.done {
			t.Fatalf("%q: %+v", line, o)
		}
	})
}

package iscsi

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestGolden replays transcripts of tgt 1.0.85 as far as they concern the transport: what tgtadm sets up is
// set up in a fake directory, what the probe and libiscsi's tools print has to be equal. Lines that are
// about the management interface are passed over, and counted. (097 is about time; see TestNOPTimeout.)
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/golden/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no transcripts", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			r := &replay{t: t, dir: &fakeDirectory{}, accounts: map[string]string{}}
			r.run(file)
			t.Logf("%d commands compared, %d of the management interface passed over: %v",
				r.compared, len(r.passed), r.passed)
			if r.compared == 0 {
				t.Error("nothing was compared")
			}
		})
	}
}

type replay struct {
	t        *testing.T
	dir      *fakeDirectory
	srv      *Server
	port     string
	accounts map[string]string
	compared int
	passed   []string
	held     sync.WaitGroup
}

// record is one command of a transcript with what it printed.
type record struct {
	command    string
	background bool
	stdout     []string
	stderr     []string
	status     int
	line       int
}

func readTranscript(t *testing.T, file string) []record {
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var records []record
	sc := bufio.NewScanner(bytes.NewReader(data))
	for line := 1; sc.Scan(); line++ {
		s := sc.Text()
		if s == "" {
			continue
		}
		rest := strings.TrimPrefix(s[1:], " ")
		last := len(records) - 1
		switch s[0] {
		case '$', '&':
			records = append(records, record{command: rest, background: s[0] == '&', line: line})
		case '>', '|':
			records[last].stdout = append(records[last].stdout, rest)
		case '!':
			records[last].stderr = append(records[last].stderr, rest)
		case '=':
			if records[last].status, err = strconv.Atoi(rest); err != nil {
				t.Fatalf("%s:%d: %v", file, line, err)
			}
		}
	}
	return records
}

func (r *replay) run(file string) {
	records := readTranscript(r.t, file)
	for i := range records {
		rec := &records[i]
		for k := range rec.stdout {
			rec.stdout[k] = strings.ReplaceAll(rec.stdout[k], ":3270", ":"+r.port)
		}
		command := strings.ReplaceAll(rec.command, ":3270", ":"+r.port)
		words := splitWords(command)
		switch {
		case strings.HasPrefix(rec.command, "tgtd "):
			var p *Portal
			r.srv, p = testServer(r.t, r.dir, nil)
			r.port = strconv.Itoa(int(p.Addr().Port()))
			r.t.Cleanup(r.held.Wait)
		case words[0] == "tgtadm" && r.tgtadm(words[1:]):
		case words[0] == "isc" && rec.background:
			r.hold(file, rec, words[1:])
		case words[0] == "isc":
			var out bytes.Buffer
			status := runProbe(&out, words[1:])
			r.compare(file, rec, out.String(), status)
		case strings.HasPrefix(words[0], "iscsi-"):
			r.tool(file, rec, command)
		default:
			r.passed = append(r.passed, strconv.Itoa(rec.line))
		}
	}
}

func splitWords(s string) []string {
	words := strings.Fields(s)
	for i := range words {
		words[i] = strings.Trim(words[i], `'"`)
	}
	return words
}

func (r *replay) compare(file string, rec *record, out string, status int) {
	r.compared++
	want := strings.Join(rec.stdout, "\n")
	if got := strings.TrimSuffix(out, "\n"); got != want || status != rec.status {
		r.t.Errorf("%s:%d: %s\n--- got, status %d\n%s\n--- want, status %d\n%s",
			file, rec.line, rec.command, status, got, rec.status, want)
	}
}

// hold runs a probe that keeps its session open to the end of the transcript.
func (r *replay) hold(file string, rec *record, args []string) {
	args = args[:len(args)-1] // hold:60
	var out bytes.Buffer
	p := &probe{out: &out, cmdSN: 1, opt: probeOptions{iname: "iqn.2000-01.probe:i", isid: "800000000001", algs: "5"}}
	steps := p.parse(args[1:])
	if err := p.connect(args[0]); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { p.nc.Close() })
	err := p.login()
	if err == nil {
		fmt.Fprintln(&out, "logged in")
	}
	for _, step := range steps {
		if err == nil {
			err = p.step(step)
		}
	}
	if err != nil {
		r.t.Errorf("%s:%d: %v", file, rec.line, err)
	}
	r.compare(file, rec, out.String(), 0)
}

// tool runs one of libiscsi's tools. A transcript's line may end in a filter.
func (r *replay) tool(file string, rec *record, command string) {
	if _, err := exec.LookPath(splitWords(command)[0]); err != nil {
		r.passed = append(r.passed, fmt.Sprintf("%d (%s is not installed)", rec.line, splitWords(command)[0]))
		return
	}
	var stdout bytes.Buffer
	cmd := exec.Command("/bin/sh", "-c", command)
	cmd.Stdout = &stdout
	err := cmd.Run()
	status := 0
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		status = exit.ExitCode()
	} else if err != nil {
		r.t.Fatal(err)
	}
	r.compare(file, rec, stdout.String(), status)
}

// tgtadm carries out what matters here. It returns false for what does not.
func (r *replay) tgtadm(args []string) bool {
	opt := map[string]string{}
	for i := 0; i < len(args); i++ {
		if args[i] == "--outgoing" {
			opt["outgoing"] = "yes"
			continue
		}
		if i+1 < len(args) {
			opt[strings.TrimLeft(args[i], "-")] = args[i+1]
			i++
		}
	}
	tid, _ := strconv.Atoi(opt["tid"])
	var target *fakeTarget
	r.dir.change(func() {
		for _, t := range r.dir.targets {
			if t.tid == tid {
				target = t
			}
		}
	})
	switch opt["mode"] + " " + opt["op"] {
	case "target new":
		t := r.dir.add(opt["T"])
		r.dir.change(func() { t.allow = func(netip.AddrPort, string) bool { return false } })
	case "logicalunit new": // the fake target has its units
	case "target bind":
		r.dir.change(func() { target.allow = orRule(target.allow, opt["I"], opt["Q"]) })
	case "target update":
		r.update(target, opt["n"], opt["v"])
	case "account new":
		r.accounts[opt["user"]] = opt["password"]
	case "account bind":
		account := Account{opt["user"], r.accounts[opt["user"]]}
		r.dir.change(func() {
			accounts := &r.dir.discovery
			if target != nil {
				accounts = &target.accounts
			}
			if opt["outgoing"] != "" {
				accounts.Outgoing = account
			} else {
				accounts.Incoming = append(accounts.Incoming, account)
			}
		})
	case "conn delete":
		sid, _ := strconv.ParseUint(opt["sid"], 10, 64)
		cid, _ := strconv.ParseUint(opt["cid"], 10, 32)
		if err := r.srv.CloseConnection(tid, sid, uint32(cid)); err != nil {
			r.t.Error(err)
		}
	default:
		return false
	}
	return true
}

func (r *replay) update(target *fakeTarget, name, value string) {
	r.dir.change(func() {
		if name == "state" {
			target.status = LoginSuccess
			if value == "offline" {
				target.status = TargetUnavailable
			}
			return
		}
		if err := target.params.Set(name, value); err != nil {
			r.t.Error(err)
		}
	})
}

type accessRule = func(netip.AddrPort, string) bool

func orRule(old accessRule, address, name string) accessRule {
	return func(peer netip.AddrPort, initiator string) bool {
		net, err := netip.ParsePrefix(address)
		return old(peer, initiator) || address == "ALL" || name != "" && name == initiator ||
			err == nil && net.Contains(peer.Addr())
	}
}

// eventually waits for a condition that another goroutine brings about.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatal("in vain: ", what)
		}
		time.Sleep(time.Millisecond)
	}
}

package admin

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"go.uber.org/goleak"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore/null"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore/rdwr"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/mgmt"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/target"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newModel makes a model with real stores and a real iSCSI server, without portals but those asked for.
func newModel(t testing.TB, log *slog.Logger) *target.Model {
	t.Helper()
	stores := new(backstore.Registry)
	stores.Add(null.Type())
	stores.Add(rdwr.Type())
	l, err := net.Listen("tcp4", "127.0.0.1:0") // lest the default portals are opened
	if err != nil {
		t.Fatal(err)
	}
	m := target.New(target.Options{
		Log: log, SetDebug: func(bool) {}, Stores: stores, Threads: 1, Inherited: []net.Listener{l},
		Portals: []string{"127.0.0.1:0"}, Transport: target.ISCSI(iscsi.Options{Logger: log}),
	})
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	m.StartDriver()
	return m
}

// words are the modes and operations of a scenario.
func number(t *testing.T, d *datadriven.TestData, names func(i int) string, word string) uint32 {
	for i := range 16 {
		if names(i) == word {
			return uint32(i)
		}
	}
	n, err := strconv.ParseUint(word, 10, 32)
	if err != nil {
		d.Fatalf(t, "%q is no mode or op", word)
	}
	return uint32(n)
}

// request makes the request of a scenario: "OP MODE [tid=N] [lun=N] …" and the parameter string below, if any.
func request(t *testing.T, d *datadriven.TestData) mgmt.Request {
	if len(d.CmdArgs) == 0 {
		d.Fatalf(t, "OP MODE wanted")
	}
	r := mgmt.Request{TID: mgmt.NoTID, LUN: mgmt.NoLUN, Driver: "iscsi"}
	r.Op = mgmt.Op(number(t, d, func(i int) string { return mgmt.Op(i).String() }, d.Cmd))
	r.Mode = mgmt.Mode(number(t, d, func(i int) string { return mgmt.Mode(i).String() }, d.CmdArgs[0].Key))
	for _, arg := range d.CmdArgs[1:] {
		value := ""
		if len(arg.Vals) > 0 {
			value = arg.Vals[0]
		}
		n, _ := strconv.ParseInt(value, 0, 64)
		switch arg.Key {
		case "tid":
			r.TID = int32(n)
		case "lun":
			r.LUN = uint64(n)
		case "sid":
			r.SID = uint64(n)
		case "cid":
			r.CID = uint32(n)
		case "host":
			r.Host = uint32(n)
		case "device":
			r.Device = mgmt.DeviceType(n)
		case "outgoing":
			r.Direction = mgmt.Outgoing
		case "force":
			r.Force = true
		case "lld":
			r.Driver = value
		case "empty":
			r.HasParams = true
		default:
			d.Fatalf(t, "%q is no argument", arg.Key)
		}
	}
	if d.Input != "" {
		r.HasParams, r.Params = true, d.Input
	}
	return r
}

// ephemeral is a port of the kernel's choice.
var ephemeral = regexp.MustCompile(`(127\.0\.0\.\d+|\[::1\]):[3-6]\d{4}`)

// TestScenarios plays the files of testdata: each request, then the error and the text it is answered
// with. DIR is a folder with the files d1 and d2 of 1 and 2 MiB.
func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		dir := t.TempDir()
		for name, size := range map[string]int64{"d1": 1 << 20, "d2": 2 << 20} {
			name = filepath.Join(dir, name)
			if err := os.WriteFile(name, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(name, size); err != nil {
				t.Fatal(err)
			}
		}
		handle := Handler(newModel(t, slog.New(slog.DiscardHandler)), slog.New(slog.DiscardHandler))
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			r := request(t, d)
			r.Params = strings.ReplaceAll(r.Params, "DIR", dir)
			answer := handle(t.Context(), r)
			text := ephemeral.ReplaceAllString(strings.ReplaceAll(answer.Text, dir, "DIR"), "$1:PORT")
			if answer.Err != mgmt.Success {
				return fmt.Sprintf("%d %v\n%s", answer.Err, answer.Err, text)
			}
			if text == "" {
				return "ok\n"
			}
			return text
		})
	})
}

// TestMatrix asks for every op in every mode, without a target, and compares with the table of errors.
func TestMatrix(t *testing.T) {
	const (
		ok      = mgmt.Success
		invalid = mgmt.ErrInvalid
		unsup   = mgmt.ErrUnsupported
		noTgt   = mgmt.ErrNoTarget
		noSess  = mgmt.ErrNoSession
		noUnit  = mgmt.ErrNoUnit
	)
	want := [mgmt.ModeCount + 1][mgmt.OpCount + 1]mgmt.Errno{
		// new, delete, show, bind, unbind, update, stat, start, stop, beyond
		mgmt.ModeSystem:     {invalid, ok, ok, invalid, invalid, invalid, ok, invalid, invalid, invalid},
		mgmt.ModeTarget:     {invalid, noTgt, ok, noTgt, noTgt, unsup, noTgt, invalid, invalid, invalid},
		mgmt.ModeUnit:       {noTgt, noUnit, unsup, unsup, unsup, noTgt, noTgt, unsup, unsup, unsup},
		mgmt.ModePortal:     {invalid, invalid, ok, invalid, invalid, invalid, invalid, invalid, invalid, invalid},
		mgmt.ModeDriver:     {invalid, invalid, ok, invalid, invalid, invalid, invalid, ok, ok, invalid},
		mgmt.ModeSession:    {invalid, invalid, invalid, invalid, invalid, invalid, noSess, invalid, invalid, invalid},
		mgmt.ModeConnection: {invalid, noTgt, noTgt, invalid, invalid, invalid, noSess, invalid, invalid, invalid},
		mgmt.ModeAccount:    {invalid, invalid, ok, invalid, invalid, unsup, unsup, unsup, unsup, unsup},
		mgmt.ModeCount:      {invalid, invalid, noTgt, invalid, invalid, invalid, invalid, invalid, invalid, invalid},
	}
	log := slog.New(slog.DiscardHandler)
	for mode := range want {
		for op := range want[mode] {
			// An empty driver is the first one, whatever its state.
			handle := Handler(newModel(t, log), log)
			r := mgmt.Request{Mode: mgmt.Mode(mode), Op: mgmt.Op(op), TID: mgmt.NoTID, LUN: mgmt.NoLUN}
			if got := handle(t.Context(), r); got.Err != want[mode][op] {
				t.Errorf("%v %v: error %d, want %d", r.Op, r.Mode, got.Err, want[mode][op])
			}
		}
	}
}

// TestSecretsAreNotLogged makes every kind of request that carries a secret fail and succeed.
func TestSecretsAreNotLogged(t *testing.T) {
	var out strings.Builder
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	handle := Handler(newModel(t, log), log)
	for _, params := range []string{"user=joe,password=geheim", "user=joe,password=geheim",
		"user=joe;password=geheim", "x=geheim"} {
		handle(context.Background(), mgmt.Request{Mode: mgmt.ModeAccount, Op: mgmt.OpNew, Params: params})
	}
	if strings.Contains(out.String(), "geheim") {
		t.Errorf("the log holds a secret:\n%s", out.String())
	}
	if !strings.Contains(out.String(), "already exists") {
		t.Errorf("a refused request is not in the log:\n%s", out.String())
	}
}

func FuzzParams(f *testing.F) {
	for _, s := range []string{
		"targetname=iqn.x:a", "path=/x,bstype=aio,bsopts=o=1,bsoflags=sync,blocksize=4096",
		"targetOps vendor_id=A,removable=1,", "portalOps portal=1.2.3.4:3260,portal=[::1],",
		"initiator-address=1.2.3.4,initiator-name=iqn.x", "user=joe,password=a,b", "user=joe,pw",
		"State=offline,iSNSServerIP=10.0.0.1", "debug=on", "", ",,=,", "mode_page=8:0:18",
	} {
		f.Add(s)
	}
	log := slog.New(slog.DiscardHandler)
	f.Fuzz(func(t *testing.T, params string) {
		for _, v := range []int{len(unitParams(params)), len(unitSpec(params).Path)} {
			if v > len(params) {
				t.Fatal("a part is longer than the whole")
			}
		}
		if user, secret, ok := account(params); ok && len(user)+len(secret) > len(params) {
			t.Fatalf("account %q %q", user, secret)
		}
		portals(params)
		rule(params)
		// The operations that open nothing must stand any string.
		stores := new(backstore.Registry)
		m := target.New(target.Options{Log: log, SetDebug: func(bool) {}, Stores: stores,
			Transport: target.ISCSI(iscsi.Options{})})
		defer m.Close()
		handle := Handler(m, log)
		for _, r := range []mgmt.Request{
			{Mode: mgmt.ModeTarget, Op: mgmt.OpNew, TID: 1}, {Mode: mgmt.ModeTarget, Op: mgmt.OpUpdate, TID: 1},
			{Mode: mgmt.ModeTarget, Op: mgmt.OpBind, TID: 1}, {Mode: mgmt.ModeTarget, Op: mgmt.OpUnbind, TID: 1},
			{Mode: mgmt.ModeUnit, Op: mgmt.OpUpdate, TID: 1}, {Mode: mgmt.ModeUnit, Op: mgmt.OpNew, TID: 1, LUN: 1},
			{Mode: mgmt.ModeAccount, Op: mgmt.OpNew}, {Mode: mgmt.ModeAccount, Op: mgmt.OpBind, TID: -1},
			{Mode: mgmt.ModeAccount, Op: mgmt.OpUnbind, TID: 1}, {Mode: mgmt.ModeAccount, Op: mgmt.OpDelete},
			{Mode: mgmt.ModeSystem, Op: mgmt.OpUpdate},
		} {
			r.HasParams, r.Params = true, params
			if a := handle(context.Background(), r); a.Err != mgmt.Success && a.Text != "" {
				t.Fatalf("%v %v: an error with a text", r.Op, r.Mode)
			}
		}
	})
}

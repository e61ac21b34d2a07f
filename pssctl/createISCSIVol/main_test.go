package main

import (
	"bytes"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
	"github.com/paxos-iscsi/paxos-iscsi/pss/psstest"
	"github.com/paxos-iscsi/paxos-iscsi/pssctl/console"
	"github.com/paxos-iscsi/paxos-iscsi/pssctl/volumes"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// call runs the command and returns its exit status and what it printed.
func call(t *testing.T, args ...string) (code int, stdout, stderr string) {
	var out, err bytes.Buffer
	code = console.Run(t.Context(), volumes.App("createISCSIVol", &out, &err), append([]string{"createISCSIVol"}, args...))
	return code, out.String(), err.String()
}

func TestCreate(t *testing.T) {
	f := psstest.New(t, 3)
	f.Elect(1)
	conf := f.ConfFile()
	t.Setenv(cell.EnvFile, conf)
	for _, c := range []struct {
		args   string
		code   int
		stderr string
	}{
		{"vol001 8M", 0, ""},
		{"vol001 8M", 0, ""},
		{"vol001 8192K", 0, ""},
		{"vol001 16M", 1, `createISCSIVol: volume "vol001" exists with 8M, not 16M: file exists` + "\n"},
		{"--conf " + conf + " vol002 8m", 0, ""},
		{"vol003 8M --timeout 5 --conf=" + conf, 0, ""},
		{"--timeout 5s -- vol004 8M", 0, ""},
	} {
		code, stdout, stderr := call(t, strings.Fields(c.args)...)
		if code != c.code || stderr != c.stderr || stdout != "" {
			t.Errorf("%s: %d, %q, %q", c.args, code, stdout, stderr)
		}
	}
	f.Lock()
	defer f.Unlock()
	for _, name := range []string{"vol001", "vol002", "vol003", "vol004"} {
		if v := f.Names[name]; v == nil || v.Kind != op.KindVolume || len(v.Data) != 8<<20 {
			t.Errorf("%s is not there as it should be", name)
		}
	}
	if len(f.Sessions) != 0 {
		t.Errorf("%d sessions are left behind", len(f.Sessions))
	}
}

func TestUnreachable(t *testing.T) {
	f := psstest.New(t, 3)
	t.Setenv(cell.EnvFile, f.ConfFile())
	code, _, stderr := call(t, "--timeout", "300ms", "vol001", "1T")
	if code != 255 || !strings.Contains(stderr, "the cell has no majority") {
		t.Errorf("%d, %s", code, stderr)
	}
	for i := range 3 {
		f.Stop(i)
	}
	code, _, stderr = call(t, "--timeout", "300ms", "vol001", "1T")
	if code != 255 || !strings.Contains(stderr, "no server of the cell answers") {
		t.Errorf("%d, %s", code, stderr)
	}
	for i := range 3 {
		f.Start(i)
	}
	code, _, stderr = call(t, "--conf", "/does/not/exist", "vol001", "1T")
	if code != 1 || !strings.Contains(stderr, "/does/not/exist") {
		t.Errorf("%d, %s", code, stderr)
	}
}

func TestUsage(t *testing.T) {
	for args, text := range map[string]string{
		"":                               "not 0 arguments",
		"vol001":                         "not 1 arguments",
		"a b c":                          "not 3 arguments",
		"vol001 1X":                      `"1X" is no size`,
		"vol001 1":                       `"1" is no size`,
		"vol001 T":                       `"T" is no size`,
		"vol001 0T":                      `"0T" is no size`,
		"vol001 -- -1T":                  `"-1T" is no size`,
		"vol001 +1T":                     `"+1T" is no size`,
		"vol001 1.5T":                    `"1.5T" is no size`,
		"vol001 65T":                     `"65T" is too large: a volume has at most 64T`,
		"vol001 18446744073709551615T":   "is too large",
		"../vol 1T":                      `"../vol" is no name`,
		"a//b 1T":                        `"a//b" is no name`,
		"/ 1T":                           `"/" is no name`,
		strings.Repeat("n", 256) + " 1T": "is no name",
		"--timeout x vol001 1T":          `--timeout "x"`,
		"--timeout 0 vol001 1T":          `--timeout "0"`,
		"--wrong vol001 1T":              "-wrong",
		"vol001 1T --conf":               "conf",
	} {
		code, _, stderr := call(t, strings.Fields(args)...)
		if code != 2 || !strings.Contains(stderr, text) || !strings.Contains(stderr, "usage: createISCSIVol [--conf FILE]") {
			t.Errorf("%q: %d, %q", args, code, stderr)
		}
	}
	if code, stdout, stderr := call(t, "--help"); code != 0 || stderr != "" || !strings.Contains(stdout, "64T") {
		t.Errorf("--help: %d, %q, %q", code, stdout, stderr)
	}
}

package main

import (
	"bytes"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/paxos-iscsi/paxos-iscsi/pss"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/psstest"
	"github.com/paxos-iscsi/paxos-iscsi/pssctl/console"
	"github.com/paxos-iscsi/paxos-iscsi/pssctl/volumes"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func call(t *testing.T, args ...string) (code int, stdout, stderr string) {
	var out, err bytes.Buffer
	code = console.Run(t.Context(), volumes.App("extendISCSIVol", &out, &err), append([]string{"extendISCSIVol"}, args...))
	return code, out.String(), err.String()
}

func TestExtend(t *testing.T) {
	f := psstest.StartReal(t, 0, 1, 2)
	t.Setenv(cell.EnvFile, f.File)
	c, err := pss.Open(f.Conf, pss.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.CreateVolume(t.Context(), "vol001", 8<<20); err != nil {
		t.Fatal(err)
	}
	for _, k := range []struct {
		args   string
		code   int
		stderr string
	}{
		{"vol001 16M", 0, ""},
		{"vol001 16M", 0, ""},
		{"vol001 8M", 1, `extendISCSIVol: volume "vol001" has 16M, and 8M would be less: `},
		{"vol002 8M", 1, "no such file or directory"},
		{"vol001", 2, "usage: extendISCSIVol [--conf FILE]"},
		{"vol001 1X", 2, `"1X" is no size`},
		{"../vol 1T", 2, `"../vol" is no name`},
		{"vol001 1T --timeout 0", 2, `--timeout "0"`},
	} {
		code, stdout, stderr := call(t, strings.Fields(k.args)...)
		if code != k.code || stdout != "" || !strings.Contains(stderr, k.stderr) || k.stderr == "" && stderr != "" {
			t.Errorf("%s: %d, %q, %q", k.args, code, stdout, stderr)
		}
	}
	if n, err := c.Stat(t.Context(), "vol001"); err != nil || n.Bytes != 16<<20 {
		t.Errorf("%+v, %v", n, err)
	}
	for _, s := range f.Conf.Servers {
		f.Stop(s.ID)
	}
	if code, _, stderr := call(t, "--timeout", "300ms", "vol001", "1T"); code != 255 {
		t.Errorf("%d, %s", code, stderr)
	}
}

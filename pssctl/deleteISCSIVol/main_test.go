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

func call(t *testing.T, answer string, args ...string) (code int, stdout, stderr string) {
	var out, err bytes.Buffer
	app := volumes.App("deleteISCSIVol", &out, &err)
	app.Reader = strings.NewReader(answer)
	code = console.Run(t.Context(), app, append([]string{"deleteISCSIVol"}, args...))
	return code, out.String(), err.String()
}

func TestDelete(t *testing.T) {
	f := psstest.StartReal(t, 0, 1, 2)
	t.Setenv(cell.EnvFile, f.File)
	c, err := pss.Open(f.Conf, pss.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, name := range []string{"vol001", "vol002"} {
		if err := c.CreateVolume(t.Context(), name, 8<<20); err != nil {
			t.Fatal(err)
		}
	}
	const question = "Remove volume vol001 and all data on it? [yes/no] "
	for _, k := range []struct {
		args, answer string
		code         int
		stdout       string
		stderr       string
		left         int // volumes
	}{
		{"vol001", "no\n", 1, question, "nothing was removed", 2},
		{"vol001", "y\n", 1, question, "nothing was removed", 2},
		{"vol001", "", 1, question, "nothing was removed", 2},
		{"vol001", "yes\n", 0, question, "", 1},
		{"vol001 -y", "", 1, "", "no such file or directory", 1},
		{"vol002 -y", "", 0, "", "", 0},
		{"", "", 2, "", "usage: deleteISCSIVol [--conf FILE]", 0},
		{"../vol -y", "", 2, "", `"../vol" is no name`, 0},
		{"vol001 -y --timeout 0", "", 2, "", `--timeout "0"`, 0},
	} {
		code, stdout, stderr := call(t, k.answer, strings.Fields(k.args)...)
		if code != k.code || stdout != k.stdout || !strings.Contains(stderr, k.stderr) || k.stderr == "" && stderr != "" {
			t.Errorf("%s, %q: %d, %q, %q", k.args, k.answer, code, stdout, stderr)
		}
		nodes, err := c.ReadDir(t.Context(), "/")
		if err != nil || len(nodes) != k.left {
			t.Errorf("after %s, %q: %d volumes, %v", k.args, k.answer, len(nodes), err)
		}
	}
	for _, s := range f.Conf.Servers {
		f.Stop(s.ID)
	}
	if code, _, stderr := call(t, "", "-y", "--timeout", "300ms", "vol001"); code != 255 {
		t.Errorf("%d, %s", code, stderr)
	}
}

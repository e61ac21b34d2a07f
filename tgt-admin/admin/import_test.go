package admin

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/paxos-iscsi/paxos-iscsi/tgtadm/modeltest"
)

// TestImport: `import NAME [strict]` converts a sample of package lio and makes an empty daemon of it,
// whose refusals would show; `json` converts what stands below.
func TestImport(t *testing.T) {
	datadriven.RunTest(t, "testdata/import", func(t *testing.T, td *datadriven.TestData) string {
		dir := t.TempDir()
		d := modeltest.Start(t)
		path := dir + "/saveconfig.json"
		switch td.Cmd {
		case "import":
			b, err := os.ReadFile(filepath.Join("../lio/testdata", td.CmdArgs[0].String()+".json"))
			if err != nil {
				t.Fatal(err)
			}
			// its places on this machine
			text := strings.NewReplacer("0.0.0.0", "127.0.0.1", "192.168.7.1", "127.0.0.1", "3260", "0", "3261", "0").
				Replace(string(b))
			if td.HasArg("as-is") {
				text = string(b)
			}
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		case "json":
			if err := os.WriteFile(path, []byte(td.Input), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		words := []string{Name, "--import-lio", path}
		if td.HasArg("strict") {
			words = append(words, "--strict")
		}
		var out, complaints bytes.Buffer
		env := modelEnv(d, &out)
		env.Stderr = &complaints
		status := Run(t.Context(), words, env)
		return strings.ReplaceAll(fmt.Sprintf("%s! %s= %d\n", &out, &complaints, status), dir, "@DIR@")
	})
}

// TestImportIsTaken: a daemon takes what was imported, and has what LIO had.
func TestImportIsTaken(t *testing.T) {
	dir := t.TempDir()
	d := modeltest.Start(t)
	disk := filepath.Join(dir, "disk")
	if err := os.WriteFile(disk, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile("../lio/testdata/article.json")
	if err != nil {
		t.Fatal(err)
	}
	host, port, _ := strings.Cut(d.Portal, ":")
	text := strings.NewReplacer("/dev/nvme1n1", disk, "0.0.0.0", host, "3260", port,
		`"authentication": 0`, `"authentication": 1`).Replace(string(b))
	json, file := filepath.Join(dir, "saveconfig.json"), filepath.Join(dir, "targets.conf")
	if err := os.WriteFile(json, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, words := range [][]string{{"--import-lio", json, "-c", file}, {"-e", "-c", file}, {"--update", "ALL", "--diff", "-c", file}} {
		if text, status := tgtAdmin(t, d, words...); status != 0 {
			t.Fatalf("%s: status %d: %s", words, status, text)
		}
	}
	c := read(t, d)
	if len(c.Targets) != 1 || len(c.Targets[0].Units) != 2 || c.Account("sample-user").Secret != "supersecret" ||
		c.Targets[0].ByName[0] != "iqn.2023-03.sample.ec2:sample-initiator" || len(c.Targets[0].ByAddress) != 0 {
		t.Errorf("%+v", c)
	}
}

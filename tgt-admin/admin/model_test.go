package admin

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/paxos-iscsi/paxos-iscsi/tgtadm/command"
	"github.com/paxos-iscsi/paxos-iscsi/tgtadm/modeltest"
)

// TestModel: scenarios with a whole daemon. `file NAME` writes a file, `zeros NAME` one of a MiB, `run`
// runs tgtadm and tgt-admin command lines, words split at blanks, `plain` makes the daemon answer as
// tgt's, `cat NAME` shows a file.
func TestModel(t *testing.T) {
	scenarios, err := filepath.Abs("testdata/model")
	if err != nil {
		t.Fatal(err)
	}
	datadriven.Walk(t, scenarios, func(t *testing.T, path string) {
		d, dir := modeltest.Start(t), t.TempDir()
		t.Chdir(dir) // a drawing is as wide as the paths in it
		places := strings.NewReplacer("@DIR@", dir, "@PORTAL@", d.Portal)
		back := strings.NewReplacer(dir, "@DIR@", d.Portal, "@PORTAL@")
		datadriven.RunTest(t, path, func(t *testing.T, td *datadriven.TestData) string {
			name := ""
			if len(td.CmdArgs) > 0 {
				name = filepath.Join(dir, td.CmdArgs[0].String())
			}
			var out bytes.Buffer
			switch td.Cmd {
			case "file":
				if err := os.WriteFile(name, []byte(places.Replace(td.Input)+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			case "zeros":
				if err := os.WriteFile(name, make([]byte, 1<<20), 0o600); err != nil {
					t.Fatal(err)
				}
			case "plain":
				d.Plain = true
			case "cat":
				b, err := os.ReadFile(name)
				if err != nil {
					t.Fatal(err)
				}
				out.Write(b)
			case "run":
				for line := range strings.SplitSeq(places.Replace(td.Input), "\n") {
					if status := runLine(t, d, &out, strings.Fields(line)); status != 0 {
						fmt.Fprintf(&out, "= %d\n", status)
					}
				}
			default:
				td.Fatalf(t, "unknown command")
			}
			return back.Replace(out.String())
		})
	})
}

func runLine(t *testing.T, d *modeltest.Daemon, out *bytes.Buffer, words []string) int {
	env := modelEnv(d, out)
	if words[0] == command.Name {
		return command.Run(t.Context(), words, env.Env)
	}
	return Run(t.Context(), words, env)
}

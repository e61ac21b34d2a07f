package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/packaging/rig"
)

// TestQuickstart runs the quick start to its end, twice in one folder: the second time it finds its data.
func TestQuickstart(t *testing.T) {
	bin := filepath.Dir(suite.programs.Tgtd)
	program := filepath.Join(bin, "quickstart")
	if _, err := os.Stat(program); err != nil {
		leaveOut(t, "E2E_BIN has no quickstart")
	}
	t.Chdir("../..")
	dir := filepath.Join(tempDir(t), "a-folder-with-a-long-name", strings.Repeat("x", 80))
	for range 2 {
		out, err := rig.Run(limit(t), []string{"ONCE=1", "BIN=" + bin, "DIR=" + dir}, program)
		must(t, err)
		for _, want := range []string{"Killed the master", "and 0 errors", "are there and right", "Backing store path: vol001", "iscsiadm"} {
			if !strings.Contains(out, want) {
				t.Errorf("no %q in\n%s", want, out)
			}
		}
	}
}

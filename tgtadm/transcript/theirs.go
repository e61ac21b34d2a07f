package transcript

import (
	"os"
	"path/filepath"
	"testing"
)

// packagedTools are tgt's own programs, where its package is installed.
const packagedTools = "/usr/sbin"

// GoldenTheirs replays the transcripts of a folder the other way round: tgt's own programs, those that
// are named, drive this project's tgtd. deliberate is as in Golden. Without tgt's package, and without
// root, the log says that nothing was run.
func GoldenTheirs(t *testing.T, programs []string, deliberate map[string]string) {
	t.Helper()
	paths, err := filepath.Glob("testdata/golden/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	if testing.Short() {
		t.Skipf("NOT RUN: %d transcripts with tgt's own programs: they take a while", len(paths))
	}
	if os.Geteuid() != 0 {
		t.Skipf("NOT RUN: %d transcripts with tgt's own programs: this is not root", len(paths))
	}
	bin, err := os.MkdirTemp("", "bin")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(bin) })
	if err := os.Chmod(bin, 0o755); err != nil { // some commands are run as another user
		t.Fatal(err)
	}
	for _, name := range programs {
		theirs := filepath.Join(packagedTools, name)
		if _, err := os.Stat(theirs); err != nil {
			t.Skipf("NOT RUN: %d transcripts with tgt's own programs: %s is not installed", len(paths), theirs)
		}
		if err := os.Symlink(theirs, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	p := &Player{Bin: bin, Tested: programs, Daemon: filepath.Join(bin, "tgtd"), OwnDaemon: true,
		Deliberate: deliberate}
	if out, err := compile(p.Daemon, "github.com/paxos-iscsi/paxos-iscsi/tgtd"); err != nil {
		t.Fatalf("building tgtd: %v\n%s", err, out)
	}
	noProbe := putProbe(bin)
	var total Count
	for _, path := range paths {
		s, err := Load(path)
		if err != nil {
			t.Fatal(err)
		}
		if noProbe != nil && s.NeedsProbe() {
			t.Logf("NOT RUN: %s: %v", s.Name, noProbe)
			continue
		}
		t.Run(s.Name, func(t *testing.T) { total.Add(p.Play(t, s)) })
	}
	t.Logf("%d transcripts replayed by tgt's own programs with this project's tgtd: %v", len(paths), total)
}

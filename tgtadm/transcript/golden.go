package transcript

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// packagedDaemon is tgt's own daemon, where its package is installed.
const packagedDaemon = "/usr/sbin/tgtd"

// Golden replays every transcript of testdata/golden against freshly built programs: build maps the
// names of the programs to their packages. deliberate are the commands, by NAME:LINE, that must differ
// from what was recorded, and why. Sessions with a daemon need root and a tgtd: tgt's, or this
// project's where that is not installed. What is not run is named and counted in the log.
func Golden(t *testing.T, build, deliberate map[string]string) {
	paths, err := filepath.Glob("testdata/golden/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	bin, err := os.MkdirTemp("", "bin")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(bin) })
	if err := os.Chmod(bin, 0o755); err != nil { // some commands are run as another user
		t.Fatal(err)
	}
	p := &Player{Bin: bin, Deliberate: deliberate}
	for name, pkg := range build {
		if out, err := compile(bin+"/"+name, pkg); err != nil {
			t.Fatalf("building %s: %v\n%s", name, err, out)
		}
		p.Tested = append(p.Tested, name)
	}
	p.Daemon = packagedDaemon
	missing := ""
	if _, err := os.Stat(p.Daemon); err != nil {
		p.Daemon = bin + "/tgtd"
		if out, err := compile(p.Daemon, "github.com/paxos-iscsi/paxos-iscsi/tgtd"); err != nil {
			missing = "no tgtd is installed and this project's does not build: " + string(out)
		}
	}
	if os.Geteuid() != 0 {
		missing = "this is not root"
	}
	noProbe := putProbe(bin)
	var total Count
	notRun := 0
	for _, path := range paths {
		s, err := Load(path)
		if err != nil {
			t.Fatal(err)
		}
		if missing != "" && s.NeedsDaemon() {
			t.Logf("NOT RUN: %s: %s", s.Name, missing)
			notRun++
			continue
		}
		if noProbe != nil && s.NeedsProbe() {
			t.Logf("NOT RUN: %s: %v", s.Name, noProbe)
			notRun++
			continue
		}
		t.Run(s.Name, func(t *testing.T) { total.Add(p.Play(t, s)) })
	}
	t.Logf("%d of %d transcripts replayed with %s: %v", len(paths)-notRun, len(paths), p.Daemon, total)
}

func compile(to, pkg string) ([]byte, error) {
	return exec.Command("go", "build", "-o", to, pkg).CombinedOutput()
}

// putProbe puts the iSCSI client of the recordings into a folder of programs.
func putProbe(bin string) error {
	python, err := exec.LookPath("python3")
	if err != nil {
		return fmt.Errorf("the recordings' iSCSI client: %w", err)
	}
	script, err := filepath.Abs("../tgtd/testdata/golden/isc.py")
	if err == nil {
		_, err = os.Stat(script)
	}
	if err == nil {
		text := fmt.Sprintf("#!/bin/sh\nexec %s -B '%s' \"$@\"\n", python, script)
		err = os.WriteFile(filepath.Join(bin, probe), []byte(text), 0o755)
	}
	if err != nil {
		return fmt.Errorf("the recordings' iSCSI client: %w", err)
	}
	return nil
}

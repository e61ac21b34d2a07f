package roots

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/psstest/port"
)

// debs are the three packages under their short names.
var debs = []string{"pssd.deb", "pssdc.deb", "tgtd.pss.deb"}

// packagesLike lists the packages that match a pattern.
func packagesLike(t *testing.T, folder, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, pattern))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s in %s: %q, %v", pattern, folder, files, err)
	}
	return files
}

// TestLint: lintian and rpmlint have nothing to say of the packages, down to lintian's pedantry, but what an override
// explains.
func TestLint(t *testing.T) {
	for _, words := range [][]string{
		append([]string{"lintian", "--allow-root", "--pedantic", "--display-info", "--fail-on", "error,warning,info,pedantic"},
			packagesLike(t, made.packages, "*_*.deb")...),
		append([]string{"rpmlint", "-c", filepath.Join(tree, "rpm/rpmlint.toml")}, packagesLike(t, made.packages, "*.rpm")...),
	} {
		if out, err := exec.CommandContext(t.Context(), words[0], words[1:]...).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", words[0], err, out)
		} else {
			t.Logf("%s", out)
		}
	}
}

// TestReproducible: the packages come out the same to the byte when they are made again: elsewhere, by somebody in
// another time zone who gives his files other rights.
func TestReproducible(t *testing.T) {
	if os.Getenv("PACKAGES") != "" {
		t.Skip("LEFT OUT: the packages of $PACKAGES may have been made in another way")
	}
	again, elsewhere := t.TempDir(), t.TempDir()
	for _, script := range []string{"packaging/make-deb", "packaging/make-rpm"} {
		command := fmt.Sprintf("umask 027 && TMPDIR=%s TZ=Asia/Tokyo %s %s", elsewhere, script, again)
		if err := shell(tree, command); err != nil {
			t.Fatal(err)
		}
	}
	first := append(packagesLike(t, made.packages, "*.deb"), packagesLike(t, made.packages, "*.rpm")...)
	second := append(packagesLike(t, again, "*.deb"), packagesLike(t, again, "*.rpm")...)
	if len(first) != len(second) {
		t.Fatalf("%q, and then %q", first, second)
	}
	for i, file := range first {
		a, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(second[i])
		if err != nil {
			t.Fatal(err)
		}
		if filepath.Base(file) != filepath.Base(second[i]) || !bytes.Equal(a, b) {
			t.Errorf("%s and %s differ", file, second[i])
		}
	}
}

// unpacked is a folder with the files of the debs.
func unpacked(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for _, deb := range debs {
		if err := shell("/", fmt.Sprintf("dpkg-deb -x %s %s", filepath.Join(made.packages, deb), root)); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// TestUnits has systemd read the units, beside its own, and finds all that they start.
func TestUnits(t *testing.T) {
	root := unpacked(t)
	// Debian's systemd belongs to the system that runs the test; of its own units, and the one program of the base
	// system that ours start, copies will do.
	if err := shell("/", fmt.Sprintf("cp -an /lib/systemd/system/. %s/lib/systemd/system/ && mkdir -p %[1]s/bin && cp /bin/rm %[1]s/bin", root)); err != nil {
		t.Fatal(err)
	}
	units := []string{"pssd.service", "pssd@0.service", "tgtd.pss.service", "tgtd.pss.socket", "tgt.service"}
	verify := func() (string, error) {
		words := append([]string{"--root", root, "--man=no", "--recursive-errors=no", "verify"}, units...)
		out, err := exec.CommandContext(t.Context(), "systemd-analyze", words...).CombinedOutput()
		return string(out), err
	}
	if out, err := verify(); err != nil || out != "" {
		t.Errorf("%v\n%s", err, out)
	}
	// That it would say so: a unit whose program is not there.
	if err := os.Remove(filepath.Join(root, "usr/sbin/tgtd")); err != nil {
		t.Fatal(err)
	}
	if out, err := verify(); err == nil || !strings.Contains(out, "/usr/sbin/tgtd") {
		t.Errorf("without tgtd: %v\n%s", err, out)
	}
}

// TestSocketActivation: tgtd of the package, started by systemd's own tool when the first initiator connects, takes the
// socket that it is handed as its only portal.
func TestSocketActivation(t *testing.T) {
	root := unpacked(t)
	ports, err := port.Free(1)
	if err != nil {
		t.Fatal(err)
	}
	portal, socket := fmt.Sprintf("127.0.0.1:%d", ports[0]), filepath.Join(root, "s")
	tgtd, tgtadm := filepath.Join(root, "usr/sbin/tgtd"), filepath.Join(root, "usr/sbin/tgtadm")
	activator := exec.CommandContext(t.Context(), "systemd-socket-activate", "--listen", portal, "--setenv", "TGT_IPC_SOCKET="+socket,
		tgtd, "-f", "--metrics", "off")
	var said bytes.Buffer
	activator.Stdout, activator.Stderr = &said, &said
	if err := activator.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		activator.Process.Kill() // it has become tgtd; an error is that it has ended
		activator.Wait()
		if t.Failed() {
			t.Log(said.String())
		}
	}()
	ask := func(words ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), tgtadm, words...)
		cmd.Env = append(os.Environ(), "TGT_IPC_SOCKET="+socket)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	end, connected := time.Now().Add(stepTimeout), false
	for {
		if !connected { // systemd-socket-activate listens a moment after it was started
			if c, err := net.Dial("tcp", portal); err == nil {
				defer c.Close()
				connected = true
			}
		}
		out, err := ask("--mode", "portal", "--op", "show")
		if err == nil {
			if lines := strings.Fields(out); !slices.Equal(lines, []string{"Portal:", portal + ",1"}) {
				t.Errorf("portals %q", out)
			}
			break
		}
		if time.Now().After(end) {
			t.Fatalf("tgtd does not serve: %v, %s", err, out)
		}
		time.Sleep(20 * time.Millisecond) // between questions
	}
	if out, err := ask("--mode", "sys", "--op", "delete"); err != nil {
		t.Errorf("stop: %v, %s", err, out)
	}
	if err := activator.Wait(); err != nil {
		t.Errorf("tgtd ends with %v", err)
	}
}

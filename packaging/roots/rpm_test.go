package roots

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// rpmPackages, with files that each has to bring.
var rpmPackages = map[string][]string{
	"pss-server": {"/etc/init.d/pssd", "/etc/sysconfig/pssd", "/usr/sbin/PFSserver", "/usr/sbin/pss_delper.sh", "/usr/lib/pss/pssd-prepare",
		"/usr/lib/systemd/system/pssd.service", "/usr/lib/systemd/system/pssd@.service", "/usr/share/man/man5/server.conf.5.gz"},
	"pss-server-controller": {"/usr/bin/pssctl", "/usr/bin/PFSClient", "/usr/bin/PFSProbe", "/usr/bin/PSSAdmin", "/usr/bin/PSSShutdown",
		"/usr/bin/pss_lookup-server.sh", "/usr/bin/pss_lookup_port.sh", "/usr/bin/pss_set_ssh.sh", "/usr/sbin/createISCSIVol"},
	"tgt-pss-target": {"/etc/init.d/tgtd.pss", "/etc/sysconfig/tgtd.pss", "/usr/sbin/tgtd", "/usr/sbin/tgtadm", "/usr/sbin/tgt-admin",
		"/usr/lib/systemd/system/tgtd.pss.service", "/usr/lib/systemd/system/tgtd.pss.socket", "/var/lib/tgt"},
}

// TestRPM installs the RPMs in a root that rpm knows nothing of, runs their scripts, and removes them.
func TestRPM(t *testing.T) {
	m := boot(t, "redhat", made.base)
	m.fails("getent passwd pss")
	root := filepath.Join(m.folder, "root") // as its first process mounted it
	rpm := func(args ...string) string {
		t.Helper()
		// Its scripts must see the machine's processes, and no others. Debian's rpm wants to be told to go on.
		line := append([]string{"rpm", "--force-debian", "--root", root, "--dbpath", "/var/lib/rpm"}, args...)
		r := m.enter(strings.Join(line, " "), append([]string{"--mount", "--pid", "--net", "--uts", "--ipc", "--"}, line...)...)
		t.Logf("%s\n%s", r.line, r.output)
		if r.status != 0 {
			t.Fatalf("%s: status %d", r.line, r.status)
		}
		return r.output
	}
	m.do("mkdir -p /var/lib/rpm")
	for name := range rpmPackages {
		files, err := filepath.Glob(filepath.Join(made.packages, name+"-[0-9]*.rpm"))
		if err != nil || len(files) != 1 {
			t.Fatalf("%s: %q, %v", name, files, err)
		}
		// As the manual says. The root is Debian's, so what the packages require is there, but rpm does not know.
		rpm("-ihv", "--force", "--nodeps", "--ignorearch", files[0])
	}
	m.do("getent passwd pss")
	expect(t, m.do("cat /etc/tgt/targets.conf"), `^include /etc/tgt/conf.d/\*.conf$`)
	for name, files := range rpmPackages {
		list := strings.Fields(rpm("-q", "-l", name))
		for _, file := range files {
			if !slices.Contains(list, file) {
				t.Errorf("%s has no %s", name, file)
			}
			m.do("test -e " + file)
		}
		for _, line := range strings.Split(rpm("-V", "--nodeps", name), "\n") {
			if line != "" {
				t.Errorf("%s is not as it came: %s", name, line)
			}
		}
	}
	// A mistake in a setting or a program that does not run would show here.
	m.put("/etc/pss/server.conf", "0 127.0.0.1 /pss\n1 192.0.2.1 /pss\n2 192.0.2.2 /pss\n")
	m.runHost("ip", "link", "set", "lo", "up")
	m.do("/etc/init.d/pssd start")
	m.do("/etc/init.d/pssd status")
	m.put("/etc/tgt/targets.conf", "# the operator's\n")
	m.do("/etc/init.d/tgtd.pss start")
	m.do("/etc/init.d/tgtd.pss status")
	rpm("-e", "--nodeps", "pss-server", "pss-server-controller", "tgt-pss-target")
	m.fails("pidof PFSserver tgtd")
	left(t, m, "/etc/pss/server.conf", "/etc/tgt/targets.conf", "/pss/PFS-0")
}

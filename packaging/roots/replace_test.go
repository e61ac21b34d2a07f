package roots

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// oldTargets is a configuration of tgt's.
const oldTargets = `default-driver iscsi
<target iqn.2001-04.com.example:old>
    backing-store /srv/old.img
    incominguser someone secret
    initiator-address ALL
</target>
`

// TestReplaceTgt puts tgt-pss-target in the place of Debian's tgt: it asks nothing, takes the configuration over,
// and what is left of tgt can be purged without harm.
func TestReplaceTgt(t *testing.T) {
	folder := t.TempDir()
	// The package itself suffices: its libraries play no role, as its programs are not run.
	get := exec.Command("apt-get", "download", "-qq", "tgt")
	get.Dir = folder
	if out, err := get.CombinedOutput(); err != nil {
		t.Fatalf("apt-get download tgt: %v\n%s", err, out)
	}
	files, err := filepath.Glob(filepath.Join(folder, "tgt_*.deb"))
	if err != nil || len(files) != 1 {
		t.Fatalf("tgt: %q, %v", files, err)
	}
	m := boot(t, "old", made.base)
	m.runHost("ip", "link", "set", "lo", "up")
	m.put("/etc/dpkg/dpkg.cfg.d/quick", "force-unsafe-io\n")
	// Nothing is to be started by installing tgt.
	m.put("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n")
	m.copyFile("/tgt.deb", files[0])
	m.do("dpkg --force-depends -i /tgt.deb && rm /tgt.deb")
	m.put("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 0\n")
	m.put("/etc/tgt/targets.conf", oldTargets)
	m.do("truncate -s 16M /srv/old.img")

	install(m, "tgtd.pss.deb")
	if have := m.do("cat /etc/tgt/targets.conf"); have != oldTargets {
		t.Errorf("targets.conf became %q", have)
	}
	m.do("dpkg --purge tgt")
	if have := m.do("cat /etc/tgt/targets.conf"); have != oldTargets {
		t.Errorf("purging tgt left %q", have)
	}
	m.do("dpkg --verify tgt-pss-target")
	m.do("/etc/init.d/tgtd.pss start")
	expect(t, m.do("tgtadm --op show --mode target"), `^Target 1: iqn.2001-04.com.example:old$`)

	// An upgrade stops nothing, and leaves what was configured.
	was := m.do("pidof tgtd")
	m.do("echo TGTD_OPTS=-d1 >> /etc/default/tgtd.pss")
	install(m, "tgtd.pss.deb")
	if is := m.do("pidof tgtd"); is != was {
		t.Errorf("tgtd was %s and is %s", was, is)
	}
	expect(t, m.do("cat /etc/default/tgtd.pss"), `^TGTD_OPTS=-d1$`)
	m.do("/etc/init.d/tgtd.pss restart")
	m.do("dpkg --purge tgt-pss-target")
	left(t, m, "/etc/tgt/targets.conf")
	m.do("test -z \"$(dpkg-divert --list '*targets.conf*')\"")
}

package roots

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The machines of the manual's example (4.1), and the target and account of its targets.conf.
const (
	servers    = 8
	targetName = "iqn.2001-03.jp.tritech:tgtd-pss"
	unitURL    = "iscsi://iscsi_pss%%iscsi_pss000@%s/" + targetName + "/1"
)

// TestManual does what chapter 4 of the operator's manual says, in its order, on eleven fresh machines.
func TestManual(t *testing.T) {
	var pss []*machine
	for id := range servers {
		pss = append(pss, boot(t, fmt.Sprintf("paxos%02d", id), made.base))
	}
	control, target, client := boot(t, "pssdc", made.base), boot(t, "tgtd_pss", made.base), boot(t, "client", made.base)
	everybody := append([]*machine{control, target, client}, pss...)
	network(t, made.base, append(append([]*machine{}, pss...), control, target, client)...)
	targetAddress := address(servers + 1)
	prepare(t, everybody, pss)

	// 4.3.2 to 4.3.4
	t.Log("== install")
	all(pss, func(m *machine) { install(m, "pssd.deb") })
	install(control, "pssdc.deb")
	install(target, "tgtd.pss.deb")

	// 4.3.5
	t.Log("== initialise and start")
	all(pss, func(m *machine) {
		m.do("pss_delper.sh")
		expect(m.t, m.do("/etc/init.d/pssd start"), `^pssd: server \d is up\n$`)
	})
	control.eventually("pssctl master", nil)

	controlCommands(t, control, pss)
	stopAndRestart(t, control, pss)
	logs(t, pss)

	// 4.4. Its files are there for the commands of 4.3.6 that name it.
	t.Log("== volume")
	control.do("createISCSIVol vol001 1T")
	expect(t, control.fails("createISCSIVol vol002 1X"), `1X`)

	serveAndUse(t, target, client, targetAddress)
	control.do("PFSClient readdir /")
	expect(t, control.do("PFSClient stat /vol001"), `^PFSStat:\[/vol001\] type=0x41ed size=1099511627776 mtime=\d{10}$`)
	control.do("PFSClient read /vol001/00/00/00 file1 && test -s file1")

	// Everything is stopped, and goes on where it was; the initiator's data are there.
	t.Log("== all stop, and start")
	target.do("/etc/init.d/tgtd.pss stop")
	all(pss, func(m *machine) { m.do("/etc/init.d/pssd stop") })
	all(pss, func(m *machine) { m.do("/etc/init.d/pssd start") })
	target.do("/etc/init.d/tgtd.pss start")
	target.eventually("tgt-admin -s", func(out string) bool {
		return strings.Count(out, "Online: Yes") == 2 // the unit and its controller
	})
	qemu(t, client, targetAddress, "read -P 0x5a 0 1M")

	removal(t, control, target, pss)
}

// prepare gives every machine its names and server.conf (4.3.1), and the servers a syslog daemon.
func prepare(t *testing.T, everybody, pss []*machine) {
	hosts := "127.0.0.1 localhost\n"
	for id := range servers {
		hosts += fmt.Sprintf("%s paxos%02d\n", address(id), id)
	}
	hosts += fmt.Sprintf("%s pssdc\n%s tgtd_pss tgtd-pss\n", address(servers), address(servers+1))
	conf, err := os.ReadFile(filepath.Join(tree, "etc/pss/server.conf"))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range everybody {
		m.put("/etc/hosts", hosts)
		m.put("/etc/pss/server.conf", string(conf))
		m.put("/etc/dpkg/dpkg.cfg.d/quick", "force-unsafe-io\n")
	}
	all(pss, func(m *machine) {
		// As Debian has it, without the kernel's own log: that is another machine's.
		m.do("sed -i /imklog/d /etc/rsyslog.conf && rsyslogd")
	})
}

// install puts a package on a machine and installs it.
func install(m *machine, file string) {
	m.t.Helper()
	m.copyFile("/"+file, filepath.Join(made.packages, file))
	m.do("dpkg -i /" + file + " && rm /" + file)
}

// expect compares what was said with a pattern, whose ^ and $ are the ends of a line.
func expect(t *testing.T, output, pattern string) {
	t.Helper()
	if !regexp.MustCompile(`(?m)` + pattern).MatchString(output) {
		t.Errorf("%q is not like %s", output, pattern)
	}
}

// controlCommands are those of 4.3.6.
func controlCommands(t *testing.T, control *machine, pss []*machine) {
	t.Log("== commands of the control machine")
	control.do(`ssh-keygen -q -N "" -f /root/.ssh/id_rsa`)
	// The machines have no ssh server, which no tool but this one wants.
	expect(t, control.fails("pss_set_ssh.sh"), `no key was set on: paxos00 paxos01`)
	living := control.do("pss_lookup-server.sh")
	for id := range servers {
		expect(t, living, fmt.Sprintf(`^ *\d+ \S+ +\S+ +\d+:\d\d .*PFSserver .*\b%d\b`, id))
	}
	control.do("PFSClient readdir /")
	control.do("PFSProbe 0 accept")
	control.do("PFSProbe 1 outbound")
	control.do("PFSProbe 2 fd")
	control.do("PSSAdmin 0 control")
	control.do("PSSAdmin 1 paxos")
	control.do("PSSAdmin 1 paxos 0")
	ports := control.do("pss_lookup_port.sh")
	for id := range servers {
		expect(t, ports, fmt.Sprintf(`^tcp +\d+ +\d+ \S*:%d +\S+ +LISTEN`, 4010+id))
		expect(t, ports, fmt.Sprintf(`^udp +\d+ +\d+ \S*:%d `, 4000+id))
	}
	control.do("PSSShutdown 7")
	control.eventually("pss_lookup-server.sh", func(out string) bool { return strings.Count(out, "\n") == servers-1 })
	expect(t, pss[7].fails("/etc/init.d/pssd status"), `server 7 does not run`)
	pss[7].do("/etc/init.d/pssd start")
}

// stopAndRestart is 4.3.7: all end, and come back by the three ways of the manual. At last one is killed, and is
// back on its ports at once.
func stopAndRestart(t *testing.T, control *machine, pss []*machine) {
	t.Log("== stop, and three ways to restart")
	all(pss, func(m *machine) {
		expect(m.t, m.do("/etc/init.d/pssd stop"), `^pssd: server \d is down$`)
		m.fails("/etc/init.d/pssd status")
	})
	control.fails("pss_lookup-server.sh")
	pss[0].do("/etc/init.d/pssd restart")
	pss[1].do("/etc/init.d/pssd restart autonomic 0")
	pss[2].do("/etc/init.d/pssd restart autonomic 0")
	control.eventually("pssctl master", nil)
	for _, m := range pss[3:] {
		m.do("/etc/init.d/pssd restart autonomic")
	}
	control.eventually("pss_lookup-server.sh", func(out string) bool { return strings.Count(out, "\n") == servers })
	expect(t, pss[0].run("/etc/init.d/pssd restart autonomic 9").output, `usage: .*\{start\|stop\|restart \[autonomic \[ID\]\]\|status\|force-reload\}`)
	pss[4].do("kill -KILL $(cat /run/pss/pssd-4.pid)")
	pss[4].eventually("! /etc/init.d/pssd status", nil)
	pss[4].do("/etc/init.d/pssd start")
	pss[5].do("/etc/init.d/pssd force-reload")
	control.eventually("pss_lookup-server.sh", func(out string) bool { return strings.Count(out, "\n") == servers })
}

// logs is 4.3.8: syslog has the servers' lines under their tags.
func logs(t *testing.T, pss []*machine) {
	for id, m := range pss {
		tag := fmt.Sprintf(`pssd_%d\b.*server runs`, id)
		m.eventually("grep pssd_ /var/log/syslog | tail -3", nil)
		expect(t, m.run("cat /var/log/syslog").output, tag)
	}
}

// serveAndUse is 4.5 to 4.7.
func serveAndUse(t *testing.T, target, client *machine, address string) {
	t.Log("== target")
	conf, err := os.ReadFile(filepath.Join(tree, "etc/tgt/targets.conf"))
	if err != nil {
		t.Fatal(err)
	}
	target.put("/etc/tgt/targets.conf", string(conf))
	target.do("/etc/init.d/tgtd.pss start")
	target.eventually("tgtadm --lld iscsi --op show --mode target", func(out string) bool { return strings.Count(out, "Online: Yes") == 2 })
	expect(t, target.do("tgt-admin -s"), `^Target 1: `+targetName+`$`)
	expect(t, target.do("tgtadm --lld iscsi --op show --mode account"), `^ *iscsi_pss$`)
	expect(t, target.fails("tgtadm --lld iscsi --op show --mode accunt"), `account`)
	target.do("/etc/init.d/tgtd.pss status")

	t.Log("== initiator")
	expect(t, client.do("iscsi-ls iscsi://iscsi_pss%iscsi_pss000@"+address), `^Target:`+targetName+` Portal:`+address+`:3260,1$`)
	client.fails("iscsi-inq iscsi://iscsi_pss%wrongsecret0@" + address + "/" + targetName + "/1")
	expect(t, client.do("iscsi-readcapacity16 iscsi://iscsi_pss%iscsi_pss000@"+address+"/"+targetName+"/1"), `^Total size:1099511627776$`)
	qemu(t, client, address, "write -P 0x5a 0 1M", "write -P 0xa5 512G 64k", "flush", "read -P 0x5a 0 1M", "read -P 0xa5 512G 64k")
}

// qemu has libiscsi do I/O on the unit, and compare what it reads.
func qemu(t *testing.T, client *machine, address string, commands ...string) {
	t.Helper()
	args := []string{"qemu-io", "-f", "raw"}
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	r := client.runHost(append(args, fmt.Sprintf(unitURL, address))...)
	t.Logf("client# %s\n%s", r.line, r.output)
	if r.status != 0 || strings.Contains(r.output, "failed") {
		t.Fatalf("status %d", r.status)
	}
}

// removal purges everything: nothing runs, and what is left are data and what the operator wrote.
func removal(t *testing.T, control, target *machine, pss []*machine) {
	t.Log("== purge")
	all(pss, func(m *machine) { m.do("dpkg --purge pss-server") })
	control.do("dpkg --purge pss-server-controller")
	target.do("dpkg --purge tgt-pss-target")
	for id, m := range pss {
		m.fails("pidof PFSserver")
		left(t, m, "/etc/pss/server.conf", fmt.Sprintf("/pss/PFS-%d", id))
	}
	target.fails("pidof tgtd")
	left(t, control, "/etc/pss/server.conf")
	left(t, target, "/etc/pss/server.conf", "/etc/tgt/targets.conf")
}

// left compares what there is in all places that the packages use with what may be left.
func left(t *testing.T, m *machine, want ...string) {
	t.Helper()
	out := m.do(`find / -xdev \( -path /proc -o -path /sys \) -prune -o ! -type d \( -iname '*pss*' -o -name 'tgt*' -o -iname '*iscsivol*' -o -name server.conf ` +
		`-o -name targets.conf -o -name 'PFS*' \) -print | grep -v -e ^/var/log/ -e ^/var/lib/dpkg/ -e ^/usr/share/doc -e ^/etc/pam.d/ || true; ls -d /pss/PFS-* 2>/dev/null || true`)
	have := strings.Fields(out)
	slices.Sort(have)
	slices.Sort(want)
	if strings.Join(have, " ") != strings.Join(want, " ") {
		t.Errorf("%s: left is %q, want %q", m.name, have, want)
	}
}

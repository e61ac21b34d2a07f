package e2e

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/packaging/rig"
)

// url is how libiscsi and qemu name the portal, the target or a unit.
func (s *system) url(account, path string) string {
	return "iscsi://" + account + "@" + s.target.Portal + path
}

const (
	rightAccount = user + "%" + secret
	wrongSecret  = user + "%iscsi_pss001"
	wrongUser    = "iscsi%" + secret
)

// wants runs a program and looks for words in what it prints.
func wants(t *testing.T, words []string, program string, args ...string) string {
	t.Helper()
	out, err := rig.Run(limit(t), nil, program, args...)
	must(t, err)
	for _, w := range words {
		if !strings.Contains(out, w) {
			t.Errorf("%s %s does not print %q, but\n%s", filepath.Base(program), strings.Join(args, " "), w, out)
		}
	}
	return out
}

// refused runs a program that has to fail.
func refused(t *testing.T, program string, args ...string) {
	t.Helper()
	if out, err := rig.Run(limit(t), nil, program, args...); err == nil {
		t.Errorf("%s %s succeeds: %s", filepath.Base(program), strings.Join(args, " "), out)
	}
}

// TestClients serves programs that others have written.
func TestClients(t *testing.T) {
	s := newSystem(t, rig.Servers(3, 0))
	unit := s.url(rightAccount, "/"+targetName+"/1")

	t.Run("iscsi-ls", func(t *testing.T) {
		ls := tool(t, "iscsi-ls", "libiscsi-bin")
		wants(t, []string{"Target:" + targetName + " Portal:" + s.target.Portal + ",1"}, ls, s.url(rightAccount, ""))
		wants(t, []string{"Lun:0", "Lun:1", "Type:DIRECT_ACCESS (Size:1023M)"}, ls, "-s", s.url(rightAccount, ""))
	})
	t.Run("iscsi-inq", func(t *testing.T) {
		inq := tool(t, "iscsi-inq", "libiscsi-bin")
		wants(t, []string{"Peripheral Device Type:DIRECT_ACCESS", "Vendor:IET"}, inq, unit)
		wants(t, []string{"Page:0x80 UNIT_SERIAL_NUMBER", "Page:0x83 DEVICE_IDENTIFICATION", "Page:0xb0 BLOCK_LIMITS"}, inq, "-e", "1", "-c", "0", unit)
		wants(t, []string{"Designator"}, inq, "-e", "1", "-c", "131", unit)
		for _, account := range []string{wrongSecret, wrongUser} {
			refused(t, inq, s.url(account, "/"+targetName+"/1"))
		}
		refused(t, inq, "iscsi://"+s.target.Portal+"/"+targetName+"/1")
		refused(t, inq, s.url(rightAccount, "/"+targetName+"-none/1"))
	})
	t.Run("iscsi-readcapacity16", func(t *testing.T) {
		capacity := tool(t, "iscsi-readcapacity16", "libiscsi-bin")
		wants(t, []string{"RETURNED LOGICAL BLOCK ADDRESS:2097151", "Total size:1073741824"}, capacity, unit)
	})
	t.Run("qemu-img", func(t *testing.T) {
		img := qemu(t, "qemu-img")
		file, back := filepath.Join(s.dir, "image"), filepath.Join(s.dir, "image.back")
		makeImage(t, file, 48<<20)
		wants(t, nil, img, "convert", "-n", "-f", "raw", "-O", "raw", file, unit)
		// The unit is larger than the image; what is behind it reads as zeros, which compare takes for equal.
		wants(t, []string{"Images are identical"}, img, "compare", "-f", "raw", "-F", "raw", file, unit)
		wants(t, nil, img, "dd", "-f", "raw", "-O", "raw", "if="+unit, "of="+back, "bs=1M", "count=48")
		wants(t, []string{"Images are identical"}, img, "compare", "-f", "raw", "-F", "raw", file, back)
		wants(t, []string{"virtual size: 1 GiB (1073741824 bytes)"}, img, "info", "-f", "raw", unit)
		refused(t, img, "info", "-f", "raw", s.url(wrongSecret, "/"+targetName+"/1"))
	})
	t.Run("qemu-io", func(t *testing.T) {
		io := qemu(t, "qemu-io")
		wants(t, []string{"wrote 3145728/3145728", "read 3145728/3145728", "discard 1048576/1048576"}, io, "-f", "raw",
			"-c", "write -P 0xa5 64M 3M", "-c", "flush", "-c", "read -P 0xa5 64M 3M",
			"-c", "aio_write -P 0x5a 64M 4k", "-c", "aio_write -P 0x5b 65M 4k", "-c", "aio_flush",
			"-c", "read -P 0x5a 64M 4k", "-c", "read -P 0x5b 65M 4k", "-c", "read -P 0xa5 66M 1M",
			"-c", "discard 65M 1M", "-c", "read -P 0 65M 1M",
			"-c", "write -z 66M 512k", "-c", "read -P 0 66M 512k", "-c", "read -P 0xa5 68096k 512k", unit)
		out, err := rig.Run(limit(t), nil, io, "-f", "raw", "-c", "read -P 0x77 64M 4k", unit)
		if !strings.Contains(out, "Pattern verification failed") {
			t.Errorf("a comparison with other content: %q, %v", out, err)
		}
	})
}

// qemu finds a program of qemu that can do iscsi://.
func qemu(t *testing.T, name string) string {
	t.Helper()
	path := tool(t, name, "qemu-utils")
	if found, err := filepath.Glob("/usr/lib/*/qemu/block-iscsi.so"); err != nil || len(found) == 0 {
		leaveOut(t, "qemu has no iscsi:// here (Debian package qemu-block-extra)")
	}
	return path
}

// makeImage writes a file of noise with holes.
func makeImage(t *testing.T, name string, size int64) {
	t.Helper()
	f, err := os.Create(name)
	must(t, err)
	defer f.Close()
	must(t, f.Truncate(size))
	noise := make([]byte, 3<<20+512)
	for off := int64(0); off+int64(len(noise)) < size; off += 5 << 20 {
		rand.Read(noise)
		_, err := f.WriteAt(noise, off)
		must(t, err)
	}
}

// TestDebianTgtadm drives our tgtd with the tgtadm of Debian's tgt.
func TestDebianTgtadm(t *testing.T) {
	tgtadm := tool(t, "tgtadm", "tgt")
	s := newSystem(t, rig.Servers(3, 0))
	must(t, s.cell.CreateVolume(limit(t), "vol002", "256M"))
	admin := func(args ...string) (string, error) {
		return rig.Run(limit(t), s.target.Env(), tgtadm, append([]string{"--lld", "iscsi"}, args...)...)
	}
	ours, err := s.target.Admin(limit(t), "--op", "show", "--mode", "target")
	must(t, err)
	theirs, err := admin("--op", "show", "--mode", "target")
	must(t, err)
	if ours != theirs {
		t.Errorf("ours prints\n%s\nDebian's\n%s", ours, theirs)
	}
	_, err = admin("--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "2", "-b", "vol002", "-E", "pss")
	must(t, err)
	text, err := admin("--op", "show", "--mode", "target")
	must(t, err)
	for _, want := range []string{"LUN: 2", "Backing store path: vol002", "Size: 268 MB", "Account information:\n        " + user} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if _, err := admin("--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "3", "-b", "none", "-E", "pss"); err == nil {
		t.Error("a unit on a volume that does not exist is taken")
	}
	session := s.login(4)
	must(t, session.Ready(2))
	if blocks, size, err := session.Capacity(2); err != nil || blocks*uint64(size) != 256<<20 {
		t.Errorf("unit 2 has %d blocks of %d bytes, %v", blocks, size, err)
	}
	if text, err = admin("--op", "show", "--mode", "conn", "--tid", "1"); err != nil || !strings.Contains(text, initiatorName) {
		t.Errorf("our session is not shown: %v\n%s", err, text)
	}
	must(t, session.Close())
	_, err = admin("--op", "delete", "--mode", "logicalunit", "--tid", "1", "--lun", "2")
	must(t, err)
	if after, err := admin("--op", "show", "--mode", "target"); err != nil || strings.Contains(after, "LUN: 2") {
		t.Errorf("unit 2 is still there: %v\n%s", err, after)
	}
	_, err = admin("--op", "delete", "--mode", "target", "--tid", "1", "--force")
	must(t, err)
	_, err = admin("--op", "delete", "--mode", "system")
	must(t, err)
	<-s.target.Exited()
}

// TestVolumes asks createISCSIVol for what it has to refuse, and for what it may be asked twice.
func TestVolumes(t *testing.T) {
	s := newSystem(t, rig.Servers(3, 0))
	create := func(args ...string) error {
		_, err := rig.Run(limit(t), s.target.Env(), suite.programs.CreateISCSIVol, args...)
		return err
	}
	must(t, create("vol900", "64T"))
	for _, c := range []struct {
		args   string
		status int
		says   string
	}{
		{"vol001 2G", 1, "exists with 1G, not 2G"},
		{"vol002 65T", 2, "too large"},
		{"vol002 1", 2, "no size"},
		{"vol002 0G", 2, "no size"},
		{"../vol002 1G", 2, "no name"},
		{"vol002", 2, "usage"},
	} {
		err := create(strings.Fields(c.args)...)
		want := fmt.Sprintf("ends with status %d", c.status)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("createISCSIVol %s: %v; want %s and %q", c.args, err, want, c.says)
		}
	}
	s.cell.Close()
	err := create("--timeout", "500ms", "vol002", "1G")
	if err == nil || !strings.Contains(err.Error(), "status 255") || !strings.Contains(err.Error(), "no server") {
		t.Errorf("createISCSIVol without a cell: %v", err)
	}
}

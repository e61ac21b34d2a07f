package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/paxos-iscsi/paxos-iscsi/packaging/rig"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/initiator"
)

// loopDevice makes a block device of a file, or leaves the test out where that can't be done.
func loopDevice(t *testing.T, file string, args ...string) string {
	t.Helper()
	losetup := tool(t, "losetup", "mount")
	if os.Geteuid() != 0 {
		leaveOut(t, "a loop device needs root")
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		leaveOut(t, "the kernel has no loop devices: "+err.Error())
	}
	out, err := rig.Run(limit(t), nil, losetup, append(args, "--find", "--show", file)...)
	if err != nil {
		leaveOut(t, "no loop device can be made: "+err.Error())
	}
	device := strings.TrimSpace(out)
	t.Cleanup(func() {
		if _, err := rig.Run(context.Background(), nil, losetup, "-d", device); err != nil {
			t.Error(err)
		}
	})
	return device
}

// TestBlockDevice has raw block devices as logical units (LIO's block backstore): data, deallocation, growth, and a
// device that can only be read.
func TestBlockDevice(t *testing.T) {
	for _, kind := range []string{"rdwr", "aio"} {
		t.Run(kind, func(t *testing.T) { tryBlockDevice(t, kind) })
	}
}

func tryBlockDevice(t *testing.T, kind string) {
	dir := tempDir(t)
	file := filepath.Join(dir, "blocks")
	must(t, os.WriteFile(file, nil, 0o600))
	must(t, os.Truncate(file, unitBytes))
	device := loopDevice(t, file)
	protected := loopDevice(t, file, "--read-only")
	target, err := rig.NewTarget(rig.TargetOptions{Dir: dir, Programs: suite.programs})
	must(t, err)
	t.Cleanup(target.Close)
	must(t, target.Start(limit(t)))
	const name = "iqn.2001-03.jp.tritech:block"
	must(t, target.AddUnit(limit(t), 1, name, 1, kind, device, "thin_provisioning=1"))
	_, err = target.Admin(limit(t), "--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "2", "-b", protected, "-E", kind)
	must(t, err)
	moveData(t, initiator.Options{Portal: target.Portal, Target: name, Initiator: initiatorName})
	s, err := initiator.Login(limit(t), initiator.Options{Portal: target.Portal, Target: name, Initiator: initiatorName})
	must(t, err)
	defer s.Close()
	must(t, errors.Join(s.Ready(1), s.Ready(2)))

	const block, count, lba = 512, 16384, 4096 // 8 MiB
	data := make([]byte, count*block)
	rand.Read(data)
	var task initiator.Task
	task.LUN = 1
	task.SetWrite(lba, count, data)
	must(t, s.Do(&task))
	task.SetFlush()
	must(t, s.Do(&task))
	under := make([]byte, len(data))
	d, err := os.Open(device)
	must(t, err)
	defer d.Close()
	if _, err := d.ReadAt(under, lba*block); err != nil || !bytes.Equal(under, data) {
		t.Errorf("the device does not hold what was written: %v", err)
	}

	used := allocated(t, file)
	list := make([]byte, 24)
	binary.BigEndian.PutUint16(list, 22)
	binary.BigEndian.PutUint16(list[2:], 16)
	binary.BigEndian.PutUint64(list[8:], lba)
	binary.BigEndian.PutUint32(list[16:], count)
	unmap := initiator.Task{LUN: 1, Out: list}
	copy(unmap.CDB[:], []byte{0x42, 0, 0, 0, 0, 0, 0, 0, 24})
	must(t, s.Do(&unmap))
	if freed := used - allocated(t, file); freed < count*block {
		t.Errorf("UNMAP of %d bytes freed %d", count*block, freed)
	}
	task.SetRead(lba, count, under)
	must(t, s.Do(&task))
	if !bytes.Equal(under, make([]byte, len(data))) {
		t.Error("what was deallocated does not read as zeros")
	}

	task = initiator.Task{LUN: 2}
	task.SetWrite(0, 1, data[:block])
	var status *initiator.StatusError
	if err := s.Do(&task); !errors.As(err, &status) || status.Key() != 0x072700 {
		t.Errorf("a write to a device that can only be read: %v", err)
	}

	must(t, os.Truncate(file, 2*unitBytes))
	_, err = rig.Run(limit(t), nil, "losetup", "--set-capacity", device)
	must(t, err)
	_, err = target.Admin(limit(t), "--op", "update", "--mode", "logicalunit", "--tid", "1", "--lun", "1", "--params", "online=1")
	must(t, err)
	ready := initiator.Task{LUN: 1}
	if err := s.Do(&ready); !errors.As(err, &status) || status.Key() != 0x062a09 {
		t.Errorf("no CAPACITY DATA HAS CHANGED after the device has grown: %v", err)
	}
	if blocks, size, err := s.Capacity(1); err != nil || blocks*uint64(size) != 2*unitBytes {
		t.Errorf("%d blocks of %d bytes, %v", blocks, size, err)
	}
	must(t, errors.Join(s.Close(), target.Stop(limit(t))))
}

// allocated is how many bytes a file takes of its disk.
func allocated(t *testing.T, file string) int64 {
	t.Helper()
	f, err := os.Open(file)
	must(t, err)
	defer f.Close()
	must(t, f.Sync()) // what is delayed is allocated then
	var st unix.Stat_t
	must(t, unix.Fstat(int(f.Fd()), &st))
	return st.Blocks * 512
}
